"""SHA-256 names of bytes, computed over streams so that a file's size costs no memory."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

# Large enough that a read costs more than the call around it, small enough that a hundred at once are nothing.
CHUNK_BYTES = 1024 * 1024

_SHA256_HEX = re.compile(r"[0-9a-f]{64}")


def is_sha256(text: str) -> bool:
    """Tell whether ``text`` is a SHA-256 in 64 lower-case hex digits: the only form in which blobs are named."""
    return _SHA256_HEX.fullmatch(text) is not None


def require_sha256(text: str) -> str:
    """Return ``text`` if it names a blob.

    Raises:
        ValueError: it is not 64 lower-case hex digits.
    """
    if not is_sha256(text):
        raise ValueError("a blob is named by 64 lower-case hex digits")
    return text


def chunks(source: BinaryIO, size: int = CHUNK_BYTES) -> Iterator[bytes]:
    """Yield what is left in ``source``, in pieces of at most ``size`` bytes."""
    while chunk := source.read(size):
        yield chunk


def hash_file(path: Path) -> tuple[str, int]:
    """Return the SHA-256 (hex) and the length in bytes of a file.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as source:
        digest = hashlib.file_digest(source, "sha256")
        return digest.hexdigest(), source.tell()


class HashingWriter:
    """Counts and hashes what passes through it on its way into a file, or nowhere.

    Args:
        sink: where the bytes go; None hashes only.
    """

    def __init__(self, sink: BinaryIO | None = None) -> None:
        self._sink = sink
        self._digest = hashlib.sha256()
        self.length = 0

    def write(self, data: bytes | memoryview) -> int:
        """Take ``data``; return how many bytes that was."""
        self._digest.update(data)
        self.length += len(data)
        if self._sink is not None:
            self._sink.write(data)
        return len(data)

    @property
    def sha256(self) -> str:
        """The SHA-256 (hex) of all bytes so far."""
        return self._digest.hexdigest()
