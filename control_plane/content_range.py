"""Which bytes of an upload a request carries: `Content-Range` on a PUT.

RFC 9110, section 14.4, gives the grammar and section 14.5 leaves partial PUT to the server; the conversation
(308 with `Range` while bytes are missing, `bytes */total` to ask how far it came) is the one that Google's and other
object stores speak, so ordinary clients know it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from control_plane.errors import Invalid

# 18 digits are an exabyte; longer numbers only cost time to parse.
_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes that a request carries.

    Args:
        start: offset of the first one.
        length: how many; None when the request did not say, then it is all up to the end of the body.
        total: the whole upload's length; None when the request did not say, then this is its last part.
    """

    start: int
    length: int | None
    total: int | None

    @property
    def is_question(self) -> bool:
        """Whether it carries nothing and only asks how far the upload came."""
        return self.length == 0 and self.total != 0

    def ends_upload(self, end: int) -> bool:
        """Tell whether the upload is whole once it is ``end`` bytes long."""
        return self.total is None or end == self.total


def part_of(content_range: str | None, content_length: int | None) -> Part:
    """Return which bytes a request carries.

    Args:
        content_range: the header, or None for a request that carries the whole upload.
        content_length: the body's length, or None when it is chunked.

    Raises:
        Invalid: the header is malformed or contradicts the body's length.
    """
    if content_range is None:
        return Part(0, content_length, content_length)
    match = _CONTENT_RANGE.fullmatch(content_range.strip())
    if match is None:
        raise Invalid("Content-Range must be 'bytes <first>-<last>/<total>' or 'bytes */<total>'.", "invalid_range")
    total = int(match[3])
    if match[1] is None:
        return _question(total, content_length)
    return _given_part(int(match[1]), int(match[2]), total, content_length)


def _question(total: int, content_length: int | None) -> Part:
    if content_length not in (None, 0):
        raise Invalid("A request with 'Content-Range: bytes */<total>' has no body.", "invalid_range")
    return Part(0, 0, total)


def _given_part(first: int, last: int, total: int, content_length: int | None) -> Part:
    if not first <= last < total:
        raise Invalid(f"Content-Range bytes {first}-{last}/{total} is not a range.", "invalid_range")
    length = last - first + 1
    if content_length not in (None, length):
        raise Invalid(f"Content-Range names {length} bytes and the body has {content_length}.", "invalid_range")
    return Part(first, length, total)
