"""Which steps make a target from a base: what both have in common is matched, and each tensor is coded as is best."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

import numpy as np
from backports.zstd import CompressionParameter, ZstdCompressor

from artifacts.patch.align import align
from artifacts.patch.axes import Axes
from artifacts.patch.deflate_plan import MemberPlan
from artifacts.patch.elsewhere import Part, found_elsewhere
from artifacts.patch.excerpt import Excerpt
from artifacts.patch.kinds import FLOATS
from artifacts.patch.matching import MatchLimits, match_with_prefix
from artifacts.patch.opened import LetGo, Opened
from artifacts.patch.operations import Add, Copy, Data, Operation, part_of
from artifacts.patch.permute import Permuted
from artifacts.patch.steps import AnyTensor, DeflateEnd, Segment, Step, TensorBytes, TensorStep, joined, segments
from artifacts.patch.tensor_bytes import bits_with_base
from artifacts.patch.tensor_plan import Elements, TensorPlan, plan_planes, plan_update
from artifacts.patch.tensors import Tensor
from artifacts.patch.unit_plan import plan_in_units
from artifacts.patch.work import ALLOWED_UNITS, BYTES_PER_UNIT, PREFIX_BYTES_PER_UNIT

__all__ = ["Budget", "Effort", "Plan", "plan_matches", "plan_tensors"]

# Steps that matching may take, and more for so many bytes.
_BASIC_STEPS = 300_000
_BYTES_PER_STEP = 40
# Shorter tensors of the base are of use to matching, whatever they are.
_MIN_NOISE_BYTES = 4096
# Shorter tensors are bytes like any other.
_MIN_TENSOR_BYTES = 64
# What matching takes at least, in bits: less than an operation of a tensor.
_MATCH_BITS = 8 * 8
# What is compressed to see what bytes are worth, and how.
_SAMPLE_BYTES, _PIECE_BYTES = 128 * 1024, 16 * 1024
_SAMPLE_LEVEL = 9
# A frame's magic, header and block header, which a patch has once for many of these.
_ZSTD_OVERHEAD: Final = 9
# Tensors that take more than this share of their bits may lie elsewhere in the base; and what a byte of weights takes
# that does not, in bits.
_MOVED_SHARE, _NOISE_BITS = 0.002, 7.4
# Tensors that take more than this share are tried as bytes beside their base's, and taken if that saves so much.
_REPLACED_SHARE, _SURELY_LESS = 0.02, 0.97
# A tensor whose differences take more than this share of its bits is tried without a base too.
_POOR_SHARE = 0.6
# Weights in units take a third of their bits without a base, less with one; those that take less are not in units.
_MANY_BITS_SHARE = 0.25
# The share of a decoder's steps that bases in another order may take, and the smallest blocks of patches of models.
_ARRANGED_SHARE, _ARRANGED_BLOCK = 0.5, 1 << 16
# Elements of a tensor that are looked at to see how large floats are, and how many are larger than the origin.
_ORIGIN_SAMPLE = 1024
_ORIGIN_QUANTILE = 0.999
# Memory that planning a tensor takes, beside the mapped files: bytes for each element, and in any case.
_PLAN_BYTES, _FACTOR_BYTES, _FREE_BYTES = 8, 12, 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Effort:
    """What planning may still take.

    Attributes:
        factors: whether factors are tried.
        tensors: whether tensors are planned at all.
    """

    factors: bool = True
    tensors: bool = True


# Asked before each tensor, with the bytes of memory that it would take with factors and without.
Budget = Callable[[int, int], Effort]


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps that make a target.

    Attributes:
        steps: in the target's order.
        prefix: start and end of the base's bytes that new bytes are compressed with; None if they stand alone.
    """

    steps: list[Step]
    prefix: tuple[int, int] | None = None


