"""An artifact's bytes: the uploaded files as one archive in canonical form (`artifacts.tar_format`).

The form is a bijection: the same files give the same bytes wherever they are archived, and bytes that differ in any
way from what would be written for the files in them are refused. So a device needs to keep only the unpacked files:
it makes the archive again when a patch needs a base.
"""

from __future__ import annotations

import io
import mmap
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, cast

from artifacts import tar_format, zip_upload
from artifacts.errors import InvalidArchive, InvalidUpload
from artifacts.files import make_directory, sync_directory, whole_file
from artifacts.hashing import HashingWriter, chunks
from artifacts.names import MAX_NAME_BYTES, NameSet, UnsafeName, normal_name, shown
from artifacts.zip_upload import UploadLimits

__all__ = [
    "ArchiveInfo",
    "ArchiveMember",
    "ArchiveReader",
    "ArchivedFile",
    "InvalidArchive",
    "InvalidUpload",
    "UploadLimits",
    "archive_directory",
    "archive_upload",
    "extract_archive",
]

# A pax header holds one path: its name, the key and at most four digits of length.
_MAX_PAX_BYTES = MAX_NAME_BYTES + 16


@dataclass(frozen=True, slots=True)
class ArchivedFile:
    """One file of an artifact: its name, its length in bytes and its SHA-256 in hex."""

    name: str
    length: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ArchiveInfo:
    """A whole archive: its SHA-256 in hex, its length in bytes, and its files in their order."""

    sha256: str
    length: int
    files: tuple[ArchivedFile, ...]


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """Where a file's bytes lie in an archive, in bytes from its start."""

    name: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class _Source:
    """A file that goes into an archive, and a way to read it in pieces."""

    name: str
    length: int
    read: Callable[[], Iterable[bytes]]


def archive_upload(upload: Path, filename: str, out: Path, limits: UploadLimits | None = None) -> ArchiveInfo:
    """Write the canonical archive of an upload to ``out``, which appears only when all of it is right.

    Args:
        upload: the bytes as they were sent.
        filename: the name they were sent under. One that ends in ``.zip`` must be a zip, whose files are archived;
            any other is one file of that name.
        out: where the archive goes; replaced if it exists.
        limits: bounds; the defaults if None.

    Raises:
        InvalidUpload: the upload is refused; its sentence says why, its code is stable.
        OSError: a file cannot be read or written.
    """
    limits = limits or UploadLimits()
    if upload.stat().st_size > limits.max_upload_bytes:
        raise InvalidUpload(f"the upload is longer than {limits.max_upload_bytes} bytes", "too_large")
    with _upload_sources(upload, filename, limits) as sources, whole_file(out) as sink:
        return _write(sources, sink)


def archive_directory(root: Path, out: BinaryIO | Path | None, names: Iterable[str] | None = None) -> ArchiveInfo:
    """Write the canonical archive of the files below ``root``: the bytes that they were extracted from.

    Args:
        root: a folder of regular files and folders; empty folders leave no trace.
        out: an open file, or a path that appears only when all of it is written; None only hashes.
        names: which files, as an archive names them, whatever else the folder holds; None takes all.

    Raises:
        InvalidArchive: there is no file, or a name, link or other thing that no archive may hold.
        OSError: a file cannot be read or written.
    """
    sources = _directory_sources(_regular_files(root) if names is None else _named_files(root, names), root)
    if isinstance(out, Path):
        with whole_file(out) as sink:
            return _write(sources, sink)
    return _write(sources, out)


def extract_archive(archive: Path, into: Path) -> ArchiveInfo:
    """Write the files of an archive below ``into`` and flush them and their folders to the disk.

    Args:
        archive: an archive in canonical form; nothing else is accepted.
        into: a folder that is empty or missing: what lay there before could be a link that leads elsewhere.

    Raises:
        InvalidArchive: the bytes are not canonical, or ``into`` holds something. Files may be left behind in it.
        OSError: a file cannot be read or written.
    """
    make_directory(into)
    if any(into.iterdir()):
        raise InvalidArchive("the folder to extract into is not empty")
    with ArchiveReader(archive) as reader:
        # Writing the archive once more, into nothing but a hash, is how its hash is known without a second read.
        info = _write([_extracting(reader, member, into) for member in reader.members], None)
    for folder in [into, *(path for path in into.rglob("*") if path.is_dir())]:
        sync_directory(folder)
    return info


