"""Turning an uploaded file into what a version is made of: pure work on local files, for a thread.

The upload is kept as it came, because whoever fetches the version gets it byte for byte. Devices get the archive in
canonical form or an encoding of it. Nothing here is in memory as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from artifacts.archive import ArchiveInfo, UploadLimits, archive_upload
from artifacts.encodings import IDENTITY, Encoded, encode_full
from artifacts.inspect import Inspection, inspect_archive

# zstd's own workers hold whole jobs of the file: two of them took 410 MB for an artifact of 500 MB and twice the time
# that none took, with 34 MB. Several uploads still use several cores.
ZSTD_WORKERS = 0
# The headers of an archive always compress. Below a hundredth of gain, the blob would be stored twice, and
# decompressed on every device, for nothing.
WORTHWHILE = 0.99
# The artifact itself, and its compressed form.
FULL_ENCODINGS = 2


@dataclass(frozen=True, slots=True)
class Prepared:
    """An upload that is ready to be stored.

    Args:
        encodings: full forms of the artifact; the first one is the artifact itself.
        blobs: files to store, by the hash that names them.
    """

    upload_sha256: str
    upload_length: int
    archive: ArchiveInfo
    inspection: Inspection
    encodings: tuple[Encoded, ...]
    blobs: dict[str, Path]


def prepare(upload: Path, upload_sha256: str, filename: str, work: Path, limits: UploadLimits) -> Prepared:
    """Archive, inspect and compress an upload.

    Args:
        upload: the file as it came.
        upload_sha256: its hash.
        filename: what a bare model file is called inside the version.
        work: an empty directory for what is made.
        limits: what an upload may be.

    Raises:
        InvalidUpload: it is not a model that we accept.
    """
    artifact = work / "artifact"
    archive = archive_upload(upload, filename, artifact, limits)
    inspection = inspect_archive(artifact)
    encodings = _encode(artifact, archive, work / "zstd")
    blobs = {upload_sha256: upload} | {encoding.sha256: encoding.path for encoding in encodings}
    return Prepared(upload_sha256, upload.stat().st_size, archive, inspection, encodings, blobs)


def _encode(artifact: Path, archive: ArchiveInfo, out: Path) -> tuple[Encoded, ...]:
    """Return the artifact as it is and, when that is worth it, compressed."""
    identity = Encoded(name=IDENTITY, sha256=archive.sha256, length=archive.length, base=None, path=artifact)
    compressed = encode_full(artifact, out, threads=ZSTD_WORKERS)
    return (identity, compressed) if compressed.length <= identity.length * WORTHWHILE else (identity,)
