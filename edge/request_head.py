"""A strict grammar of a whole HTTP/1.1 request head: what the lane may understand, a small part of what is valid.

Pure: bytes in, what they say out, or None. None never means that a request is wrong, only that it is for aiohttp to
judge. What is accepted has one meaning to everybody: lines end with CRLF and nothing else does; names are tokens that
touch their colon; values hold no control characters; no name comes twice; nothing asks for another framing than
``Content-Length`` (RFC 9112 sections 2 to 6). Limits are below those that aiohttp is given in `edge.connections`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

CRLF = b"\r\n"
END = b"\r\n\r\n"
# Heads of devices behind two proxies have some 1.5 KB and 20 fields.
MAX_HEAD_BYTES = 4096
MAX_FIELDS = 40

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# field-line = field-name ":" OWS field-value OWS; no obs-fold, since no line can begin with a space.
_FIELDS = re.compile(rb"(?:\r\n" + _TOKEN + rb":[\t\x20-\x7e\x80-\xff]*)+\r\n\r\n")
_NAMES = re.compile(rb"\r\n(" + _TOKEN + rb"):")
# Origin form only (RFC 9112 section 3.2.1), and methods that mean what they say; CONNECT changes the protocol.
_REQUEST_LINE = re.compile(rb"(?:GET|HEAD|PUT|POST) /[!-~]* HTTP/1\.1")
_HOST = re.compile(rb"\r\nhost:[ \t]*[0-9a-z._\[\]:-]+[ \t]*\r\n")
# A colon within a value cannot begin a line, so what follows a line's end and these names is that field.
_KEEP_ALIVE = re.compile(rb"\r\nconnection:[ \t]*keep-alive[ \t]*\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,15})[ \t]*\r\n")
_IF_NONE_MATCH = re.compile(rb"\r\nif-none-match:[ \t]*([^\r]*?)[ \t]*(?=\r\n)", re.IGNORECASE)
# One entity tag (RFC 9110 section 8.8.3); a weak one matches by weak comparison (13.1.2).
_ENTITY_TAG = re.compile(rb'(?:W/)?("[!\x23-\x7e]*")')

# With one of these the end of the request, or what becomes of the connection, is not ours to know. llhttp, aiohttp's
# parser, takes Proxy-Connection for Connection.
_FRAMING = frozenset(
    [b"transfer-encoding", b"te", b"trailer", b"upgrade", b"expect", b"proxy-connection", b"http2-settings"]
)
# With one of these the answer to a check may be another one than the entity tag alone calls for.
_CONDITIONS = frozenset([b"if-match", b"if-modified-since", b"if-unmodified-since", b"if-range", b"range"])


class Head(NamedTuple):
    """A request head that has one meaning.

    Args:
        request_line: without its end.
        block: from the end of the request line on, without the line of ``If-None-Match``; ends with an empty line.
        tag: the value of ``If-None-Match``.
        body_bytes: length of the body that follows; None when the head tells none.
        conditional: whether other fields than ``If-None-Match`` may change the answer to a GET.
    """

    request_line: bytes
    block: bytes
    tag: bytes | None
    body_bytes: int | None
    conditional: bool


def parse_head(data: bytes) -> Head | None:
    """Return what the head says, or None unless ``data`` is exactly one head of the strict grammar."""
    at = data.find(CRLF)
    if at < 0 or len(data) > MAX_HEAD_BYTES:
        return None
    request_line, block = data[:at], data[at:]
    if not _REQUEST_LINE.fullmatch(request_line) or not _FIELDS.fullmatch(block):
        return None
    folded = block.lower()
    in_order = _NAMES.findall(folded)
    names = frozenset(in_order)
    if len(names) != len(in_order) or len(names) > MAX_FIELDS or not _FRAMING.isdisjoint(names):
        return None
    if not _HOST.search(folded) or (b"connection" in names and not _KEEP_ALIVE.search(folded)):
        return None
    body_bytes = None
    if b"content-length" in names:
        length = _LENGTH.search(folded)
        if length is None:
            return None
        body_bytes = int(length[1])
    tag = None
    if b"if-none-match" in names:
        found = _IF_NONE_MATCH.search(block)
        assert found is not None
        tag, block = found[1], block[: found.start()] + block[found.end() :]
    return Head(request_line, block, tag, body_bytes, not _CONDITIONS.isdisjoint(names))


def strong_tag(value: bytes) -> bytes | None:
    """Return the one entity tag that ``value`` is, as a strong one; None for lists, ``*`` and what is no tag."""
    tag = _ENTITY_TAG.fullmatch(value)
    return tag[1] if tag else None
