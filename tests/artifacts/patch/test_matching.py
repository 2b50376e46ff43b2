"""How a file is made from pieces of another one: exactly, with few bytes, and within bounds."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from backports.zstd import CompressionParameter, ZstdCompressor, ZstdDict
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from artifacts.patch.alignments import Alignment, equal_length, unheard, worthwhile_length
from artifacts.patch.block_hashes import BLOCK_BYTES, STRIDE_BYTES, BlockIndex, HashFilter, hashes
from artifacts.patch.choose import choose, new_bytes
from artifacts.patch.differences import Rates, differences
from artifacts.patch.estimate import Estimator
from artifacts.patch.matching import MatchLimits, match, match_with_prefix
from artifacts.patch.operations import Add, Copy, Data, Operation
from artifacts.patch.prices import Chosen, Prices, difference_symbols, learned
from artifacts.patch.search import search
from artifacts.patch.suffixes import nearest
from artifacts.patch.timeline import ENTERED, EQUAL, LEFT, timeline

NOISE = random.Random(1).randbytes(60_000)
LINES = [f"{number}, {random.Random(number).gauss(0, 1):.6f}, name_{number * 7 % 301}\n" for number in range(1500)]


def made(base: bytes, target: bytes, operations: Sequence[Operation], ranges: Sequence[tuple[int, int]]) -> bytes:
    """Run operations as a decoder does: nothing is read that is not there yet."""
    result = bytearray()
    numbers = iter(operations)
    for start, end in ranges:
        result += target[len(result) : start]
        while len(result) < end:
            operation = next(numbers)
            assert operation.length > 0
            if isinstance(operation, Data):
                assert operation.start == len(result)
                result += target[operation.start : operation.start + operation.length]
                continue
            space = base + result
            source = space[operation.source : operation.source + operation.length]
            assert len(source) == operation.length
            assert operation.source >= len(base) or operation.source + operation.length <= len(base)
            if isinstance(operation, Add):
                assert operation.start == len(result)
                new = target[operation.start : operation.start + operation.length]
                difference = bytes(np.frombuffer(new, np.uint8) - np.frombuffer(source, np.uint8))
                source = bytes(np.frombuffer(source, np.uint8) + np.frombuffer(difference, np.uint8))
            result += source
        assert len(result) == end
    assert next(numbers, None) is None
    return bytes(result + target[len(result) :])


def matched(base: bytes, target: bytes, limits: MatchLimits | None = None) -> list[Operation]:
    """Return operations that make all of the target, after seeing that they do."""
    operations = match(base, target, [(0, len(target))], limits)
    assert made(base, target, operations, [(0, len(target))]) == target
    return operations


def new_length(operations: Sequence[Operation]) -> int:
    return sum(operation.length for operation in operations if isinstance(operation, Data))


def patch_from(base: bytes, target: bytes) -> int:
    """Return the length of what `zstd -19 --patch-from` makes."""
    options = {CompressionParameter.compression_level: 19, CompressionParameter.window_log: 23}
    prefix = ZstdDict(base, is_raw=True).as_prefix if base else None
    compressor = ZstdCompressor(options={int(key): value for key, value in options.items()}, zstd_dict=prefix)
    return len(compressor.compress(target, ZstdCompressor.FLUSH_FRAME))


def size(base: bytes, target: bytes) -> int:
    """Return about how long the patch is, without its header."""
    found = match_with_prefix(base, target, [(0, len(target))])
    assert made(base, target, found.operations, [(0, len(target))]) == target
    return found.estimate


# ---- exactness


@st.composite
def edited(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Draw a file and another one that is made of pieces of it, of itself, and of something else."""
    seed = draw(st.integers(0, 1 << 30))
    few_values = draw(st.booleans())
    chance = random.Random(seed)
    base = bytes(chance.choices(b"ab" if few_values else range(256), k=draw(st.integers(0, 3000))))
    target = bytearray()
    for _ in range(draw(st.integers(0, 12))):
        kind = draw(st.sampled_from(["base", "own", "new", "more", "zeros"]))
        length = draw(st.integers(1, 400))
        source = base if kind in ("base", "more") else bytes(target)
        at = draw(st.integers(0, max(0, len(source))))
        if kind == "new":
            target += chance.randbytes(length)
        elif kind == "zeros":
            target += bytes(length)
        elif kind == "more":
            target += bytes(value + 3 & 255 for value in source[at : at + length])
        else:
            target += source[at : at + length]
    return base, bytes(target)


