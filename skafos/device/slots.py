"""Where a model's versions lie on a device, and how one takes the place of another.

    <model>/current            → versions/3-1f0c…     a symlink, swapped by one rename
    <model>/previous           → versions/2-77ab…
    <model>/versions/3-1f0c…/                         the model's files
    <model>/versions/3-1f0c….json                     what they are: written before the folder gets its name
    <model>/versions/3-1f0c….seen                     when every byte was read last, and how the files looked then
    <model>/work/                                     what is being made; emptied when it is done

Whatever moment the power fails at, `current` names a folder whose files were all flushed to the disk before. A folder
counts as held only when every file that its record lists is there in full. Bytes that changed later, on a disk that
fails or by hand, are found by comparing them with the artifact's hash (`usable`); then the version before takes over.
Files that look as they did when they were compared are not read again for a week: a check costs next to nothing then.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

from artifacts.archive import ArchiveInfo, archive_directory
from artifacts.errors import InvalidArchive
from artifacts.files import make_directory, resumable_files, sync_directory, whole_file

# File names have at most 255 bytes; longer ones are cut and told apart by a hash.
MAX_FOLDER_NAME = 200
# A record lists each file with about 100 bytes; an artifact has at most some ten thousand files.
MAX_RECORD_BYTES = 16 << 20

# A download and its entity tag, in `work`.
BLOB_PREFIX = "blob-"
# What is made of it.
ARCHIVE_NAME = "archive"
BLOB_ETAG_SUFFIX = ".etag"

# Every write to a file changes how it looks; what a failing disk does to it does not, and is found within this time.
READ_AGAIN_SECONDS = 7 * 86_400.0
SEEN_SUFFIX = ".seen"

_SLOT = re.compile(r"[0-9]{1,10}-[0-9a-f]{12}(?:-[0-9]{1,3})?", re.ASCII)
# Damaged folders of one version that may lie beside each other before a new one is refused.
MAX_SAME_SLOTS = 100


@dataclass(frozen=True, slots=True)
class HeldVersion:
    """A version that is on the device.

    Attributes:
        path: the folder with the model's files.
        version: its number; None for bundled files that nothing says it of.
        artifact: SHA-256 of its artifact in hex; None as above.
        bundled: it came with the app.
        files: the names of its files, below `path`; None for bundled files that nothing says it of.
    """

    model: str
    path: Path
    version: int | None
    artifact: str | None
    bundled: bool = False
    files: tuple[str, ...] | None = field(default=None, repr=False)

    def archive(self, out: Path | None) -> ArchiveInfo:
        """Make its artifact of its files again. What else an app may have put beside them does not count.

        Args:
            out: where the archive goes; None only hashes.

        Raises:
            InvalidArchive: a file is no regular file any more.
            OSError: a file cannot be read or written.
        """
        return archive_directory(self.path, out, self.files)

    def has_changed(self) -> bool:
        """Read every byte, and say whether they are other than those that were activated.

        Raises:
            OSError: it cannot be told.
        """
        try:
            return self.archive(None).sha256 != self.artifact
        except InvalidArchive:
            return True

    def is_intact(self) -> bool:
        """Say whether every byte can be read and is right."""
        try:
            return not self.has_changed()
        except OSError:
            return False

    def is_release(self, version: int, artifact: str) -> bool:
        """Say whether it is this version with these bytes."""
        return (self.version, self.artifact) == (version, artifact)


def folder_name(model: str) -> str:
    """Return the name of a model's folder: percent-encoded, so that no name leads out of the directory."""
    name = quote(model, safe="")
    # A leading dot would be `..`, or a hidden folder such as our own.
    name = "%2E" + name[1:] if name.startswith(".") else name
    if len(name) <= MAX_FOLDER_NAME:
        return name
    return f"{name[: MAX_FOLDER_NAME - 33]}-{sha256(model.encode()).hexdigest()[:32]}"


