"""A patch file is written: operations go in with the bytes of their streams, frames come out in the right order.

The decoder reads a patch strictly forwards and asks for a stream's next frame when the stream has run out of bytes. So
a frame stands where the first of its bytes is asked for. The writer knows that place at once and fills the frame
later, with what the following operations need of the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import BinaryIO, Final, NamedTuple

from backports.zstd import CompressionParameter, ZstdCompressor, ZstdDict

from artifacts.patch.definitions import write_matrix, write_table
from artifacts.patch.elements import Matrix, Table
from artifacts.patch.format import (
    BY_SYMBOLS,
    BY_ZLIB,
    FEATURE_DEFLATE,
    FEATURE_LZMA,
    FEATURE_PREFIX,
    FEATURE_SYMBOLS,
    MAX_STREAMS,
    MAX_TABLES,
    MIN_PREFIX_BYTES,
    PREFIXED_WINDOW_LOG,
    Codec,
    DeflateParameters,
    Header,
    Layout,
    Member,
    Op,
    Side,
    features_for_factors,
    frame_head,
    unsigned,
    varint,
    write_header,
)
from artifacts.patch.lzma_frames import MAX_PAYLOAD_BYTES, packed
from artifacts.patch.symbols import SEGMENT_STREAMS, Beginning, Segment, segment_parts
from artifacts.patch.work import Work

__all__ = ["Blocks", "FrameCache", "Levels", "PatchWriter", "frame_of", "with_prefix"]

Buffer = bytes | bytearray | memoryview
# Of each block of elements, bytes with their streams.
Blocks = Iterable[Iterable[tuple[int, Buffer]]]

_MAGIC_BYTES = 4
# A frame is by LZMA if that saves so many bytes: fewer are not worth a decoder's code.
_LEAST_SAVED = 8


class Levels(NamedTuple):
    """Levels of zstd that are tried for a frame, of which the smaller result is kept.

    Attributes:
        quick: looks for few repetitions. Where a stream is noise with a bias, others find some that cost more than they
            save.
        noise: for what the quick one leaves more than half of: there it finds as much as the thorough one in a third
            less time.
        thorough: for all else, for frames with a prefix and for continuous streams.
    """

    quick: int = 1
    noise: int = 16
    thorough: int = 19


_LEVELS: Final = Levels()


def frame_of(content: Buffer, levels: Levels = _LEVELS) -> bytes:
    """Return the smallest frame of some bytes that stands alone, with its head."""
    if content[0] == content[-1] and bytes(content).count(content[0]) == len(content):
        return frame_head(len(content), Codec.REPEATED, content[0])
    blocks = _blocks(content, levels.quick)
    level = levels.noise if 2 * len(blocks) > len(content) else levels.thorough
    if level != levels.quick:
        blocks = min(_blocks(content, level), blocks, key=len)
    zstd = frame_head(len(content), Codec.ZSTD, len(blocks)) + blocks
    stored = frame_head(len(content), Codec.STORED)
    if len(blocks) < len(content) and len(zstd) < len(stored) + len(content):
        return zstd
    return stored + bytes(content)


def _blocks(content: Buffer, level: int) -> bytes:
    """Compress bytes into one zstd frame, and return it without its header, which the decoder makes anew."""
    frame = ZstdCompressor(options=_options(level)).compress(content, ZstdCompressor.FLUSH_FRAME)
    return frame[_header_bytes(frame) :]


def with_prefix(content: Buffer, prefix: tuple[ZstdDict, int], level: int = _LEVELS.thorough) -> bytes:
    """Compress bytes into one zstd frame that refers to a prefix, and return all of it.

    Args:
        content: the bytes.
        prefix: raw content, `as_prefix`; or `as_digested_dict`, with which what zstd finds out about it is kept for
            the next frame.
        level: of compression.
    """
    compressor = ZstdCompressor(options=_options(level, PREFIXED_WINDOW_LOG), zstd_dict=prefix)
    return compressor.compress(content, ZstdCompressor.FLUSH_FRAME)


def _header_bytes(frame: bytes) -> int:
    """Return the length of the header of a zstd frame without a dictionary id (RFC 8878, 3.1.1.1)."""
    descriptor = frame[_MAGIC_BYTES]
    single_segment = descriptor >> 5 & 1
    content_size = (single_segment, 2, 4, 8)[descriptor >> 6]
    return _MAGIC_BYTES + 1 + (1 - single_segment) + content_size


def _options(level: int, window_log: int | None = None) -> dict[int, int]:
    options = {CompressionParameter.compression_level: level, CompressionParameter.checksum_flag: 0}
    if window_log is not None:
        options |= {CompressionParameter.window_log: window_log}
    return {int(key): value for key, value in options.items()}


def _continuous(level: int, window_log: int) -> dict[int, int]:
    """Return options for a stream whose length zstd is not told: its tables are no larger than the window needs."""
    options = _options(level, window_log)
    return options | {
        int(table): window_log + 1 for table in (CompressionParameter.hash_log, CompressionParameter.chain_log)
    }


@dataclass(slots=True)
class _Segments:
    """Segments of a member that is being written.

    Attributes:
        further: those that no decoder has read yet.
        first: the first of their streams.
        length: bytes of the last one that was read; None behind the last one of all.
        left: bytes that are made, from the start of that one on.
    """

    further: Iterator[Segment]
    first: int
    length: int | None = None
    left: int = 0


@dataclass(slots=True)
class _Frame:
    """A frame in its place: empty until its stream has its bytes."""

    written: bytes = b""


@dataclass(slots=True)
class _Prefix:
    address: int
    content: bytes


@dataclass(slots=True)
class _Stream:
    """The end of a stream that is being written.

    Attributes:
        waiting: bytes of the frame that is open.
        frame: the place of the open frame.
        prefix: what the next frame, or the open one, refers to.
        compressor: of a continuous stream.
        raw: bytes that went in.
        written: bytes of the frames that are closed.
    """

    waiting: bytearray = field(default_factory=bytearray)
    frame: _Frame | None = None
    prefix: _Prefix | None = None
    compressor: ZstdCompressor | None = None
    raw: int = 0
    written: int = 0


class FrameCache:
    """Frames that were made once: of several writers of nearly the same patch, most make the same ones.

    Args:
        max_bytes: of frames that are kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self._known: dict[tuple[bytes, int, bytes], tuple[bytes, int]] = {}

    def get(self, content: bytes, prefix: _Prefix | None, make: Callable[[], tuple[bytes, int]]) -> tuple[bytes, int]:
        """Return the frame of some bytes with the features that it needs, made if it is not there."""
        address, known = (-1, b"") if prefix is None else (prefix.address, prefix.content)
        key = sha256(content).digest(), address, sha256(known).digest()
        found = self._known.get(key)
        if found is None:
            found = make()
            if len(found[0]) <= self._left:
                self._left -= len(found[0])
                self._known[key] = found
        return found


