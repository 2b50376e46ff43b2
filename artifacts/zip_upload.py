"""Reading an uploaded zip that nobody vouches for.

Python's `zipfile` parses the format; this file decides what may be in it. Everything that can be decided from the
directory is decided before a byte is unpacked, and the size of the directory itself before `zipfile` reads it, because
`zipfile` loads all of it into memory.

Sources: the zip format is PKWARE's APPNOTE.TXT 6.3.10; the section is named where a rule comes from it.
"""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from artifacts import zip_layout
from artifacts.errors import InvalidUpload
from artifacts.hashing import CHUNK_BYTES
from artifacts.names import NameSet, UnsafeName, normal_name, shown
from artifacts.tar_format import MAX_FILE_BYTES

# One directory entry is 46 bytes, a name of at most 512, extra fields and a comment; 2 KiB leaves them room.
_MAX_ENTRY_BYTES = 2048

# General-purpose flags (APPNOTE 4.4.4): encrypted, strong encryption, masked headers.
_ENCRYPTION_FLAGS = 0x0001 | 0x0040 | 0x2000
_PATCH_DATA_FLAG = 0x0020
_UTF8_FLAG = 0x0800

# Deflate reaches at most 1032:1, on zeros. Weights compress less than 10:1; 200 leaves room for sparse ones.
MAX_RATIO = 200
# Below this an upload costs nothing to unpack, whatever its ratio.
RATIO_FREE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class UploadLimits:
    """How much an upload may hold. Lengths are in bytes.

    Attributes:
        max_upload_bytes: length of the file as it was sent; the largest models on phones stay below 2 GiB.
        max_unpacked_bytes: length of all files together.
        max_files: number of files; a compiled model with many functions has hundreds.
        max_ratio: unpacked bytes to uploaded ones, over the whole upload.
        ratio_free_bytes: unpacked bytes up to which the ratio is not asked.
    """

    max_upload_bytes: int = 2 * 1024**3
    max_unpacked_bytes: int = 4 * 1024**3
    max_files: int = 10_000
    max_ratio: int = MAX_RATIO
    ratio_free_bytes: int = RATIO_FREE_BYTES

    def __post_init__(self) -> None:
        if self.max_unpacked_bytes > MAX_FILE_BYTES:
            raise ValueError(f"an archive cannot hold a file of more than {MAX_FILE_BYTES} bytes")


@dataclass(frozen=True)
class ZipEntry:
    """A regular file in an uploaded zip: its safe name and how long it says it is."""

    name: str
    length: int
    info: zipfile.ZipInfo


@contextmanager
def opened_zip(upload: Path, limits: UploadLimits) -> Iterator[tuple[zipfile.ZipFile, tuple[ZipEntry, ...]]]:
    """Open an uploaded zip and yield it with the files that count, in the zip's order.

    Directories are dropped, and so is what macOS adds (``__MACOSX/``, ``.DS_Store``).

    Raises:
        InvalidUpload: it is no zip, it is damaged, or it holds what we refuse.
    """
    with upload.open("rb") as source:
        with _damage_is_refused():
            _bound_directory(source, limits)
            opened = zipfile.ZipFile(source)
            _require_disjoint(source, opened)
            entries = _files(opened.infolist(), upload.stat().st_size, limits)
        with opened:
            yield opened, entries


@contextmanager
def _damage_is_refused() -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, NotImplementedError) as problem:
        # ValueError also covers a name that is flagged as UTF-8 and is not.
        code, sentence = "damaged_zip", "the zip is damaged"
        if isinstance(problem, UnicodeDecodeError):
            code, sentence = "unsafe_name", "a name in the zip is not UTF-8"
        raise InvalidUpload(sentence, code) from problem


def _bound_directory(source: BinaryIO, limits: UploadLimits) -> None:
    """Refuse what is no zip, and one whose directory is larger than its files can need."""
    size = zip_layout.directory_bytes(source)
    if size is None:
        raise InvalidUpload("the file is named .zip, but it is no zip or was cut off", "not_a_zip")
    if size > limits.max_files * _MAX_ENTRY_BYTES:
        raise InvalidUpload(f"the zip holds more than {limits.max_files} files", "too_many_files")


