"""The patch encoding ``zstd-prefix``: one Zstandard frame of the new archive, with the old one as its prefix.

The same as ``zstd --patch-from=OLD NEW``; ``zstd -d --patch-from=OLD`` decodes it. The prefix is as it were the part
of the window before the first byte (RFC 8878, section 5: a raw content dictionary), so the window covers the new file,
and long-distance matching finds what moved.

Memory is the price: both ends hold the old file and a window of the new one's length. It is estimated from the lengths
before anything is loaded, and refused over a limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from backports.zstd import CompressionParameter, ZstdCompressor, ZstdDict

from artifacts.encoded import Encoded
from artifacts.errors import BaseMismatch, EncodingInvalid, PatchInvalid, PatchTooCostly
from artifacts.files import whole_file
from artifacts.frames import decoded, load_prefix, write_compressed
from artifacts.hashing import HashingWriter, hash_file
from artifacts.patch.limits import PatchLimits

__all__ = [
    "ZSTD_PREFIX",
    "BaseMismatch",
    "PatchInvalid",
    "PatchLimits",
    "PatchTooCostly",
    "apply_patch",
    "estimate_apply_bytes",
    "estimate_build_bytes",
    "make_patch",
]

ZSTD_PREFIX = "zstd-prefix"

# Where neither file is longer than this, the thorough level: it saves up to a sixth on fine-tuned floats and takes up
# to 13 s of a core. With a longer old file it would miss what lies at its start (docs/adr/0007).
THOROUGH_BYTES = 16 * 1024 * 1024
THOROUGH_LEVEL = 19
# Otherwise, one that is forty times faster.
QUICK_LEVEL = 9

# Measured beside the old file and the window, and rounded up: the encoder's tables at each of the two levels (93 and
# 28 MiB) and the decoder's state (3 MiB).
_THOROUGH_TABLE_BYTES = 112 * 1024 * 1024
_QUICK_TABLE_BYTES = 40 * 1024 * 1024
_DECODER_BYTES = 8 * 1024 * 1024
# The long-distance matcher remembers one position in 128, with 8 bytes for each.
_LONG_DISTANCE_RATE_LOG = 7
_LONG_DISTANCE_ENTRY_BYTES = 8

# The narrowest and the widest window on a 64-bit machine (ZSTD_WINDOWLOG_MIN, ZSTD_WINDOWLOG_MAX_64).
_MIN_WINDOW_LOG = 10
_MAX_WINDOW_LOG = 31
# The same of the long-distance matcher's table (ZSTD_LDM_HASHLOG_MIN, ZSTD_LDM_HASHLOG_MAX).
_MIN_LONG_DISTANCE_LOG = 6
_MAX_LONG_DISTANCE_LOG = 30


def estimate_apply_bytes(base_length: int, target_length: int) -> int:
    """Return the memory that applying a patch takes, from the lengths of the two files, all in bytes."""
    # While the old file is copied from its mapping to the prefix, its pages count twice.
    return base_length + max(base_length, target_length + _DECODER_BYTES)


def estimate_build_bytes(base_length: int, target_length: int) -> int:
    """Return the memory that making a patch takes, from the lengths of the two files, all in bytes."""
    thorough = _is_thorough(base_length, target_length)
    long_distance = _LONG_DISTANCE_ENTRY_BYTES << _long_distance_log(base_length, target_length)
    tables = _THOROUGH_TABLE_BYTES if thorough else _QUICK_TABLE_BYTES + long_distance
    return base_length + max(base_length, target_length + tables)


def make_patch(base: Path, target: Path, out: Path, limits: PatchLimits | None = None) -> Encoded:
    """Write a patch that makes ``target`` from ``base``; ``out`` appears once all of it is written.

    Raises:
        PatchTooCostly: making or applying it would take more memory than ``limits`` allow.
        OSError: a file cannot be read or written.
    """
    limits = limits or PatchLimits()
    base_length, target_length = base.stat().st_size, target.stat().st_size
    _require_affordable(estimate_build_bytes(base_length, target_length), limits.max_build_bytes)
    _require_affordable(estimate_apply_bytes(base_length, target_length), limits.max_apply_bytes)
    base_sha256, _ = hash_file(base)
    compressor = _compressor(base_length, target_length, load_prefix(base))
    blob = write_compressed(compressor, target, out)
    return Encoded(ZSTD_PREFIX, blob.sha256, blob.length, base_sha256, out)


def apply_patch(
    base: Path,
    patch: Path,
    out: Path,
    *,
    length: int,
    sha256: str,
    limits: PatchLimits | None = None,
    base_sha256: str | None = None,
) -> None:
    """Make a file from ``base`` and a patch; ``out`` appears once its length and its hash are right.

    Args:
        base: the file that the device has.
        patch: one frame; nothing that it says of itself is trusted.
        out: where the result goes.
        length: of the result, in bytes; never more than that is written.
        sha256: of the result.
        limits: memory that it may take; the defaults if None.
        base_sha256: the hash that ``base`` should have; compared first if given.

    Raises:
        BaseMismatch: ``base`` is not the file that was meant.
        PatchInvalid: the patch does not make that result from ``base``.
        PatchTooCostly: it would take more memory than ``limits`` allow.
        OSError: a file cannot be read or written.
    """
    limits = limits or PatchLimits()
    _require_affordable(estimate_apply_bytes(base.stat().st_size, length), limits.max_apply_bytes)
    if base_sha256 is not None and hash_file(base)[0] != base_sha256:
        raise BaseMismatch(f"the file at hand is not {base_sha256}")
    with patch.open("rb") as source, whole_file(out) as sink:
        result = HashingWriter(sink)
        for chunk in _decoded(source, base, length):
            result.write(chunk)
        if result.sha256 != sha256:
            raise PatchInvalid("the patch makes another file than it should")


def _decoded(patch: BinaryIO, base: Path, length: int) -> Iterator[bytes]:
    # A window wider than the result is never needed: nothing lies further back than that and the prefix.
    window = 1 << _window_log(length)
    try:
        yield from decoded(patch, length=length, max_window=window, prefix=lambda: load_prefix(base))
    except EncodingInvalid as problem:
        raise PatchInvalid(f"{problem}") from problem


def _compressor(base_length: int, target_length: int, prefix: ZstdDict | None) -> ZstdCompressor:
    compressor = ZstdCompressor(
        options={int(key): value for key, value in _options(base_length, target_length).items()},
        zstd_dict=prefix.as_prefix if prefix else None,
    )
    compressor.set_pledged_input_size(target_length)
    return compressor


def _options(base_length: int, target_length: int) -> dict[CompressionParameter, int]:
    options = {
        CompressionParameter.compression_level: THOROUGH_LEVEL,
        CompressionParameter.window_log: _window_log(target_length),
        CompressionParameter.enable_long_distance_matching: 1,
        CompressionParameter.checksum_flag: 1,
    }
    if not _is_thorough(base_length, target_length):
        options |= {
            CompressionParameter.compression_level: QUICK_LEVEL,
            # zstd sizes this table by the window, where the start of a long old file would be overwritten by its end.
            CompressionParameter.ldm_hash_log: _long_distance_log(base_length, target_length),
            CompressionParameter.ldm_hash_rate_log: _LONG_DISTANCE_RATE_LOG,
        }
    return options


def _is_thorough(base_length: int, target_length: int) -> bool:
    return max(base_length, target_length) <= THOROUGH_BYTES


def _long_distance_log(base_length: int, target_length: int) -> int:
    """Return the logarithm of how many positions of both files the long-distance matcher remembers."""
    log = (base_length + target_length).bit_length() - _LONG_DISTANCE_RATE_LOG
    return min(max(_MIN_LONG_DISTANCE_LOG, log), _MAX_LONG_DISTANCE_LOG)


def _window_log(target_length: int) -> int:
    """Return the logarithm of a window that the whole new file fits into, so that the prefix stays in reach."""
    return min(max(_MIN_WINDOW_LOG, (target_length - 1).bit_length()), _MAX_WINDOW_LOG)


def _require_affordable(needed: int, allowed: int) -> None:
    if needed > allowed:
        raise PatchTooCostly(needed, allowed)
