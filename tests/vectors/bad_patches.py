"""Patches that no decoder may take, written by hand: each has one fault."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import backports.zstd

from artifacts.patch.format import Codec, Op, frame_head, unsigned, varint
from artifacts.patch.lzma_frames import packed
from tests.deflate_streams import DeflateWriter
from tests.patches import deflated, side

BASE = b"0123456789" * 10


@dataclass
class Hand:
    """A patch written by hand: the numbers of its header, and frames of stream 0."""

    target: bytes = BASE[:20]
    magic: bytes = b"\x93SKP"
    version: int = 1
    features: int = 0
    base_length: int = len(BASE)
    target_length: int = 20
    sizes: int = 0
    window_log: int = 0
    streams: int = 1
    continuous: int = 0
    lengths: int = 0
    sources: int = 0
    members: tuple[tuple[int, int, int], ...] = ()

    def header(self) -> bytes:
        """Return the header; members have their addresses relative to the end of the one before, as written."""
        numbers = [self.base_length, self.target_length, self.sizes, self.window_log, self.streams, self.continuous]
        numbers += [
            self.lengths,
            self.sources,
            len(self.members),
            *(number for each in self.members for number in each),
        ]
        start = self.magic + bytes([self.version, self.features]) + b"".join(map(varint, numbers))
        return start + bytes.fromhex(side(BASE).as_base().sha256) + bytes.fromhex(side(self.target).sha256)

    def patch(self, *numbers: int, frames: bytes | None = None, behind: bytes = b"") -> bytes:
        """Return the patch with operations in one stored frame, or with other frames."""
        return self.header() + (stored(*numbers) if frames is None else frames) + behind


def stored(*numbers: int) -> bytes:
    """Return a stored frame of varints."""
    content = b"".join(map(varint, numbers))
    return frame_head(len(content), Codec.STORED) + content


def zstd(content: bytes, length: int, start: bytes = b"") -> bytes:
    """Return a compressed frame that says it has ``length`` bytes."""
    blocks = backports.zstd.compress(content, options={201: 0, 200: 0})[6:]
    return frame_head(length, Codec.ZSTD, len(start + blocks)) + start + blocks


# An operation that makes the whole target.
ALL = (Op.COPY, 20, 0)
# Differences of bytes, one class.
TABLE = (Op.TABLE, 1 << 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 256)


def refused() -> Iterator[tuple[str, bytes]]:
    """Yield what is wrong and a patch of which that is all that is wrong."""
    yield from bad_headers()
    yield from bad_frames()
    yield from bad_operations()


def bad_headers() -> Iterator[tuple[str, bytes]]:
    good = Hand().patch(*ALL)
    yield "no patch", b""
    yield "another magic number", Hand(magic=b"\x93SKQ").patch(*ALL)
    yield "version 2", Hand(version=2).patch(*ALL)
    yield "an unknown feature", Hand(features=128).patch(*ALL)
    yield "a header that is cut off", Hand().header()[:-1]
    yield "a number with a byte that it does not need", good[:6] + b"\xe4\x00" + good[7:]
    yield "a number of 64 bits", good[:6] + b"\xff" * 9 + b"\x01" + good[7:]
    yield "another base", good.replace(bytes.fromhex(side(BASE).as_base().sha256), bytes(16))
    yield "a base of another length", Hand(base_length=99).patch(*ALL)
    yield "a base of more than 2^40 bytes", Hand(base_length=(1 << 40) + 1).patch(*ALL)
    yield "a target of 2^63 - 1 bytes", Hand(target_length=(1 << 63) - 1).patch(*ALL)
    yield "blocks of 512 KiB", Hand(sizes=7).patch(*ALL)
    yield "frames of 512 KiB", Hand(sizes=7 << 3).patch(*ALL)
    yield "a window of 4 GiB", Hand(window_log=32).patch(*ALL)
    yield "a window of 512 bytes", Hand(window_log=9).patch(*ALL)
    yield "more than 2^18 factors", Hand(features=8 << 4).patch(*ALL)
    yield "no stream", Hand(streams=0).patch(*ALL)
    yield "65 streams", Hand(streams=65).patch(*ALL)
    yield "more memory than 8 MiB: 64 frames of 256 KiB", Hand(streams=64, sizes=6 << 3).patch(*ALL)
    yield "a continuous stream without a window", Hand(continuous=1).patch(*ALL)
    yield "five continuous streams", Hand(continuous=31, streams=5, window_log=10).patch(*ALL)
    yield "a continuous stream that is not there", Hand(continuous=2, window_log=10).patch(*ALL)
    yield "lengths in a stream that is not there", Hand(lengths=1).patch(*ALL)
    yield "sources in a stream that is not there", Hand(sources=1).patch(*ALL)
    yield "prefixes without a window", Hand(features=2).patch(*ALL)
    yield "a member outside of the base", Hand(members=((180, 11, 5),)).patch(*ALL)
    yield "a member before the base", Hand(members=((1, 5, 5),)).patch(*ALL)
    yield "a member without bytes", Hand(members=((0, 0, 5),)).patch(*ALL)
    yield "a member that inflates to nothing", Hand(members=((0, 5, 0),)).patch(*ALL)
    yield "a member that inflates to more than deflate can hold", Hand(members=((0, 5, 6000),)).patch(*ALL)
    yield (
        "members of more than 16 times the base and 16 MiB",
        Hand(base_length=1 << 20, members=((0, 1 << 20, 33 << 20),)).patch(*ALL),
    )
    yield "a member that is not deflated", Hand(members=((0, 5, 50),)).patch(*ALL)
    yield "more than 4096 members", Hand(members=((0, 1, 1),) * 4097).patch(*ALL)


def bad_frames() -> Iterator[tuple[str, bytes]]:
    hand = Hand(sizes=0)
    operations = b"".join(map(varint, (Op.DATA, 20))) + hand.target
    packed = bytes([Op.DATA, 20]) + b"\0" * 20
    yield "no frame", hand.header()
    yield "a frame without bytes", hand.patch(frames=frame_head(0, Codec.STORED) + stored(*ALL))
    yield "a frame longer than the header allows", hand.patch(frames=frame_head(4097, Codec.STORED) + bytes(4097))
    yield "a stored frame with a length of its payload", hand.patch(frames=frame_head(3, Codec.STORED, 3) + bytes(ALL))
    yield "a repeated byte above 255", hand.patch(frames=frame_head(3, Codec.REPEATED, 256))
    yield "a frame that is cut off", hand.patch(frames=stored(*ALL)[:-1])
    yield "a compressed frame that is not zstd", hand.patch(frames=frame_head(22, Codec.ZSTD, 9) + b"\xff" * 9)
    yield "a compressed frame without a payload", hand.patch(frames=frame_head(22, Codec.ZSTD, 0))
    yield (
        "a compressed frame as long as its content",
        hand.patch(frames=frame_head(22, Codec.ZSTD, 25) + b"\xb1\0\0" + operations),
    )
    yield "a compressed frame of fewer bytes than it says", hand.patch(frames=zstd(packed, 23))
    yield "a compressed frame of more bytes than it says", hand.patch(frames=zstd(packed + bytes(99), 22))
    yield (
        "a compressed frame of a gigabyte that says it has 22",
        hand.patch(frames=frame_head(22, Codec.ZSTD, 21) + b"\xfa\xff\x0f\0" * 5 + b"\x01"),
    )
    yield (
        "a compressed frame and something behind it",
        hand.patch(frames=frame_head(22, Codec.ZSTD, len(zstd(packed, 22)) - 1) + zstd(packed, 22)[2:] + b"?"),
    )
    yield (
        "a prefix that the features do not name",
        hand.patch(frames=frame_head(22, Codec.PREFIXED, 9) + b"\0\x08" + bytes(9)),
    )
    prefixed = Hand(features=2, window_log=10)
    for why, address, length in (
        ("a prefix outside of the base", 93, 8),
        ("a prefix longer than the window", 0, 1025),
        ("a prefix of 7 bytes", 0, 7),
    ):
        start = varint(address) + varint(length)
        yield why, prefixed.patch(frames=frame_head(22, Codec.PREFIXED, 9) + start + zstd(packed, 22)[2:])
    yield from bad_lzma()
    flowing = Hand(continuous=1, window_log=10)
    yield "a stored frame in a continuous stream", flowing.patch(*ALL)
    yield "a continuous stream that ends", flowing.patch(frames=zstd(bytes(ALL), 3))


def bad_lzma() -> Iterator[tuple[str, bytes]]:
    content = bytes([Op.DATA, 20]) + b"\0" * 20
    payload = packed(content)
    by_lzma = Hand(features=4)
    right = frame_head(22, Codec.LZMA, len(payload)) + payload
    yield "a frame by LZMA that the features do not name", Hand().patch(frames=right)
    yield "a frame by LZMA of fewer bytes than it says", by_lzma.patch(frames=lzma_frame(payload, 23))
    yield "a frame by LZMA of more bytes than it says", by_lzma.patch(frames=lzma_frame(payload, 21))
    yield "a frame by LZMA that is cut off", by_lzma.patch(frames=right[:-1])
    yield "a frame by LZMA with a byte less", by_lzma.patch(frames=lzma_frame(payload[:-1], 22))
    yield "a frame by LZMA with a byte more", by_lzma.patch(frames=lzma_frame(payload + b"\0", 22))
    yield "a frame by LZMA of properties alone", by_lzma.patch(frames=lzma_frame(payload[:1], 22))
    yield "a frame by LZMA as long as its content", by_lzma.patch(frames=lzma_frame(payload + bytes(22), 22))
    for why, properties in (("lc + lp = 5", 9 + 4), ("pb = 5", 5 * 45), ("unknown properties", 255)):
        yield f"a frame by LZMA with {why}", by_lzma.patch(frames=lzma_frame(bytes([properties]) + payload[1:], 22))
    long = Hand(features=4, sizes=6 << 3)
    yield (
        "a frame by LZMA with more than 64 KiB",
        long.patch(frames=frame_head(1 << 18, Codec.LZMA, (1 << 16) + 1) + bytes((1 << 16) + 1)),
    )
    flowing = Hand(features=4, continuous=1, window_log=10)
    yield "a frame by LZMA in a continuous stream", flowing.patch(frames=right)


def lzma_frame(payload: bytes, length: int) -> bytes:
    return frame_head(length, Codec.LZMA, len(payload)) + payload


def bad_operations() -> Iterator[tuple[str, bytes]]:
    hand = Hand()
    yield "another target", Hand(target=b"another target of 20").patch(*ALL)
    yield "no operation", hand.header()
    yield "an end before the target's", hand.patch(Op.COPY, 19, 0)
    yield "bytes behind the last frame", hand.patch(*ALL, behind=b"\0")
    yield "a frame behind the last operation", hand.patch(*ALL, behind=stored(*ALL))
    yield "an operation behind the end", hand.patch(*ALL, *ALL)
    yield "an operation that makes nothing", hand.patch(Op.COPY, 0, 0, *ALL)
    yield "an operation that makes more than the target", hand.patch(Op.COPY, 21, 0)
    yield "an operation that makes 2^63 - 1 bytes", hand.patch(Op.COPY, (1 << 63) - 1, 0)
    yield "a copy with a parameter", hand.patch(Op.COPY | 1 << 3, 20, 0)
    yield "a source before the base", hand.patch(Op.COPY, 20, 1)
    yield "a source behind the base", hand.patch(Op.COPY, 20, unsigned(81))
    yield "a source at 2^62", hand.patch(Op.COPY, 20, (1 << 63) - 2)
    yield "a source that is being made", hand.patch(Op.COPY, 10, 0, Op.COPY, 10, unsigned(100 - 10 + 5))
    yield "bytes of a stream that is not there", hand.patch(Op.DATA | 1 << 3, 20)
    yield "differences of a stream that is not there", hand.patch(Op.ADD | 9 << 3, 20, 0)
    yield "a table that is not there", hand.patch(Op.TENSOR, 20, 0)
    yield "elements without a base by a table for differences", hand.patch(*TABLE, Op.PLANES, 20, *range(20))
    yield "table 64", hand.patch(Op.TABLE | 64 << 3, *TABLE[1:], *ALL)
    yield from bad_tables(hand)
    yield "a deflated member that the features do not name", hand.patch(Op.DEFLATE, 20, 20, 0xF086, *ALL)
    yield from bad_members(Hand(features=1))
    yield from bad_symbols()
    yield from bad_matrices(Hand(features=1 << 4))


def bad_tables(hand: Hand) -> Iterator[tuple[str, bytes]]:
    # Kind, shift, offset, zeros, origin, escapes, number of classes; low bits and symbols of each; the map of levels.
    for why, definition in (
        ("a table with unknown bits in its kind", (1 << 4 | 1 << 11, 0, 0, 0, 0, 0, 1, 0, 0, 0, 256)),
        ("a table with an unknown difference", (3 << 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 256)),
        ("a table of an unknown number", (1 << 4 | 3 << 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 256)),
        ("a table with an unknown base", (1 << 4 | 1 << 2 | 5 << 8 | 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 256)),
        ("a table of plain numbers with a base of floats", (1 << 4 | 1 << 8 | 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 256)),
        ("a table of floats of one byte", (1 << 4 | 1 << 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 256)),
        ("a table whose context lies outside of the element", (1 << 4, 8, 0, 0, 0, 0, 1, 0, 0, 0, 256)),
        ("a table of plain numbers with an offset", (1 << 4, 0, 1, 0, 0, 0, 1, 0, 0, 0, 256)),
        ("a table whose elements are all zeros", (1 << 4, 0, 0, 8, 0, 0, 1, 0, 0, 0, 256)),
        ("a table of differences with an origin", (1 << 4 | 1 << 2 | 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 256)),
        ("a table with escapes in a stream that is not there", (1 << 4, 0, 0, 0, 0, 1, 1, 0, 0, 0, 256)),
        ("a table without classes", (1 << 4, 0, 0, 0, 0, 0, 0, 0, 256)),
        ("a table of 33 classes", (1 << 4, 0, 0, 0, 0, 0, 33, *(0, 0) * 33, 0, 256)),
        ("a class with as many low bits as the element", (1 << 4, 0, 0, 0, 0, 0, 1, 8, 0, 0, 0, 256)),
        ("a class with 64 low bits", (1 << 4 | 3, 0, 0, 0, 0, 0, 1, 64, *(0,) * 9, 0, 256)),
        ("a class with an unknown mask", (1 << 4, 0, 0, 0, 0, 0, 1, 4 << 7, 0, 0, 256)),
        ("a class with symbols in a stream that is not there", (1 << 4, 0, 0, 0, 0, 0, 1, 0, 1, 0, 256)),
        ("a map of levels that names a class that is not there", (1 << 4, 0, 0, 0, 0, 0, 1, 0, 0, 1, 256)),
        ("a map of levels that is too long", (1 << 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 257)),
        ("a map of levels with an empty run", (1 << 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 256)),
    ):
        yield why, hand.patch(Op.TABLE, *definition, *ALL)


def bad_members(hand: Hand) -> Iterator[tuple[str, bytes]]:
    made = deflated(BASE[:50])
    # Level 6, memory level 8, strategy 0, window of 2^15 bytes.
    usual = 6 | 8 << 4 | 15 << 12
    for why, numbers in (
        ("a deflated member that is longer than the target", (50, 21, usual)),
        ("a deflated member without bytes", (50, 0, usual)),
        ("a deflated member of nothing", (0, 20, usual)),
        ("a deflated member of 2^40 bytes", (1 << 40, 20, usual)),
        ("a deflated member of level 0", (50, 20, usual - 6)),
        ("a deflated member of level 10", (50, 20, usual + 4)),
        ("a deflated member of memory level 0", (50, 20, usual & ~(15 << 4))),
        ("a deflated member of strategy 5", (50, 20, usual | 5 << 8)),
        ("a deflated member with a window of 2^8 bytes", (50, 20, usual & 0xFFF | 8 << 12)),
        ("a deflated member with unknown bits", (50, 20, usual | 1 << 16)),
        ("a deflated member of fewer bytes than it says", (50, 20, usual)),
    ):
        yield why, hand.patch(Op.DEFLATE, *numbers, Op.COPY, 50, 0)
    yield (
        "a deflated member of more bytes than it says",
        hand.patch(Op.DEFLATE, 50, len(made) - 1, usual, Op.COPY, 50, 0),
    )
    yield (
        "a deflated member in another",
        hand.patch(Op.DEFLATE, 50, 20, usual, Op.DEFLATE, 50, 20, usual, Op.COPY, 50, 0),
    )
    yield (
        "an operation across the end of a deflated member",
        hand.patch(Op.DEFLATE, 50, len(made), usual, Op.COPY, 51, 0),
    )


# Eighteen literals by fixed codes make the twenty bytes of the target.
RAW = BASE[:18]
BY_SYMBOLS = Op.DEFLATE | 1 << 3
MEMBER = (BY_SYMBOLS, 18, 20, 1, 0, Op.COPY, 18, 0)
FIXED, OWN, LAST, ENDS = 2, 3, 4, 8
WHOLE = FIXED | LAST | ENDS


def by_symbols(*segments: tuple[int, ...], streams: tuple[bytes, ...] = (), member: tuple[int, ...] = MEMBER) -> bytes:
    """Return the frames of a member: its operations, the numbers of segments, and what else these take."""
    numbers = b"".join(varint(number) for segment in segments for number in segment)
    contents = [numbers, *streams]
    return stored(*member) + b"".join(
        frame_head(len(content), Codec.STORED) + content for content in contents if content
    )


def bad_symbols() -> Iterator[tuple[str, bytes]]:
    writer = DeflateWriter()
    writer.fixed(RAW, last=True)
    target = writer.done()
    assert len(target) == 20
    hand = Hand(target, features=8, streams=7)
    whole = by_symbols((WHOLE, 18, 0))
    yield "symbols that the features do not name", Hand(target, streams=7).patch(frames=whole)
    yield "a way to deflate that is unknown", hand.patch(frames=stored(Op.DEFLATE | 2 << 3, *MEMBER[1:]))
    yield "symbols in streams that are not there", Hand(target, features=8, streams=6).patch(frames=whole)
    for why, numbers in (
        ("a member that keeps more than it has", (19, 8, 0)),
        ("a member that keeps no bits", (1, 0, 0)),
        ("a member that keeps more bits than it has", (1, 161, 0)),
        ("a member that keeps bits that are not there", (1, 9, 99)),
    ):
        member = (*MEMBER[:4], *numbers, *MEMBER[5:])
        yield why, hand.patch(frames=by_symbols((WHOLE, 17, 0), member=member))
    for why, segments in (
        ("a first segment that goes on", ((LAST | ENDS, 18, 0),)),
        ("a segment that goes on behind the end of a block", ((FIXED | ENDS, 9, 0), (ENDS, 9, 0))),
        ("a block that begins in another", ((FIXED, 9, 0), (WHOLE, 9, 0))),
        ("a segment with unknown bits", ((WHOLE | 16, 18, 0),)),
        ("a segment that goes on and is the last", ((FIXED | LAST, 9, 0), (LAST | ENDS, 9, 0))),
        ("a segment of 32769 bytes", ((WHOLE, 32769, 0),)),
        ("a segment that is longer than its member", ((WHOLE, 19, 0),)),
        ("segments that are shorter than their member", ((WHOLE, 17, 0),)),
        ("a segment with more gaps than bytes", ((WHOLE, 18, 19),)),
        ("a segment of 4097 gaps", ((WHOLE, 32768, 4097),)),
        ("a stored block of 65536 bytes", ((1 | LAST | ENDS, 65536),)),
        ("a stored block that does not end", ((1 | LAST, 18),)),
        ("a stored block that makes more than its member", ((1 | LAST | ENDS, 18),)),
        ("a block with codes for 287 literals and lengths", ((OWN | LAST | ENDS, 18, 0, 30 << 1),)),
        ("a block with codes for 31 distances", ((OWN | LAST | ENDS, 18, 0, 30 << 6),)),
        ("a block with 20 codes for code lengths", ((OWN | LAST | ENDS, 18, 0, 16 << 11),)),
        ("a block with more symbols than code lengths", ((OWN | LAST | ENDS, 18, 0, 1, 259),)),
    ):
        yield why, hand.patch(frames=by_symbols(*segments))
    yield "a segment behind the last one", hand.patch(frames=by_symbols((WHOLE, 18, 0), (WHOLE, 18, 0)))
    for why, matches in (
        ("a match that ends behind its segment", (b"\x10", b"\0", b"\xff", b"\x09\0")),
        ("a match of three bytes that are nowhere", (b"\x05", b"\0", b"\0")),
        ("a match of a place that is not there a second time", (b"\x0a", b"\0", b"\1")),
        ("a match of a place before the member", (b"\x05", b"\0", b"\xff", b"\x05\0")),
        ("a match of 32769 bytes before it", (b"\x0a", b"\0", b"\xff", b"\0\x80")),
    ):
        yield why, hand.patch(frames=by_symbols((WHOLE, 18, 1), streams=matches))
    usual = bytes(129) + b"\1" * 4
    for why, number, codes in (
        ("a code for code lengths of 8 bits", 0, bytes(129) + b"\x08" * 4),
        ("codes of which there are too many", 0, b"\x55" * 129 + b"\1" * 4),
        ("codes for code lengths of which there are too many", 0, usual),
        ("a symbol for code lengths that is none", 1, bytes(133) + b"\x13"),
        ("a run of code lengths that is too long", 1, bytes(133) + b"\x10\x04"),
    ):
        said = (OWN | LAST | ENDS, 18, 0, number, *([1] if number else []))
        yield why, hand.patch(frames=by_symbols(said, streams=(codes,)))


def bad_matrices(hand: Hand) -> Iterator[tuple[str, bytes]]:
    tensor = (Op.TENSOR, 20, 0, *bytes(20))
    # Rows, columns, level, whether there are levels of rows and columns, rank; their stream; table and exponent.
    for why, definition in (
        ("a matrix without rows", (0, 5, 0, 0, 0)),
        ("a matrix of 65537 columns with levels", (1, 65537, 0, 1, 0, 0)),
        ("a matrix of an unknown kind", (4, 5, 0, 32, 0)),
        ("a matrix of one dimension", (4, 5, 0, 16, 0, 1, 20, 0)),
        ("a matrix of six dimensions", (4, 5, 0, 16, 0, 6, 1, 1, 1, 1, 4, 5, 0, 1, 2, 3, 4, 5)),
        ("a matrix with a dimension twice", (4, 5, 0, 16, 0, 2, 4, 5, 1, 1)),
        ("a matrix with a dimension of 0", (4, 5, 0, 16, 0, 3, 0, 4, 5, 0, 1, 2)),
        ("dimensions of another number of elements", (4, 5, 0, 16, 0, 2, 4, 4, 1, 0)),
        ("a matrix with gains in a stream that is not there", (4, 5, 0, 2, 0, 1)),
        ("a matrix with units in a stream that is not there", (4, 5, 0, 8, 0, 1)),
        ("a matrix with 16385 units", (16385, 1, 0, 8, 0, 0)),
        ("a matrix with too high a level", (4, 5, 512, 0, 0)),
        ("a matrix with levels in a stream that is not there", (4, 5, 0, 1, 0, 1)),
        ("a matrix of rank 129", (4, 5, 0, 0, 129, 0, 0, 0)),
        ("a matrix of more than 2^18 factors", (65536, 1, 0, 0, 4, 0, 0, 0)),
        ("a matrix with an exponent of 65", (4, 5, 0, 0, 1, 0, 0, unsigned(65))),
        ("a matrix with components in a stream that is not there", (4, 5, 0, 0, 1, 1, 0, 0)),
        ("a matrix with factors of a table that is not there", (4, 5, 0, 0, 1, 0, 3, 0)),
        ("a matrix with factors of a table for differences", (4, 5, 0, 0, 1, 0, 0, 0)),
        ("a matrix with another number of elements", (4, 4, 0, 0, 0)),
    ):
        yield why, hand.patch(*TABLE, Op.MATRIX, *definition, *tensor)
    planes = (Op.TABLE | 1 << 3, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 256)
    yield (
        "factors before elements without a base",
        hand.patch(*planes, Op.MATRIX, 4, 5, 0, 0, 1, 0, 1, 0, *bytes(3 + 9), Op.PLANES | 1 << 3, 20, *bytes(20)),
    )
    yield (
        "axes before elements without a base",
        hand.patch(*planes, Op.MATRIX, 4, 5, 0, 16, 0, 2, 4, 5, 1, 0, Op.PLANES | 1 << 3, 20, *bytes(20)),
    )
    # Whole numbers of 4 bytes.
    wide = (Op.TABLE, 1 << 4 | 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 256)
    of_five = (Op.TENSOR, 5, 0, *bytes(5))
    yield (
        "gains before plain numbers of 4 bytes",
        hand.patch(*wide, Op.MATRIX, 1, 5, 0, 2, 0, 0, *bytes(4), *of_five),
    )
    floats = (Op.TABLE, 1 << 4 | 1 << 2 | 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 256)
    # The last number is the bytes 80 7f.
    infinite = (0, 0, 0x7F << 7)
    yield (
        "a gain that is infinite",
        hand.patch(*floats, Op.MATRIX, 1, 5, 0, 2, 0, 0, *infinite, Op.TENSOR, 5, 0, *bytes(5), Op.COPY, 10, 0),
    )
    in_units = (Op.MATRIX, 1, 5, 0, 8, 0, 0)
    yield "units before plain numbers of a byte", hand.patch(*TABLE, *in_units, *bytes(4), *of_five)
    yield "units before a base of halves", hand.patch(*floats, *in_units, *bytes(4), *of_five)
    fresh = (Op.TABLE, 1 << 2 | 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 256)
    halves = (Op.PLANES, 5, *bytes(5))
    yield "a unit that is infinite", hand.patch(*fresh, *in_units, *infinite, *halves)
    yield "an element in units that is no number", hand.patch(*fresh, *in_units, *bytes(4), *halves)
    yield (
        "more elements in units than there is room for",
        hand.patch(*fresh, *in_units[:2], 6, *in_units[3:], *bytes(4), Op.PLANES, 6),
    )
    yield (
        "factors before plain numbers of 4 bytes",
        hand.patch(*wide, *planes, Op.MATRIX, 1, 5, 0, 0, 1, 0, 1, 0, *bytes(3 + 6), *of_five),
    )
    yield (
        "a factor of 2^23",
        hand.patch(
            *planes[:1], 2, *planes[2:], Op.MATRIX, 4, 5, 0, 0, 1, 0, 1, 0, 0, 0, 0, *bytes([255] * 9), *range(20)
        ),
    )
    yield (
        "a factor that is shifted by 23",
        hand.patch(*planes, Op.MATRIX, 4, 5, 0, 0, 1, 0, 1, 0, 23, 0, 0, *bytes(9), *tensor),
    )
    yield (
        "more factors than the features name",
        Hand(features=1 << 4).patch(*planes, Op.MATRIX, 4096, 1, 0, 0, 1, 0, 1, 0),
    )
    yield "factors that the features do not name", Hand().patch(*TABLE, Op.MATRIX, 4, 5, 0, 0, 1, 0, 0, 0, *tensor)
    yield "a matrix before a copy", hand.patch(Op.MATRIX, 4, 5, 0, 0, 0, *ALL)
    yield "two matrices", hand.patch(*TABLE, *(Op.MATRIX, 4, 5, 0, 0, 0) * 2, *tensor)
