"""Files that are there whole or not at all, also after a power cut: write aside, flush, rename, flush the folder."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

# What temporary files are called, as a glob: a write that was cut off leaves one behind.
PARTIAL_PATTERN = ".*.partial"


def resumable_files(path: Path) -> tuple[Path, Path]:
    """Return the names beside ``path`` of what is half-made of it and can be gone on with, and of its record."""
    start = f".{path.name[:100]}.resumable"
    return path.with_name(f"{start}.partial"), path.with_name(f"{start}-state.partial")


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path``, for writing and reading back.

    It takes that name when the block ends well, and is removed otherwise.

    The bytes are flushed before the rename: a name that points at bytes which are not on disk yet would be an empty
    file after a power cut.

    Raises:
        OSError: the folder is missing, full or not writable.
    """
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.partial")
    try:
        with temporary.open("x+b") as sink:
            yield sink
            sink.flush()
            os.fsync(sink.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Flush a folder, so that the names in it survive a power cut.

    Raises:
        OSError: it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Make a folder and those above it that are missing, each flushed into its parent.

    Raises:
        OSError: a file is in the way, or the disk refuses.
    """
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(exist_ok=True)
    sync_directory(path.parent)
