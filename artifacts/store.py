"""The object store: immutable blobs named by their SHA-256, and uploads that are not named yet.

Layout: ``blobs/<first two hex digits>/<sha256>`` and ``uploads/<id>``, below the URL's path. A blob is written whole or
not at all, and never changes, so writers of the same blob need no lock between them.

A local folder is written by our own few lines: obstore's `LocalStore` writes aside and renames, but flushes neither
the file nor its folder (seen with strace, version 0.12.1), so a power cut could leave an empty blob under a good name.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, LocalStore, MemoryStore, S3Store, from_url

from artifacts.errors import BlobCorrupt, BlobMissing, StoreUnavailable
from artifacts.files import make_directory, whole_file
from artifacts.hashing import CHUNK_BYTES, HashingWriter, chunks, require_sha256

__all__ = ["BlobCorrupt", "BlobMissing", "ObjectStore", "StoreUnavailable", "open_store"]

# Parts of a multipart upload, and how many are in flight: 32 MiB of memory at most, and S3's 10,000 parts reach 80 GB.
PART_BYTES = 8 * 1024 * 1024
PARTS_IN_FLIGHT = 4

# A store that is down should be a typed error within seconds, not after obstore's ten retries over three minutes.
MAX_RETRIES = 3
RETRY_TIMEOUT = timedelta(seconds=15)
CONNECT_TIMEOUT = timedelta(seconds=5)
# Without any byte for this long, a transfer is dead.
READ_TIMEOUT = timedelta(seconds=30)
# obstore's default of 30 s bounds the whole transfer, which a slow download of a large blob takes honestly.
TRANSFER_TIMEOUT = timedelta(hours=1)

# Where a cloud store's endpoint may be given, if not among the options.
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AZURE_ENDPOINT")

_UPLOAD_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")

_Store = LocalStore | MemoryStore | S3Store | GCSStore | AzureStore


def open_store(url: str, options: Mapping[str, str] | None = None) -> ObjectStore:
    """Open the object store at ``url``; nothing is asked of it yet.

    Args:
        url: ``file:///folder`` (made if missing), ``memory://``, ``s3://bucket/prefix``, ``gs://…`` or ``az://…``.
        options: credentials and endpoint of a cloud store, by obstore's names; what is not given here comes from the
            environment (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT``, …).

    Raises:
        ValueError: the URL names no kind of store that we know, or an option is wrong.
    """
    parts = urlsplit(url)
    if parts.scheme == "memory":
        return ObjectStore(MemoryStore())
    if parts.scheme == "file":
        return LocalObjectStore(_local_folder(parts.netloc, parts.path))
    if parts.scheme not in ("s3", "gs", "az"):
        raise ValueError(f"no object store has URLs that start with {parts.scheme!r}")
    return ObjectStore(_cloud_store(url, dict(options or {})))


def _local_folder(host: str, path: str) -> Path:
    folder = Path(unquote(path))
    if host not in ("", "localhost") or not folder.is_absolute():
        raise ValueError("a local object store is given as file:///absolute/folder")
    return folder


def _cloud_store(url: str, options: dict[str, Any]) -> _Store:
    try:
        store = from_url(
            url,
            config=options or None,  # type: ignore[call-overload] # which keys are valid depends on the scheme
            client_options={
                "connect_timeout": CONNECT_TIMEOUT,
                "read_timeout": READ_TIMEOUT,
                "timeout": TRANSFER_TIMEOUT,
                # Whoever gives an endpoint of plain HTTP means it. Said here, because client options replace the
                # environment's AWS_ALLOW_HTTP.
                "allow_http": any(endpoint.startswith("http://") for endpoint in _endpoints(options)),
            },
            retry_config={"max_retries": MAX_RETRIES, "retry_timeout": RETRY_TIMEOUT},
        )
    except BaseError as problem:
        # The text could quote a credential: the kind of problem is enough.
        raise ValueError(f"the object store's settings are wrong ({type(problem).__name__})") from None
    assert isinstance(store, _Store)
    return store


def _endpoints(options: Mapping[str, str]) -> list[str]:
    named = [value for name, value in options.items() if "endpoint" in name.lower()]
    return named or [os.environ.get(name, "") for name in _ENDPOINT_VARIABLES]


class ObjectStore:
    """Blobs by hash and uploads by id, in any store that obstore reaches.

    Every method raises `StoreUnavailable` when the store does not answer or refuses us.

    Args:
        store: where the objects are.
    """

    def __init__(self, store: _Store) -> None:
        self._store = store

    async def put_file(self, sha256: str, path: Path) -> None:
        """Store the file at ``path`` under its hash, unless it is there already. Constant memory.

        Raises:
            BlobCorrupt: the file does not have that hash; nothing is stored.
            OSError: the file cannot be read.
        """
        size = (await asyncio.to_thread(path.stat)).st_size
        if await self._holds(sha256, size):
            return
        await self._write(_blob_path(sha256), sha256, path)

    async def length(self, sha256: str) -> int:
        """Return the length of a blob in bytes.

        Raises:
            BlobMissing: there is none.
        """
        return await self._length(_blob_path(sha256), sha256)

    async def stream(self, sha256: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes of a blob from ``start`` up to, not including, ``end`` (None: to its end).

        The bytes are not compared with the hash: whoever needs that takes `fetch_to`.

        Raises:
            BlobMissing: there is none.
            ValueError: ``start`` lies behind the blob's end, or the range is reversed.
        """
        length = await self.length(sha256)
        stop = length if end is None else min(end, length)
        if not 0 <= start <= stop:
            raise ValueError(f"no bytes from {start} to {stop} in a blob of {length}")
        if start < stop:
            async for chunk in self._read(_blob_path(sha256), sha256, (start, stop)):
                yield chunk

    async def fetch_to(self, sha256: str, path: Path) -> None:
        """Copy a blob to a file that appears at ``path`` only once all of it is there and has the right hash.

        Raises:
            BlobMissing: there is none.
            BlobCorrupt: the store's bytes do not have that hash.
            OSError: the file cannot be written.
        """
        with whole_file(path) as sink:
            hashing = HashingWriter(sink)
            async for chunk in self._read(_blob_path(sha256), sha256, None):
                await asyncio.to_thread(hashing.write, chunk)
            if hashing.sha256 != sha256:
                raise BlobCorrupt(sha256)

    async def delete(self, sha256: str) -> None:
        """Remove a blob; one that is not there is fine."""
        await self._delete(_blob_path(sha256))

    def presigned_put(self, upload_id: str, expires: timedelta) -> str | None:
        """Return a URL to which anybody may PUT the upload's bytes until it expires; None if the store has no such.

        The URL is a secret. Signing is local computation. Azure signs URLs too, but they take no plain PUT: Put
        Blob demands the header `x-ms-blob-type` and answers 201, and clients send no such header and wait for 200.
        """
        path = _upload_path(upload_id)
        if not isinstance(self._store, S3Store | GCSStore):
            return None
        with _store_errors(upload_id):
            return obstore.sign(self._store, "PUT", path, expires)

    async def upload_length(self, upload_id: str) -> int:
        """Return the length of an upload in bytes.

        Raises:
            BlobMissing: nothing was uploaded.
        """
        return await self._length(_upload_path(upload_id), upload_id)

    async def fetch_upload(self, upload_id: str, path: Path) -> None:
        """Copy an upload to a file that appears at ``path`` only once all of it is there.

        Raises:
            BlobMissing: nothing was uploaded.
            OSError: the file cannot be written.
        """
        with whole_file(path) as sink:
            async for chunk in self._read(_upload_path(upload_id), upload_id, None):
                await asyncio.to_thread(sink.write, chunk)

    async def delete_upload(self, upload_id: str) -> None:
        """Remove an upload; one that is not there is fine."""
        await self._delete(_upload_path(upload_id))

    async def ping(self) -> None:
        """Ask the store anything: it answers, or `StoreUnavailable` is raised."""
        with contextlib.suppress(BlobMissing):
            await self._length("ping", "ping")

    async def _holds(self, sha256: str, size: int) -> bool:
        # A blob of another length is a torn write of somebody else's making: it is replaced.
        try:
            return await self.length(sha256) == size
        except BlobMissing:
            return False

    async def _write(self, destination: str, sha256: str, path: Path) -> None:
        with _store_errors(sha256):
            await obstore.put_async(
                self._store,
                destination,
                _verified(path, sha256),
                chunk_size=PART_BYTES,
                max_concurrency=PARTS_IN_FLIGHT,
            )

    async def _length(self, path: str, name: str) -> int:
        with _store_errors(name):
            return int((await obstore.head_async(self._store, path))["size"])

    async def _read(self, path: str, name: str, span: tuple[int, int] | None) -> AsyncIterator[bytes]:
        with _store_errors(name):
            answer = await obstore.get_async(self._store, path, options={"range": span} if span else None)
            source = aiter(answer.stream(min_chunk_size=CHUNK_BYTES))
        while True:
            # Only the store's own calls may be read as the store's failures, not what the consumer raises.
            with _store_errors(name):
                chunk = await anext(source, None)
            if chunk is None:
                return
            yield bytes(chunk)

    async def _delete(self, path: str) -> None:
        with contextlib.suppress(BlobMissing), _store_errors(path):
            await obstore.delete_async(self._store, path)


