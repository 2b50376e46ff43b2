"""Patterns of whole heads: they say what reading line by line says, or nothing, and there are few of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.head_patterns import MAX_KNOWN, MAX_RECENT, HeadPatterns, compile_pattern
from edge.request_head import CRLF, HeadReader, value_of
from tests.edge.heads import CLIENTS, SMUGGLING

LINE = b"GET /x HTTP/1.1"
NAMES = (b"host", b"accept", b"if-none-match", b"connection", b"x-a.b")
VALUES = st.one_of(
    st.sampled_from(
        [b"x", b"", b" ", b"\tx ", b'"a"', b" keep-alive\t", b"Keep-Alive", b"close", b"x\r\ny: z", b"x\ry", b"\xff"]
    ),
    st.binary(max_size=6),
    st.text("abc:-_[] \t", max_size=8).map(str.encode),
)


def head_of(*lines: bytes) -> bytes:
    return CRLF.join([LINE, *lines, b"", b""])


def by_lines(head: bytes) -> tuple[bytes, bytes | None] | None:
    """Return the names and the tag that reading line by line gives."""
    found = HeadReader().scan(head, len(LINE))
    return None if found is None else (found[0].names, value_of(found[1], found[0].tag))


@pytest.mark.parametrize("name", CLIENTS)
def test_heads_of_real_clients_fit_the_pattern_of_their_layout(name: str) -> None:
    head = CLIENTS[name]
    start = head.find(CRLF)
    found = HeadReader().scan(head, start)
    assert found is not None
    fits = compile_pattern(found[0].names).fullmatch(head, start)
    assert fits is not None
    assert fits[1].rstrip(b" \t") == value_of(found[1], found[0].tag)


@given(
    names=st.lists(st.sampled_from(NAMES), min_size=1, unique=True),
    spell=st.sampled_from([bytes.lower, bytes.title, bytes.upper]),
    values=st.lists(VALUES, min_size=5, max_size=5),
    cut=st.booleans(),
)
def test_a_pattern_takes_what_reading_line_by_line_takes(
    names: list[bytes], spell: Callable[[bytes], bytes], values: list[bytes], cut: bool
) -> None:
    names = names if b"host" in names else [b"host", *names]
    lines = [spell(name) + b":" + value for name, value in zip(names, values, strict=False)]
    head = head_of(*(lines[1:] if cut else lines))
    if head.find(CRLF * 2) != len(head) - 4:
        return  # the lane hands on no more than one head
    fits = compile_pattern(b":".join(names)).fullmatch(head, len(LINE))
    read = by_lines(head)
    if fits is None:
        assert read is None or read[0] != b":".join(names)
    else:
        assert read == (b":".join(names), fits[1].rstrip(b" \t") if fits.lastindex else None)


@pytest.mark.parametrize("case", SMUGGLING)
def test_nothing_that_may_have_two_meanings_fits(case: str) -> None:
    data = SMUGGLING[case]
    head = data[: data.find(CRLF * 2) + 4]
    start = head.find(CRLF)
    if HeadReader().scan(head, start) is not None:
        return
    for count in range(4):
        for names in itertools.permutations(NAMES[1:4], count):
            assert compile_pattern(b":".join((b"host", *names))).fullmatch(head, start) is None


def test_a_layout_gets_a_pattern_once_it_came_often() -> None:
    patterns = HeadPatterns(requests_before_pattern=3)
    head = head_of(b"Host: x", b'If-None-Match: "a"')
    for _ in range(3):
        assert patterns.match(head, len(LINE)) is None
        patterns.learn(b"host:if-none-match")
    fits = patterns.match(head, len(LINE))
    assert fits is not None
    assert fits[1] == b'"a"'
    assert patterns.match(head_of(b"Host: x"), len(LINE)) is None


def test_the_pattern_that_fits_comes_first_the_next_time() -> None:
    patterns = HeadPatterns(requests_before_pattern=1)
    layouts = [b"host:x-%d" % number for number in range(MAX_RECENT + 1)]
    for names in layouts:
        patterns.learn(names)
    assert patterns.match(head_of(b"Host: x", b"X-0: a"), len(LINE)) is None  # the one that was of no use longest
    assert patterns.match(head_of(b"Host: x", b"X-2: a"), len(LINE)) is not None
    assert patterns.recent[0].fullmatch(head_of(b"Host: x", b"X-2: b"), len(LINE)) is not None
    patterns.learn(layouts[0])
    assert len(patterns.recent) == MAX_RECENT
    assert patterns.match(head_of(b"Host: x", b"X-0: a"), len(LINE)) is not None


def test_layouts_without_number_are_not_kept() -> None:
    patterns = HeadPatterns(requests_before_pattern=2)
    for number in range(3 * MAX_KNOWN):
        patterns.learn(b"host:x-%d" % number)
        assert patterns.known <= MAX_KNOWN
    assert patterns.recent == []


def test_a_head_that_nearly_fits_is_refused_in_time() -> None:
    # Each value can be cut in thousands of places; a pattern that went back over them would take years.
    pattern = compile_pattern(b":".join((b"host", *(b"x-%d" % number for number in range(30)))))
    lines = [b"X-%d: %b" % (number, b"a: " * 30) for number in range(29)]
    assert pattern.fullmatch(head_of(b"Host: x", *lines), len(LINE)) is None


def test_a_layout_gets_its_pattern_also_when_as_many_are_known_as_may_be() -> None:
    patterns = HeadPatterns(requests_before_pattern=3)
    for number in range(MAX_KNOWN):
        patterns.learn(b"host:x-%d" % number)
    for _ in range(2):
        patterns.learn(b"host:x-7")
    assert patterns.match(head_of(b"Host: x", b"X-7: a"), len(LINE)) is not None
    assert patterns.known == MAX_KNOWN
