"""Steps become a patch: tables and streams are chosen, and everything is handed to the writer in its order."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from io import BytesIO
from typing import Generic, NamedTuple, TypeVar

from artifacts.patch.codebook import Codebook, StreamPlan, make_codebook
from artifacts.patch.elements import Buffer, ClassCoding, MatrixData, Table, encode_block, encode_matrix
from artifacts.patch.format import (
    FEATURE_DEFLATE,
    FEATURE_PREFIX,
    FEATURE_SYMBOLS,
    MIN_PREFIX_BYTES,
    DeflateParameters,
    Header,
    Layout,
    Member,
    features_for_factors,
)
from artifacts.patch.kinds import FACTORS
from artifacts.patch.opened import LetGo, Opened
from artifacts.patch.operations import Add, Copy, Data, united
from artifacts.patch.planner import Plan, difference
from artifacts.patch.steps import AnyTensor, Deflate, DeflateEnd, Prefixed, Step, TensorBytes, TensorStep, Words
from artifacts.patch.symbols import SEGMENT_STREAMS, Symbols
from artifacts.patch.tally import LEVELS, tally_factors
from artifacts.patch.writer import Blocks, FrameCache, PatchWriter

__all__ = ["Emitted", "Emitter", "Form"]

# The numbers of the streams. Those of elements come last, because the decoder's memory grows with the highest one.
_CONTROL, _DATA, _DIFFERENCES, _PREFIXED, _LENGTHS, _SOURCES = 0, 1, 2, 3, 4, 5
_ESCAPES, _BITS, _SCALES, _COMPONENTS, _FIRST = 6, 7, 8, 9, 10
# Those of segments come before those of elements, if there are any.
_SEGMENTS = range(_FIRST, _FIRST + SEGMENT_STREAMS)
# Streams of masks and symbols: as many as the decoder's memory allows, but more were never worth it. With fewer than
# the second number, smaller blocks and frames are better.
_MOST, _FEWEST = 26, 14
_SIZES = ((17, 16), (16, 16), (16, 15))
# Operations from which on it may pay that lengths and sources have streams of their own, and up to which it may pay
# that there is one stream for everything.
_MANY_OPERATIONS, _FEW_OPERATIONS = 24, 512
# New bytes from which on one window for all of them may be worth its memory, and up to which they may share a stream
# with the operations.
_MUCH_DATA, _LITTLE_DATA = 1 << 15, 1 << 12
_WINDOW_LOG = 20

# Streams of the matched bytes that may be by LZMA, if they have no more bytes: a decoder takes some hundredths of a
# second for so many, and new bytes in greater number are weights, which zstd codes as well.
_MATCHED_STREAMS, _LZMA_BYTES = range(_ESCAPES), 1 << 18

# Frames that are kept for the next layout.
_CACHED_BYTES = 8 << 20

Call = Callable[[PatchWriter], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Emitted:
    """A patch.

    Attributes:
        content: its bytes.
        streams: of each stream, how many bytes went in and how many came out.
        by_symbols: whether some of them are of segments.
    """

    content: memoryview
    streams: dict[int, tuple[int, int]]
    by_symbols: bool = False

    @property
    def element_bytes(self) -> int:
        """What all tensors take that are coded by their elements."""
        written = sum(written for stream, (_, written) in self.streams.items() if stream >= _ESCAPES)
        return written - self.segment_bytes

    @property
    def segment_bytes(self) -> int:
        """What all segments take of members that are deflated symbol by symbol."""
        return sum(self.streams.get(stream, (0, 0))[1] for stream in _SEGMENTS) if self.by_symbols else 0

    def rate(self, step: Step) -> float:
        """Return how many bytes of the patch each byte takes that a step brings."""
        streams = {Data: _DATA, Add: _DIFFERENCES, Prefixed: _PREFIXED, TensorBytes: _PREFIXED}
        raw, written = self.streams.get(streams.get(type(step), _CONTROL), self.streams.get(_CONTROL, (0, 0)))
        return written / raw if raw else 0.0


class Form(NamedTuple):
    """How the streams of a patch are laid out.

    Attributes:
        has_prefix: whether new bytes are compressed with a part of the base.
        is_continuous: whether they have one window.
        is_apart: whether lengths and sources have streams of their own.
        is_compact: whether there is one stream for everything.
    """

    has_prefix: bool
    is_continuous: bool
    is_apart: bool
    is_compact: bool


class Emitter:
    """Writes patches between two files.

    Args:
        old: the base.
        new: the target.
    """

    def __init__(self, old: Opened, new: Opened) -> None:
        self.old, self.new = old, new
        # Layouts and steps that are compared have most frames in common.
        self.cache = FrameCache(_CACHED_BYTES)
        self.memory = LetGo(old, new)

    def emit(self, plan: Plan, progress: Callable[[int], None] | None = None, *, by_lzma: bool = True) -> Emitted:
        """Write the patch of some steps, laid out as is smallest.

        Args:
            plan: the steps.
            progress: is told how many bytes of the target the steps so far make.
            by_lzma: whether frames may be by LZMA.
        """
        self.memory.now()
        tensors = _Tensors(self, plan)
        best = min(_variants(self, plan, tensors), key=lambda one: one.bytes_without_elements())
        return best.patch(progress or _unheard, by_lzma=by_lzma)

    def bytes_without_elements(self, plan: Plan, form: Form | None = None) -> int:
        """Return what a patch takes without the elements of its tensors.

        Args:
            plan: the steps.
            form: the only one that is tried, if it is possible: the `smallest_form` of steps that are nearly the same.
        """
        variants = self._bare_variants(plan)
        some = [variant for variant in variants if variant.form == form]
        return min(variant.bytes_without_elements() for variant in some or variants)

    def smallest_form(self, plan: Plan) -> tuple[int, Form]:
        """Return what a patch takes without the elements of its tensors, and the form in which it takes so little."""
        best = min(self._bare_variants(plan), key=lambda one: one.bytes_without_elements())
        return best.bytes_without_elements(), best.form

    def _bare_variants(self, plan: Plan) -> list[_Variant]:
        bare = replace(plan, steps=[step for step in plan.steps if not isinstance(step, AnyTensor)])
        return list(_variants(self, bare, _Tensors(self, bare)))


def _unheard(made: int) -> None:
    del made


def _variants(emitter: Emitter, plan: Plan, tensors: _Tensors) -> Iterator[_Variant]:
    """Yield the ways to lay out streams that may be the smallest."""
    layout = tensors.layout
    operations = len(plan.steps)
    data = sum(step.length for step in plan.steps if isinstance(step, Data))
    others = sum(step.length for step in plan.steps if isinstance(step, Add))
    layouts = [layout]
    if data >= _MUCH_DATA:
        window = max(layout.window_log, min((data - 1).bit_length(), _WINDOW_LOG))
        layouts.append(replace(layout, window_log=window, continuous=frozenset({_DATA})))
    if operations >= _MANY_OPERATIONS:
        layouts += [replace(one, lengths=_LENGTHS, sources=_SOURCES) for one in layouts]
    streams = max(tensors.streams, _SOURCES + 1)
    for one in layouts:
        if one is layout or tensors.fits(one, streams):
            yield _Variant(emitter, plan, tensors, one)
    if plan.prefix is not None:
        length = plan.prefix[1] - plan.prefix[0]
        window = max(layout.window_log, (length - 1).bit_length(), 10)
        with_prefix = replace(layout, window_log=window)
        if length >= MIN_PREFIX_BYTES and tensors.fits(with_prefix, streams, FEATURE_PREFIX):
            yield _Variant(emitter, plan, tensors, with_prefix, prefix=plan.prefix)
    if operations <= _FEW_OPERATIONS and data + others <= _LITTLE_DATA:
        yield _Variant(emitter, plan, tensors, layout, compact=True)


class _Variant:
    """A patch in one layout.

    Args:
        compact: whether new bytes and differences are in the stream of the operations.
        prefix: what new bytes are compressed with.

    Attributes:
        form: all that in short.
    """

    def __init__(
        self,
        emitter: Emitter,
        plan: Plan,
        tensors: _Tensors,
        layout: Layout,
        *,
        compact: bool = False,
        prefix: tuple[int, int] | None = None,
    ) -> None:
        self._old, self._new, self._cache, self._memory = emitter.old, emitter.new, emitter.cache, emitter.memory
        self._plan = plan
        self._tensors = tensors
        self._addresses = tensors.addresses
        self._layout = layout
        self._data, self._differences = (_CONTROL, _CONTROL) if compact else (_DATA, _DIFFERENCES)
        self._prefix = prefix
        self.form = Form(prefix is not None, bool(layout.continuous), layout.lengths == _LENGTHS, compact)

    def bytes_without_elements(self) -> int:
        """Return what the patch takes without the elements of tensors."""
        return self._without_elements[0]

    @cached_property
    def _without_elements(self) -> tuple[int, dict[int, tuple[int, int]]]:
        """What the patch takes without the elements of tensors: in all, and by stream as `PatchWriter.sizes` tells."""
        sides = self._old.side, self._new.side
        writer = _BareWriter(*sides, self._layout, self._addresses.members, cache=self._cache)
        return self._written(writer, _unheard).getbuffer().nbytes, writer.sizes()

    def patch(self, progress: Callable[[int], None], *, by_lzma: bool) -> Emitted:
        """Return the patch, telling how many bytes of the target the tensors make."""
        _, sizes = self._without_elements
        tensors = sum(step.length for step in self._plan.steps if isinstance(step, TensorBytes))
        raw = {stream: taken for stream, (taken, _) in sizes.items()}
        raw[_PREFIXED] = raw.get(_PREFIXED, 0) + tensors
        lzma = [one for one in _MATCHED_STREAMS if raw.get(one, 0) <= _LZMA_BYTES] if by_lzma else ()
        writer = PatchWriter(self._old.side, self._new.side, self._layout, self._addresses.members, lzma=lzma)
        content = self._written(writer, progress).getbuffer()
        return Emitted(content, writer.sizes(), _by_symbols(self._plan.steps))

    def _written(self, writer: PatchWriter, progress: Callable[[int], None]) -> BytesIO:
        room = made = 0
        for step in self._plan.steps:
            if isinstance(step, AnyTensor | Words):
                if isinstance(step, TensorBytes):
                    writer.referring(_PREFIXED, self._pieces(step))
                else:
                    for call in self._tensors.calls[id(step)]:
                        call(writer)
                made += step.length
                progress(made)
            elif isinstance(step, Data):
                room = self._write_data(writer, step, room)
            else:
                self._write(writer, step)
        sink = BytesIO()
        writer.finish(sink)
        return sink

    def _write_data(self, writer: PatchWriter, step: Data, room: int) -> int:
        """Write new bytes; with a prefix, each frame of them gets it. Return the room that is left in the last one."""
        content = self._new.content[step.start : step.start + step.length]
        if self._prefix is None:
            writer.data(self._data, content)
            return 0
        while len(content):
            if room == 0:
                start, end = self._prefix
                writer.prefix(self._data, self._addresses.of(start), self._old.content[start:end])
                room = self._layout.frame_bytes
            writer.data(self._data, content[:room])
            content, room = content[room:], room - min(room, len(content))
        return room

    def _pieces(self, step: TensorBytes) -> Iterator[tuple[int, Buffer, Buffer]]:
        """Yield a tensor's bytes, frame by frame, each after the address and the bytes of its base."""
        size = min(self._layout.frame_bytes, self._layout.window_bytes)
        for at in range(0, step.length, size):
            length = min(size, step.length - at)
            # A prefix has a least length.
            start = step.source + min(at, max(0, step.length - MIN_PREFIX_BYTES))
            known = self._old.content[start : step.source + at + length]
            content = self._new.content[step.tensor.start + at : step.tensor.start + at + length]
            yield self._addresses.of(start), known, content
            self._memory.after(length)

    def _write(self, writer: PatchWriter, step: Step) -> None:
        if isinstance(step, Copy):
            writer.copy(self._addresses.of(step.source), step.length)
        elif isinstance(step, Add):
            writer.add(self._addresses.of(step.source), self._differences, difference(self._old, self._new, step))
        elif isinstance(step, Prefixed):
            known = self._old.content[step.source : step.source + step.source_length]
            writer.prefix(_PREFIXED, self._addresses.of(step.source), known)
            writer.data(_PREFIXED, step.content)
        elif isinstance(step, Deflate):
            how = step.how
            if isinstance(how, Symbols):
                writer.deflate_by_symbols(_SEGMENTS[0], step.raw_length, step.length, how.segments, how.kept)
            else:
                parameters = DeflateParameters(how.level, how.memory_level, how.strategy, -how.window_bits)
                writer.deflate(parameters, step.raw_length, step.length)
        elif isinstance(step, DeflateEnd):
            writer.end_deflate()


