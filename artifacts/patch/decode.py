"""The operations of a patch are run (`docs/patch-format.md`): the decoder, to which files are addresses and streams.

The patch is read once, forwards. Memory is what the header asks for, 8 MiB at most, whatever the lengths of the files:
the base is read where an operation needs it, the target is written piece by piece.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import BinaryIO

import numpy as np

from artifacts.errors import PatchInvalid
from artifacts.patch.allocator import keep_pieces
from artifacts.patch.axes import Axes
from artifacts.patch.definitions import read_matrix, read_table, write_matrix, write_table
from artifacts.patch.elements import MatrixData, Table, decode_block, decode_matrix
from artifacts.patch.format import (
    BY_SYMBOLS,
    BY_ZLIB,
    FEATURE_DEFLATE,
    FEATURE_SYMBOLS,
    MAX_DEFLATE_RATIO,
    MAX_TABLES,
    DeflateParameters,
    Header,
    Op,
    most_made,
    read_header,
    read_varint,
    signed,
)
from artifacts.patch.journal import Checkpoint, MatrixState, Pending, State
from artifacts.patch.matrix import Factors
from artifacts.patch.sources import Space, Target
from artifacts.patch.streams import PatchReader, Streams
from artifacts.patch.symbol_deflater import Kept, SymbolDeflater
from artifacts.patch.symbols import SEGMENT_STREAMS, Segment, read_segment
from artifacts.patch.work import Work

__all__ = ["Decoder"]

# Longer than any array of a block. Where these are given back to the system, the next block's are new pages of it, and
# that costs a third of the time.
_KEPT_BYTES = 4 << 20
# Fewer bytes are not worth waking a thread for.
_DEFLATED_AT_ONCE = 64 * 1024


class Decoder:
    """Runs the operations of one patch.

    Args:
        header: of the patch.
        patch: the file, at its start.
        space: where sources are.
        target: where the result goes.
        resumable: whether there may be checkpoints.
    """

    def __init__(self, header: Header, patch: BinaryIO, space: Space, target: Target, *, resumable: bool) -> None:
        keep_pieces(_KEPT_BYTES)
        self._header = header
        self._layout = header.layout
        self._block_bytes = header.layout.block_bytes
        self._patch = PatchReader(patch, hashed=resumable)
        read_header(self._patch)
        self._space = space
        self._target = target
        self._work = Work(header.target.length)
        self._streams = Streams(self._patch, header, space, self._work)
        self._tables: dict[int, Table] = {}
        self._source_end = 0
        self._raw = 0
        self._pending: Pending | None = None
        self._matrix: MatrixData | None = None
        self._deflater: _Deflater | SymbolDeflater | None = None

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
        elif code == Op.DEFLATE and parameter in (BY_ZLIB, BY_SYMBOLS):
            self._begin_deflate(parameter)
        elif code == Op.MATRIX and parameter == 0:
            self._read_matrix()
        elif code in (Op.TENSOR, Op.PLANES):
            table = self._table(Op(code), parameter)
            self._work.elements()
            matrix = None if self._matrix is None else self._matrix.matrix
            if matrix is not None and not table.suits(matrix):
                raise PatchInvalid("a matrix has units, and its elements are not floats of 2 bytes")
            width, per_block = table.made_width(matrix), table.per_block(self._block_bytes, matrix)
            self._begin_making(Pending(code, parameter, width, table.base_width, per_block=per_block))
        elif code in (Op.DATA, Op.ADD) or (code == Op.COPY and parameter == 0):
            self._work.operation()
            self._begin_making(Pending(code, parameter, per_block=self._block_bytes))
        else:
            raise PatchInvalid("an operation is unknown")

    def _begin_making(self, pending: Pending) -> None:
        count = self._streams.number(self._layout.lengths)
        if not 1 <= count <= self._room() // pending.width:
            raise PatchInvalid("an operation makes nothing, or more than there is to make")
        if self._matrix is not None and count != self._matrix.matrix.rows * self._matrix.matrix.columns:
            raise PatchInvalid("a matrix has another number of elements than the operation")
        if self._matrix is not None and self._matrix.matrix.needs_base and pending.op != Op.TENSOR:
            raise PatchInvalid("a matrix stands before elements without a base that is for those with one")
        pending.count = count
        if pending.op in (Op.COPY, Op.ADD, Op.TENSOR):
            pending.source = self._source_end + signed(self._streams.number(self._layout.sources))
            self._space.require(pending.source, count * pending.source_width)
            self._source_end = pending.source + count * pending.source_width
        self._pending = pending

    def _define(self, number: int) -> None:
        self._work.elements()
        if number >= MAX_TABLES:
            raise PatchInvalid(f"there are tables 0 to {MAX_TABLES - 1}")
        self._tables[number] = self._read_table(lambda: self._streams.number(0))

    def _read_table(self, number: Callable[[], int]) -> Table:
        return read_table(number, self._header.streams)

    def _read_matrix(self) -> None:
        """Read what the rows and columns of the next operation's elements have."""
        matrix = read_matrix(lambda: self._streams.number(0), self._header.streams)
        if matrix.factor_count > self._header.max_factors:
            raise PatchInvalid("a matrix has more factors than the patch says")
        self._work.matrix(matrix)
        factors = self._table(Op.PLANES, matrix.factors) if matrix.rank else None
        try:
            self._matrix = decode_matrix(matrix, factors, self._streams.take, self._block_bytes)
        except ValueError as problem:
            raise PatchInvalid(f"a matrix is wrong: {problem}") from problem

    def _table(self, op: Op, number: int) -> Table:
        table = self._tables.get(number)
        if table is None or (table.difference == "none") != (op == Op.PLANES):
            raise PatchInvalid("an operation names a table that is not there, or not for it")
        return table

    def _go_on(self, pending: Pending) -> None:
        """Make the next block of an operation."""
        count = min(pending.count - pending.done, pending.per_block)
        self._emit(self._made(pending, count))
        pending.done += count
        if pending.done == pending.count:
            self._pending = self._matrix = None

    def _made(self, pending: Pending, count: int) -> bytes | memoryview:
        if pending.op == Op.DATA:
            return self._streams.take(pending.parameter, count)
        if pending.op == Op.PLANES:
            return self._elements(pending, count, None)
        axes = None if self._matrix is None else self._matrix.matrix.axes
        if pending.op == Op.TENSOR and axes is not None:
            return self._elements(pending, count, self._arranged(pending, axes, count))
        source = self._space.read(pending.source + pending.done * pending.source_width, count * pending.source_width)
        if pending.op == Op.COPY:
            return source
        if pending.op == Op.TENSOR:
            return self._elements(pending, count, source)
        difference = np.frombuffer(self._streams.take(pending.parameter, count), np.uint8)
        return (np.frombuffer(source, np.uint8) + difference).tobytes()

    def _arranged(self, pending: Pending, axes: Axes, count: int) -> bytes:
        """Return elements of a base that has them in another order: it is read in pieces, each for what is in it."""
        width = pending.source_width
        self._work.arranged(pending.count * width)
        places = axes.places_of_run(pending.done, count)
        order = places.argsort(kind="stable")
        ascending = places[order]
        del places
        found = np.empty(count, f"<u{width}")
        step = self._block_bytes // width
        for first in range(0, pending.count, step):
            piece = slice(*ascending.searchsorted((first, first + step)).tolist())
            if piece.start < piece.stop:
                length = min(step, pending.count - first) * width
                content = np.frombuffer(self._space.read(pending.source + first * width, length), found.dtype)
                found[order[piece]] = content[ascending[piece] - first]
        return found.tobytes()

    def _elements(self, pending: Pending, count: int, base: bytes | None) -> memoryview:
        if self._matrix is not None:
            self._work.prediction(self._matrix.matrix, count)
        table = self._tables[pending.parameter]
        try:
            return decode_block(table, count, base, self._streams.take, self._matrix, pending.done)
        except ValueError as problem:
            raise PatchInvalid(f"a block of elements is wrong: {problem}") from problem

    # ---- deflated members

    def _begin_deflate(self, how: int) -> None:
        lengths = self._layout.lengths
        raw, deflated = self._streams.number(lengths), self._streams.number(lengths)
        feature = FEATURE_SYMBOLS if how == BY_SYMBOLS else FEATURE_DEFLATE
        if self._deflater is not None or not self._header.features & feature:
            raise PatchInvalid("a member is deflated that should not be")
        if not 1 <= deflated <= self._room() or not 1 <= raw <= deflated * MAX_DEFLATE_RATIO:
            raise PatchInvalid("a deflated member has a length that cannot be")
        self._raw += raw
        if self._raw > most_made(self._target.length):
            raise PatchInvalid("the deflated members are much longer than the target")
        self._work.deflate(raw)
        if how == BY_SYMBOLS:
            self._deflater = self._symbol_deflater(raw, deflated)
        else:
            self._deflater = _Deflater(DeflateParameters.unpacked(self._streams.number(0)), raw, deflated)

    def _symbol_deflater(self, raw: int, deflated: int) -> SymbolDeflater:
        first, kept = self._streams.number(0), self._streams.number(0)
        if first + SEGMENT_STREAMS > self._header.streams or kept > raw:
            raise PatchInvalid("a deflated member has streams that are not there, or keeps more than it has")
        whole = rest = last = 0
        if kept:
            bits, address = self._streams.number(0), self._streams.number(0)
            if not 1 <= bits <= 8 * deflated:
                raise PatchInvalid("a deflated member keeps more than it has")
            whole, rest = divmod(bits, 8)
            self._space.require(address, whole + (rest > 0))
            last = self._space.read(address + whole, 1)[0] if rest else 0
            for start in range(0, whole, self._block_bytes):
                self._target.write(self._space.read(address + start, min(self._block_bytes, whole - start)))

        def read(begins: bool) -> Segment:
            self._work.segment()
            number, take = self._streams.number, self._streams.take
            return read_segment(lambda: number(first), lambda stream, count: take(first + stream, count), begins=begins)

        return SymbolDeflater(raw, deflated - whole, Kept(kept, last, rest), read)

    def _emit(self, content: bytes | memoryview) -> None:
        if self._deflater is None:
            self._target.write(content)
            return
        for piece in self._deflater.take(content):
            self._target.write(piece)
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
            state=State(tables, self._source_end, self._raw, self._work.spent, pending, _written(self._matrix)),
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
        if state.matrix is not None:
            self._matrix = _matrix_data(state.matrix, self._header.streams)
        self._source_end, self._raw, self._pending = state.source_end, state.raw, state.pending
        self._work.go_on_from(state.spent, self._raw)


