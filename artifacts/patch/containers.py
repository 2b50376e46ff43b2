"""The files within a file: those of tars and zips, and of zips within them, each with where its bytes are.

A patch works on one line of addresses, for the old file and likewise for the new one: first the file itself, then,
one after the other, what its deflated members inflate to. So a member is always a range of addresses, whether it is
stored or deflated.

The readers follow nothing blindly: what overlaps, leads out of the file or inflates to more than is allowed is left
out, and the bytes that no member covers are bytes like any other.
"""

from __future__ import annotations

import mmap
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, Self, cast

from artifacts import tar_format, zip_layout
from artifacts.hashing import CHUNK_BYTES
from artifacts.patch.deflation import FREE_BYTES, MAX_ROUNDS, Deflation, find_deflation
from artifacts.patch.view import ViewFile
from artifacts.zip_upload import MAX_RATIO, RATIO_FREE_BYTES

__all__ = ["Buffer", "Deflated", "Deflation", "DeflationSearch", "Member", "UnpackLimits", "Unpacked", "unpack"]

Buffer = bytes | bytearray | memoryview | mmap.mmap

# Between the name of a container and those of the files in it.
SEPARATOR = "!"

_ZIP_START = b"PK\x03\x04"
_TAR_MAGIC = b"ustar"
# A file's type in a tar's header: regular ones, and what says something of the next one.
_TAR_FILES = (b"0", b"\0", b"7")
_TAR_LONG_NAME = b"L"
_TAR_PAX = b"x"
# A header of a name and a length; longer ones are passed over.
_MAX_TAR_TEXT = 64 * 1024
# Entries of containers that are looked at for each file that may be found: of folders, empty files and other things;
# those of a zip are counted by the length of its directory.
_ENTRIES_PER_MEMBER = 16
# The shortest entry of a zip's directory (APPNOTE 4.3.12), without a name.
_MIN_ENTRY_BYTES = 46


@dataclass(frozen=True, slots=True)
class UnpackLimits:
    """How much may be unpacked from one file.

    Attributes:
        max_members: files, those of all containers together; the same bound as of an upload.
        max_depth: containers within containers.
        max_inflated_bytes: what all deflated members inflate to.
        max_ratio: inflated bytes to deflated ones, over the whole file.
        ratio_free_bytes: inflated bytes up to which the ratio is not asked.
    """

    max_members: int = 10_000
    max_depth: int = 4
    max_inflated_bytes: int = 4 * 1024**3
    max_ratio: int = MAX_RATIO
    ratio_free_bytes: int = RATIO_FREE_BYTES


@dataclass(frozen=True, slots=True)
class Deflated:
    """A deflated stream in the file: where it is and how long, and the addresses of what it inflates to."""

    offset: int
    deflated_length: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Member:
    """A file that holds no further ones: its name, its address and its length.

    The name is the one in its container, with those of the containers around it in front of it and ``!`` between.
    """

    name: str
    start: int
    length: int


class Unpacked:
    """A file with all that is in it. Close it to free what was inflated.

    Attributes:
        data: the file's bytes.
        members: the files in it, by address: the file itself where it is no container. None is empty, none overlap.
        deflated: the deflated streams that were inflated, by address.
    """

    def __init__(
        self,
        data: memoryview,
        members: tuple[Member, ...],
        deflated: tuple[Deflated, ...],
        inflated: memoryview | mmap.mmap | None = None,
    ) -> None:
        self.data = data
        self.members = members
        self.deflated = deflated
        self._inflated = inflated

    @property
    def length(self) -> int:
        """How many addresses there are."""
        return len(self.data) + (0 if self._inflated is None else len(self._inflated))

    def view(self, start: int, length: int) -> memoryview:
        """Return the bytes at these addresses, without a copy.

        Raises:
            ValueError: they are not all in the file, or not all of what was inflated.
        """
        end = start + length
        if 0 <= start <= end <= len(self.data):
            return self.data[start:end]
        start, end = start - len(self.data), end - len(self.data)
        if self._inflated is None or not 0 <= start <= end <= len(self._inflated):
            raise ValueError(f"{length} bytes from address {start} are not in the file")
        return memoryview(self._inflated)[start:end]

    def close(self) -> None:
        """Free what was inflated, as soon as no view of it is left."""
        self._inflated = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def unpack(data: Buffer, name: str = "", folder: Path | None = None, limits: UnpackLimits | None = None) -> Unpacked:
    """Find the files within a file and inflate those that are deflated.

    Args:
        data: the file's bytes, best a view of a mapped file: nothing of it is copied.
        name: the file's name.
        folder: where the temporary file goes that holds what is inflated; the system's own if None.
        limits: bounds; the defaults if None.

    Raises:
        OSError: the temporary file cannot be written.
    """
    limits = limits or UnpackLimits()
    view = memoryview(data).cast("B")
    entries = _Entries(_ENTRIES_PER_MEMBER * limits.max_members)
    files = list(islice(_files(_File(name, 0, view, 0), limits, entries), limits.max_members))
    streams, inflated = _inflate(files, len(view), folder, limits)
    unpacked = Unpacked(view, (), tuple(stream for _, stream in streams), inflated)
    whole = [file for file in files if not file.deflated]
    for file, stream in streams:
        # Streams within streams stay as they are: every device would have to inflate them one after the other.
        inner = _File(file.name, stream.start, unpacked.view(stream.start, stream.length), file.depth)
        whole.extend(islice(_files(inner, limits, entries), max(0, limits.max_members - len(whole))))
    members = (Member(file.name, file.start, len(file.view)) for file in whole if not file.deflated)
    unpacked.members = tuple(sorted(members, key=lambda member: member.start))
    return unpacked


