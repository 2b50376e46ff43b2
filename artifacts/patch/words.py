"""Runs of small edits as numbers of 4 bytes: offsets and indexes in a file's structure, which move together.

Where something is inserted, all offsets across it change by the same amount. Byte by byte that is a copy, a difference,
and sometimes a carry, again and again; as whole numbers most differences are one of a few.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from artifacts.patch.opened import Opened
from artifacts.patch.operations import Add, Copy, part_of
from artifacts.patch.steps import Deflate, Step, Words

__all__ = ["with_words"]

_WORD_BYTES = 4
# Runs of fewer operations stay as they are: one on elements is not for less.
_MIN_STEPS = 9
# What a word takes, in bits: one that differs, mostly like one before it, and any other.
_CHANGED_BITS, _EQUAL_BITS = 8.0, 0.15


def with_words(old: Opened, new: Opened, steps: Sequence[Step]) -> list[Step]:
    """Return the same steps with those runs of copies and differences replaced that may be smaller as words.

    Args:
        old: the base.
        new: the target.
        steps: in the order of the target.
    """
    if any(isinstance(step, Deflate) for step in steps):
        # What is deflated has addresses of its own, and the structure of an archive is small.
        return list(steps)
    runs = list(_runs(old, new, steps))
    # Where words begin is the same all over a file, most likely.
    phase = min(range(_WORD_BYTES), key=lambda phase: sum(run.changed(phase) for run, _ in runs if run is not None))
    return [step for run, edits in runs for step in (edits if run is None else run.as_words(phase))]


def _runs(old: Opened, new: Opened, steps: Sequence[Step]) -> Iterator[tuple[_Run | None, Sequence[Step]]]:
    """Yield copies and differences together that go on in their source, with the run they are if that may be words."""
    at = 0
    for together in _together(steps):
        edits = [step for step in together if isinstance(step, (Copy, Add))]
        yield _run(old, new, edits, at) if len(edits) >= _MIN_STEPS else None, together
        at += sum(step.length for step in together)


def _together(steps: Sequence[Step]) -> Iterator[list[Step]]:
    run: list[Step] = []
    source: int | None = None
    for step in steps:
        edit = step if isinstance(step, (Copy, Add)) else None
        if run and (edit is None or edit.source != source):
            yield run
            run = []
        run.append(step)
        source = None if edit is None else edit.source + edit.length
    if run:
        yield run


def _run(old: Opened, new: Opened, edits: Sequence[Copy | Add], start: int) -> _Run | None:
    """Return the run of some edits, None if it reads what is made by it: an operation reads only what was there."""
    source, length = edits[0].source, sum(step.length for step in edits)
    own = source - len(old.content)
    if own + length > start:
        return None
    known, at = (old.content, source) if own < 0 else (new.content, own)
    return _Run(edits, start, known[at : at + length], new.content[start : start + length])


@dataclass(frozen=True, slots=True)
class _Run:
    """Edits that go on in their source.

    Attributes:
        edits: all of them.
        start: of the first one, in the target.
        base: the bytes of the source.
        target: the bytes that are made.
    """

    edits: Sequence[Copy | Add]
    start: int
    base: memoryview
    target: memoryview

    def _whole(self, phase: int) -> slice:
        """Return the whole words in the run, which begin at such a place of four in the target."""
        first = (phase - self.start) % _WORD_BYTES
        return slice(first, first + (len(self.target) - first) // _WORD_BYTES * _WORD_BYTES)

    def changed(self, phase: int) -> int:
        """Return how many words differ."""
        whole = self._whole(phase)
        return int(np.count_nonzero(np.frombuffer(self.base[whole], "<u4") != np.frombuffer(self.target[whole], "<u4")))

    def as_words(self, phase: int) -> Iterator[Step]:
        """Yield the run with its whole words as such, and what is around them as it is."""
        whole = self._whole(phase)
        length = whole.stop - whole.start
        bits = _CHANGED_BITS * self.changed(phase) + _EQUAL_BITS * length / _WORD_BYTES
        yield from _cut(self.edits, 0, whole.start)
        yield Words(self.edits[0].source + whole.start, self.start + whole.start, length, bits)
        yield from _cut(self.edits, whole.stop, len(self.target))


def _cut(run: Sequence[Copy | Add], first: int, last: int) -> Iterator[Step]:
    """Yield what makes the bytes from ``first`` to ``last`` of a run."""
    at = 0
    for step in run:
        skipped, stop = max(first - at, 0), min(last - at, step.length)
        if skipped < stop:
            yield part_of(step, skipped, stop - skipped)
        at += step.length
