"""The streams of a patch as a decoder sees them: queues of bytes, each refilled from the patch when it runs out.

The patch is read strictly forwards, so it may still be arriving. Nothing that a frame says is believed: its length is
bounded by the header's, its payload by its length, and what it then decodes to is counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdDict, ZstdError

from artifacts.errors import PatchInvalid
from artifacts.patch.format import (
    MIN_PREFIX_BYTES,
    PREFIXED_WINDOW_LOG,
    Codec,
    Header,
    read_frame_head,
    read_varint,
)
from artifacts.patch.lzma_frames import unpacked
from artifacts.patch.work import Work

__all__ = ["PatchReader", "Position", "Sources", "Streams"]

Buffer = bytes | bytearray | memoryview

# What zstd frames start with (RFC 8878, 3.1.1.1), which the format leaves out: magic number, descriptor, window and
# content size. Frames that stand alone are one segment with 4 bytes of content size; those with a prefix have a window
# as well; continuous streams have a window only.
_MAGIC = b"\x28\xb5\x2f\xfd"
_ALONE = _MAGIC + b"\xa0"
_PREFIXED = _MAGIC + bytes([0x80, (PREFIXED_WINDOW_LOG - 10) << 3])
_CONTINUOUS = _MAGIC + b"\x00"
_CONTENT_SIZE_BYTES = 4

# No frame can ask for more than the widest of these headers does.
_OPTIONS = {int(DecompressionParameter.window_log_max): PREFIXED_WINDOW_LOG}

# What was read before a checkpoint is read again in pieces of this size.
_SKIP_BYTES = 64 * 1024

# To go on from a checkpoint, a continuous stream is decoded again from its first frame. One with more frames than this
# (4 GiB of bytes) is not worth that.
MAX_KEPT_FRAMES = 16 * 1024


class Sources(Protocol):
    """Where frames find their prefixes."""

    def read(self, address: int, length: int) -> bytes:
        """Return bytes that exist; raise `PatchInvalid` if they do not."""


class PatchReader:
    """The patch file, read forwards: knows how far, and the hash of what was read.

    Args:
        patch: the file.
        position: where it stands.
        hashed: whether the hash is wanted: only checkpoints need it.
    """

    def __init__(self, patch: BinaryIO, position: int = 0, *, hashed: bool = False) -> None:
        self._patch = patch
        self._digest = hashlib.sha256() if hashed else None
        self.position = position

    def read(self, length: int) -> bytes:
        """Return the next bytes.

        Raises:
            PatchInvalid: the patch has fewer.
        """
        content = self._patch.read(length)
        if len(content) < length:
            raise PatchInvalid("the patch is cut off")
        self.position += length
        if self._digest is not None:
            self._digest.update(content)
        return content

    def skip(self, position: int) -> None:
        """Read on to a place further on.

        Raises:
            PatchInvalid: the patch ends before.
        """
        while (left := position - self.position) > 0:
            self.read(min(left, _SKIP_BYTES))

    def number(self) -> int:
        """Return the next bytes as a varint."""
        return read_varint(lambda: self.read(1)[0])

    def ends(self) -> bool:
        """Tell whether the patch has no more bytes."""
        return not self._patch.read(1)

    def sha256(self) -> str:
        """Return the SHA-256 (hex) of what was read, of a reader that is hashed."""
        assert self._digest is not None
        return self._digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Position:
    """How far a stream is read: enough to read on from there with another `Streams`.

    Attributes:
        frames: where the frames are in the patch that must be decoded for that: the last one, and of a continuous
            stream those before it.
        used: bytes of the last frame that were taken.
    """

    frames: list[int]
    used: int


@dataclass(slots=True)
class _Queue:
    """What is left of a stream's last frame.

    Attributes:
        continuous: None for a stream whose frames stand alone.
        content: of the last frame.
        used: bytes of it that were taken.
        frames: see `Position`.
    """

    continuous: ZstdDecompressor | None = None
    content: bytes = b""
    used: int = 0
    frames: list[int] = field(default_factory=list)


class Streams:
    """The streams of one patch.

    Args:
        patch: behind its header.
        header: of the patch.
        sources: what frames may refer to.
        work: pays for frames.
    """

    def __init__(self, patch: PatchReader, header: Header, sources: Sources, work: Work) -> None:
        self._patch = patch
        self._header = header
        self._sources = sources
        self._work = work
        self._queues = [self._queue(stream) for stream in range(header.streams)]
        self._bytes = [self._reader_of(queue) for queue in self._queues]

    def take(self, stream: int, length: int) -> bytes:
        """Return the next bytes of a stream.

        Raises:
            PatchInvalid: there is no such stream, the patch ends before, or a frame is not what it says.
        """
        if stream >= len(self._queues):
            raise PatchInvalid("an operation names a stream that is not there")
        queue = self._queues[stream]
        start = queue.used
        end = start + length
        if end <= len(queue.content):
            queue.used = end
            # Most parts are small: copying one takes less time than a view of it.
            return queue.content[start:end]
        return self._take_over_frames(queue, length)

    def number(self, stream: int) -> int:
        """Return the next bytes of a stream as a varint. Raises as `take` does."""
        queue = self._queues[stream]
        # Nearly all numbers have one byte, and operations consist of them.
        if queue.used < len(queue.content) and (value := queue.content[queue.used]) < 0x80:
            queue.used += 1
            return value
        return read_varint(self._bytes[stream])

    def all_used(self) -> bool:
        """Tell whether nothing is left of the frames that were read."""
        return all(queue.used == len(queue.content) for queue in self._queues)

    def positions(self) -> list[Position] | None:
        """Return how far each stream is read; None if that is too much to write down."""
        if any(len(queue.frames) > MAX_KEPT_FRAMES for queue in self._queues):
            return None
        return [Position(list(queue.frames), queue.used) for queue in self._queues]

    def restore(self, positions: list[Position], patch: BinaryIO) -> None:
        """Read on from where another `Streams` was.

        Args:
            positions: of that one.
            patch: the same patch, opened once more.

        Raises:
            PatchInvalid: they do not suit this patch.
        """
        if len(positions) != len(self._queues):
            raise PatchInvalid("the patch has other streams")
        for queue, position in zip(self._queues, positions, strict=True):
            for frame in position.frames:
                patch.seek(frame)
                self._refill(queue, PatchReader(patch, frame))
            if not 0 <= position.used <= len(queue.content):
                raise PatchInvalid("the patch has other frames")
            queue.used = position.used

    # ---- inside

    def _queue(self, stream: int) -> _Queue:
        return _Queue(ZstdDecompressor(options=_OPTIONS) if stream in self._header.layout.continuous else None)

    def _reader_of(self, queue: _Queue) -> Callable[[], int]:
        def read_byte() -> int:
            if queue.used == len(queue.content):
                self._refill(queue, self._patch)
            queue.used += 1
            return queue.content[queue.used - 1]

        return read_byte

    def _take_over_frames(self, queue: _Queue, length: int) -> bytes:
        parts: list[Buffer] = []
        while length:
            if queue.used == len(queue.content):
                self._refill(queue, self._patch)
            part = memoryview(queue.content)[queue.used : queue.used + length]
            queue.used += len(part)
            length -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _refill(self, queue: _Queue, patch: PatchReader) -> None:
        """Take the next frame of the patch: it belongs to the stream that needs it."""
        self._work.frame()
        start = patch.position
        length, codec, detail = read_frame_head(patch.number, self._header, continuous=queue.continuous is not None)
        # The old frame is let go of first, so that there are never two.
        queue.content, queue.used = b"", 0
        if queue.continuous is not None:
            queue.content = self._continued(queue, queue.continuous, patch.read(detail), length)
            queue.frames.append(start)
        else:
            queue.content = self._alone(patch, length, codec, detail)
            queue.frames = [start]

    def _alone(self, patch: PatchReader, length: int, codec: Codec, detail: int) -> bytes:
        if codec == Codec.STORED:
            return patch.read(length)
        if codec == Codec.REPEATED:
            return bytes([detail]) * length
        if codec == Codec.LZMA:
            return unpacked(patch.read(detail), length)
        size = length.to_bytes(_CONTENT_SIZE_BYTES, "little")
        if codec == Codec.ZSTD:
            return _decompressed(ZstdDecompressor(options=_OPTIONS), _ALONE + size + patch.read(detail), length)
        prefix = self._prefix(patch.number(), patch.number())
        decompressor = ZstdDecompressor(zstd_dict=prefix.as_prefix, options=_OPTIONS)
        return _decompressed(decompressor, _PREFIXED + size + patch.read(detail), length)

    def _prefix(self, address: int, length: int) -> ZstdDict:
        if not MIN_PREFIX_BYTES <= length <= self._header.layout.window_bytes:
            raise PatchInvalid(f"a prefix has {length} bytes")
        self._work.prefix(length)
        return ZstdDict(self._sources.read(address, length), is_raw=True)

    def _continued(self, queue: _Queue, decompressor: ZstdDecompressor, payload: bytes, length: int) -> bytes:
        if not queue.frames:  # a stream begins with its first frame
            payload = _CONTINUOUS + bytes([(self._header.layout.window_log - 10) << 3]) + payload
        return _decompressed(decompressor, payload, length, ends=False)


def _decompressed(decompressor: ZstdDecompressor, frame: bytes, length: int, *, ends: bool = True) -> bytes:
    try:
        # One byte more than there should be shows that there is more.
        content = decompressor.decompress(frame, length + 1)
    except (ZstdError, EOFError) as problem:
        raise PatchInvalid("a frame is damaged") from problem
    if len(content) != length or decompressor.eof != ends or decompressor.unused_data:
        raise PatchInvalid("a frame holds another number of bytes than it says")
    return content
