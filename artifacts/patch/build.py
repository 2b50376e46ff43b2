"""One patch, made and proved: run in a process of its own, because it takes time and memory.

A patch is worth offering only if it decodes to the exact target and saves a tenth of what the device would download
without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory

from artifacts.encoded import Encoded
from artifacts.errors import EncodingInvalid, PatchTooCostly
from artifacts.hashing import hash_file
from artifacts.patch.zstd_prefix import PatchLimits, apply_patch, make_patch

__all__ = ["Built", "PatchLimits", "SkipReason", "Skipped", "build_patch"]

# A patch is offered at nine tenths of the full encoding or less: below that gain, a cache that holds one blob for all
# devices serves them better than one that holds many.
MAX_SHARE_NUMERATOR = 9
MAX_SHARE_DENOMINATOR = 10


class SkipReason(StrEnum):
    """Why no patch is offered."""

    TOO_COSTLY = "too_costly"
    NOT_SMALLER = "not_smaller"
    NOT_EXACT = "not_exact"


@dataclass(frozen=True)
class Built:
    """A patch that is proved: its blob is in the file that was asked for."""

    encoded: Encoded


@dataclass(frozen=True)
class Skipped:
    """No patch, and why; no file is left."""

    reason: SkipReason
    detail: str


def build_patch(
    base: Path, target: Path, out: Path, limits: PatchLimits | None = None, *, full_length: int
) -> Built | Skipped:
    """Make a patch from ``base`` to ``target``, apply it, and compare the result with ``target``.

    Arguments and result can be pickled, so it runs in a spawned process.

    Args:
        base: the archive that devices have.
        target: the archive that they should have.
        out: where the patch goes, if there is one.
        limits: memory for making and for applying it.
        full_length: length in bytes of the smallest encoding of ``target`` that needs no base.

    Raises:
        OSError: a file cannot be read or written.
    """
    try:
        encoded = make_patch(base, target, out, limits)
    except PatchTooCostly as problem:
        return Skipped(SkipReason.TOO_COSTLY, f"{problem}")
    if encoded.length * MAX_SHARE_DENOMINATOR > full_length * MAX_SHARE_NUMERATOR:
        out.unlink()
        return Skipped(SkipReason.NOT_SMALLER, f"the patch has {encoded.length} bytes, the full encoding {full_length}")
    try:
        _prove(base, target, encoded, limits)
    except EncodingInvalid as problem:
        out.unlink()
        return Skipped(SkipReason.NOT_EXACT, f"{problem}")
    return Built(encoded)


def _prove(base: Path, target: Path, encoded: Encoded, limits: PatchLimits | None) -> None:
    sha256, length = hash_file(target)
    with TemporaryDirectory(dir=encoded.path.parent, prefix="proof-") as folder:
        result = Path(folder) / "result"
        apply_patch(base, encoded.path, result, length=length, sha256=sha256, limits=limits, base_sha256=encoded.base)