class LocalObjectStore(ObjectStore):
    """The same layout in a local folder, with writes that survive a power cut.

    Args:
        folder: absolute path; made at the first write.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(LocalStore(folder, mkdir=True))
        self._folder = folder

    async def _write(self, destination: str, sha256: str, path: Path) -> None:
        await asyncio.to_thread(_write_durably, self._folder / destination, sha256, path)


def _write_durably(destination: Path, sha256: str, path: Path) -> None:
    with path.open("rb") as source:
        try:
            make_directory(destination.parent)
            with whole_file(destination) as sink:
                hashing = HashingWriter(sink)
                for chunk in chunks(source):
                    hashing.write(chunk)
                if hashing.sha256 != sha256:
                    raise BlobCorrupt(sha256)
        except OSError as problem:
            raise StoreUnavailable("the object store's folder cannot be written") from problem


async def _verified(path: Path, sha256: str) -> AsyncIterator[bytes]:
    """Yield a file's bytes; raise after the last one if they do not have the hash, which aborts the upload."""
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while chunk := await asyncio.to_thread(source.read, CHUNK_BYTES):
            digest.update(chunk)
            yield chunk
    if digest.hexdigest() != sha256:
        raise BlobCorrupt(sha256)


@contextlib.contextmanager
def _store_errors(name: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as problem:
        raise BlobMissing(name) from problem
    except (BaseError, OSError) as problem:
        raise StoreUnavailable(f"the object store does not answer ({type(problem).__name__})") from problem


def _blob_path(sha256: str) -> str:
    return f"blobs/{require_sha256(sha256)[:2]}/{sha256}"


def _upload_path(upload_id: str) -> str:
    if not _UPLOAD_ID.fullmatch(upload_id):
        raise ValueError("an upload is named by up to 128 letters, digits, - and _")
    return f"uploads/{upload_id}"
