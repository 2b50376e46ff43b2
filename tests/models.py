"""Models for tests: real ones that set-up has fetched, and small ones made on the spot.

The makers write the formats with other code than ours where there is any: ONNX with the ``onnx`` package, TensorFlow
Lite with ``flatbuffers`` and the ``tflite`` package, Core ML with the twenty lines of protobuf below.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.components import require

# Where `bench/corpus.py` puts released models: <project>/<version>/<file>.
CORPUS = Path(__file__).resolve().parent.parent / ".cache" / "models"

# The file that every fetched release of a project has.
REAL_FILES = {"silero-vad": "silero_vad.onnx", "magika": "model.onnx"}


def real_pair(project: str) -> tuple[Path, Path]:
    """Return two releases of a real model, old and new; skip where they are not fetched, fail there under ``CI``."""
    releases = sorted(CORPUS.glob(f"{project}/*/{REAL_FILES[project]}"))
    require(f"two releases of {project}", CORPUS if len(releases) >= 2 else None)
    return releases[0], releases[-1]


def real_models() -> list[Path]:
    """Return every real model that set-up has fetched; skip where there is none, fail there under ``CI``."""
    found = sorted(CORPUS.glob("*/*/*.onnx"))
    require("the corpus of real models", CORPUS if found else None)
    return found


def onnx_model(
    *, inputs: Mapping[str, Sequence[int | str | None]] | None = None, weights: int = 64, seed: int = 0, ir: int = 8
) -> bytes:
    """Make an ONNX model that onnxruntime runs: the first input times a random matrix.

    Args:
        inputs: names and shapes; the last dimension of the first is the matrix' height.
        weights: number of columns of the matrix.
        seed: of the weights: another seed is another version of the model.
        ir: version of the format.
    """
    import numpy
    import onnx
    from onnx import TensorProto, helper

    shapes = dict(inputs or {"x": ("batch", 16)})
    first, shape = next(iter(shapes.items()))
    height = shape[-1]
    assert isinstance(height, int)
    matrix = numpy.random.default_rng(seed).normal(0, 0.05, (height, weights)).astype(numpy.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", [first, "w"], ["y"])],
        "model",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in shapes.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [*shape[:-1], weights])],
        [onnx.numpy_helper.from_array(matrix, "w")],
    )
    if ir < 4:
        # Weights had to be listed as inputs too.
        graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, matrix.shape))
    model = helper.make_model(graph, ir_version=ir, opset_imports=[helper.make_opsetid("", 17)])
    return bytes(model.SerializeToString())


def varint(value: int) -> bytes:
    """Encode a number as protobuf does; a negative one as 64 bits."""
    value &= 0xFFFFFFFFFFFFFFFF
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def field(number: int, value: int | bytes | str) -> bytes:
    """Encode one protobuf field: a number as a varint, bytes and text with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    raw = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def packed(number: int, values: Iterable[int]) -> bytes:
    """Encode a list of numbers as one packed field."""
    return field(number, b"".join(varint(value) for value in values))


def coreml_array(shape: Sequence[int], element: int = 65568, flexibility: bytes = b"") -> bytes:
    """Make a FeatureType that is a multi-array, of float32 unless said otherwise."""
    return field(5, packed(1, shape) + field(2, element) + flexibility)


def coreml_image(height: int, width: int, color: int = 20, flexibility: bytes = b"") -> bytes:
    """Make a FeatureType that is an image, in RGB unless said otherwise."""
    return field(4, field(1, width) + field(2, height) + field(3, color) + flexibility)


def coreml_feature(number: int, name: str, kind: bytes) -> bytes:
    """Make a FeatureDescription in the field ``number``."""
    return field(number, field(1, name) + field(3, kind))


def coreml_model(inputs: Mapping[str, bytes], outputs: Mapping[str, bytes], *, weights: bytes = b"") -> bytes:
    """Make a Core ML specification with these features; the weights are a neural network that we never look at."""
    description = b"".join(coreml_feature(1, name, kind) for name, kind in inputs.items())
    description += b"".join(coreml_feature(10, name, kind) for name, kind in outputs.items())
    return field(1, 4) + field(2, description) + field(500, field(1, weights))


