"""Where the weights lie in model files, and that damaged files have fewer of them and never wrong ones."""

from __future__ import annotations

import io
import math
import tarfile
import zipfile
from collections.abc import Mapping
from functools import cache, partial

import numpy as np
import onnx
import pytest
import tflite
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from artifacts.patch.containers import unpack
from artifacts.patch.tensors import WIDTHS, Buffer, Tensor, find_tensors
from tests.artifacts.patch.files import (
    Array,
    blob_file,
    damaged,
    mil_text,
    ml_program,
    npz,
    safetensors,
    tar_of,
    tensorflow_checkpoint,
    torch_file,
    weights,
)
from tests.models import coreml_model, field, mlpackage, onnx_model, real_models, tflite_model, zipped

tarred = partial(tar_of, form=tarfile.PAX_FORMAT)


def content(data: Buffer, tensor: Tensor) -> bytes:
    with unpack(data) as unpacked:
        return bytes(unpacked.view(tensor.start, tensor.length))


def found(data: bytes, name: str = "") -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {tensor.name: (tensor.dtype, tensor.shape, content(data, tensor)) for tensor in find_tensors(data, name)}


def expected(arrays: Mapping[str, Array]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    types = {"f2": "f16", "f4": "f32", "f8": "f64", "i1": "i8", "i8": "i64", "u1": "u8"}
    return {name: (types[array.dtype.str[1:]], array.shape, array.tobytes()) for name, array in arrays.items()}


ARRAYS: dict[str, Array] = {
    "encoder.0.weight": weights(16, 8),
    "encoder.0.bias": weights(16, seed=1),
    "half": weights(5, 3, seed=2).astype(np.float16),
    "small": np.arange(-10, 30, dtype=np.int8),
}


def test_every_initializer_of_real_onnx_models_is_found_at_its_bytes() -> None:
    for path in real_models():
        data = path.read_bytes()
        tensors = {tensor.name: tensor for tensor in find_tensors(data, path.name)}
        for initializer in onnx.load_from_string(data).graph.initializer:
            if initializer.raw_data:
                tensor = tensors[initializer.name]
                assert data[tensor.start : tensor.end] == initializer.raw_data
                assert tensor.shape == tuple(initializer.dims)


def test_an_onnx_tensor_is_found_however_it_keeps_its_floats() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    typed = helper.make_tensor("typed", TensorProto.FLOAT, (2, 3), values.ravel().tolist())
    doubles = helper.make_tensor("doubles", TensorProto.DOUBLE, (6,), values.ravel().tolist())
    half = numpy_helper.from_array(values.astype(np.float16), "half")
    constant = helper.make_node("Constant", [], ["seven"], value=numpy_helper.from_array(values * 7, "value"))
    inner = helper.make_graph([constant], "inner", [], [])
    branch = helper.make_node("If", ["c"], ["y"], then_branch=inner)
    graph = helper.make_graph([branch], "outer", [], [], [typed, doubles, half])
    assert found(helper.make_model(graph).SerializeToString()) == expected(
        {
            "seven": values * 7,
            "typed": values,
            "doubles": values.astype(np.float64).ravel(),
            "half": values.astype(np.float16),
        }
    )


def test_external_data_of_an_onnx_model_is_found_in_the_file_beside_it() -> None:
    model = onnx.load_from_string(onnx_model())
    (initializer,) = model.graph.initializer
    raw, shape = initializer.raw_data, tuple(initializer.dims)
    external_data_helper.set_external_data(initializer, "weights.data", offset=64, length=len(raw))
    initializer.ClearField("raw_data")
    files = {"net/model.onnx": model.SerializeToString(), "net/weights.data": bytes(64) + raw, "weights.data": raw}
    (tensor,) = (tensor for tensor in find_tensors(tarred(files), "net.tar") if tensor.name)
    assert (tensor.name, tensor.dtype, tensor.shape) == ("w", "f32", shape)
    assert tensor.member == "net.tar!net/weights.data"
    assert content(tarred(files), tensor) == raw


def test_a_tflite_buffer_has_the_name_and_the_type_of_the_tensor_that_uses_it() -> None:
    array = np.arange(24, dtype=np.int8).reshape(4, 6)
    data = tflite_model((4, 6), element=tflite.TensorType.INT8, weights=array.tobytes())
    assert found(data) == expected({"x": array})
    behind = tflite_model((4, 6), element=tflite.TensorType.INT8, weights=array.tobytes(), outside=4096)
    assert found(behind) == expected({"x": array})
    assert find_tensors(behind[:-1]) == []


def test_safetensors_and_torch_files_and_npz_tell_all_their_arrays() -> None:
    assert found(safetensors(ARRAYS)) == expected(ARRAYS)
    assert found(torch_file(ARRAYS)) == expected(ARRAYS)
    assert found(npz(ARRAYS)) == expected(ARRAYS)
    zip_of_all = zipped({"a.safetensors": safetensors(ARRAYS)})
    assert found(zip_of_all) == expected(ARRAYS)
    assert found(tarred({"a/b.zip": zip_of_all})) == expected(ARRAYS)


def test_a_neural_network_of_core_ml_tells_floats_halves_and_quantized_weights() -> None:
    matrix, bias = weights(4, 6), weights(4, seed=1).astype(np.float16)
    quantized, scale, table = np.arange(8, dtype=np.uint8), weights(2), weights(3)
    convolution = (
        field(1, 4) + field(2, 6) + field(90, field(1, matrix.tobytes())) + field(91, field(2, bias.tobytes()))
    )
    linear = field(30, quantized.tobytes()) + field(40, field(1, 8) + field(101, field(1, scale.tobytes())))
    looked_up = field(30, quantized.tobytes()) + field(40, field(1, 8) + field(102, field(1, table.tobytes())))
    layers = field(1, field(1, "conv") + field(100, convolution))
    layers += field(1, field(1, "dense") + field(140, field(20, linear)))
    layers += field(1, field(1, "words") + field(150, field(20, looked_up)))
    model = field(1, 4) + field(2, b"") + field(500, layers)
    named = expected(
        {"conv.weights": matrix, "conv.bias": bias, "dense.weights.scale": scale, "words.weights.table": table}
    )
    named |= expected({"dense.weights": quantized, "words.weights": quantized})
    assert found(model, "net.mlmodel") == named
    # In a pipeline, and one that is wrapped for a classifier.
    pipeline = field(1, 4) + field(2, b"") + field(200, field(1, field(1, model)))
    assert found(pipeline) == named


def test_blobs_of_an_ml_program_have_the_names_that_the_program_gives_them() -> None:
    arrays: dict[str, Array] = {
        "w": weights(3, 5),
        "b": weights(7).astype(np.float16),
        "q": np.arange(70, dtype=np.int8),
    }
    blobs, entries = blob_file(list(arrays.values()))
    named = {name: (entry, arrays[name].shape) for name, entry in zip(arrays, entries, strict=True)}
    package = mlpackage(ml_program(named), weights=blobs)
    assert found(tarred(package)) == expected(arrays)
    assert found(zipped(package)) == expected(arrays)
    compiled = {"Net.mlmodelc/model.mil": mil_text(named).encode(), "Net.mlmodelc/weights/weight.bin": blobs}
    assert found(tarred(compiled)) == expected(arrays)
    # Without the program they are still there.
    assert [tensor.length for tensor in find_tensors(blobs)] == [array.nbytes for array in arrays.values()]


def test_variables_of_tensorflow_are_found_by_the_index() -> None:
    arrays: dict[str, Array] = {
        "dense/bias": weights(4),
        "dense/kernel": weights(8, 4),
        "step": np.array([7], np.int64),
    }
    index, data = tensorflow_checkpoint(arrays)
    files = {"m/variables/variables.index": index, "m/variables/variables.data-00000-of-00001": data}
    assert found(tarred(files)) == expected(arrays)


def test_what_lies_behind_the_damage_is_left_out() -> None:
    data = onnx_model(weights=16)
    (tensor,) = find_tensors(data)
    assert find_tensors(data[: tensor.end - 1]) == []


def test_an_array_that_is_cut_off_is_still_found_by_its_bytes() -> None:
    data = onnx_model(weights=640)
    (whole,) = find_tensors(data)
    (tensor,) = find_tensors(data[: whole.end - 1])
    assert (tensor.name, tensor.dtype) == ("", "f32")
    assert whole.start <= tensor.start < tensor.end <= whole.end
    assert tensor.length > whole.length - 64
    assert (tensor.start - whole.start) % 4 == 0


def test_tensors_that_claim_the_same_bytes_or_bytes_beyond_the_end_count_once_or_not_at_all() -> None:
    header = (
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[4],"data_offsets":[8,24]},'
        b'"c":{"dtype":"F32","shape":[4],"data_offsets":[24,40]},"d":{"dtype":"F32","shape":[9],"data_offsets":[64,16]}}'
    )
    data = len(header).to_bytes(8, "little") + header + bytes(36)
    assert [tensor.name for tensor in find_tensors(data)] == ["a"]


