"""Receiving the bytes of an upload over HTTP: streamed to disk, hashed on the way, resumable.

    PUT                                the whole upload: 200
    PUT, Content-Range: bytes a-b/n    a part of it: 308 with `Range: bytes=0-…` until it is whole, then 200
    PUT, Content-Range: bytes */n      no bytes; asks how far it came
    HEAD                               the same question, answered in `Upload-Offset`

A part must begin where the upload stands (409 tells where that is) or at 0, which begins it anew. What came before a
connection was cut off stays, and the next part goes on from there. A sender that is too slow is cut off with 408, and
one that is still sending when its address expires with 403.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from aiohttp import ClientPayloadError, StreamReader, web

from control_plane.content_range import Part, part_of
from control_plane.errors import ControlPlaneError, Forbidden, Invalid, TooLarge, Unavailable
from control_plane.staging import PartWriter, StagedUpload

OFFSET_HEADER = "Upload-Offset"

# A sender that brings less than this in that time (4 KB a second, as for downloads) holds a connection and the upload's
# lock for nothing. Phones and trains have gaps of some seconds.
PART_BYTES = 256 * 1024
PART_SECONDS = 60.0

_log = structlog.get_logger(__name__)


class CutOff(Exception):
    """The sender went away, or was too slow, before it had sent everything; what came is kept."""


def tell_progress(staged: StagedUpload) -> web.Response:
    """Answer HEAD: how many bytes have come."""
    return web.Response(headers=_progress(staged.offset) | {"Cache-Control": "no-store"})


async def receive_part(
    request: web.Request, staged: StagedUpload, max_bytes: int, lasts_seconds: float
) -> web.Response:
    """Store the bytes that a PUT carries and answer it.

    Args:
        max_bytes: how large the whole upload may be.
        lasts_seconds: for how long the upload's address is still valid.

    Raises:
        Forbidden: the address expired while the bytes were coming; what came is kept.
        Invalid: the range is malformed, more came than it names, or the body is compressed on the way.
        TooLarge: the upload is, or turned out to be, over ``max_bytes``; nothing of it is kept.
        Conflict: another request is sending or finishing this upload.
        Unavailable: the disk is full.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Invalid("An upload is sent as it is, without Content-Encoding.", "content_encoding")
    ends_at = asyncio.get_running_loop().time() + lasts_seconds
    part = part_of(request.headers.get("Content-Range"), request.content_length)
    _check_size(max(part.total or 0, part.start + (part.length or 0)), max_bytes)
    with staged.lock():
        if part.is_question:
            return _answer(staged, staged.is_whole)
        if part.start not in (0, staged.offset) or (part.start and staged.is_whole):
            return _wrong_offset(staged.offset)
        try:
            is_whole = await _store(request.content, staged, part, max_bytes, ends_at)
        except CutOff:
            if asyncio.get_running_loop().time() >= ends_at:
                raise Forbidden("This upload URL has expired; begin the upload anew.", "upload_url") from None
            _log.info("upload_cut_off", offset=staged.offset)
            return web.Response(status=408, headers=_progress(staged.offset))
        return _answer(staged, is_whole)


async def _store(content: StreamReader, staged: StagedUpload, part: Part, max_bytes: int, ends_at: float) -> bool:
    """Write the body to disk; return whether the upload is whole now."""
    with disk_errors():
        writer = await asyncio.to_thread(staged.write_at, part.start)
        try:
            await _copy(content, writer, part, max_bytes, ends_at)
        except TooLarge:
            await asyncio.to_thread(staged.discard)
            raise
        finally:
            sha256 = await asyncio.to_thread(writer.close)
        is_whole = part.ends_upload(writer.offset)
        if is_whole:
            await asyncio.to_thread(staged.complete, sha256)
        return is_whole


async def _copy(content: StreamReader, writer: PartWriter, part: Part, max_bytes: int, ends_at: float) -> None:
    now = asyncio.get_running_loop().time
    end = max_bytes if part.length is None else part.start + part.length
    wanted, due = writer.offset + PART_BYTES, now() + PART_SECONDS
    while data := await _next_bytes(content, min(due, ends_at)):
        room = end - writer.offset
        await asyncio.to_thread(writer.write, data[:room])
        if len(data) > room:
            _check_size(writer.offset + len(data) - room, max_bytes)
            raise Invalid("More bytes came than Content-Range names.", "invalid_range")
        if writer.offset >= wanted:
            wanted, due = writer.offset + PART_BYTES, now() + PART_SECONDS
        if now() >= ends_at:  # bytes that are always there already never wait for the time to be up
            raise CutOff


async def _next_bytes(content: StreamReader, by: float) -> bytes:
    """Return what came by then, a moment of the loop's clock, or nothing at the body's end.

    Raises:
        CutOff: nothing came, or nothing more will.
    """
    try:
        async with asyncio.timeout_at(by):
            return await content.readany()
    except (ConnectionError, ClientPayloadError, web.RequestPayloadError, TimeoutError) as error:
        raise CutOff from error


def _check_size(length: int, max_bytes: int) -> None:
    if length > max_bytes:
        raise TooLarge(f"An upload may have at most {max_bytes} bytes.", "upload_too_large")


def _answer(staged: StagedUpload, is_whole: bool) -> web.Response:
    offset = staged.offset
    if is_whole:
        return web.Response(headers={OFFSET_HEADER: str(offset)})
    return web.Response(status=308, headers=_progress(offset))


def _wrong_offset(offset: int) -> web.Response:
    body = {"error": f"The upload goes on at byte {offset}.", "code": "wrong_offset"}
    return web.json_response(body, status=409, headers=_progress(offset))


def _progress(offset: int) -> dict[str, str]:
    """Return the headers that tell how far an upload came. An empty one has no range to name."""
    headers = {OFFSET_HEADER: str(offset)}
    return headers | {"Range": f"bytes=0-{offset - 1}"} if offset else headers


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn a full disk into `Unavailable`; other failures of the disk stay what they are."""
    try:
        yield
    except ControlPlaneError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unavailable("The server's disk is full; try again later.", "disk_full") from error
        raise
