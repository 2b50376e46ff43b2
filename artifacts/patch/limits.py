"""What patches may cost: bounds that are compared before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PatchLimits"]


@dataclass(frozen=True)
class PatchLimits:
    """What a patch may cost, in bytes and seconds.

    Attributes:
        max_build_bytes: memory of the process that makes it.
        max_build_seconds: after so long, nothing more is tried to make it smaller, and it is finished the quickest way.
        max_apply_bytes: memory of the device that applies it: of `zstd-prefix` about the old and the new file together,
            of `skafos-delta` beside them. One that would need more is not made either.
        max_scratch_bytes: disk that applying takes beside the new file, for members of the old one that are inflated.
    """

    max_build_bytes: int = 1024 * 1024 * 1024
    max_build_seconds: float = 600.0
    max_apply_bytes: int = 512 * 1024 * 1024
    max_scratch_bytes: int = 1024 * 1024 * 1024
