"""A patch in the encoding ``zstd-prefix`` as a file of its own.

It is one Zstandard frame with the old file as its prefix, followed by a skippable frame (RFC 8878, section 3.1.2) that
names what it leads from and to. So ``zstd -d --patch-from=OLD PATCH`` decodes it as well.
"""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import asdict, dataclass
from pathlib import Path

from artifacts.encodings import ZSTD_PREFIX
from artifacts.files import whole_file
from artifacts.hashing import is_sha256

# Any of the sixteen skippable magic numbers will do; this one is ours.
SKIPPABLE_MAGIC = 0x184D2A5B
_HEADER = struct.Struct("<II")
# The record's length again, at the very end, so that it is found from there.
_FOOTER = struct.Struct("<I")
# Five short fields; anything longer is not ours.
MAX_RECORD_BYTES = 1024
FORMAT = 1


class NoZstdPatch(ValueError):
    """The file does not end with our record, or with a damaged one."""


@dataclass(frozen=True, slots=True)
class Record:
    """What stands behind the frame. Lengths are bytes, hashes SHA-256 in hex."""

    old_sha256: str
    old_length: int
    new_sha256: str
    new_length: int


def write_patch(frame: Path, patch: Path, record: Record) -> None:
    """Write a patch file of a frame and its record; it appears whole."""
    text = json.dumps({"skafos": FORMAT, "encoding": ZSTD_PREFIX, **asdict(record)}).encode()
    with whole_file(patch) as out, frame.open("rb") as source:
        shutil.copyfileobj(source, out)
        out.write(_HEADER.pack(SKIPPABLE_MAGIC, len(text) + _FOOTER.size) + text + _FOOTER.pack(len(text)))


def read_record(patch: Path) -> Record:
    """Return what a patch file says of itself.

    Raises:
        NoZstdPatch: it has no record, or a damaged one.
    """
    return _read_trailer(patch)[0]


def copy_frame(patch: Path, frame: Path) -> None:
    """Copy the part of a patch file that is compressed.

    Raises:
        NoZstdPatch: it has no record, or a damaged one.
    """
    _, left = _read_trailer(patch)
    with patch.open("rb") as source, frame.open("wb") as sink:
        while left and (chunk := source.read(min(left, 1 << 20))):
            sink.write(chunk)
            left -= len(chunk)


def _read_trailer(patch: Path) -> tuple[Record, int]:
    """Return the record at a patch's end, checked, and the length of the frame before it."""
    with patch.open("rb") as file:
        total = file.seek(0, 2)
        file.seek(max(0, total - MAX_RECORD_BYTES))
        end = file.read()
    length = _FOOTER.unpack(end[-_FOOTER.size :])[0] if len(end) > _FOOTER.size else 0
    start = len(end) - _FOOTER.size - length
    if length == 0 or start < _HEADER.size:
        raise NoZstdPatch("it is no patch of Skafos")
    magic, stated = _HEADER.unpack(end[start - _HEADER.size : start])
    if (magic, stated) != (SKIPPABLE_MAGIC, length + _FOOTER.size):
        raise NoZstdPatch("it is no patch of Skafos")
    return _checked(end[start : start + length]), total - _FOOTER.size - length - _HEADER.size


def _checked(text: bytes) -> Record:
    try:
        found = json.loads(text)
        if found["skafos"] != FORMAT or found["encoding"] != ZSTD_PREFIX:
            raise NoZstdPatch("it has an encoding that this version does not know")
        record = Record(
            str(found["old_sha256"]), int(found["old_length"]), str(found["new_sha256"]), int(found["new_length"])
        )
    except NoZstdPatch:
        raise
    except (ValueError, KeyError, TypeError, RecursionError):
        raise NoZstdPatch("it is a damaged patch") from None
    hashes = is_sha256(record.old_sha256) and is_sha256(record.new_sha256)
    if not hashes or min(record.old_length, record.new_length) < 0:
        raise NoZstdPatch("it is a damaged patch")
    return record
