"""The files that a decoder reads, as one space of addresses: the base, its inflated members, and the target so far.

The base is read with `pread` and not mapped. A file that is cut short under a mapping ends the process (SIGBUS), and so
does one that the system locks away, as phones do; a read that comes back short is an error like any other. The page
cache keeps the pages either way, and copying them costs a hundredth of the rest.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from artifacts.errors import BaseMismatch, PatchInvalid
from artifacts.patch.format import Header, Member, Side

__all__ = ["BaseFile", "Space", "Target", "inflated_members", "opened_base"]

Buffer = bytes | bytearray | memoryview

# Files are hashed, fed to zlib and written in pieces of this size.
_PIECE_BYTES = 64 * 1024
# Raw deflate data with the widest window (zlib's manual, inflateInit2).
_RAW = -15


class BaseFile:
    """The file that a patch leads from, while it is open.

    Args:
        descriptor: of the file.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._state = self._now()

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes that the file has.

        Raises:
            BaseMismatch: it has them no longer.
        """
        content = _read(self._descriptor, offset, length)
        if len(content) < length:
            raise BaseMismatch("the file at hand became shorter while it was read")
        return content

    def require(self, side: Side) -> None:
        """Compare the file with what it should be.

        Raises:
            BaseMismatch: it is another.
        """
        if self._state[0] != side.length or not side.is_file(self._sha256()):
            raise BaseMismatch(f"the file at hand is not the one whose hash is {side.sha256}")

    def require_unchanged(self) -> None:
        """Ask the system whether the file was written to since it was opened.

        Raises:
            BaseMismatch: it was.
        """
        if self._now() != self._state:
            raise BaseMismatch("the file at hand changed while it was read")

    def _sha256(self) -> str:
        digest = hashlib.sha256()
        for piece in _pieces(self._descriptor, self._state[0]):
            digest.update(piece)
        return digest.hexdigest()

    def _now(self) -> tuple[int, int]:
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns


@contextmanager
def opened_base(path: Path) -> Iterator[BaseFile]:
    """Open the file that a patch leads from.

    Raises:
        OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        yield BaseFile(file.fileno())


