"""Where the weights lie in model files, and that damaged files have fewer of them and never wrong ones."""

from __future__ import annotations

import numpy as np
import onnx
import tflite
from onnx import TensorProto, helper, numpy_helper

from artifacts.patch.tensors import Tensor, find_tensors
from tests.models import onnx_model, real_models, tflite_model


def content(data: bytes, tensor: Tensor) -> bytes:
    return data[tensor.start : tensor.end]


def test_every_initializer_of_real_onnx_models_is_found_at_its_bytes() -> None:
    for path in real_models():
        data = path.read_bytes()
        found = {tensor.name: tensor for tensor in find_tensors(data, path.name)}
        for initializer in onnx.load_from_string(data).graph.initializer:
            if initializer.raw_data:
                tensor = found[initializer.name]
                assert content(data, tensor) == initializer.raw_data
                assert tensor.shape == tuple(initializer.dims)


def test_an_onnx_tensor_is_found_however_it_keeps_its_floats() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    typed = helper.make_tensor("typed", TensorProto.FLOAT, (2, 3), values.ravel().tolist())
    doubles = helper.make_tensor("doubles", TensorProto.DOUBLE, (6,), values.ravel().tolist())
    half = numpy_helper.from_array(values.astype(np.float16), "half")
    constant = helper.make_node("Constant", [], ["seven"], value=numpy_helper.from_array(values * 7, "value"))
    inner = helper.make_graph([constant], "inner", [], [])
    branch = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    graph = helper.make_graph([branch], "outer", [], [], [typed, doubles, half])
    data = helper.make_model(graph).SerializeToString()
    found = [(tensor.name, tensor.dtype, tensor.shape, content(data, tensor)) for tensor in find_tensors(data)]
    assert found == [
        ("seven", "f32", (2, 3), (values * 7).tobytes()),
        ("seven", "f32", (2, 3), (values * 7).tobytes()),
        ("typed", "f32", (2, 3), values.tobytes()),
        ("doubles", "f64", (6,), values.astype(np.float64).tobytes()),
        ("half", "f16", (2, 3), values.astype(np.float16).tobytes()),
    ]


def test_a_tflite_buffer_has_the_name_and_the_type_of_the_tensor_that_uses_it() -> None:
    weights = np.arange(24, dtype=np.int8).tobytes()
    data = tflite_model((4, 6), element=tflite.TensorType.INT8, weights=weights)
    (tensor,) = find_tensors(data, "net.tflite")
    assert (tensor.name, tensor.dtype, tensor.shape) == ("x", "i8", (4, 6))
    assert content(data, tensor) == weights


def test_what_lies_behind_the_damage_is_left_out() -> None:
    data = onnx_model()
    (tensor,) = find_tensors(data)
    assert find_tensors(data[: tensor.end - 1]) == []
