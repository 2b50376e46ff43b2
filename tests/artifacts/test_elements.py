"""Elements of tensors: every element comes back, whatever the table and whatever its bits."""

from __future__ import annotations

import tracemalloc
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts.patch.elements import (
    MASKS,
    MAX_BLOCK_BYTES,
    BaseKind,
    ClassCoding,
    Number,
    Table,
    decode_block,
    decode_matrix,
    encode_block,
    encode_matrix,
)
from artifacts.patch.matrix import (
    MAX_FACTOR,
    MAX_RANK,
    MAX_SHIFT,
    Factors,
    Matrix,
    MatrixData,
    in_units,
    levels,
    of_units,
    predicted,
)

# Special floats of each width: zero, its negative, the least denormals, infinities, NaNs with payloads, all bits.
SPECIAL_SHARES = [0.0, -0.0, 5e-324, 6e-8, 1.4e-45, float("inf"), float("-inf"), float("nan"), 1.0, -1.0]
FLOATS = {2: np.float16, 4: np.float32, 8: np.float64}
ESCAPES = 99
DIFFERENCES: list[Literal["sub", "xor", "none"]] = ["sub", "xor", "none"]
SLOPES: list[Literal[1, 0, -1, -2]] = [1, 0, -1, -2]


def _coding(number: int, low_bits: int, sparse: bool, mask_bits: Literal[1, 2, 4] = 1) -> ClassCoding:
    return ClassCoding(
        symbols=100 + number,
        low_bits=low_bits,
        low_planes=tuple(200 + place for place in range(low_bits // 8)),
        bits=210 if low_bits % 8 else None,
        mask=220 + number if sparse else None,
        mask_bits=mask_bits,
    )


def _table(
    width: int,
    *,
    number: Number | None = None,
    difference: Literal["sub", "xor", "none"] = "sub",
    low_bits: int = 0,
    sparse: bool = False,
) -> Table:
    number = number or ("float" if width > 1 else "plain")
    return Table(width, number, difference, 0, ESCAPES, bytes(256), (_coding(0, low_bits, sparse),))


@st.composite
def tables(draw: st.DrawFn) -> Table:
    width = draw(st.sampled_from([1, 2, 4, 8]))
    count = draw(st.integers(1, 16))
    bits = st.integers(0, 8 * width - 1)
    masks = st.sampled_from(MASKS)
    codings = tuple(_coding(number, draw(bits), draw(st.booleans()), draw(masks)) for number in range(count))
    lut = draw(st.binary(min_size=256, max_size=256))
    numbers: dict[int, list[Number]] = {1: ["plain"], 2: ["plain", "float", "brain"]}
    number = draw(st.sampled_from(numbers.get(width, ["plain", "float"])))
    difference = draw(st.sampled_from(DIFFERENCES))
    kinds: list[BaseKind] = ["same", "half", "brain", "single", "double"]
    return Table(
        width=width,
        number=number,
        difference=difference,
        shift=draw(bits),
        escapes=ESCAPES,
        lut=bytes(octet % count for octet in lut),
        classes=codings,
        slope=draw(st.sampled_from(SLOPES)),
        origin=0 if number == "plain" or difference != "none" else draw(st.integers(0, 255)),
        base="same" if number == "plain" or difference == "none" else draw(st.sampled_from(kinds)),
    )


def _queue(parts: list[tuple[int, bytes]]) -> Callable[[int, int], bytes]:
    """Return a `take` that insists on the order in which the encoder put the parts."""
    waiting = deque(parts)

    def take(stream: int, count: int) -> bytes:
        expected, content = waiting.popleft()
        assert (stream, count) == (expected, len(content))
        return content

    return take


def _round_trip(
    table: Table, target: bytes, base: bytes, data: MatrixData | None = None, start: int = 0
) -> list[tuple[int, bytes]]:
    known = None if table.difference == "none" else base
    parts = encode_block(table, target, known, data, start)
    assert decode_block(table, len(target) // table.width, known, _queue(parts), data, start) == target
    return parts


@given(tables(), st.data())
def test_every_table_brings_every_element_back(table: Table, data: st.DataObject) -> None:
    target = data.draw(st.binary(max_size=400))
    target = target[: len(target) // table.width * table.width]
    size = len(target) // table.width * table.base_width
    base = data.draw(st.binary(min_size=size, max_size=size))
    _round_trip(table, target, target if table.base == "same" and data.draw(st.booleans()) else base)


@given(tables(), st.data())
def test_every_matrix_brings_every_element_back(table: Table, data: st.DataObject) -> None:
    rank = data.draw(st.sampled_from([0, 0, 1, 3])) if _predictable(table) else 0
    matrix = data.draw(matrices(rank, whole=table.number == "plain"))
    elements = matrix.matrix.rows * matrix.matrix.columns
    start = data.draw(st.integers(0, elements))
    count = data.draw(st.integers(0, elements - start))
    sizes = count * table.width, count * table.base_width
    target, base = (data.draw(st.binary(min_size=size, max_size=size)) for size in sizes)
    _round_trip(table, target, base, matrix, start)


@given(st.booleans(), st.booleans(), st.sampled_from([0, 2]), st.data())
def test_elements_in_units_come_back(with_base: bool, has_gains: bool, rank: int, data: st.DataObject) -> None:
    rank = rank if with_base else 0
    found = data.draw(matrices(rank))
    matrix = replace(found.matrix, units=303, gains=302 if with_base and has_gains else None)
    unit = st.floats(min_value=2.0**-20, max_value=2.0**20, width=32)
    single = st.floats(min_value=-(2.0**40), max_value=2.0**40, width=32)
    units, gains = (
        np.array(data.draw(st.lists(one, min_size=size, max_size=size)), "<f4")
        for one, size in ((unit, matrix.unit_count), (single, matrix.gain_count))
    )
    whole = replace(found, matrix=matrix, gains=gains if len(gains) else None, units=units)
    elements = matrix.rows * matrix.columns
    start = data.draw(st.integers(0, elements))
    count = data.draw(st.integers(0, elements - start))
    half = st.integers(0, 0xFFFF).filter(lambda bits: bits & 0x7C00 != 0x7C00)
    halves = np.array(data.draw(st.lists(half, min_size=count, max_size=count)), "<u2")
    table = _table(2, difference="sub" if with_base else "none", low_bits=3, sparse=True)
    table = replace(table, base="single" if with_base else "same")
    assert table.suits(matrix)
    target = in_units(whole, halves, start).tobytes()
    base = data.draw(st.binary(min_size=4 * count, max_size=4 * count)) if with_base else None
    parts = encode_block(table, target, base, whole, start)
    assert decode_block(table, count, base, _queue(parts), whole, start) == target


def test_what_is_not_in_its_units_is_no_half() -> None:
    matrix = Matrix(1, 3, units=1)
    data = MatrixData(matrix, _octets(b""), _octets(b""), units=np.array([0.1], np.float32))
    target = np.array([1.0, 2.0, 3.1], "<f4")
    with pytest.raises(ValueError, match="not in their units"):
        of_units(data, target.view("<u4"), 0)


def _predictable(table: Table) -> bool:
    if table.number == "plain":
        return table.difference == "sub" and table.width <= 2
    return table.has_base


@st.composite
def matrices(draw: st.DrawFn, rank: int, *, whole: bool = False) -> MatrixData:
    rows, columns = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    scales = draw(st.sampled_from([None, 300]))
    gains = draw(st.sampled_from([None, 302])) if rank else None
    by_columns, exponent = draw(st.booleans()), draw(st.integers(-40, 8))
    matrix = Matrix(rows, columns, draw(st.integers(0, 511)), scales, rank, 301, 5, exponent, gains, by_columns)
    sizes = (rows, columns) if scales else (0, 0)
    of_rows, of_columns = (_octets(draw(st.binary(min_size=size, max_size=size))) for size in sizes)
    most = float(2**30) if whole else None
    gain = st.floats(min_value=most and -most, max_value=most, width=32, allow_nan=False, allow_infinity=False)
    values = draw(st.lists(gain, min_size=matrix.gain_count, max_size=matrix.gain_count))
    found = None if gains is None else np.array(values, "<f4")
    return MatrixData(matrix, of_rows, of_columns, draw(factors(matrix)) if rank else None, found)


def _octets(content: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(content, np.uint8)


@st.composite
def factors(draw: st.DrawFn, matrix: Matrix) -> Factors:
    rank = matrix.rank
    shifts = draw(st.lists(st.integers(0, MAX_SHIFT), min_size=rank, max_size=rank))
    levels = [_octets(draw(st.binary(min_size=rank, max_size=rank))) for _ in range(2)]
    sides = []
    for count, of_each in ((matrix.rows, shifts), (matrix.columns, [0] * rank)):
        most = [(MAX_FACTOR - 1) >> shift for shift in of_each]
        rows = [draw(st.lists(st.integers(-one, one), min_size=count, max_size=count)) for one in most]
        sides.append(np.array(rows, np.float64) * 2.0 ** np.array(of_each)[:, None])
    return Factors(np.array(shifts, np.uint8), levels[0], levels[1], sides[0], sides[1])


def _factors(rows: npt.ArrayLike, columns: npt.ArrayLike) -> Factors:
    """Return factors by component that are not shifted."""
    sides = np.array(rows, np.float64), np.array(columns, np.float64)
    empty = np.zeros(len(sides[0]), np.uint8)
    return Factors(empty, empty, empty, *sides)


@given(matrices(2))
def test_a_matrix_comes_back(data: MatrixData) -> None:
    codings = (_coding(0, 9, False), _coding(1, 3, False))
    table = Table(4, "plain", "none", 0, ESCAPES, bytes(level & 1 for level in range(256)), codings, slope=0)
    parts = encode_matrix(data, table, 16)
    back = decode_matrix(data.matrix, table, _queue(parts), 16)
    assert back.matrix == data.matrix
    assert np.array_equal(back.row_levels, data.row_levels)
    assert np.array_equal(back.column_levels, data.column_levels)
    assert (back.gains is None) == (data.gains is None)
    assert (back.units is None) == (data.units is None)
    assert back.units is None or np.array_equal(back.units, data.units)  # type: ignore[arg-type]
    assert back.gains is None or np.array_equal(back.gains, data.gains)  # type: ignore[arg-type]
    assert back.factors is not None
    assert data.factors is not None
    for name in ("shifts", "row_levels", "column_levels", "rows", "columns"):
        assert np.array_equal(getattr(back.factors, name), getattr(data.factors, name))


@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("difference", ["sub", "xor", "none"])
@pytest.mark.parametrize("sparse", [False, True])
def test_every_number_of_low_bits_is_exact(width: int, difference: Literal["sub", "xor", "none"], sparse: bool) -> None:
    generator = np.random.default_rng(width)
    target, base = generator.bytes(640), generator.bytes(640)
    for low_bits in range(8 * width):
        _round_trip(_table(width, difference=difference, low_bits=low_bits, sparse=sparse), target, base)


@pytest.mark.parametrize("width", FLOATS)
@pytest.mark.parametrize("difference", ["sub", "xor", "none"])
def test_special_floats_are_exact(width: int, difference: Literal["sub", "xor", "none"]) -> None:
    with np.errstate(over="ignore"):
        special = np.array(SPECIAL_SHARES).astype(FLOATS[width]).tobytes() + b"\xff" * width + b"\x7f" * width
    numbers = np.frombuffer(special, FLOATS[width])
    target = np.repeat(numbers, len(numbers)).tobytes()
    base = np.tile(numbers, len(numbers)).tobytes()
    _round_trip(_table(width, difference=difference), target, base)


@given(st.floats(width=32), st.integers(-3, 3))
def test_the_next_floats_are_small_numbers_across_zero_too(value: float, steps: int) -> None:
    base = np.array([value], np.float32)
    if not np.isfinite(value):
        return
    target = base.copy()
    for _ in range(abs(steps)):
        target = np.nextafter(target, np.float32(np.copysign(np.inf, steps)))
    parts = dict(_round_trip(_table(4), target.tobytes(), base.tobytes()))
    assert parts[100][0] <= 2 * abs(steps) + 2  # one more than the steps, where zero and its negative lie between


@settings(max_examples=30)
@given(st.binary(min_size=8, max_size=400))
def test_unchanged_elements_cost_a_bit_each_in_a_sparse_class(content: bytes) -> None:
    content = content[: len(content) // 4 * 4]
    count = len(content) // 4
    assert _round_trip(_table(4, sparse=True, low_bits=11), content, content) == [(220, bytes(-(-count // 8)))]


def test_what_is_too_large_for_a_symbol_escapes() -> None:
    base = np.zeros(3, "<u2")
    target = np.array([127, 128, 40000], "<u2")
    parts = _round_trip(_table(2, number="plain"), target.tobytes(), base.tobytes())
    assert parts == [(100, bytes([254, 255, 255])), (ESCAPES, np.array([256, 51071], "<u2").tobytes())]


def test_a_mask_of_several_bits_tells_small_numbers_and_that_there_is_more() -> None:
    target = np.array([0, 1, 2, 3, 7, 2], "u1")
    table = Table(1, "plain", "none", 0, ESCAPES, bytes(256), (_coding(0, 0, True, 2),))
    parts = _round_trip(table, target.tobytes(), b"")
    assert parts == [(220, bytes([0b00_01_10_11, 0b11_10_00_00])), (100, bytes([0, 4]))]


def test_low_bits_are_packed_with_the_highest_first() -> None:
    target = np.array([0b1_10_00000001, 0b0_01_11111111], "<u2")
    table = _table(2, number="plain", difference="none", low_bits=10)
    assert _round_trip(table, target.tobytes(), b"") == [(100, b"\x01\x00"), (200, b"\x01\xff"), (210, b"\x90")]


def test_a_float_without_a_base_has_its_exponent_in_the_symbol() -> None:
    target = np.array([1.0, -1.0, 1.5], "<f4")
    table = Table(4, "float", "none", 0, ESCAPES, bytes(256), (_coding(0, 24, False),), origin=130)
    parts = dict(_round_trip(table, target.tobytes(), b""))
    assert parts[100] == bytes([2, 2, 2])


def test_the_context_is_what_the_base_says() -> None:
    lut = bytes(255 - context >= 128 for context in range(256))
    table = Table(4, "float", "sub", 23, ESCAPES, lut, (_coding(0, 0, False), _coding(1, 8, False)))
    base = np.array([1e30, 1e-30, 1e30], "<f4")
    parts = _round_trip(table, base.tobytes(), base.tobytes())
    assert parts == [(100, bytes(2)), (101, bytes(1)), (200, bytes(1))]


def test_rows_and_columns_add_to_the_level_of_an_element() -> None:
    data = MatrixData(Matrix(2, 3, 0, 300), np.array([10, 255], np.uint8), np.array([0, 1, 255], np.uint8))
    assert levels(data, 0, 6).tolist() == [10, 11, 265, 255, 256, 510]
    assert levels(data, 2, 2).tolist() == [265, 255]
    lut = bytes(level >= 11 for level in range(256))
    table = Table(4, "float", "sub", 23, ESCAPES, lut, (_coding(0, 0, False), _coding(1, 8, False)), slope=-2)
    base = np.array([0.0, 0.0, 2.0], "<f4").tobytes()  # the exponents are 0, 0 and 128
    assert _round_trip(table, base, base, data) == [(100, bytes(2)), (101, bytes(1)), (200, bytes(1))]


@pytest.mark.parametrize(("dtype", "shift", "offset"), [("<f2", 10, 0), ("<f4", 23, 112), ("<f8", 52, 1008)])
def test_the_exponent_of_each_width_can_be_the_context(dtype: str, shift: int, offset: int) -> None:
    base = np.array([1.0, -1.0, 2.0, 1e-5, 1e4], dtype)
    lut = bytes(level - 13 if 13 <= level < 29 else 0 for level in range(256))
    classes = tuple(_coding(number, 0, False) for number in range(16))
    width = int(dtype[-1])
    table = Table(width, "float", "sub", shift, ESCAPES, lut, classes, offset=offset)
    parts = _round_trip(table, base.tobytes(), base.tobytes())
    # In the order of the classes: 1e-5 is below them all, 1.0 has 15 or 1023 - 1008, and 1e4 has 13 more than that.
    assert [(stream - 100, len(content)) for stream, content in parts] == [(0, 1), (2, 2), (3, 1), (15, 1)]


def test_the_level_of_a_matrix_counts_without_scales_too() -> None:
    data = MatrixData(Matrix(2, 3, 260), np.zeros(2, np.uint8), np.zeros(3, np.uint8))
    assert levels(data, 1, 4).tolist() == [260] * 4


def _low_rank(dtype: str) -> tuple[MatrixData, bytes]:
    """Return an update of rank 2, and the zeros that it predicts the sums of products from."""
    generator = np.random.default_rng(5)
    sides = [generator.integers(-900, 900, (2, size)) for size in (30, 40)]
    matrix = Matrix(30, 40, rank=2, exponent=-20)
    return MatrixData(matrix, _octets(b""), _octets(b""), _factors(*sides)), bytes(1200 * int(dtype[-1]))


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8"])
def test_an_update_of_low_rank_is_predicted_exactly(dtype: str) -> None:
    data, zeros = _low_rank(dtype)
    assert data.factors is not None
    target = (data.factors.rows.T @ data.factors.columns * 2.0**-20).astype(dtype)
    parts = encode_block(_table(int(dtype[-1]), sparse=True), target.tobytes(), zeros, data)
    assert parts == [(220, bytes(150))]


@pytest.mark.parametrize(("dtype", "brain"), [("<f2", False), ("<f2", True), ("<f4", False), ("<f8", False)])
@pytest.mark.parametrize("with_gains", [False, True])
@pytest.mark.parametrize("exponent", [-126, -40, -12, 40])
def test_factors_of_4_bytes_predict_what_those_of_8_do(
    dtype: str, brain: bool, with_gains: bool, exponent: int
) -> None:
    generator = np.random.default_rng(abs(exponent))
    # All bits occur in the base: those of floats that are not finite, and of those that have fewer bits than others.
    base = np.frombuffer(generator.bytes(1200 * int(dtype[-1])), dtype.replace("f", "u"))
    shifts = np.array([0, 5, 9], np.uint8)
    rows, columns = (generator.integers(-60, 60, (3, size), np.int32) for size in (30, 40))
    narrow = Factors.narrowest(shifts, shifts, shifts, rows, columns, exponent)
    wide = replace(narrow, rows=narrow.rows.astype(np.float64), columns=narrow.columns.astype(np.float64))
    assert narrow.are_narrow
    assert not wide.are_narrow
    gains = generator.normal(size=30).astype("<f4") if with_gains else None
    matrix = Matrix(30, 40, rank=3, exponent=exponent, gains=7 if with_gains else None)
    one, other = (
        predicted(MatrixData(matrix, _octets(b""), _octets(b""), factors, gains), base, 0, brain=brain)
        for factors in (narrow, wide)
    )
    assert np.array_equal(one, other)


def test_factors_whose_sums_need_8_bytes_have_them() -> None:
    one = np.zeros(1, np.uint8)
    for row, exponent, is_narrow in [(4095, 0, True), (4097, 0, False), (1, -126, True), (1, -127, False)]:
        rows, columns = np.full((1, 2), row, np.int32), np.full((1, 2), -4096, np.int32)
        assert Factors.narrowest(one, one, one, rows, columns, exponent).are_narrow == is_narrow


@pytest.mark.parametrize(("base", "gain"), [(1 + 2**-10, 1 + 2**-12), (2.0**-14, 2.0**-140), (60000.0, 3e38)])
def test_a_product_with_a_gain_is_rounded_as_one_of_doubles(base: float, gain: float) -> None:
    data = MatrixData(Matrix(1, 1, gains=7), _octets(b""), _octets(b""), None, np.array([gain], "<f4"))
    with np.errstate(over="ignore"):
        expected = (np.array([base]) * np.float64(np.float32(gain))).astype("<f4")
    assert predicted(data, np.array([base], "<f4").view("<u4"), 0).view("<f4") == expected


def test_a_prediction_in_bfloat16_is_the_nearest_one_with_ties_to_even() -> None:
    # In units of 2^-8: half of the last place of 1, whose neighbours are 1 + 2^-7 and 1 - 2^-8.
    for factor, bits in [(1, 0x3F80), (3, 0x3F82), (-1, 0x3F7F), (2, 0x3F81)]:
        factors = _factors([[factor]], [[1]])
        data = MatrixData(Matrix(1, 1, rank=1, exponent=-8), _octets(b""), _octets(b""), factors)
        assert predicted(data, np.array([0x3F80], "<u2"), 0, brain=True).tolist() == [bits]


@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8"])
def test_gains_multiply_rows_or_columns(dtype: str, by_columns: bool) -> None:
    base = np.random.default_rng(3).normal(size=(4, 6)).astype(dtype)
    gains = np.array([0.5, 1.5, -1.0, 3.1415927, 1e-3, 1.0][: 6 if by_columns else 4], "<f4")
    wide = gains.astype(np.float64) if by_columns else gains.astype(np.float64)[:, None]
    target = (base.astype(np.float64) * wide).astype("<f4" if dtype != "<f8" else "<f8").astype(dtype)
    data = MatrixData(Matrix(4, 6, gains=7, by_columns=by_columns), _octets(b""), _octets(b""), None, gains)
    for start, count in [(0, 24), (5, 8), (23, 1)]:
        part = slice(start, start + count)
        found = predicted(data, base.ravel()[part].view(f"<u{base.itemsize}"), start)
        assert np.array_equal(found.view(dtype), target.ravel()[part])


@pytest.mark.parametrize(("dtype", "brain"), [("<f2", False), ("<f2", True), ("<f4", False), ("<f8", False)])
def test_what_is_not_finite_is_not_predicted(dtype: str, brain: bool) -> None:
    data, zeros = _low_rank(dtype)
    base = np.frombuffer(zeros, dtype.replace("f", "u")).copy()
    base[:] = np.iinfo(base.dtype).max  # all bits: a NaN
    assert np.array_equal(predicted(data, base, 0, brain=brain), base)


def test_a_prediction_in_2_bytes_is_the_nearest_float_with_ties_to_even() -> None:
    # Every float of 2 bytes that is finite, and what lies around the middle between it and the next one.
    least = np.arange(0x7C00, dtype="<u2").view("<f2").astype("<f4")
    following = np.append(least[1:], np.float32(65536.0))
    middle = (least + following) / 2
    ones = np.full(len(least), 0x3C00, "<u2")
    matrix = Matrix(1, len(least), gains=7, by_columns=True)
    for values in (least, middle, np.nextafter(middle, least), np.nextafter(middle, following)):
        for gains in (values, -values):
            data = MatrixData(matrix, _octets(b""), _octets(b""), None, gains)
            with np.errstate(over="ignore"):
                assert np.array_equal(predicted(data, ones, 0), gains.astype("<f2").view("<u2"))


def test_a_prediction_may_overflow() -> None:
    data = MatrixData(Matrix(1, 1, rank=1, exponent=20), _octets(b""), _octets(b""), _factors([[1]], [[1]]))
    assert predicted(data, np.array([60000], "<f2").view("<u2"), 0).view("<f2").tolist() == [float("inf")]


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_bits_that_are_always_zero_cost_nothing(width: int) -> None:
    generator = np.random.default_rng(width)
    for zeros in (1, 8 * width // 2, 8 * width - 1):
        high = np.frombuffer(generator.bytes(64 * width), f"<u{width}") >> zeros << zeros
        number: Number = "float" if width > 1 else "plain"
        table = Table(width, number, "sub", 0, ESCAPES, bytes(256), (_coding(0, 0, False),), zeros=zeros)
        parts = dict(_round_trip(table, high.tobytes(), generator.bytes(64 * width)))
        escaped = np.frombuffer(parts.get(ESCAPES, b""), high.dtype)
        assert not (escaped >> (8 * width - zeros - 1) >> 1).any()


@pytest.mark.parametrize(("width", "number"), [(1, "plain"), (2, "float"), (2, "brain"), (4, "float"), (8, "float")])
def test_bits_that_are_always_zero_cost_nothing_without_a_base(width: int, number: Number) -> None:
    for zeros in (1, 8 * width // 2, 8 * width - 1):
        high = np.frombuffer(np.random.default_rng(width).bytes(64 * width), f"<u{width}") >> zeros << zeros
        table = Table(width, number, "none", 0, ESCAPES, bytes(256), (_coding(0, 0, False),), zeros=zeros)
        _round_trip(table, high.tobytes(), b"")
    for origin in (0, 1, 200):
        if number != "plain":
            table = Table(
                width, number, "none", 0, ESCAPES, bytes(256), (_coding(0, 0, False),), zeros=3, origin=origin
            )
            high = high >> 3 << 3
            _round_trip(table, high.tobytes(), b"")


@pytest.mark.parametrize(
    ("dtype", "kind", "width"),
    [("<f4", "single", 2), ("<f8", "double", 4), ("<f8", "double", 2), ("<f2", "half", 4), ("<f4", "single", 8)],
)
def test_a_base_of_another_kind_of_float_is_converted(dtype: str, kind: BaseKind, width: int) -> None:
    values = np.random.default_rng(0).normal(size=50).astype(dtype)
    values[:2] = [np.nan, np.inf]
    with np.errstate(over="ignore"):
        target = values.astype("<f4").astype(f"<f{width}") if width < 8 else values.astype("<f8")
    target[:2] = 0
    table = Table(width, "float", "sub", 0, ESCAPES, bytes(256), (_coding(0, 0, True),), base=kind)
    assert _round_trip(table, target.tobytes(), values.tobytes()) == [(220, bytes(7))]


def test_a_base_may_be_the_bfloat16_of_a_float() -> None:
    values = np.array([1.5, -0.25, 3e38], "<f4")
    brain = (values.view("<u4") >> 16).astype("<u2")
    coding = (_coding(0, 0, True),)
    narrow = Table(2, "brain", "sub", 0, ESCAPES, bytes(256), coding, base="single")
    assert _round_trip(narrow, brain[:2].tobytes(), values[:2].tobytes()) == [(220, b"\0")]
    wide = Table(4, "float", "sub", 0, ESCAPES, bytes(256), coding, base="brain")
    assert _round_trip(wide, values[:2].tobytes(), brain[:2].tobytes()) == [(220, b"\0")]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"width": 3}, "unknown"),
        ({"width": 1}, "unknown"),
        ({"number": "brain"}, "unknown"),
        ({"zeros": 32}, "zero"),
        ({"zeros": 1, "difference": "xor"}, "zero"),
        ({"base": "quarter"}, "unknown kind"),
        ({"base": "half", "difference": "none"}, "does not suit"),
        ({"base": "half", "number": "plain"}, "does not suit"),
        ({"shift": 32}, "outside"),
        ({"classes": ()}, "classes"),
        ({"classes": (ClassCoding(0, 32, (1, 2, 3, 4)),)}, "more low bits"),
        ({"lut": bytes(255)}, "not whole"),
        ({"lut": b""}, "not whole"),
        ({"lut": bytes(255) + b"\x01"}, "not there"),
        ({"lut": bytes(512)}, "not whole"),
        ({"slope": 2}, "slope"),
        ({"offset": 2048}, "offset"),
        ({"origin": 256, "difference": "none"}, "origin"),
        ({"origin": 1}, "origin"),
        ({"offset": 1, "number": "plain"}, "offset"),
        ({"number": "complex"}, "unknown"),
        ({"difference": "add"}, "unknown"),
    ],
)
def test_tables_that_contradict_themselves_are_refused(change: dict[str, object], reason: str) -> None:
    parts: dict[str, object] = {
        "width": 4,
        "number": "float",
        "difference": "sub",
        "shift": 23,
        "escapes": 1,
        "lut": bytes(256),
        "classes": (ClassCoding(0),),
    }
    with pytest.raises(ValueError, match=reason):
        Table(**(parts | change))  # type: ignore[arg-type]


@pytest.mark.parametrize(("low_bits", "planes", "bits"), [(8, (), None), (3, (), None), (8, (1,), 2), (-1, (), None)])
def test_codings_that_lack_a_stream_are_refused(low_bits: int, planes: tuple[int, ...], bits: int | None) -> None:
    with pytest.raises(ValueError, match="stream"):
        ClassCoding(0, low_bits, planes, bits)


def test_masks_of_other_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="no mask"):
        ClassCoding(0, mask=1, mask_bits=3)  # type: ignore[arg-type]


def test_lengths_that_do_not_match_are_refused() -> None:
    table = _table(4)
    with pytest.raises(ValueError, match="whole elements"):
        encode_block(table, bytes(7), bytes(7))
    with pytest.raises(ValueError, match="another number"):
        encode_block(table, bytes(8), bytes(4))
    with pytest.raises(ValueError, match="needs a base"):
        encode_block(table, bytes(8))
    with pytest.raises(ValueError, match="another number"):
        decode_block(table, 3, bytes(8), _queue([]))


def test_elements_outside_of_their_matrix_are_refused() -> None:
    data = MatrixData(Matrix(2, 3, 0, 300), np.zeros(2, np.uint8), np.zeros(3, np.uint8))
    table = Table(1, "plain", "sub", 0, ESCAPES, bytes(256), (_coding(0, 0, False), _coding(1, 0, False)))
    with pytest.raises(ValueError, match="beyond"):
        encode_block(table, bytes(4), bytes(4), data, 3)
    with pytest.raises(ValueError, match="beyond"):
        decode_block(table, 4, bytes(4), _queue([]), data, 3)


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ({"rows": 0}, "rows"),
        ({"columns": (1 << 16) + 1, "scales": 1}, "columns"),
        ({"columns": (1 << 16) + 1, "rank": 1}, "columns"),
        ({"rank": MAX_RANK + 1}, "factors"),
        ({"rank": -1}, "factors"),
        ({"rank": 33, "rows": 8000}, "factors"),
        ({"level": 512}, "level"),
        ({"exponent": 65}, "unit"),
        ({"exponent": -257}, "unit"),
    ],
)
def test_matrices_out_of_bounds_are_refused(numbers: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Matrix(**({"rows": 4, "columns": 4} | numbers))


def test_factors_that_are_too_large_are_refused() -> None:
    table = _table(4, number="plain", difference="none")
    for shift, folded in [(0, 2 * MAX_FACTOR), (3, 2 * MAX_FACTOR >> 3)]:
        one = encode_block(table, np.array([folded], "<u4").tobytes())
        parts = [(0, bytes([shift, 0, 0])), *one, *encode_block(table, bytes(4))]
        with pytest.raises(ValueError, match="too large"):
            decode_matrix(Matrix(1, 1, rank=1), table, _queue(parts))


def test_factors_that_are_shifted_too_far_are_refused() -> None:
    table = _table(4, number="plain", difference="none")
    with pytest.raises(ValueError, match="too far"):
        decode_matrix(Matrix(1, 1, rank=1), table, _queue([(0, bytes([MAX_SHIFT + 1, 0, 0]))]))


def test_gains_that_are_not_finite_are_refused() -> None:
    matrix = Matrix(1, 1, gains=7)
    with pytest.raises(ValueError, match="not finite"):
        decode_matrix(matrix, None, _queue([(7, np.array([np.nan], "<f4").tobytes())]))


@pytest.mark.parametrize("table", [None, _table(8, number="plain", difference="none"), _table(4, difference="none")])
def test_tables_that_do_not_suit_factors_are_refused(table: Table | None) -> None:
    with pytest.raises(ValueError, match="plain numbers"):
        decode_matrix(Matrix(1, 1, rank=1), table, _queue([]))


@pytest.mark.parametrize("width", [1, 2])
def test_whole_numbers_are_predicted_and_their_context_is_the_fraction(width: int) -> None:
    base = np.array([10, 10, 10, 10, 0, 255], f"<u{width}")
    # In units of 2^-6: 1.25, -0.25, 0.5 (to even: 0), 1.5 (to even: 2), -1 (wraps), 0.
    data = MatrixData(
        Matrix(1, 6, rank=1, exponent=-6), _octets(b""), _octets(b""), _factors([[1]], [[80, -16, 32, 96, -64, 0]])
    )
    lut = bytes(min(level, 31) for level in range(256))
    table = Table(width, "plain", "sub", 0, ESCAPES, lut, tuple(_coding(number, 0, False) for number in range(32)))
    target = (base + np.array([2, -1, 1, 1, -1, 0], f"<i{width}").view(base.dtype)).astype(base.dtype)
    parts = _round_trip(table, target.tobytes(), base.tobytes(), data)
    # By contexts: 0 of -1 and 0; 8 of 1/4 and -1/4, one off in the direction of the fraction; 15 of halves.
    assert parts == [(100, bytes([0, 0])), (108, bytes([1, 1])), (115, bytes([1, 1]))]


def test_whole_numbers_have_signs_when_they_are_multiplied() -> None:
    base = np.array([100, -100, 3, -128], "i1")
    gains = np.array([0.5], "<f4")
    data = MatrixData(Matrix(1, 4, gains=7), _octets(b""), _octets(b""), None, gains)
    target = np.array([50, -50, 2, -64], "i1")
    assert _round_trip(_table(1, sparse=True), target.tobytes(), base.tobytes(), data) == [(220, b"\0")]


@pytest.mark.parametrize("width", [4, 8])
def test_whole_numbers_of_many_bytes_are_not_predicted(width: int) -> None:
    data = MatrixData(Matrix(1, 1, rank=1), _octets(b""), _octets(b""), _factors([[1]], [[1]]))
    table = _table(width, number="plain")
    with pytest.raises(ValueError, match="one or two bytes"):
        encode_block(table, bytes(table.width), bytes(table.width), data)


def test_predictions_beyond_all_whole_numbers_are_refused() -> None:
    factors = _factors([[MAX_FACTOR - 1]], [[MAX_FACTOR - 1]])
    data = MatrixData(Matrix(1, 1, rank=1, exponent=20), _octets(b""), _octets(b""), factors)
    with pytest.raises(ValueError, match="by far"):
        encode_block(_table(1), bytes(1), bytes(1), data)


@pytest.mark.parametrize("rank", [0, 8])
@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_a_block_takes_a_few_megabytes(width: int, rank: int) -> None:
    codings = tuple(_coding(number, 0, number == 0) for number in range(16))
    table = Table(width, "float" if width > 1 else "plain", "sub", 0, ESCAPES, bytes(range(16)) * 16, codings)
    count = table.per_block(MAX_BLOCK_BYTES)
    base = np.random.default_rng(0).bytes(count * width)
    data = None
    if rank and width > 1:
        factors = _factors(np.ones((rank, count // 256)), np.ones((rank, 256)))
        levels = np.zeros(count // 256, np.uint8), np.zeros(256, np.uint8)
        data = MatrixData(Matrix(count // 256, 256, scales=300, rank=rank), *levels, factors)
    parts = encode_block(table, base, base, data)
    tracemalloc.start()
    decode_block(table, count, base, _queue(parts), data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= 17 * MAX_BLOCK_BYTES
