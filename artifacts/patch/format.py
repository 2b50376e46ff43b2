"""The format of a patch file (`docs/patch-format.md`): numbers, header, heads of frames, and operations.

A patch is a header and then frames. Each frame holds the next bytes of one of some streams, and which stream that is
need not be said: the decoder runs operations, and the next frame belongs to the stream that ran out of bytes. Stream 0
has the operations, which make the target from its start to its end.

Sources of bytes have addresses in one space: the base, then the base's deflated members as they are inflated, then the
target as far as it is made.

Reading checks every bound before anything is done with a number: what cannot be right is a `PatchInvalid`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Protocol

from artifacts.errors import PatchInvalid
from artifacts.patch.lzma_frames import MAX_PAYLOAD_BYTES
from artifacts.patch.matrix import MAX_FACTORS

__all__ = [
    "Codec",
    "DeflateParameters",
    "Header",
    "Layout",
    "Member",
    "Op",
    "Side",
    "frame_head",
    "read_frame_head",
    "read_header",
    "read_varint",
    "signed",
    "unsigned",
    "varint",
    "write_header",
]

MAGIC: Final = b"\x93SKP"
VERSION: Final = 1

TARGET_HASH_BYTES: Final = 32
BASE_HASH_BYTES: Final = 16
"""Of the base's SHA-256: it tells a wrong base from a bad patch, and need not withstand an enemy, since the target is
proved by its whole hash. A patch of a renamed layer has some dozen bytes beside its hashes."""

# One bit of the header's features: the target has members that zlib deflates, so the decoder needs zlib's own deflate.
FEATURE_DEFLATE: Final = 1
# Another: frames refer to sources, so the decoder holds one more window.
FEATURE_PREFIX: Final = 2
# Another: frames are by LZMA, which a decoder of the profile `zstd-only` has not.
FEATURE_LZMA: Final = 4
# Another: the target has members that are deflated symbol by symbol, so the decoder writes deflate itself.
FEATURE_SYMBOLS: Final = 8
# The highest 4 bits: how many factors a matrix may have, because the decoder holds them. 0 for none, else the logarithm
# of the most, minus 11.
FACTORS_SHIFT: Final = 4
_FACTORS_LOG: Final = 11
KNOWN_FEATURES: Final = FEATURE_DEFLATE | FEATURE_PREFIX | FEATURE_LZMA | FEATURE_SYMBOLS | 0xF << FACTORS_SHIFT

# A number has 63 bits, so that it fits into the signed integers of every language; that is 9 bytes of 7 bits.
MAX_VARINT_BYTES: Final = 9
# A TiB. Sums of a few such lengths cannot overflow 63 bits.
MAX_FILE_BYTES: Final = 1 << 40
# More members than any package of models has; their list then takes at most a megabyte of memory.
MAX_MEMBERS: Final = 4096
# What is inflated, or made to be deflated, has at most this many times the length of its file, and MIN_MADE_BYTES: a
# bomb has a thousand times.
MAX_EXPANSION: Final = 16
MIN_MADE_BYTES: Final = 16 << 20
# Deflate cannot do better than 1032 : 1 (zlib's technical details).
MAX_DEFLATE_RATIO: Final = 1032
# Blocks and frames of 4 KiB to 256 KiB.
MIN_BLOCK_LOG: Final = 12
MAX_BLOCK_LOG: Final = 18
# Windows of 1 KiB, which is zstd's smallest, to 1 MiB.
MIN_WINDOW_LOG: Final = 10
MAX_WINDOW_LOG: Final = 20
# zstd takes no shorter prefix.
MIN_PREFIX_BYTES: Final = 8
# A frame with a prefix reaches back over the longest prefix and its own content.
PREFIXED_WINDOW_LOG: Final = 21
# Streams for several tables of 16 classes. Each costs a frame of memory, which is bounded as a whole.
MAX_STREAMS: Final = 64
MAX_CONTINUOUS: Final = 4
MAX_TABLES: Final = 64
# Flushing a continuous stream costs a few bytes for each of zstd's blocks.
MAX_FLUSH_BYTES: Final = 1024

# What decoding may take beside the base: little enough for an extension of an app, and for a watch.
MAX_MEMORY_BYTES: Final = 8 << 20

# Memory beside the base, in bytes: of the decoder itself and its tables, of a zstd decoder beside its window, of a
# deflater beside its input (zlib's zconf.h: 256 KiB, and 44 KiB for inflating), of one that goes symbol by symbol, of a
# factor of a matrix, and of the arrays of a block of elements as a multiple of it.
_DECODER_BYTES = 512 * 1024
_ZSTD_BYTES = 640 * 1024
_DEFLATE_BYTES = 384 * 1024
_SYMBOLS_BYTES = 1536 * 1024
_FACTOR_BYTES = 12
BLOCK_FACTOR: Final = 15


class Op(IntEnum):
    """What an operation does. Its number is the low 3 bits of its first varint; the parameter is above them."""

    COPY = 0
    DATA = 1
    ADD = 2
    TENSOR = 3
    PLANES = 4
    TABLE = 5
    DEFLATE = 6
    MATRIX = 7


# The parameters of DEFLATE: how a member is deflated.
BY_ZLIB: Final = 0
BY_SYMBOLS: Final = 1


class Codec(IntEnum):
    """How a frame's bytes are written. The number is the low 2 bits of the second varint of its head.

    LZMA has the number of STORED, and the length of a payload, which that has not.
    """

    STORED = 0
    ZSTD = 1
    REPEATED = 2
    PREFIXED = 3
    LZMA = 4


@dataclass(frozen=True, slots=True)
class Side:
    """A file at one end of a patch: its length in bytes and its SHA-256 in hex, or the beginning of that."""

    length: int
    sha256: str

    def as_base(self) -> Side:
        """Return what a header says of the file as a base."""
        return Side(self.length, self.sha256[: 2 * BASE_HASH_BYTES])

    def is_file(self, sha256: str) -> bool:
        """Tell whether it is the file with this whole hash, as far as its own hash goes."""
        return sha256.startswith(self.sha256)


@dataclass(frozen=True, slots=True)
class Member:
    """Bytes of the base that are raw deflate data (RFC 1951), and that operations see inflated.

    Attributes:
        address: where the deflated bytes start: in the base, or in a member before this one.
        deflated: their length.
        length: how many bytes they inflate to.
    """

    address: int
    deflated: int
    length: int


@dataclass(frozen=True, slots=True)
class DeflateParameters:
    """How a member of the target is deflated: the parameters of zlib's deflateInit2, with raw output."""

    level: int = 6
    memory_level: int = 8
    strategy: int = 0
    window_log: int = 15

    def __post_init__(self) -> None:
        # Level 0 stores, in pieces that depend on the size of the output buffer.
        in_range = 1 <= self.level <= 9 and 1 <= self.memory_level <= 9 and 0 <= self.strategy <= 4
        if not in_range or not 9 <= self.window_log <= 15:
            raise ValueError("zlib has no such parameters")

    def packed(self) -> int:
        """Return the four as one number, 4 bits each."""
        return self.level | self.memory_level << 4 | self.strategy << 8 | self.window_log << 12

    @classmethod
    def unpacked(cls, number: int) -> DeflateParameters:
        """Return what `packed` packed.

        Raises:
            PatchInvalid: zlib has no such parameters.
        """
        if number >> 16:
            raise PatchInvalid("the parameters of a deflated member have unknown bits")
        try:
            return cls(number & 15, number >> 4 & 15, number >> 8 & 15, number >> 12)
        except ValueError as problem:
            raise PatchInvalid(f"a member is deflated as nothing deflates: {problem}") from problem


