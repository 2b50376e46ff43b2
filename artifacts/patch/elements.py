"""How the elements of tensors are coded: a table of classes, and blocks of elements in both directions.

An element is an unsigned integer of 1, 2, 4 or 8 bytes, little-endian. It becomes a number that is small when a
tensor changed little: the difference from the element of the base, with the sign folded into the lowest bit. How large
it is depends on what the base says of it, above all on the exponent of a float. So elements are sorted into classes by
the base's bits (and by the group of elements that they are in), and each class has its own coding: how many of the low
bits are stored as they are, and which stream has the rest, one byte an element, whose statistics are then those of one
class alone (Golomb-Rice coding, whose quotient an entropy coder takes).

Nothing here reads or writes files, and nothing knows of models: blocks in, bytes of numbered streams out, and back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_BLOCK_BYTES", "MAX_CLASSES", "MAX_GROUPS", "ClassCoding", "Table", "decode_block", "encode_block"]

# A block's arrays then take a few megabytes, which is what a phone gives a decoder.
MAX_BLOCK_BYTES = 256 * 1024
# More classes than this gained nothing on real fine-tunes, and each costs streams of its own.
MAX_CLASSES = 16
MAX_GROUPS = 8
# Below a group of this many elements the group bytes cost more than they tell.
MIN_GROUP_LOG = 2

CONTEXTS = 256
# The symbol that says that the rest follows in the stream of escapes.
ESCAPE = 255

Buffer = bytes | bytearray | memoryview
# The four unsigned widths, which mypy cannot tell apart from any other array.
Unsigned = npt.NDArray[Any]
Octets = npt.NDArray[np.uint8]
Places = npt.NDArray[np.intp] | slice
Take = Callable[[int, int], Buffer]

_DTYPES: dict[int, np.dtype[Any]] = {1: np.dtype("u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4"), 8: np.dtype("<u8")}
_SIGNED: dict[int, np.dtype[Any]] = {1: np.dtype("i1"), 2: np.dtype("<i2"), 4: np.dtype("<i4"), 8: np.dtype("<i8")}


@dataclass(frozen=True, slots=True)
class ClassCoding:
    """How the elements of one class are written.

    Attributes:
        symbols: the stream of the high parts, one byte an element.
        low_bits: how many low bits are written apart from the symbol.
        low_planes: the streams of the whole bytes among the low bits, lowest first.
        bits: the stream of the other low bits, packed; None if there are none.
        mask: the stream of one bit an element that tells zero from the rest, of a class most of which is zero.
    """

    symbols: int
    low_bits: int = 0
    low_planes: tuple[int, ...] = ()
    bits: int | None = None
    mask: int | None = None

    def __post_init__(self) -> None:
        if self.low_bits < 0 or len(self.low_planes) != self.low_bits // 8:
            raise ValueError("there is one stream for each whole byte of the low bits")
        if (self.bits is None) != (self.low_bits % 8 == 0):
            raise ValueError("there is a stream of bits exactly if bits are left beside whole bytes")


@dataclass(frozen=True, slots=True)
class Table:
    """How the elements of a tensor are coded.

    Attributes:
        width: of an element in bytes: 1, 2, 4 or 8.
        number: ``float`` if the bits are sign and magnitude, ``plain`` if they count.
        difference: what is written of an element and its base: ``sub``, ``xor``, or ``none`` without a base.
        shift: how far the base's bits are shifted down to make the context, whose low 8 bits count.
        escapes: the stream of what does not fit into a symbol.
        lut: the class of each context, 256 for each group.
        classes: the codings, 16 at most.
        group_log: the logarithm of the number of elements in a group; 0 if there are no groups.
        groups: the stream of the group bytes; None if there are no groups.

    Raises:
        ValueError: the parts contradict each other.
    """

    width: int
    number: Literal["plain", "float"]
    difference: Literal["sub", "xor", "none"]
    shift: int
    escapes: int
    lut: bytes
    classes: tuple[ClassCoding, ...]
    group_log: int = 0
    groups: int | None = None

    def __post_init__(self) -> None:
        if self.width not in _DTYPES:
            raise ValueError(f"no element has {self.width} bytes")
        if self.number not in ("plain", "float") or self.difference not in ("sub", "xor", "none"):
            raise ValueError("the kind of number or of difference is unknown")
        if not 0 <= self.shift < 8 * self.width:
            raise ValueError("the context lies outside the element")
        if not 1 <= len(self.classes) <= MAX_CLASSES:
            raise ValueError(f"a table has 1 to {MAX_CLASSES} classes")
        if any(coding.low_bits >= 8 * self.width for coding in self.classes):
            raise ValueError("a class has more low bits than an element has")
        groups, rest = divmod(len(self.lut), CONTEXTS)
        if rest or not 1 <= groups <= MAX_GROUPS or max(self.lut) >= len(self.classes):
            raise ValueError("the map of contexts is not whole, or names a class that is not there")
        if (self.groups is None) != (self.group_log == 0) or (self.groups is None and groups != 1):
            raise ValueError("groups have a size and a stream, or neither")

    @property
    def group_count(self) -> int:
        """How many groups the map of contexts tells apart."""
        return len(self.lut) // CONTEXTS


def encode_block(
    table: Table, target: Buffer, base: Buffer | None = None, groups: bytes = b""
) -> list[tuple[int, bytes]]:
    """Return what the streams get for one block, in the order in which a decoder takes it.

    Args:
        table: how the elements are coded.
        target: whole elements.
        base: as many elements; None exactly if the table's difference is ``none``.
        groups: the group of each ``1 << table.group_log`` elements, if the table has groups.

    Returns:
        pairs of a stream's number and bytes for it; parts that are empty are left out.

    Raises:
        ValueError: the lengths do not match each other, or a group is not in the table.
    """
    elements = _elements(table, target)
    known = _known(table, base, len(elements))
    parts: list[tuple[int, bytes]] = []
    if table.groups is not None:
        parts.append((table.groups, groups))
    folded = _folded(table, elements, known)
    for number, places in _places(table, known, len(elements), groups):
        parts += _encode_class(table, table.classes[number], folded[places])
    return [(stream, content) for stream, content in parts if content]


def decode_block(table: Table, count: int, base: Buffer | None, take: Take) -> bytes:
    """Return the elements of one block.

    Args:
        table: how the elements are coded.
        count: how many elements.
        base: as many elements; None exactly if the table's difference is ``none``.
        take: called with a stream's number and a number of bytes above 0; returns exactly that many. It may raise.

    Raises:
        ValueError: the lengths do not match each other, or a group is not in the table.
    """
    known = _known(table, base, count)
    groups = bytes(take(table.groups, _group_bytes(table, count))) if table.groups is not None and count else b""
    folded = np.empty(count, _DTYPES[table.width])
    for number, places in _places(table, known, count, groups):
        size = count if isinstance(places, slice) else len(places)
        folded[places] = _decode_class(table, table.classes[number], size, take)
    return _unfolded(table, folded, known).tobytes()


# ---- the difference


def _folded(table: Table, target: Unsigned, base: Unsigned | None) -> Unsigned:
    """Return the number that is written for each element."""
    if base is None:
        return _rotated_left(target) if table.number == "float" else target
    if table.difference == "xor":
        return target ^ base
    return _zigzag(_monotonic(table, target) - _monotonic(table, base), table.width)


def _unfolded(table: Table, folded: Unsigned, base: Unsigned | None) -> Unsigned:
    if base is None:
        return _rotated_right(folded, table.width) if table.number == "float" else folded
    if table.difference == "xor":
        return folded ^ base
    return _unmonotonic(table, _monotonic(table, base) + _unzigzag(folded))


def _monotonic(table: Table, elements: Unsigned) -> Unsigned:
    """Return floats' bits as integers in the order of the floats: one step is one step to the next float."""
    if table.number == "plain":
        return elements
    # Minus one (all bits) for negative numbers, else the sign bit alone.
    signed = elements.view(_SIGNED[table.width]) >> (8 * table.width - 1)
    ordered: Unsigned = elements ^ (signed.view(elements.dtype) | _sign(table.width))
    return ordered


