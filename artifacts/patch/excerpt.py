"""The parts of the base that bytes between tensors are matched with: what is left without the tensors that are used.

An index of a whole base takes its time, and weights are noise to what is not one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from artifacts.patch.operations import Add, Copy, Data, Operation, part_of

__all__ = ["Excerpt"]

# A base of which more than this share is left is taken whole, because an excerpt is a copy.
_MOST_SHARE = 0.5


class Excerpt:
    """Parts of a base, one after the other.

    Args:
        content: the base.
        left_out: start and end of what is not in it, in any order.
    """

    def __init__(self, content: memoryview, left_out: Sequence[tuple[int, int]]) -> None:
        pieces = list(_between(len(content), left_out))
        length = sum(end - start for start, end in pieces)
        if length > _MOST_SHARE * len(content):
            pieces = [(0, len(content))] if len(content) else []
        self._pieces = pieces
        self._starts = [0, *accumulate(end - start for start, end in pieces)]
        self._own = len(content)
        self.content = content if len(pieces) == 1 and pieces[0] == (0, len(content)) else _joined(content, pieces)

    def operations(self, operation: Operation) -> Iterator[Operation]:
        """Yield operations on the base itself for one on the excerpt; behind its end are the target's addresses."""
        if isinstance(operation, Data):
            yield operation
            return
        done = 0
        while done < operation.length:
            address, room = self._address(operation.source + done)
            length = min(room, operation.length - done)
            yield _moved(part_of(operation, done, length), address)
            done += length

    def prefix(self, prefix: tuple[int, int] | None) -> tuple[int, int] | None:
        """Return the longest part of a prefix that is in one piece of the base."""
        if prefix is None:
            return None
        start, end = prefix
        parts: list[tuple[int, int]] = []
        while start < end:
            address, room = self._address(start)
            length = min(room, end - start)
            parts.append((address, address + length))
            start += length
        return max(parts, key=lambda part: part[1] - part[0], default=None)

    def _address(self, place: int) -> tuple[int, int]:
        """Return where a byte of the excerpt is, and how many follow it there."""
        if place >= self._starts[-1]:
            return place - self._starts[-1] + self._own, 1 << 62
        piece = bisect_right(self._starts, place) - 1
        start, end = self._pieces[piece]
        return start + place - self._starts[piece], end - start - (place - self._starts[piece])


def _between(length: int, left_out: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    at = 0
    for start, end in sorted(left_out):
        if at < start:
            yield at, start
        at = max(at, end)
    if at < length:
        yield at, length


def _joined(content: memoryview, pieces: Sequence[tuple[int, int]]) -> memoryview:
    return memoryview(b"".join(content[start:end] for start, end in pieces))


def _moved(operation: Operation, source: int) -> Operation:
    if isinstance(operation, Copy):
        return Copy(source, operation.length)
    assert isinstance(operation, Add)
    return Add(source, operation.start, operation.length)
