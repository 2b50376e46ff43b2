"""The encoding ``skafos-delta`` is decoded (`docs/patch-format.md`): operations are run, in the order of the target.

The patch is read once, forwards. Memory is what the header asks for, 8 MiB at most, whatever the lengths of the files:
the base is read where an operation needs it, the target is written piece by piece. The target gets its name after its
length and its hash are right.
"""

from __future__ import annotations

import errno
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from artifacts.errors import ArtifactError, PatchInvalid, PatchTooCostly
from artifacts.files import whole_file
from artifacts.patch.elements import Table, decode_block
from artifacts.patch.format import (
    ALLOWED_UNITS,
    BYTES_PER_UNIT,
    ELEMENTS_UNITS,
    FEATURE_DEFLATE,
    MAX_DEFLATE_RATIO,
    MAX_TABLES,
    OPERATION_UNITS,
    DeflateParameters,
    Header,
    Op,
    most_made,
    read_header,
    read_table,
    read_varint,
    signed,
    write_table,
)
from artifacts.patch.journal import Checkpoint, Journal, Pending, State
from artifacts.patch.limits import PatchLimits
from artifacts.patch.sources import BaseFile, Space, Target, inflated_members, opened_base
from artifacts.patch.streams import PatchReader, Streams, Work

__all__ = ["SKAFOS_DELTA", "Decoder", "Progress", "apply_patch"]

SKAFOS_DELTA = "skafos-delta"

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
        _require_affordable(header, limits or PatchLimits(), out.parent)
        old.require(header.base)
        with inflated_members(header, old, out.parent) as scratch:
            if resumable:
                _resume(_Application(header, patch, old, scratch, progress), Journal(out, header))
            else:
                _Application(header, patch, old, scratch, progress).run(whole_file(out))


def _require_promised(header: Header, length: int, sha256: str, base_sha256: str | None) -> None:
    if (header.target.length, header.target.sha256) != (length, sha256):
        raise PatchInvalid("the patch is for another target than was promised")
    if base_sha256 not in (None, header.base.sha256):
        raise PatchInvalid("the patch is for another base than was promised")


def _require_affordable(header: Header, limits: PatchLimits, folder: Path) -> None:
    if header.memory_bytes > limits.max_apply_bytes:
        raise PatchTooCostly(header.memory_bytes, limits.max_apply_bytes)
    if header.inflated_bytes > limits.max_scratch_bytes:
        raise PatchTooCostly(header.inflated_bytes, limits.max_scratch_bytes, "the disk")
    if header.inflated_bytes + header.target.length > shutil.disk_usage(folder).free:
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
            decoder = Decoder(self._header, blob, Space(self._header, self._base, self._scratch, target), target)
            if checkpoint is not None:
                with self._patch.open("rb") as again:
                    decoder.restore(checkpoint, again)
            self._make(decoder, target, journal)
            target.flush()
            self._prove(target)

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
        self._progress(target.position, target.length)

    def _prove(self, target: Target) -> None:
        if target.sha256() == self._header.target.sha256:
            return
        # Someone wrote to the base between the comparison and the reading, or the patch is wrong.
        self._base.require_unchanged()
        self._base.require(self._header.base)
        raise PatchInvalid("the patch makes another file than it should")


