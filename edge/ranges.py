"""Byte ranges: which parts of a representation a ``Range`` header asks for (RFC 9110 section 14).

Pure arithmetic: a header and a length in, ranges out; and the layout of a ``multipart/byteranges`` answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from edge.errors import NotSatisfiable

# A device resumes with one range and a player of archives asks for a few. More than this in one request is, in the
# words of RFC 9110 section 14.2, a broken client or an attack, and is refused with 416.
MAX_RANGES = 16

# Ranges nearer to each other than this are sent as one: the head of a part costs more than the gap between them
# (RFC 9110 section 15.3.7.2 names 80 octets).
MERGE_GAP = 80

# No file has a length of more digits; beyond it, a number is only known to be larger than any file.
_MAX_DIGITS = 18
_BEYOND = 10**_MAX_DIGITS

_UNIT = re.compile(r"bytes=(.*)", re.IGNORECASE)
_SPEC = re.compile(r"([0-9]*)-([0-9]*)")


@dataclass(frozen=True, slots=True, order=True)
class ByteRange:
    """Bytes ``first`` to ``last``, both included, as in ``Content-Range``."""

    first: int
    last: int

    @property
    def length(self) -> int:
        """Number of bytes."""
        return self.last - self.first + 1

    def content_range(self, total: int) -> str:
        """Return the value of ``Content-Range`` within a representation of ``total`` bytes."""
        return f"bytes {self.first}-{self.last}/{total}"


def select_ranges(values: Sequence[str], length: int) -> tuple[ByteRange, ...] | None:
    """Return the ranges to send, or None when the whole representation is to be sent.

    A field that is absent, repeated, of another unit or not by the grammar is ignored, as section 14.2 asks. Ranges
    that overlap or nearly touch are merged; the others keep the order in which they were asked for (15.3.7.2).

    Args:
        values: every value of the ``Range`` field.
        length: complete length of the representation, in bytes.

    Raises:
        NotSatisfiable: no range asked for lies within the representation, or there are more than `MAX_RANGES`.
    """
    specs = _parse(values[0]) if len(values) == 1 else None
    if specs is None:
        return None
    if len(specs) > MAX_RANGES:
        raise NotSatisfiable(f"At most {MAX_RANGES} ranges may be asked for at once.", length)
    if length == 0 and any(first is None and last for first, last in specs):
        return None  # the last n bytes of nothing are nothing, which no Content-Range can say: send the whole
    found = [found for spec in specs if (found := _resolve(spec, length))]
    if not found:
        raise NotSatisfiable(f"No range asked for lies within the {length} bytes.", length)
    return _merge(found)


_Spec = tuple[int | None, int | None]


def _parse(value: str) -> list[_Spec] | None:
    """Return (first, last) of each range-spec, (None, n) for the last n bytes; None when the grammar is not met."""
    unit = _UNIT.fullmatch(value)
    if unit is None:
        return None
    specs = [_parse_spec(element) for part in unit[1].split(",") if (element := part.strip(" \t"))]
    known = [spec for spec in specs if spec is not None]
    return known if known and len(known) == len(specs) else None


def _parse_spec(element: str) -> _Spec | None:
    spec = _SPEC.fullmatch(element)
    if spec is None:
        return None
    first, last = _number(spec[1]), _number(spec[2])
    if first is None and last is None:
        return None
    return None if first is not None and last is not None and first > last else (first, last)


def _number(digits: str) -> int | None:
    if not digits:
        return None
    significant = digits.lstrip("0")
    return _BEYOND if len(significant) > _MAX_DIGITS else int(significant or "0")


def _resolve(spec: _Spec, length: int) -> ByteRange | None:
    """Return the bytes that a range-spec means here, or None when it is not satisfiable."""
    first, last = spec
    if first is None:
        first, last = max(0, length - (last or 0)), None
    if first >= length:
        return None
    return ByteRange(first, length - 1 if last is None else min(last, length - 1))


def _merge(ranges: Sequence[ByteRange]) -> tuple[ByteRange, ...]:
    """Join what overlaps or is nearer than `MERGE_GAP`; keep the order of the first asked of each."""
    by_place = sorted(range(len(ranges)), key=lambda index: ranges[index])
    merged: list[tuple[int, ByteRange]] = []
    for index in by_place:
        current = ranges[index]
        if merged and current.first <= merged[-1][1].last + 1 + MERGE_GAP:
            order, before = merged[-1]
            merged[-1] = (min(order, index), ByteRange(before.first, max(before.last, current.last)))
        else:
            merged.append((index, current))
    return tuple(found for _, found in sorted(merged))


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a multipart answer: the bytes before its content, and which content."""

    head: bytes
    content: ByteRange


@dataclass(frozen=True, slots=True)
class Multipart:
    """The layout of a ``multipart/byteranges`` body (RFC 9110 section 14.6).

    Args:
        content_type: value of the answer's ``Content-Type``.
        parts: in the order in which they are sent.
        tail: the bytes after the last part.
    """

    content_type: str
    parts: tuple[Part, ...]
    tail: bytes

    @property
    def length(self) -> int:
        """Length of the whole body, in bytes."""
        return sum(len(part.head) + part.content.length for part in self.parts) + len(self.tail)


def lay_out(ranges: Sequence[ByteRange], total: int, content_type: str, boundary: str) -> Multipart:
    """Return the layout of an answer that holds all ``ranges`` of a representation of ``total`` bytes.

    Args:
        ranges: what to send.
        total: complete length of the representation, in bytes.
        content_type: type of the representation.
        boundary: a text of letters and digits that does not occur in the content; a random one of 128 bits does not.
    """
    parts = tuple(Part(_head(found, total, content_type, boundary), found) for found in ranges)
    return Multipart(f"multipart/byteranges; boundary={boundary}", parts, f"\r\n--{boundary}--\r\n".encode())


def _head(content: ByteRange, total: int, content_type: str, boundary: str) -> bytes:
    lines = ("", f"--{boundary}", f"Content-Type: {content_type}", f"Content-Range: {content.content_range(total)}")
    return "\r\n".join((*lines, "", "")).encode()