def mlpackage(
    specification: bytes, *, folder: str = "Model.mlpackage/", weights: bytes = b"weights"
) -> dict[str, bytes]:
    """Make the files of an ``.mlpackage``."""
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {
            "A": {"name": "model.mlmodel", "path": "com.apple.CoreML/model.mlmodel", "author": "com.apple.CoreML"},
            "B": {"name": "weights", "path": "com.apple.CoreML/weights", "author": "com.apple.CoreML"},
        },
        "rootModelIdentifier": "A",
    }
    return {
        f"{folder}Manifest.json": json.dumps(manifest).encode(),
        f"{folder}Data/com.apple.CoreML/model.mlmodel": specification,
        f"{folder}Data/com.apple.CoreML/weights/weight.bin": weights,
    }


def mlmodelc(inputs: Sequence[Mapping[str, str]], outputs: Sequence[Mapping[str, str]]) -> dict[str, bytes]:
    """Make the files of a compiled Core ML model, with the schema entries that Xcode would write."""
    metadata = [{"inputSchema": list(inputs), "outputSchema": list(outputs), "specificationVersion": 4}]
    return {
        "Model.mlmodelc/metadata.json": json.dumps(metadata).encode(),
        "Model.mlmodelc/coremldata.bin": b"\x02\x00\x00\x00",
        "Model.mlmodelc/model.espresso.weights": b"weights",
    }


def tflite_model(
    shape: Sequence[int] = (1, 8),
    *,
    signature: Sequence[int] = (),
    element: int = 0,
    weights: bytes = b"\0" * 64,
    outside: int = 0,
) -> bytes:
    """Make a TensorFlow Lite model with one input ``x`` and one output ``y`` of the same kind, and no operators.

    The weights lie in the FlatBuffer, or behind it at the offset ``outside``, as in models of more than 2 GiB.
    """
    import flatbuffers  # type: ignore[import-untyped] # it ships none
    import tflite

    builder = flatbuffers.Builder(1024)

    def vector(values: Sequence[int], start: object) -> int:
        start(builder, len(values))  # type: ignore[operator]
        for value in reversed(values):
            builder.PrependInt32(value)
        return int(builder.EndVector())

    def tensor(name: str) -> int:
        text = builder.CreateString(name)
        dimensions = vector(shape, tflite.TensorStartShapeVector)
        stated = vector(signature, tflite.TensorStartShapeSignatureVector) if signature else None
        tflite.TensorStart(builder)
        tflite.TensorAddName(builder, text)
        tflite.TensorAddShape(builder, dimensions)
        tflite.TensorAddType(builder, element)
        if stated is not None:
            tflite.TensorAddShapeSignature(builder, stated)
        return int(tflite.TensorEnd(builder))

    def offsets(values: Sequence[int], start: object) -> int:
        start(builder, len(values))  # type: ignore[operator]
        for value in reversed(values):
            builder.PrependUOffsetTRelative(value)
        return int(builder.EndVector())

    content = builder.CreateByteVector(b"" if outside else weights)
    tflite.BufferStart(builder)
    tflite.BufferAddData(builder, content)
    if outside:
        tflite.BufferAddOffset(builder, outside)
        tflite.BufferAddSize(builder, len(weights))
    buffers = offsets([tflite.BufferEnd(builder)], tflite.ModelStartBuffersVector)
    tensors = offsets([tensor("x"), tensor("y")], tflite.SubGraphStartTensorsVector)
    inputs = vector([0], tflite.SubGraphStartInputsVector)
    outputs = vector([1], tflite.SubGraphStartOutputsVector)
    tflite.SubGraphStart(builder)
    tflite.SubGraphAddTensors(builder, tensors)
    tflite.SubGraphAddInputs(builder, inputs)
    tflite.SubGraphAddOutputs(builder, outputs)
    subgraphs = offsets([tflite.SubGraphEnd(builder)], tflite.ModelStartSubgraphsVector)
    tflite.ModelStart(builder)
    tflite.ModelAddVersion(builder, 3)
    tflite.ModelAddSubgraphs(builder, subgraphs)
    tflite.ModelAddBuffers(builder, buffers)
    builder.Finish(tflite.ModelEnd(builder), b"TFL3")
    model = bytes(builder.Output())
    return model.ljust(outside, b"\0") + weights if outside else model


def zipped(files: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Zip files as the published client does: deflate, names as given."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()