class ModelSlots:
    """The versions of one model in a device's directory.

    Args:
        directory: the device's directory.
        model: the model's name.
    """

    def __init__(self, directory: Path, model: str) -> None:
        self._model = model
        self._folder = directory / folder_name(model)
        self._versions = self._folder / "versions"
        self.work = self._folder / "work"

    def current(self) -> HeldVersion | None:
        """Return the version in use, or None when there is none or its files are not there in full."""
        return self._linked("current")

    def previous(self) -> HeldVersion | None:
        """Return the version that was in use before, or None as for `current`."""
        return self._linked("previous")

    def usable(self) -> HeldVersion | None:
        """Return the version in use when every byte of it is right, else the one before when all of that are.

        Files that have changed, or were not read for `READ_AGAIN_SECONDS`, are read: a second or two for each gigabyte.
        """
        candidates = (self.current(), self.previous())
        return next((held for held in candidates if held is not None and self._is_intact(held)), None)

    def _is_intact(self, held: HeldVersion) -> bool:
        seen = self._versions / (held.path.name + SEEN_SUFFIX)
        looks = _looks(held)  # before they are read, so that a change in between is noticed next time
        if looks is not None and looks == _read_seen(seen):
            return True
        if not held.is_intact():
            return False
        with suppress(OSError), whole_file(seen) as file:  # a full disk only costs the next check its time
            file.write(json.dumps({"at": int(time.time()), "looks": looks}).encode())
        return True

    def damaged(self, usable: HeldVersion | None) -> int | None:
        """Return the number of the version in use when another than it, or none, is `usable`; else None."""
        name = self._link_target("current")
        if name is None or (usable is not None and usable.path.name == name):
            return None
        return int(name.partition("-")[0])

    def fall_back(self, usable: HeldVersion | None) -> None:
        """Take a version that is damaged out of use, so that whoever asks for the one in use gets a whole one.

        Args:
            usable: what takes its place; None when there is nothing.

        Raises:
            OSError: it cannot be told now whether it is damaged, or the disk does not take the change. It stays.
        """
        current = self.current()
        if current is not None and not current.has_changed():
            return
        if usable is not None:
            self._link("current", usable.path.name)
        else:
            (self._folder / "current").unlink(missing_ok=True)

    def held(self) -> list[HeldVersion]:
        """Return every version that is whole, the one in use first."""
        current = self.current()
        found = (self._read(name) for name in sorted(self._names()))
        others = [each for each in found if each is not None and each != current]
        return [current, *others] if current else others

    def prepare(self, blobs: Iterable[str]) -> None:
        """Make the folders and remove what an update that was killed left half-made.

        Args:
            blobs: the blobs that are of use now. What was downloaded of them stays, to be resumed, and so does what was
                made of one by applying it.
        """
        make_directory(self._versions)
        make_directory(self.work)
        useful = {f"{BLOB_PREFIX}{blob}{end}" for blob in blobs for end in ("", BLOB_ETAG_SUFFIX)}
        useful |= {file.name for file in resumable_files(self.work / ARCHIVE_NAME)}
        for leftover in self.work.iterdir():
            if leftover.name not in useful:
                _remove(leftover)

    def keep(self, staged: Path, version: int, archive: ArchiveInfo) -> HeldVersion:
        """Give a folder of files, flushed to the disk, its place among the versions. It is not in use yet.

        Args:
            staged: the folder, in `work`.
            version: its number.
            archive: what the files are.
        """
        name = self._free_name(f"{version}-{archive.sha256[:12]}")
        record = {
            "skafos": 1,
            "model": self._model,
            "version": version,
            "artifact": archive.sha256,
            "length": archive.length,
            "files": [[file.name, file.length] for file in archive.files],
        }
        # The record first: a folder without one is nothing, a record without its folder is nothing either.
        with whole_file(self._versions / f"{name}.json") as file:
            file.write(json.dumps(record, ensure_ascii=False).encode())
        staged.rename(self._versions / name)
        sync_directory(self._versions)
        names = tuple(file.name for file in archive.files)
        return HeldVersion(self._model, self._versions / name, version, archive.sha256, files=names)

    def activate(self, held: HeldVersion, before: HeldVersion | None = None) -> None:
        """Put a held version in use, by one rename. Nothing happens when it is in use.

        Args:
            held: the version, whole.
            before: the one that was `usable` until now, to remember as previous.
        """
        if self._link_target("current") == held.path.name:
            return
        if before is not None and before.path.parent == self._versions and before.path != held.path:
            self._link("previous", before.path.name)
        self._link("current", held.path.name)

    def clean(self) -> None:
        """Remove every version but the one in use and the one before it, and all that was only needed on the way.

        Raises:
            OSError: something cannot be removed; all else was.
        """
        kept = {self._link_target("current"), self._link_target("previous")}
        failed: OSError | None = None
        for name in self._names() - kept:
            try:
                # The record first: without it a folder that is half removed is nothing.
                (self._versions / f"{name}.json").unlink(missing_ok=True)
                (self._versions / (name + SEEN_SUFFIX)).unlink(missing_ok=True)
                _remove(self._versions / name)
            except OSError as error:
                failed = error
        for leftover in self._folder.glob(".link-*"):
            leftover.unlink(missing_ok=True)
        remove_partials(self._versions)
        shutil.rmtree(self.work, ignore_errors=True)
        if failed is not None:
            raise failed

    def _names(self) -> set[str]:
        """Return the names of all slots, whole or not."""
        entries = (entry.name for entry in self._versions.iterdir()) if self._versions.is_dir() else ()
        return {name for name in (entry.removesuffix(".json") for entry in entries) if _SLOT.fullmatch(name)}

    def _free_name(self, wanted: str) -> str:
        taken = self._names()
        names = [wanted, *(f"{wanted}-{number}" for number in range(2, MAX_SAME_SLOTS))]
        return next(name for name in names if name not in taken)

    def _linked(self, link: str) -> HeldVersion | None:
        name = self._link_target(link)
        return self._read(name) if name else None

    def _link_target(self, link: str) -> str | None:
        try:
            target = (self._folder / link).readlink().name
        except OSError:
            return None
        return target if _SLOT.fullmatch(target) else None

    def _link(self, link: str, name: str) -> None:
        fresh = self._folder / f".link-{secrets.token_hex(6)}"
        fresh.symlink_to(Path("versions") / name, target_is_directory=True)
        fresh.replace(self._folder / link)
        sync_directory(self._folder)

    def _read(self, name: str) -> HeldVersion | None:
        return read_held(self._model, self._versions / name, self._versions / f"{name}.json")