@dataclass(frozen=True, slots=True)
class Layout:
    """How the streams of a patch are laid out: what decides the memory that decoding takes.

    Attributes:
        block_log: elements are coded in blocks of ``1 << block_log`` bytes.
        frame_log: no frame has more than ``1 << frame_log`` bytes.
        window_log: the window of continuous streams, and the longest prefix of a frame; 0 if there is neither.
        continuous: streams whose frames share one window; each frame of the others stands alone.
        lengths: the stream that has the operations' lengths.
        sources: the stream that has their sources.

    Raises:
        ValueError: a number is outside of what the format allows.
    """

    block_log: int = 17
    frame_log: int = 16
    window_log: int = 0
    continuous: frozenset[int] = field(default_factory=frozenset)
    lengths: int = 0
    sources: int = 0

    def __post_init__(self) -> None:
        if not all(MIN_BLOCK_LOG <= log <= MAX_BLOCK_LOG for log in (self.block_log, self.frame_log)):
            raise ValueError("blocks or frames are too short or too long")
        if self.window_log and not MIN_WINDOW_LOG <= self.window_log <= MAX_WINDOW_LOG:
            raise ValueError(f"a window of 2^{self.window_log} bytes is not allowed")
        if len(self.continuous) > MAX_CONTINUOUS or (self.continuous and not self.window_log):
            raise ValueError("there are too many continuous streams, or no window for them")
        if self.highest_stream >= MAX_STREAMS:
            raise ValueError("a stream has too high a number")

    @property
    def highest_stream(self) -> int:
        """The highest number of a stream that the layout names."""
        return max((0, self.lengths, self.sources, *self.continuous))

    @property
    def block_bytes(self) -> int:
        """The bytes of a block of elements."""
        return 1 << self.block_log

    @property
    def frame_bytes(self) -> int:
        """The most bytes of a frame."""
        return 1 << self.frame_log

    @property
    def window_bytes(self) -> int:
        """The window of continuous streams, and the longest prefix."""
        return 1 << self.window_log if self.window_log else 0