@settings(max_examples=60, deadline=None)
@given(edited())
@example((b"", b""))
@example((b"", b"new"))
@example((b"old", b""))
@example((b"x", b"x"))
def test_operations_make_the_target_whatever_it_is(pair: tuple[bytes, bytes]) -> None:
    matched(*pair)


@settings(max_examples=30, deadline=None)
@given(edited(), st.lists(st.integers(0, 4000), max_size=8))
def test_operations_make_what_is_asked_for_and_nothing_else(pair: tuple[bytes, bytes], borders: list[int]) -> None:
    base, target = pair
    places = sorted({place for place in borders if place <= len(target)})
    ranges = list(zip(places[::2], places[1::2], strict=False))
    operations = match(base, target, ranges)
    assert sum(operation.length for operation in operations) == sum(end - start for start, end in ranges)
    assert made(base, target, operations, ranges) == target


def test_the_same_files_give_the_same_operations() -> None:
    target = "".join(LINES[700:]).replace("name_1", "title_1").encode()
    base = "".join(LINES).encode()
    assert match_with_prefix(base, target, [(0, len(target))]) == match_with_prefix(base, target, [(0, len(target))])


def test_files_may_be_mapped_or_views() -> None:
    target = NOISE[:3000] + b"new" + NOISE[3000:]
    assert match(memoryview(NOISE), bytearray(target), [(0, len(target))]) == matched(NOISE, target)


# ---- what is found


def test_the_same_file_is_one_copy() -> None:
    assert matched(NOISE, NOISE) == [Copy(0, len(NOISE))]


def test_what_was_inserted_is_all_that_is_new() -> None:
    assert matched(NOISE, NOISE[:30_001] + b"inserted" + NOISE[30_001:]) == [
        Copy(0, 30_001),
        Data(30_001, 8),
        Copy(30_001, 29_999),
    ]


def test_what_was_removed_costs_a_copy() -> None:
    assert matched(NOISE, NOISE[:20_000] + NOISE[20_500:]) == [Copy(0, 20_000), Copy(20_500, 39_500)]


def test_what_was_moved_is_copied() -> None:
    assert matched(NOISE, NOISE[40_000:] + NOISE[:40_000]) == [Copy(40_000, 20_000), Copy(0, 40_000)]


def test_new_bytes_that_occur_twice_are_written_once() -> None:
    new = random.Random(5).randbytes(5000)
    target = NOISE[:10_000] + new + NOISE[10_000:50_000] + new + NOISE[50_000:]
    assert new_length(matched(NOISE, target)) == 5000


def test_a_changed_byte_does_not_end_what_lies_over_the_base() -> None:
    target = bytearray(NOISE)
    for place in range(500, 60_000, 1000):
        target[place] ^= 64
    operations = matched(NOISE, bytes(target))
    assert new_length(operations) == 0
    assert all(one.length <= 2 for one in operations if isinstance(one, Add))


def test_short_pieces_are_found_in_small_files() -> None:
    base = b"".join(b"<%d>" % number + NOISE[number * 50 : number * 50 + 20] for number in range(300))
    order = random.Random(3).sample(range(300), 300)
    target = b"".join(b"<%d>" % number + NOISE[number * 50 : number * 50 + 20] for number in order)
    assert new_length(matched(base, target)) < len(target) / 20


def test_numbers_that_all_grew_are_differences() -> None:
    numbers = np.cumsum(np.random.default_rng(1).integers(4, 4000, 5000))
    base, target = numbers.astype("<u4").tobytes(), (numbers + 1234).astype("<u4").tobytes()
    assert isinstance(matched(base, target)[0], Add)
    assert size(base, target) < patch_from(base, target) / 8


def test_half_precision_numbers_that_changed_a_little_are_differences() -> None:
    numbers = np.random.default_rng(1).standard_normal(10_000)
    base, target = numbers.astype("<f2").tobytes(), (numbers * 1.001).astype("<f2").tobytes()
    assert size(base, target) < patch_from(base, target) / 2


def test_a_long_stretch_is_found_though_its_start_is_elsewhere_too() -> None:
    before, stretch = NOISE[:3000], NOISE[3000:40_000]
    base = before + stretch[:70] + NOISE[40_000:45_000] + stretch + NOISE[50_000:51_000]
    # Without memory to sort suffixes, which would find it again.
    operations = matched(base, before + stretch, MatchLimits(max_bytes=0))
    assert new_length(operations) == 0
    assert len(operations) <= 3


