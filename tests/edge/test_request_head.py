"""The strict grammar of request heads: what it takes has one meaning, and remembering changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.memory import BoundedMemory, Doorkeeper
from edge.request_head import (
    CRLF,
    MAX_FIELDS,
    MAX_LINE_BYTES,
    MAX_LINES,
    MAX_NAME_BYTES,
    MAX_NAMES,
    Head,
    HeadReader,
    is_request_line,
)
from tests.edge.heads import CLIENTS, check

LINE = b"GET /x HTTP/1.1"


def read(*lines: bytes, reader: HeadReader | None = None) -> Head | None:
    head = CRLF.join([LINE, *lines, b"", b""])
    return (reader or HeadReader()).read(head, len(LINE))


@pytest.mark.parametrize("name", CLIENTS)
def test_heads_of_real_clients_are_read(name: str) -> None:
    head = CLIENTS[name]
    fields = HeadReader().read(head, head.find(CRLF))
    assert fields is not None
    assert fields.tag is not None
    assert b"{etag}" in fields.tag
    assert (fields.body_bytes, fields.conditional) == (None, False)


def test_tag_and_length_are_told_without_the_white_space_around_them() -> None:
    assert read(b"Host: x", b'IF-none-MATCH:\t "a" ', b"content-LENGTH:  17 ") == Head(b'"a"', 17, False)
    assert read(b"host:x") == Head(None, None, False)
    assert read(b"Host: x", b"content-TYPE:a/b; c=d\t", b"Content-Encoding: ") == Head(
        None, None, False, b"a/b; c=d", b""
    )


@pytest.mark.parametrize("name", [b"If-Match", b"If-Modified-Since", b"If-Unmodified-Since", b"If-Range", b"RANGE"])
def test_other_conditions_are_told(name: bytes) -> None:
    alone = b"a" if name == b"RANGE" else None
    assert read(b"Host: x", name + b": a") == Head(None, None, True, range=alone)
    assert read(b"Host: x", name + b": a", b"If-Unknown: b", b"If-Match: c") in (
        Head(None, None, True),
        None,  # twice the same
    )


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [b"Accept: */*"],
        [b"Host: x", b"Host: x"],
        [b"Host: x", b"A: 1", b"a: 2"],
        [b"Host:"],
        [b"Host: a b"],
        [b"Host: a/b"],
        [b"Host: x", b""],
        [b"Host: x", b"A : 1"],
        [b"Host: x", b" A: 1"],
        [b"Host: x", b"A"],
        [b"Host: x", b": 1"],
        [b"Host: x", b"A: \x00"],
        [b"Host: x", b"A: \n"],
        [b"Host: x", b"A: \r"],
        [b"Host: x", b"A: \x7f"],
        [b"Host: x", b"A\xe9: 1"],
        [b"Host: x", b"Connection: close"],
        [b"Host: x", b"Connection: keep-alive, close"],
        [b"Host: x", b"Connection:"],
        [b"Host: x", b"Proxy-Connection: keep-alive"],
        [b"Host: x", b"Transfer-Encoding: identity"],
        [b"Host: x", b"Expect: 100-continue"],
        [b"Host: x", b"Upgrade: h2c"],
        [b"Host: x", b"TE: trailers"],
        [b"Host: x", b"Trailer: A"],
        [b"Host: x", b"Content-Length: "],
        [b"Host: x", b"Content-Length: -1"],
        [b"Host: x", b"Content-Length: 1, 1"],
        [b"Host: x", b"Content-Length: 1_0"],
        [b"Host: x", b"Content-Length: " + b"9" * 16],
    ],
)
def test_what_may_have_two_meanings_is_not_read(lines: list[bytes]) -> None:
    reader = HeadReader()
    assert read(*lines, reader=reader) is None
    assert read(*lines, reader=reader) is None  # nor once its sound lines are remembered
    assert read(b"Host: x", reader=reader) is not None


def test_fields_are_bounded_in_number() -> None:
    fields = [b"X-%d: a" % number for number in range(MAX_FIELDS)]
    assert read(b"Host: x", *fields[1:]) is not None
    assert read(b"Host: x", *fields) is None


@pytest.mark.parametrize(
    ("line", "taken"),
    [
        (b"GET / HTTP/1.1", True),
        (b"PUT /v2/a?b=c HTTP/1.1", True),
        (b"CONNECT /x HTTP/1.1", False),
        (b"OPTIONS * HTTP/1.1", False),
        (b"GET http://x/ HTTP/1.1", False),
        (b"GET / HTTP/1.0", False),
        (b"GET / HTTP/1.1\n", False),
        (b"GET  / HTTP/1.1", False),
        (b"GET /\xe9 HTTP/1.1", False),
        (b"GET /a b HTTP/1.1", False),
        (b"get / HTTP/1.1", False),
    ],
)
def test_request_lines_have_one_form(line: bytes, taken: bool) -> None:
    assert is_request_line(line) is taken


LINES = st.one_of(
    st.sampled_from([b"Host: x", b"host:y", b'If-None-Match: "a"', b"If-None-Match:", b"Content-Length: 3", b"A: b"]),
    st.sampled_from([b"Content-Type: a/b ", b"content-encoding:gzip"]),
    st.sampled_from([b"Connection: keep-alive", b"Connection: close", b"Range: a", b"A:\tb ", b"a: \xff", b"A : b"]),
    st.binary(max_size=8),
)


@given(st.lists(st.lists(LINES, max_size=5), max_size=6))
def test_remembering_changes_no_reading(heads: list[list[bytes]]) -> None:
    remembering = HeadReader()
    for lines in heads:
        assert read(*lines, reader=remembering) == read(*lines)


def test_a_million_distinct_lines_are_not_remembered() -> None:
    reader = HeadReader()
    for number in range(2 * MAX_LINES):
        assert read(b"Host: x", b"X-Request-Id: %d" % number, reader=reader) is not None
        assert len(reader.lines) <= MAX_LINES
    assert read(b"Host: x", b"X-Long: " + b"a" * MAX_LINE_BYTES, reader=reader) is not None
    assert max(map(len, reader.lines)) <= MAX_LINE_BYTES


def test_a_full_memory_begins_anew() -> None:
    memory: BoundedMemory[int] = BoundedMemory(most=2, max_bytes=3)
    for key, value in ((b"a", 1), (b"b", 2), (b"long", 3)):
        memory.add(key, value)
    assert memory == {b"a": 1, b"b": 2}
    memory.add(b"c", 4)
    assert memory == {b"c": 4}


def test_what_came_lately_is_told_until_too_much_came() -> None:
    doorkeeper = Doorkeeper(most=2)
    assert [doorkeeper.came_before(key) for key in (b"a", b"a", b"b", b"a", b"c")] == [False, True, False, True, False]
    assert len(doorkeeper.hashes) == 1
    assert [doorkeeper.came_before(key) for key in (b"c", b"a")] == [True, False]


def test_a_million_distinct_names_are_not_remembered() -> None:
    reader = HeadReader()
    for number in range(2 * MAX_NAMES):
        assert read(b"Host: x", b"X-%d: a" % number, reader=reader) is not None
        assert len(reader.names) <= MAX_NAMES
    assert read(b"Host: x", b"X" * (MAX_NAME_BYTES + 1) + b": a", reader=reader) is not None
    assert max(map(len, reader.names)) <= MAX_NAME_BYTES


@pytest.mark.parametrize("name", [b"Host", b"hOsT", b"Connection", b"Content-Length"])
def test_what_a_name_may_say_is_asked_in_every_spelling(name: bytes) -> None:
    reader = HeadReader()
    other = [] if name.lower() == b"host" else [b"Host: x"]
    assert read(*other, name + b": ,", reader=reader) is None
    assert read(*other, name + b": ,", reader=reader) is None


def test_a_check_has_no_body() -> None:
    head = check()
    assert HeadReader().read(head, head.find(CRLF)) == Head(b"{etag}", None, False)
