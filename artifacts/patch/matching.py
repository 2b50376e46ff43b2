"""Bytes that no parser knows: how a file is made from pieces of another one, of its own start, and of new bytes.

Alignments are found (`search`), the cheapest way through them is chosen (`choose`), again with prices that were learned
from what was chosen (`passes`), from several beginnings, and what compresses best is taken (`estimate`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from mmap import mmap

import numpy as np

from artifacts.patch.alignments import unheard
from artifacts.patch.estimate import Estimator
from artifacts.patch.format import MIN_PREFIX_BYTES
from artifacts.patch.operations import Operation
from artifacts.patch.passes import Choice, Choices, Compared, Files, seen_differences
from artifacts.patch.prices import CHEAP_DIFFERENCES, Counts, Prices
from artifacts.patch.search import Found, search

__all__ = ["MatchLimits", "Matched", "match", "match_with_prefix"]

Buffer = bytes | bytearray | memoryview | mmap

# Operations that are made of one choice: with copies of at least so many bytes, or everything that is aligned and not
# all equal as differences. Patterns in differences compress better in one piece, differences far apart as operations.
_RUNS = (4, 6, 32, 1 << 12)
# Operations take time to decode, so there are not more of them than these and one for every so many bytes.
_FEW_OPERATIONS = 1 << 14
_BYTES_PER_OPERATION = 32
# Passes from each beginning, and then so many in all of so many that are best.
_FIRST_PASSES = 1
_BEST_CHAINS = 2
_PASSES = 4
# So many passes in a row may fail to be better than the best before: the next one may be.
_MAX_WORSE = 2
# Enough to sort all suffixes of files of some hundred kilobytes, and those that matter of longer ones.
_LEAST_MAX_BYTES = 52 << 20
# Together with a frame, prefixes are as long as the format's longest window: zstd's tables for more take twice as much.
_MAX_PREFIX_BYTES = (1 << 20) - (1 << 16)
_PREFIX_BIN = 1 << 14
# Beside so few bytes that may be new, so much of a prefix is enough, and takes a part of the time and the memory.
_PREFIX_SHARE, _LEAST_PREFIX_BYTES = 64, 1 << 18
# Steps of the search for the cheapest way, of all passes together: some seconds.
_BASIC_STEPS = 1_500_000
_BYTES_PER_STEP = 200


# Pieces of the target that are copied: those from a length on, or none. A compressor of new bytes mostly
# does short ones better, and to go to the target and back costs more than to stay in the base.
_LONG_OWN, _NO_OWN = 256, 1 << 62
# What passes begin with, the most promising first: prices; whether new bytes have a prefix, if there is one; whether
# differences are expected to be like those in long alignments; and which pieces of the target are copied.
_BEGINNINGS: tuple[tuple[Prices, bool, bool, int], ...] = (
    (CHEAP_DIFFERENCES, False, False, _LONG_OWN),
    (CHEAP_DIFFERENCES, True, False, _NO_OWN),
    (Prices(), True, True, _LONG_OWN),
    (CHEAP_DIFFERENCES, False, False, _NO_OWN),
)
# Where one way is enough: what is new is most of the patch whatever is chosen, or very little of it.
_QUICK_BEGINNINGS = ((Prices(), False, False, _LONG_OWN),)


@dataclass(frozen=True, slots=True)
class MatchLimits:
    """What matching may cost.

    Attributes:
        max_bytes: memory beside the two files; None for as much as one and a half times both take, or what small files
            need.
        max_steps: steps of the search for the cheapest operations, each some microseconds; None for a number that
            keeps to 4 MB of base and target in a second.
        elsewhere: bytes that the patch takes for what is not matched: beside many of them, little effort is made.
    """

    max_bytes: int | None = None
    max_steps: int | None = None
    elsewhere: int = 0


@dataclass(frozen=True, slots=True)
class Matched:
    """Operations, and what their new bytes should be compressed with.

    Attributes:
        operations: in the target's order.
        prefix: start and end in the base; None if the new bytes stand alone.
        estimate: the bytes that all this takes in a patch, nearly.
    """

    operations: list[Operation]
    prefix: tuple[int, int] | None
    estimate: int


def match(
    base: Buffer, target: Buffer, ranges: Sequence[tuple[int, int]], limits: MatchLimits | None = None
) -> list[Operation]:
    """Return operations that make the target's ``ranges``, in their order, if new bytes are compressed by themselves.

    Args:
        base: the old file, and whatever else has addresses before the target's.
        target: the new one.
        ranges: start and end of what is to be made, ascending and apart. The bytes between them are made by others,
            in the target's order.
        limits: what it may cost.
    """
    return _matched(base, target, ranges, limits, unheard, prefixed=False).operations


def match_with_prefix(
    base: Buffer,
    target: Buffer,
    ranges: Sequence[tuple[int, int]],
    limits: MatchLimits | None = None,
    worked: Callable[[int], None] = unheard,
) -> Matched:
    """Return operations and a prefix from the base for their new bytes, if one helps.

    Args:
        base: as of `match`, like the next three.
        target: the new file.
        ranges: what is to be made.
        limits: what it may cost.
        worked: is told after how many further bytes of both files the search has seen, so that what is mapped can be
            let go.
    """
    return _matched(base, target, ranges, limits, worked, prefixed=True)


def _matched(
    base: Buffer,
    target: Buffer,
    ranges: Sequence[tuple[int, int]],
    limits: MatchLimits | None,
    worked: Callable[[int], None],
    *,
    prefixed: bool,
) -> Matched:
    limits = limits or MatchLimits()
    ranges = [(start, end) for start, end in ranges if start < end]
    if not ranges:
        return Matched([], None, 0)
    files = Files(np.frombuffer(base, np.uint8), np.frombuffer(target, np.uint8), ranges)
    max_bytes = limits.max_bytes
    if max_bytes is None:
        max_bytes = max(_LEAST_MAX_BYTES, 3 * (len(files.old) + len(files.new)) // 2)
    found = search(files.old, files.new, ranges, max_bytes, limits.elsewhere, worked)
    return _Trials(files, found, limits).best(prefixed=prefixed)


class _Trials:
    """Tries what can be chosen from several beginnings, as often as the limits allow, and keeps the smallest."""

    def __init__(self, files: Files, found: Found, limits: MatchLimits) -> None:
        self._files, self._found = files, found
        self._compared = Compared(files)
        self._choices: dict[int, Choices] = {}
        self._forms: dict[object, Matched] = {}
        self._estimator = Estimator(files.old, files.new)
        made = sum(end - start for start, end in files.ranges)
        self._most_operations = _FEW_OPERATIONS + made // _BYTES_PER_OPERATION
        some = _BASIC_STEPS + (len(files.old) + len(files.new)) // _BYTES_PER_STEP
        self._steps = some if limits.max_steps is None else limits.max_steps
        self._runs: tuple[int, ...] = _RUNS
        self._beginnings = _BEGINNINGS
        if not found.is_worth_effort:
            self._steps, self._runs, self._beginnings = 0, _RUNS[:1] + _RUNS[-1:], _QUICK_BEGINNINGS

    @cached_property
    def _seen(self) -> Counts:
        return seen_differences(self._files, self._found)

    def best(self, *, prefixed: bool) -> Matched:
        """Return the smallest of all: a few passes from each beginning, and more of those that lead to the smallest."""
        prefix = _prefix(self._found, len(self._files.old)) if prefixed else None
        chains: list[tuple[Matched, int, Iterator[Matched]]] = []
        for number, (prices, with_prefix, different, least_own) in enumerate(self._beginnings):
            if with_prefix and prefix is None:
                continue
            choices, known = self._choices_with(least_own), self._seen if different else None
            chain = self._chain(choices, prices, prefix if with_prefix else None, known)
            chains.append((_smallest(islice(chain, _FIRST_PASSES)), number, chain))
            if self._spent():
                break
        chains.sort(key=lambda found: (found[0].estimate, found[1]))
        further = [_smallest(chain, first) for first, _, chain in chains[:_BEST_CHAINS]]
        return _smallest(iter(further))

    def _choices_with(self, least_own: int) -> Choices:
        """Return the choices with those pieces of the target that are at least so long."""
        usable = [one for one in self._found.alignments if not one.own or one.end - one.start >= least_own]
        # Two bounds may leave the same.
        if len(usable) not in self._choices:
            self._choices[len(usable)] = Choices(self._files, replace(self._found, alignments=usable), self._compared)
        return self._choices[len(usable)]

    def _chain(
        self, choices: Choices, prices: Prices, prefix: tuple[int, int] | None, different: Counts | None
    ) -> Iterator[Matched]:
        """Yield what passes choose, until some in a row are not smaller than the one before."""
        least, worse = None, 0
        for made in islice(choices.passes(prices, prefixed=prefix is not None, different=different), _PASSES):
            matched = self._smallest_form(made, prefix)
            self._steps -= choices.steps
            yield matched
            worse = worse + 1 if least is not None and matched.estimate >= least else 0
            if self._spent() or worse == _MAX_WORSE:
                return
            least = matched.estimate if least is None else min(least, matched.estimate)

    def _spent(self) -> bool:
        return self._steps <= 0

    def _smallest_form(self, choices: Sequence[Choice], prefix: tuple[int, int] | None) -> Matched:
        """Return the operations of some choices in the form that compresses best."""
        # Where little differs, most beginnings lead to the same.
        key = prefix, tuple(part for choice in choices for part in choice.parts())
        if key not in self._forms:
            self._forms[key] = self._new_form(choices, prefix)
        return self._forms[key]

    def _new_form(self, choices: Sequence[Choice], prefix: tuple[int, int] | None) -> Matched:
        best: Matched | None = None
        for run in self._runs:
            most = None if run == _RUNS[-1] else self._most_operations + 1
            operations = list(islice((one for choice in choices for one in choice.operations(run)), most))
            if len(operations) == most:
                continue
            size = self._estimator.estimate(operations, prefix)
            if best is None or size < best.estimate:
                best = Matched(operations, prefix, size)
        assert best is not None
        return best


def _smallest(found: Iterator[Matched], first: Matched | None = None) -> Matched:
    for one in found:
        if first is None or one.estimate < first.estimate:
            first = one
    assert first is not None
    return first


def _prefix(found: Found, old_bytes: int) -> tuple[int, int] | None:
    """Return the part of the base, no longer than a prefix, that has most in common with the gaps."""
    if found.near is None or old_bytes < MIN_PREFIX_BYTES:
        return None
    enough = max(_LEAST_PREFIX_BYTES, _PREFIX_SHARE * len(found.places))
    length = min(old_bytes, enough, _MAX_PREFIX_BYTES)
    bins = np.zeros(old_bytes // _PREFIX_BIN + 2)
    for near in found.near.longest:
        there = near.places >= 0
        bins += np.bincount(near.places[there] // _PREFIX_BIN, near.lengths[there], len(bins))
    sums = np.concatenate(([0.0], np.cumsum(bins)))
    width = min(length // _PREFIX_BIN, len(bins))
    start = int((sums[width:] - sums[: len(sums) - width]).argmax()) * _PREFIX_BIN
    start = min(start, old_bytes - length)
    return start, start + length
