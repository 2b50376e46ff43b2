"""A file at one end of a patch that is being made: mapped, unpacked, and with the tensors that are in it."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from time import monotonic

from artifacts.hashing import hash_file
from artifacts.patch.allocator import give_back
from artifacts.patch.containers import Unpacked, unpack
from artifacts.patch.format import Side
from artifacts.patch.tensors import Tensor, find_tensors

__all__ = ["LetGo", "Opened", "opened"]

# Between two times that memory is let go, so many bytes are worked on; twice as many after it took longer than that.
_LET_GO_BYTES, _SLOW_SECONDS = 1 << 19, 1e-3


@dataclass(frozen=True, slots=True)
class Opened:
    """A file, open.

    Attributes:
        side: its length and hash.
        unpacked: the file with what its deflated members inflate to.
        content: all addresses of that, in one piece.
        tensors: those that were found in it, by address.
    """

    side: Side
    unpacked: Unpacked
    content: memoryview
    tensors: tuple[Tensor, ...]

    def let_go(self) -> None:
        """Let the system have the memory of what was read so far; it is mapped again where it is read again."""
        if isinstance(self.content.obj, mmap.mmap):
            self.content.obj.madvise(mmap.MADV_DONTNEED)


class LetGo:
    """Lets the system have memory while work goes on: of files that are mapped, and what the allocator keeps.

    Where tensors of many sizes are planned one after the other, the allocator would keep several megabytes.

    Args:
        files: that are mapped.
    """

    def __init__(self, *files: Opened) -> None:
        self._files = files
        self._worked, self._enough = 0, _LET_GO_BYTES

    def after(self, length: int) -> None:
        """Let memory go, if enough bytes were worked on since the last time; ``length``: those that were just now."""
        self._worked += length
        if self._worked >= self._enough:
            self.now()

    def now(self) -> None:
        """Let memory go."""
        self._worked = 0
        began = monotonic()
        for file in self._files:
            file.let_go()
        give_back()
        if monotonic() - began > _SLOW_SECONDS:
            self._enough *= 2


@contextmanager
def opened(path: Path, folder: Path | None = None) -> Iterator[Opened]:
    """Open a file.

    Args:
        path: of the file, which does not change meanwhile.
        folder: where temporary files go; the system's own if None.

    Raises:
        OSError: it cannot be read, or temporary files cannot be written.
    """
    sha256, length = hash_file(path)
    unpacked, content = _unpacked(path, length, folder)
    with unpacked:
        yield Opened(Side(length, sha256), unpacked, content, tuple(find_tensors(unpacked)))


def _unpacked(path: Path, length: int, folder: Path | None) -> tuple[Unpacked, memoryview]:
    """Return a file and what was inflated, with both as views of one map: nothing of it is in memory twice."""
    data = memoryview(b"")
    if length:
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ))
    unpacked = unpack(data, path.name, folder)
    if not unpacked.deflated:
        return unpacked, data
    content = _joined(unpacked, folder)
    return Unpacked(content[:length], unpacked.members, unpacked.deflated, content[length:]), content


def _joined(unpacked: Unpacked, folder: Path | None) -> memoryview:
    """Return the file and what was inflated as one map of a temporary file."""
    length = unpacked.length
    with TemporaryFile(dir=folder) as file:
        file.write(unpacked.data)
        file.write(unpacked.view(len(unpacked.data), length - len(unpacked.data)))
        file.flush()
        return memoryview(mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ))