def _require_disjoint(source: BinaryIO, opened: zipfile.ZipFile) -> None:
    """Refuse entries that share bytes: a few kilobytes can unpack to terabytes that way without a high ratio."""
    free_from = 0
    for info in sorted(opened.infolist(), key=lambda info: info.header_offset):
        if info.header_offset < free_from:
            raise InvalidUpload("entries of the zip overlap", "overlapping_entries")
        free_from = info.header_offset + zip_layout.local_header_bytes(source, info.header_offset) + info.compress_size
    if free_from > opened.start_dir:
        raise InvalidUpload("entries of the zip overlap", "overlapping_entries")


def _files(infos: list[zipfile.ZipInfo], upload_bytes: int, limits: UploadLimits) -> tuple[ZipEntry, ...]:
    names = NameSet()
    entries = []
    for info in infos:
        entry = _entry(info)
        if entry is not None:
            _take_name(names, entry.name)
            entries.append(entry)
    _require_within(entries, upload_bytes, limits)
    return tuple(entries)


def _entry(info: zipfile.ZipInfo) -> ZipEntry | None:
    """Return the entry if it is a file that counts, None if it is dropped."""
    raw = _decoded_name(info)
    try:
        name = normal_name(raw.removesuffix("/"))
    except UnsafeName as problem:
        raise InvalidUpload(f"{problem}", problem.code) from problem
    _require_regular(info, name)
    if raw.endswith("/"):
        return None
    parts = name.split("/")
    if parts[0] == "__MACOSX" or parts[-1] == ".DS_Store":
        return None
    return ZipEntry(name, info.file_size, info)


def _decoded_name(info: zipfile.ZipInfo) -> str:
    """Return an entry's name as UTF-8, whether or not the zip says that it is.

    Without the flag, `zipfile` reads a name as code page 437 (APPNOTE appendix D). Many tools write UTF-8 there all
    the same; a name that is UTF-8 by its bytes is taken as such, any other is refused rather than guessed.
    """
    if info.flag_bits & _UTF8_FLAG:
        return info.orig_filename
    return info.orig_filename.encode("cp437").decode("utf-8")


def _require_regular(info: zipfile.ZipInfo, name: str) -> None:
    if info.flag_bits & _ENCRYPTION_FLAGS:
        raise InvalidUpload(f"{shown(name)} in the zip is encrypted", "encrypted_entry")
    # Unix puts a file's mode into the upper half of the external attributes; others leave it zero.
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        raise InvalidUpload(f"{shown(name)} in the zip is a link", "link")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise InvalidUpload(f"{shown(name)} in the zip is neither a file nor a folder", "special_file")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & _PATCH_DATA_FLAG:
        raise InvalidUpload(f"{shown(name)} in the zip is not compressed by deflate", "unsupported_compression")


def _take_name(names: NameSet, name: str) -> None:
    try:
        names.add(name)
    except UnsafeName as problem:
        raise InvalidUpload(f"{problem}", problem.code) from problem


def _require_within(entries: list[ZipEntry], upload_bytes: int, limits: UploadLimits) -> None:
    if not entries:
        raise InvalidUpload("the zip holds no file", "empty")
    if len(entries) > limits.max_files:
        raise InvalidUpload(f"the zip holds more than {limits.max_files} files", "too_many_files")
    unpacked = sum(entry.length for entry in entries)
    if unpacked > limits.max_unpacked_bytes:
        raise InvalidUpload(f"the zip unpacks to more than {limits.max_unpacked_bytes} bytes", "too_large")
    if unpacked > max(limits.ratio_free_bytes, limits.max_ratio * upload_bytes):
        raise InvalidUpload(f"the zip unpacks to more than {limits.max_ratio} times its size", "suspicious_ratio")


def unpacked(opened: zipfile.ZipFile, entry: ZipEntry) -> Iterator[bytes]:
    """Yield the bytes of one file of the zip; its length and its checksum are verified at the end.

    Raises:
        InvalidUpload: it is damaged, or its two headers disagree.
    """
    left = entry.length
    with _damage_is_refused(), opened.open(entry.info) as source:
        # `zipfile` stops at the length that the directory states, so a longer stream cannot flood us.
        while chunk := source.read(CHUNK_BYTES):
            left -= len(chunk)
            yield chunk
        if left:
            raise zipfile.BadZipFile("an entry is shorter than the directory says")