class DeflationSearch:
    """Finds the settings of zlib that make the deflated streams of a file again.

    What may be tried is bounded by the length of all streams together, so many short ones do not take longer.

    Args:
        unpacked: the file.
    """

    def __init__(self, unpacked: Unpacked) -> None:
        self._unpacked = unpacked
        self._left = FREE_BYTES + MAX_ROUNDS * sum(stream.length for stream in unpacked.deflated)
        # A container's members are mostly written by one writer with one setting.
        self._known: dict[Deflation, None] = {}

    def settings(self, stream: Deflated) -> Deflation | None:
        """Return the settings that make a stream; None if none do that are tried."""
        deflated = self._unpacked.view(stream.offset, stream.deflated_length)
        raw = self._unpacked.view(stream.start, stream.length)
        settings, used = find_deflation(deflated, raw, reversed(self._known), self._left)
        self._left -= used
        if settings is not None:
            self._known.pop(settings, None)
            self._known[settings] = None
        return settings


@dataclass(frozen=True, slots=True)
class _File:
    """A file on the way through containers: its name, its address, its bytes, and how many containers it is in."""

    name: str
    start: int
    view: memoryview
    depth: int
    deflated: bool = False

    def part(self, name: str, start: int, length: int, *, deflated: bool = False) -> _File:
        """Return a file in this one."""
        full = f"{self.name}{SEPARATOR}{name}"
        return _File(full, self.start + start, self.view[start : start + length], self.depth + 1, deflated)


@dataclass(slots=True)
class _Entries:
    """How many entries of containers may still be looked at."""

    left: int

    def take(self, count: int) -> bool:
        """Count entries; return whether they may be looked at."""
        self.left -= count
        return self.left >= 0


def _files(file: _File, limits: UnpackLimits, entries: _Entries) -> Iterator[_File]:
    """Yield the files in a file that hold no further ones, and the deflated ones, of which that is not known yet."""
    if not len(file.view):
        return
    parts = None if file.deflated or file.depth >= limits.max_depth else _parts(file, entries)
    if parts is None:
        yield file
        return
    for part in parts:
        yield from _files(part, limits, entries)


def _parts(file: _File, entries: _Entries) -> Iterable[_File] | None:
    """Return the files that a container holds, None if the file is none."""
    if file.view[257:262] == _TAR_MAGIC:
        return _tar_files(file, entries)
    if file.view[:4] == _ZIP_START:
        # One that is cut off has no directory: then what it holds is found by a look at the bytes.
        return _zip_files(file, entries) or None
    return None


def _tar_files(tar: _File, entries: _Entries) -> Iterator[_File]:
    """Yield the regular files of a tar, ours or another's (POSIX.1-2017, pax; GNU's long names)."""
    position, name, length = 0, "", None
    while position + tar_format.BLOCK_BYTES <= len(tar.view) and entries.take(1):
        block = bytes(tar.view[position : position + tar_format.BLOCK_BYTES])
        stated = _tar_number(block[124:136])
        if stated is None or _tar_number(block[148:156]) != _tar_checksum(block):
            return
        kind, position = block[156:157], position + tar_format.BLOCK_BYTES
        if kind in (_TAR_PAX, _TAR_LONG_NAME):
            if stated <= _MAX_TAR_TEXT:
                text = bytes(tar.view[position : position + stated])
                name, length = _pax_fields(text) if kind == _TAR_PAX else (_text(text), length)
        else:
            stated = stated if length is None else length
            if kind in _TAR_FILES and position + stated <= len(tar.view):
                yield tar.part(name or _ustar_name(block), position, stated)
            name, length = "", None
        position += stated + len(tar_format.padding(stated))


