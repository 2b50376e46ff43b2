"""Steps become a patch: tables and streams are chosen, and everything is handed to the writer in its order."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO

from backports.zstd import CompressionParameter, ZstdCompressor

from artifacts.patch.codebook import Codebook, StreamPlan, make_codebook
from artifacts.patch.elements import Buffer, MatrixData, Table, encode_block, encode_matrix
from artifacts.patch.format import (
    FEATURE_DEFLATE,
    FEATURE_PREFIX,
    DeflateParameters,
    Header,
    Layout,
    Member,
    features_for_factors,
)
from artifacts.patch.kinds import FACTORS
from artifacts.patch.matching import Add, Copy, Data
from artifacts.patch.opened import Opened
from artifacts.patch.planner import difference
from artifacts.patch.steps import Deflate, Prefixed, Step, TensorStep
from artifacts.patch.tally import tally_factors
from artifacts.patch.writer import PatchWriter, frame_of

__all__ = ["Emitted", "emit"]

# The numbers of the streams. Those of elements come last, because the decoder's memory grows with the highest one.
_DATA, _DIFFERENCES, _PREFIXED, _LENGTHS, _SOURCES = 1, 2, 3, 4, 5
_ESCAPES, _BITS, _SCALES, _COMPONENTS, _FIRST = 6, 7, 8, 9, 10
# Streams of masks and symbols: as many as the decoder's memory allows, but more were never worth it. With fewer than
# the second number, smaller blocks and frames are better.
_MOST, _FEWEST = 26, 14
_SIZES = ((17, 16), (16, 16), (16, 15))
# Operations from which on it may pay that lengths and sources have streams of their own.
_MANY_OPERATIONS = 24
# New bytes from which on one window for all of them may be worth its memory.
_MUCH_DATA = 1 << 15
_WINDOW_LOG = 20
# The longest prefix.
_PREFIX_LOG = 16


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
    return written.patch(written.layout())


Call = Callable[[PatchWriter], None]


class _Written:
    """Steps as calls of a writer, with everything in them that does not depend on the layout."""

    def __init__(self, old: Opened, new: Opened, steps: Sequence[Step], progress: Callable[[int], None] | None) -> None:
        self._old, self._new = old, new
        self._steps = steps
        self._addresses = _Addresses(old, [_source(step) for step in steps])
        tensors = [step for step in steps if isinstance(step, TensorStep)]
        self._features = _features(steps)
        self._layout, most = self._sizes()
        streams = StreamPlan(_ESCAPES, _BITS, _FIRST, most, self._layout.frame_bytes)
        self._tables = _Tables(tensors, streams)
        self._calls = list(self._all_calls(progress))

    def _sizes(self) -> tuple[Layout, int]:
        """Return the sizes of blocks and frames, and how many streams of masks and symbols there may be."""
        for block_log, frame_log in _SIZES:
            window = _PREFIX_LOG if self._features & FEATURE_PREFIX else 0
            layout = Layout(block_log=block_log, frame_log=frame_log, window_log=window)
            most = next((count for count in range(_MOST, 1, -1) if self._fits(layout, _FIRST + count)), 1)
            if most >= _FEWEST:
                break
        return layout, most

    def _fits(self, layout: Layout, streams: int) -> bool:
        try:
            Header(self._old.side.as_base(), self._new.side, layout, streams, self._addresses.members, self._features)
        except ValueError:
            return False
        return True

    def layout(self) -> Layout:
        """Return the layout that makes the smallest patch."""
        layout = replace(self._layout, window_log=_WINDOW_LOG, continuous=frozenset({_DATA}))
        if not self._fits(layout, self._tables.streams or _SOURCES + 1) or not self._continuous_is_smaller():
            layout = self._layout
        apart = replace(layout, lengths=_LENGTHS, sources=_SOURCES)
        is_apart = len(self._steps) >= _MANY_OPERATIONS and self._control_bytes(apart) < self._control_bytes(layout)
        return apart if is_apart else layout

    def _control_bytes(self, layout: Layout) -> int:
        """Return what the operations take, without what they bring."""
        writer = _ControlWriter(self._old.side, self._new.side, layout, self._addresses.members)
        for call in self._calls:
            call(writer)
        sink = BytesIO()
        writer.finish(sink)
        return len(sink.getvalue())

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
        frame = self._layout.frame_bytes
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
        elif isinstance(step, Prefixed):
            known = self._old.content[step.source : step.source + step.source_length]
            address = self._addresses.of(step.source)
            yield partial(PatchWriter.prefix, stream=_PREFIXED, address=address, content=known)
            yield partial(PatchWriter.data, stream=_PREFIXED, content=step.content)
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
        matrix = replace(
            data.matrix,
            scales=None if data.matrix.scales is None else _SCALES,
            gains=None if data.matrix.gains is None else _COMPONENTS,
        )
        factor_table: Table | None = None
        if matrix.rank:
            of_factors, factor_table, is_new = self._tables.use(self._tables.factor_numbers[id(step)])
            matrix = replace(matrix, components=_COMPONENTS, factors=of_factors)
            if is_new:
                yield partial(PatchWriter.table, number=of_factors, table=factor_table)
        named = replace(data, matrix=matrix)
        if matrix.has_sides or len(table.classes) > 1:
            parts = encode_matrix(named, factor_table, self._layout.block_bytes)
            yield partial(PatchWriter.matrix, matrix=matrix, parts=parts)
        elements = list(self._element_parts(step, table, named))
        count = step.tensor.count
        if step.source is None:
            yield partial(PatchWriter.planes, number=number, count=count, parts=elements)
        else:
            source = self._addresses.of(step.source)
            yield partial(PatchWriter.tensor, number=number, table=table, source=source, count=count, parts=elements)

    def _element_parts(self, step: TensorStep, table: Table, data: MatrixData) -> Iterator[tuple[int, bytes]]:
        block = table.per_block(self._layout.block_bytes)
        for start in range(0, step.tensor.count, block):
            count = min(block, step.tensor.count - start)
            target = self._target(step.tensor.start + start * table.width, count * table.width)
            base = None
            if step.source is not None:
                at = step.source + start * table.base_width
                base = self._old.content[at : at + count * table.base_width]
            yield from encode_block(table, target, base, data, start)


class _ControlWriter(PatchWriter):
    """A writer of the operations alone, to compare layouts of them."""

    def _put(self, number: int, content: Buffer) -> None:
        if number in (0, _LENGTHS, _SOURCES):
            super()._put(number, content)


def _features(steps: Sequence[Step]) -> int:
    """Return the features that a patch of some steps will have."""
    plans = [step.plan.data.matrix for step in steps if isinstance(step, TensorStep)]
    factors = max((matrix.rank * (matrix.rows + matrix.columns) for matrix in plans), default=0)
    deflates = any(isinstance(step, Deflate) for step in steps)
    prefixes = any(isinstance(step, Prefixed) for step in steps)
    return features_for_factors(factors) | FEATURE_DEFLATE * deflates | FEATURE_PREFIX * prefixes


def _source(step: Step) -> tuple[int, int]:
    """Return where the base's bytes are that a step reads, and how many; none if it reads none."""
    if isinstance(step, (Copy, Add)):
        return step.source, step.length
    if isinstance(step, Prefixed):
        return step.source, step.source_length
    if isinstance(step, TensorStep) and step.source is not None:
        return step.source, step.tensor.count * step.base_width
    return 0, 0


class _Tables:
    """The tables of tensors and of factors; each is defined where it is used first."""

    def __init__(self, tensors: Sequence[TensorStep], streams: StreamPlan) -> None:
        predicted = [step for step in tensors if step.plan.data.factors is not None]
        items = [(step.plan.kind, step.plan.counts) for step in tensors]
        items += [(FACTORS, tally_factors(step.plan.data.factors)) for step in predicted if step.plan.data.factors]
        book = make_codebook(items, streams) if items else Codebook((), ())
        self._tables = book.tables
        self._defined: dict[int, int] = {}
        self.numbers = {id(step): book.numbers[place] for place, step in enumerate(tensors)}
        self.factor_numbers = {id(step): book.numbers[len(tensors) + place] for place, step in enumerate(predicted)}

    @property
    def streams(self) -> int:
        """How many streams the patch has with these tables; 0 if there are none."""
        codings = [coding for table in self._tables for coding in table.classes]
        return max((max(coding.symbols, coding.mask or 0) for coding in codings), default=-1) + 1

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
