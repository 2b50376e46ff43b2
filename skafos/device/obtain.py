"""An artifact is obtained: from the smallest of its encodings that this device can use, else from the next.

The plan is pure: what is held and what is offered give an order of encodings. Carrying it out is downloading, decoding
and comparing with what the manifest signed.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import TargetFile  # type: ignore[attr-defined]

from artifacts.archive import ArchiveInfo, extract_archive
from artifacts.encodings import IDENTITY, SKAFOS_DELTA, ZSTD, ZSTD_PREFIX, decode
from artifacts.errors import ArtifactError, BaseMismatch, InvalidArchive
from artifacts.files import resumable_files
from artifacts.patch.limits import PatchLimits
from manifests.model import Encoding, Release
from skafos.device.download import BlobDownload, Progress
from skafos.device.edge import Edge, Retry
from skafos.device.errors import ArtifactRejected, BlobUnusable, DeviceError, NoSpace, disk_error
from skafos.device.slots import ARCHIVE_NAME, HeldVersion

KNOWN_ENCODINGS = frozenset({IDENTITY, ZSTD, ZSTD_PREFIX, SKAFOS_DELTA})
# Beside what is written, the file system and the app need some room of their own.
SPARE_DISK_BYTES = 8 << 20

_UNUSABLE = (BlobUnusable, ArtifactError, LengthOrHashMismatchError, MemoryError)


@dataclass(frozen=True, slots=True)
class Obtained:
    """An artifact that is on the disk, and how it came.

    Attributes:
        archive: its file, with exactly the signed bytes.
        encoding: the name of the encoding that gave it; None when it was made of files that the device held.
        received: bytes that were downloaded, those of encodings that did not do included.
    """

    archive: Path
    encoding: str | None
    received: int


def plan(release: Release, held: Collection[str]) -> list[Encoding]:
    """Return the encodings that a device can use, the smallest first; of two of one size, the one without a base.

    Args:
        release: the chosen release.
        held: the artifacts that the device holds.
    """
    usable = (e for e in release.encodings if e.name in KNOWN_ENCODINGS and (e.base is None or e.base in held))
    return sorted(usable, key=lambda e: (e.length, e.base is not None))


def full_length(release: Release) -> int:
    """Return how many bytes a device downloads that holds nothing: the smallest encoding without a base."""
    full = [e.length for e in release.encodings if e.name in KNOWN_ENCODINGS and e.base is None]
    return min(full, default=release.length)


class Obtaining:
    """One artifact being obtained in a folder.

    Args:
        release: the chosen release.
        target: the signed length and hash of its artifact.
        held: versions on the device: bases of patches, or the artifact itself under another number.
        work: the folder.
        limits: what a patch may take.
    """

    def __init__(
        self, release: Release, target: TargetFile, held: Iterable[HeldVersion], work: Path, limits: PatchLimits
    ) -> None:
        self._release = release
        self._target = target
        self._held: dict[str, list[HeldVersion]] = {}
        for each in held:
            if each.artifact:
                self._held.setdefault(each.artifact, []).append(each)
        self._work = work
        self._archive = work / ARCHIVE_NAME
        self._base = work / "base"
        self._limits = limits
        self._failures: list[str] = []

    def run(self, edge: Edge, retry: Retry, progress: Progress | None) -> Obtained:
        """Return the artifact, verified.

        Raises:
            EdgeUnavailable: a download stopped; what came of it stays.
            ArtifactRejected: no encoding gave the signed bytes.
            NoSpace, DiskFailed: the disk is too full to try, or fails.
        """
        if (archive := self._from_held()) is not None:
            return Obtained(archive, None, 0)
        received = 0
        disk: DeviceError | None = None
        encodings = plan(self._release, self._held.keys())
        for encoding in encodings:
            download = BlobDownload(encoding, self._work, progress)
            try:
                archive = self._from_encoding(encoding, download, edge, retry)
                return Obtained(archive, encoding.name, received + download.received)
            except (NoSpace, OSError) as error:
                # Another encoding may need less: a patch needs room for its base, and its base to be readable.
                disk = error if isinstance(error, NoSpace) else disk_error(error)
                self._failures.append(f"{encoding.name}: {disk}")
                if encoding is not encodings[-1]:
                    download.discard()
            except _UNUSABLE as error:
                # A patch can be missing, damaged or too large for this device; the full artifact is still there.
                self._failures.append(f"{encoding.name}: {error}")
                download.discard()
            # The disk need not hold what did not do beside what is tried next. Only a download that nothing follows
            # stays, to go on when there is room.
            self._discard_made()
            received += download.received
        raise disk or ArtifactRejected(self._explanation())

    @property
    def failures(self) -> tuple[str, ...]:
        """What was tried and did not do, one sentence each."""
        return tuple(self._failures)

    def _explanation(self) -> str:
        release = f"version {self._release.version} of {self._release.model}"
        if not self._failures:
            return f"No encoding of {release} is known to this client."
        return f"No encoding of {release} gave the bytes that were signed: {'; '.join(self._failures)}"

    def _from_encoding(self, encoding: Encoding, download: BlobDownload, edge: Edge, retry: Retry) -> Path:
        self._require_space(encoding)
        base = self._base_of(encoding)
        blob = download.run(edge, retry)
        archive = blob if encoding.name == IDENTITY else self._decoded(encoding, blob, base)
        self._verify(archive)
        return archive

    def _decoded(self, encoding: Encoding, blob: Path, base: Path | None) -> Path:
        decode(
            encoding.name,
            blob,
            self._archive,
            length=self._release.length,
            sha256=self._release.artifact,
            base=base,
            limits=self._limits,
            resumable=True,
        )
        return self._archive

    def _base_of(self, encoding: Encoding) -> Path | None:
        """Make a patch's base again from the files on the device, before anything is downloaded for it."""
        if encoding.base is None:
            return None
        failed: OSError | None = None
        for held in self._held[encoding.base]:
            try:
                if held.archive(self._base).sha256 == encoding.base:
                    return self._base
            except InvalidArchive:
                continue
            except OSError as error:
                failed = error
        raise failed or BaseMismatch("the files on this device are not what they were")

    def _from_held(self) -> Path | None:
        """Make the artifact of files that are here already, under another version number or bundled."""
        for held in self._held.get(self._release.artifact, ()):
            try:
                held.archive(self._archive)
                self._verify(self._archive)
                return self._archive
            except (ArtifactError, LengthOrHashMismatchError) as error:
                self._failures.append(f"the files on this device: {error}")
            except OSError as error:
                # They cannot be read, or there is no room for a copy of them: what is downloaded may take less.
                self._failures.append(f"the files on this device: {disk_error(error)}")
            self._discard_made()
        return None

    def _discard_made(self) -> None:
        for file in (self._archive, self._base, *resumable_files(self._archive)):
            file.unlink(missing_ok=True)

    def _verify(self, archive: Path) -> None:
        with archive.open("rb") as file:
            self._target.verify_length_and_hashes(file)

    def _require_space(self, encoding: Encoding) -> None:
        """Refuse to begin what the disk cannot hold: the blob, its base, the archive and the files in it."""
        base = self._release.length if encoding.base is not None else 0
        archive = 0 if encoding.name == IDENTITY else self._release.length
        needed = encoding.length + base + archive + self._release.length + SPARE_DISK_BYTES
        free = shutil.disk_usage(self._work).free
        if free < needed:
            # How much is free differs from device to device; reports are counted by their text.
            raise NoSpace(f"The update needs {needed} bytes on the disk, and fewer are free.")


def unpack(obtained: Obtained, release: Release, work: Path) -> tuple[Path, ArchiveInfo]:
    """Write an artifact's files into a fresh folder, flushed to the disk.

    Raises:
        ArtifactRejected: the signed artifact is no archive, or not the one that was verified a moment ago.
    """
    staged = work / "files"
    try:
        info = extract_archive(obtained.archive, staged)
    except ArtifactError as error:
        raise ArtifactRejected(f"The artifact cannot be unpacked: {error}.") from error
    if info.sha256 != release.artifact:
        raise ArtifactRejected("The artifact changed while it was unpacked.")
    return staged, info
