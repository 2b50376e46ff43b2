"""The tensors of a safetensors file: a header in JSON says where each lies.

Source: the format's description in the README of huggingface/safetensors: eight bytes with the header's length, the
header, then the data, to whose start the offsets refer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TypeGuard

from artifacts.inspect.errors import MalformedModel
from artifacts.inspect.tensor import MAX_DIMENSIONS
from artifacts.patch.weights.tensor import Tensor, make_tensor
from artifacts.source import Source

# A tensor takes some 150 bytes of the header, so this is room for 100,000; the format itself allows 100 MB.
MAX_HEADER_BYTES = 16 * 1024 * 1024

_LENGTH_BYTES = 8
_TYPES = {
    "F64": "f64",
    "F32": "f32",
    "F16": "f16",
    "BF16": "bf16",
    "I64": "i64",
    "I32": "i32",
    "I16": "i16",
    "I8": "i8",
    "U64": "u64",
    "U32": "u32",
    "U16": "u16",
    "U8": "u8",
}


def is_safetensors(start: bytes, length: int) -> bool:
    """Tell whether a file of ``length`` bytes with this ``start``, of nine bytes or more, can be one."""
    header = int.from_bytes(start[:_LENGTH_BYTES], "little")
    return start[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{" and 2 <= header <= min(length, MAX_HEADER_BYTES)


def find_weights(file: Source) -> Iterator[Tensor]:
    """Yield the tensors that the header lists.

    Raises:
        MalformedModel: the header is not what it should be; what was yielded before is sound.
    """
    file.seek(0)
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    try:
        header = json.loads(file.read(min(length, MAX_HEADER_BYTES)))
    except (ValueError, RecursionError) as problem:
        raise MalformedModel("the header is not JSON") from problem
    if not isinstance(header, dict):
        raise MalformedModel("the header is no object")
    for name, entry in header.items():
        tensor = _tensor(name, entry, _LENGTH_BYTES + length)
        if tensor is not None:
            yield tensor


def _tensor(name: str, entry: object, data: int) -> Tensor | None:
    if not isinstance(entry, dict):
        return None
    offsets, shape, kind = entry.get("data_offsets"), entry.get("shape"), entry.get("dtype")
    if not _numbers(offsets, 2) or len(offsets) != 2 or not _numbers(shape, MAX_DIMENSIONS):
        return None
    start, end = offsets
    return make_tensor(name, data + start, end - start, _TYPES.get(str(kind), "u8"), shape)


def _numbers(value: object, limit: int) -> TypeGuard[list[int]]:
    return isinstance(value, list) and len(value) <= limit and all(type(one) is int and one >= 0 for one in value)