class ArchiveReader:
    """An archive that is open: what is in it, and a way to read one file without unpacking.

    Opening reads and checks every header, and no file's bytes.

    Args:
        path: the archive.

    Raises:
        InvalidArchive: the bytes are not in canonical form.
        OSError: they cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with ExitStack() as stack:
            self._file = stack.enter_context(path.open("rb"))
            self.members = tuple(_index(self._file))
            stack.pop_all()
        self._by_name = {member.name: member for member in self.members}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the files, in the archive's order."""
        return tuple(member.name for member in self.members)

    def member(self, name: str) -> ArchiveMember:
        """Return where a file lies.

        Raises:
            KeyError: the archive has no such file.
        """
        return self._by_name[name]

    def open(self, name: str) -> BinaryIO:
        """Open one file for reading; it seeks, and ends where the file ends.

        Raises:
            KeyError: the archive has no such file.
        """
        member = self.member(name)
        return cast("BinaryIO", io.BufferedReader(_Slice(os.dup(self._file.fileno()), member.offset, member.length)))

    def map(self) -> mmap.mmap:
        """Map the whole archive into memory, read-only; a file is at its member's offset."""
        return mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)

    def close(self) -> None:
        """Close the archive; files that were opened from it stay open."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Slice(io.RawIOBase):
    """A part of an open file. Reads by position, so slices that share the file do not disturb each other."""

    def __init__(self, descriptor: int, offset: int, length: int) -> None:
        self._descriptor = descriptor
        self._offset = offset
        self._length = length
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        if start + offset < 0:
            raise ValueError("a position before the start")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override] # narrower than the stubs'
        wanted = max(0, min(len(buffer), self._length - self._position))
        into = memoryview(buffer)[:wanted]
        count = os.preadv(self._descriptor, [into], self._offset + self._position) if wanted else 0
        self._position += count
        return count

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


@contextmanager
def _upload_sources(upload: Path, filename: str, limits: UploadLimits) -> Iterator[list[_Source]]:
    if not filename.lower().endswith(".zip"):
        yield [_bare_source(upload, filename, limits)]
        return
    with zip_upload.opened_zip(upload, limits) as (opened, entries):
        yield [_Source(entry.name, entry.length, partial(zip_upload.unpacked, opened, entry)) for entry in entries]


def _bare_source(upload: Path, filename: str, limits: UploadLimits) -> _Source:
    try:
        name = normal_name(filename)
    except UnsafeName as problem:
        raise InvalidUpload(f"{problem}", problem.code) from problem
    length = upload.stat().st_size
    if "/" in name:
        raise InvalidUpload(f"the name {shown(name)} of a single file holds a slash", "unsafe_name")
    if length == 0:
        raise InvalidUpload("the uploaded file is empty", "empty")
    if length > limits.max_unpacked_bytes:
        raise InvalidUpload(f"the upload is longer than {limits.max_unpacked_bytes} bytes", "too_large")
    return _Source(name, length, partial(_file_chunks, upload))


def _directory_sources(files: Iterable[Path], root: Path) -> list[_Source]:
    names = NameSet()
    sources = []
    for path in files:
        try:
            name = normal_name(path.relative_to(root).as_posix())
            names.add(name)
        except UnsafeName as problem:
            raise InvalidArchive(f"{problem}") from problem
        sources.append(_Source(name, path.stat().st_size, partial(_file_chunks, path)))
    if not sources:
        raise InvalidArchive("the folder holds no file")
    return sources


def _regular_files(root: Path) -> Iterator[Path]:
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _regular_files(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                yield Path(entry.path)
            else:
                raise InvalidArchive(f"{shown(entry.name)} is neither a file nor a folder")


def _named_files(root: Path, names: Iterable[str]) -> Iterator[Path]:
    for name in names:
        path = root / name
        if not stat.S_ISREG(path.lstat().st_mode):
            raise InvalidArchive(f"{shown(name)} is no file")
        yield path


def _file_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as source:
        yield from chunks(source)


def _extracting(reader: ArchiveReader, member: ArchiveMember, into: Path) -> _Source:
    """Make a source that also writes what is read from it below ``into``."""

    def read() -> Iterator[bytes]:
        path = into / member.name
        path.parent.mkdir(parents=True, exist_ok=True)
        with reader.open(member.name) as source, path.open("xb") as sink:
            for chunk in chunks(source):
                sink.write(chunk)
                yield chunk
            sink.flush()
            os.fsync(sink.fileno())

    return _Source(member.name, member.length, read)


def _write(sources: Iterable[_Source], sink: BinaryIO | None) -> ArchiveInfo:
    out = HashingWriter(sink)
    ordered = sorted(sources, key=lambda source: source.name.encode())
    files = tuple(_write_file(out, source) for source in ordered)
    out.write(tar_format.END)
    return ArchiveInfo(out.sha256, out.length, files)


def _write_file(out: HashingWriter, source: _Source) -> ArchivedFile:
    if source.length > tar_format.MAX_FILE_BYTES:
        raise InvalidArchive(f"{shown(source.name)} is longer than {tar_format.MAX_FILE_BYTES} bytes")
    out.write(tar_format.header(source.name, source.length))
    content = HashingWriter()
    for chunk in source.read():
        content.write(chunk)
        out.write(chunk)
    if content.length != source.length:
        raise InvalidArchive(f"{shown(source.name)} changed its length while it was read")
    out.write(tar_format.padding(source.length))
    return ArchivedFile(source.name, source.length, content.sha256)


def _index(archive: BinaryIO) -> Iterator[ArchiveMember]:
    """Yield where each file lies; every byte that is not a file's content is compared with the canonical form.

    The names are read, the header is rendered from them, and the two must be equal: so there is one reading of the
    bytes, and nothing hides in a field that one tar program looks at and another does not.
    """
    total = archive.seek(0, os.SEEK_END)
    position, last, names = 0, b"", NameSet()
    while (member := _read_header(archive, position, total)) is not None:
        raw = member.name.encode()
        if raw <= last and position:
            raise InvalidArchive("the files of the archive are not sorted")
        _take_name(names, member.name)
        yield member
        position, last = member.offset + member.length, raw
        pad = tar_format.padding(member.length)
        if _read_at(archive, position, len(pad)) != pad:
            raise InvalidArchive("the padding behind a file is not zeros, or is cut off")
        position += len(pad)
    if position == 0 or total != position + len(tar_format.END):
        raise InvalidArchive("the archive is empty, cut off, or goes on behind its end")


def _read_header(archive: BinaryIO, position: int, total: int) -> ArchiveMember | None:
    """Return the file whose header is at ``position``, None at the two blocks that end the archive."""
    block = _read_at(archive, position, tar_format.BLOCK_BYTES)
    if not any(block):
        if _read_at(archive, position, len(tar_format.END)) != tar_format.END:
            raise InvalidArchive("the archive is cut off")
        return None
    raw = tar_format.short_name(block)
    file_position = position
    if tar_format.is_pax(block):
        raw, file_position = _read_pax(archive, position, block)
    length = tar_format.stated_length(_read_at(archive, file_position, tar_format.BLOCK_BYTES))
    name = _safe_name(raw)
    offset = file_position + tar_format.BLOCK_BYTES
    if length is None or offset + length > total:
        raise InvalidArchive(f"{shown(name)} has no length, or one that goes beyond the archive")
    if _read_at(archive, position, offset - position) != tar_format.header(name, length):
        raise InvalidArchive(f"the header of {shown(name)} is not in canonical form")
    return ArchiveMember(name, offset, length)


def _read_pax(archive: BinaryIO, position: int, block: bytes) -> tuple[bytes, int]:
    """Return the path in a pax header and where the header behind it starts."""
    length = tar_format.stated_length(block)
    if length is None or length > _MAX_PAX_BYTES:
        raise InvalidArchive("a pax header is longer than any name that we write")
    start = position + tar_format.BLOCK_BYTES
    path = tar_format.pax_path(_read_at(archive, start, length))
    if path is None:
        raise InvalidArchive("a pax header holds something else than one path")
    return path, start + length + len(tar_format.padding(length))


def _safe_name(raw: bytes) -> str:
    try:
        name = raw.decode()
        if normal_name(name) != name:
            raise InvalidArchive(f"the name {shown(name)} is not in normal form C")
    except ValueError as problem:
        raise InvalidArchive(f"a name in the archive is unsafe or not UTF-8: {shown(repr(raw))}") from problem
    return name


def _take_name(names: NameSet, name: str) -> None:
    try:
        names.add(name)
    except UnsafeName as problem:
        raise InvalidArchive(f"{problem}") from problem


def _read_at(archive: BinaryIO, position: int, length: int) -> bytes:
    archive.seek(position)
    return archive.read(length)
