"""Reading a request's body: bounded as sent, bounded once unpacked, and within a time.

Three encodings of RFC 9110 section 8.4 are undone here, one at a time: identity, gzip (RFC 1952) and zstd (RFC 8878).
Unpacking stops as soon as the bound is passed, so a small body that swells to gigabytes costs little more than the
bound.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web
from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

from edge.errors import Invalid, TooLarge, TooSlow, UnsupportedEncoding

# What RFC 8878 section 3.1.1.1.2 recommends decoders to support at least; more is memory that a sender chooses.
MAX_ZSTD_WINDOW_LOG = 23  # 8 MiB
# Every member costs a new decoder and a copy of the rest, so a body of tiny members would cost its square.
MAX_GZIP_MEMBERS = 16
GZIP_AND_ZLIB = 16 + zlib.MAX_WBITS  # tells zlib to expect the gzip form


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """What a body may take: ``max_bytes`` as sent and once unpacked, ``seconds`` to arrive."""

    max_bytes: int
    seconds: float


async def read_body(request: web.Request, limits: BodyLimits) -> bytes:
    """Return the body of ``request`` without its content encoding.

    Raises:
        TooLarge: over the bound, as sent or unpacked.
        TooSlow: it did not arrive in time.
        UnsupportedEncoding: an encoding that we do not know, or several on top of each other.
        Invalid: it is not in the encoding that it claims.
    """
    unpack = _unpacker(request.headers.getall("Content-Encoding", []))
    if request.content_length is not None and request.content_length > limits.max_bytes:
        raise _too_large(limits.max_bytes)
    try:
        async with asyncio.timeout(limits.seconds):
            body = await _read(request, limits.max_bytes)
    except TimeoutError:
        raise TooSlow(f"The body did not arrive within {limits.seconds:g} seconds.") from None
    return unpack(body, limits.max_bytes)


async def _read(request: web.Request, bound: int) -> bytes:
    chunks = bytearray()
    try:
        async for chunk in request.content.iter_any():
            chunks += chunk
            if len(chunks) > bound:
                raise _too_large(bound)
    except web.RequestPayloadError:
        raise Invalid("The body ends before its announced length, or its chunks are malformed.", "bad_body") from None
    return bytes(chunks)


_Unpack = Callable[[bytes, int], bytes]


def _unpacker(encodings: list[str]) -> _Unpack:
    named = [name.strip().lower() for field in encodings for name in field.split(",")]
    applied = [name for name in named if name not in ("", "identity")]
    if not applied:
        return _identity
    if len(applied) > 1 or applied[0] not in _UNPACKERS:
        raise UnsupportedEncoding("Content-Encoding must be zstd, gzip or identity.")
    return _UNPACKERS[applied[0]]


def _identity(body: bytes, _: int) -> bytes:
    return body


def _gunzip(body: bytes, bound: int) -> bytes:
    """Unpack gzip; several members in a row are one content (RFC 1952 section 2.2)."""
    content = bytearray()
    for _ in range(MAX_GZIP_MEMBERS):
        member = zlib.decompressobj(GZIP_AND_ZLIB)
        try:
            content += member.decompress(body, bound + 1 - len(content))
        except zlib.error:
            raise _not_in("gzip") from None
        if len(content) > bound:
            raise _too_large(bound)
        if not member.eof:
            raise _not_in("gzip")
        if not member.unused_data:
            return bytes(content)
        body = member.unused_data
    raise _not_in("gzip")


def _unzstd(body: bytes, bound: int) -> bytes:
    """Unpack one zstd frame."""
    frame = ZstdDecompressor(options={DecompressionParameter.window_log_max: MAX_ZSTD_WINDOW_LOG})
    try:
        content = frame.decompress(body, bound + 1)
    except ZstdError:
        raise _not_in("zstd") from None
    if len(content) > bound:
        raise _too_large(bound)
    if not frame.eof or frame.unused_data:
        raise _not_in("zstd")
    return content


_UNPACKERS: dict[str, _Unpack] = {"gzip": _gunzip, "x-gzip": _gunzip, "zstd": _unzstd}


def _too_large(bound: int) -> TooLarge:
    return TooLarge(f"A body has at most {bound} bytes, as sent and unpacked.")


def _not_in(encoding: str) -> Invalid:
    return Invalid(f"The body is not one whole {encoding} stream.", "bad_encoding")
