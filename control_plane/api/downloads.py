"""The bytes of versions: sent up through signed addresses, and fetched again exactly as they were sent."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import structlog
from aiohttp import web

from artifacts.errors import BlobMissing, StoreUnavailable
from control_plane import lookup
from control_plane.api.call import Call
from control_plane.api.schemas import DownloadQuery, UploadQuery
from control_plane.api.versions import find_model
from control_plane.errors import Missing, Unavailable
from control_plane.names import is_zip_name
from control_plane.tables import Model, ModelVersion

# A client that takes less than this in that time (4 KB a second) holds a connection and a file for nothing.
PART_BYTES = 256 * 1024
PART_SECONDS = 60.0

_log = structlog.get_logger(__name__)


async def receive_upload(call: Call, query: UploadQuery) -> web.StreamResponse:  # noqa: ARG001 - it is signed
    """Take bytes of an upload (`PUT`), or tell how many are there (`HEAD`). The address itself is the permission."""
    return await call.services.uploads.receive(call.request)


async def download(call: Call, query: DownloadQuery) -> web.StreamResponse:
    """Answer with the uploaded file of a version, byte for byte; a range of it when one is asked for."""
    return await _download(call, lookup.LATEST if query.version is None else str(query.version))


async def download_version(call: Call) -> web.StreamResponse:
    """Answer with the same of the version in the path."""
    return await _download(call, call.part("version"))


async def _download(call: Call, wanted: str) -> web.StreamResponse:
    async with call.database.read() as session:
        _, model = await find_model(session, call)
        version = await lookup.model_version(session, model.id, wanted)
    if version.upload_sha256 is None or version.upload_length is None:
        raise Missing("The model has no finished version of this number.")
    return await _send(call, model, version, version.upload_sha256, version.upload_length)


async def _send(call: Call, model: Model, version: ModelVersion, sha256: str, length: int) -> web.StreamResponse:
    start, end = _wanted_range(call.request, f'"{sha256}"', length)
    response = web.StreamResponse(status=200 if (start, end) == (0, length) else 206)
    response.headers.update(
        {
            "ETag": f'"{sha256}"',
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
            "Content-Disposition": _disposition(f"{model.name}.zip", version.filename),
            "Cache-Control": "private, no-transform",
            "X-Content-Type-Options": "nosniff",
        }
    )
    if response.status == 206:
        response.headers["Content-Range"] = f"bytes {start}-{end - 1}/{length}"
    response.content_length = end - start
    if call.request.method == "HEAD":
        return response
    await _stream(call, response, sha256, start, end)
    return response


async def _stream(call: Call, response: web.StreamResponse, sha256: str, start: int, end: int) -> None:
    """Send the bytes. The first is fetched before the head is sent, so that a store that is down is a clean 503."""
    chunks = call.services.objects.stream(sha256, start, end)
    try:
        first = await anext(chunks, b"")
    except BlobMissing as missing:
        raise Missing("The version's file is not in the object store any more.") from missing
    except StoreUnavailable as down:
        raise Unavailable("The object store does not answer; try again in a moment.", "object_store") from down
    await response.prepare(call.request)
    try:
        await _write(response, first)
        async for chunk in chunks:
            await _write(response, chunk)
    except (BlobMissing, StoreUnavailable, TimeoutError) as error:
        _log.warning("download_cut_off", blob=sha256, reason=str(error) or "stalled")
        if call.request.transport is not None:
            call.request.transport.abort()  # the length was promised: only a broken connection tells that it is short
        return
    await response.write_eof()


async def _write(response: web.StreamResponse, chunk: bytes) -> None:
    """Send a chunk in parts, each within its time.

    Raises:
        TimeoutError: the client takes no bytes.
    """
    for start in range(0, len(chunk), PART_BYTES):
        async with asyncio.timeout(PART_SECONDS):
            await response.write(memoryview(chunk)[start : start + PART_BYTES])


def _wanted_range(request: web.Request, etag: str, length: int) -> tuple[int, int]:
    """Return the bytes that a request asks for, end excluded (RFC 9110, section 14.2).

    A range that is malformed, of several parts, or made for another file (`If-Range`) is as none.

    Raises:
        HTTPRequestRangeNotSatisfiable: it begins behind the end of the file.
    """
    if "Range" not in request.headers or request.headers.get("If-Range", etag) != etag:
        return 0, length
    try:
        wanted = request.http_range
    except ValueError:
        return 0, length
    start, end, _ = wanted.indices(length)
    if start >= end:
        raise web.HTTPRequestRangeNotSatisfiable(headers={"Content-Range": f"bytes */{length}"})
    return start, end


def _disposition(name: str, uploaded_as: str) -> str:
    """Return how to call the file (RFC 6266): as the published client does when it is a zip, else as it was sent."""
    filename = name if is_zip_name(uploaded_as) else uploaded_as
    return f"attachment; filename*=UTF-8''{quote(filename, safe='')}"
