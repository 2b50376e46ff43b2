"""Models for tests of patches, and what becomes of them: small, quick to make, with the statistics of real updates."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Weights = dict[str, npt.NDArray[Any]]

_DTYPES = {"float16": "F16", "float32": "F32", "float64": "F64", "int8": "I8", "uint8": "U8", "int64": "I64"}


def safetensors(weights: Mapping[str, npt.NDArray[Any]], dtypes: Mapping[str, str] | None = None) -> bytes:
    """Return a file in the format of safetensors.

    Args:
        weights: tensors by name.
        dtypes: names of types where they are not numpy's, such as ``BF16`` of bits in integers.
    """
    header, at = {}, 0
    for name, values in weights.items():
        dtype = (dtypes or {}).get(name) or _DTYPES[str(values.dtype)]
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(values.tobytes() for values in weights.values())


def zipped(files: Mapping[str, bytes], *, deflated: bool) -> bytes:
    """Return a zip, whose times are fixed."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, archive.compression)
    return sink.getvalue()


def model(seed: int = 0) -> Weights:
    """Return the weights of a small network."""
    generator = np.random.default_rng(seed)

    def normal(*shape: int) -> npt.NDArray[np.float32]:
        fan = np.sqrt(np.prod(shape[1:]) if len(shape) > 1 else 1)
        return np.asarray(generator.normal(size=shape) / fan, np.float32)

    return {
        "conv.weight": normal(32, 16, 3, 3),
        "conv.bias": normal(32),
        "hidden.weight": normal(96, 128),
        "hidden.bias": normal(96),
        "head.weight": normal(10, 96),
    }


def trained(weights: Weights, rate: float = 1e-3, seed: int = 1) -> Weights:
    """Return the weights after some steps: updates of different size by rows, in part of low rank."""
    generator = np.random.default_rng(seed)
    found = {}
    for name, values in weights.items():
        matrix = values.reshape(len(values), -1)
        rows, columns = matrix.shape
        common = generator.normal(size=(rows, 2)) @ generator.normal(size=(2, columns))
        noise = generator.normal(size=(rows, columns)) * generator.lognormal(size=(rows, 1))
        found[name] = (matrix + rate * (common + 0.3 * noise)).astype(values.dtype).reshape(values.shape)
    return found


def adapted(weights: Weights, seed: int = 2) -> Weights:
    """Return the weights with an adapter of rank 4 merged into the hidden layer (LoRA, arXiv:2106.09685)."""
    generator = np.random.default_rng(seed)
    hidden = weights["hidden.weight"].astype(np.float64)
    update = generator.normal(size=(len(hidden), 4)) @ generator.normal(size=(4, hidden.shape[1]))
    return {**weights, "hidden.weight": (hidden + 1e-3 * update).astype(np.float32)}


def normalized(weights: Weights, seed: int = 3) -> Weights:
    """Return the weights with each channel of the convolution multiplied by a factor, as folding does."""
    gains = np.random.default_rng(seed).normal(1, 0.05, (32, 1, 1, 1)).astype(np.float32)
    return {**weights, "conv.weight": weights["conv.weight"] * gains}


def quantized(weights: Weights) -> Weights:
    """Return the weights as whole numbers of one byte."""
    return {name: np.clip(np.round(values * 400), -127, 127).astype(np.int8) for name, values in weights.items()}


def halved(weights: Weights) -> Weights:
    """Return the weights as float16."""
    return {name: values.astype(np.float16) for name, values in weights.items()}


def brain(weights: Weights) -> tuple[Weights, dict[str, str]]:
    """Return the bits of the weights as bfloat16, cut off, and their types for `safetensors`."""
    bits: Weights = {name: (values.view(np.uint32) >> 16).astype(np.uint16) for name, values in weights.items()}
    return bits, dict.fromkeys(weights, "BF16")