def plan_matches(old: Opened, new: Opened) -> Plan:
    """Return steps that only match bytes, of the files as they are."""
    whole = [Segment(0, len(new.unpacked.data))] if len(new.unpacked.data) else []
    matches = _Matches(old, new, whole)
    steps = [step for part in whole for step in matches.between(part.start, part.end)]
    return Plan(joined(steps, len(old.content)), matches.prefix)


def plan_tensors(old: Opened, new: Opened, budget: Budget, progress: Callable[[int], None] | None = None) -> Plan:
    """Return steps that code tensors by their elements where that takes less than matching, members inflated.

    Args:
        old: the base.
        new: the target.
        budget: what may be done.
        progress: is told how many bytes of the target's addresses are planned.
    """
    members = MemberPlan(old, new)
    parts = list(segments(new.unpacked, members.ways()))
    tensors = _Tensors(old, new, budget)
    memory = LetGo(old, new)
    memory.now()
    chosen: list[tuple[Segment, list[AnyTensor | Repeated]]] = []
    for part in parts:
        chosen.append((part, []))
        for step in tensors.steps(part):
            chosen[-1][1].append(step)
            memory.after(step.length)
            if progress is not None:
                progress(step.tensor.start + step.length)
    coded = [step for _, steps in chosen for step in steps if not isinstance(step, Repeated)]
    moved, sources = _moved(old, new, coded)
    coded = [step for step in coded if step.tensor.start not in moved]
    chosen = [(part, [step for step in steps if step.tensor.start not in moved]) for part, steps in chosen]
    gaps = [gap for part, steps in chosen for gap in _gaps(part, steps)]
    left_out = [*tensors.unmatched(coded, sources), *members.noise()]
    memory.now()
    matches = _Matches(old, new, gaps, left_out, elsewhere=sum(int(step.bits) for step in coded) // 8)
    steps = [step for part, inside in chosen for step in _deflated(members, list(_woven(part, inside, matches)), part)]
    return Plan(joined(steps, len(old.content)), matches.prefix)


def _moved(old: Opened, new: Opened, steps: Sequence[AnyTensor]) -> tuple[set[int], list[int]]:
    """Return which tensors are rather copied from other places of the base, and from where."""
    asked = [step for step in steps if step.bits > _MOVED_SHARE * 8 * step.length]
    parts = [Part(step.tensor.start, step.length, step.same_source) for step in asked]
    found = found_elsewhere(old, new, parts, _NOISE_BITS)
    better = [(step, one) for step, one in zip(asked, found, strict=True) if one.bits < step.bits]
    return {step.tensor.start for step, _ in better}, [source for _, one in better for source in one.sources]


@dataclass(frozen=True, slots=True)
class Repeated:
    """A tensor that the target has had before, as files of one archive do: it is copied from there."""

    tensor: Tensor
    copy: Copy

    @property
    def length(self) -> int:
        """Bytes of the target."""
        return self.copy.length


def _gaps(part: Segment, steps: Sequence[AnyTensor | Repeated]) -> Iterator[Segment]:
    """Yield what of a segment lies between its tensors."""
    at = part.start
    for start, end in [*((step.tensor.start, step.tensor.start + step.length) for step in steps), (part.end, part.end)]:
        if at < start:
            yield replace(part, start=at, end=start)
        at = end


def _woven(part: Segment, steps: Sequence[AnyTensor | Repeated], matches: _Matches) -> Iterator[Step]:
    """Yield the steps of a segment: its tensors and what lies between them."""
    if part.deflate is not None:
        yield part.deflate
    at = part.start
    for step in steps:
        yield from matches.between(at, step.tensor.start)
        yield step.copy if isinstance(step, Repeated) else step
        at = step.tensor.start + step.length
    yield from matches.between(at, part.end)
    if part.deflate is not None:
        yield DeflateEnd()


def _deflated(members: MemberPlan, steps: list[Step], part: Segment) -> list[Step]:
    """Return the steps of a segment, with a member deflated in another way if that takes less of the patch."""
    if part.deflate is None:
        return steps
    _, *inside = steps
    bits = sum(step.bits for step in inside if isinstance(step, AnyTensor))
    bits += sum(8 * step.length for step in inside if isinstance(step, Data))
    return [replace(part.deflate, how=members.cheaper(part.deflate.how, part.written, bits)), *inside]


class _Matches:
    """Operations that make the segments of a target, by address.

    Args:
        old: the base.
        new: the target.
        parts: of the target.
        left_out: start and end of parts of the base that nothing is matched with.
        elsewhere: bytes that the patch takes for what is not in the segments.
    """

    def __init__(
        self,
        old: Opened,
        new: Opened,
        parts: Sequence[Segment],
        left_out: Sequence[tuple[int, int]] = (),
        elsewhere: int = 0,
    ) -> None:
        self._own = len(old.content)
        self._length = len(new.unpacked.data)
        ordered = sorted(parts, key=lambda segment: segment.start)
        self._operations: list[Operation] = []
        self._starts: list[int] = []
        ranges = [(segment.start, segment.end) for segment in ordered]
        steps = _BASIC_STEPS + sum(end - start for start, end in ranges) // _BYTES_PER_STEP
        limits = MatchLimits(max_steps=steps, elsewhere=elsewhere)
        excerpt = Excerpt(old.content, left_out)
        matched = match_with_prefix(excerpt.content, new.content, ranges, limits, LetGo(old, new).after)
        self.prefix = excerpt.prefix(matched.prefix)
        place = (one for operation in matched.operations for one in excerpt.operations(operation))
        for segment in ordered:
            at = segment.start
            while at < segment.end:
                operation = next(place)
                self._starts.append(at)
                self._operations.append(self._possible(operation, at, segment))
                at += operation.length

    def _possible(self, operation: Operation, at: int, segment: Segment) -> Operation:
        """Return an operation, or new bytes instead of a copy of what is not there yet."""
        if isinstance(operation, Data) or operation.source < self._own:
            return operation
        written = at if segment.deflate is None else segment.written
        if operation.source - self._own + operation.length <= min(written, self._length):
            return operation
        return Data(at, operation.length)

    def between(self, start: int, end: int) -> Iterator[Operation]:
        """Yield operations that make the addresses from ``start`` to ``end``, which are in one segment."""
        place = bisect_right(self._starts, start) - 1
        while start < end:
            operation, begin = self._operations[place], self._starts[place]
            stop = min(end, begin + operation.length)
            yield part_of(operation, start - begin, stop - start)
            start, place = stop, place + 1


def _arranged_units(tensor: Tensor) -> int:
    """Return the steps of a decoder for a tensor whose base is in another order: each block goes through all of it."""
    return -(-tensor.length // _ARRANGED_BLOCK) * (tensor.length // PREFIX_BYTES_PER_UNIT + 1)


@dataclass(frozen=True, slots=True)
class _Option:
    """A way to code a tensor: with its base if it has one, and the order of that one's dimensions if it is another."""

    plan: TensorPlan
    source: Tensor | None
    axes: Axes | None = None

    @property
    def bits(self) -> float:
        return self.plan.bits


class _Tensors:
    """Plans tensors, and tells which of them are worth it."""

    def __init__(self, old: Opened, new: Opened, budget: Budget) -> None:
        self._old, self._new = old, new
        self._budget = budget
        self._pairs = align(old.tensors, new.tensors, old.unpacked, new.unpacked)
        self._origins = _origins(new)
        self._permuted = Permuted(old, new)
        # Steps of a decoder that may be spent on bases in another order: what is left is for all else.
        self._arranging = int(_ARRANGED_SHARE * (ALLOWED_UNITS + len(new.unpacked.data) // BYTES_PER_UNIT))
        self._seen: dict[bytes, int] = {}

    def steps(self, segment: Segment) -> Iterator[AnyTensor | Repeated]:
        """Yield the tensors of a segment that are coded by their elements or repeated, in their order."""
        for tensor, base in self._pairs:
            inside = segment.start <= tensor.start and tensor.start + tensor.length <= segment.end
            if not inside or tensor.length < _MIN_TENSOR_BYTES:
                continue
            # What is deflated cannot be copied from: the file has it in another form.
            repeated = self._repeated(tensor) if segment.deflate is None else None
            if repeated is not None and base is not None and self._is_same(tensor, base):
                # It is copied together with what lies around it.
                continue
            step = repeated or self._step(tensor, base)
            if step is not None:
                yield step

    def _repeated(self, tensor: Tensor) -> Repeated | None:
        """Return a tensor's copy from where the target had the same bytes first; None where this is the first time."""
        digest = sha256(self._new.unpacked.view(tensor.start, tensor.length)).digest()
        first = self._seen.setdefault(digest, tensor.start)
        if first == tensor.start:
            return None
        return Repeated(tensor, Copy(len(self._old.content) + first, tensor.length))

    def _is_same(self, tensor: Tensor, base: Tensor) -> bool:
        return base.length == tensor.length and self._known(base) == self._made(tensor)

    def unmatched(self, steps: Sequence[AnyTensor], sources: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Yield where tensors of the base are that nothing is matched with if these steps are taken.

        These are all but the bases of tensors that are left to matching: weights are noise to what is no weight.

        Args:
            steps: the tensors that are coded as such.
            sources: addresses in the base that others were found at.
        """
        ordered = sorted(sources)
        coded = {step.tensor.start for step in steps}
        kept = {base.start for tensor, base in self._pairs if base is not None and tensor.start not in coded}
        for base in self._old.tensors:
            wanted = bisect_right(ordered, base.start + base.length - 1) > bisect_left(ordered, base.start)
            if base.start not in kept and not wanted and base.length >= _MIN_NOISE_BYTES:
                yield base.start, base.start + base.length

    def _step(self, tensor: Tensor, base: Tensor | None) -> AnyTensor | None:
        matched = self._matched_bits(tensor, base)
        effort = self._budget(_FREE_BYTES + _FACTOR_BYTES * tensor.count, _FREE_BYTES + _PLAN_BYTES * tensor.count)
        if not effort.tensors or matched < _MATCH_BITS:
            return None
        best = self._best(tensor, base, thorough=effort.factors)
        if base is not None and base.width == tensor.width and best.bits > _REPLACED_SHARE * 8 * tensor.length:
            least = min(best.bits, matched)
            bits = bits_with_base(self._made(tensor), self._known(base), least)
            if bits < _SURELY_LESS * least:
                return TensorBytes(tensor, base.start, bits)
        if best.bits >= matched:
            return None
        start, width = (None, 0) if best.source is None else (best.source.start, best.source.width)
        return TensorStep(tensor, start, width, best.plan, matched, best.axes)

    def _best(self, tensor: Tensor, base: Tensor | None, *, thorough: bool) -> _Option:
        """Return the best way that was found to code a tensor by its elements."""
        target = Elements(self._made(tensor), tensor.dtype)
        known = None if base is None else Elements(self._known(base), base.dtype)
        options: list[_Option] = []
        if known is not None:
            options.append(_Option(plan_update(target, known, tensor.shape, thorough=thorough), base))
        if not options or self._is_poor(tensor, options, _POOR_SHARE):
            options.append(_Option(plan_planes(target, tensor.shape, self._origins.get(tensor.dtype, 0)), None))
        if self._is_poor(tensor, options, _MANY_BITS_SHARE):
            found = plan_in_units(target, known, tensor.shape, thorough=thorough)
            if found is not None:
                options.append(_Option(found[0], base if found[1] else None))
        fitting = [option for option in options if option.source is not None]
        no_base = not fitting or self._is_poor(tensor, fitting, _POOR_SHARE)
        if no_base and tensor.length >= _MIN_NOISE_BYTES and self._is_poor(tensor, options, _MANY_BITS_SHARE):
            options += self._in_another_order(tensor, target, thorough=thorough)
        best = min(options, key=lambda option: option.bits)
        if best.axes is not None:
            self._arranging -= _arranged_units(tensor)
        return best

    def _in_another_order(self, tensor: Tensor, target: Elements, *, thorough: bool) -> Iterator[_Option]:
        """Yield the update from a base whose dimensions are in another order, if there is one that can be afforded."""
        if _arranged_units(tensor) > self._arranging:
            return
        found = self._permuted.base(tensor)
        if found is not None:
            base, axes = found
            known = Elements(memoryview(axes.arranged(self._known(base), base.width)), base.dtype)
            yield _Option(plan_update(target, known, tensor.shape, thorough=thorough), base, axes)
            in_units = plan_in_units(target, known, tensor.shape, thorough=thorough)
            if in_units is not None and in_units[1]:
                yield _Option(in_units[0], base, axes)

    @staticmethod
    def _is_poor(tensor: Tensor, options: Sequence[_Option], share: float) -> bool:
        """Tell whether all that was found takes more than a share of a tensor, without bits that are always zero."""
        zeros = options[0].plan.kind.zeros / (8 * tensor.width)
        return min(option.bits for option in options) > share * (1 - zeros) * 8 * tensor.length

    def _made(self, tensor: Tensor) -> memoryview:
        return self._new.content[tensor.start : tensor.start + tensor.length]

    def _known(self, base: Tensor) -> memoryview:
        return self._old.content[base.start : base.start + base.length]

    def _matched_bits(self, tensor: Tensor, base: Tensor | None) -> float:
        """Return about what a tensor takes if it is made by matching: as new bytes, or as differences to its base."""
        target = self._made(tensor)
        if base is None or base.width != tensor.width:
            return _packed_bits(target)
        known = self._known(base)
        differences = np.frombuffer(target, np.uint8) - np.frombuffer(known, np.uint8)
        if not differences.any():
            return 0.0
        return min(_packed_bits(target), _packed_bits(memoryview(differences.tobytes())))


def difference(old: Opened, new: Opened, add: Add) -> bytes:
    """Return the bytes that are added to the source."""
    target = np.frombuffer(new.content[add.start : add.start + add.length], np.uint8)
    own = add.source - len(old.content)
    content = old.content[add.source : add.source + add.length] if own < 0 else new.content[own : own + add.length]
    return (target - np.frombuffer(content, np.uint8)).tobytes()


def _packed_bits(content: memoryview) -> float:
    """Return about what bytes take that are compressed: as samples from all over them do."""
    total = len(content)
    step = max(_PIECE_BYTES, total * _PIECE_BYTES // _SAMPLE_BYTES)
    sample = b"".join(content[at : at + _PIECE_BYTES] for at in range(0, total, step))
    compressor = ZstdCompressor(options={int(CompressionParameter.compression_level): _SAMPLE_LEVEL})
    packed = len(compressor.compress(sample, ZstdCompressor.FLUSH_FRAME)) - _ZSTD_OVERHEAD
    return 8.0 * packed * total / len(sample)


def _origins(new: Opened) -> dict[str, int]:
    """Return, for each type of floats, the top byte behind the largest ones: the exponent, without the sign."""
    tops: dict[str, list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]] = {}
    for tensor in new.tensors:
        if tensor.dtype in FLOATS:
            raw = np.frombuffer(new.content[tensor.start : tensor.start + tensor.length], f"<u{tensor.width}")
            some = raw[:: max(1, len(raw) // _ORIGIN_SAMPLE)][:_ORIGIN_SAMPLE]
            tops.setdefault(tensor.dtype, []).append((some << 1 >> (8 * tensor.width - 8)).astype(np.uint8))
    return {
        dtype: min(255, int(np.quantile(np.concatenate(found), _ORIGIN_QUANTILE, method="lower")) + 1)
        for dtype, found in tops.items()
    }