def remove_partials(folder: Path) -> None:
    """Remove files that were being written when their process was killed (`artifacts.files.whole_file` names them)."""
    for leftover in folder.glob(".*.partial"):
        leftover.unlink(missing_ok=True)


def read_held(model: str, folder: Path, record_file: Path, *, bundled: bool = False) -> HeldVersion | None:
    """Return the version that a folder and its record are, or None when a file is missing or has another length."""
    record = _read_record(record_file)
    if record is None or not _is_whole(folder, record["files"]):
        return None
    names = tuple(name for name, _ in record["files"])
    return HeldVersion(model, folder, record["version"], record["artifact"], bundled, names)


def bundled_version(bundle: Path | None, model: str) -> HeldVersion | None:
    """Return the version that came with the app: ``<bundle>/<model>/``, with its record ``<model>.json`` beside it.

    Without a record the files serve all the same, but nothing is known of them.
    """
    if bundle is None:
        return None
    folder = bundle / folder_name(model)
    if not folder.is_dir():
        return None
    found = read_held(model, folder, folder.with_name(folder.name + ".json"), bundled=True)
    return found or HeldVersion(model, folder, None, None, bundled=True)


def _read_record(path: Path) -> Mapping[str, Any] | None:
    try:
        if path.stat().st_size > MAX_RECORD_BYTES:
            return None
        record = json.loads(path.read_bytes())
        files = [(str(name), int(length)) for name, length in record["files"]]
        return {"version": int(record["version"]), "artifact": str(record["artifact"]), "files": files}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _looks(held: HeldVersion) -> str | None:
    """Return what changes when one of the files is written to or replaced; None when that cannot be told."""
    try:
        stats = [(name, (held.path / name).stat()) for name in held.files or ()]
    except OSError:
        return None
    return sha256(
        repr([(name, s.st_size, s.st_ino, s.st_mtime_ns, s.st_ctime_ns) for name, s in stats]).encode()
    ).hexdigest()


def _read_seen(path: Path) -> str | None:
    """Return how the files looked when they were read last; None when that is too long ago, or not known."""
    try:
        seen = json.loads(path.read_bytes())
        # A moment in the future is that of a clock that was wrong.
        return str(seen["looks"]) if 0 <= time.time() - float(seen["at"]) < READ_AGAIN_SECONDS else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_whole(folder: Path, files: Iterable[tuple[str, int]]) -> bool:
    try:
        return all((folder / name).stat().st_size == length for name, length in files)
    except OSError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
