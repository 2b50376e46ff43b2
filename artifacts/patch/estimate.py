"""How many bytes of a patch some operations take, nearly: the ways to lay them out in streams, and zstd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from backports.zstd import ZstdDict

from artifacts.patch.alignments import Bytes
from artifacts.patch.format import Op, unsigned, varint
from artifacts.patch.operations import Add, Data, Operation
from artifacts.patch.writer import frame_of, with_prefix

__all__ = ["Estimator"]

_FRAME_BYTES = 1 << 16
# A frame with a prefix says where that lies.
_REFERENCE_BYTES = 6
# What zstd finds out about a prefix takes some sixteen times its bytes. Of so short a one it is kept for all choices.
_DIGESTED_BYTES = 1 << 18
# Of more than so many bytes, so many frames are looked at, evenly spread.
_ALL_BYTES = 1 << 20
_SAMPLES = 16
# Up to so much, everything may be in one stream.
_ONE_STREAM_BYTES = 4096


class Estimator:
    """Tells how many bytes of a patch operations take.

    Args:
        old: the base.
        new: the target.
    """

    def __init__(self, old: Bytes, new: Bytes) -> None:
        self._old, self._new = old, new
        # Many choices have some streams in common.
        self._known: dict[tuple[bytes, tuple[int, int] | None], int] = {}
        self._prefixes: dict[tuple[int, int], ZstdDict] = {}

    def estimate(self, operations: Sequence[Operation], prefix: tuple[int, int] | None = None) -> int:
        """Return the bytes that operations take in a patch, without its header.

        Args:
            operations: what makes some of the target; an address beyond the base is the target's.
            prefix: start and end in the base of what new bytes are compressed with.
        """
        control = _Control.of(operations)
        size = min(
            self._stored(control.mixed),
            self._stored(control.kinds) + self._stored(control.lengths) + self._stored(control.sources),
        )
        data: list[Data | Add] = [one for one in operations if isinstance(one, Data)]
        adds: list[Data | Add] = [one for one in operations if isinstance(one, Add)]
        size += self._contents(data, prefix) + self._contents(adds)
        contents = sum(one.length for one in [*data, *adds])
        if len(control.mixed) + contents <= _ONE_STREAM_BYTES:
            # The order of the bytes makes little difference.
            everything = control.mixed + b"".join(map(self._content, [*data, *adds]))
            size = min(size, self._stored(everything))
        return size

    def _content(self, operation: Data | Add) -> bytes:
        new = self._new[operation.start : operation.start + operation.length]
        if isinstance(operation, Data):
            return new.tobytes()
        start = operation.source
        source = self._old[start:] if start < len(self._old) else self._new[start - len(self._old) :]
        return (new - source[: operation.length]).tobytes()

    def _contents(self, operations: Sequence[Data | Add], prefix: tuple[int, int] | None = None) -> int:
        """Return what the bytes of operations take; of very many, some are looked at."""
        total = sum(one.length for one in operations)
        if total <= _ALL_BYTES:
            return self._stored(b"".join(map(self._content, operations)), prefix)
        step, at, size = total // _SAMPLES, 0, 0
        for number in range(_SAMPLES):
            at = number * step
            size += self._stored(self._part(operations, at, at + min(step, _FRAME_BYTES)), prefix)
        return size * total // (_SAMPLES * min(step, _FRAME_BYTES))

    def _part(self, operations: Sequence[Data | Add], start: int, end: int) -> bytes:
        """Return some of the bytes of operations, as if they lay one after the other."""
        found = []
        at = 0
        for one in operations:
            first, last = max(start - at, 0), min(end - at, one.length)
            if first < last:
                begin = one.start + first
                shift = None if isinstance(one, Data) else one.source + first
                part = Data(begin, last - first) if shift is None else Add(shift, begin, last - first)
                found.append(self._content(part))
            at += one.length
            if at >= end:
                break
        return b"".join(found)

    def _stored(self, content: bytes, prefix: tuple[int, int] | None = None) -> int:
        key = sha256(content).digest(), prefix
        if key not in self._known:
            self._known[key] = _compressed(content, None if prefix is None else self._prefix(prefix))
        return self._known[key]

    def _prefix(self, place: tuple[int, int]) -> tuple[ZstdDict, int]:
        if place not in self._prefixes:
            self._prefixes[place] = ZstdDict(self._old[slice(*place)].tobytes(), is_raw=True)
        prefix = self._prefixes[place]
        return prefix.as_digested_dict if len(prefix) <= _DIGESTED_BYTES else prefix.as_prefix


@dataclass(frozen=True, slots=True)
class _Control:
    """The numbers of operations, each in a stream of its own, and all in one."""

    kinds: bytes
    lengths: bytes
    sources: bytes
    mixed: bytes

    @classmethod
    def of(cls, operations: Sequence[Operation]) -> _Control:
        kinds, lengths, sources, mixed = (bytearray() for _ in range(4))
        source_end = 0
        for operation in operations:
            source = b""
            if isinstance(operation, Data):
                op = Op.DATA
            else:
                op = Op.ADD if isinstance(operation, Add) else Op.COPY
                source = varint(unsigned(operation.source - source_end))
                source_end = operation.source + operation.length
            length = varint(operation.length)
            kinds.append(op)
            lengths += length
            sources += source
            mixed.append(op)
            mixed += length + source
        return cls(bytes(kinds), bytes(lengths), bytes(sources), bytes(mixed))


def _compressed(content: bytes, prefix: tuple[ZstdDict, int] | None) -> int:
    size = 0
    for start in range(0, len(content), _FRAME_BYTES):
        piece = content[start : start + _FRAME_BYTES]
        alone = with_it = len(frame_of(piece))
        if prefix is not None:
            with_it = len(with_prefix(piece, prefix)) + _REFERENCE_BYTES
        size += min(alone, with_it)
    return size
