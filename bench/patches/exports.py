"""Write a network's weights in the formats that phones get: safetensors, ONNX (plain and quantized), Core ML's package.

The ONNX files have one node a layer, in order, with the weights as an exporter names and lays them out, but not the
wiring between layers: they are for measuring, not for running.
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

from tests.models import coreml_array, coreml_model, field, mlpackage

__all__ = [
    "Weights",
    "bfloat16",
    "float16",
    "folded",
    "write_onnx",
    "write_package",
    "write_quantized",
    "write_tensors",
]

Weights = Mapping[str, npt.NDArray[Any]]

_SAFE_NAMES = {"float32": "F32", "float16": "F16", "int64": "I64", "uint16": "BF16"}

# Core ML's weight file (MILBlob, StorageFormat.hpp): a header, then for each tensor a record and its numbers, all
# aligned to 64 bytes.
_BLOB_ALIGNMENT = 64
_BLOB_VERSION = 2
_BLOB_SENTINEL = 0xDEADBEEF
_BLOB_TYPES = {"float16": 1, "float32": 2}

# BatchNorm adds this to the variance (the default of PyTorch).
_EPSILON = 1e-5
# Largest magnitude of a symmetrically quantized weight.
_INT8_LIMIT = 127


def float16(weights: Weights) -> Weights:
    """Return the floating-point weights as float16, rounded to nearest."""
    return {name: array.astype(np.float16) if array.dtype == np.float32 else array for name, array in weights.items()}


def bfloat16(weights: Weights) -> Weights:
    """Return the floating-point weights as the bits of bfloat16 in uint16, rounded to nearest, ties to even."""

    def rounded(array: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
        bits = np.ascontiguousarray(array).view(np.uint32).reshape(array.shape)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)

    return {name: rounded(array) if array.dtype == np.float32 else array for name, array in weights.items()}


def folded(weights: Weights) -> Weights:
    """Return the weights with each BatchNorm multiplied into the convolution before it, as exporters do."""
    out = dict(weights)
    for name in weights:
        if not name.endswith(".running_var"):
            continue
        norm = name.removesuffix(".running_var")
        convolution = norm.replace("norm", "conv") + ".weight"
        mean, variance, scale, shift = (
            out.pop(f"{norm}.{part}") for part in ("running_mean", "running_var", "weight", "bias")
        )
        out.pop(f"{norm}.num_batches_tracked")
        factor = scale / np.sqrt(variance + np.float32(_EPSILON))
        out[convolution] = out[convolution] * factor[:, None, None, None]
        out[convolution.replace("weight", "bias")] = shift - mean * factor
    return out


def write_tensors(path: Path, weights: Weights) -> None:
    """Write safetensors: the length of a JSON header, the header, and the tensors in the order of their names."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name in sorted(weights):
        array = weights[name]
        dtype, shape = _SAFE_NAMES[array.dtype.name], list(array.shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + array.nbytes]}
        position += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(weights):
            file.write(weights[name].tobytes())


def renamed(weights: Weights) -> Weights:
    """Return the weights as another exporter leaves them: sorted by name, under numbers in place of names."""
    return {f"onnx::Conv_{200 + 3 * number}": weights[name] for number, name in enumerate(sorted(weights))}


def write_onnx(path: Path, weights: Weights, *, exporter: str = "2.13.0", prefix: str = "") -> None:
    """Write ONNX.

    Args:
        path: where.
        weights: tensors by name.
        exporter: version of the program that says it wrote the file.
        prefix: of the names of nodes and values, which another version of an exporter chooses otherwise.
    """
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    _save(path, initializers, list(weights), exporter, prefix)


def write_quantized(path: Path, weights: Weights, *, by_channel: bool) -> None:
    """Write ONNX with matrices and kernels as int8, symmetric around zero, each with its scale or one scale a channel.

    Scales are the greatest magnitude by 127, so they move when the weights do. Vectors stay float32.
    """
    tensors: list[TensorProto] = []
    for name, array in weights.items():
        if array.ndim < 2:
            tensors.append(numpy_helper.from_array(array, name))
            continue
        axes = tuple(range(1, array.ndim)) if by_channel else None
        scale = np.abs(array).max(axis=axes, keepdims=True) / np.float32(_INT8_LIMIT)
        scale = np.maximum(scale, np.finfo(np.float32).tiny).astype(np.float32)
        quantized = np.rint(array / scale).astype(np.int8)
        tensors.append(numpy_helper.from_array(quantized, f"{name}_quantized"))
        tensors.append(numpy_helper.from_array(scale.ravel() if by_channel else scale.reshape(()), f"{name}_scale"))
    _save(path, tensors, [tensor.name for tensor in tensors], "2.13.0", "")


def _save(path: Path, tensors: list[TensorProto], names: list[str], exporter: str, prefix: str) -> None:
    values = [f"{prefix}/layer_{number}/output_0" for number in range(len(names))]
    nodes = [
        helper.make_node("Add" if name.endswith("bias") else "MatMul", [before, name], [after], name=f"{prefix}/{name}")
        for name, before, after in zip(names, ["input", *values], [*values[:-1], "output"], strict=False)
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", None]) for name in ("input", "output")]
    graph = helper.make_graph(nodes, "main_graph", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, producer_name="pytorch", producer_version=exporter, ir_version=8)
    path.write_bytes(model.SerializeToString(deterministic=True))


def write_package(path: Path, weights: Weights, *, when: tuple[int, int, int, int, int, int]) -> None:
    """Write a deflated zip of an ``.mlpackage``.

    Args:
        path: where.
        weights: tensors by name, float16 or float32.
        when: the members' time of change: year, month, day, hour, minute, second.
    """
    blob, places = _blob_file(weights)
    program = b"".join(field(1, field(1, name) + field(2, place)) for name, place in places.items())
    specification = coreml_model({"input": coreml_array((1, 3))}, {"output": coreml_array((1, 10))}, weights=program)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in mlpackage(specification, weights=blob).items():
            archive.writestr(zipfile.ZipInfo(name, when), content, zipfile.ZIP_DEFLATED)


def _blob_file(weights: Weights) -> tuple[bytes, dict[str, int]]:
    """Return Core ML's weight file, and where in it each tensor's record stands."""
    out = bytearray(struct.pack("<II", len(weights), _BLOB_VERSION).ljust(_BLOB_ALIGNMENT, b"\0"))
    places = {}
    for name, array in weights.items():
        places[name] = len(out)
        content = array.tobytes()
        start = len(out) + _BLOB_ALIGNMENT
        record = struct.pack("<IIQQ", _BLOB_SENTINEL, _BLOB_TYPES[array.dtype.name], len(content), start)
        out += record.ljust(_BLOB_ALIGNMENT, b"\0") + content
        out += bytes(-len(out) % _BLOB_ALIGNMENT)
    return bytes(out), places
