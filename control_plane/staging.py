"""Uploads on their way in: a directory for each, on local disk.

    <upload id>/lock      held by whoever receives or finishes the upload
    <upload id>/part      the bytes that came so far
    <upload id>/whole     all of them: `part`, renamed
    <upload id>/sha256    the hash of `whole`, written before the rename
    <upload id>/work      files made while finishing, gone afterwards

A file named `whole` is whole: it is flushed to disk and then renamed. The lock is the file system's own (flock), so it
ends with its process, and two processes on one directory respect each other. Everything here blocks: call it from a
thread.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from control_plane.errors import Conflict

# Ids become directory names, so nothing but an id may pass.
_UPLOAD_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_READ_BYTES = 1 << 20

# How many uploads may be half-way with their hash remembered. One more is no harm: its bytes are read again.
MAX_REMEMBERED_HASHES = 64


class Hash(Protocol):
    """What we need of a hashlib object."""

    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class RememberedHashes:
    """The hashes of uploads that are half-way, so that a resumed one is not read again from its start each time."""

    def __init__(self) -> None:
        self._hashes: OrderedDict[Path, tuple[int, Hash]] = OrderedDict()

    def keep(self, path: Path, offset: int, state: Hash) -> None:
        """Remember the hash of the first ``offset`` bytes of ``path``; beyond the bound the oldest is forgotten."""
        self._hashes[path] = (offset, state)
        self._hashes.move_to_end(path)
        if len(self._hashes) > MAX_REMEMBERED_HASHES:
            self._hashes.popitem(last=False)

    def take(self, path: Path, offset: int) -> Hash | None:
        """Return and forget the hash of the first ``offset`` bytes of ``path``, if it is remembered."""
        at, state = self._hashes.pop(path, (-1, None))
        return state if at == offset else None


class Staging:
    """The directory of uploads on their way in.

    Args:
        directory: made when it is not there, readable by its owner alone.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._hashes = RememberedHashes()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def upload(self, upload_id: str) -> StagedUpload:
        """Return the staged upload ``upload_id``, which need not be there.

        Raises:
            ValueError: it is not an id.
        """
        if not _UPLOAD_ID.fullmatch(upload_id):
            raise ValueError("not an upload id")
        return StagedUpload(self._directory / upload_id, self._hashes)

    def ids_untouched_since(self, moment: datetime) -> list[str]:
        """Return the ids of uploads to which nothing has come since ``moment``."""
        directories = [entry for entry in self._directory.iterdir() if _UPLOAD_ID.fullmatch(entry.name)]
        return sorted(entry.name for entry in directories if _last_touched(entry) < moment.timestamp())


class StagedUpload:
    """One upload on its way in. Write to it only while `lock` is held."""

    def __init__(self, directory: Path, hashes: RememberedHashes) -> None:
        self._directory = directory
        self._hashes = hashes
        self._part = directory / "part"
        self._hash = directory / "sha256"
        self.whole = directory / "whole"
        self.work = directory / "work"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the upload while the block runs; nobody else receives or finishes it meanwhile.

        Raises:
            Conflict: somebody else holds it.
        """
        self._directory.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise Conflict(
                "Another request is sending or finishing this upload; wait for it to end.", "upload_busy"
            ) from None
        try:
            yield
        finally:
            os.close(descriptor)

    @property
    def is_whole(self) -> bool:
        """Whether every byte has come."""
        return self.whole.exists()

    @property
    def offset(self) -> int:
        """How many bytes have come."""
        for file in (self.whole, self._part):
            if file.exists():
                return file.stat().st_size
        return 0

    @property
    def sha256(self) -> str:
        """The hash of `whole`, in hexadecimal."""
        return self._hash.read_text("ascii")

    def write_at(self, start: int) -> PartWriter:
        """Open the upload to write from ``start`` on, which is 0, to begin anew, or the present offset."""
        if start == 0:
            self.whole.unlink(missing_ok=True)
        return PartWriter(self._part, start, self._hashes)

    def complete(self, sha256: str) -> None:
        """Declare that every byte has come and that they hash to ``sha256``."""
        self._hash.write_text(sha256, "ascii")
        self._part.rename(self.whole)
        _flush_directory(self._directory)

    def discard(self) -> None:
        """Forget every byte that came."""
        self._part.unlink(missing_ok=True)
        self.whole.unlink(missing_ok=True)

    def adopt(self, sha256: str, fetched: Path) -> None:
        """Take ``fetched``, a file on the same disk, as the whole upload."""
        fetched.rename(self._part)
        self.complete(sha256)

    def fresh_work(self) -> Path:
        """Return an empty directory for files that are made while finishing."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        return self.work

    def drop_work(self) -> None:
        """Remove what was made while finishing."""
        shutil.rmtree(self.work, ignore_errors=True)

    def remove(self) -> None:
        """Remove every trace of the upload. Its lock, if held, stays held until its holder ends."""
        shutil.rmtree(self._directory, ignore_errors=True)


class PartWriter:
    """Writes and hashes the bytes of an upload as they come.

    Args:
        path: the file, made when it is not there.
        start: where to write; what is beyond is cut off.
        hashes: where the hash of what came before may be remembered; else it is read again.
    """

    def __init__(self, path: Path, start: int, hashes: RememberedHashes) -> None:
        self._path = path
        self._hashes = hashes
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(start)
        self._hash = hashes.take(path, start) or _hash_of(self._file)
        self._file.seek(start)
        self.offset = start

    def write(self, data: bytes) -> None:
        """Append ``data``."""
        self._file.write(data)
        self._hash.update(data)
        self.offset += len(data)

    def close(self) -> str:
        """Flush to disk, close, and return the hash of everything so far, in hexadecimal."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._hashes.keep(self._path, self.offset, self._hash)
        return self._hash.hexdigest()


def _hash_of(file: BinaryIO) -> Hash:
    state = hashlib.sha256()
    while block := file.read(_READ_BYTES):
        state.update(block)
    return state


def _last_touched(directory: Path) -> float:
    """Return when anything in an upload's directory last changed, as Unix seconds."""
    times = [directory.stat().st_mtime]
    for name in ("lock", "part", "whole"):
        try:
            times.append((directory / name).stat().st_mtime)
        except FileNotFoundError:
            continue
    return max(times)


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
