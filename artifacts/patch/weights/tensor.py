"""A tensor: where a model's file keeps the elements of one weight."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

# What is kept of the name of a tensor or of its file.
MAX_NAME_LENGTH = 1024

# Bytes of an element, by the short names that the patch codec uses. What is narrower than a byte, or of eight bits
# that are no integer, counts as bytes ("u8").
WIDTHS = {
    "f16": 2,
    "bf16": 2,
    "f32": 4,
    "f64": 8,
    "i8": 1,
    "u8": 1,
    "i16": 2,
    "u16": 2,
    "i32": 4,
    "u32": 4,
    "i64": 8,
    "u64": 8,
}

# The names that the readers of models give to types of elements. Complex numbers are pairs of floats.
_SHORT = {
    "float16": "f16",
    "bfloat16": "bf16",
    "float32": "f32",
    "float64": "f64",
    "complex64": "f32",
    "complex128": "f64",
    "int8": "i8",
    "int16": "i16",
    "int32": "i32",
    "int64": "i64",
    "uint16": "u16",
    "uint32": "u32",
    "uint64": "u64",
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One array of numbers, little-endian, one after the other.

    Attributes:
        name: as its model names it, empty if it has no name there. Not unique.
        start: where its first byte is, in bytes.
        length: in bytes; a multiple of the element's width, and more than 0.
        dtype: of its elements, a key of `WIDTHS`.
        shape: dimensions from the outside in. Their product is the number of elements.
        member: the file that it is in, as its container names it, inner ones behind outer ones with ``!`` between.
    """

    name: str
    start: int
    length: int
    dtype: str
    shape: tuple[int, ...]
    member: str = ""

    @property
    def width(self) -> int:
        """The bytes of an element."""
        return WIDTHS[self.dtype]

    @property
    def count(self) -> int:
        """The number of elements."""
        return self.length // self.width

    @property
    def end(self) -> int:
        """Where the byte behind its last one is."""
        return self.start + self.length

    def moved(self, offset: int, member: str) -> Tensor:
        """Return it as it is in a file that starts at ``offset`` and is called ``member``."""
        return replace(self, start=self.start + offset, member=_printable(member))


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A tensor whose elements are in another file than the one that names it.

    Attributes:
        name: as its model names it.
        location: the file, relative to the folder of the one that names it.
        offset: of its first byte in that file; of a Core ML blob, of the entry that describes it.
        length: in bytes, None if it goes on to the end of the file.
        dtype: of its elements, a key of `WIDTHS`.
        shape: as stated.
    """

    name: str
    location: str
    offset: int
    length: int | None
    dtype: str
    shape: tuple[int, ...]


def short_type(element: str) -> str:
    """Return the short name of an element's type, ``u8`` for one whose bits the codec does not know."""
    return _SHORT.get(element, "u8")


def make_tensor(name: str, start: int, length: int, dtype: str, shape: Iterable[int]) -> Tensor | None:
    """Return the tensor that lies there, None if it has no whole element.

    What a file says of a shape counts only if it fits what it says of the length: else the elements are a row.

    Args:
        name: of the weight.
        start: of its bytes.
        length: of its bytes; those that make no whole element are left out.
        dtype: a key of `WIDTHS`.
        shape: as stated.
    """
    width = WIDTHS[dtype]
    count = length // width
    if count <= 0 or start < 0:
        return None
    return Tensor(_printable(name), start, count * width, dtype, _fitting(tuple(shape), count))


def _printable(name: str) -> str:
    """Return a name that can be shown: strangers chose it, and a terminal obeys control characters."""
    name = name[:MAX_NAME_LENGTH]
    return name if name.isprintable() else "".join(one if one.isprintable() else "\ufffd" for one in name)


def _fitting(shape: Sequence[int], count: int) -> tuple[int, ...]:
    if any(dimension <= 0 or dimension > count for dimension in shape):
        return (count,)
    product = math.prod(shape)
    if product == count:
        return tuple(shape)
    # Complex numbers, and packed ones: the elements of the innermost dimension are what differs.
    return (*shape, count // product) if count % product == 0 else (count,)