@dataclass(frozen=True, slots=True)
class Header:
    """What a patch says of itself.

    Attributes:
        base: the file that it leads from, with the first `BASE_HASH_BYTES` of its hash.
        target: the file that it leads to.
        layout: of its streams.
        streams: how many there are.
        members: parts of the base that are inflated first.
        features: bits that say what a decoder must be able to do.

    Raises:
        ValueError: a number is outside of what the format allows.
    """

    base: Side
    target: Side
    layout: Layout
    streams: int = 1
    members: tuple[Member, ...] = ()
    features: int = 0

    def __post_init__(self) -> None:
        if [len(side.sha256) for side in (self.base, self.target)] != [2 * BASE_HASH_BYTES, 2 * TARGET_HASH_BYTES]:
            raise ValueError("a hash has another length than the format gives it")
        if max(self.base.length, self.target.length) > MAX_FILE_BYTES:
            raise ValueError("a file is longer than a patch can be for")
        if not 1 <= self.streams <= MAX_STREAMS:
            raise ValueError(f"there are 1 to {MAX_STREAMS} streams")
        if self.layout.highest_stream >= self.streams:
            raise ValueError("the layout names a stream that is not there")
        if self.features & ~KNOWN_FEATURES or (self.features & FEATURE_PREFIX and not self.layout.window_log):
            raise ValueError("the patch needs what this version does not know, or prefixes without a window")
        if self.max_factors > MAX_FACTORS:
            raise ValueError("matrices have too many factors")
        self._check_members()
        if self.memory_bytes > MAX_MEMORY_BYTES:
            raise ValueError(f"decoding would take {self.memory_bytes} bytes of memory")

    def _check_members(self) -> None:
        if len(self.members) > MAX_MEMBERS:
            raise ValueError(f"more than {MAX_MEMBERS} members are inflated")
        known = self.base.length
        for member in self.members:
            if member.deflated < 1 or member.length < 1 or not 0 <= member.address <= known - member.deflated:
                raise ValueError("a member is empty, or lies outside of what is there")
            if member.length > member.deflated * MAX_DEFLATE_RATIO:
                raise ValueError("a member is longer than deflate can make it")
            known += member.length
        if self.inflated_bytes > most_made(self.base.length):
            raise ValueError("the members are much longer than the base")

    @property
    def inflated_bytes(self) -> int:
        """The bytes of all members, inflated: what the decoder writes into a scratch file."""
        return sum(member.length for member in self.members)

    @property
    def max_factors(self) -> int:
        """The most factors that a matrix may have."""
        log = self.features >> FACTORS_SHIFT
        return 1 << log + _FACTORS_LOG if log else 0

    @property
    def target_address(self) -> int:
        """The address of the target's first byte."""
        return self.base.length + self.inflated_bytes

    @property
    def memory_bytes(self) -> int:
        """The memory that decoding takes at most, beside the base."""
        layout = self.layout
        frames = (self.streams + 2) * layout.frame_bytes + BLOCK_FACTOR * layout.block_bytes
        windows = len(layout.continuous) * (layout.window_bytes + _ZSTD_BYTES)
        deflate = _DEFLATE_BYTES if self.members or self.features & FEATURE_DEFLATE else 0
        # A prefix is held as it is read, and by zstd. One more zstd decoder is for frames that stand alone.
        prefix = 2 * layout.window_bytes if self.features & FEATURE_PREFIX else 0
        symbols = _SYMBOLS_BYTES if self.features & FEATURE_SYMBOLS else 0
        factors = _FACTOR_BYTES * self.max_factors
        return _DECODER_BYTES + frames + windows + _ZSTD_BYTES + prefix + deflate + symbols + factors