def test_edits_with_a_pattern_cost_two_bytes_each() -> None:
    base = "".join(LINES).encode()
    target = "".join(line.replace(", ", ", 1", 1) if number % 3 else line for number, line in enumerate(LINES)).encode()
    assert size(base, target) < 2 * 1000


def test_text_is_compressed_with_the_base_before_it() -> None:
    words = [f"word{random.Random(number).randrange(2000)}" for number in range(3000)]
    base = " ".join(words[:2000]).encode()
    chance = random.Random(4)
    target = " ".join(words[chance.randrange(2000)] for _ in range(800)).encode()
    found = match_with_prefix(base, target, [(0, len(target))])
    assert found.prefix is not None
    assert 0 <= found.prefix[0] < found.prefix[1] <= len(base)
    alone = Estimator(np.frombuffer(base, np.uint8), np.frombuffer(target, np.uint8)).estimate(
        match(base, target, [(0, len(target))])
    )
    assert found.estimate < alone


# ---- models


def exported(names: str, producer: str, *, inserted: bool = False, doc: str = "") -> bytes:
    """Return a model of 120 layers as an exporter would write it."""
    weights = np.random.default_rng(7).standard_normal(120 * 64).astype(np.float32)
    nodes, tensors, last = [], [], "input"
    for number in range(120):
        name = f"{names}_{number}"
        tensors.append(helper.make_tensor(f"w{number}", TensorProto.FLOAT, [8, 8], weights[number * 64 :][:64]))
        nodes.append(helper.make_node("MatMul", [last, f"w{number}"], [f"{name}:0"], name=name, doc_string=doc))
        last = f"{name}:0"
        if inserted and number == 60:
            nodes.append(helper.make_node("Identity", [last], ["extra"], name="Extra"))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "graph",
        [value("input", TensorProto.FLOAT, [1, 8])],
        [value(last, TensorProto.FLOAT, [1, 8])],
        tensors,
    )
    content: bytes = helper.make_model(graph, producer_name=producer).SerializeToString()
    assert onnx.load_from_string(content).producer_name == producer
    return content


@pytest.mark.parametrize(
    ("target", "most"),
    [
        (exported("layer", "another"), 40),
        (exported("layer", "exporter", inserted=True), 100),
        (exported("block", "exporter"), 300),
        (exported("layer", "exporter", doc="forward, model.py"), 300),
    ],
    ids=["another producer", "an inserted node", "renamed nodes", "doc strings"],
)
def test_a_model_that_was_exported_again_is_a_small_patch(target: bytes, most: int) -> None:
    base = exported("layer", "exporter")
    assert size(base, target) < min(most, patch_from(base, target))


# ---- bounds

LENGTH = 300_000
PERIODS = [1, 2, 3, 7, 16, 31, 48, 64]


@pytest.mark.parametrize("period", PERIODS)
def test_files_that_repeat_themselves_take_few_operations(period: int) -> None:
    base = (random.Random(period).randbytes(period) * LENGTH)[:LENGTH]
    assert len(matched(base, base[3:] + base[:3])) <= 3


def test_zeros_with_a_few_other_bytes_take_few_operations() -> None:
    target = bytearray(LENGTH)
    for place in random.Random(1).sample(range(LENGTH), 100):
        target[place] = 7
    assert len(matched(bytes(LENGTH), bytes(target))) <= 300


def test_files_with_nothing_in_common_are_new_bytes() -> None:
    target = random.Random(9).randbytes(LENGTH)
    assert matched(random.Random(8).randbytes(LENGTH), target) == [Data(0, LENGTH)]


