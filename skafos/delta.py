"""Patches between plain files, as `skafos delta` makes and applies them.

``skafos-delta`` knows tensors and leaves least (``docs/patch-format.md``). ``zstd-prefix`` is what the `zstd` program
decodes (`skafos.zstd_patch`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from artifacts.encodings import SKAFOS_DELTA, ZSTD_PREFIX
from artifacts.errors import ArtifactError, BaseMismatch, PatchTooCostly
from artifacts.hashing import hash_file
from artifacts.patch import apply as tensor_patch
from artifacts.patch import zstd_prefix
from artifacts.patch.encode import EncodeLimits, EncodeReport, encode_patch
from artifacts.patch.format import MAGIC, Header, read_header
from artifacts.patch.limits import PatchLimits
from skafos import zstd_patch
from skafos.exceptions import InvalidParamError, SkafosError
from skafos.zstd_patch import NoZstdPatch

__all__ = [
    "ENCODINGS",
    "PROFILES",
    "Limits",
    "Made",
    "PatchFailedError",
    "PatchInfo",
    "apply",
    "as_json",
    "info",
    "make",
]

ENCODINGS = (SKAFOS_DELTA, ZSTD_PREFIX)
PROFILES = ("best", "zstd-only")

Progress = Callable[[int, int], None]


class PatchFailedError(SkafosError):
    """A patch could not be made or applied."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What making or applying a patch may cost; the defaults of its encoding where nothing is said.

    Attributes:
        memory_bytes: of the process.
        seconds: after which nothing more is tried to make a patch smaller; only of ``skafos-delta``.
    """

    memory_bytes: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class PatchInfo:
    """What a patch file says of itself. Lengths are bytes, hashes SHA-256 in hex.

    Attributes:
        encoding: one of `ENCODINGS`.
        length: of the patch.
        old_sha256, old_length: of the file that it leads from; of ``skafos-delta`` the first 16 bytes of the hash.
        new_sha256, new_length: of the file that it leads to.
        memory_bytes: what applying it takes beside the old file, which is mapped; of ``zstd-prefix`` with both files.
        scratch_bytes: disk that applying it takes beside the new file.
    """

    encoding: str
    length: int
    old_sha256: str
    old_length: int
    new_sha256: str
    new_length: int
    memory_bytes: int
    scratch_bytes: int


@dataclass(frozen=True, slots=True)
class Made:
    """A patch that was made and tried.

    Attributes:
        info: what it says of itself.
        report: how each part of the new file is made; only of ``skafos-delta``.
    """

    info: PatchInfo
    report: EncodeReport | None


def make(
    old: Path,
    new: Path,
    patch: Path,
    limits: Limits | None = None,
    *,
    encoding: str = SKAFOS_DELTA,
    profile: str = "best",
    making: Progress | None = None,
    trying: Progress | None = None,
) -> Made:
    """Write the patch that leads from ``old`` to ``new``, having tried that it does.

    Args:
        old: the file that it leads from.
        new: the file that it leads to.
        patch: where it goes; it appears whole.
        limits: what it may cost.
        encoding: one of `ENCODINGS`.
        profile: one of `PROFILES`; only of ``skafos-delta``.
        making: is told how much is made, of a total; only of ``skafos-delta``.
        trying: is told the bytes of the new file that were made from the patch, and their total; likewise.

    Raises:
        PatchFailedError: it would take more memory than ``limits`` allow.
        InvalidParamError: a file is missing, or the encoding or the profile is unknown.
    """
    if encoding not in ENCODINGS:
        raise InvalidParamError(f"The encoding {encoding} is unknown; there are {' and '.join(ENCODINGS)}.")
    if profile not in PROFILES:
        raise InvalidParamError(f"The profile {profile} is unknown; there are {' and '.join(PROFILES)}.")
    for path in (old, new):
        _require_file(path)
    with tempfile.TemporaryDirectory(dir=_folder_of(patch), prefix=".skafos-delta-") as folder, _explained("make"):
        made, tried = Path(folder) / "made", Path(folder) / "tried"
        report = None
        if encoding == SKAFOS_DELTA:
            report = encode_patch(
                old, new, made, _encode_limits(limits), zstd_only=profile == "zstd-only", progress=making
            )
        else:
            _make_zstd(old, new, made, limits)
        known = _described(made)
        _apply(old, made, tried, known, limits, trying)
        made.replace(patch)
    return Made(known, report)


def apply(
    old: Path, patch: Path, new: Path, limits: Limits | None = None, *, progress: Progress | None = None
) -> PatchInfo:
    """Write the file that ``patch`` leads to from ``old``; it appears once its length and hash are right.

    Args:
        old: the file that the patch was made from.
        patch: in any of the `ENCODINGS`.
        new: where the result goes.
        limits: what it may cost.
        progress: is told the bytes that are made, and their total; only of ``skafos-delta``.

    Raises:
        PatchFailedError: ``old`` is not the file that the patch was made from, the patch is damaged, or it would take
            more memory than ``limits`` allow.
        InvalidParamError: a file is missing, or ``patch`` is no patch.
    """
    known = info(patch)
    _require_file(old)
    with tempfile.TemporaryDirectory(dir=_folder_of(new), prefix=".skafos-delta-") as folder, _explained("apply"):
        made = Path(folder) / "made"
        _apply(old, patch, made, known, limits, progress)
        made.replace(new)
    return known


def info(patch: Path) -> PatchInfo:
    """Return what a patch file says of itself.

    Raises:
        InvalidParamError: it is missing, or no patch.
    """
    _require_file(patch)
    try:
        return _described(patch)
    except (NoZstdPatch, ArtifactError) as error:
        raise InvalidParamError(f"{patch} cannot be read: {error}.") from None


def as_json(patch: PatchInfo) -> dict[str, Any]:
    """Return what is known of a patch as JSON has it."""
    return asdict(patch)


def _make_zstd(old: Path, new: Path, patch: Path, limits: Limits | None) -> None:
    frame = patch.with_name("frame")
    made = zstd_prefix.make_patch(old, new, frame, _patch_limits(limits))
    assert made.base is not None  # a patch has one
    new_sha256, new_length = hash_file(new)
    zstd_patch.write_patch(frame, patch, zstd_patch.Record(made.base, old.stat().st_size, new_sha256, new_length))


def _apply(
    old: Path, patch: Path, new: Path, known: PatchInfo, limits: Limits | None, progress: Progress | None
) -> None:
    apply_it: Callable[..., None] = partial(tensor_patch.apply_patch, progress=progress)
    if known.encoding == ZSTD_PREFIX:
        frame = new.with_name("frame")
        zstd_patch.copy_frame(patch, frame)
        patch, apply_it = frame, zstd_prefix.apply_patch
    apply_it(
        old,
        patch,
        new,
        length=known.new_length,
        sha256=known.new_sha256,
        base_sha256=known.old_sha256,
        limits=_patch_limits(limits),
    )


def _described(patch: Path) -> PatchInfo:
    length = patch.stat().st_size
    with patch.open("rb") as file:
        if file.read(len(MAGIC)) == MAGIC:
            file.seek(0)
            return _of_header(read_header(file), length)
    record = zstd_patch.read_record(patch)
    memory = zstd_prefix.estimate_apply_bytes(record.old_length, record.new_length)
    sides = record.old_sha256, record.old_length, record.new_sha256, record.new_length
    return PatchInfo(ZSTD_PREFIX, length, *sides, memory, 0)


def _of_header(header: Header, length: int) -> PatchInfo:
    base, target = header.base, header.target
    sides = base.sha256, base.length, target.sha256, target.length
    return PatchInfo(SKAFOS_DELTA, length, *sides, header.memory_bytes, header.inflated_bytes)


def _encode_limits(limits: Limits | None) -> EncodeLimits:
    default, limits = EncodeLimits(), limits or Limits()
    return EncodeLimits(limits.seconds or default.max_seconds, limits.memory_bytes or default.max_bytes)


def _patch_limits(limits: Limits | None) -> PatchLimits | None:
    allowed = limits.memory_bytes if limits is not None else None
    return None if allowed is None else PatchLimits(max_build_bytes=allowed, max_apply_bytes=allowed)


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise InvalidParamError(f"There is no file {path}.")


def _folder_of(path: Path) -> Path:
    if not path.absolute().parent.is_dir():
        raise InvalidParamError(f"There is no folder {path.parent}.")
    return path.absolute().parent


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn the errors of encoders and decoders into sentences."""
    try:
        yield
    except BaseMismatch:
        raise PatchFailedError("The old file is not the one that the patch was made from.") from None
    except PatchTooCostly as error:
        raise PatchFailedError(
            f"To {what} this patch takes about {error.needed >> 20} MiB of {error.what}, and {error.allowed >> 20} MiB "
            "are allowed; see --max-memory."
        ) from None
    except ArtifactError as error:
        raise PatchFailedError(f"The patch cannot be used: {error}.") from None