class PatchWriter:
    """Takes the operations of a patch in the order of the target, and writes the file at the end.

    What the operations make is not compared with the target; a patch is proved by decoding it.

    Args:
        base: the file that the patch leads from.
        target: the file that it leads to.
        layout: how streams are laid out.
        members: deflated parts of the base, whose inflated bytes have the addresses from ``base.length`` on.
        levels: zstd's levels that are tried for each frame.
        lzma: streams of which frames may be by LZMA, which is slow.
        cache: of frames that are not by LZMA, of writers with the same levels; None to make each.

    Raises:
        ValueError: from every method, for what the format cannot say.
        PatchInvalid: likewise, when no decoder would take the patch, because it takes too many steps for what it makes.
    """

    def __init__(
        self,
        base: Side,
        target: Side,
        layout: Layout | None = None,
        members: tuple[Member, ...] = (),
        levels: Levels = _LEVELS,
        lzma: Collection[int] = (),
        cache: FrameCache | None = None,
    ) -> None:
        self._layout = layout or Layout()
        self._base = base
        self._target = target
        self._members = members
        self._levels = levels
        self._lzma = lzma
        self._cache = cache
        self._frame_bytes = self._layout.frame_bytes
        self._streams: dict[int, _Stream] = {}
        self._frames: list[_Frame] = []
        self._source_end = 0
        self._features = 0
        self._factors = 0
        self._work = Work(target.length)
        self._matrix: Matrix | None = None
        self._segments: _Segments | None = None

    # ---- operations

    def copy(self, source: int, length: int) -> None:
        """Make bytes that are the same as those at an address."""
        self._operation(Op.COPY, 0, length)
        self._source(source, length)
        self._made_bytes(length)

    def data(self, stream: int, content: Buffer) -> None:
        """Make bytes that are new."""
        self._operation(Op.DATA, stream, len(content))
        self._put_blocks(stream, content)

    def add(self, source: int, stream: int, difference: Buffer) -> None:
        """Make bytes that are those at an address, each plus the one of the difference, modulo 256."""
        self._operation(Op.ADD, stream, len(difference))
        self._source(source, len(difference))
        self._put_blocks(stream, difference)

    def table(self, number: int, table: Table) -> None:
        """Say how elements are coded from now on that name this table; 0 to 63."""
        if not 0 <= number < MAX_TABLES:
            raise ValueError(f"there are tables 0 to {MAX_TABLES - 1}")
        self._work.elements()
        self._put(0, varint(Op.TABLE | number << 3) + write_table(table))
        for coding in table.classes:
            self._name(coding.symbols, coding.mask, *coding.low_planes, coding.bits, table.escapes)

    def matrix(self, matrix: Matrix, parts: Iterable[tuple[int, Buffer]]) -> None:
        """Say what rows and columns have in common of the elements that the next operation makes.

        Args:
            matrix: as many elements as the next `tensor` or `planes` makes.
            parts: what `elements.encode_matrix` returned.
        """
        self._put(0, varint(Op.MATRIX) + write_matrix(matrix))
        self._name(matrix.scales, matrix.gains, matrix.units, matrix.components if matrix.rank else None)
        self._put_all(parts)
        self._factors = max(self._factors, matrix.factor_count)
        self._work.matrix(matrix)
        self._matrix = matrix

    def tensor(self, number: int, table: Table, source: int, count: int, blocks: Blocks) -> None:
        """Make elements that have a base.

        Args:
            number: of the table, defined before.
            table: that table.
            source: the address of as many elements, of the width of the table's base.
            count: how many.
            blocks: of each block of `Table.per_block` what `elements.encode_block` returned.
        """
        self._operation(Op.TENSOR, number, count)
        self._source(source, count * table.base_width)
        self._put_elements(table, count, blocks)
        self._predict(count, table.per_block(self._layout.block_bytes, self._matrix), count * table.base_width)

    def planes(self, number: int, table: Table, count: int, blocks: Blocks) -> None:
        """Make elements that have no base. The arguments are those of `tensor`."""
        self._operation(Op.PLANES, number, count)
        self._put_elements(table, count, blocks)
        self._matrix = None

    def deflate(self, parameters: DeflateParameters, raw_length: int, deflated_length: int) -> None:
        """Make deflated bytes: the operations that follow make ``raw_length`` bytes, which zlib deflates."""
        self._operation(Op.DEFLATE, BY_ZLIB, raw_length)
        self._put(self._layout.lengths, varint(deflated_length))
        self._put(0, varint(parameters.packed()))
        self._features |= FEATURE_DEFLATE
        self._work.deflate(raw_length)

    def end_deflate(self) -> None:
        """Say that the raw bytes of a deflated member end here."""
        self._segments = None

    def deflate_by_symbols(
        self,
        first: int,
        raw_length: int,
        deflated_length: int,
        segments: Iterable[Segment],
        kept: Beginning | None = None,
    ) -> None:
        """Make deflated bytes: the operations that follow make ``raw_length`` bytes, and segments say how they deflate.

        Args:
            first: the first of the streams for segments.
            raw_length: in bytes.
            deflated_length: likewise.
            segments: of all raw bytes but those that are kept.
            kept: how the member begins, if that is somewhere else too.
        """
        if kept is not None and kept.raw_length < 1:
            raise ValueError("what is kept of a member makes at least one byte")
        self._operation(Op.DEFLATE, BY_SYMBOLS, raw_length)
        self._put(self._layout.lengths, varint(deflated_length))
        self._put(0, varint(first))
        numbers = (0,) if kept is None else (kept.raw_length, kept.bits, kept.address)
        self._put(0, b"".join(map(varint, numbers)))
        self._name(*range(first, first + SEGMENT_STREAMS))
        self._features |= FEATURE_SYMBOLS
        self._work.deflate(raw_length)
        self._segments = _Segments(iter(segments), first)
        self._put_segment(self._segments)
        # The first one begins behind what is kept.
        self._segments.left = 0 if kept is None else -kept.raw_length

    # ---- frames

    def cut(self, stream: int) -> None:
        """End the frame of a stream that is being filled, because what follows has other statistics."""
        if (state := self._streams.get(stream)) is not None and state.waiting:
            self._close(stream, state)

    def prefix(self, stream: int, address: int, content: Buffer) -> None:
        """Let the next frame of a stream refer to a source; the frame that is being filled ends.

        Args:
            stream: one that is not continuous.
            address: of the source. All of it exists when the frame's first byte is asked for.
            content: the source's bytes: 8 to the layout's window.
        """
        if not MIN_PREFIX_BYTES <= len(content) <= self._layout.window_bytes or stream in self._layout.continuous:
            raise ValueError("the prefix is too short or too long, or the stream has none")
        self.cut(stream)
        self._stream(stream).prefix = _Prefix(address, bytes(content))

    def referring(self, stream: int, pieces: Iterable[tuple[int, Buffer, Buffer]]) -> None:
        """Make new bytes whose frames each refer to a source.

        Args:
            stream: as of `prefix`.
            pieces: of each frame, which they fill at most: the source's address and bytes, and the bytes to make.
        """
        for address, known, content in pieces:
            self.prefix(stream, address, known)
            self.data(stream, content)

    def sizes(self) -> dict[int, tuple[int, int]]:
        """Return, for each stream, how many bytes went in and how many its closed frames take."""
        return {number: (state.raw, state.written) for number, state in sorted(self._streams.items())}

    def finish(self, sink: BinaryIO) -> Header:
        """Write the patch. No operation can follow."""
        for number, state in self._streams.items():
            if state.waiting:
                self._close(number, state)
        highest = max((self._layout.highest_stream, *self._streams))
        features = self._features | features_for_factors(self._factors)
        header = Header(self._base.as_base(), self._target, self._layout, highest + 1, self._members, features)
        sink.write(write_header(header))
        for frame in self._frames:
            sink.write(frame.written)
            # Not all frames are there twice.
            frame.written = b""
        return header

    # ---- inside

    def _put_elements(self, table: Table, count: int, blocks: Blocks) -> None:
        width, step = table.made_width(self._matrix), table.per_block(self._layout.block_bytes, self._matrix)
        for start, parts in zip(range(0, count, step), blocks, strict=True):
            self._put_all(parts)
            self._made_block(width * min(step, count - start))

    def _put_blocks(self, stream: int, content: Buffer) -> None:
        """Put new bytes; of a member that has segments these stand between them."""
        if self._segments is None:
            self._put(stream, content)
            return
        step = self._layout.block_bytes
        for start in range(0, len(content), step):
            self._put(stream, content[start : start + step])
            self._made_block(min(step, len(content) - start))

    def _made_bytes(self, length: int) -> None:
        for start in range(0, length, self._layout.block_bytes) if self._segments is not None else ():
            self._made_block(min(self._layout.block_bytes, length - start))

    def _made_block(self, length: int) -> None:
        """Put those segments that a decoder reads when it has made so many bytes more of a member."""
        segments = self._segments
        if segments is None:
            return
        segments.left += length
        while segments.length is not None and segments.left >= segments.length:
            segments.left -= segments.length
            self._put_segment(segments)

    def _put_segment(self, segments: _Segments) -> None:
        segment = next(segments.further, None)
        segments.length = None if segment is None else segment.length
        if segment is not None:
            self._work.segment()
            self._put_all((segments.first + stream, part) for stream, part in segment_parts(segment))

    def _operation(self, op: Op, parameter: int, length: int) -> None:
        if length < 1:
            raise ValueError("an operation makes at least one byte")
        if op in (Op.TENSOR, Op.PLANES):
            self._work.elements()
        elif op != Op.DEFLATE:
            self._work.operation()
        self._put(0, varint(op | parameter << 3))
        self._put(self._layout.lengths, varint(length))

    def _predict(self, count: int, step: int, base_bytes: int) -> None:
        """Count what finding and predicting elements costs, block by block as the decoder does."""
        matrix, self._matrix = self._matrix, None
        if matrix is not None:
            for start in range(0, count, step):
                self._work.prediction(matrix, min(step, count - start))
                if matrix.axes is not None:
                    self._work.arranged(base_bytes)

    def _source(self, address: int, length: int) -> None:
        self._put(self._layout.sources, varint(unsigned(address - self._source_end)))
        self._source_end = address + length

    def _name(self, *streams: int | None) -> None:
        """Let streams be there that a definition names, even if nothing comes of them."""
        for stream in streams:
            if stream is not None:
                self._stream(stream)

    def _put_all(self, parts: Iterable[tuple[int, Buffer]]) -> None:
        for stream, content in parts:
            self._put(stream, content)

    def _put(self, number: int, content: Buffer) -> None:
        state = self._stream(number)
        state.raw += len(content)
        if state.frame is not None and len(state.waiting) + len(content) < self._frame_bytes:
            # Nearly always.
            state.waiting += content
            return
        left = memoryview(content)
        while left:
            if state.frame is None:
                state.frame = _Frame()
                self._frames.append(state.frame)
                self._work.frame()
                if state.prefix is not None:
                    self._work.prefix(len(state.prefix.content))
            room = self._frame_bytes - len(state.waiting)
            state.waiting += left[:room]
            left = left[room:]
            if len(state.waiting) == self._frame_bytes:
                self._close(number, state)

    def _stream(self, number: int) -> _Stream:
        state = self._streams.get(number)
        if state is None:
            if not 0 <= number < MAX_STREAMS:
                raise ValueError(f"there are streams 0 to {MAX_STREAMS - 1}")
            state = self._streams[number] = _Stream()
        return state

    def _close(self, number: int, state: _Stream) -> None:
        assert state.frame is not None
        content = bytes(state.waiting)
        if number in self._layout.continuous:
            state.frame.written = self._continued(state, content)
        else:
            by_lzma = number in self._lzma
            make = partial(self._alone, state.prefix, content, by_lzma=by_lzma)
            if self._cache is None or by_lzma:
                frame, feature = make()
            else:
                frame, feature = self._cache.get(content, state.prefix, make)
            state.frame.written = frame
            self._features |= feature
        state.written += len(state.frame.written)
        state.waiting.clear()
        state.frame = None
        state.prefix = None

    def _alone(self, prefix: _Prefix | None, content: bytes, *, by_lzma: bool) -> tuple[bytes, int]:
        """Return the smallest frame of a stream that is not continuous, and the features that it needs."""
        frame = frame_of(content, self._levels)
        feature = 0
        if prefix is not None:
            prefixed = self._prefixed(prefix, content)
            if prefixed is not None and len(prefixed) < len(frame):
                frame, feature = prefixed, FEATURE_PREFIX
        if by_lzma and len(frame) > _LEAST_SAVED:
            payload = packed(content)
            head = frame_head(len(content), Codec.LZMA, len(payload))
            if len(payload) < min(len(content), MAX_PAYLOAD_BYTES + 1) and (
                len(head) + len(payload) + _LEAST_SAVED <= len(frame)
            ):
                frame, feature = head + payload, FEATURE_LZMA
        return frame, feature

    def _prefixed(self, prefix: _Prefix, content: bytes) -> bytes | None:
        """Return the content as a frame with a prefix; None if that is no shorter than the content."""
        frame = with_prefix(content, ZstdDict(prefix.content, is_raw=True).as_prefix, self._levels.thorough)
        blocks = frame[_header_bytes(frame) :]
        if len(blocks) >= len(content):
            return None
        reference = varint(prefix.address) + varint(len(prefix.content))
        return frame_head(len(content), Codec.PREFIXED, len(blocks)) + reference + blocks

    def _continued(self, state: _Stream, content: bytes) -> bytes:
        begins = state.compressor is None
        if state.compressor is None:
            state.compressor = ZstdCompressor(options=_continuous(self._levels.thorough, self._layout.window_log))
        payload = state.compressor.compress(content, ZstdCompressor.FLUSH_BLOCK)
        if begins:
            payload = payload[_header_bytes(payload) :]
        return frame_head(len(content), Codec.ZSTD, len(payload)) + payload
