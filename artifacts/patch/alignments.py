"""Stretches of the target that lie over old bytes at one distance, equal or nearly so.

A stretch is found from a place where both are equal, and made longer for as long as what is saved by taking the old
bytes, as they are or with a difference added, is more than what is lost (an X-drop, as in the search for similar
sequences: Altschul et al. 1990, "Basic local alignment search tool").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]

# What a byte's difference to the old one earns: an equal byte costs nearly nothing, a small difference less than a new
# byte, since small ones are frequent among differences, and any other a little more.
_EARNED = np.full(256, -3, np.int32)
_EARNED[[1, 2, 3, 4, 252, 253, 254, 255]] = 1
_EARNED[0] = 4
# What one earns that is as it was a word before: offsets in tables change alike.
_WORD_BYTES, _EARNED_AGAIN = 4, 2
# A stretch ends where the loss since its best end is greater than this: fifty bytes that fit nowhere.
_MAX_LOSS = 150
_MIN_WINDOW, _MAX_WINDOW, _MAX_EQUAL_WINDOW = 256, 1 << 14, 1 << 18
# Bytes that are compared at a time: their differences and the places of these take a few megabytes.
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Alignment:
    """The target's bytes from ``start`` to ``end`` lie over those that are ``shift`` further on in a source.

    Attributes:
        own: the source is the target itself.
    """

    start: int
    end: int
    shift: int
    own: bool


def differing(target: Bytes, source: Bytes, shift: int, start: int, end: int) -> Iterator[tuple[int, Bytes, Places]]:
    """Yield where a target differs from what lies ``shift`` further on in a source, some bytes at a time.

    Yields:
        where those bytes begin in the target, what each is minus the source's, and, relative to that beginning, the
        places at which that is not 0: at least one.
    """
    for at in range(start, end, _CHUNK):
        stop = min(at + _CHUNK, end)
        difference = target[at:stop] - source[at + shift : stop + shift]
        # numpy finds what is true several times as quickly as what is not 0.
        places = np.flatnonzero(difference != 0)
        if len(places):
            yield at, difference, places


def unheard(worked: int) -> None:
    """Do nothing: nobody wants to know after how many bytes memory could be let go."""
    del worked


def equal_length(one: Bytes, other: Bytes, worked: Callable[[int], None] = unheard) -> int:
    """Return how many bytes are equal from the start of both; ``worked`` is told after how many both were seen."""
    length = min(len(one), len(other))
    done, step = 0, _MIN_WINDOW
    while done < length:
        stop = min(done + step, length)
        differs = one[done:stop] != other[done:stop]
        first = int(differs.argmax())
        if differs[first]:
            return done + first
        worked(stop - done)
        done, step = stop, min(step * 4, _MAX_EQUAL_WINDOW)
    return length


def worthwhile_length(one: Bytes, other: Bytes, worked: Callable[[int], None] = unheard) -> int:
    """Return how far from the start of both it pays to write the one as differences to the other.

    Args:
        one: bytes of the target.
        other: bytes of its source.
        worked: is told after how many further bytes both were seen.
    """
    length = min(len(one), len(other))
    done, step, total, best, best_at = 0, _MIN_WINDOW, 0, 0, 0
    while done < length:
        stop = min(done + step, length)
        difference = one[done:stop] - other[done:stop]
        if difference.any():
            earned = _EARNED[difference]
            earned[_WORD_BYTES:][difference[_WORD_BYTES:] == difference[:-_WORD_BYTES]] = _EARNED_AGAIN
            # Of this window alone, in half of the memory of sums of all.
            score = np.cumsum(earned, dtype=np.int32)
            high = np.maximum(np.maximum.accumulate(score), best - total)
            lost = high - score > _MAX_LOSS
            end = int(lost.argmax())
            if not lost[end]:
                end = stop - done
            if end:
                top = int(score[:end].argmax())
                if total + int(score[top]) > best:
                    best, best_at = total + int(score[top]), done + top + 1
            if end < stop - done:
                break
            total += int(score[-1])
        else:
            # Every byte of it earns something.
            total += (stop - done) * _EARNED_AGAIN
            if total > best:
                best, best_at = total, stop
        worked(stop - done)
        done, step = stop, min(step * 2, _MAX_WINDOW)
    return best_at