def _unmonotonic(table: Table, ordered: Unsigned) -> Unsigned:
    if table.number == "plain":
        return ordered
    signed = ~ordered.view(_SIGNED[table.width]) >> (8 * table.width - 1)
    elements: Unsigned = ordered ^ (signed.view(ordered.dtype) | _sign(table.width))
    return elements


def _sign(width: int) -> Any:
    return _DTYPES[width].type(1 << (8 * width - 1))


def _zigzag(difference: Unsigned, width: int) -> Unsigned:
    """Return 0, -1, 1, -2, ... as 0, 1, 2, 3, ..."""
    signs = difference.view(_SIGNED[width]) >> (8 * width - 1)
    return difference << 1 ^ signs.view(difference.dtype)


def _unzigzag(folded: Unsigned) -> Unsigned:
    one = folded.dtype.type(1)
    difference: Unsigned = folded >> one ^ (~(folded & one) + one)
    return difference


def _rotated_left(elements: Unsigned) -> Unsigned:
    """Return floats with the sign below the mantissa, so that the exponent's bits are the top byte's."""
    return elements << 1 | elements >> (8 * elements.dtype.itemsize - 1)


def _rotated_right(elements: Unsigned, width: int) -> Unsigned:
    return elements >> 1 | elements << (8 * width - 1)


# ---- classes