class _BareWriter(PatchWriter):
    """A writer that leaves out the elements of tensors, to compare layouts of the rest."""

    def _put_all(self, parts: Iterable[tuple[int, Buffer]]) -> None:
        del parts

    def _put_elements(self, table: Table, count: int, blocks: Blocks) -> None:
        del table, count, blocks

    def _made_block(self, length: int) -> None:
        del length

    def referring(self, stream: int, pieces: Iterable[tuple[int, Buffer, Buffer]]) -> None:
        del stream, pieces


@dataclass(frozen=True, slots=True)
class _Made(Generic[T]):
    """Bytes of streams that are made when they are asked for: all of them would take as much memory as the target."""

    make: Callable[[], Iterable[T]]

    def __iter__(self) -> Iterator[T]:
        return iter(self.make())


class _Tensors:
    """The tensors of a patch as calls of a writer, which are the same in every layout."""

    def __init__(self, emitter: Emitter, plan: Plan) -> None:
        old = emitter.old
        self._old, self._new, self._memory = old, emitter.new, emitter.memory
        prefix = (plan.prefix[0], plan.prefix[1] - plan.prefix[0]) if plan.prefix else (0, 0)
        self.addresses = _Addresses(old, [prefix, *(_source(step) for step in plan.steps)])
        steps = [step for step in plan.steps if isinstance(step, TensorStep)]
        self._features = _features(plan.steps)
        self._first = _SEGMENTS.stop if _by_symbols(plan.steps) else _FIRST
        self.layout, most = self._sizes(plan)
        streams = StreamPlan(_ESCAPES, _BITS, self._first, most, self.layout.frame_bytes)
        self._tables = _Tables(steps, streams, with_words=any(isinstance(step, Words) for step in plan.steps))
        self.calls: dict[int, list[Call]] = {}
        for step in plan.steps:
            if isinstance(step, TensorStep):
                self.calls[id(step)] = list(self._calls(step))
            elif isinstance(step, Words):
                self.calls[id(step)] = list(self._word_calls(step))

    @property
    def streams(self) -> int:
        """How many streams there are with those of the tensors and segments; 0 if there are none of both."""
        return max(self._tables.streams, self._first if self._first > _FIRST else 0)

    def fits(self, layout: Layout, streams: int, features: int = 0) -> bool:
        """Tell whether a decoder has the memory for a layout."""
        try:
            Header(
                self._old.side.as_base(),
                self._new.side,
                layout,
                streams,
                self.addresses.members,
                self._features | features,
            )
        except ValueError:
            return False
        return True

    def _sizes(self, plan: Plan) -> tuple[Layout, int]:
        """Return the sizes of blocks and frames, and how many streams of masks and symbols there may be."""
        longest = max((step.source_length for step in plan.steps if isinstance(step, Prefixed)), default=0)
        if any(isinstance(step, TensorBytes) for step in plan.steps):
            longest = max(longest, 1 << _SIZES[0][1])
        window = max((longest - 1).bit_length(), 10) if longest else 0
        for block_log, frame_log in _SIZES:
            layout = Layout(block_log=block_log, frame_log=frame_log, window_log=window)
            most = next((count for count in range(_MOST, 1, -1) if self.fits(layout, self._first + count)), 1)
            if most >= _FEWEST:
                break
        return layout, most

    def _calls(self, step: TensorStep) -> Iterator[Call]:
        number, table, is_new = self._tables.use(self._tables.numbers[id(step)])
        if is_new:
            yield partial(PatchWriter.table, number=number, table=table)
        data = step.plan.data
        matrix = replace(
            data.matrix,
            scales=None if data.matrix.scales is None else _SCALES,
            gains=None if data.matrix.gains is None else _COMPONENTS,
            units=None if data.matrix.units is None else _COMPONENTS,
            axes=step.axes,
        )
        factor_table: Table | None = None
        if matrix.rank:
            of_factors, factor_table, is_new = self._tables.use(self._tables.factor_numbers[id(step)])
            matrix = replace(matrix, components=_COMPONENTS, factors=of_factors)
            if is_new:
                yield partial(PatchWriter.table, number=of_factors, table=factor_table)
        named = replace(data, matrix=matrix)
        if matrix.has_sides or matrix.axes is not None or len(table.classes) > 1:
            parts = _Made(partial(encode_matrix, named, factor_table, self.layout.block_bytes))
            yield partial(PatchWriter.matrix, matrix=matrix, parts=parts)
        blocks = _Made(partial(self._element_blocks, step, table, named))
        count = step.tensor.count
        if step.source is None:
            yield partial(PatchWriter.planes, number=number, table=table, count=count, blocks=blocks)
        else:
            source = self.addresses.of(step.source)
            yield partial(PatchWriter.tensor, number=number, table=table, source=source, count=count, blocks=blocks)

    def _word_calls(self, step: Words) -> Iterator[Call]:
        number, table, is_new = self._tables.use(self._tables.of_words)
        if is_new:
            yield partial(PatchWriter.table, number=number, table=table)
        count, source = step.length // table.width, self.addresses.of(step.source)
        blocks = _Made(partial(self._word_blocks, step, table))
        yield partial(PatchWriter.tensor, number=number, table=table, source=source, count=count, blocks=blocks)

    def _word_blocks(self, step: Words, table: Table) -> Iterator[list[tuple[int, bytes]]]:
        own = step.source - len(self._old.content)
        known, source = (self._old.content, step.source) if own < 0 else (self._new.content, own)
        block = table.width * table.per_block(self.layout.block_bytes)
        for start in range(0, step.length, block):
            length = min(block, step.length - start)
            target = self._new.content[step.start + start : step.start + start + length]
            yield encode_block(table, target, known[source + start : source + start + length])

    def _element_blocks(self, step: TensorStep, table: Table, data: MatrixData) -> Iterator[list[tuple[int, bytes]]]:
        block, width = table.per_block(self.layout.block_bytes, data.matrix), step.tensor.width
        known = memoryview(b"")
        if step.source is not None:
            known = self._old.content[step.source : step.source + step.tensor.count * table.base_width]
            known = known if step.axes is None else memoryview(step.axes.arranged(known, table.base_width))
        for start in range(0, step.tensor.count, block):
            count = min(block, step.tensor.count - start)
            at = step.tensor.start + start * width
            target = self._new.content[at : at + count * width]
            base = None
            if step.source is not None:
                base = known[start * table.base_width : (start + count) * table.base_width]
            yield encode_block(table, target, base, data, start)
            self._memory.after(count * width)