def _numbers_of(definition: bytes) -> Callable[[], int]:
    octets = iter(definition)
    return lambda: read_varint(octets.__next__)


def _written(data: MatrixData | None) -> MatrixState | None:
    if data is None:
        return None
    levels = data.row_levels.tobytes() + data.column_levels.tobytes()
    gains, units = (b"" if each is None else each.astype("<f4").tobytes() for each in (data.gains, data.units))
    sides = () if data.factors is None else (data.factors.rows, data.factors.columns)
    factors = [side.astype("<i4").tobytes() for side in sides]
    return MatrixState(write_matrix(data.matrix).hex(), levels, gains, b"".join(factors), units)


def _matrix_data(state: MatrixState, streams: int) -> MatrixData:
    matrix = read_matrix(_numbers_of(bytes.fromhex(state.definition)), streams)
    levels = np.frombuffer(state.levels, np.uint8)
    with_levels = matrix.rows if matrix.scales is not None else 0
    of_rows, of_columns = levels[:with_levels], levels[with_levels:]
    gains = None if matrix.gains is None else np.frombuffer(state.gains, "<f4")
    units = None if matrix.units is None else np.frombuffer(state.units, "<f4")
    if matrix.rank == 0:
        return MatrixData(matrix, of_rows, of_columns, None, gains, units)
    factors = np.frombuffer(state.factors, "<i4")
    rows, columns = (side.reshape(matrix.rank, -1) for side in np.split(factors, [matrix.rank * matrix.rows]))
    # They are shifted already, and what was said of the components is needed no more.
    none = np.zeros(matrix.rank, np.uint8)
    narrowest = Factors.narrowest(none, none, none, rows, columns, matrix.exponent)
    return MatrixData(matrix, of_rows, of_columns, narrowest, gains, units)


