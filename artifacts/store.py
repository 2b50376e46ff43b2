"""The object store: immutable blobs named by their SHA-256, and uploads that are not named yet.

Layout: ``blobs/<first two hex digits>/<sha256>`` and ``uploads/<id>``, below the URL's path. A blob is written whole or
not at all, and never changes, so writers of the same blob need no lock between them.

A local folder is written by our own few lines: obstore's `LocalStore` writes aside and renames, but flushes neither
the file nor its folder (seen with strace, version 0.12.1), so a power cut could leave an empty blob under a good name.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, LocalStore, MemoryStore, S3Store, from_url

from artifacts.errors import BlobCorrupt, BlobMissing, StoreUnavailable
from artifacts.files import PARTIAL_PATTERN, make_directory, whole_file
from artifacts.hashing import CHUNK_BYTES, HashingWriter, chunks, require_sha256

if TYPE_CHECKING:
    from obstore import ObjectMeta  # only its stubs have it

__all__ = ["BlobCorrupt", "BlobMissing", "ObjectStore", "StoreUnavailable", "StoredObject", "open_store"]

# A blob that is put again and was last written longer ago is written anew, so that its time shows that somebody counts
# on it: whoever frees what nothing names leaves alone what is younger than some hours.
FRESH_FOR = timedelta(hours=1)

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
_BLOB_PATH = re.compile(r"blobs/([0-9a-f]{2})/(\1[0-9a-f]{62})")
_UPLOAD_PATH = re.compile(rf"uploads/({_UPLOAD_ID.pattern})")

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


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A blob or an upload as a listing tells of it.

    Attributes:
        name: its hash or its id.
        length: in bytes.
        last_modified: when it was last written, by the store's clock.
    """

    name: str
    length: int
    last_modified: datetime


class ObjectStore:
    """Blobs by hash and uploads by id, in any store that obstore reaches.

    Every method raises `StoreUnavailable` when the store does not answer or refuses us.

    Args:
        store: where the objects are.
    """

    def __init__(self, store: _Store) -> None:
        self._store = store

    async def put_file(self, sha256: str, path: Path) -> None:
        """Store the file at ``path`` under its hash. Constant memory.

        If it is there already, no byte is written when that is an hour ago at most (`FRESH_FOR`): afterwards the
        blob's time is never older.

        Raises:
            BlobCorrupt: the file does not have that hash; nothing is stored.
            OSError: the file cannot be read.
        """
        size = (await asyncio.to_thread(path.stat)).st_size
        held = await self._held(_blob_path(sha256), sha256)
        # A blob of another length is a torn write of somebody else's making: it is replaced.
        if held is None or held.length != size:
            await self._write(_blob_path(sha256), sha256, path)
        elif held.last_modified < datetime.now(UTC) - FRESH_FOR:
            await self._refresh(_blob_path(sha256), sha256, path)

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

    async def delete_if_older(self, sha256: str, before: datetime) -> bool:
        """Remove a blob that was last written before a moment; tell whether that was so and it is gone.

        Cloud stores have no deletion that depends on the time: one that is written anew between the question and the
        deletion, some milliseconds, is lost. A local folder holds its writers off meanwhile.
        """
        held = await self._held(_blob_path(sha256), sha256)
        if held is None or held.last_modified >= before:
            return False
        await self.delete(sha256)
        return True

    def blobs(self) -> AsyncIterator[StoredObject]:
        """Yield every blob, in no particular order. What is written or removed meanwhile may be missing."""
        return self._list("blobs", _BLOB_PATH)

    def uploads(self) -> AsyncIterator[StoredObject]:
        """Yield every upload, likewise."""
        return self._list("uploads", _UPLOAD_PATH)

    async def remove_leftovers(self, before: datetime) -> None:
        """Remove what writes that were cut off before a moment left behind. Cloud stores have rules of their own."""

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

    async def _held(self, path: str, name: str) -> StoredObject | None:
        """Return what the store tells of an object, None if it holds none."""
        with contextlib.suppress(BlobMissing), _store_errors(name):
            return _told(name, await obstore.head_async(self._store, path))
        return None

    async def _list(self, prefix: str, form: re.Pattern[str]) -> AsyncIterator[StoredObject]:
        with _store_errors(prefix):
            source = aiter(obstore.list(self._store, prefix))
        while True:
            with _store_errors(prefix):
                page = await anext(source, None)
            if page is None:
                return
            for told in page:
                named = form.fullmatch(told["path"])
                if named is not None:  # anything else is not ours, or a write that was cut off
                    yield _told(named[named.re.groups], told)

    async def _refresh(self, destination: str, sha256: str, path: Path) -> None:
        """Make the time of a blob that is there the present; ``path`` has its bytes."""
        await self._write(destination, sha256, path)

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

    async def _refresh(self, destination: str, sha256: str, path: Path) -> None:
        with _store_errors(sha256):
            if await asyncio.to_thread(_touch, self._folder / destination):
                return
        await self._write(destination, sha256, path)  # it was removed a moment ago

    async def delete_if_older(self, sha256: str, before: datetime) -> bool:
        with _store_errors(sha256):
            return await asyncio.to_thread(_unlink_if_older, self._folder / _blob_path(sha256), before)

    async def remove_leftovers(self, before: datetime) -> None:
        """Remove the temporary files of writes that were cut off before a moment, by `kill -9` or a power cut."""
        await asyncio.to_thread(_remove_partial_files, self._folder / "blobs", before)


@contextlib.contextmanager
def _held_still(folder: Path) -> Iterator[None]:
    """Keep others, of other processes too, from renewing and removing what is in a folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _touch(path: Path) -> bool:
    """Make a file's time the present; tell whether it is there."""
    with contextlib.suppress(FileNotFoundError), _held_still(path.parent):
        os.utime(path)
        return True
    return False


def _unlink_if_older(path: Path, before: datetime) -> bool:
    with contextlib.suppress(FileNotFoundError), _held_still(path.parent):
        if path.stat().st_mtime < before.timestamp():
            path.unlink()
            return True
    return False


def _remove_partial_files(folder: Path, before: datetime) -> None:
    for path in folder.glob("*/" + PARTIAL_PATTERN):
        with contextlib.suppress(FileNotFoundError):  # its writer has ended meanwhile
            if path.stat().st_mtime < before.timestamp():
                path.unlink()


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


def _told(name: str, told: ObjectMeta) -> StoredObject:
    return StoredObject(name, told["size"], told["last_modified"])


def _blob_path(sha256: str) -> str:
    return f"blobs/{require_sha256(sha256)[:2]}/{sha256}"


def _upload_path(upload_id: str) -> str:
    if not _UPLOAD_ID.fullmatch(upload_id):
        raise ValueError("an upload is named by up to 128 letters, digits, - and _")
    return f"uploads/{upload_id}"
