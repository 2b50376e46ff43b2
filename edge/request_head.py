"""A strict grammar of a whole HTTP/1.1 request head: what the lane may understand, a small part of what is valid.

Bytes in, what they say out, or None. None never means that a request is wrong, only that it is for aiohttp to judge.
What is accepted has one meaning to everybody: lines end with CRLF and nothing else does; names are tokens that touch
their colon; values hold no control characters; no name comes twice; nothing asks for another framing than
``Content-Length`` (RFC 9112 sections 2 to 6). Limits are below those that aiohttp is given in `edge.connections`.

A line's meaning does not depend on its neighbours, so a line that was read once is remembered with its name; what
differs with every request costs one line then, not a whole head. Names are remembered as well, so that a line that is
new in its value only costs little more than one that is known.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final, NamedTuple

from edge.memory import BoundedMemory

CRLF = b"\r\n"
END = b"\r\n\r\n"
# Heads of devices behind two proxies have some 1.5 KB and 20 fields.
MAX_HEAD_BYTES = 4096
MAX_FIELDS = 40
# Kinds of devices number in the hundreds: app and OS version, device, language. 2 MiB at the most, in practice a third.
MAX_LINES = 8192
MAX_LINE_BYTES = 256
# Names of fields as clients write them: two spellings of each of a hundred. 64 KiB at the most.
MAX_NAMES = 512
MAX_NAME_BYTES = 64
# Orders in which clients and proxies write their fields: dozens.
MAX_LAYOUTS = 512
MAX_LAYOUT_BYTES = 1024

# Origin form only (RFC 9112 section 3.2.1), and methods that mean what they say; CONNECT changes the protocol.
_REQUEST_LINE = re.compile(rb"(?:GET|HEAD|PUT|POST) /[!-~]* HTTP/1\.1")
# field-line = field-name ":" OWS field-value OWS; no obs-fold, since no line can begin with a space.
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# One byte of a field-value, as a pattern and as all of them.
FIELD_VALUE: Final = rb"[\t\x20-\x7e\x80-\xff]"
_VALUE_BYTES: Final = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])

# What these fields may say, without the white space around it.
VALUE_PATTERNS: Final = {
    b"host": rb"[0-9A-Za-z._\[\]:-]+",
    b"connection": rb"(?i:keep-alive)",
    b"content-length": rb"[0-9]{1,15}",
}
_VALUES: Final = {name: re.compile(b"(?:%b)" % pattern) for name, pattern in VALUE_PATTERNS.items()}
# With one of these the end of the request, or what becomes of the connection, is not ours to know. llhttp, aiohttp's
# parser, takes Proxy-Connection for Connection.
_FRAMING = frozenset(
    [b"transfer-encoding", b"te", b"trailer", b"upgrade", b"expect", b"proxy-connection", b"http2-settings"]
)
# With one of these the answer to a check may be another one than the entity tag alone calls for.
_CONDITIONS = frozenset([b"if-match", b"if-modified-since", b"if-unmodified-since", b"if-range", b"range"])


class Layout(NamedTuple):
    """What the names of a head's fields, in their order, say.

    Args:
        names: in lower case and in their order, joined by colons.
        tag: place of ``If-None-Match`` among the fields, or -1.
        length: place of ``Content-Length``, or -1.
        conditional: whether other fields than ``If-None-Match`` may change the answer to a GET.
        content_type, content_encoding: places of these fields, or -1.
        range: place of ``Range`` when it is the only one of those, or -1.
    """

    names: bytes
    tag: int
    length: int
    conditional: bool
    content_type: int = -1
    content_encoding: int = -1
    range: int = -1


class Head(NamedTuple):
    """A request head that has one meaning.

    Args:
        tag: the value of ``If-None-Match``.
        body_bytes: length of the body that follows; None when the head tells none.
        conditional: whether other fields than ``If-None-Match`` may change the answer to a GET.
        content_type, content_encoding: the values of these fields.
        range: the value of ``Range`` when no other field but ``If-None-Match`` may change the answer.
    """

    tag: bytes | None
    body_bytes: int | None
    conditional: bool
    content_type: bytes | None = None
    content_encoding: bytes | None = None
    range: bytes | None = None


def is_request_line(line: bytes) -> bool:
    """Say whether a line, without its end, asks for a path in a way that has one meaning."""
    return _REQUEST_LINE.fullmatch(line) is not None


def read_layout(names: list[bytes]) -> Layout | None:
    """Return what the names say, or None when they do not make a head that we take."""
    places = {name: place for place, name in enumerate(names)}
    if len(places) != len(names) or len(names) > MAX_FIELDS or b"host" not in places:
        return None
    return Layout(
        b":".join(names),
        places.get(b"if-none-match", -1),
        places.get(b"content-length", -1),
        not _CONDITIONS.isdisjoint(places),
        places.get(b"content-type", -1),
        places.get(b"content-encoding", -1),
        places.get(b"range", -1) if len(_CONDITIONS.intersection(places)) == 1 else -1,
    )


def value_of(lines: list[bytes], place: int) -> bytes | None:
    """Return the value of the field at a place among the lines, without white space around it; None for place -1."""
    return None if place < 0 else lines[place].partition(b":")[2].strip(b" \t")


class _Refused(Exception):
    """A line is not one that we take."""


class _Names(BoundedMemory[bytes]):
    """Names in lower case by the spelling that was met: of fields that leave the framing of a request as it is.

    Raises:
        _Refused: on looking up what is no such name.
    """

    def __missing__(self, spelling: bytes) -> bytes:
        name = spelling.lower()
        if name in _FRAMING or not _NAME.fullmatch(spelling):
            raise _Refused
        self.add(spelling, name)
        return name


class _Lines(BoundedMemory[bytes]):
    """Names in lower case by whole lines; a line that is not there is read when it is looked up.

    Raises:
        _Refused: on looking up a line that we do not take.
    """

    __slots__ = ("names",)

    def __init__(self) -> None:
        super().__init__(MAX_LINES, MAX_LINE_BYTES)
        self.names = _Names(MAX_NAMES, MAX_NAME_BYTES)

    def __missing__(self, line: bytes) -> bytes:
        spelling, colon, value = line.partition(b":")
        name = self.names[spelling]
        # What is left when all that a value may have is taken out: it takes a third of the time of a pattern.
        if not colon or value.translate(None, _VALUE_BYTES):
            raise _Refused
        if name in _VALUES and not _VALUES[name].fullmatch(value.strip(b" \t")):
            raise _Refused
        self.add(line, name)
        return name


class HeadReader:
    """Reads the fields of heads, and remembers lines, names and layouts that it has accepted."""

    __slots__ = ("_layouts", "_lines")

    def __init__(self) -> None:
        self._lines = _Lines()
        self._layouts: BoundedMemory[Layout] = BoundedMemory(MAX_LAYOUTS, MAX_LAYOUT_BYTES)

    @property
    def lines(self) -> Collection[bytes]:
        """The lines that are remembered."""
        return self._lines.keys()

    @property
    def names(self) -> Collection[bytes]:
        """The spellings of names that are remembered."""
        return self._lines.names.keys()

    @property
    def layouts(self) -> Collection[bytes]:
        """The layouts that are remembered, as names joined by colons."""
        return self._layouts.keys()

    def scan(self, head: bytes, start: int) -> tuple[Layout, list[bytes]] | None:
        """Return what the names of a head's fields say, and its field lines; None when it is not of the grammar.

        Args:
            head: ends with the first empty line in it.
            start: where the line end after the request line is, which is not read here.
        """
        lines = head[start + 2 : -4].split(CRLF)
        try:
            names = b":".join(map(self._lines.__getitem__, lines))  # no name has a colon
        except _Refused:
            return None
        layout = self._layouts.get(names) or self._read_layout(names)
        return None if layout is None else (layout, lines)

    def read(self, head: bytes, start: int) -> Head | None:
        """Return what the fields of a head say, or None when it is not of the grammar; arguments as for `scan`."""
        found = self.scan(head, start)
        if found is None:
            return None
        layout, lines = found
        length = value_of(lines, layout.length)
        return Head(
            value_of(lines, layout.tag),
            None if length is None else int(length),
            layout.conditional,
            value_of(lines, layout.content_type),
            value_of(lines, layout.content_encoding),
            value_of(lines, layout.range),
        )

    def _read_layout(self, names: bytes) -> Layout | None:
        layout = read_layout(names.split(b":"))
        if layout is not None:
            self._layouts.add(names, layout)
        return layout