def test_noise_in_what_repeats_itself_leads_to_a_bounded_number_of_operations() -> None:
    base = (random.Random(1).randbytes(64) * LENGTH)[:LENGTH]
    target = bytearray(base)
    for place in random.Random(2).sample(range(LENGTH), LENGTH // 100):
        target[place] ^= 1
    assert len(matched(base, bytes(target), MatchLimits(max_steps=1))) < LENGTH // 30


def test_blocks_in_another_order_lead_to_a_bounded_number_of_operations() -> None:
    order = random.Random(1).sample(range(LENGTH // 64), LENGTH // 64)
    base = random.Random(2).randbytes(LENGTH)
    target = b"".join(base[block * 64 :][:64] for block in order)
    operations = matched(base, target, MatchLimits(max_steps=1))
    assert new_length(operations) == 0
    assert len(operations) <= LENGTH // 64


@pytest.mark.parametrize("limits", [MatchLimits(max_bytes=0), MatchLimits(max_steps=0), MatchLimits(0, 0)])
def test_with_no_allowance_at_all_the_target_is_made_nevertheless(limits: MatchLimits) -> None:
    base = "".join(LINES).encode()
    assert new_length(matched(base, base[5000:] + b"more" + base[:5000], limits)) < 50


@pytest.mark.parametrize("target", [random.Random(3).randbytes(1 << 21), bytes(1 << 21)], ids=["noise", "zeros"])
def test_memory_keeps_to_its_bound(target: bytes) -> None:
    base = random.Random(4).randbytes(1 << 21)
    allowed = 32 << 20
    tracemalloc.start()
    try:
        match(base, target, [(0, len(target))], MatchLimits(max_bytes=allowed, max_steps=1))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < allowed


def test_little_effort_is_made_beside_much_that_is_not_matched() -> None:
    target = bytearray(NOISE)
    for place in range(100, len(target), 300):
        target[place : place + 12] = random.Random(place).randbytes(12)
    base, new = np.frombuffer(NOISE, np.uint8), np.frombuffer(bytes(target), np.uint8)
    ranges = [(0, len(new))]
    thorough, quick = (search(base, new, ranges, 1 << 30, elsewhere) for elsewhere in (0, 1 << 30))
    assert thorough.near is not None
    assert quick.near is None
    operations = matched(NOISE, bytes(target), MatchLimits(elsewhere=1 << 30))
    assert new_length(operations) < len(target) // 10


# ---- parts


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_an_equal_length_ends_at_the_first_byte_that_differs(one: bytes, other: bytes) -> None:
    length = equal_length(np.frombuffer(one, np.uint8), np.frombuffer(other, np.uint8))
    assert one[:length] == other[:length]
    assert length == min(len(one), len(other)) or one[length] != other[length]


def test_an_alignment_goes_on_over_a_few_bytes_that_differ_and_ends_where_all_do() -> None:
    target = bytearray(NOISE[:2000])
    target[700:705] = b"other"
    target[1500:] = random.Random(6).randbytes(500)
    length = worthwhile_length(np.frombuffer(bytes(target), np.uint8), np.frombuffer(NOISE, np.uint8))
    assert 1500 <= length < 1520


def test_an_alignment_goes_on_over_words_that_all_changed_alike() -> None:
    words = np.frombuffer(NOISE[:2000], "<u4")
    one, other = (
        np.frombuffer(data + NOISE[5000:7000], np.uint8) for data in (words.tobytes(), (words + 87381).tobytes())
    )
    # Each of them has two or three bytes that differ.
    assert 1990 <= worthwhile_length(one, other) <= 4000


def test_differences_that_are_as_they_were_a_word_before_are_one_symbol_for_each_value() -> None:
    difference = np.array([7, 0, 1, 0, 7, 0, 1, 0, 9, 0, 1, 0, 9, 0, 0, 0], np.uint8)
    places = np.flatnonzero(difference)
    apart = difference_symbols(difference, places) >> 8
    assert apart.tolist() == [1, 2, 0, 0, 2, 0, 0]
    assert Prices().different[:256].max() < Prices().different[256:].min()


def test_blocks_are_found_wherever_they_lie() -> None:
    source, target = np.frombuffer(NOISE, np.uint8), np.frombuffer(NOISE[5003:5103], np.uint8)

    def all_of_them(start: int, end: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        return np.ones(end - start, np.bool_)

    found = list(BlockIndex(source, unheard).anchors(target, 0, len(target), all_of_them))
    shifts = {int(place) for targets, sources in found for place in sources - targets}
    assert shifts == {5003}
    assert sum(len(targets) for targets, _ in found) >= (100 - BLOCK_BYTES) // STRIDE_BYTES


@settings(max_examples=40, deadline=None)
@given(st.text("ab", min_size=1, max_size=120), st.text("abc", min_size=1, max_size=60))
def test_the_longest_agreement_is_found(old: str, new: str) -> None:
    text = np.frombuffer((old + new).encode(), np.uint8)
    near = nearest(text, np.arange(len(old)), np.arange(len(new)))
    best = near.best()
    joined = old + new
    for place in range(len(new)):
        lengths = [
            next((n for n in range(64) if joined[at + n : at + n + 1] != new[place + n : place + n + 1]), 64)
            for at in range(len(old))
        ]
        # At the end of the text, bytes of padding may agree as well.
        assert best[place] >= min(max(lengths), 64, len(new) - place)


def test_pieces_of_rows_between_removed_columns_are_copied() -> None:
    rows = np.random.default_rng(8).normal(0, 0.05, (512, 128)).astype(np.float32)
    old, new = rows.tobytes(), np.delete(rows, [3, 50, 51, 100, 120], axis=1).tobytes()
    ranges = [(0, len(new))]
    operations = match(old, new, ranges)
    assert made(old, new, operations, ranges) == new
    assert all(isinstance(one, Copy) for one in operations)


@pytest.mark.parametrize("skipped", [0, 26])
def test_a_filter_passes_all_that_was_added_and_little_else(skipped: int) -> None:
    content = np.frombuffer(np.random.default_rng(7).bytes(1 << 17), np.uint8)
    known, others = (hashes(content, at, 30_000, 1) for at in (0, 1 << 16))
    passes = HashFilter(len(known), skipped)
    passes.add(known)
    assert passes(known).all()
    # Eight to sixteen bits for each of them.
    assert np.count_nonzero(passes(others)) < len(others) / 7


def test_the_cheapest_way_changes_the_alignment_where_another_one_fits_better() -> None:
    old = np.frombuffer(NOISE[:2000], np.uint8)
    new = np.frombuffer(NOISE[:500] + NOISE[900:1500], np.uint8)
    both = [Alignment(0, 560, 0, False), Alignment(450, 1100, 400, False)]
    how = [differences(new, old, one) for one in both]
    prices = Prices()
    nothing = new_bytes(new, np.zeros(0, np.int64), np.zeros(0, np.int64), prices)
    steps = choose(timeline(0, 1100, both, how), both, Rates(how)(prices), prices, nothing)
    assert [(step.start, step.end, step.alignment) for step in steps] == [(0, 500, 0), (500, 1100, 1)]


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 200), st.integers(-40, 40)), min_size=1, max_size=6),
    st.integers(0, 100),
    st.integers(120, 400),
)
def test_a_timeline_has_all_changes_in_their_order(parts: list[tuple[int, int, int]], start: int, end: int) -> None:
    old, new = (np.frombuffer(NOISE[at : at + 600], np.uint8) % np.uint8(4) for at in (0, 100))
    alignments = [Alignment(at, at + length, max(shift, -at), False) for at, length, shift in parts]
    alignments = [one for one in alignments if one.start < end and one.end > start]
    how = [differences(new, old, one) for one in alignments]
    expected: dict[int, set[tuple[int, int]]] = {start: set(), end: set()}
    first = 0
    for number, (one, differs) in enumerate(zip(alignments, how, strict=True)):
        low, high = max(one.start, start), min(one.end, end)
        expected.setdefault(low, set()).add((number, ENTERED))
        expected.setdefault(high, set()).add((number, LEFT))
        for cluster, (begin, stop) in enumerate(
            zip(differs.starts.tolist(), differs.ends.tolist(), strict=True), first
        ):
            if begin < high and stop > low:
                expected.setdefault(max(begin, low), set()).add((number, cluster))
                if stop < high:
                    expected.setdefault(stop, set()).add((number, EQUAL))
        first += len(differs.starts)
    found = timeline(start, end, alignments, how)
    assert [place for place, _ in found] == sorted(expected)
    assert found.steps == len(expected) + sum(map(len, expected.values()))
    for place, changes in found:
        assert set(changes) == expected[place]
        kinds = [0 if change == ENTERED else 2 if change == LEFT else 1 for _, change in changes]
        assert kinds == sorted(kinds), "alignments are entered first and left last"
        between = [one for one, kind in zip(changes, kinds, strict=True) if kind == 1]
        assert between == sorted(between), "what ends is before what begins"


def test_a_long_timeline_is_told_in_one_piece() -> None:
    alignments = [Alignment(at, at + 5, 0, False) for at in range(20_000)]
    nothing = differences(np.zeros(20_005, np.uint8), np.zeros(20_005, np.uint8), alignments[0])
    found = list(timeline(0, 20_005, alignments, [nothing] * len(alignments)))
    assert [place for place, _ in found] == list(range(20_005 + 1))
    assert [changes for _, changes in found[100:103]] == [[(at, ENTERED), (at - 5, LEFT)] for at in range(100, 103)]


def test_what_was_chosen_often_becomes_cheaper() -> None:
    chosen = Chosen()
    chosen.distances.update({29: 100, -5000: 1})
    chosen.copies.update({33: 60, 34: 40})
    chosen.new[ord(" ")] = 1000
    prices = learned(Prices(), chosen)
    assert prices.source(29) < 0.1 < Prices().source(29)
    assert prices.source(-5000) == Prices().source(-5000)
    assert prices.new[ord(" ")] < 0.1 < prices.new[ord("x")]
    assert prices.copy < Prices().copy
