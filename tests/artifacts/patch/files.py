"""Files with weights for the tests of patches: small ones of each format, made without the code that reads them."""

from __future__ import annotations

import io
import json
import pickle
import struct
import sys
import tarfile
import types
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from tests.models import field, varint

Array = NDArray[Any]

_SAFETENSORS = {"f2": "F16", "f4": "F32", "f8": "F64", "i1": "I8", "u1": "U8", "i8": "I64"}
_STORAGES = {"f2": "HalfStorage", "f4": "FloatStorage", "f8": "DoubleStorage", "i1": "CharStorage", "i8": "LongStorage"}
_BLOBS = {"f2": 1, "f4": 2, "u1": 3, "i1": 4}
_TENSORFLOW = {"f4": 1, "f8": 2, "i4": 3, "i8": 9, "f2": 19}


def kind(array: Array) -> str:
    """Return the letter and the width of an array's elements: ``f4``."""
    return array.dtype.str[1:]


def weights(*shape: int, seed: int = 0, scale: float = 0.05) -> NDArray[np.float32]:
    """Make float32 numbers that are distributed as those of a network."""
    return np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)


def damaged(data: bytes, flips: Iterable[tuple[int, int]], cut: int | None) -> bytearray:
    """Return what is left of a file: some bytes are others, and from a place on there are none."""
    left = bytearray(data)
    for place, value in flips:
        left[place % len(left)] = value
    if cut is not None:
        del left[cut % len(left) :]
    return left


def tar_of(files: Mapping[str, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    """Make a tar of files by name."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def trained(array: NDArray[np.float32], seed: int = 1, step: float = 0.01) -> NDArray[np.float32]:
    """Change weights as a little training does."""
    return (array * (1 + np.random.default_rng(seed).normal(0, step, array.shape))).astype(np.float32)


def safetensors(arrays: Mapping[str, Array]) -> bytes:
    """Make a safetensors file."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, array in arrays.items():
        raw = array.tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": _SAFETENSORS[kind(array)], "shape": array.shape, "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def npz(arrays: Mapping[str, Array]) -> bytes:
    """Make an ``.npz`` file, with numpy."""
    out = io.BytesIO()
    np.savez(out, **arrays)  # type: ignore[arg-type] # the stubs take names for its own arguments
    return out.getvalue()


def torch_file(arrays: Mapping[str, Array], root: str = "archive") -> bytes:
    """Make a file as ``torch.save`` does: names with dots are objects within objects."""
    storages: list[bytes] = []

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            return value if isinstance(value, tuple) and value[:1] == ("storage",) else None

    # What the pickle refers to has to be there while it is written; the functions of PyTorch are.
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2() -> None: ...

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils.__dict__["_rebuild_tensor_v2"] = _rebuild_tensor_v2
    for name in _STORAGES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    class Tensor:
        def __init__(self, array: Array) -> None:
            self.array = array

        def __reduce__(self) -> tuple[object, ...]:
            storages.append(self.array.tobytes())
            storage = ("storage", getattr(torch, _STORAGES[kind(self.array)]), f"{len(storages) - 1}", "cpu", 1)
            return _rebuild_tensor_v2, (storage, 0, self.array.shape, (1,), False, {})

    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *path, last = name.split(".")
        inside = tree
        for part in path:
            inside = inside.setdefault(part, {"training": True, "hook": None})
        inside[last] = Tensor(array)
    pickled = io.BytesIO()
    with mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils}):
        Pickler(pickled, protocol=2).dump(tree)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{root}/data.pkl", pickled.getvalue())
        for number, raw in enumerate(storages):
            archive.writestr(f"{root}/data/{number}", raw)
    return out.getvalue()


def blob_file(arrays: list[Array]) -> tuple[bytes, list[int]]:
    """Make a ``weight.bin`` of Core ML; return it and the offsets of its entries."""
    data, entries = struct.pack("<2L", len(arrays), 2).ljust(64, b"\0"), []
    for array in arrays:
        data = data.ljust(len(data) + -len(data) % 64, b"\0")
        entries.append(len(data))
        raw = array.tobytes()
        fields = struct.pack("<2L2Q", 0xDEADBEEF, _BLOBS[kind(array)], len(raw), len(data) + 64)
        data += fields.ljust(64, b"\0") + raw
    return data, entries


def ml_program(blobs: Mapping[str, tuple[int, tuple[int, ...]]]) -> bytes:
    """Make the specification of an ML Program with constants that are blobs: their entries' offsets, their shapes."""
    operations = b""
    for name, (entry, shape) in blobs.items():
        dimensions = b"".join(field(3, field(1, field(1, size))) for size in shape)
        blob = field(1, "@model_path/weights/weight.bin") + field(2, entry)
        value = field(2, field(1, field(1, 11) + field(2, len(shape)) + dimensions)) + field(5, blob)
        operations += field(
            3, field(1, "const") + field(3, field(1, name)) + field(5, field(1, "val") + field(2, value))
        )
    function = field(3, field(1, "CoreML5") + field(2, operations))
    program = field(2, field(1, "main") + field(2, function))
    return field(1, 7) + field(2, b"") + field(502, program)


def mil_text(blobs: Mapping[str, tuple[int, tuple[int, ...]]]) -> str:
    """Make the text of a compiled ML Program with the same constants."""
    lines = []
    for name, (entry, shape) in blobs.items():
        kind = f"tensor<fp32, [{', '.join(map(str, shape))}]>"
        blob = f'BLOBFILE(path = string("@model_path/weights/weight.bin"), offset = uint64({entry}))'
        lines.append(f'    {kind} {name} = const()[name = string("{name}"), val = {kind}({blob})];\n')
    return "program(1.0)\n{\n  func main<ios16>() {\n" + "".join(lines) + "  }\n}\n"


def tensorflow_checkpoint(arrays: Mapping[str, Array]) -> tuple[bytes, bytes]:
    """Make the index and the data file of a checkpoint."""
    data, block, last = b"", _entry(b"", b"", field(1, 1)), b""
    for name, array in sorted(arrays.items()):
        raw, shape = array.tobytes(), b"".join(field(2, field(1, size)) for size in array.shape)
        entry = field(1, _TENSORFLOW[kind(array)]) + field(2, shape) + field(4, len(data)) + field(5, len(raw))
        block += _entry(last, name.encode(), entry)
        last, data = name.encode(), data + raw
    block += struct.pack("<2L", 0, 1)
    handle = varint(0) + varint(len(block))
    top = _entry(b"", b"zzz", handle) + struct.pack("<2L", 0, 1)
    top_handle = varint(len(block) + 5) + varint(len(top))
    footer = (varint(0) + varint(0) + top_handle).ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")
    return block + bytes(5) + top + bytes(5) + footer, data


def _entry(last: bytes, key: bytes, value: bytes) -> bytes:
    shared = next((n for n, (a, b) in enumerate(zip(last, key, strict=False)) if a != b), min(len(last), len(key)))
    return varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