class _Deflater:
    """One member of the target while it is deflated: by a thread, because zlib takes longer than all the rest.

    Args:
        parameters: of zlib.
        raw: bytes that are to be deflated.
        deflated: bytes that these make.
    """

    def __init__(self, parameters: DeflateParameters, raw: int, deflated: int) -> None:
        self._zlib = zlib.compressobj(
            parameters.level, zlib.DEFLATED, -parameters.window_log, parameters.memory_level, parameters.strategy
        )
        self._thread = ThreadPoolExecutor(1)
        self._running: Future[bytes] | None = None
        self._waiting = bytearray()
        self._left = deflated
        self.raw_left = raw

    def take(self, content: bytes | memoryview) -> Iterator[bytes]:
        """Take more bytes, and yield what has come out of those before."""
        self.raw_left -= len(content)
        self._waiting += content
        if len(self._waiting) >= _DEFLATED_AT_ONCE:
            yield self._deflated()

    def end(self) -> bytes:
        """Return what comes out at the end.

        Raises:
            PatchInvalid: all of it has another length than was said.
        """
        last = self._deflated() + self._deflated() + self._counted(self._zlib.flush())
        self._thread.shutdown()
        if self._left:
            raise PatchInvalid("a deflated member has another length than the patch says")
        return last

    def _deflated(self) -> bytes:
        """Let the thread go on with what waits, and return what it had made."""
        made = b"" if self._running is None else self._running.result()
        self._running = self._thread.submit(self._zlib.compress, bytes(self._waiting))
        self._waiting.clear()
        return self._counted(made)

    def _counted(self, deflated: bytes) -> bytes:
        self._left -= len(deflated)
        if self._left < 0:
            raise PatchInvalid("a deflated member has another length than the patch says")
        return deflated
