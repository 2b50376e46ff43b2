"""How tables and matrices are defined in a patch (`docs/patch-format.md`, sections 7 and 8): lists of numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Final, Literal

from artifacts.errors import PatchInvalid
from artifacts.patch.axes import MAX_AXES, Axes
from artifacts.patch.elements import LEVELS, MASKS, MAX_CLASSES, BaseKind, ClassCoding, Matrix, Number, Table
from artifacts.patch.format import signed, unsigned, varint

__all__ = ["read_matrix", "read_table", "write_matrix", "write_table"]

_NUMBERS: Final[tuple[Number, ...]] = ("plain", "float", "brain")
_DIFFERENCES: Final[tuple[Literal["none", "sub", "xor"], ...]] = ("none", "sub", "xor")
_SLOPES: Final[tuple[Literal[1, 0, -1, -2], ...]] = (1, 0, -1, -2)
_BASES: Final[tuple[BaseKind, ...]] = ("same", "half", "brain", "single", "double")
# The bits of a class's mask are two bits above its low bits: none, and each of `MASKS`.
_MASK_SHIFT = 7


def write_table(table: Table) -> bytes:
    """Return the definition of a table as it stands behind its operation."""
    kind = table.width.bit_length() - 1 | _NUMBERS.index(table.number) << 2 | _DIFFERENCES.index(table.difference) << 4
    kind |= _SLOPES.index(table.slope) << 6 | _BASES.index(table.base) << 8
    numbers = [kind, table.shift, table.offset, table.zeros, table.origin, table.escapes, len(table.classes)]
    for coding in table.classes:
        mask = 0 if coding.mask is None else 1 + MASKS.index(coding.mask_bits)
        numbers += [coding.low_bits | mask << _MASK_SHIFT, coding.symbols]
        numbers += [stream for stream in (coding.mask, *coding.low_planes, coding.bits) if stream is not None]
    for number, run in groupby(table.lut):
        numbers += [number, sum(1 for _ in run)]
    return b"".join(map(varint, numbers))


def read_table(number: Callable[[], int], streams: int) -> Table:
    """Read the definition of a table, and check it.

    Args:
        number: reads a varint.
        streams: how many streams the patch has.

    Raises:
        PatchInvalid: it cannot be right.
    """

    def stream() -> int:
        return _stream(number(), streams)

    kind = number()
    if kind >> 11 or kind >> 2 & 3 >= len(_NUMBERS) or kind >> 4 & 3 >= len(_DIFFERENCES) or kind >> 8 >= len(_BASES):
        raise PatchInvalid("a table has a kind of number that is unknown")
    shift, offset, zeros, origin, escapes, class_count = number(), number(), number(), number(), stream(), number()
    if class_count > MAX_CLASSES:
        raise PatchInvalid("a table has too many classes")
    classes = tuple(_read_class(number, stream) for _ in range(class_count))
    try:
        return Table(
            width=1 << (kind & 3),
            number=_NUMBERS[kind >> 2 & 3],
            difference=_DIFFERENCES[kind >> 4 & 3],
            shift=shift,
            escapes=escapes,
            lut=b"".join(_read_runs(number)),
            classes=classes,
            slope=_SLOPES[kind >> 6 & 3],
            offset=offset,
            zeros=zeros,
            origin=origin,
            base=_BASES[kind >> 8],
        )
    except ValueError as problem:
        raise PatchInvalid(f"a table is wrong: {problem}") from problem


def _stream(found: int, streams: int) -> int:
    if found >= streams:
        raise PatchInvalid("a table or a matrix names a stream that is not there")
    return found


def _read_class(number: Callable[[], int], stream: Callable[[], int]) -> ClassCoding:
    low_bits = number()
    mask_kind, low_bits = low_bits >> _MASK_SHIFT, low_bits & (1 << _MASK_SHIFT) - 1
    # An element has at most 64 bits: checked here, because the planes are read before the table is made.
    if low_bits > 63 or mask_kind > len(MASKS):
        raise PatchInvalid("a class has more low bits than an element has, or no mask that is known")
    symbols = stream()
    mask = stream() if mask_kind else None
    planes = tuple(stream() for _ in range(low_bits // 8))
    bits = stream() if low_bits % 8 else None
    return ClassCoding(symbols, low_bits, planes, bits, mask, MASKS[max(0, mask_kind - 1)])


def _read_runs(number: Callable[[], int]) -> Iterator[bytes]:
    left = LEVELS
    while left:
        value, run = number(), number()
        if value >= MAX_CLASSES or not 1 <= run <= left:
            raise PatchInvalid("the map of levels is not whole, or names a class that is not there")
        yield bytes([value]) * run
        left -= run


# What a matrix has, in bits of one number.
_HAS_SCALES, _HAS_GAINS, _BY_COLUMNS, _HAS_UNITS, _HAS_AXES = 1, 2, 4, 8, 16


def write_matrix(matrix: Matrix) -> bytes:
    """Return the definition of a matrix as it stands behind its operation."""
    flags = _HAS_SCALES * (matrix.scales is not None) | _HAS_GAINS * (matrix.gains is not None)
    flags |= _BY_COLUMNS * matrix.by_columns | _HAS_UNITS * (matrix.units is not None)
    flags |= _HAS_AXES * (matrix.axes is not None)
    numbers = [matrix.rows, matrix.columns, matrix.level, flags, matrix.rank]
    numbers += [stream for stream in (matrix.scales, matrix.gains, matrix.units) if stream is not None]
    if matrix.axes is not None:
        numbers += [len(matrix.axes.sizes), *matrix.axes.sizes, *matrix.axes.order]
    if matrix.rank:
        numbers += [matrix.components, matrix.factors, unsigned(matrix.exponent)]
    return b"".join(map(varint, numbers))


def read_matrix(number: Callable[[], int], streams: int) -> Matrix:
    """Read the definition of a matrix, and check it. The arguments and the error are those of `read_table`."""
    rows, columns, level, flags, rank = number(), number(), number(), number(), number()
    if flags > _HAS_SCALES | _HAS_GAINS | _BY_COLUMNS | _HAS_UNITS | _HAS_AXES:
        raise PatchInvalid("a matrix is of a kind that is unknown")
    scales = _stream(number(), streams) if flags & _HAS_SCALES else None
    gains = _stream(number(), streams) if flags & _HAS_GAINS else None
    units = _stream(number(), streams) if flags & _HAS_UNITS else None
    dimensions = number() if flags & _HAS_AXES else 0
    if dimensions > MAX_AXES:
        raise PatchInvalid("a matrix has too many dimensions")
    sizes, order = (tuple(number() for _ in range(dimensions)) for _ in range(2))
    components = _stream(number(), streams) if rank else 0
    factors, exponent = (number(), signed(number())) if rank else (0, 0)
    by_columns = bool(flags & _BY_COLUMNS)
    try:
        axes = Axes(sizes, order) if flags & _HAS_AXES else None
        return Matrix(rows, columns, level, scales, rank, components, factors, exponent, gains, by_columns, units, axes)
    except ValueError as problem:
        raise PatchInvalid(f"a matrix is wrong: {problem}") from problem
