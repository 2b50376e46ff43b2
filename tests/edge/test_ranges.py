"""Byte ranges by RFC 9110 section 14: golden cases, and properties against a reference that counts bytes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import NotSatisfiable
from edge.ranges import MAX_RANGES, MERGE_GAP, ByteRange, lay_out, select_ranges

bounded = settings(max_examples=200, deadline=None)


def selected(header: str, length: int) -> list[tuple[int, int]] | None:
    found = select_ranges([header], length)
    return None if found is None else [(one.first, one.last) for one in found]


@pytest.mark.parametrize(
    ("header", "length", "expected"),
    [
        ("bytes=0-499", 10_000, [(0, 499)]),
        ("bytes=500-999", 10_000, [(500, 999)]),
        ("bytes=-500", 10_000, [(9_500, 9_999)]),
        ("bytes=9500-", 10_000, [(9_500, 9_999)]),
        ("bytes=0-0,-1", 10_000, [(0, 0), (9_999, 9_999)]),
        ("bytes= 0-0 , , -1 ,", 10_000, [(0, 0), (9_999, 9_999)]),
        ("BYTES=1-2", 10, [(1, 2)]),
        ("bytes=5-100000000000000000000000000000", 10, [(5, 9)]),
        ("bytes=-100000000000000000000000000000", 10, [(0, 9)]),
        ("bytes=0000000000000000000000000000000000005-6", 10, [(5, 6)]),
        ("bytes=0-0,100-200", 10, [(0, 0)]),
        ("bytes=5-,0-", 10, [(0, 9)]),
    ],
)
def test_a_range_by_the_grammar_selects_its_bytes(header: str, length: int, expected: list[tuple[int, int]]) -> None:
    assert selected(header, length) == expected


@pytest.mark.parametrize(
    "header",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes=-",
        "bytes=a-b",
        "bytes=1",
        "bytes=2-1",
        "bytes=0-1,2-1",
        "bytes=1--2",
        "bytes=1-2-3",
        "bytes=+1-2",
        "bytes=0x1-2",
        "bytes=1 - 2",
        "bytes =1-2",
        " bytes=1-2",
        "items=0-5",
        "bytes=\u0661-\u0662",
        "bytes=1-2;3-4",
        "bytes=1-2\x00",
    ],
)
def test_what_is_not_by_the_grammar_is_ignored(header: str) -> None:
    assert select_ranges([header], 10) is None


def test_a_field_that_is_absent_or_repeated_is_ignored() -> None:
    assert select_ranges([], 10) is None
    assert select_ranges(["bytes=0-1", "bytes=2-3"], 10) is None


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=11-12,99999999999999999999-"])
def test_ranges_beyond_the_end_are_not_satisfiable_and_the_error_tells_the_length(header: str) -> None:
    with pytest.raises(NotSatisfiable) as caught:
        select_ranges([header], 10)
    assert caught.value.headers()["Content-Range"] == "bytes */10"


def test_more_ranges_than_the_bound_are_refused() -> None:
    at_bound = "bytes=" + ",".join(f"{200 * n}-{200 * n}" for n in range(MAX_RANGES))
    assert len(select_ranges([at_bound], 10**6) or ()) == MAX_RANGES
    with pytest.raises(NotSatisfiable):
        select_ranges([at_bound + ",999999-"], 10**6)


def test_nothing_can_be_selected_from_an_empty_representation() -> None:
    assert select_ranges(["bytes=-5"], 0) is None
    with pytest.raises(NotSatisfiable):
        select_ranges(["bytes=0-"], 0)


def test_ranges_that_are_merged_keep_the_place_of_the_first_of_them() -> None:
    assert selected("bytes=5000-5009,0-9,5005-5100,10-20", 10_000) == [(5000, 5100), (0, 20)]


@given(st.text(max_size=60), st.integers(0, 100))
@bounded
def test_no_text_breaks_the_parser(header: str, length: int) -> None:
    try:
        found = select_ranges([f"bytes={header}"], length)
    except NotSatisfiable:
        return
    assert found is None or all(0 <= one.first <= one.last < length for one in found)


specs = st.one_of(
    st.tuples(st.integers(0, 1200), st.integers(0, 400)).map(lambda pair: (pair[0], pair[0] + pair[1])),
    st.integers(0, 1200).map(lambda first: (first, None)),
    st.integers(0, 1200).map(lambda count: (None, count)),
)


def rendered(spec: tuple[int | None, int | None]) -> str:
    return "-".join("" if number is None else str(number) for number in spec)


def wanted_bytes(spec: tuple[int | None, int | None], length: int) -> set[int]:
    first, last = spec
    if first is None:
        return set(range(max(0, length - (last or 0)), length))
    return set(range(first, length if last is None else min(last + 1, length)))


@given(st.lists(specs, min_size=1, max_size=MAX_RANGES), st.integers(1, 1000))
@bounded
def test_the_answer_covers_what_was_asked_for_and_little_more(
    asked: list[tuple[int | None, int | None]], length: int
) -> None:
    wanted = set[int]().union(*(wanted_bytes(spec, length) for spec in asked))
    header = "bytes=" + ",".join(map(rendered, asked))
    if not wanted:
        with pytest.raises(NotSatisfiable):
            select_ranges([header], length)
        return
    found = select_ranges([header], length)
    assert found is not None
    sent = [place for one in found for place in range(one.first, one.last + 1)]
    assert len(sent) == len(set(sent)), "no byte is sent twice"
    assert wanted <= set(sent)
    for extra in set(sent) - wanted:
        assert any(near in wanted for near in range(extra - MERGE_GAP, extra)), "only small gaps are filled"
    in_order = sorted(found)
    assert all(b.first - a.last > MERGE_GAP + 1 for a, b in pairwise(in_order))


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=1, max_size=5), st.integers(100, 200))
@bounded
def test_the_length_of_a_multipart_answer_is_the_number_of_its_bytes(pairs: list[tuple[int, int]], total: int) -> None:
    ranges = tuple(ByteRange(first, min(first + count - 1, total - 1)) for first, count in pairs)
    content = bytes(index % 251 for index in range(total))
    layout = lay_out(ranges, total, "application/octet-stream", "boundary1")
    body = b"".join(p.head + content[p.content.first : p.content.last + 1] for p in layout.parts) + layout.tail
    assert len(body) == layout.length
    assert body.count(b"--boundary1") == len(ranges) + 1