class Decoder:
    """Runs the operations of one patch.

    Args:
        header: of the patch.
        patch: the file, at its start.
        space: where sources are.
        target: where the result goes.
    """

    def __init__(self, header: Header, patch: BinaryIO, space: Space, target: Target) -> None:
        self._header = header
        self._patch = PatchReader(patch)
        read_header(self._patch)
        self._space = space
        self._target = target
        self._work = Work(ALLOWED_UNITS + header.target.length // BYTES_PER_UNIT)
        self._streams = Streams(self._patch, header, space, self._work)
        self._tables: dict[int, Table] = {}
        self._source_end = 0
        self._raw = 0
        self._pending: Pending | None = None
        self._deflater: _Deflater | None = None

    def pieces(self) -> Iterator[None]:
        """Make the target; pauses after each operation and after each block of a long one.

        Raises:
            PatchInvalid: the patch is wrong.
            BaseMismatch: the base became shorter.
            OSError: the disk refuses.
        """
        while self._pending is not None or self._room() > 0:
            if self._pending is None:
                self._begin()
            else:
                self._go_on(self._pending)
                yield
        if not self._streams.all_used() or not self._patch.ends():
            raise PatchInvalid("something follows the end of the patch")

    # ---- operations

    def _room(self) -> int:
        """Return how many bytes operations may still make."""
        return self._target.length - self._target.position if self._deflater is None else self._deflater.raw_left

    def _begin(self) -> None:
        """Read the next operation."""
        if self._deflater is None:
            self._space.extend()
        first = self._streams.number(0)
        code, parameter = first & 7, first >> 3
        if code == Op.TABLE:
            self._define(parameter)
        elif code == Op.DEFLATE and parameter == 0:
            self._begin_deflate()
        elif code in (Op.TENSOR, Op.PLANES):
            self._work.spend(ELEMENTS_UNITS)
            self._begin_making(Op(code), parameter, self._table(Op(code), parameter).width)
        elif code in (Op.DATA, Op.ADD) or (code == Op.COPY and parameter == 0):
            self._work.spend(OPERATION_UNITS)
            self._begin_making(Op(code), parameter, 1)
        else:
            raise PatchInvalid("an operation is unknown")

    def _begin_making(self, op: Op, parameter: int, width: int) -> None:
        length = self._streams.number(self._header.layout.lengths) * width
        if not 1 <= length <= self._room():
            raise PatchInvalid("an operation makes nothing, or more than there is to make")
        source = 0
        if op in (Op.COPY, Op.ADD, Op.TENSOR):
            source = self._source_end + signed(self._streams.number(self._header.layout.sources))
            self._space.require(source, length)
            self._source_end = source + length
        self._pending = Pending(op, parameter, source, length)

    def _define(self, number: int) -> None:
        self._work.spend(ELEMENTS_UNITS)
        if number >= MAX_TABLES:
            raise PatchInvalid(f"there are tables 0 to {MAX_TABLES - 1}")
        self._tables[number] = self._read_table(lambda: self._streams.number(0))

    def _read_table(self, number: Callable[[], int]) -> Table:
        return read_table(number, self._header.layout, self._header.streams)

    def _table(self, op: Op, number: int) -> Table:
        table = self._tables.get(number)
        if table is None or (table.difference == "none") != (op == Op.PLANES):
            raise PatchInvalid("an operation names a table that is not there, or not for it")
        return table

    def _go_on(self, pending: Pending) -> None:
        """Make the next block of an operation."""
        length = min(pending.left, self._header.layout.block_bytes)
        self._emit(self._made(pending, length))
        pending.source += length
        pending.left -= length
        if pending.left == 0:
            self._pending = None

    def _made(self, pending: Pending, length: int) -> bytes:
        if pending.op == Op.COPY:
            return self._space.read(pending.source, length)
        if pending.op == Op.DATA:
            return bytes(self._streams.take(pending.parameter, length))
        if pending.op == Op.ADD:
            source = np.frombuffer(self._space.read(pending.source, length), np.uint8)
            difference = np.frombuffer(self._streams.take(pending.parameter, length), np.uint8)
            return (source + difference).tobytes()
        table = self._tables[pending.parameter]
        base = self._space.read(pending.source, length) if pending.op == Op.TENSOR else None
        try:
            return decode_block(table, length // table.width, base, self._streams.take)
        except ValueError as problem:
            raise PatchInvalid(f"a block of elements is wrong: {problem}") from problem

    # ---- deflated members

    def _begin_deflate(self) -> None:
        self._work.spend(ELEMENTS_UNITS)
        lengths = self._header.layout.lengths
        raw, deflated = self._streams.number(lengths), self._streams.number(lengths)
        parameters = DeflateParameters.unpacked(self._streams.number(0))
        if self._deflater is not None or not self._header.features & FEATURE_DEFLATE:
            raise PatchInvalid("a member is deflated that should not be")
        if not 1 <= deflated <= self._room() or not 1 <= raw <= deflated * MAX_DEFLATE_RATIO:
            raise PatchInvalid("a deflated member has a length that cannot be")
        self._raw += raw
        if self._raw > most_made(self._target.length):
            raise PatchInvalid("the deflated members are much longer than the target")
        self._work.allowed += raw // BYTES_PER_UNIT
        self._deflater = _Deflater(parameters, raw, deflated)

    def _emit(self, content: bytes) -> None:
        if self._deflater is None:
            self._target.write(content)
            return
        self._target.write(self._deflater.take(content))
        if self._deflater.raw_left == 0:
            self._target.write(self._deflater.end())
            self._deflater = None

    # ---- checkpoints

    def checkpoint(self) -> Checkpoint | None:
        """Return what another decoder needs to go on from here; None in the midst of a deflated member.

        The target must be flushed to the disk before the checkpoint is.
        """
        positions = self._streams.positions()
        if self._deflater is not None or positions is None:
            return None
        pending = None if self._pending is None else replace(self._pending)
        tables = {number: write_table(table).hex() for number, table in self._tables.items()}
        return Checkpoint(
            patch=self._patch.position,
            patch_sha256=self._patch.sha256(),
            target=self._target.position,
            target_sha256=self._target.sha256(),
            streams=positions,
            state=State(tables, self._source_end, self._raw, self._work.spent, pending),
        )

    def restore(self, checkpoint: Checkpoint, patch: BinaryIO) -> None:
        """Go on from a checkpoint.

        Args:
            checkpoint: of a decoder of this patch, whose target was cut to the length that it says.
            patch: the same file, opened once more.

        Raises:
            PatchInvalid: it does not fit.
        """
        self._patch.skip(checkpoint.patch)
        seen = self._patch.sha256(), self._target.position, self._target.sha256()
        if seen != (checkpoint.patch_sha256, checkpoint.target, checkpoint.target_sha256):
            raise PatchInvalid("the checkpoint is of another patch, or of another target")
        self._space.extend()
        self._streams.restore(checkpoint.streams, patch)
        state = checkpoint.state
        for number, definition in state.tables.items():
            self._tables[number] = self._read_table(_numbers_of(bytes.fromhex(definition)))
        self._source_end, self._raw, self._pending = state.source_end, state.raw, state.pending
        self._work.allowed += self._raw // BYTES_PER_UNIT
        self._work.spent = state.spent


def _numbers_of(definition: bytes) -> Callable[[], int]:
    octets = iter(definition)
    return lambda: read_varint(octets.__next__)


class _Deflater:
    """One member of the target while it is deflated.

    Args:
        parameters: of zlib.
        raw: bytes that are to be deflated.
        deflated: bytes that these make.
    """

    def __init__(self, parameters: DeflateParameters, raw: int, deflated: int) -> None:
        self._zlib = zlib.compressobj(
            parameters.level, zlib.DEFLATED, -parameters.window_log, parameters.memory_level, parameters.strategy
        )
        self._left = deflated
        self.raw_left = raw

    def take(self, content: bytes) -> bytes:
        """Return what comes out when more goes in."""
        self.raw_left -= len(content)
        return self._counted(self._zlib.compress(content))

    def end(self) -> bytes:
        """Return what comes out at the end.

        Raises:
            PatchInvalid: all of it has another length than was said.
        """
        last = self._counted(self._zlib.flush())
        if self._left:
            raise PatchInvalid("a deflated member has another length than the patch says")
        return last

    def _counted(self, deflated: bytes) -> bytes:
        self._left -= len(deflated)
        if self._left < 0:
            raise PatchInvalid("a deflated member has another length than the patch says")
        return deflated
