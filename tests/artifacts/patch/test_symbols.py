"""Members that are deflated symbol by symbol: any stream is parsed, said in segments, and written again."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator

import numpy as np
import pytest

from artifacts.errors import PatchInvalid
from artifacts.patch.bit_sink import BitSink
from artifacts.patch.huffman import codes_of, symbols_of
from artifacts.patch.parse_deflate import Block, Dense, ReadLimits, Unreadable, parsed
from artifacts.patch.repeats import Repeats, candidates_for
from artifacts.patch.segments import segments_of
from artifacts.patch.symbol_deflater import Kept, SymbolDeflater
from artifacts.patch.symbols import (
    MAX_SEGMENT_BYTES,
    NO_RANK,
    SEGMENT_STREAMS,
    Kind,
    Matches,
    Segment,
    read_segment,
    segment_parts,
)
from tests.deflate_streams import DISTANCES, LITERALS, DeflateWriter, inflated, random_tokens

MANY = ReadLimits(1 << 30, 1, 1 << 30)
WORDS = b"deflate and inflate, inflate and deflate; "


def weights(count: int, seed: int = 1, code: str = "<f4") -> bytes:
    return (np.random.default_rng(seed).standard_normal(count) * 0.05).astype(code).tobytes()


def by_zlib(raw: bytes, level: int = 6, memory: int = 8, strategy: int = 0, window: int = 15) -> bytes:
    deflater = zlib.compressobj(level, zlib.DEFLATED, -window, memory, strategy)
    return deflater.compress(raw) + deflater.flush()


def segments(stream: bytes, raw: bytes) -> list[Segment]:
    blocks = parsed(memoryview(stream), memoryview(raw), MANY)
    return [segment for block in blocks for segment in segments_of(block, memoryview(raw))]


def read_again(written: list[Segment]) -> list[Segment]:
    """Return segments as a decoder reads them from the streams of a patch."""
    streams = [bytearray() for _ in range(SEGMENT_STREAMS)]
    for segment in written:
        for stream, part in segment_parts(segment):
            streams[stream] += part

    def take(stream: int, count: int) -> bytes:
        part = bytes(streams[stream][:count])
        assert len(part) == count
        del streams[stream][:count]
        return part

    def number() -> int:
        value = shift = 0
        while True:
            byte = take(0, 1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    begins, read = True, []
    for _ in written:
        read.append(read_segment(number, take, begins=begins))
        begins = read[-1].ends
    assert not any(streams)
    return read


def deflated(
    raw: bytes, stream_length: int, said: list[Segment], piece: int = 10_000, kept: Kept | None = None
) -> bytes:
    left = iter(said)
    deflater = SymbolDeflater(len(raw), stream_length, kept or Kept(), lambda _begins: next(left))
    made = [part for start in range(0, len(raw), piece) for part in deflater.take(raw[start : start + piece])]
    made.append(deflater.end())
    assert deflater.raw_left == 0
    assert next(left, None) is None
    return b"".join(made)


def assert_comes_back(stream: bytes, piece: int = 10_000) -> list[Segment]:
    raw = zlib.decompress(stream, -15)
    said = read_again(segments(stream, raw))
    assert deflated(raw, len(stream), said, piece) == stream
    return said


# ---- any stream comes back


@pytest.mark.parametrize("raw", [weights(40_000), weights(80_000, 2, "<f2"), WORDS * 3000, b"x", bytes(200_000)])
@pytest.mark.parametrize(
    "setting", [(6,), (9,), (1,), (3,), (0,), (6, 9), (6, 1), (6, 8, 1), (6, 8, 2), (6, 8, 3), (6, 8, 4), (6, 8, 0, 9)]
)
def test_what_zlib_deflates_comes_back(raw: bytes, setting: tuple[int, ...]) -> None:
    assert_comes_back(by_zlib(raw, *setting))


def test_what_zlib_flushes_in_between_comes_back() -> None:
    deflater = zlib.compressobj(6, zlib.DEFLATED, -15)
    stream = b""
    for seed, flush in enumerate((zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH, zlib.Z_PARTIAL_FLUSH, zlib.Z_BLOCK)):
        stream += deflater.compress(weights(3000, seed)) + deflater.flush(flush)
    said = assert_comes_back(stream + deflater.flush())
    assert any(segment.length == 0 for segment in said)


@pytest.mark.parametrize("seed", range(25))
def test_streams_that_no_deflater_writes_come_back(seed: int) -> None:
    randomly = random.Random(seed)
    writer, raw = DeflateWriter(), b""
    count = randomly.randint(1, 6)
    for number in range(count):
        last = number == count - 1
        kind = randomly.choice(("stored", "fixed", "own", "own", "spelled"))
        if kind == "stored":
            content = randomly.randbytes(randomly.choice((0, 1, 500, 65535)))
            writer.stored(content, last=last)
            raw += content
            continue
        tokens = random_tokens(
            randomly, randomly.choice((0, 3, 2000)), len(raw), randomly.choice((2, 20)), 3 + 50 * number
        )
        if kind == "fixed":
            writer.fixed(tokens, last=last)
        elif kind == "own":
            writer.own(tokens, last=last)
        else:
            runs = [
                (8, 0),
                *[(16, 3)] * 37,
                (8, 0),
                (8, 0),
                (8, 0),
                (9, 0),
                *[(16, 3)] * 9,
                *[(9, 0)] * 5,
                (4, 0),
                (4, 0),
            ]
            writer.own(tokens, symbols=[*runs, (5, 0), *[(16, 3)] * 4, *[(5, 0)] * 3], last=last)
        raw += inflated(tokens, raw)
    stream = writer.done()
    assert zlib.decompress(stream, -15) == raw
    assert_comes_back(stream, randomly.choice((1000, 7, 200_000)) if raw else 1) if raw else None


def test_a_long_block_is_several_segments() -> None:
    said = assert_comes_back(by_zlib(bytes(300_000)))
    assert [segment.kind for segment in said].count(Kind.GOES_ON) >= 9
    assert max(segment.length for segment in said) <= MAX_SEGMENT_BYTES


def test_the_pieces_in_which_bytes_come_make_no_difference() -> None:
    stream = by_zlib(weights(30_000) + WORDS * 50)
    for piece in (1, 333, 1 << 17, 1 << 20):
        assert_comes_back(stream, piece)


def test_a_match_may_be_of_a_farther_place_with_the_same_bytes() -> None:
    writer = DeflateWriter()
    tokens = [*b"abcX", *b"abcY", *b"abcZ", (3, 4), *b"-", (3, 12), *b"-", (4, 20)]
    writer.own(tokens, last=True)
    said = assert_comes_back(writer.done())
    assert said[0].matches is not None
    assert list(said[0].matches.ranks) == [0, 2, 4]


def test_few_bytes_are_said_of_weights() -> None:
    for code, share in (("<f4", 0.007), ("<f2", 0.0085)):
        raw = weights(1 << 19, 3, code)
        said = sum(len(zlib.compress(part, 9)) for part in _joined(segments(by_zlib(raw), raw)))
        assert said < share * len(raw)


def _joined(said: list[Segment]) -> Iterator[bytes]:
    for stream in range(SEGMENT_STREAMS):
        yield b"".join(part for segment in said for number, part in segment_parts(segment) if number == stream)


def test_a_beginning_that_is_kept_is_not_written_again() -> None:
    raw = weights(30_000)
    stream = by_zlib(raw)
    blocks = list(parsed(memoryview(stream), memoryview(raw), MANY))
    third: Block = blocks[3]
    said = [segment for block in blocks[3:] for segment in segments_of(block, memoryview(raw))]
    whole, rest = divmod(third.bit, 8)
    made = deflated(raw, len(stream) - whole, said, kept=Kept(third.start, stream[whole], rest))
    assert stream[:whole] + made == stream


# ---- what is no stream, or not said


def damaged() -> Iterator[tuple[str, bytes, bytes]]:
    raw = weights(5000)
    stream = by_zlib(raw)
    yield "cut off", stream[:-9], raw
    yield "cut off within a stored block", by_zlib(raw, 0)[:-9], raw
    yield "something follows", stream + b"\0", raw
    yield "other bytes", stream, raw[:-1] + bytes([raw[-1] ^ 1])
    yield "fewer bytes", stream, raw[:-1]
    yield "more bytes", stream, raw + b"\0"
    yield "a block of no kind", b"\x07", b""
    yield "nothing", b"", b""
    writer = DeflateWriter()
    writer.fixed([1, 2, (3, 2)], last=True)
    yield "bits that mean nothing", bytes([*writer.done()[:-1], writer.done()[-1] | 0x80]), bytes([1, 2, 1, 2, 1])
    writer = DeflateWriter()
    writer.fixed([1, (3, 2)], last=True)
    yield "a match of what is not there", writer.done(), bytes([1, 1, 1, 1])
    writer = DeflateWriter()
    writer.own([1], [1] * 3 + [0] * 253 + [1], [0], last=True)
    yield "too many codes", writer.done(), b"\1"
    writer = DeflateWriter()
    writer.own([1], symbols=[(16, 0)] * 90, last=True)
    yield "a run of nothing", writer.done(), b"\1"
    writer = DeflateWriter()
    writer.own([1], symbols=[(18, 127)] * 3, last=True)
    yield "more code lengths than symbols", writer.done(), b"\1"


@pytest.mark.parametrize(
    ("stream", "raw"), [(each[1], each[2]) for each in damaged()], ids=[each[0] for each in damaged()]
)
def test_what_is_no_stream_is_not_read(stream: bytes, raw: bytes) -> None:
    with pytest.raises(Unreadable):
        segments(stream, raw)


def test_a_stream_with_any_bit_flipped_is_not_read_or_comes_back() -> None:
    raw = weights(400) + WORDS * 4
    stream = by_zlib(raw, 6, 1)
    for place in range(8 * len(stream)):
        other = bytearray(stream)
        other[place >> 3] ^= 1 << (place & 7)
        try:
            said = segments(bytes(other), raw)
        except Unreadable:
            continue
        assert deflated(raw, len(other), read_again(said)) == bytes(other)


def test_of_a_stream_with_many_matches_only_so_many_are_read() -> None:
    raw = random.Random(1).randbytes(3000) * 2 + bytes(random.Random(2).choices(b"abcdefg", k=20_000))
    stream = by_zlib(raw)
    with pytest.raises(Dense) as caught:
        list(parsed(memoryview(stream), memoryview(raw), ReadLimits(20, 100)))
    assert 40 < caught.value.matches < 200


def test_of_a_stream_with_many_blocks_only_so_many_are_read() -> None:
    writer = DeflateWriter()
    for _ in range(300):
        writer.fixed([])
    writer.fixed([1], last=True)
    with pytest.raises(Dense):
        list(parsed(memoryview(writer.done()), memoryview(b"\1"), ReadLimits(10, 10)))


def test_segments_that_cannot_be_right_are_refused() -> None:
    raw = bytes(range(100))
    good = Segment(Kind.FIXED, 100, True, True, Matches())
    far = Matches(b"\x0a", b"\0", bytes([NO_RANK]), b"\x0f\x00")
    nothing = Matches(b"\x0a", b"\0", b"\0")
    behind = Matches(b"\x62", b"\0", bytes([NO_RANK]), b"\0\0")
    wide = Matches(b"\x0a", b"\0", bytes([NO_RANK]), b"\xff\xff")
    for said in (
        [Segment(Kind.FIXED, 99, True, True, Matches())],
        [Segment(Kind.FIXED, 100, True, True, far)],
        [Segment(Kind.FIXED, 100, True, True, nothing)],
        [Segment(Kind.FIXED, 100, True, True, behind)],
        [Segment(Kind.FIXED, 100, True, True, wide)],
        [Segment(Kind.FIXED, 101, True, True, Matches())],
        [Segment(Kind.STORED, 100, True)],
    ):
        with pytest.raises(PatchInvalid):
            deflated(raw, 102, said)
    assert len(deflated(raw, 102, [good])) == 102


# ---- the parts


@pytest.mark.parametrize("seed", range(10))
def test_bits_are_packed_as_they_are_counted(seed: int) -> None:
    randomly = random.Random(seed)
    first, used = randomly.randrange(256), randomly.randrange(8)
    sink, value, bits, made = BitSink(first, used), first & (1 << used) - 1, used, b""
    for _ in range(4):
        lengths = [randomly.choice((0, 1, 7, 8, 15, 16)) for _ in range(4 * randomly.randint(1, 300))]
        codes = [randomly.getrandbits(length) if length else 0 for length in lengths]
        for code, length in zip(codes, lengths, strict=True):
            value |= code << bits
            bits += length
        made += sink.put(np.array(codes, np.uint16), np.array(lengths, np.uint8))
        assert len(made) == bits // 8
    made += sink.pad()
    assert made == value.to_bytes(-(-bits // 8), "little")
    assert sink.pad() == b""


def test_codes_are_canonical() -> None:
    # The example of RFC 1951, 3.2.2, with the bits of each code in reverse.
    lengths = np.array([[3, 3, 3, 3, 3, 2, 4, 4], [0, 1, 0, 0, 0, 0, 2, 2]], np.uint8)
    found = codes_of(lengths)
    assert [f"{code:0{length}b}"[::-1] for code, length in zip(found[0], lengths[0], strict=True)] == [
        "010", "011", "100", "101", "110", "00", "1110", "1111",
    ]  # fmt: skip
    assert found[1].tolist() == [0, 0, 0, 0, 0, 0, 1, 3]
    with pytest.raises(ValueError, match="more symbols"):
        codes_of(np.array([[1, 1, 15]], np.uint8))


def test_code_lengths_are_written_as_zlib_does() -> None:
    side = [0] * 150 + [5] + [7] * 8 + [0, 0] + [3, 3, 3] + [0] * 10 + [4] * 3
    symbols, added, starts = symbols_of(np.array([*side, *side[-3:]], np.uint8), [0, len(side)])
    expected = [(18, 127), (18, 1), (5, 0), (7, 0), (16, 3), (7, 0), (0, 0), (0, 0), (3, 0), (3, 0), (3, 0), (17, 7)]
    expected += [(4, 0)] * 6
    assert list(zip(symbols.tolist(), added.tolist(), strict=True)) == expected
    assert starts.tolist() == [0, len(expected) - 3]
    assert len(LITERALS) + len(DISTANCES) == 316


@pytest.mark.parametrize("letters", [2, 20, 256])
def test_repeats_are_found_wherever_they_are(letters: int) -> None:
    randomly = random.Random(letters)
    content = bytes(randomly.randrange(letters) for _ in range(3000))
    places = np.array(sorted(randomly.sample(range(2997), 400)))
    repeats = Repeats(content, places, candidates_for(content, places))
    ranks = np.array([randomly.randrange(4) for _ in places], np.uint8)
    for place, rank, distance in zip(places.tolist(), ranks.tolist(), repeats.distances(ranks).tolist(), strict=True):
        pattern = content[place : place + 3]
        near = [away for away in range(1, place + 1) if content[place - away : place - away + 3] == pattern]
        assert distance == (near[rank] if rank < len(near) else 0)
    found = repeats.distances(np.zeros(len(places), np.uint8))
    has_one = found > 0
    assert not repeats.ranks(found)[has_one].any()
