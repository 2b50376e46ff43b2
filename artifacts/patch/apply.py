"""A patch in the encoding ``skafos-delta`` is applied: checked, decoded into a file aside, proved, and given its name.

What was promised and what it may cost are compared with the header before anything is made. The target gets its name
after its length and its hash are right. With a journal, an application that was interrupted goes on where it was.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from artifacts.errors import ArtifactError, PatchInvalid, PatchTooCostly
from artifacts.files import whole_file
from artifacts.patch.decode import Decoder
from artifacts.patch.format import Header, read_header
from artifacts.patch.journal import Checkpoint, Journal
from artifacts.patch.limits import PatchLimits
from artifacts.patch.sources import BaseFile, Space, Target, inflated_members, opened_base

__all__ = ["Progress", "apply_patch"]

# After so many bytes of the target it is flushed to the disk and a checkpoint is written: at most about half a second
# of decoding is done twice, and flushing costs little of it.
CHECKPOINT_BYTES = 32 * 1024 * 1024
# The base is looked at, and progress reported, after so many bytes.
PROGRESS_BYTES = 1024 * 1024

Progress = Callable[[int, int], None]


def apply_patch(
    base: Path,
    patch: Path,
    out: Path,
    *,
    length: int,
    sha256: str,
    base_sha256: str | None = None,
    limits: PatchLimits | None = None,
    resumable: bool = False,
    progress: Progress | None = None,
) -> None:
    """Make a file from ``base`` and a patch; ``out`` appears once its length and its hash are right.

    Args:
        base: the file that the device has.
        patch: nothing that it says of itself is trusted.
        out: where the result goes.
        length: of the result, in bytes, as it was promised.
        sha256: of the result, likewise.
        base_sha256: the hash that the patch's base should have; compared with what the patch says if given.
        limits: what it may take; the defaults if None.
        resumable: go on where an earlier call for the same patch and ``out`` was interrupted, and leave behind what a
            later one needs when this one is: by its process's end, or by an exception that is none of those below.
            Until then only one call at a time may be for ``out``.
        progress: is told the bytes that are made, and their total.

    Raises:
        BaseMismatch: ``base`` is not the file that the patch was made from, or it changed meanwhile.
        PatchInvalid: the patch does not make that result from ``base``.
        PatchTooCostly: it would take more than ``limits`` allow.
        OSError: a file cannot be read or written.
    """
    with patch.open("rb") as blob, opened_base(base) as old:
        header = read_header(blob)
        _require_promised(header, length, sha256, base_sha256)
        journal = Journal(out, header) if resumable else None
        _require_affordable(header, limits or PatchLimits())
        _require_space(header, journal.target_bytes() if journal else 0, out.parent)
        old.require(header.base)
        with inflated_members(header, old, out.parent) as scratch:
            application = _Application(header, patch, old, scratch, progress)
            if journal is None:
                application.run(whole_file(out))
            else:
                _resume(application, journal)


def _require_promised(header: Header, length: int, sha256: str, base_sha256: str | None) -> None:
    if (header.target.length, header.target.sha256) != (length, sha256):
        raise PatchInvalid("the patch is for another target than was promised")
    if base_sha256 is not None and not header.base.is_file(base_sha256):
        raise PatchInvalid("the patch is for another base than was promised")


def _require_affordable(header: Header, limits: PatchLimits) -> None:
    if header.memory_bytes > limits.max_apply_bytes:
        raise PatchTooCostly(header.memory_bytes, limits.max_apply_bytes)
    if header.inflated_bytes > limits.max_scratch_bytes:
        raise PatchTooCostly(header.inflated_bytes, limits.max_scratch_bytes, "the disk")


def _require_space(header: Header, there: int, folder: Path) -> None:
    if header.inflated_bytes + header.target.length > shutil.disk_usage(folder).free + there:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def _resume(application: _Application, journal: Journal) -> None:
    checkpoint = journal.load()
    try:
        if checkpoint is not None:
            try:
                return application.run(journal.target(), journal, checkpoint)
            except PatchInvalid:
                # It may be the checkpoint that is wrong. Whether it is the patch shows when all is done anew.
                pass
        application.run(journal.target(), journal)
    except (ArtifactError, OSError):
        journal.discard()
        raise


class _Application:
    """One patch being applied, to one base.

    Args:
        header: of the patch.
        patch: the file.
        base: the file that it leads from, which was compared with the header.
        scratch: the descriptor of the inflated members.
        progress: see `apply_patch`.
    """

    def __init__(self, header: Header, patch: Path, base: BaseFile, scratch: int, progress: Progress | None) -> None:
        self._header = header
        self._patch = patch
        self._base = base
        self._scratch = scratch
        self._progress = progress or (lambda _made, _total: None)

    def run(
        self,
        out: AbstractContextManager[BinaryIO],
        journal: Journal | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """Make the target.

        Args:
            out: opens a file that becomes the target when the block ends well.
            journal: where checkpoints go, if anywhere.
            checkpoint: what to go on from.

        Raises:
            ArtifactError, OSError: see `apply_patch`.
        """
        with self._patch.open("rb") as blob, out as sink:
            os.ftruncate(sink.fileno(), checkpoint.target if checkpoint else 0)
            target = Target(sink.fileno(), self._header.target.length, checkpoint.target if checkpoint else 0)
            space = Space(self._header, self._base, self._scratch, target)
            decoder = Decoder(self._header, blob, space, target, resumable=journal is not None)
            if checkpoint is not None:
                with self._patch.open("rb") as again:
                    decoder.restore(checkpoint, again)
            try:
                self._make(decoder, target, journal)
            except PatchInvalid:
                # Someone may have written to the base between the comparison and the reading.
                self._base.require_unchanged()
                self._base.require(self._header.base)
                raise

    def _make(self, decoder: Decoder, target: Target, journal: Journal | None) -> None:
        reported, saved = 0, target.position
        for _ in decoder.pieces():
            if target.position >= reported + PROGRESS_BYTES:
                reported = target.position
                self._base.require_unchanged()
                self._progress(target.position, target.length)
            if journal is not None and target.position >= saved + CHECKPOINT_BYTES:
                saved = target.position
                target.sync()
                if (checkpoint := decoder.checkpoint()) is not None:
                    journal.save(checkpoint)
        if target.sha256() != self._header.target.sha256:
            raise PatchInvalid("the patch makes another file than it should")
        self._progress(target.position, target.length)
