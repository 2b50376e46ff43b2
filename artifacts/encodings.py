"""The encodings of an artifact: blobs from which a device makes it, each with a name that goes on the wire.

``identity`` is the archive itself, ``zstd`` one Zstandard frame of it. Two are patches of the archive that the device
has (`artifacts.patch`): ``zstd-prefix``, a frame that refers to it, and ``skafos-delta``, which knows tensors. A device
skips a name that it does not know, so better ones can be added.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from backports.zstd import CompressionParameter, ZstdCompressor

from artifacts.encoded import SKAFOS_DELTA, Encoded
from artifacts.errors import BaseMismatch, EncodingInvalid, PatchInvalid
from artifacts.files import whole_file
from artifacts.frames import decoded, write_compressed
from artifacts.hashing import HashingWriter, chunks
from artifacts.patch import zstd_prefix
from artifacts.patch.limits import PatchLimits
from artifacts.patch.zstd_prefix import ZSTD_PREFIX

__all__ = [
    "BaseMismatch",
    "Encoded",
    "EncodingInvalid",
    "IDENTITY",
    "PatchInvalid",
    "SKAFOS_DELTA",
    "ZSTD",
    "ZSTD_PREFIX",
    "decode",
    "decode_full",
    "encode_full",
]

IDENTITY = "identity"
ZSTD = "zstd"

# Every decoder should take a window of 8 MiB (RFC 8878, 3.1.1.1.2), and no device needs more memory than that for a
# model of any size.
FULL_WINDOW_LOG = 23
# Weights are close to noise: over eight real models, level 19 saves 0.5 % more than 10 (3 % at most) in 23 times the
# processor time.
FULL_LEVEL = 10


def encode_full(artifact: Path, out: Path, level: int = FULL_LEVEL, threads: int = 0) -> Encoded:
    """Compress an archive into one frame with a checksum and its length; without threads, in constant memory.

    Args:
        artifact: the archive.
        out: where the blob goes; it appears there whole.
        level: zstd's, 1 to 19.
        threads: workers beside the calling thread; 0 for none. Each holds whole jobs of the file: one of them grew the
            process by 300 MB and two by 400, where none takes 33.

    Raises:
        OSError: a file cannot be read or written.
    """
    length = artifact.stat().st_size
    options = {
        CompressionParameter.compression_level: level,
        CompressionParameter.window_log: FULL_WINDOW_LOG,
        CompressionParameter.checksum_flag: 1,
        CompressionParameter.nb_workers: threads,
    }
    compressor = ZstdCompressor(options={int(key): value for key, value in options.items()})
    compressor.set_pledged_input_size(length)
    blob = write_compressed(compressor, artifact, out)
    return Encoded(ZSTD, blob.sha256, blob.length, None, out)


def decode_full(blob: Path, out: Path, *, length: int, sha256: str) -> None:
    """Decompress a ``zstd`` blob; ``out`` appears once its length and hash are right.

    Args:
        blob: one frame.
        out: where the artifact goes.
        length: of the artifact, in bytes; never more than that is written.
        sha256: of the artifact.

    Raises:
        EncodingInvalid: the blob does not hold that artifact.
        OSError: a file cannot be read or written.
    """
    with blob.open("rb") as source, whole_file(out) as sink:
        _write_exactly(decoded(source, length=length, max_window=1 << FULL_WINDOW_LOG), sink, sha256)


def _copy(blob: Path, out: Path, *, length: int, sha256: str) -> None:
    if blob.stat().st_size != length:
        raise EncodingInvalid(f"the blob is not {length} bytes long")
    with blob.open("rb") as source, whole_file(out) as sink:
        _write_exactly(chunks(source), sink, sha256)


def _write_exactly(content: Iterator[bytes], sink: BinaryIO, sha256: str) -> None:
    artifact = HashingWriter(sink)
    for chunk in content:
        artifact.write(chunk)
    if artifact.sha256 != sha256:
        raise EncodingInvalid("the blob decodes to other bytes than those of the artifact")


def decode(
    name: str,
    blob: Path,
    out: Path,
    *,
    length: int,
    sha256: str,
    base: Path | None = None,
    base_sha256: str | None = None,
    limits: PatchLimits | None = None,
    resumable: bool = False,
) -> None:
    """Make the artifact from a blob in any encoding that we know; ``out`` appears once length and hash are right.

    Args:
        name: of the encoding.
        blob: in that encoding.
        out: where the artifact goes.
        length: of the artifact, in bytes.
        sha256: of the artifact.
        base: the archive that a patch refers to.
        base_sha256: the hash that the patch's base should have; compared first if given.
        limits: what applying a patch may take.
        resumable: go on where an earlier call for the same blob and ``out`` was interrupted, if the encoding can, and
            leave behind what a later one needs (`artifacts.files.resumable_files`).

    Raises:
        EncodingInvalid: the name is unknown, or the blob does not hold that artifact; `PatchInvalid` and
            `BaseMismatch` tell more of a patch.
        PatchTooCostly: applying the patch would take more than ``limits`` allow.
        OSError: a file cannot be read or written.
    """
    if name == IDENTITY:
        _copy(blob, out, length=length, sha256=sha256)
    elif name == ZSTD:
        decode_full(blob, out, length=length, sha256=sha256)
    elif name == ZSTD_PREFIX and base is not None:
        zstd_prefix.apply_patch(base, blob, out, length=length, sha256=sha256, limits=limits, base_sha256=base_sha256)
    elif name == SKAFOS_DELTA and base is not None:
        # Only a device that gets such a patch loads NumPy.
        from artifacts.patch.apply import apply_patch

        apply_patch(
            base,
            blob,
            out,
            length=length,
            sha256=sha256,
            limits=limits,
            base_sha256=base_sha256,
            resumable=resumable,
        )
    else:
        raise EncodingInvalid(f"the encoding {name!r} is unknown, or lacks its base")
