"""Steps become a patch: tables and streams are chosen, and everything is handed to the writer in its order."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO

from backports.zstd import CompressionParameter, ZstdCompressor

from artifacts.patch.codebook import Codebook, StreamPlan, make_codebook
from artifacts.patch.elements import MatrixData, Table, encode_block, encode_matrix
from artifacts.patch.format import DeflateParameters, Layout, Member
from artifacts.patch.kinds import FACTORS
from artifacts.patch.matching import Add, Copy, Data
from artifacts.patch.opened import Opened
from artifacts.patch.planner import difference
from artifacts.patch.steps import Deflate, Step, TensorStep
from artifacts.patch.tally import tally_factors
from artifacts.patch.writer import PatchWriter, frame_of

__all__ = ["Emitted", "emit"]

# The numbers of the streams. Those of elements come last, because the decoder's memory grows with the highest one.
_DATA, _DIFFERENCES, _LENGTHS, _SOURCES = 1, 2, 3, 4
_ESCAPES, _BITS, _SCALES, _COMPONENTS, _FIRST = 5, 6, 7, 8, 9
# Streams of masks and symbols: with them, the memory of the decoder stays within its bound.
_MOST = 18
_FRAME_LOG = 16
# Operations from which on it may pay that lengths and sources have streams of their own.
_MANY_OPERATIONS = 24
# New bytes from which on one window for all of them may be worth its memory.
_MUCH_DATA = 1 << 15
_WINDOW_LOG = 20


@dataclass(frozen=True, slots=True)
class Emitted:
    """A patch.

    Attributes:
        content: its bytes.
        streams: of each stream, how many bytes went in and how many came out.
    """

    content: bytes
    streams: dict[int, tuple[int, int]]

    @property
    def element_bytes(self) -> int:
        """What all tensors take that are coded by their elements."""
        return sum(written for stream, (_, written) in self.streams.items() if stream >= _ESCAPES)


def emit(old: Opened, new: Opened, steps: Sequence[Step], progress: Callable[[int], None] | None = None) -> Emitted:
    """Write the patch of some steps, laid out as is smallest.

    Args:
        old: the base.
        new: the target.
        steps: make the target.
        progress: is told how many bytes of the target the steps so far make.
    """
    written = _Written(old, new, steps, progress)
    return min((written.patch(layout) for layout in written.layouts()), key=lambda one: len(one.content))


Call = Callable[[PatchWriter], None]


class _Written:
    """Steps as calls of a writer, with everything in them that does not depend on the layout."""

    def __init__(self, old: Opened, new: Opened, steps: Sequence[Step], progress: Callable[[int], None] | None) -> None:
        self._old, self._new = old, new
        self._steps = steps
        self._addresses = _Addresses(old, [_source(step) for step in steps])
        self._tensors = [step for step in steps if isinstance(step, TensorStep)]
        self._block_bytes = Layout().block_bytes
        self._tables = _Tables(self._tensors)
        self._calls = list(self._all_calls(progress))

    def layouts(self) -> Iterator[Layout]:
        """Yield the layouts that may be the smallest."""
        layout = Layout(frame_log=_FRAME_LOG)
        if self._continuous_is_smaller():
            layout = replace(layout, window_log=_WINDOW_LOG, continuous=frozenset({_DATA}))
        yield layout
        if len(self._steps) >= _MANY_OPERATIONS:
            yield replace(layout, lengths=_LENGTHS, sources=_SOURCES)

    def patch(self, layout: Layout) -> Emitted:
        """Return the patch in a layout."""
        writer = PatchWriter(self._old.side, self._new.side, layout, self._addresses.members)
        for call in self._calls:
            call(writer)
        sink = BytesIO()
        writer.finish(sink)
        return Emitted(sink.getvalue(), writer.sizes())

    def _continuous_is_smaller(self) -> bool:
        pieces = [self._target(step.start, step.length) for step in self._steps if isinstance(step, Data)]
        content = b"".join(pieces) if sum(map(len, pieces)) >= _MUCH_DATA else b""
        if not content:
            return False
        frame = 1 << _FRAME_LOG
        apart = sum(len(frame_of(content[at : at + frame])) for at in range(0, len(content), frame))
        options = {CompressionParameter.compression_level: 19, CompressionParameter.window_log: _WINDOW_LOG}
        compressor = ZstdCompressor(options={int(key): value for key, value in options.items()})
        pieces = [
            memoryview(compressor.compress(content[at : at + frame], ZstdCompressor.FLUSH_BLOCK))
            for at in range(0, len(content), frame)
        ]
        return sum(map(len, pieces)) < apart - 64

    def _target(self, start: int, length: int) -> memoryview:
        return self._new.content[start : start + length]

    def _all_calls(self, progress: Callable[[int], None] | None) -> Iterator[Call]:
        made = 0
        for step in self._steps:
            yield from self._calls_of(step)
            made += step.length
            if progress is not None:
                progress(made)

    def _calls_of(self, step: Step) -> Iterator[Call]:
        if isinstance(step, Copy):
            yield partial(PatchWriter.copy, source=self._addresses.of(step.source), length=step.length)
        elif isinstance(step, Add):
            added = difference(self._old, self._new, step)
            source = self._addresses.of(step.source)
            yield partial(PatchWriter.add, source=source, stream=_DIFFERENCES, difference=added)
        elif isinstance(step, Data):
            yield partial(PatchWriter.data, stream=_DATA, content=self._target(step.start, step.length))
        elif isinstance(step, Deflate):
            settings = step.settings
            parameters = DeflateParameters(
                settings.level, settings.memory_level, settings.strategy, -settings.window_bits
            )
            yield partial(
                PatchWriter.deflate,
                parameters=parameters,
                raw_length=step.raw_length,
                deflated_length=step.length,
            )
        else:
            yield from self._tensor_calls(step)

    def _tensor_calls(self, step: TensorStep) -> Iterator[Call]:
        number, table, is_new = self._tables.use(self._tables.numbers[id(step)])
        if is_new:
            yield partial(PatchWriter.table, number=number, table=table)
        data = step.plan.data
        matrix = replace(data.matrix, scales=None if data.matrix.scales is None else _SCALES)
        factor_table: Table | None = None
        if matrix.rank:
            of_factors, factor_table, is_new = self._tables.use(self._tables.factor_numbers[id(step)])
            matrix = replace(matrix, components=_COMPONENTS, factors=of_factors)
            if is_new:
                yield partial(PatchWriter.table, number=of_factors, table=factor_table)
        named = MatrixData(matrix, data.row_levels, data.column_levels, data.factors)
        if matrix.has_sides or len(table.classes) > 1:
            parts = encode_matrix(named, factor_table, self._block_bytes)
            yield partial(PatchWriter.matrix, matrix=matrix, parts=parts)
        elements = list(self._element_parts(step, table, named))
        count = step.tensor.count
        if step.source is None:
            yield partial(PatchWriter.planes, number=number, count=count, parts=elements)
        else:
            source = self._addresses.of(step.source)
            yield partial(PatchWriter.tensor, number=number, table=table, source=source, count=count, parts=elements)

    def _element_parts(self, step: TensorStep, table: Table, data: MatrixData) -> Iterator[tuple[int, bytes]]:
        block = self._block_bytes // table.width
        for start in range(0, step.tensor.count, block):
            count = min(block, step.tensor.count - start)
            target = self._target(step.tensor.start + start * table.width, count * table.width)
            base = None
            if step.source is not None:
                at = step.source + start * table.base_width
                base = self._old.content[at : at + count * table.base_width]
            yield from encode_block(table, target, base, data, start)


def _source(step: Step) -> tuple[int, int]:
    """Return where the base's bytes are that a step reads, and how many; none if it reads none."""
    if isinstance(step, (Copy, Add)):
        return step.source, step.length
    if isinstance(step, TensorStep) and step.source is not None:
        return step.source, step.tensor.count * step.base_width
    return 0, 0