def test_a_shape_that_does_not_fit_the_bytes_is_not_believed() -> None:
    header = b'{"a":{"dtype":"F32","shape":[3,1000000],"data_offsets":[0,16]}}'
    (tensor,) = find_tensors(len(header).to_bytes(8, "little") + header + bytes(16))
    assert tensor.shape == (4,)


def test_names_hold_nothing_that_a_terminal_obeys() -> None:
    header = rb'{"a\u001b[2J\ud800":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
    (tensor,) = find_tensors(len(header).to_bytes(8, "little") + header + bytes(16), "b\x07")
    assert (tensor.name, tensor.member) == ("a\ufffd[2J\ufffd", "b\ufffd")


def test_a_pickle_is_never_run(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", b"cbuiltins\nprint\n(S'run'\ntR.")
        archive.writestr("archive/data/0", bytes(64))
    assert find_tensors(out.getvalue()) == []
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "bomb",
    [
        field(1, 8) + field(7, b"".join(field(1, field(5, field(6, b""))) for _ in range(1000))),
        b"\x08\x08" + b"\x3a\xff\xff\xff\xff\x0f" * 1000,
        len(b"[" * 100_000).to_bytes(8, "little") + b"{" * 100_000,
    ],
)
def test_bombs_of_nested_messages_are_cut_short(bomb: bytes) -> None:
    assert find_tensors(bomb) == []


def test_graphs_within_graphs_do_not_exhaust_the_stack() -> None:
    graph = b""
    for _ in range(5000):
        # A graph, in an attribute, in a node.
        graph = field(1, field(5, field(6, graph)))
    assert find_tensors(field(1, 8) + field(7, graph)) == []


@cache
def samples() -> tuple[bytes, ...]:
    """Return a small file of each format."""
    blobs, entries = blob_file([weights(30), weights(40).astype(np.float16)])
    program = ml_program({"a": (entries[0], (30,)), "b": (entries[1], (40,))})
    index, data = tensorflow_checkpoint({"a/b": weights(9), "a/c": weights(5, 2)})
    return (
        onnx_model(),
        tflite_model((4, 4)),
        coreml_model({}, {}) + field(500, field(1, field(100, field(90, field(1, weights(20).tobytes()))))),
        safetensors(ARRAYS),
        torch_file(ARRAYS),
        npz(ARRAYS),
        tarred({"v.index": index, "v.data-00000-of-00001": data}),
        tarred(mlpackage(program, weights=blobs)),
        tarred({"m/model.mil": mil_text({"a": (64, (30,))}).encode(), "m/weights/weight.bin": blobs}),
        zipped({"a.safetensors": safetensors(ARRAYS), "b": torch_file(ARRAYS)}),
        weights(3000).tobytes(),
    )


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    sample=st.integers(0, 10),
    flips=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=4),
    cut=st.none() | st.integers(0, 1 << 20),
)
def test_damaged_files_never_raise_and_never_point_outside(
    sample: int, flips: list[tuple[int, int]], cut: int | None
) -> None:
    data = damaged(samples()[sample], flips, cut)
    with unpack(data) as unpacked:
        end = 0
        for tensor in find_tensors(unpacked):
            assert end <= tensor.start < tensor.end <= unpacked.length
            assert tensor.length == math.prod(tensor.shape) * WIDTHS[tensor.dtype]
            assert len(unpacked.view(tensor.start, tensor.length)) == tensor.length
            end = tensor.end