def _features(steps: Sequence[Step]) -> int:
    """Return the features that a patch of some steps will have."""
    plans = [step.plan.data.matrix for step in steps if isinstance(step, TensorStep)]
    factors = max((matrix.factor_count for matrix in plans), default=0)
    deflates = any(isinstance(step, Deflate) and step.symbols is None for step in steps)
    prefixes = any(isinstance(step, (Prefixed, TensorBytes)) for step in steps)
    features = FEATURE_DEFLATE * deflates | FEATURE_SYMBOLS * _by_symbols(steps) | FEATURE_PREFIX * prefixes
    return features_for_factors(factors) | features


def _by_symbols(steps: Sequence[Step]) -> bool:
    """Tell whether members of the target are deflated symbol by symbol."""
    return any(isinstance(step, Deflate) and step.symbols is not None for step in steps)


def _source(step: Step) -> tuple[int, int]:
    """Return where the base's bytes are that a step reads, and how many; none if it reads none."""
    if isinstance(step, (Copy, Add, Words)):
        return step.source, step.length
    if isinstance(step, Prefixed):
        return step.source, step.source_length
    if isinstance(step, TensorBytes):
        return step.source, step.length
    if isinstance(step, TensorStep) and step.source is not None:
        return step.source, step.tensor.count * step.base_width
    return 0, 0


