"""A strict grammar of a whole HTTP/1.1 request head: what the lane may understand, a small part of what is valid.

Bytes in, what they say out, or None. None never means that a request is wrong, only that it is for aiohttp to judge.
What is accepted has one meaning to everybody: lines end with CRLF and nothing else does; names are tokens that touch
their colon; values hold no control characters; no name comes twice; nothing asks for another framing than
``Content-Length`` (RFC 9112 sections 2 to 6). Limits are below those that aiohttp is given in `edge.connections`.

A line's meaning does not depend on its neighbours, so a line that was read once is remembered with its name; what
differs with every request costs one line then, not a whole head.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

from edge.memory import BoundedMemory

CRLF = b"\r\n"
END = b"\r\n\r\n"
# Heads of devices behind two proxies have some 1.5 KB and 20 fields.
MAX_HEAD_BYTES = 4096
MAX_FIELDS = 40
# Kinds of devices number in the hundreds: app and OS version, device, language. 2 MiB at the most, in practice a third.
MAX_LINES = 8192
MAX_LINE_BYTES = 256
# Orders in which clients and proxies write their fields: dozens.
MAX_LAYOUTS = 512
MAX_LAYOUT_BYTES = 1024

# Origin form only (RFC 9112 section 3.2.1), and methods that mean what they say; CONNECT changes the protocol.
_REQUEST_LINE = re.compile(rb"(?:GET|HEAD|PUT|POST) /[!-~]* HTTP/1\.1")
# field-line = field-name ":" OWS field-value OWS; no obs-fold, since no line can begin with a space.
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")

# What these fields may say; white space before the value is gone.
_VALUES = {
    b"host": re.compile(rb"[0-9A-Za-z._\[\]:-]+[ \t]*"),
    b"connection": re.compile(rb"keep-alive[ \t]*", re.IGNORECASE),
    b"content-length": re.compile(rb"[0-9]{1,15}[ \t]*"),
}
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
        tag: place of ``If-None-Match`` among the fields, or -1.
        length: place of ``Content-Length``, or -1.
        conditional: whether other fields than ``If-None-Match`` may change the answer to a GET.
        content_type, content_encoding: places of these fields, or -1.
        range: place of ``Range`` when it is the only one of those, or -1.
    """

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
        new: whether a line of it was not remembered, so that no such head can have been read lately.
        content_type, content_encoding: the values of these fields.
        range: the value of ``Range`` when no other field but ``If-None-Match`` may change the answer.
    """

    tag: bytes | None
    body_bytes: int | None
    conditional: bool
    new: bool
    content_type: bytes | None = None
    content_encoding: bytes | None = None
    range: bytes | None = None


def is_request_line(line: bytes) -> bool:
    """Say whether a line, without its end, asks for a path in a way that has one meaning."""
    return _REQUEST_LINE.fullmatch(line) is not None


def read_name(line: bytes) -> bytes | None:
    """Return the name of a field in lower case, or None when the line is not one that we take."""
    field = _FIELD.fullmatch(line)
    if field is None:
        return None
    name = field[1].lower()
    if name in _VALUES and not _VALUES[name].fullmatch(field[2]):
        return None
    return None if name in _FRAMING else name


def read_layout(names: list[bytes]) -> Layout | None:
    """Return what the names say, or None when they do not make a head that we take."""
    places = {name: place for place, name in enumerate(names)}
    if len(places) != len(names) or len(names) > MAX_FIELDS or b"host" not in places:
        return None
    return Layout(
        places.get(b"if-none-match", -1),
        places.get(b"content-length", -1),
        not _CONDITIONS.isdisjoint(places),
        places.get(b"content-type", -1),
        places.get(b"content-encoding", -1),
        places.get(b"range", -1) if len(_CONDITIONS.intersection(places)) == 1 else -1,
    )


class HeadReader:
    """Reads the fields of heads, and remembers lines and layouts that it has accepted."""

    __slots__ = ("_layouts", "_lines")

    def __init__(self) -> None:
        self._lines: BoundedMemory[bytes] = BoundedMemory(MAX_LINES, MAX_LINE_BYTES)
        self._layouts: BoundedMemory[Layout] = BoundedMemory(MAX_LAYOUTS, MAX_LAYOUT_BYTES)

    @property
    def lines(self) -> Collection[bytes]:
        """The lines that are remembered."""
        return self._lines.entries.keys()

    @property
    def layouts(self) -> Collection[bytes]:
        """The layouts that are remembered, as names joined by colons."""
        return self._layouts.entries.keys()

    def read(self, head: bytes, start: int) -> Head | None:
        """Return what the fields of a head say, or None when it is not of the grammar.

        Args:
            head: ends with the first empty line in it.
            start: where the line end after the request line is, which is not read here.
        """
        lines = head[start + 2 : -4].split(CRLF)
        names: list[bytes | None] = list(map(self._lines.entries.get, lines))
        new = None in names
        if new and not self._learn(lines, names):
            return None
        layout = self._layout(names)  # type: ignore[arg-type] # all are there now
        if layout is None:
            return None
        tag = length = kind = encoding = content = None
        if layout.tag >= 0:
            tag = lines[layout.tag][len(b"if-none-match:") :].strip(b" \t")
        if layout.length >= 0:
            length = int(lines[layout.length][len(b"content-length:") :])
        if layout.content_type >= 0:
            kind = lines[layout.content_type][len(b"content-type:") :].strip(b" \t")
        if layout.content_encoding >= 0:
            encoding = lines[layout.content_encoding][len(b"content-encoding:") :].strip(b" \t")
        if layout.range >= 0:
            content = lines[layout.range][len(b"range:") :].strip(b" \t")
        return Head(tag, length, layout.conditional, new, kind, encoding, content)

    def _learn(self, lines: list[bytes], names: list[bytes | None]) -> bool:
        """Read the lines whose names are not known; say whether they could be read."""
        for place, name in enumerate(names):
            if name is None:
                line = lines[place]
                name = read_name(line)
                if name is None:
                    return False
                names[place] = name
                self._lines.add(line, name)
        return True

    def _layout(self, names: list[bytes]) -> Layout | None:
        key = b":".join(names)  # no name has a colon
        layout = self._layouts.entries.get(key)
        if layout is None:
            layout = read_layout(names)
            if layout is not None:
                self._layouts.add(key, layout)
        return layout
