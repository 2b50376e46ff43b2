"""What can go wrong at the edge, split by what the device does next, and the one shape in which it is told.

Every failure of every route has the same body, ``{"error": "<sentence>", "code": "<word>"}``. Codes are stable and
meant for programs, sentences are for people. ``HTTP_STATUS`` is the one table from an error to a status.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from aiohttp import web

# Nothing that failed may be kept by a cache between us and the device: the key may be published a second later.
UNCACHED = "no-store"

# A short pause for a limit that frees itself within a request or two.
BUSY_RETRY_SECONDS = 2
# A longer one for a neighbour that does not answer: Redis and object stores come back in seconds, not milliseconds.
UNAVAILABLE_RETRY_SECONDS = 10


class EdgeError(Exception):
    """Base of all errors that a device may see.

    Args:
        sentence: what happened, for a person; never a secret, never a path of this machine.
        code: stable lower-case words joined by underscores, for programs.
        retry_after: seconds after which trying again makes sense, for the ``Retry-After`` header.
    """

    default_code = "error"
    default_retry_after: int | None = None

    def __init__(self, sentence: str, code: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.code = code or self.default_code
        self.retry_after = retry_after if retry_after is not None else self.default_retry_after

    def headers(self) -> dict[str, str]:
        """Return the headers that this error adds to its answer."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


class Invalid(EdgeError):
    """The request can never succeed as it is: correct it."""

    default_code = "invalid"


class Missing(EdgeError):
    """No such thing here."""

    default_code = "not_found"


class PreconditionFailed(EdgeError):
    """``If-Match`` or ``If-Unmodified-Since`` does not hold (RFC 9110 section 13.1)."""

    default_code = "precondition_failed"


class TooSlow(EdgeError):
    """The body did not arrive in the time a body has."""

    default_code = "timeout"


class TooLarge(EdgeError):
    """Over a named limit; the sentence names the limit."""

    default_code = "too_large"


class UnsupportedEncoding(EdgeError):
    """A ``Content-Encoding`` that we cannot undo."""

    default_code = "unsupported_encoding"

    def headers(self) -> dict[str, str]:
        """Name what we do accept (RFC 9110 section 12.5.3)."""
        return super().headers() | {"Accept-Encoding": "zstd, gzip, identity"}


class NotSatisfiable(EdgeError):
    """None of the ranges asked for lies within the representation, or there are too many (RFC 9110 section 15.5.17).

    Args:
        sentence: what is wrong with the ranges.
        length: complete length of the representation, in bytes.
    """

    default_code = "range_not_satisfiable"

    def __init__(self, sentence: str, length: int) -> None:
        super().__init__(sentence)
        self.length = length

    def headers(self) -> dict[str, str]:
        """Tell the length, so that the client can ask again rightly."""
        return super().headers() | {"Content-Range": f"bytes */{self.length}"}


class Busy(EdgeError):
    """A bound on concurrent work is reached; it frees itself."""

    default_code = "busy"
    default_retry_after = BUSY_RETRY_SECONDS


class Unavailable(EdgeError):
    """Something behind us does not answer; trying again later may work."""

    default_code = "unavailable"
    default_retry_after = UNAVAILABLE_RETRY_SECONDS


HTTP_STATUS: dict[type[EdgeError], int] = {
    Invalid: 400,
    Missing: 404,
    TooSlow: 408,
    PreconditionFailed: 412,
    TooLarge: 413,
    UnsupportedEncoding: 415,
    NotSatisfiable: 416,
    Busy: 429,
    Unavailable: 503,
}


def error_body(sentence: str, code: str) -> bytes:
    """Return the body that every failure has."""
    return json.dumps({"error": sentence, "code": code}).encode() + b"\n"


def render(status: int, sentence: str, code: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return the answer to a failure, which no cache may keep."""
    return web.Response(
        status=status,
        body=error_body(sentence, code),
        content_type="application/json",
        headers={"Cache-Control": UNCACHED, **(headers or {})},
    )


def render_error(error: EdgeError) -> web.Response:
    """Return the answer to ``error``."""
    return render(HTTP_STATUS[type(error)], error.sentence, error.code, error.headers())