class _Tables:
    """The tables of tensors and of factors; each is defined where it is used first."""

    def __init__(self, tensors: Sequence[TensorStep]) -> None:
        predicted = [step for step in tensors if step.plan.data.factors is not None]
        items = [(step.plan.kind, step.plan.counts) for step in tensors]
        items += [(FACTORS, tally_factors(step.plan.data.factors)) for step in predicted if step.plan.data.factors]
        streams = StreamPlan(_ESCAPES, _BITS, _FIRST, _MOST, 1 << _FRAME_LOG)
        book = make_codebook(items, streams) if items else Codebook((), ())
        self._tables = book.tables
        self._defined: dict[int, int] = {}
        self.numbers = {id(step): book.numbers[place] for place, step in enumerate(tensors)}
        self.factor_numbers = {id(step): book.numbers[len(tensors) + place] for place, step in enumerate(predicted)}

    def use(self, number: int) -> tuple[int, Table, bool]:
        """Return the number that a table has in the patch, the table, and whether it is to be defined there."""
        is_new = number not in self._defined
        known = self._defined.setdefault(number, len(self._defined))
        return known, self._tables[number], is_new


class _Addresses:
    """Addresses of sources in the patch: of the base's deflated members, only those are inflated that are read."""

    def __init__(self, old: Opened, sources: Sequence[tuple[int, int]]) -> None:
        self._length = len(old.unpacked.data)
        self._end = len(old.content)
        streams = [one for one in old.unpacked.deflated if _touches(one.start, one.length, sources)]
        self.members = tuple(Member(one.offset, one.deflated_length, one.length) for one in streams)
        self._starts = [one.start for one in streams]
        self._moved: list[int] = []
        at = self._length
        for one in streams:
            self._moved.append(at - one.start)
            at += one.length
        self._target = at

    def of(self, source: int) -> int:
        """Return the address in the patch of one in the base, behind its end one of the target."""
        if source < self._length:
            return source
        if source >= self._end:
            return source - self._end + self._target
        return source + self._moved[bisect_right(self._starts, source) - 1]


def _touches(start: int, length: int, sources: Sequence[tuple[int, int]]) -> bool:
    return any(source < start + length and start < source + count for source, count in sources)
