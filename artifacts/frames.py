"""Zstandard frames (RFC 8878) from blobs that nobody vouches for: looked at first, then decoded with a bound.

`backports.zstd` (the standard library's `compression.zstd` of Python 3.14) does the work, because it can use a file as
a *prefix*, which is what ``zstd --patch-from`` does; python-zstandard only loads dictionaries, and those are invisible
to long-distance matching: 41 MB instead of 21 KB on one pair (docs/adr/0007).
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from backports.zstd import DecompressionParameter, ZstdCompressor, ZstdDecompressor, ZstdDict, ZstdError

from artifacts.errors import EncodingInvalid
from artifacts.files import whole_file
from artifacts.hashing import CHUNK_BYTES, HashingWriter, chunks

_MAGIC = b"\x28\xb5\x2f\xfd"
# The longest frame header (RFC 8878, 3.1.1.1): magic, descriptor, window, 4 bytes of dictionary id, 8 of content size.
MAX_HEADER_BYTES = 18
# The smallest and the largest window that a decoder can be told to allow (zstd's ZSTD_WINDOWLOG_ABSOLUTEMIN, _MAX_64).
_MIN_WINDOW_LOG = 10
_MAX_WINDOW_LOG = 31
# Compressed bytes are fed in pieces of this size.
_FEED_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """What a frame says of itself: the window it needs and the length of its content, in bytes."""

    window: int
    content: int | None


def read_header(blob: BinaryIO) -> FrameHeader:
    """Read the header of the frame that ``blob`` starts with, and go back to its start.

    Raises:
        EncodingInvalid: it is no Zstandard frame, or one with a dictionary id, which none of ours has.
    """
    start = blob.read(MAX_HEADER_BYTES)
    blob.seek(0)
    # RFC 8878, 3.1.1.1.1: the descriptor says which fields follow and how wide they are.
    if len(start) < 6 or start[:4] != _MAGIC:
        raise EncodingInvalid("the blob is no zstd frame")
    descriptor = start[4]
    if descriptor & 0b1011:
        raise EncodingInvalid("the zstd frame names a dictionary or uses a reserved bit")
    single_segment = bool(descriptor & 0b100000)
    fields = start[5:] if single_segment else start[6:]
    content = _content_size(descriptor >> 6, fields, single_segment)
    window = content if single_segment and content is not None else _window_size(start[5])
    return FrameHeader(window, content)


def _content_size(flag: int, fields: bytes, single_segment: bool) -> int | None:
    width = (1 if single_segment else 0, 2, 4, 8)[flag]
    if len(fields) < width:
        raise EncodingInvalid("the zstd frame's header is cut off")
    if width == 0:
        return None
    value = int.from_bytes(fields[:width], "little")
    return value + 256 if width == 2 else value


def _window_size(descriptor: int) -> int:
    base = 1 << (10 + (descriptor >> 3))
    return base + base // 8 * (descriptor & 0b111)


def decoded(
    blob: BinaryIO, *, length: int, max_window: int, prefix: Callable[[], ZstdDict | None] = lambda: None
) -> Iterator[bytes]:
    """Yield the content of the one frame that ``blob`` is, never more than ``length`` bytes.

    What the frame claims is compared with ``length`` and ``max_window`` before memory is allocated for it; what it
    then holds is counted, because a claim proves nothing.

    Args:
        blob: at its start.
        length: the length of the content that was promised, in bytes.
        max_window: the largest window, in bytes, that may be allocated.
        prefix: loads content that the frame may refer to as if it stood before its own; called once the header is
            found acceptable.

    Raises:
        EncodingInvalid: it is not one whole frame of that length, or it asks for too large a window.
    """
    header = read_header(blob)
    if header.content != length:
        raise EncodingInvalid(f"the frame says it holds {header.content} bytes, {length} were promised")
    if header.window > max_window:
        raise EncodingInvalid(f"the frame asks for a window of {header.window} bytes, {max_window} are allowed")
    try:
        yield from _bounded(blob, _decompressor(header.window, prefix()), length)
    except ZstdError as problem:
        raise EncodingInvalid("the frame is damaged, or was made for another base") from problem


def _decompressor(window: int, prefix: ZstdDict | None) -> ZstdDecompressor:
    log = min(max(_MIN_WINDOW_LOG, (window - 1).bit_length()), _MAX_WINDOW_LOG)
    options = {int(DecompressionParameter.window_log_max): log}
    return ZstdDecompressor(zstd_dict=prefix.as_prefix if prefix else None, options=options)


def _bounded(blob: BinaryIO, decompressor: ZstdDecompressor, length: int) -> Iterator[bytes]:
    left = length
    while not decompressor.eof:
        fed = blob.read(_FEED_BYTES) if decompressor.needs_input else b""
        if decompressor.needs_input and not fed:
            raise EncodingInvalid("the frame is cut off")
        chunk = decompressor.decompress(fed, CHUNK_BYTES)
        left -= len(chunk)
        if left < 0:
            raise EncodingInvalid("the frame holds more than it says")
        if chunk:
            yield chunk
    if left or decompressor.unused_data or blob.read(1):
        raise EncodingInvalid("the frame holds less than it says, or something follows it")


def load_prefix(path: Path) -> ZstdDict | None:
    """Load a file as a prefix; its length in memory. None for a file too short to be worth it (zstd takes 8 bytes).

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as source:
        if source.seek(0, 2) < 8:
            return None
        # Mapped, so that the one copy in memory is the one that zstd keeps.
        with mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return ZstdDict(mapped, is_raw=True)


def write_compressed(compressor: ZstdCompressor, source: Path, out: Path) -> HashingWriter:
    """Compress a file into a frame at ``out``, which appears whole; return what counted and hashed the frame.

    Raises:
        OSError: a file cannot be read or written.
    """
    with source.open("rb") as content, whole_file(out) as sink:
        blob = HashingWriter(sink)
        for chunk in chunks(content):
            blob.write(compressor.compress(chunk))
        blob.write(compressor.flush())
    return blob
