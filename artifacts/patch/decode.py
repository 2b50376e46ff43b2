"""The operations of a patch are run (`docs/patch-format.md`): the decoder, to which files are addresses and streams.

The patch is read once, forwards. Memory is what the header asks for, 8 MiB at most, whatever the lengths of the files:
the base is read where an operation needs it, the target is written piece by piece.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import BinaryIO

import numpy as np

from artifacts.errors import PatchInvalid
from artifacts.patch.elements import Matrix, MatrixData, Table, decode_block, decode_matrix
from artifacts.patch.format import (
    ALLOWED_UNITS,
    BYTES_PER_UNIT,
    ELEMENTS_UNITS,
    FACTORS_PER_UNIT,
    FEATURE_DEFLATE,
    FEATURE_MATRIX,
    MAX_DEFLATE_RATIO,
    MAX_TABLES,
    OPERATION_UNITS,
    PRODUCTS_PER_UNIT,
    DeflateParameters,
    Header,
    Op,
    most_made,
    read_header,
    read_matrix,
    read_table,
    read_varint,
    signed,
    write_table,
)
from artifacts.patch.journal import Checkpoint, Pending, State
from artifacts.patch.sources import Space, Target
from artifacts.patch.streams import PatchReader, Streams, Work

__all__ = ["Decoder"]


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
        self._matrix: MatrixData | None = None
        self._elements = 0
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
        if self._matrix is not None and code not in (Op.TENSOR, Op.PLANES):
            raise PatchInvalid("a matrix stands before what has no rows")
        if code == Op.TABLE:
            self._define(parameter)
        elif code == Op.DEFLATE and parameter == 0:
            self._begin_deflate()
        elif code == Op.MATRIX and parameter == 0:
            self._read_matrix()
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
        if self._matrix is not None and length != self._matrix.matrix.rows * self._matrix.matrix.columns * width:
            raise PatchInvalid("a matrix has another number of elements than the operation")
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
        return read_table(number, self._header.streams)

    def _read_matrix(self) -> None:
        """Read what the rows and columns of the next operation's elements have."""
        matrix = read_matrix(lambda: self._streams.number(0), self._header.streams)
        if not self._header.features & FEATURE_MATRIX:
            raise PatchInvalid("a matrix stands where there should be none")
        self._work.spend(ELEMENTS_UNITS + (matrix.rows + matrix.columns) * (matrix.rank + 1) // FACTORS_PER_UNIT)
        factors = self._table(Op.PLANES, matrix.factors) if matrix.rank else None
        try:
            self._matrix = decode_matrix(matrix, factors, self._streams.take, self._header.layout.block_bytes)
        except ValueError as problem:
            raise PatchInvalid(f"a matrix is wrong: {problem}") from problem

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
            self._pending = self._matrix = None
            self._elements = 0

    def _made(self, pending: Pending, length: int) -> bytes:
        if pending.op == Op.COPY:
            return self._space.read(pending.source, length)
        if pending.op == Op.DATA:
            return bytes(self._streams.take(pending.parameter, length))
        if pending.op == Op.ADD:
            source = np.frombuffer(self._space.read(pending.source, length), np.uint8)
            difference = np.frombuffer(self._streams.take(pending.parameter, length), np.uint8)
            return (source + difference).tobytes()
        return self._made_elements(pending, length)

    def _made_elements(self, pending: Pending, length: int) -> bytes:
        table = self._tables[pending.parameter]
        start, count = self._elements, length // table.width
        self._elements += count
        if self._matrix is not None:
            self._pay_for_prediction(self._matrix.matrix, start, count)
        base = self._space.read(pending.source, length) if pending.op == Op.TENSOR else None
        try:
            return decode_block(table, count, base, self._streams.take, self._matrix, start)
        except ValueError as problem:
            raise PatchInvalid(f"a block of elements is wrong: {problem}") from problem

    def _pay_for_prediction(self, matrix: Matrix, start: int, count: int) -> None:
        """Spend for whole rows, because these are what is computed."""
        rows = -(-(start + count) // matrix.columns) - start // matrix.columns
        self._work.spend(rows * matrix.columns * matrix.rank // PRODUCTS_PER_UNIT)

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
        """Return what another decoder needs to go on from here; None in a deflated member, and within a matrix.

        The target must be flushed to the disk before the checkpoint is.
        """
        positions = self._streams.positions()
        if self._deflater is not None or self._matrix is not None or positions is None:
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
