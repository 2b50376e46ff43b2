"""Checkpoints of a decoder: written beside the half-made target, so that the next one goes on where it was interrupted.

A checkpoint is a hint that proves itself: it names the hashes of what was read and of what was made so far, and both
are computed again before anything is built on it. Whatever does not fit means to start anew.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from artifacts.files import resumable_files, sync_directory, whole_file
from artifacts.patch.format import Header, write_header
from artifacts.patch.streams import Position

__all__ = ["Checkpoint", "Journal", "MatrixState", "Pending", "State"]

_VERSION = 2


@dataclass(slots=True)
class Pending:
    """An operation of which something is left to do. It makes units: bytes, or elements.

    Attributes:
        op: its code.
        parameter: the table or the stream.
        width: bytes of a unit.
        source_width: bytes of a unit of the source.
        source: the address of the source.
        count: units that it makes.
        done: units that it has made.
        per_block: units that it makes at a time.
    """

    op: int
    parameter: int
    width: int = 1
    source_width: int = 1
    source: int = 0
    count: int = 0
    done: int = 0
    per_block: int = 0


@dataclass(frozen=True, slots=True)
class MatrixState:
    """What the rows and columns have of the operation that goes on.

    Attributes:
        definition: of the matrix, in hex.
        levels: of rows and then columns, one byte each.
        gains: 4 bytes each.
        factors: of rows and then columns, 4 bytes each.
        units: 4 bytes each.
    """

    definition: str
    levels: bytes
    gains: bytes
    factors: bytes
    units: bytes


@dataclass(frozen=True, slots=True)
class State:
    """What a decoder knows between two blocks of the target.

    Attributes:
        tables: their definitions in hex, by number.
        source_end: the address where the last source ended.
        raw: bytes that were made to be deflated, so far.
        spent: units of work, so far.
        pending: the operation that goes on.
        matrix: of that operation.
    """

    tables: dict[int, str]
    source_end: int
    raw: int
    spent: int
    pending: Pending | None
    matrix: MatrixState | None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a decoder was.

    Attributes:
        patch: bytes of the patch that were read.
        patch_sha256: their hash.
        target: bytes of the target that are on the disk.
        target_sha256: their hash.
        streams: how far each is read.
        state: of the decoder.
    """

    patch: int
    patch_sha256: str
    target: int
    target_sha256: str
    streams: list[Position]
    state: State


@dataclass(frozen=True, slots=True)
class _Record:
    version: int
    key: str
    checkpoint: Checkpoint


class Journal:
    """The half-made target and the checkpoint beside it. One decoder at a time may use them.

    Args:
        out: the name that the target will have.
        header: of the patch, which the checkpoint must be of.
    """

    def __init__(self, out: Path, header: Header) -> None:
        self._out = out
        self._partial, self._file = resumable_files(out)
        self._key = hashlib.sha256(write_header(header)).hexdigest()

    @contextmanager
    def target(self) -> Iterator[BinaryIO]:
        """Open the half-made target; it takes its name when the block ends well, and stays as it is otherwise.

        Raises:
            OSError: the folder is missing, full or not writable.
        """
        # Never through a link that somebody else put there.
        descriptor = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            yield file
            os.fsync(file.fileno())
        self._partial.replace(self._out)
        self._file.unlink(missing_ok=True)
        sync_directory(self._out.parent)

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint. What it says is in the target must be on the disk already.

        Raises:
            OSError: the disk refuses.
        """
        content = msgspec.json.encode(_Record(_VERSION, self._key, checkpoint))
        with whole_file(self._file) as file:
            file.write(hashlib.sha256(content).hexdigest().encode() + content)

    def load(self) -> Checkpoint | None:
        """Return the checkpoint, if there is one of this patch."""
        try:
            written = self._file.read_bytes()
            digest, content = written[:64], written[64:]
            if hashlib.sha256(content).hexdigest().encode() != digest:
                return None
            record = msgspec.json.decode(content, type=_Record)
        except (OSError, msgspec.DecodeError):
            return None
        return record.checkpoint if (record.version, record.key) == (_VERSION, self._key) else None

    def target_bytes(self) -> int:
        """Return the length of the half-made target, in bytes; 0 if there is none."""
        try:
            return self._partial.stat().st_size
        except OSError:
            return 0

    def discard(self) -> None:
        """Remove both files."""
        self._file.unlink(missing_ok=True)
        self._partial.unlink(missing_ok=True)
