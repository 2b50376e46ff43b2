"""What is told of a model, and that no file, however odd, is more than "other"."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from artifacts.archive import archive_directory
from artifacts.inspect import UNKNOWN_SHAPE, Inspection, Tensor, inspect_archive
from tests.models import (
    coreml_array,
    coreml_feature,
    coreml_image,
    coreml_model,
    field,
    mlmodelc,
    mlpackage,
    onnx_model,
    packed,
    real_models,
    real_pair,
    tflite_model,
)

Inspect = Callable[[Mapping[str, bytes]], Inspection]


@pytest.fixture
def inspect(tmp_path: Path) -> Inspect:
    def inspect(files: Mapping[str, bytes]) -> Inspection:
        root = tmp_path / f"{random.random()}"
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        archive_directory(root, tmp_path / "archive")
        return inspect_archive(tmp_path / "archive")

    return inspect


def test_an_onnx_model_tells_its_inputs_and_outputs(inspect: Inspect) -> None:
    found = inspect({"folder/net.onnx": onnx_model(inputs={"x": ("batch", None, 16), "mask": (1,)})})
    assert found.format == "onnx"
    assert found.inputs == (Tensor("x", "float32", ("batch", None, 16)), Tensor("mask", "float32", (1,)))
    assert [(tensor.name, tensor.type) for tensor in found.outputs] == [("y", "float32")]
    assert found.interface is not None
    assert len(found.interface) == 32


def test_weights_that_old_onnx_lists_as_inputs_are_left_out(inspect: Inspect) -> None:
    assert [tensor.name for tensor in inspect({"net.onnx": onnx_model(ir=3)}).inputs] == ["x"]


ONNX_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(string)": "string",
}


def test_real_onnx_models_tell_what_onnxruntime_tells(inspect: Inspect) -> None:
    import onnxruntime

    def described(tensors: Sequence[object]) -> list[tuple[str, str, list[object]]]:
        return [(tensor.name, ONNX_TYPES[tensor.type], list(tensor.shape)) for tensor in tensors]  # type: ignore[attr-defined]

    for path in real_models():
        found = inspect({path.name: path.read_bytes()})
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for ours, theirs in ((found.inputs, session.get_inputs()), (found.outputs, session.get_outputs())):
            assert [(tensor.name, tensor.type, list(tensor.shape)) for tensor in ours] == described(theirs), path


@pytest.mark.parametrize("project", ["silero-vad", "magika"])
def test_releases_of_one_model_have_one_interface(inspect: Inspect, project: str) -> None:
    """Their exporter numbered the dimensions anew, ``unk__215`` and ``unk__214``: no app sees that."""
    old, new = (inspect({path.name: path.read_bytes()}) for path in real_pair(project))
    assert old.interface == new.interface != None  # noqa: E711 - both, and known


def test_the_interface_depends_on_names_types_and_shapes_only(inspect: Inspect) -> None:
    def interface(inputs: Mapping[str, Sequence[int | str | None]], seed: int = 0, weights: int = 8) -> str | None:
        return inspect({"a.onnx": onnx_model(inputs=inputs, seed=seed, weights=weights)}).interface

    same = interface({"x": ("batch", 16), "z": (2,)})
    assert interface({"x": ("n", 16), "z": (2,)}, seed=9) == same
    assert interface({"x": (None, 16), "z": (2,)}) == same
    for other in ({"x": ("batch", 16)}, {"X": ("batch", 16), "z": (2,)}, {"x": (1, 16), "z": (2,)}):
        assert interface(other) != same
    assert interface({"x": ("batch", 16), "z": (2,)}, weights=9) != same


def test_a_core_ml_model_tells_every_kind_of_feature(inspect: Inspect) -> None:
    unlimited = field(1, 1) + field(2, -1)
    exactly = field(1, 3) + field(2, 3)
    specification = coreml_model(
        {
            "image": coreml_image(224, 320),
            "gray": coreml_image(8, 8, color=10, flexibility=field(31, field(1, exactly) + field(2, unlimited))),
            "sizes": coreml_image(
                8,
                9,
                color=30,
                flexibility=field(21, field(1, field(1, 9) + field(2, 8)) + field(1, field(1, 9) + field(2, 16))),
            ),
            "array": coreml_array((1, 3, 4), 65552),
            "ranged": coreml_array((1, 3), flexibility=field(31, field(1, unlimited) + field(1, exactly))),
            "listed": coreml_array(
                (1, 3), flexibility=field(21, field(1, packed(1, (1, 3))) + field(1, packed(1, (2, 3))))
            ),
            "number": field(1, b""),
            "real": field(2, b""),
            "text": field(3, b""),
            "state": field(8, field(1, packed(1, (5,)) + field(2, 65568))),
        },
        {
            "probabilities": field(6, field(2, b"")),
            "counts": field(6, field(1, b"")),
            "labels": field(7, field(3, b"")),
        },
    )
    found = inspect({"Net.mlmodel": specification})
    assert found.format == "coreml-mlmodel"
    assert found.inputs == (
        Tensor("image", "image:rgb", (224, 320)),
        Tensor("gray", "image:grayscale", (None, 3)),
        Tensor("sizes", "image:bgr", (None, 9)),
        Tensor("array", "float16", (1, 3, 4)),
        Tensor("ranged", "float32", (None, 3)),
        Tensor("listed", "float32", (None, 3)),
        Tensor("number", "int64", ()),
        Tensor("real", "float64", ()),
        Tensor("text", "string", ()),
        Tensor("state", "float32", (5,)),
    )
    assert found.outputs == (
        Tensor("probabilities", "dictionary:string", ()),
        Tensor("counts", "dictionary:int64", ()),
        Tensor("labels", "sequence:string", (None,)),
    )


def test_a_core_ml_model_of_several_functions_tells_the_default_one(inspect: Inspect) -> None:
    def function(name: str, feature: str) -> bytes:
        inside = (
            field(1, name) + coreml_feature(2, feature, coreml_array((1,))) + coreml_feature(3, "y", coreml_array((2,)))
        )
        return field(20, inside)

    description = function("first", "a") + function("main", "b") + field(21, "main")
    found = inspect({"Net.mlmodel": field(1, 9) + field(2, description)})
    assert [tensor.name for tensor in found.inputs] == ["b"]


SIMPLE = coreml_model({"x": coreml_array((1, 3))}, {"y": coreml_array((2,))})


@pytest.mark.parametrize("folder", ["Net.mlpackage/", "deep/down/Net.mlpackage/", "NET.MLPACKAGE/", ""])
def test_an_mlpackage_is_read_through_its_manifest(inspect: Inspect, folder: str) -> None:
    found = inspect(mlpackage(SIMPLE, folder=folder))
    assert found.format == "coreml-mlpackage"
    assert found.inputs == (Tensor("x", "float32", (1, 3)),)


def test_the_same_model_has_one_interface_in_all_its_core_ml_forms(inspect: Inspect) -> None:
    compiled = mlmodelc(
        [{"name": "x", "type": "MultiArray", "dataType": "Float32", "shape": "[1, 3]"}],
        [{"name": "y", "type": "MultiArray", "dataType": "Float32", "shape": "[2]"}],
    )
    forms = [inspect(compiled), inspect(mlpackage(SIMPLE)), inspect({"Net.mlmodel": SIMPLE})]
    assert [found.format for found in forms] == ["coreml-mlmodelc", "coreml-mlpackage", "coreml-mlmodel"]
    assert len({found.interface for found in forms}) == 1


def test_a_compiled_core_ml_model_is_read_through_its_metadata(inspect: Inspect) -> None:
    flexible = {"hasShapeFlexibility": "1", "shapeRange": "[[1, -1], [3, 3]]"}
    found = inspect(
        mlmodelc(
            [
                {"name": "image", "type": "Image", "colorspace": "RGB", "height": "224", "width": "320"},
                {"name": "any", "type": "Image", "colorspace": "BGR", "height": "8", "hasSizeFlexibility": "1"},
                {"name": "text", "type": "String"},
            ],
            [
                {"name": "label", "type": "Dictionary", "keyType": "String"},
                {"name": "y", "type": "MultiArray", "dataType": "Double", "shape": "[1, 3]", **flexible},
            ],
        )
    )
    assert found.inputs == (
        Tensor("image", "image:rgb", (224, 320)),
        Tensor("any", "image:bgr", (None, None)),
        Tensor("text", "string", ()),
    )
    assert found.outputs == (Tensor("label", "dictionary:string", ()), Tensor("y", "float64", (None, 3)))


@pytest.mark.parametrize(
    "ranges",
    [
        "[[{},{}]]",
        "[[1.5,1.5]]",
        "[[Infinity,Infinity]]",
        "[[[1],[1]]]",
        "[[true,true]]",
        "[[null,null]]",
        '[["a","a"]]',
    ],
)
def test_a_range_that_holds_no_whole_number_is_any_length(inspect: Inspect, ranges: str) -> None:
    array = {"name": "x", "type": "MultiArray", "dataType": "Float32"}
    by_range = array | {"hasShapeFlexibility": "1", "shapeRange": ranges}
    by_shape = array | {"shape": ranges.split(",")[0][1:] + "]"}
    found = inspect(mlmodelc([by_range], [by_shape]))
    assert found.inputs == (Tensor("x", "float32", (None,)),)
    assert [*found.outputs[0].shape] == [None]


UNSOUND: dict[str, Any] = {
    "an object": ({},),
    "a fraction": (1.5,),
    "no finite number": (float("inf"),),
    "a boolean": (True,),
    "more than 64 bits": (2**63,),
    "too many dimensions": (1,) * 100,
    "a very long name": ("n" * 300_000,),
}


@pytest.mark.parametrize("shape", UNSOUND.values(), ids=UNSOUND)
@pytest.mark.parametrize("name", ["a.onnx", "a.tflite", "a.mlmodel", "a.mlmodelc/metadata.json"])
def test_whatever_a_reader_takes_for_a_shape_only_a_shape_is_told(
    inspect: Inspect, monkeypatch: pytest.MonkeyPatch, name: str, shape: Any
) -> None:
    from artifacts.inspect import coreml, onnx, tflite
    from artifacts.inspect.tensor import Signature

    def careless(*_: object) -> Signature:
        return Signature((Tensor("x", "float32", shape),), ())

    for reader in (coreml, onnx, tflite):
        monkeypatch.setattr(reader, "read_signature", careless)
    monkeypatch.setattr(coreml, "read_compiled_signature", careless)
    found = inspect({name: b"content"})
    assert (found.inputs, found.interface) == ((), None)


def test_a_tensorflow_lite_model_tells_its_inputs_and_outputs(inspect: Inspect) -> None:
    found = inspect({"net.tflite": tflite_model((1, 224, 224, 3), element=3)})
    assert found.format == "tflite"
    assert found.inputs == (Tensor("x", "uint8", (1, 224, 224, 3)),)
    assert found.outputs == (Tensor("y", "uint8", (1, 224, 224, 3)),)


def test_dimensions_that_tensorflow_lite_leaves_open_are_none(inspect: Inspect) -> None:
    assert inspect({"net.tflite": tflite_model((1, 8), signature=(-1, 8))}).inputs[0].shape == (None, 8)


def test_every_tensorflow_lite_type_has_the_name_that_the_schema_gives_it(inspect: Inspect) -> None:
    import tflite

    for name, value in vars(tflite.TensorType).items():
        if not name.startswith("_"):
            assert inspect({"net.tflite": tflite_model(element=value)}).inputs[0].type == name.lower()
    assert inspect({"net.tflite": tflite_model(element=100)}).inputs[0].type == "unknown"


def test_every_onnx_type_has_a_name() -> None:
    import onnx

    from artifacts.inspect.onnx import ELEMENTS

    theirs = {value: name.lower() for name, value in onnx.TensorProto.DataType.items() if name != "UNDEFINED"}
    spelled = {"float": "float32", "double": "float64"}
    for value, name in ELEMENTS.items():
        assert spelled.get(theirs[value], theirs[value]) == name


def test_tensorflow_lite_is_known_by_its_content_too(inspect: Inspect) -> None:
    assert inspect({"model.bin": tflite_model()}).format == "tflite"


def test_a_model_among_other_files_is_found(inspect: Inspect) -> None:
    found = inspect({"labels.txt": b"cat\ndog", "README": b"", "net.onnx": onnx_model()})
    assert (found.format, len(found.inputs)) == ("onnx", 1)


def test_of_several_models_only_the_format_is_told(inspect: Inspect) -> None:
    assert inspect({"a.onnx": onnx_model(), "b.onnx": onnx_model()}) == Inspection("onnx", (), (), None)


@pytest.mark.parametrize(
    "files", [{"weights.bin": b"\0" * 100}, {"a.txt": b"text"}, {"empty": b""}, {"x.pt": b"PK\x03\x04"}]
)
def test_anything_else_is_other(inspect: Inspect, files: dict[str, bytes]) -> None:
    assert inspect(files) == Inspection("other", (), (), None)


MALFORMED = {
    "empty.onnx": b"",
    "text.onnx": b"not a model",
    "no graph.onnx": field(1, 8),
    "group.onnx": b"\x0b\x0c",
    "field zero.onnx": b"\x00\x00",
    "cut.onnx": onnx_model()[:-10],
    "length beyond.onnx": field(1, 8) + b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    "endless varint.onnx": b"\xff" * 50,
    "name not utf8.onnx": field(1, 8) + field(7, field(11, field(1, b"\xff\xfe"))),
    "name with a NUL.onnx": field(1, 8) + field(7, field(11, field(1, b"a\0b"))),
    "long name.onnx": field(1, 8) + field(7, field(11, field(1, b"n" * 5000))),
    "many inputs.onnx": field(1, 8) + field(7, field(11, field(1, b"n")) * 5000),
    "many dimensions.onnx": field(1, 8) + field(7, field(11, field(2, field(1, field(2, field(1, b"") * 100))))),
    "empty.mlmodel": b"",
    "no description.mlmodel": field(1, 4),
    "many shapes.mlmodel": coreml_model({"x": coreml_array((), flexibility=field(21, field(1, b"") * 2000))}, {}),
    "long shape.mlmodel": coreml_model({"x": coreml_array(range(100))}, {}),
    "empty.tflite": b"",
    "no identifier.tflite": tflite_model().replace(b"TFL3", b"TFL2"),
    "header only.tflite": b"\x10\0\0\0TFL3",
    "root beyond.tflite": b"\xff\xff\xff\x7fTFL3",
    "A.mlpackage/Manifest.json": b"{}",
    "B.mlpackage/Manifest.json": b"[" * 100_000,
    "C.mlpackage/Manifest.json": b"\xff",
    "D.mlpackage/Manifest.json": b'{"itemInfoEntries": {"A": {"path": "../../etc"}}, "rootModelIdentifier": "A"}',
    "E.mlpackage/Manifest.json": b'{"itemInfoEntries": [], "rootModelIdentifier": {}}',
    "F.mlmodelc/metadata.json": b"[]",
    "G.mlmodelc/metadata.json": b"[{}]",
    "H.mlmodelc/metadata.json": b'[{"inputSchema": [3], "outputSchema": []}]',
    "I.mlmodelc/metadata.json": b'[{"inputSchema": [{"name": "\\ud800"}], "outputSchema": []}]',
    "J.mlmodelc/metadata.json": b" " * 5_000_000 + b"[]",
    "K.mlmodelc/coremldata.bin": b"",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_model_keeps_its_format_and_tells_no_more(inspect: Inspect, name: str) -> None:
    found = inspect({name: MALFORMED[name]})
    assert (found.inputs, found.outputs, found.interface) == ((), (), None)
    assert found.format in ("onnx", "tflite", "coreml-mlmodel", "coreml-mlpackage", "coreml-mlmodelc")


SEEDS = {
    "net.onnx": onnx_model(weights=2),
    "net.mlmodel": SIMPLE,
    "net.tflite": tflite_model(signature=(-1, 8)),
    "n.mlpackage/Manifest.json": mlpackage(SIMPLE, folder="")["Manifest.json"],
    "n.mlmodelc/metadata.json": mlmodelc([{"name": "x", "type": "Image"}], [])["Model.mlmodelc/metadata.json"],
}


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_models_never_raise_and_stay_small(inspect: Inspect, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(SEEDS)))
    content = bytearray(SEEDS[name])
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    found = inspect({name: bytes(content)})
    json.dumps([[tensor.name, tensor.type, tensor.shape] for tensor in (*found.inputs, *found.outputs)]).encode()


def test_a_tensor_of_unknown_rank_says_so(inspect: Inspect) -> None:
    value = field(1, "x") + field(2, field(1, field(1, 1)))
    found = inspect({"a.onnx": field(1, 8) + field(7, field(11, value))})
    assert found.inputs == (Tensor("x", "float32", UNKNOWN_SHAPE),)


def test_more_fields_than_any_model_has_are_not_walked(inspect: Inspect, monkeypatch: pytest.MonkeyPatch) -> None:
    from artifacts.inspect import protobuf

    monkeypatch.setattr(protobuf.Budget.__init__, "__defaults__", (1000,))
    assert inspect({"a.onnx": onnx_model()}).interface is not None
    assert inspect({"a.onnx": field(1, 8) + field(9, 1) * 2000 + onnx_model()}).interface is None
