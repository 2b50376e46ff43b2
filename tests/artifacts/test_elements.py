"""Elements of tensors: every element comes back, whatever the table and whatever its bits."""

from __future__ import annotations

import tracemalloc
from collections import deque
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts.patch.elements import MAX_BLOCK_BYTES, ClassCoding, Table, decode_block, encode_block

# Special floats of each width: zero, its negative, the least denormals, infinities, NaNs with payloads, all bits.
SPECIAL_SHARES = [0.0, -0.0, 5e-324, 6e-8, 1.4e-45, float("inf"), float("-inf"), float("nan"), 1.0, -1.0]
FLOATS = {2: np.float16, 4: np.float32, 8: np.float64}
ESCAPES = 99


def _coding(number: int, low_bits: int, sparse: bool) -> ClassCoding:
    return ClassCoding(
        symbols=100 + number,
        low_bits=low_bits,
        low_planes=tuple(200 + place for place in range(low_bits // 8)),
        bits=210 if low_bits % 8 else None,
        mask=220 + number if sparse else None,
    )


def _table(
    width: int,
    *,
    number: Literal["plain", "float"] = "float",
    difference: Literal["sub", "xor", "none"] = "sub",
    low_bits: int = 0,
    sparse: bool = False,
) -> Table:
    return Table(width, number, difference, 0, ESCAPES, bytes(256), (_coding(0, low_bits, sparse),))


@st.composite
def tables(draw: st.DrawFn) -> Table:
    width = draw(st.sampled_from([1, 2, 4, 8]))
    count = draw(st.integers(1, 16))
    bits = st.integers(0, 8 * width - 1)
    codings = tuple(_coding(number, draw(bits), draw(st.booleans())) for number in range(count))
    groups = draw(st.integers(0, 8))
    lut = draw(st.binary(min_size=256 * max(groups, 1), max_size=256 * max(groups, 1)))
    return Table(
        width=width,
        number=draw(st.sampled_from(["plain", "float"])),
        difference=draw(st.sampled_from(["sub", "xor", "none"])),
        shift=draw(bits),
        escapes=ESCAPES,
        lut=bytes(octet % count for octet in lut),
        classes=codings,
        group_log=draw(st.integers(2, 6)) if groups else 0,
        groups=300 if groups else None,
    )


def _queue(parts: list[tuple[int, bytes]]) -> Callable[[int, int], bytes]:
    """Return a `take` that insists on the order in which the encoder put the parts."""
    waiting = deque(parts)

    def take(stream: int, count: int) -> bytes:
        expected, content = waiting.popleft()
        assert (stream, count) == (expected, len(content))
        return content

    return take


def _round_trip(table: Table, target: bytes, base: bytes, groups: bytes = b"") -> list[tuple[int, bytes]]:
    known = None if table.difference == "none" else base
    parts = encode_block(table, target, known, groups)
    assert decode_block(table, len(target) // table.width, known, _queue(parts)) == target
    return parts


@given(tables(), st.data())
def test_every_table_brings_every_element_back(table: Table, data: st.DataObject) -> None:
    target = data.draw(st.binary(max_size=400))
    target = target[: len(target) // table.width * table.width]
    base = data.draw(st.one_of(st.just(target), st.binary(min_size=len(target), max_size=len(target))))
    size = -(-len(target) // table.width >> table.group_log) if table.groups is not None else 0
    group = st.integers(0, table.group_count - 1)
    groups = data.draw(st.lists(group, min_size=size, max_size=size))
    _round_trip(table, target, base, bytes(groups))


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


def test_low_bits_are_packed_with_the_highest_first() -> None:
    target = np.array([0b1_10_00000001, 0b0_01_11111111], "<u2")
    table = _table(2, number="plain", difference="none", low_bits=10)
    assert _round_trip(table, target.tobytes(), b"") == [(100, b"\x01\x00"), (200, b"\x01\xff"), (210, b"\x90")]


def test_a_float_without_a_base_has_its_exponent_in_the_symbol() -> None:
    target = np.array([1.0, -1.0, 1.5], "<f4")
    table = _table(4, difference="none", low_bits=24)
    parts = dict(_round_trip(table, target.tobytes(), b""))
    assert parts[100] == bytes([127, 127, 127])


def test_the_context_is_what_the_base_says() -> None:
    lut = bytes(255 - context >= 128 for context in range(256))
    table = Table(4, "float", "sub", 23, ESCAPES, lut, (_coding(0, 0, False), _coding(1, 8, False)))
    base = np.array([1e30, 1e-30, 1e30], "<f4")
    parts = _round_trip(table, base.tobytes(), base.tobytes())
    assert parts == [(100, bytes(2)), (101, bytes(1)), (200, bytes(1))]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"width": 3}, "no element"),
        ({"shift": 32}, "outside"),
        ({"classes": ()}, "classes"),
        ({"classes": (ClassCoding(0, 32, (1, 2, 3, 4)),)}, "more low bits"),
        ({"lut": bytes(255)}, "not whole"),
        ({"lut": b""}, "not whole"),
        ({"lut": bytes(255) + b"\x01"}, "not there"),
        ({"lut": bytes(9 * 256)}, "not whole"),
        ({"lut": bytes(512)}, "neither"),
        ({"group_log": 3}, "neither"),
        ({"groups": 3}, "neither"),
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


def test_a_group_that_is_not_in_the_table_is_refused() -> None:
    table = Table(1, "plain", "sub", 0, ESCAPES, bytes(512), (_coding(0, 0, False),), group_log=2, groups=300)
    with pytest.raises(ValueError, match="not in the table"):
        encode_block(table, bytes(8), bytes(8), b"\x00\x02")
    with pytest.raises(ValueError, match="not in the table"):
        decode_block(table, 8, bytes(8), lambda stream, count: b"\x02" * count)


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_a_block_takes_a_few_megabytes(width: int) -> None:
    codings = tuple(_coding(number, 0, number == 0) for number in range(16))
    table = Table(width, "float" if width > 1 else "plain", "sub", 0, ESCAPES, bytes(range(16)) * 16, codings)
    base = np.random.default_rng(0).bytes(MAX_BLOCK_BYTES)
    parts = encode_block(table, base, base)
    tracemalloc.start()
    decode_block(table, MAX_BLOCK_BYTES // width, base, _queue(parts))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 * MAX_BLOCK_BYTES