def _tar_number(digits: bytes) -> int | None:
    """Return a number of a header: octal digits with spaces or NULs around them, or GNU's binary form."""
    if digits[0] == 0x80:
        return int.from_bytes(digits[1:], "big")
    text = digits.strip(b" \0")
    return int(text, 8) if text and all(0x30 <= digit <= 0x37 for digit in text) else None


def _tar_checksum(block: bytes) -> int:
    # The sum of the header's bytes, its own field taken as spaces.
    return sum(block) - sum(block[148:156]) + 8 * ord(" ")


def _ustar_name(block: bytes) -> str:
    prefix = _text(block[345:500]) if block[257:263] == _TAR_MAGIC + b"\0" else ""
    return f"{prefix}/{_text(block[:100])}" if prefix else _text(block[:100])


def _pax_fields(text: bytes) -> tuple[str, int | None]:
    """Return the path and the size in a pax header, where it has them."""
    name, length = "", None
    while text:
        digits, _, rest = text.partition(b" ")
        # The length of a record counts its own digits.
        end = int(digits) - len(digits) - 1 if digits.isdigit() and len(digits) < 8 else 0
        key, _, value = rest[: max(0, end)].rstrip(b"\n").partition(b"=")
        if end <= 0:
            break
        if key == b"path":
            name = _text(value)
        elif key == b"size" and value.isdigit() and len(value) < 20:
            length = int(value)
        text = rest[end:]
    return name, length


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode(errors="replace")


def _zip_files(file: _File, entries: _Entries) -> list[_File]:
    """Return the files of a zip whose bytes are where its directory says, in the order of their bytes; none overlap."""
    source = ViewFile(file.view)
    try:
        size = zip_layout.directory_bytes(source)
        if size is None or not entries.take(size // _MIN_ENTRY_BYTES):
            return []
        with zipfile.ZipFile(cast("IO[bytes]", source)) as opened:
            infos = sorted(opened.infolist(), key=lambda info: info.header_offset)
    except (zipfile.BadZipFile, struct.error, EOFError, ValueError, NotImplementedError):
        return []
    files, free_from = [], 0
    for info in infos:
        part = _zip_part(file, source, info)
        if part is not None and part.start - file.start >= free_from:
            files.append(part)
            free_from = part.start - file.start + len(part.view)
    return files


def _zip_part(file: _File, source: ViewFile, info: zipfile.ZipInfo) -> _File | None:
    try:
        start = info.header_offset + zip_layout.local_header_bytes(source, info.header_offset)
    except (zipfile.BadZipFile, struct.error, ValueError):
        return None
    whole = start + info.compress_size <= len(file.view)
    stored = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
    if not whole or not (stored or info.compress_type == zipfile.ZIP_DEFLATED):
        return None
    return file.part(info.filename, start, info.compress_size, deflated=not stored)


def _inflate(
    files: Iterable[_File], first: int, folder: Path | None, limits: UnpackLimits
) -> tuple[list[tuple[_File, Deflated]], mmap.mmap | None]:
    """Inflate the deflated files into a temporary file, and return where each is, and the file's map."""
    streams: list[tuple[_File, Deflated]] = []
    length = packed = 0
    with tempfile.TemporaryFile(dir=folder) as scratch:
        for file in files:
            # Within what was inflated nothing is inflated again.
            if not file.deflated or file.start >= first:
                continue
            packed += len(file.view)
            allowed = min(limits.max_inflated_bytes, max(limits.ratio_free_bytes, limits.max_ratio * packed))
            scratch.seek(length)
            count = _inflate_into(scratch, file.view, allowed - length)
            if count:
                streams.append((file, Deflated(file.start, len(file.view), first + length, count)))
                length += count
        scratch.flush()
        # The map keeps the file, which has no name.
        return streams, mmap.mmap(scratch.fileno(), length, access=mmap.ACCESS_READ) if length else None


def _inflate_into(sink: IO[bytes], deflated: memoryview, allowed: int) -> int:
    """Write what a raw stream inflates to; return its length, 0 if it is damaged, or longer than allowed."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    length, position, waiting = 0, 0, b""
    try:
        while not inflater.eof:
            if not waiting:
                waiting = bytes(deflated[position : position + CHUNK_BYTES])
                position += len(waiting)
            piece = inflater.decompress(waiting, CHUNK_BYTES)
            waiting = inflater.unconsumed_tail
            length += len(piece)
            if length > allowed or not (piece or waiting or position < len(deflated) or inflater.eof):
                return 0
            sink.write(piece)
    except zlib.error:
        return 0
    # Bytes behind the end of the stream could not be made again.
    return 0 if inflater.unused_data or position < len(deflated) else length