def features_for_factors(count: int) -> int:
    """Return the bits of the features that say that a matrix has so many factors."""
    return max(1, (count - 1).bit_length() - _FACTORS_LOG) << FACTORS_SHIFT if count else 0


def most_made(length: int) -> int:
    """Return the most bytes that may be inflated from, or deflated into, a file of so many bytes."""
    return length * MAX_EXPANSION + MIN_MADE_BYTES


# ---- numbers

_SHORT_VARINTS = [bytes([value]) for value in range(0x80)]


def varint(value: int) -> bytes:
    """Return a number in LEB128: 7 bits a byte, lowest first, the top bit set in all bytes but the last."""
    if 0 <= value <= 0x7F:
        return _SHORT_VARINTS[value]
    if not 0 <= value < 1 << 7 * MAX_VARINT_BYTES:
        raise ValueError(f"{value} is not a number of 63 bits")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(read_byte: Callable[[], int]) -> int:
    """Read a number.

    Args:
        read_byte: returns the next byte, or raises.

    Raises:
        PatchInvalid: it has more than 63 bits, or a last byte that says nothing.
    """
    value = read_byte()
    if value < 0x80:
        return value
    value &= 0x7F
    for shift in range(7, 7 * MAX_VARINT_BYTES, 7):
        byte = read_byte()
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0:
                raise PatchInvalid("a number has more bytes than it needs")
            return value
    raise PatchInvalid("a number has more than 63 bits")


def unsigned(value: int) -> int:
    """Return 0, -1, 1, -2, ... as 0, 1, 2, 3, ..."""
    return value << 1 if value >= 0 else ~(value << 1)


def signed(value: int) -> int:
    """Return 0, 1, 2, 3, ... as 0, -1, 1, -2, ..."""
    return ~(value >> 1) if value & 1 else value >> 1


# ---- header


def write_header(header: Header) -> bytes:
    """Return the bytes that a patch starts with."""
    layout = header.layout
    numbers = [
        header.base.length,
        header.target.length,
        layout.block_log - MIN_BLOCK_LOG | (layout.frame_log - MIN_BLOCK_LOG) << 3,
        layout.window_log,
        header.streams,
        sum(1 << stream for stream in layout.continuous),
        layout.lengths,
        layout.sources,
        len(header.members),
    ]
    end = 0
    for member in header.members:
        numbers += [unsigned(member.address - end), member.deflated, member.length]
        end = member.address + member.deflated
    start = MAGIC + bytes([VERSION, header.features]) + b"".join(map(varint, numbers))
    return start + bytes.fromhex(header.base.sha256) + bytes.fromhex(header.target.sha256)


class Readable(Protocol):
    """What a header is read from: a file, or what wraps one."""

    def read(self, length: int, /) -> bytes:
        """Return that many bytes; fewer at the end."""