def _places(table: Table, base: Unsigned | None, count: int, groups: bytes) -> Iterator[tuple[int, Places]]:
    """Yield the classes that have elements in this block, and where these are."""
    if table.groups is not None:
        _check_groups(table, count, groups)
    if count == 0:
        return
    if len(table.classes) == 1:
        yield 0, slice(None)
        return
    classes = _classes(table, base, count, groups)
    for number in range(len(table.classes)):
        places = np.flatnonzero(classes == number)
        if len(places) == count:
            yield number, slice(None)
        elif len(places):
            yield number, places


def _classes(table: Table, base: Unsigned | None, count: int, groups: bytes) -> Octets:
    classes: Octets
    lut: Octets = np.frombuffer(table.lut, np.uint8)
    contexts = np.zeros(count, np.uint8) if base is None else (base >> table.shift).astype(np.uint8)
    if table.groups is None:
        classes = lut[contexts]
    else:
        of_each = np.frombuffer(groups, np.uint8).astype(np.uint16) << 8
        classes = lut[np.repeat(of_each, 1 << table.group_log)[:count] | contexts]
    return classes


def _check_groups(table: Table, count: int, groups: bytes) -> None:
    if len(groups) != _group_bytes(table, count):
        raise ValueError("each group of elements has one byte")
    if groups and max(groups) >= table.group_count:
        raise ValueError("a group is not in the table")


def _group_bytes(table: Table, count: int) -> int:
    return -(-count >> table.group_log)


def _encode_class(table: Table, coding: ClassCoding, folded: Unsigned) -> Iterator[tuple[int, bytes]]:
    if coding.mask is not None:
        yield coding.mask, np.packbits(folded != 0).tobytes()
        folded = folded[folded != 0] - folded.dtype.type(1)
    high = folded >> coding.low_bits
    yield coding.symbols, np.minimum(high, ESCAPE).astype(np.uint8).tobytes()
    yield table.escapes, high[high >= ESCAPE].tobytes()
    for place, plane in enumerate(coding.low_planes):
        yield plane, (folded >> 8 * place).astype(np.uint8).tobytes()
    if coding.bits is not None:
        width = coding.low_bits % 8
        yield coding.bits, _packed((folded >> 8 * len(coding.low_planes)).astype(np.uint8), width)


def _decode_class(table: Table, coding: ClassCoding, count: int, take: Take) -> Unsigned:
    if coding.mask is not None:
        mask = np.unpackbits(_octets(take, coding.mask, -(-count // 8)), count=count)
        return _spread(mask, _decode_dense(table, coding, int(mask.sum(dtype=np.int64)), take))
    return _decode_dense(table, coding, count, take)


def _spread(mask: Octets, present: Unsigned) -> Unsigned:
    """Return numbers with those that are ``present``, which had one subtracted, where the mask has ones."""
    folded = np.zeros(len(mask), present.dtype)
    folded[mask.view(np.bool_)] = present + present.dtype.type(1)
    return folded


def _decode_dense(table: Table, coding: ClassCoding, count: int, take: Take) -> Unsigned:
    dtype = _DTYPES[table.width]
    symbols = _octets(take, coding.symbols, count)
    high = symbols.astype(dtype)
    if len(escaped := np.flatnonzero(symbols == ESCAPE)):
        high[escaped] = _octets(take, table.escapes, len(escaped) * table.width).view(dtype)
    folded = high << coding.low_bits
    for place, plane in enumerate(coding.low_planes):
        folded |= _octets(take, plane, count).astype(dtype) << 8 * place
    if coding.bits is not None:
        width = coding.low_bits % 8
        packed = _octets(take, coding.bits, -(-count * width // 8))
        folded |= _unpacked(packed, width, count).astype(dtype) << 8 * len(coding.low_planes)
    return folded


def _octets(take: Take, stream: int, count: int) -> Octets:
    return np.frombuffer(take(stream, count), np.uint8) if count else np.empty(0, np.uint8)


# ---- bits


def _packed(values: Octets, width: int) -> bytes:
    """Return the low ``width`` bits of each value, one after the other, highest bit first."""
    return np.packbits(np.unpackbits(values[:, None], axis=1)[:, 8 - width :]).tobytes()


def _unpacked(packed: Octets, width: int, count: int) -> Octets:
    bits = np.unpackbits(packed, count=count * width).reshape(count, width)
    values = bits[:, 0].copy()
    for column in range(1, width):
        values <<= 1
        values |= bits[:, column]
    return values


# ---- what comes in


def _elements(table: Table, content: Buffer) -> Unsigned:
    octets = np.frombuffer(content, np.uint8)
    if len(octets) % table.width:
        raise ValueError("a block consists of whole elements")
    return octets.view(_DTYPES[table.width])


def _known(table: Table, base: Buffer | None, count: int) -> Unsigned | None:
    if (base is None) != (table.difference == "none"):
        raise ValueError("a difference needs a base, and nothing else has one")
    if base is None:
        return None
    elements = _elements(table, base)
    if len(elements) != count:
        raise ValueError("the base has another number of elements")
    return elements