class _Tables:
    """The tables of tensors and of factors; each is defined where it is used first."""

    def __init__(self, tensors: Sequence[TensorStep], streams: StreamPlan, *, with_words: bool) -> None:
        words = []
        if with_words:
            # Differences that repeat each other: zstd finds that in streams of their own, and no classes are needed.
            coding = ClassCoding(streams.first, mask=streams.first + 1)
            words.append(Table(4, "plain", "sub", 0, streams.escapes, bytes(LEVELS), (coding,)))
            streams = replace(streams, first=streams.first + 2, most=streams.most - 2)
        predicted = [step for step in tensors if step.plan.data.factors is not None]
        items = [(step.plan.kind, step.plan.counts) for step in tensors]
        items += [(FACTORS, tally_factors(step.plan.data.factors)) for step in predicted if step.plan.data.factors]
        book = make_codebook(items, streams) if items else Codebook((), ())
        self._tables = (*book.tables, *words)
        self.of_words = len(book.tables)
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
        reads = united((start, start + length) for start, length in sources)
        streams = [one for one in old.unpacked.deflated if _touches(one.start, one.length, reads)]
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


def _touches(start: int, length: int, reads: Sequence[tuple[int, int]]) -> bool:
    place = bisect_left(reads, start + length, key=lambda read: read[0])
    return place > 0 and reads[place - 1][1] > start