def read_header(patch: Readable) -> Header:
    """Read what a patch says of itself, and check it; ``patch`` stands behind it then.

    Memory is bounded by what the format allows, whatever the bytes are.

    Raises:
        PatchInvalid: it is no patch, or one that cannot be right.
    """
    if _read(patch, len(MAGIC)) != MAGIC:
        raise PatchInvalid("the file is no patch")
    version, features = _read(patch, 2)
    if version != VERSION:
        raise PatchInvalid(f"the patch has version {version} of the format, which this decoder does not know")
    if features & ~KNOWN_FEATURES:
        raise PatchInvalid("the patch needs what this decoder cannot do")

    def number() -> int:
        return read_varint(lambda: _read(patch, 1)[0])

    lengths = number(), number()
    sizes, window_log, streams, continuous = number(), number(), number(), number()
    block_log, frame_log = MIN_BLOCK_LOG + (sizes & 7), MIN_BLOCK_LOG + (sizes >> 3)
    try:
        layout = Layout(block_log, frame_log, window_log, _bits(continuous), number(), number())
        members = _read_members(number)
        hashes = _read(patch, BASE_HASH_BYTES), _read(patch, TARGET_HASH_BYTES)
        base, target = (Side(length, digest.hex()) for length, digest in zip(lengths, hashes, strict=True))
        return Header(base, target, layout, streams, members, features)
    except ValueError as problem:
        raise PatchInvalid(f"the patch is refused: {problem}") from problem


def _read_members(number: Callable[[], int]) -> tuple[Member, ...]:
    count = number()
    if count > MAX_MEMBERS:
        raise PatchInvalid(f"more than {MAX_MEMBERS} members are inflated")
    members = []
    end = 0
    for _ in range(count):
        member = Member(end + signed(number()), number(), number())
        members.append(member)
        end = member.address + member.deflated
    return tuple(members)


def _bits(number: int) -> frozenset[int]:
    return frozenset(place for place in range(number.bit_length()) if number >> place & 1)


def _read(patch: Readable, length: int) -> bytes:
    content = patch.read(length)
    if len(content) < length:
        raise PatchInvalid("the patch is cut off")
    return content


# ---- frames


def frame_head(length: int, codec: Codec, detail: int = 0) -> bytes:
    """Return what stands before a frame's payload.

    Args:
        length: of the frame's content, in bytes.
        codec: how it is written.
        detail: the length of the payload; of a stored frame 0, because it is the content's; of a repeated byte, which
            has no payload, that byte.
    """
    return varint(length) + varint(codec & 3 | detail << 2)


def read_frame_head(number: Callable[[], int], header: Header, *, continuous: bool) -> tuple[int, Codec, int]:
    """Read what stands before a frame's payload, and check it.

    Args:
        number: reads a varint.
        header: of the patch.
        continuous: whether the frame's stream is.

    Returns:
        the length of the content, the codec, and the length of the payload; of a repeated byte, that byte.

    Raises:
        PatchInvalid: it cannot be right.
    """
    length, second = number(), number()
    codec, detail = Codec(second & 3), second >> 2
    if codec == Codec.STORED and detail:
        codec = Codec.LZMA
    if not 1 <= length <= header.layout.frame_bytes:
        raise PatchInvalid(f"a frame has {length} bytes")
    if continuous:
        right = codec == Codec.ZSTD and 1 <= detail <= length + MAX_FLUSH_BYTES
    elif codec == Codec.STORED:
        right, detail = detail == 0, length
    elif codec == Codec.REPEATED:
        right = detail <= 0xFF
    else:
        feature = {Codec.ZSTD: 0, Codec.PREFIXED: FEATURE_PREFIX, Codec.LZMA: FEATURE_LZMA}[codec]
        most = min(length - 1, MAX_PAYLOAD_BYTES) if codec == Codec.LZMA else length - 1
        right = 1 <= detail <= most and header.features & feature == feature
    if not right:
        raise PatchInvalid("a frame's codec does not suit its length or its stream")
    return length, codec, detail
