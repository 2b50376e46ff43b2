"""How many bytes of a patch some operations take, nearly: the ways to lay them out in streams, and zstd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backports.zstd import CompressionParameter, ZstdCompressor, ZstdDict

from artifacts.patch.alignments import Bytes
from artifacts.patch.format import Op, unsigned, varint
from artifacts.patch.operations import Add, Data, Operation
from artifacts.patch.writer import frame_of

__all__ = ["estimate"]

_FRAME_BYTES = 1 << 16
# A frame with a prefix says where that lies.
_REFERENCE_BYTES = 6
# Above so much, the quick level tells which of two choices is smaller well enough.
_THOROUGH_BYTES = 1 << 20
_THOROUGH, _QUICK = (19, 1), (3,)
# Up to so much, everything may be in one stream.
_ONE_STREAM_BYTES = 4096
# The window reaches over a prefix of 1 MiB and a frame.
_WINDOW_LOG = 21


@dataclass(slots=True)
class _Streams:
    kinds: bytearray
    lengths: bytearray
    sources: bytearray
    mixed: bytearray
    new: bytearray
    different: bytearray
    everything: bytearray


def estimate(old: Bytes, new: Bytes, operations: Sequence[Operation], prefix: bytes = b"") -> int:
    """Return the bytes that operations take in a patch, without its header.

    Args:
        old: the base.
        new: the target.
        operations: what makes some of it; an address beyond the base is the target's.
        prefix: what new bytes are compressed with.
    """
    streams = _streams(old, new, operations)
    control = min(
        _compressed(streams.mixed),
        _compressed(streams.kinds) + _compressed(streams.lengths) + _compressed(streams.sources),
    )
    size = control + _compressed(streams.new, prefix) + _compressed(streams.different)
    if len(streams.everything) <= _ONE_STREAM_BYTES:
        size = min(size, _compressed(streams.everything))
    return size


def _streams(old: Bytes, new: Bytes, operations: Sequence[Operation]) -> _Streams:
    streams = _Streams(*(bytearray() for _ in range(7)))
    source_end = 0
    for operation in operations:
        op, content, source = Op.COPY, b"", b""
        if isinstance(operation, Data):
            op, content = Op.DATA, new[operation.start : operation.start + operation.length].tobytes()
            streams.new += content
        else:
            source = varint(unsigned(operation.source - source_end))
            source_end = operation.source + operation.length
        if isinstance(operation, Add):
            op, content = Op.ADD, _difference(old, new, operation)
            streams.different += content
        kind, length = bytes([op]), varint(operation.length)
        streams.kinds += kind
        streams.lengths += length
        streams.sources += source
        streams.mixed += kind + length + source
        streams.everything += kind + length + source + content
    return streams


def _difference(old: Bytes, new: Bytes, add: Add) -> bytes:
    source = old[add.source :] if add.source < len(old) else new[add.source - len(old) :]
    return (new[add.start : add.start + add.length] - source[: add.length]).tobytes()


def _compressed(content: bytearray, prefix: bytes = b"") -> int:
    levels = _THOROUGH if len(content) <= _THOROUGH_BYTES else _QUICK
    size = 0
    for start in range(0, len(content), _FRAME_BYTES):
        piece = bytes(content[start : start + _FRAME_BYTES])
        alone = len(frame_of(piece, levels))
        size += min(alone, _prefixed(piece, prefix)) if prefix else alone
    return size


def _prefixed(piece: bytes, prefix: bytes) -> int:
    options = {
        CompressionParameter.compression_level: 19,
        CompressionParameter.window_log: _WINDOW_LOG,
        CompressionParameter.checksum_flag: 0,
    }
    compressor = ZstdCompressor(
        options={int(key): value for key, value in options.items()},
        zstd_dict=ZstdDict(prefix, is_raw=True).as_prefix,
    )
    return len(compressor.compress(piece, ZstdCompressor.FLUSH_FRAME)) + _REFERENCE_BYTES
