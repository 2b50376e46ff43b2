"""Patches between plain files, as `skafos delta` makes and applies them.

A patch file is one Zstandard frame with the old file as its prefix, followed by a skippable frame (RFC 8878, section
3.1.2) that names what it leads from and to. So ``zstd -d --patch-from=OLD PATCH`` decodes it as well.
"""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from artifacts.encodings import ZSTD_PREFIX
from artifacts.errors import ArtifactError, BaseMismatch, PatchTooCostly
from artifacts.files import whole_file
from artifacts.hashing import hash_file, is_sha256
from artifacts.patch.zstd_prefix import PatchLimits, apply_patch, make_patch
from skafos.exceptions import InvalidParamError, SkafosError

# Any of the sixteen skippable magic numbers will do; this one is ours.
SKIPPABLE_MAGIC = 0x184D2A5B
_HEADER = struct.Struct("<II")
# The record's length again, at the very end, so that it is found from there.
_FOOTER = struct.Struct("<I")
# Five short fields; anything longer is not ours.
MAX_RECORD_BYTES = 1024
FORMAT = 1


class PatchFailedError(SkafosError):
    """A patch could not be made or applied."""


@dataclass(frozen=True, slots=True)
class PatchInfo:
    """What a patch file says of itself. Lengths are bytes, hashes SHA-256 in hex."""

    encoding: str
    length: int
    old_sha256: str
    old_length: int
    new_sha256: str
    new_length: int


def make(old: Path, new: Path, patch: Path, limits: PatchLimits | None = None) -> PatchInfo:
    """Write the patch that leads from ``old`` to ``new``, having tried that it does.

    Raises:
        PatchFailedError: it would take more memory than ``limits`` allow.
        InvalidParamError: a file is missing.
    """
    (old_sha256, old_length), (new_sha256, new_length) = _hash(old), _hash(new)
    with tempfile.TemporaryDirectory(dir=_folder_of(patch), prefix=".skafos-delta-") as folder:
        frame = Path(folder) / "frame"
        with _explained("make"):
            make_patch(old, new, frame, limits)
            tried = Path(folder) / "tried"
            apply_patch(old, frame, tried, length=new_length, sha256=new_sha256, limits=limits)
        record = {"skafos": FORMAT, "encoding": ZSTD_PREFIX} | {
            "old_sha256": old_sha256,
            "old_length": old_length,
            "new_sha256": new_sha256,
            "new_length": new_length,
        }
        with whole_file(patch) as out, frame.open("rb") as source:
            shutil.copyfileobj(source, out)
            out.write(_trailer(record))
    return info(patch)


def apply(old: Path, patch: Path, new: Path, limits: PatchLimits | None = None) -> PatchInfo:
    """Write the file that ``patch`` leads to from ``old``; it appears once its length and hash are right.

    Raises:
        PatchFailedError: ``old`` is not the file that the patch was made from, the patch is damaged, or it would take
            more memory than ``limits`` allow.
        InvalidParamError: a file is missing, or ``patch`` is no patch.
    """
    known = info(patch)
    _require_file(old)
    with tempfile.TemporaryDirectory(dir=_folder_of(new), prefix=".skafos-delta-") as folder:
        frame = Path(folder) / "frame"
        _copy_frame(patch, frame)
        with _explained("apply"):
            apply_patch(
                old,
                frame,
                new,
                length=known.new_length,
                sha256=known.new_sha256,
                limits=limits,
                base_sha256=known.old_sha256,
            )
    return known


def info(patch: Path) -> PatchInfo:
    """Return what a patch file says of itself.

    Raises:
        InvalidParamError: it is missing, or no patch.
    """
    _require_file(patch)
    record, _ = _read_trailer(patch)
    return PatchInfo(length=patch.stat().st_size, **record)


def as_json(patch: PatchInfo) -> dict[str, Any]:
    """Return what is known of a patch as JSON has it."""
    return asdict(patch)


def _trailer(record: dict[str, Any]) -> bytes:
    text = json.dumps(record).encode()
    return _HEADER.pack(SKIPPABLE_MAGIC, len(text) + _FOOTER.size) + text + _FOOTER.pack(len(text))


def _read_trailer(patch: Path) -> tuple[dict[str, Any], int]:
    """Return the record at a patch's end, checked, and the length of the frame before it."""
    with patch.open("rb") as file:
        total = file.seek(0, 2)
        file.seek(max(0, total - MAX_RECORD_BYTES))
        end = file.read()
    length = _FOOTER.unpack(end[-_FOOTER.size :])[0] if len(end) > _FOOTER.size else 0
    start = len(end) - _FOOTER.size - length
    if length == 0 or start < _HEADER.size:
        raise InvalidParamError(f"{patch} is no patch of Skafos.")
    magic, stated = _HEADER.unpack(end[start - _HEADER.size : start])
    if (magic, stated) != (SKIPPABLE_MAGIC, length + _FOOTER.size):
        raise InvalidParamError(f"{patch} is no patch of Skafos.")
    return _checked(end[start : start + length], patch), total - _FOOTER.size - length - _HEADER.size


def _checked(text: bytes, patch: Path) -> dict[str, Any]:
    try:
        found = json.loads(text)
        if found["skafos"] != FORMAT or found["encoding"] != ZSTD_PREFIX:
            raise InvalidParamError(f"{patch} has an encoding that this version does not know.")
        hashes = {name: str(found[name]) for name in ("old_sha256", "new_sha256")}
        lengths = {name: int(found[name]) for name in ("old_length", "new_length")}
    except (ValueError, KeyError, TypeError):
        raise InvalidParamError(f"{patch} is a damaged patch.") from None
    if not all(map(is_sha256, hashes.values())) or min(lengths.values()) < 0:
        raise InvalidParamError(f"{patch} is a damaged patch.")
    return {"encoding": found["encoding"], **hashes, **lengths}


def _copy_frame(patch: Path, frame: Path) -> None:
    """Copy the part of a patch that is compressed."""
    _, left = _read_trailer(patch)
    with patch.open("rb") as source, frame.open("wb") as sink:
        while left and (chunk := source.read(min(left, 1 << 20))):
            sink.write(chunk)
            left -= len(chunk)


def _hash(path: Path) -> tuple[str, int]:
    _require_file(path)
    return hash_file(path)


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise InvalidParamError(f"There is no file {path}.")


def _folder_of(path: Path) -> Path:
    if not path.absolute().parent.is_dir():
        raise InvalidParamError(f"There is no folder {path.parent}.")
    return path.absolute().parent


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn the errors of the encoder into sentences."""
    try:
        yield
    except BaseMismatch:
        raise PatchFailedError("The old file is not the one that the patch was made from.") from None
    except PatchTooCostly as error:
        raise PatchFailedError(
            f"To {what} this patch takes about {error.needed >> 20} MiB of memory, and {error.allowed >> 20} MiB are "
            "allowed; see --max-memory."
        ) from None
    except ArtifactError as error:
        raise PatchFailedError(f"The patch cannot be used: {error}.") from None
