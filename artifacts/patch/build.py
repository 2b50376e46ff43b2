"""One patch in one encoding, made and proved: run in a process of its own, because it takes time and memory.

A patch is worth offering only if it decodes to the exact target and saves a tenth of what the device would download
without it. Several encodings may be tried for a pair, each in its own process and within its own limits; `best` then
tells which to offer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from artifacts.encoded import Encoded
from artifacts.encodings import SKAFOS_DELTA, ZSTD_PREFIX, decode
from artifacts.errors import EncodingInvalid, PatchTooCostly
from artifacts.hashing import hash_file
from artifacts.patch import zstd_prefix
from artifacts.patch.zstd_prefix import PatchLimits

__all__ = ["ENCODERS", "Built", "PatchLimits", "SkipReason", "Skipped", "best", "build_patch"]

# A patch is offered at nine tenths of the full encoding or less: below that gain, a cache that holds one blob for all
# devices serves them better than one that holds many.
MAX_SHARE_NUMERATOR = 9
MAX_SHARE_DENOMINATOR = 10

Encoder = Callable[[Path, Path, Path, PatchLimits | None], Encoded]
"""Writes a patch from the first file to the second into the third. Raises `PatchTooCostly` and `OSError`."""


def _make_delta(base: Path, target: Path, out: Path, limits: PatchLimits | None = None) -> Encoded:
    # Only the process that makes such a patch loads NumPy.
    from artifacts.patch.encode import EncodeLimits, encode_patch

    allowed = limits or PatchLimits()
    return encode_patch(base, target, out, EncodeLimits(allowed.max_build_seconds, allowed.max_build_bytes)).encoded


ENCODERS: Final[Mapping[str, Encoder]] = {SKAFOS_DELTA: _make_delta, ZSTD_PREFIX: zstd_prefix.make_patch}
"""Every encoding in which patches can be made, by its name on the wire; the one to prefer first."""


class SkipReason(StrEnum):
    """Why no patch is offered."""

    TOO_COSTLY = "too_costly"
    NOT_SMALLER = "not_smaller"
    NOT_EXACT = "not_exact"


# Of several encodings that did not do, the one that came furthest tells most: one that is not exact has a fault.
_MOST_TELLING = (SkipReason.NOT_EXACT, SkipReason.NOT_SMALLER, SkipReason.TOO_COSTLY)


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
    base: Path,
    target: Path,
    out: Path,
    limits: PatchLimits | None = None,
    *,
    full_length: int,
    encoding: str = ZSTD_PREFIX,
) -> Built | Skipped:
    """Make a patch from ``base`` to ``target``, apply it as a device would, and compare the result with ``target``.

    Arguments and result can be pickled, so it runs in a spawned process.

    Args:
        base: the archive that devices have.
        target: the archive that they should have.
        out: where the patch goes, if there is one.
        limits: memory and time for making and for applying it.
        full_length: length in bytes of the smallest encoding of ``target`` that needs no base.
        encoding: one of `ENCODERS`.

    Raises:
        OSError: a file cannot be read or written.
    """
    try:
        encoded = ENCODERS[encoding](base, target, out, limits)
    except PatchTooCostly as problem:
        return Skipped(SkipReason.TOO_COSTLY, f"{problem}")
    if encoded.length * MAX_SHARE_DENOMINATOR > full_length * MAX_SHARE_NUMERATOR:
        out.unlink()
        return Skipped(SkipReason.NOT_SMALLER, f"the patch has {encoded.length} bytes, the full encoding {full_length}")
    try:
        _prove(base, target, encoded, limits)
    except (EncodingInvalid, PatchTooCostly) as problem:
        out.unlink()
        reason = SkipReason.TOO_COSTLY if isinstance(problem, PatchTooCostly) else SkipReason.NOT_EXACT
        return Skipped(reason, f"{problem}")
    return Built(encoded)


def best(outcomes: Sequence[Built | Skipped]) -> Built | Skipped:
    """Return the smallest patch, of equally small ones the first; without one, the skip that tells most.

    Args:
        outcomes: of one pair in several encodings, the preferred one first; at least one.
    """
    built = [outcome for outcome in outcomes if isinstance(outcome, Built)]
    if built:
        return min(built, key=lambda each: each.encoded.length)
    skipped = [outcome for outcome in outcomes if isinstance(outcome, Skipped)]
    return min(skipped, key=lambda each: _MOST_TELLING.index(each.reason))


def _prove(base: Path, target: Path, encoded: Encoded, limits: PatchLimits | None) -> None:
    sha256, length = hash_file(target)
    with TemporaryDirectory(dir=encoded.path.parent, prefix="proof-") as folder:
        decode(
            encoded.name,
            encoded.path,
            Path(folder) / "result",
            length=length,
            sha256=sha256,
            base=base,
            base_sha256=encoded.base,
            limits=limits,
        )