class Target:
    """The file that a decoder makes: appended to, hashed, and read back.

    Args:
        descriptor: of the file, open for reading and writing.
        length: that it shall have, in bytes; never more is written.
        position: the length that it has.
    """

    def __init__(self, descriptor: int, length: int, position: int = 0) -> None:
        self._descriptor = descriptor
        self._waiting = bytearray()
        self._digest = hashlib.sha256()
        self.length = length
        self.position = position
        for piece in _pieces(descriptor, position):
            self._digest.update(piece)

    def write(self, content: Buffer) -> None:
        """Append.

        Raises:
            PatchInvalid: that would be more than the target has.
            OSError: the disk refuses.
        """
        if len(content) > self.length - self.position:
            raise PatchInvalid("the patch makes more than it says")
        if len(content) < _PIECE_BYTES:
            self._waiting += content
        else:
            # Not copied first.
            self.flush()
            self._put(self.position, content)
        self.position += len(content)
        if len(self._waiting) >= _PIECE_BYTES:
            self.flush()

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes that were written."""
        if offset + length > self.position - len(self._waiting):
            self.flush()
        return _read(self._descriptor, offset, length)

    def flush(self) -> None:
        """Hand over to the system what waits for more."""
        if self._waiting:
            self._put(self.position - len(self._waiting), self._waiting)
            self._waiting = bytearray()

    def _put(self, offset: int, content: Buffer) -> None:
        _write(self._descriptor, offset, content)
        self._digest.update(content)

    def sync(self) -> None:
        """Flush to the disk."""
        self.flush()
        os.fsync(self._descriptor)

    def sha256(self) -> str:
        """Return the SHA-256 (hex) of what was written."""
        self.flush()
        return self._digest.hexdigest()


class Space:
    """Addresses of bytes in the three files.

    Args:
        header: of the patch.
        base: the first file.
        scratch: the descriptor of the second one, with the inflated members.
        target: the third one.
    """

    def __init__(self, header: Header, base: BaseFile, scratch: int, target: Target) -> None:
        self._base = base
        self._scratch = scratch
        self._target = target
        self._scratch_start = header.base.length
        self._target_start = header.target_address
        self.end = self._target_start

    def extend(self) -> None:
        """Let what is made of the target so far be read from now on."""
        self.end = self._target_start + self._target.position

    def require(self, address: int, length: int) -> None:
        """Raise `PatchInvalid` unless those bytes exist."""
        if address < 0 or length > self.end - address:
            raise PatchInvalid("an operation reads what does not exist")

    def read(self, address: int, length: int) -> bytes:
        """Return bytes.

        Raises:
            PatchInvalid: they do not exist.
            BaseMismatch: the base has them no longer.
            OSError: the disk refuses.
        """
        self.require(address, length)
        if address + length <= self._scratch_start:
            return self._base.read(address, length)
        if address >= self._target_start:
            return self._target.read(address - self._target_start, length)
        return self._over_borders(address, length)

    def _over_borders(self, address: int, length: int) -> bytes:
        parts = []
        for start, end, read in (
            (0, self._scratch_start, self._base.read),
            (self._scratch_start, self._target_start, self._read_scratch),
            (self._target_start, self.end, self._target.read),
        ):
            first, last = max(address, start), min(address + length, end)
            if first < last:
                parts.append(read(first - start, last - first))
        return b"".join(parts)

    def _read_scratch(self, offset: int, length: int) -> bytes:
        return _read(self._scratch, offset, length)


# ---- inflated members


@contextmanager
def inflated_members(header: Header, base: BaseFile, folder: Path) -> Iterator[int]:
    """Inflate the members that a patch names into a file without a name, and give its descriptor.

    Raises:
        PatchInvalid: a member is not what the patch says.
        BaseMismatch: the base changed.
        OSError: the disk refuses.
    """
    with TemporaryFile(dir=folder, buffering=0) as scratch:
        position = 0
        for member in header.members:
            for piece in _inflated(member, _deflated(member, header.base.length, base, scratch.fileno())):
                _write(scratch.fileno(), position, piece)
                position += len(piece)
        yield scratch.fileno()


def _deflated(member: Member, base_length: int, base: BaseFile, scratch: int) -> Iterator[bytes]:
    """Yield a member's deflated bytes, which are in the base or in a member that is inflated already."""
    for start in range(member.address, member.address + member.deflated, _PIECE_BYTES):
        length = min(_PIECE_BYTES, member.address + member.deflated - start)
        in_base = max(0, min(length, base_length - start))
        piece = base.read(start, in_base) if in_base else b""
        yield piece + _read(scratch, max(0, start - base_length), length - in_base)


def _inflated(member: Member, deflated: Iterator[bytes]) -> Iterator[bytes]:
    inflater = zlib.decompressobj(_RAW)
    left = member.length
    try:
        for fed in deflated:
            more = True
            while more:
                # One byte more than there should be shows that there is more.
                wanted = min(_PIECE_BYTES, left + 1)
                content = inflater.decompress(fed, wanted)
                left -= len(content)
                if left < 0:
                    raise PatchInvalid("a member of the base is longer than the patch says")
                yield content
                fed, more = inflater.unconsumed_tail, len(content) == wanted
    except zlib.error as problem:
        raise PatchInvalid("a member of the base is not deflated") from problem
    if left or not inflater.eof or inflater.unused_data:
        raise PatchInvalid("a member of the base is not what the patch says")


def _read(descriptor: int, offset: int, length: int) -> bytes:
    """Return bytes of a file; fewer if it ends before."""
    content = os.pread(descriptor, length, offset)
    while content and (missing := length - len(content)):
        more = os.pread(descriptor, missing, offset + len(content))
        if not more:
            break
        content += more
    return content


def _write(descriptor: int, offset: int, content: Buffer) -> None:
    with memoryview(content) as view:
        written = 0
        while written < len(view):
            written += os.pwrite(descriptor, view[written:], offset + written)


def _pieces(descriptor: int, length: int) -> Iterator[bytes]:
    """Yield the start of a file, in pieces; less if it is shorter."""
    offset = 0
    while content := _read(descriptor, offset, min(length - offset, _PIECE_BYTES)):
        yield content
        offset += len(content)
