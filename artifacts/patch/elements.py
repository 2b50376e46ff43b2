"""How the elements of tensors are coded: a table of classes, and blocks of elements in both directions.

An element is an unsigned integer of 1, 2, 4 or 8 bytes, little-endian. It becomes a number that is small when a
tensor changed little: the difference from the element of the base, with the sign folded into the lowest bit. How large
it is depends on what the base says of it, above all on the exponent of a float, and on the row and the column that it
is in. So each element has a level, which is made of those, levels are sorted into classes, and each class has its own
coding: how many of the low bits are stored as they are, and which stream has the rest, one byte an element, whose
statistics are then those of one class alone (Golomb-Rice coding, whose quotient an entropy coder takes).

What rows and columns have in common stands in a `Matrix` (`artifacts.patch.matrix`), which is coded here too.

Nothing here reads or writes files, and nothing knows of models: blocks in, bytes of numbered streams out, and back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from artifacts.patch.bits import Unpacker, packed, unpacked
from artifacts.patch.matrix import (
    MAX_SHIFT,
    Factors,
    Matrix,
    MatrixData,
    converted,
    in_units,
    levels,
    most_predicted,
    of_units,
    predicted,
    predicted_halves,
    predicted_values,
)

__all__ = [
    "MAX_BLOCK_BYTES",
    "MAX_CLASSES",
    "ClassCoding",
    "Matrix",
    "MatrixData",
    "Table",
    "decode_block",
    "decode_matrix",
    "encode_block",
    "encode_matrix",
    "fold",
    "numbers_and_levels",
    "numbers_of_factors",
    "unfold",
]

# A block's arrays then take a few megabytes, which is what a phone gives a decoder.
MAX_BLOCK_BYTES = 256 * 1024
# Levels are half octaves at the finest; more classes than this gained nothing on real fine-tunes.
MAX_CLASSES = 32

Number = Literal["plain", "float", "brain"]
BaseKind = Literal["same", "half", "brain", "single", "double"]
# The bytes of a float of each kind; of ``same``, those of the table's.
BASE_WIDTHS: dict[str, int] = {"same": 0, "half": 2, "brain": 2, "single": 4, "double": 8}

LEVELS = 256
# The exponents of doubles have 11 bits.
MAX_OFFSET = 2047
MAX_ORIGIN = 255
# The symbol that says that the rest follows in the stream of escapes.
ESCAPE = 255
# The contexts of whole numbers that are predicted: parts of one half, by which the prediction is off a whole number.
FRACTIONS = 16
# Whole numbers that may be predicted: quantized weights. Predictions are exact as 8 bytes.
MAX_WHOLE_BYTES = 2
MAX_WHOLE = 2.0**62
_MAX_QUICK = 2.0**31
# What divides a byte, so that zstd sees one alphabet.
MASKS: tuple[Literal[1, 2, 4], ...] = (1, 2, 4)
# A gain, a unit, and an element that was multiplied by one.
_SINGLE_BYTES = 4

Buffer = bytes | bytearray | memoryview
# The four unsigned widths, which mypy cannot tell apart from any other array.
Unsigned = npt.NDArray[Any]
Octets = npt.NDArray[np.uint8]
Take = Callable[[int, int], Buffer]
Parts = list[tuple[int, bytes]]

_DTYPES: dict[int, np.dtype[Any]] = {1: np.dtype("u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4"), 8: np.dtype("<u8")}
_SIGNED: dict[int, np.dtype[Any]] = {1: np.dtype("i1"), 2: np.dtype("<i2"), 4: np.dtype("<i4"), 8: np.dtype("<i8")}
# Levels from the least to beyond the highest that contexts and a matrix add up to, brought into their range.
_LEAST_LEVEL = -2 * LEVELS
_ALL_LEVELS = bytes(min(max(level, 0), LEVELS - 1) for level in range(_LEAST_LEVEL, 4 * LEVELS))
_CLASS_NUMBERS = np.arange(MAX_CLASSES, dtype=np.uint8)
_WIDTHS_OF = {"plain": (1, 2, 4, 8), "float": (2, 4, 8), "brain": (2,)}


@dataclass(frozen=True, slots=True)
class ClassCoding:
    """How the elements of one class are written.

    Attributes:
        symbols: the stream of the high parts, one byte an element.
        low_bits: how many low bits are written apart from the symbol.
        low_planes: the streams of the whole bytes among the low bits, lowest first.
        bits: the stream of the other low bits, packed; None if there are none.
        mask: the stream of a few bits of each element, of a class most of which is small: what they tell is not all of
            the number only where all of them are set. None if there are none.
        mask_bits: how many, 1, 2 or 4. One tells zero from the rest.
    """

    symbols: int
    low_bits: int = 0
    low_planes: tuple[int, ...] = ()
    bits: int | None = None
    mask: int | None = None
    mask_bits: Literal[1, 2, 4] = 1

    def __post_init__(self) -> None:
        if self.low_bits < 0 or len(self.low_planes) != self.low_bits // 8:
            raise ValueError("there is one stream for each whole byte of the low bits")
        if (self.bits is None) != (self.low_bits % 8 == 0):
            raise ValueError("there is a stream of bits exactly if bits are left beside whole bytes")
        if self.mask_bits not in MASKS:
            raise ValueError(f"no mask has {self.mask_bits} bits")


@dataclass(frozen=True, slots=True)
class Table:
    """How the elements of a tensor are coded.

    Attributes:
        width: of an element in bytes: 1, 2, 4 or 8.
        number: ``float`` if the bits are IEEE 754's, ``brain`` if they are bfloat16's, ``plain`` if they count.
        difference: what is written of an element and its base: ``sub``, ``xor``, or ``none`` without a base.
        zeros: how many low bits are zero in every element; they are not coded. 0 with ``xor``.
        origin: the top byte, and exponent, that floats without a base are coded downwards from.
        base: of which kind the base's elements are: ``same``, or floats that are converted first.
        shift: how far the base's bits are shifted down to make the context: 8 bits of a plain number, the exponent of a
            float without its sign.
        offset: what is subtracted from that of a float; then 0 to 255 are told apart.
        slope: what the context is multiplied by to make the level, to which row and column add theirs.
        escapes: the stream of what does not fit into a symbol.
        lut: the class of each of 256 levels.
        classes: the codings, 32 at most.

    Raises:
        ValueError: the parts contradict each other.
    """

    width: int
    number: Number
    difference: Literal["sub", "xor", "none"]
    shift: int
    escapes: int
    lut: bytes
    classes: tuple[ClassCoding, ...]
    slope: Literal[1, 0, -1, -2] = 1
    offset: int = 0
    zeros: int = 0
    origin: int = 0
    base: BaseKind = "same"

    def __post_init__(self) -> None:
        if self.difference not in ("sub", "xor", "none") or self.width not in _WIDTHS_OF.get(self.number, ()):
            raise ValueError("the kind of number or of difference is unknown")
        if self.base not in BASE_WIDTHS or (self.base != "same" and (self.number == "plain" or not self.has_base)):
            raise ValueError("the base is of an unknown kind, or one that does not suit")
        if not 0 <= self.zeros < 8 * self.width or (self.zeros and self.difference == "xor"):
            raise ValueError("bits that are zero do not suit the element")
        if not 0 <= self.origin <= (0 if self.number == "plain" or self.has_base else MAX_ORIGIN):
            raise ValueError("the table has an origin that does not suit")
        if not 0 <= self.shift < 8 * self.width or self.slope not in (1, 0, -1, -2):
            raise ValueError("the context lies outside the element, or has no such slope")
        if not 0 <= self.offset <= (0 if self.number == "plain" else MAX_OFFSET):
            raise ValueError("the context has an offset that does not suit")
        if not 1 <= len(self.classes) <= MAX_CLASSES:
            raise ValueError(f"a table has 1 to {MAX_CLASSES} classes")
        if any(coding.low_bits >= 8 * self.width for coding in self.classes):
            raise ValueError("a class has more low bits than an element has")
        if len(self.lut) != LEVELS or max(self.lut) >= len(self.classes):
            raise ValueError("the map of levels is not whole, or names a class that is not there")

    @property
    def has_base(self) -> bool:
        """Whether elements are coded as differences."""
        return self.difference != "none"

    @property
    def base_width(self) -> int:
        """The bytes of an element of the base."""
        return BASE_WIDTHS[self.base] or self.width

    def made_width(self, matrix: Matrix | None) -> int:
        """Return the bytes of an element when it is made: with units, floats of 2 bytes become floats of 4."""
        return self.width if matrix is None or matrix.units is None else _SINGLE_BYTES

    def per_block(self, block_bytes: int, matrix: Matrix | None = None) -> int:
        """Return how many elements a block has: neither they nor those of the base have more bytes than that.

        Places are sorted, in 16 bytes each at worst, so elements of one byte count as two.

        Args:
            block_bytes: of a block.
            matrix: that the elements belong to, if they do.
        """
        return block_bytes // max(self.made_width(matrix), self.base_width, 2)

    def suits(self, matrix: Matrix) -> bool:
        """Tell whether elements of a matrix can be coded by this table: in units, they are floats of 2 bytes."""
        if matrix.units is None:
            return True
        base = ("sub", "single") if self.has_base else ("none", "same")
        return (self.width, self.number) == (2, "float") and (self.difference, self.base) == base


def encode_matrix(data: MatrixData, table: Table | None = None, block_bytes: int = MAX_BLOCK_BYTES) -> Parts:
    """Return what the streams get for a matrix, in the order in which a decoder takes it.

    Args:
        data: the matrix.
        table: codes the factors; None if there are none.
        block_bytes: factors are coded in blocks of that many bytes.
    """
    parts: Parts = []
    if data.matrix.scales is not None:
        parts.append((data.matrix.scales, data.row_levels.tobytes() + data.column_levels.tobytes()))
    if data.matrix.gains is not None and data.gains is not None:
        parts.append((data.matrix.gains, _planes(data.gains)))
    if data.matrix.units is not None and data.units is not None:
        parts.append((data.matrix.units, _planes(data.units)))
    factors = data.factors
    if table is None or factors is None:
        return parts
    of_components = factors.shifts.tobytes() + factors.row_levels.tobytes() + factors.column_levels.tobytes()
    parts.append((data.matrix.components, of_components))
    for numbers, of_each in numbers_of_factors(factors, table.width):
        side = _of_components(of_each, len(numbers) // len(of_each))
        for start, stop in _blocks(len(numbers), table, block_bytes):
            parts += encode_block(table, numbers[start:stop].tobytes(), None, side, start)
    return parts


def _planes(singles: npt.NDArray[np.float32]) -> bytes:
    """Return floats of 4 bytes, all lowest bytes first."""
    if not np.isfinite(singles).all():
        raise ValueError("a gain or a unit of a matrix is not finite")
    return singles.astype("<f4").view(np.uint8).reshape(-1, _SINGLE_BYTES).T.tobytes()


def _singles(planes: Buffer) -> npt.NDArray[np.float32]:
    octets = np.frombuffer(bytes(planes), np.uint8)
    singles: npt.NDArray[np.float32] = octets.reshape(_SINGLE_BYTES, -1).T.copy().view("<f4").ravel()
    if not np.isfinite(singles).all():
        raise ValueError("a gain or a unit of a matrix is not finite")
    return singles


def numbers_of_factors(factors: Factors, width: int) -> Iterator[tuple[Unsigned, Octets]]:
    """Yield what is coded of the factors of all rows, then of all columns, each component after component.

    Args:
        factors: of a matrix.
        width: bytes of each number.

    Yields:
        the numbers, and the level of each component.
    """
    rows = factors.rows / (2.0 ** factors.shifts[:, None]).astype(factors.rows.dtype)
    for values, of_each in ((rows, factors.row_levels), (factors.columns, factors.column_levels)):
        yield fold(values.ravel().astype(np.int32), 4).astype(_DTYPES[width]), of_each


def decode_matrix(matrix: Matrix, table: Table | None, take: Take, block_bytes: int = MAX_BLOCK_BYTES) -> MatrixData:
    """Return a matrix with what its rows and columns have.

    Args:
        matrix: what the matrix is.
        table: codes the factors; None if there are none.
        take: as of `decode_block`.
        block_bytes: factors are coded in blocks of that many bytes.

    Raises:
        ValueError: the table does not suit factors, or a factor is out of bounds.
    """
    scales = np.empty(0, np.uint8)
    if matrix.scales is not None:
        scales = np.frombuffer(bytes(take(matrix.scales, matrix.rows + matrix.columns)), np.uint8)
    gains = units = None
    if matrix.gains is not None:
        gains = _singles(take(matrix.gains, _SINGLE_BYTES * matrix.gain_count))
    if matrix.units is not None:
        units = _singles(take(matrix.units, _SINGLE_BYTES * matrix.unit_count))
    factors = None
    if matrix.rank:
        if table is None or (table.number, table.difference) != ("plain", "none") or table.width > 4:
            raise ValueError("the factors of a matrix are plain numbers of at most 4 bytes")
        factors = _decode_factors(matrix, table, take, block_bytes)
    return MatrixData(matrix, scales[: matrix.rows], scales[matrix.rows :], factors, gains, units)


def _decode_factors(matrix: Matrix, table: Table, take: Take, block_bytes: int) -> Factors:
    of_components = np.frombuffer(bytes(take(matrix.components, 3 * matrix.rank)), np.uint8)
    shifts, row_levels, column_levels = np.split(of_components, 3)
    if shifts.max() > MAX_SHIFT:
        raise ValueError("a factor of a matrix is shifted too far")
    rows = _decode_side(matrix.rows, row_levels, table, take, block_bytes)
    columns = _decode_side(matrix.columns, column_levels, table, take, block_bytes)
    return Factors.narrowest(shifts, row_levels, column_levels, rows, columns, matrix.exponent)


def _decode_side(count: int, of_each: Octets, table: Table, take: Take, block_bytes: int) -> npt.NDArray[np.int32]:
    """Return the factors of all rows or all columns, component after component, not shifted yet."""
    values = np.empty((len(of_each), count), np.int32)
    data = _of_components(of_each, count)
    for start, stop in _blocks(values.size, table, block_bytes):
        block = decode_block(table, stop - start, None, take, data, start)
        folded = np.frombuffer(block, _DTYPES[table.width])
        values.ravel()[start:stop] = unfold(folded).view(_SIGNED[table.width])
    return values


def _of_components(levels: Octets, count: int) -> MatrixData:
    """Return factors as elements of a matrix, whose rows are the components and have ``count`` elements each."""
    return MatrixData(Matrix(len(levels), count, scales=0), levels, np.zeros(count, np.uint8))


def _blocks(count: int, table: Table, block_bytes: int) -> Iterator[tuple[int, int]]:
    step = table.per_block(block_bytes)
    for start in range(0, count, step):
        yield start, min(start + step, count)


def encode_block(
    table: Table, target: Buffer, base: Buffer | None = None, data: MatrixData | None = None, start: int = 0
) -> Parts:
    """Return what the streams get for one block, in the order in which a decoder takes it.

    Args:
        table: how the elements are coded.
        target: whole elements, as wide as `Table.made_width`; their low ``table.zeros`` bits are zero.
        base: as many elements; None exactly if the table's difference is ``none``.
        data: the matrix that the elements belong to, if they do.
        start: the place of the first element in it.

    Returns:
        pairs of a stream's number and bytes for it; parts that are empty are left out.

    Raises:
        ValueError: the lengths do not match each other or the matrix.
    """
    elements = _coded(table, target, data, start)
    known = _known(table, base, len(elements), data, start)
    folded = _difference(table, elements, known)
    sizes, order = _classes(table, known, len(elements), data, start)
    by_class = folded if order is None else folded[order]
    parts: Parts = []
    done = 0
    for coding, size in zip(table.classes, sizes, strict=True):
        parts += _encode_class(table, coding, by_class[done : done + size])
        done += size
    return [(stream, content) for stream, content in parts if content]


def decode_block(
    table: Table, count: int, base: Buffer | None, take: Take, data: MatrixData | None = None, start: int = 0
) -> memoryview:
    """Return the elements of one block.

    Args:
        table: how the elements are coded.
        count: how many elements.
        base: as many elements; None exactly if the table's difference is ``none``.
        take: called with a stream's number and a number of bytes above 0; returns exactly that many. It may raise.
        data: the matrix that the elements belong to, if they do.
        start: the place of the first element in it.

    Raises:
        ValueError: the lengths do not match each other or the matrix.
    """
    known = _known(table, base, count, data, start)
    sizes, order = _classes(table, known, count, data, start)
    folded = _decode_classes(table, sizes, take)
    if order is not None:
        by_class, folded = folded, np.empty_like(folded)
        folded[order] = by_class
    elements = _undo_difference(table, folded, known)
    if data is not None and data.matrix.units is not None:
        elements = in_units(data, elements, start)
    return elements.view(np.uint8).data


def numbers_and_levels(
    table: Table, target: Buffer, base: Buffer | None = None, data: MatrixData | None = None, start: int = 0
) -> tuple[Unsigned, Octets]:
    """Return the number that would be written for each element, and its level; the table's classes do not matter.

    The arguments and errors are those of `encode_block`.
    """
    elements = _coded(table, target, data, start)
    known = _known(table, base, len(elements), data, start)
    return _difference(table, elements, known), _levels(table, known, len(elements), data, start)


def _coded(table: Table, target: Buffer, data: MatrixData | None, start: int) -> Unsigned:
    """Return elements as they are coded: in units, as floats of 2 bytes."""
    if data is None or data.matrix.units is None:
        return _elements(target, table.width)
    return of_units(data, _elements(target, _SINGLE_BYTES), start)


# ---- the difference


def _difference(table: Table, target: Unsigned, known: _Known) -> Unsigned:
    """Return the number that is written for each element."""
    base = known.elements
    if base is None:
        return target >> table.zeros if table.number == "plain" else _downwards(table, _rotated(table, target))
    if table.difference == "xor":
        return target ^ base
    difference = _turned(_monotonic(table, target) - _monotonic(table, base), known)
    return fold(difference.view(_SIGNED[table.width]) >> table.zeros, table.width)


def _undo_difference(table: Table, folded: Unsigned, known: _Known) -> Unsigned:
    base = known.elements
    if base is None:
        return folded << table.zeros if table.number == "plain" else _unrotated(table, _downwards(table, folded))
    if table.difference == "xor":
        return folded ^ base
    elements = unfold(folded, known.is_below)
    if table.zeros:
        elements <<= table.zeros
    elements += _monotonic(table, base)
    return _monotonic(table, elements)


def _turned(difference: Unsigned, known: _Known) -> Unsigned:
    """Return differences with those negated whose prediction was rounded down: most have one sign then."""
    if known.is_below is None:
        return difference
    # All bits where it is to be negated: the complement plus one.
    mask = np.negative(known.is_below.astype(difference.dtype))
    turned: Unsigned = (difference ^ mask) - mask
    return turned


def _downwards(table: Table, elements: Unsigned) -> Unsigned:
    """Return how far below the origin elements are: the largest floats become small numbers."""
    origin = (table.origin << 8 * table.width - 8 >> table.zeros) - 1
    below: Unsigned = elements.dtype.type(origin % (1 << 8 * table.width)) - elements
    return below


def _rotated(table: Table, elements: Unsigned) -> Unsigned:
    """Return floats with the sign below the mantissa, so that the exponent is on top."""
    rotated: Unsigned = (elements & ~_sign(table.width)) >> table.zeros << 1 | elements >> (8 * table.width - 1)
    return rotated


def _unrotated(table: Table, elements: Unsigned) -> Unsigned:
    magnitudes: Unsigned = elements >> 1 << table.zeros & ~_sign(table.width)
    magnitudes |= elements << (8 * table.width - 1)
    return magnitudes


def _monotonic(table: Table, elements: Unsigned) -> Unsigned:
    """Return floats' bits as signed integers in the order of the floats: one step is one step to the next float.

    It is its own inverse: of negative numbers, all bits but the sign are turned over.
    """
    ordered = elements
    if table.number != "plain":
        turned = (elements.view(_SIGNED[table.width]) >> (8 * table.width - 1)).view(elements.dtype)
        turned &= ~_sign(table.width)
        turned ^= elements
        ordered = turned
    return ordered >> table.zeros << table.zeros if table.zeros else ordered


def _sign(width: int) -> Any:
    return _DTYPES[width].type(1 << (8 * width - 1))


def fold(difference: Unsigned, width: int) -> Unsigned:
    """Return 0, -1, 1, -2, ... of ``width`` bytes as 0, 1, 2, 3, ..."""
    difference = difference.view(_DTYPES[width])
    signs = difference.view(_SIGNED[width]) >> (8 * width - 1)
    return difference << 1 ^ signs.view(difference.dtype)


def unfold(folded: Unsigned, is_turned: npt.NDArray[np.bool_] | None = None) -> Unsigned:
    """Return what `fold` folded, as unsigned numbers; those that are turned are negated."""
    # All bits of what is negative, or positive and turned: the complement, plus one if it is turned.
    signs = folded & 1
    if is_turned is not None:
        signs ^= is_turned.view(np.uint8)
    np.negative(signs, out=signs)
    difference = folded >> 1
    difference ^= signs
    if is_turned is not None:
        difference += is_turned.view(np.uint8)
    return difference


# ---- classes


def _classes(
    table: Table, known: _Known, count: int, data: MatrixData | None, start: int
) -> tuple[list[int], npt.NDArray[np.intp] | None]:
    """Return how many elements each class has, and their places class by class; None if that is their own order."""
    if len(table.classes) == 1 or count == 0:
        return [count] + [0] * (len(table.classes) - 1), None
    lut, marks = table.lut, known.contexts
    if data is None or data.matrix.scales is None:
        # The context alone decides, so the classes of 256 of them are all that is computed.
        added = 0 if data is None else data.matrix.level
        lut = _levels_of_contexts(table.slope, added).translate(lut)
        if marks is None or lut.count(lut[0]) == LEVELS:
            return [count if number == lut[0] else 0 for number in range(len(table.classes))], None
    else:
        marks = _levels(table, known, count, data, start)
    # Four times as quick as numpy's selection by bytes.
    classes = np.frombuffer(marks.tobytes().translate(lut), np.uint8)
    order = classes.argsort(kind="stable")
    # The end of each class is looked for in what is sorted now: counting takes as long as sorting.
    ends = classes.searchsorted(_CLASS_NUMBERS[: len(table.classes)], "right", sorter=order).tolist()
    sizes = [end - start for start, end in pairwise([0, *ends])]
    return sizes, None if count in sizes else order


def _levels_of_contexts(slope: int, added: int) -> bytes:
    """Return the level of each context."""
    if slope == 0:
        return _ALL_LEVELS[added - _LEAST_LEVEL :][:1] * LEVELS
    return _ALL_LEVELS[added - _LEAST_LEVEL :: slope][:LEVELS]


def _levels(table: Table, known: _Known, count: int, data: MatrixData | None, start: int) -> Octets:
    sums = np.zeros(count, np.int16) if data is None else levels(data, start, count)
    if known.contexts is not None and table.slope:
        sums += known.contexts if table.slope == 1 else known.contexts.astype(np.int16) * table.slope
    # Numbers of the array's own type save numpy from asking for the bounds of it.
    return np.clip(sums, np.int16(0), np.int16(LEVELS - 1), out=sums).astype(np.uint8)


def _contexts(table: Table, base: Unsigned) -> Octets:
    contexts: Octets
    if table.number == "plain":
        contexts = (base >> table.shift).astype(np.uint8)
        return contexts
    exponents = base & ~_sign(table.width)
    exponents >>= table.shift
    if table.offset or 8 * table.width - 1 - table.shift > 8:
        # numpy clips several times as quickly as it takes the minimum with a number.
        least = exponents.dtype.type(table.offset)
        np.clip(exponents, least, least + exponents.dtype.type(LEVELS - 1), out=exponents)
        exponents -= least
    contexts = exponents.astype(np.uint8)
    return contexts


def _encode_class(table: Table, coding: ClassCoding, folded: Unsigned) -> Iterator[tuple[int, bytes]]:
    if coding.mask is not None:
        most = (1 << coding.mask_bits) - 1
        yield coding.mask, packed(np.minimum(folded, most).astype(np.uint8), coding.mask_bits)
        folded = folded[folded >= most] - folded.dtype.type(most)
    high = folded >> coding.low_bits
    yield coding.symbols, np.minimum(high, ESCAPE).astype(np.uint8).tobytes()
    yield table.escapes, high[high >= ESCAPE].tobytes()
    for place, plane in enumerate(coding.low_planes):
        yield plane, (folded >> 8 * place).astype(np.uint8).tobytes()
    if coding.bits is not None:
        width = coding.low_bits % 8
        yield coding.bits, packed((folded >> 8 * len(coding.low_planes)).astype(np.uint8), width)


def _decode_classes(table: Table, sizes: Sequence[int], take: Take) -> Unsigned:
    """Return the numbers of a block, class after class.

    The low bytes of all classes come together in *lanes*, one for each place, so that most steps are done once for a
    block and not for each of its classes, which are small.
    """
    count, low_bits = sum(sizes), [coding.low_bits for coding, size in zip(table.classes, sizes, strict=True) if size]
    lanes = [np.zeros(count, np.uint8) for _ in range(-(-max(low_bits, default=0) // 8))]
    folded = np.empty(count, _DTYPES[table.width])
    bits, masks, end = Unpacker(), _Masks(), 0
    for coding, size in zip(table.classes, sizes, strict=True):
        start, end, more = end, end + size, size
        if size and coding.mask is not None:
            more = masks.read(coding.mask, coding.mask_bits, slice(start, end), take)
        if more:
            part = slice(start, start + more)
            _decode_symbols(table, coding, folded[part], take)
            for lane, stream in zip(lanes, coding.low_planes, strict=False):
                lane[part] = _octets(take, stream, more)
            if coding.bits is not None:
                width = coding.low_bits % 8
                content = bytes(take(coding.bits, -(-more * width // 8)))
                bits.add(content, width, lanes[len(coding.low_planes)][part])
    bits.finish()
    for place, lane in enumerate(lanes):
        folded |= lane.astype(folded.dtype) << 8 * place if place else lane
    masks.apply(folded)
    return folded


def _decode_symbols(table: Table, coding: ClassCoding, out: Unsigned, take: Take) -> None:
    """Take the high parts of a class, and put them where they belong."""
    symbols = bytes(take(coding.symbols, len(out)))
    values = np.frombuffer(symbols, np.uint8)
    out[:] = values
    if escaped := symbols.count(ESCAPE):
        out[values == ESCAPE] = _octets(take, table.escapes, escaped * table.width).view(out.dtype)
    if coding.low_bits:
        out <<= coding.low_bits


class _Masks:
    """The masks of a block's classes: which elements have more than a mask tells, and what the others are."""

    def __init__(self) -> None:
        self._waiting: list[tuple[slice, int, Octets, npt.NDArray[np.intp]]] = []

    def read(self, stream: int, mask_bits: int, part: slice, take: Take) -> int:
        """Take the mask of a class, which has a part of the block, and return how many of its elements have more."""
        count, most = part.stop - part.start, (1 << mask_bits) - 1
        small = unpacked(bytes(take(stream, -(-count * mask_bits // 8))), mask_bits, count)
        places = (small == most).nonzero()[0]
        self._waiting.append((part, most, small, places))
        return len(places)

    def apply(self, folded: Unsigned) -> None:
        """Move the numbers of those that have more to their places, and put what masks tell in between."""
        for part, most, small, places in self._waiting:
            out = folded[part]
            values = out[: len(places)] + out.dtype.type(most)
            out[:] = small
            out[places] = values


def _octets(take: Take, stream: int, count: int) -> Octets:
    return np.frombuffer(take(stream, count), np.uint8) if count else np.empty(0, np.uint8)


# ---- what comes in


def _elements(content: Buffer, width: int) -> Unsigned:
    octets = np.frombuffer(content, np.uint8)
    if len(octets) % width:
        raise ValueError("a block consists of whole elements")
    return octets.view(_DTYPES[width])


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of the elements of a block before they are decoded.

    Attributes:
        elements: of the base, or predicted from them; None without a base.
        contexts: of each element; None if all are 0.
        is_below: of whole numbers that are predicted: whether the prediction was rounded down.
    """

    elements: Unsigned | None
    contexts: Octets | None
    is_below: npt.NDArray[np.bool_] | None = None


def _known(table: Table, base: Buffer | None, count: int, data: MatrixData | None, start: int) -> _Known:
    if (base is None) == table.has_base:
        raise ValueError("a difference needs a base, and nothing else has one")
    if base is None:
        return _Known(None, None)
    elements = _elements(base, table.base_width)
    if len(elements) != count:
        raise ValueError("the base has another number of elements")
    if data is not None and data.matrix.units is not None:
        elements = predicted_halves(data, elements, start)
        return _Known(elements, _contexts(table, elements))
    if table.base != "same":
        elements = converted(elements, table.base == "brain", table.width, table.number == "brain")
    if data is None or not data.matrix.predicts:
        return _Known(elements, _contexts(table, elements))
    if table.number == "plain":
        return _known_whole(table, elements, data, start)
    elements = predicted(data, elements, start, brain=table.number == "brain")
    return _Known(elements, _contexts(table, elements))


def _known_whole(table: Table, elements: Unsigned, data: MatrixData, start: int) -> _Known:
    """Return whole numbers with their prediction, whose fraction is their context."""
    if table.difference != "sub" or table.width > MAX_WHOLE_BYTES:
        raise ValueError("only differences of whole numbers of one or two bytes are predicted")
    known = np.empty_like(elements)
    contexts = np.empty(len(elements), np.int8)
    is_below = np.empty(len(elements), np.bool_)
    bound = most_predicted(data, 2.0 ** (8 * table.width - 1))
    for places, values in predicted_values(data, elements.view(_SIGNED[table.width]), start):
        if bound >= _MAX_QUICK and np.abs(values).max() >= MAX_WHOLE:
            raise ValueError("a prediction is no whole number by far")
        rounded = np.rint(values)
        values -= rounded
        # The prediction wraps as all elements do; numpy is quicker with whole numbers of 4 bytes.
        known[places] = rounded.astype(np.int32 if bound < _MAX_QUICK else np.int64)
        np.greater(values, 0, out=is_below[places])
        values *= 2 * FRACTIONS
        contexts[places] = values
    np.abs(contexts, out=contexts)
    # A half is 16 parts of 32, which is one too many.
    contexts -= contexts >> 4
    return _Known(known, contexts.view(np.uint8), is_below)
