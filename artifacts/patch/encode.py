"""A patch of the encoding ``skafos-delta`` is made: what is promising is tried, and the smallest is kept.

Candidates are: tensors coded by their elements with the rest matched; all matched as bytes; and the target compressed
without its base. So a patch is never much larger than the smallest of these.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from threadpoolctl import threadpool_limits

from artifacts.encoded import SKAFOS_DELTA, Encoded
from artifacts.errors import PatchInvalid, PatchTooCostly
from artifacts.files import whole_file
from artifacts.hashing import HashingWriter
from artifacts.patch.allocator import keep_pieces
from artifacts.patch.emit import Emitted, Emitter
from artifacts.patch.opened import Opened, opened
from artifacts.patch.operations import Add, Copy, Data
from artifacts.patch.planner import Effort, Plan, plan_matches, plan_tensors
from artifacts.patch.polish import polished
from artifacts.patch.prefixes import with_prefixes
from artifacts.patch.steps import AnyTensor, Deflate, DeflateEnd, Prefixed, Step, TensorBytes, TensorStep, Words
from artifacts.patch.words import with_words
from artifacts.patch.writer import frame_of

__all__ = ["BYTES_PER_BYTE", "FIXED_BYTES", "EncodeLimits", "EncodeReport", "Region", "encode_patch"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class EncodeLimits:
    """What making a patch may cost.

    Attributes:
        max_seconds: after this time no more is tried, and what is left is done in the quickest way. The patch then
            depends on the machine's speed.
        max_bytes: memory of the process beside Python, its modules and the two files, which are mapped. What would
            take more is left out, or else refused: no patch takes less than `FIXED_BYTES`, and `BYTES_PER_BYTE` for
            each byte of the larger file.
    """

    max_seconds: float = 600.0
    max_bytes: int = 1024 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Region:
    """A part of the target, and how a patch makes it.

    Attributes:
        name: of the tensor, empty if it is none.
        how: ``copy``, ``add``, ``data``, ``words``, ``update``, ``planes`` or ``deflate``, with a few words in what
            way: ``data with its base`` is a tensor that zstd tells from the same bytes of its base, and ``deflate by
            symbols`` is not by zlib.
        length: bytes of the target.
        patched: about how many bytes of the patch.
    """

    name: str
    how: str
    length: int
    patched: int


@dataclass(frozen=True, slots=True)
class EncodeReport:
    """What was done.

    Attributes:
        encoded: the patch.
        candidate: which of the candidates it is.
        sizes: of all candidates that were tried, in bytes.
        regions: of the target, in its order.
        seconds: that it took.
    """

    encoded: Encoded
    candidate: str
    sizes: dict[str, int]
    regions: tuple[Region, ...]
    seconds: float


def encode_patch(
    base: Path,
    target: Path,
    out: Path,
    limits: EncodeLimits | None = None,
    *,
    zstd_only: bool = False,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> EncodeReport:
    """Write a patch that makes ``target`` from ``base``; ``out`` appears once all of it is written.

    Args:
        base: the file that devices have.
        target: the file that they should have.
        out: where the patch goes.
        limits: what it may cost; the defaults if None.
        zstd_only: whether the patch is for decoders without LZMA: the profile ``zstd-only``.
        progress: is told how much is done, of a total.
        clock: seconds that only rise.

    Raises:
        PatchTooCostly: it would take more memory than ``limits`` allow.
        OSError: a file cannot be read or written.
    """
    limits = limits or EncodeLimits()
    started = clock()
    keep_pieces(_KEPT_BYTES)
    # Matrices are small here: more threads of the linear algebra would wait for each other most of the time.
    with threadpool_limits(1, "blas"), opened(base, out.parent) as old, opened(target, out.parent) as new:
        _require_affordable(old, new, limits)
        candidates = _Candidates(old, new, limits, zstd_only, progress or _unheard, lambda: clock() - started)
        name, steps, best = candidates.best()
        with whole_file(out) as sink:
            blob = HashingWriter(sink)
            blob.write(best.content)
        encoded = Encoded(SKAFOS_DELTA, blob.sha256, blob.length, old.side.sha256, out)
        regions = tuple(_regions(steps, best))
        return EncodeReport(encoded, name, candidates.sizes, regions, clock() - started)


def _unheard(done: int, total: int) -> None:
    del done, total


# Memory beside the mapped files, at most: of the cheapest way through many small edits, which is most of it (with both
# files 42 MB where every sixteenth byte of 2 MB was edited, 161 MB of 24 MB), of tables of zstd, of a sort of suffixes,
# and of chunks; and for each byte of the larger file, inflated, of the index for matching, the differences of a tensor,
# and the patch. Models with other weights take less than 48 MiB of the first; a test holds both to it.
FIXED_BYTES = 128 * 1024 * 1024
BYTES_PER_BYTE = 3
# A tensor is worked on in pieces, whose arrays take a quarter of this. Those of all of a large one are not kept: others
# of other lengths come between, and up to half of the memory would be holes.
_KEPT_BYTES = 1 << 20
# Of the time that is allowed, the shares after which factors, tensors and further candidates are no more tried.
_FACTOR_SHARE, _TENSOR_SHARE, _CANDIDATE_SHARE = 0.5, 0.7, 0.5
# A target that takes less than this share of its bytes is not tried without inflating its members; one with tensors
# without its base not below the second share, since what these take as bytes is known; and any other one not below the
# third share of what samples of it take by themselves.
_POOR, _POOREST, _WHOLE = 0.75, 0.95, 0.9
# Nothing that is worth a patch takes less of its bytes by itself.
_LEAST_PACKED = 0.05
_SAMPLES, _SAMPLE_BYTES = 8, 1 << 16
# Of so little, everything is tried.
_SMALL_BYTES = 1 << 15
# Where tensors take more than this, the last bytes of all else do not matter.
_POLISHED_BITS = 8 * 16 * 1024
# Tensors that save more than this share of the patch by being coded as such, by estimates, surely save something.
_SURE_SHARE = 0.03


def _require_affordable(old: Opened, new: Opened, limits: EncodeLimits) -> None:
    needed = FIXED_BYTES + BYTES_PER_BYTE * max(len(old.content), len(new.content))
    if needed > limits.max_bytes:
        raise PatchTooCostly(needed, limits.max_bytes)


# The name of a candidate, its steps, and the patch.
_Candidate = tuple[str, list[Step], Emitted]


class _Candidates:
    """Ways to make the target, of which the smallest is kept."""

    def __init__(
        self,
        old: Opened,
        new: Opened,
        limits: EncodeLimits,
        zstd_only: bool,
        progress: Progress,
        elapsed: Callable[[], float],
    ) -> None:
        self._old, self._new = old, new
        self._limits, self._by_lzma = limits, not zstd_only
        self._emitter = Emitter(old, new)
        self._progress = progress
        self._elapsed = elapsed
        self.sizes: dict[str, int] = {}

    def best(self) -> _Candidate:
        """Return the name of the smallest candidate, its steps, and the patch."""
        total = len(self._new.unpacked.data)
        plan = plan_tensors(self._old, self._new, self._budget, lambda made: self._progress(made, 2 * total))
        best = self._emitted("tensors", plan, lambda made: self._progress(total + made, 2 * total))
        for name, another in self._others(plan, best):
            if best is not None and self._elapsed() > _CANDIDATE_SHARE * self._limits.max_seconds:
                break
            found = self._emitted(name, another)
            best = min(filter(None, (best, found)), key=lambda one: len(one[2].content), default=None)
        if best is None:
            raise AssertionError("a patch of new bytes alone is always possible")
        self._progress(2 * total, 2 * total)
        return best

    def _others(self, plan: Plan, first: _Candidate | None) -> Iterator[tuple[str, Plan]]:
        """Yield further candidates that may be smaller than the first, or possible where it is not."""
        total = len(self._new.unpacked.data)
        if first is None:
            yield "matches", plan_matches(self._old, self._new)
            yield "whole", Plan([Data(0, total)] if total else [])
            return
        size = len(first[2].content)
        tensors = [step for step in plan.steps if isinstance(step, TensorStep)]
        saved = sum(step.matched_bits - step.bits for step in tensors) / 8
        inflates = any(isinstance(step, Deflate) for step in plan.steps)
        is_small = 0 < total <= _SMALL_BYTES
        if (tensors and saved < _SURE_SHARE * size) or (inflates and size > _POOR * total) or is_small:
            yield "matches", plan_matches(self._old, self._new)
        if is_small or size > _POOREST * total or (not tensors and self._may_be_less_alone(size, total)):
            yield "whole", Plan([Data(0, total)] if total else [])

    def _may_be_less_alone(self, size: int, total: int) -> bool:
        """Tell from samples whether the target may take less by itself than a patch of some size."""
        if size < _LEAST_PACKED * total:
            return False
        step = max(_SAMPLE_BYTES, total // _SAMPLES)
        packed = sampled = 0
        for at in range(0, total, step):
            sample = bytes(self._new.content[at : min(at + _SAMPLE_BYTES, total)])
            packed, sampled = packed + len(frame_of(sample)), sampled + len(sample)
        return size > _WHOLE * packed * total / max(1, sampled)

    def _emitted(self, name: str, plan: Plan, progress: Callable[[int], None] | None = None) -> _Candidate | None:
        """Return a patch, None if it would take a decoder more steps than it allows."""
        try:
            another = replace(plan, steps=with_prefixes(self._old, self._new, plan.steps))
            if len(another.steps) < len(plan.steps):
                plan = min((plan, another), key=self._emitter.bytes_without_elements)
            is_small = sum(step.bits for step in plan.steps if isinstance(step, AnyTensor)) < _POLISHED_BITS
            if is_small:
                plan = polished(self._emitter, plan)
            emitted = self._emitter.emit(plan, progress, by_lzma=self._by_lzma)
            if is_small:
                plan, emitted = self._smaller_with_words(plan, emitted)
        except PatchInvalid:
            return None
        self.sizes[name] = len(emitted.content)
        return name, plan.steps, emitted

    def _smaller_with_words(self, plan: Plan, emitted: Emitted) -> tuple[Plan, Emitted]:
        """Return a plan and its patch, or the same with runs of small edits as words, if that is smaller."""
        words = replace(plan, steps=with_words(self._old, self._new, plan.steps))
        if len(words.steps) == len(plan.steps):
            return plan, emitted
        try:
            another = self._emitter.emit(words, by_lzma=self._by_lzma)
        except PatchInvalid:
            # Elements take more of a decoder's steps than a few edits do.
            return plan, emitted
        return (words, another) if len(another.content) < len(emitted.content) else (plan, emitted)

    def _budget(self, with_factors: int, without: int) -> Effort:
        left = self._limits.max_bytes - BYTES_PER_BYTE * max(len(self._old.content), len(self._new.content))
        elapsed = self._elapsed() / self._limits.max_seconds
        return Effort(
            factors=with_factors <= left and elapsed < _FACTOR_SHARE,
            tensors=without <= left and elapsed < _TENSOR_SHARE,
        )


def _regions(steps: list[Step], emitted: Emitted) -> Iterator[Region]:
    """Yield what each step makes; bytes of streams are shared out by what went in, those of tensors by their plans."""
    bits = sum(step.plan.bits for step in steps if isinstance(step, TensorStep))
    bits += sum(step.bits for step in steps if isinstance(step, Words))
    of_elements = emitted.element_bytes / bits if bits else 0.0
    said = sum(step.symbols.bits for step in steps if isinstance(step, Deflate) and step.symbols is not None)
    of_segments = emitted.segment_bytes / said if said else 0.0
    for step in steps:
        if isinstance(step, TensorStep):
            yield Region(step.tensor.name, _how(step), step.length, round(step.plan.bits * of_elements))
        elif isinstance(step, TensorBytes):
            patched = round(step.length * emitted.rate(step))
            yield Region(step.tensor.name, "data with its base", step.length, patched)
        elif isinstance(step, Words):
            yield Region("", "words", step.length, round(step.bits * of_elements))
        elif isinstance(step, DeflateEnd):
            continue
        elif isinstance(step, Deflate):
            if step.symbols is not None:
                yield Region("", "deflate by symbols", step.length, round(step.symbols.bits * of_segments))
            else:
                yield Region("", "deflate", step.length, 0)
        elif isinstance(step, Copy):
            yield Region("", _NAMES[type(step)], step.length, 0)
        else:
            yield Region("", _NAMES[type(step)], step.length, round(step.length * emitted.rate(step)))


_NAMES: dict[type, str] = {
    Copy: "copy",
    Data: "data",
    Add: "add",
    Prefixed: "data with a prefix",
}


def _how(step: TensorStep) -> str:
    matrix = step.plan.data.matrix
    ways = ["planes" if step.source is None else "update"]
    if step.plan.kind.base != "same":
        ways.append(f"from {step.plan.kind.base}")
    if step.axes is not None:
        ways.append("dimensions in another order")
    if matrix.gains is not None:
        ways.append("gains of columns" if matrix.by_columns else "gains of rows")
    if matrix.units is not None:
        ways.append("in units of columns" if matrix.by_columns else "in units of rows")
    if matrix.scales is not None:
        ways.append(f"scales of {matrix.rows} x {matrix.columns}")
    if matrix.rank:
        ways.append(f"rank {matrix.rank}")
    if step.plan.kind.zeros:
        ways.append(f"{step.plan.kind.zeros} zero bits")
    return ", ".join(ways)
