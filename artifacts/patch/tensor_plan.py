"""How one tensor is best coded: as differences to a base with rows and columns, or without a base.

Nothing is written yet. What is promising is tried, and the number of bits is estimated from counts of the numbers that
would be written. The counts of all tensors of a kind together make the classes of its table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from artifacts.patch.elements import FRACTIONS, MAX_WHOLE_BYTES, ClassCoding, Table, numbers_and_levels
from artifacts.patch.factors import Decomposition, rounded_factors, worthwhile_parts
from artifacts.patch.gains import GAIN_BITS, SIDES, GainSums
from artifacts.patch.guess import GUESSED, guess_columns
from artifacts.patch.kinds import FLOATS, Kind, kind_of
from artifacts.patch.matrix import MAX_LEVEL, MAX_SIDE, Factors, Matrix, MatrixData
from artifacts.patch.scales import STEPS, Scales, fit_scales, half_octaves
from artifacts.patch.tally import LEVELS, Tally, entropy, estimated_bits, tally, tally_factors
from artifacts.patch.weights.tensor import WIDTHS

__all__ = ["Elements", "TensorPlan", "plan_planes", "plan_update", "sides"]

# Elements that are worked on at once: their arrays take some megabytes.
_CHUNK = 1 << 14
# Where a difference is one unit of the last place on average, this is the level; below it, most are zero.
_UNIT_LEVEL = 8 * STEPS
# The octave of whole numbers of which one is a difference of one on average.
_UNIT_OCTAVE = 8
# Of elements without a base: the level of those that are 1 on average.
_PLANES_LEVEL = 80 * STEPS
# No weight is so large; a number that is has no scale that would tell anything.
_TOO_LARGE = 1e18
# What an operation takes, and one with a matrix, in bits.
_OPERATION_BITS = 8 * 6
_MATRIX_BITS = 8 * 6
# What is said of a component of factors: three bytes that are alike from one to the next.
_COMPONENT_BITS = 8
# What gains take that are all the same.
_COMMON_GAIN_BITS = 8 * 8
# Fewer elements than these have no rows and columns, or no factors, that are worth it.
_MIN_SCALED, _MIN_FACTORED = 256, 2048
# Shares of the rank that is worth it by an estimate: the estimate is mostly too high.
_RANKS = (1.0, 0.7, 0.45)
# Gains that are fitted to all of an update are off by what one element tells of it. Where that may be a part of what
# factors leave (one in so many), and more than rounding, both are fitted in turn: so often at most, and for as long as
# each time leaves less than that share of the time before.
_OFF, _ABOVE_ROUNDING, _MAX_FITS, _FIT_HELPS = 20.0, 16.0, 8, 0.9
# Factors predict nothing that hardly ever changes.
_MIN_CHANGED = 0.02
# Where the low bits of all elements are zero: floats of 4 bytes that were half ones or bfloat16, and of 8 that were
# one of the narrower ones.
_ZEROS = {2: (), 4: (16, 13), 8: (45, 42, 29)}
# Fewer elements may end in zeros by chance, or because they are constants; a table of their own is not worth it.
_MIN_ZEROS = 1024

Singles = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """A way to code a tensor.

    Attributes:
        kind: of the table.
        data: the matrix; its streams and the table of its factors are not chosen yet.
        counts: of the numbers by level, for the choice of classes.
        bits: about what the tensor takes.
    """

    kind: Kind
    data: MatrixData
    counts: Tally
    bits: float


@dataclass(frozen=True, slots=True)
class Elements:
    """The bytes of a tensor's elements, and the short name of their type."""

    content: memoryview
    dtype: str

    @property
    def width(self) -> int:
        """The bytes of an element."""
        return WIDTHS[self.dtype]

    def part(self, elements: slice) -> memoryview:
        """Return the bytes of some of the elements."""
        return self.content[elements.start * self.width : elements.stop * self.width]


def plan_update(target: Elements, base: Elements, shape: tuple[int, ...], *, thorough: bool = True) -> TensorPlan:
    """Return the best way that was found to code a tensor as differences to a base.

    Args:
        target: the tensor.
        base: as many elements, of the same type or of another type of floats.
        shape: of the tensor.
        thorough: whether factors are tried, which take most of the time.
    """
    return _best(_Work(target, base), shape, thorough=thorough)


def plan_planes(target: Elements, shape: tuple[int, ...], origin: int = 0) -> TensorPlan:
    """Return the best way that was found to code a tensor without a base.

    Args:
        target: the tensor.
        shape: of it.
        origin: of the table, if it is one for floats.
    """
    return _best(_Work(target, None, origin), shape, thorough=False)


def _best(work: _Work, shape: tuple[int, ...], *, thorough: bool) -> TensorPlan:
    return min(_plans(work, shape, thorough=thorough), key=lambda plan: plan.bits)


def _plans(work: _Work, shape: tuple[int, ...], *, thorough: bool) -> Iterator[TensorPlan]:
    """Yield ways without scales, with scales, and with gains, factors and both beside them."""
    split, scales = _split(work, shape)
    yield work.plan(None, *split, level=_mean_level(work), prediction=None)
    if scales is None:
        return
    best = _scaled(work, split, None, scales)
    yield best
    gains = work.gains(split)
    if gains is not None:
        # Where a fit of squares finds gains, the elements may still need fewer bits without them.
        plan = _scaled(work, split, gains)
        yield plan
        gains = gains if plan.bits < best.bits or work.is_whole else None
    for prediction in _predictions(work, split, gains) if thorough else ():
        yield _scaled(work, split, prediction)


def _scaled(
    work: _Work, split: tuple[int, int], prediction: _Prediction | None, scales: Scales | None = None
) -> TensorPlan:
    """Return a way with scales: those that are known, or those that fit what is left of a prediction."""
    scales = scales or fit_scales(work.magnitudes(split, prediction))
    level = -MAX_LEVEL if scales is None else scales.level
    return work.plan(scales, *split, level=level, prediction=prediction)


def _mean_level(work: _Work) -> int:
    mean = work.mean()
    return half_octaves(mean) if mean > 0 else -MAX_LEVEL


def _split(work: _Work, shape: tuple[int, ...]) -> tuple[tuple[int, int], Scales | None]:
    """Return the rows and columns that tell most of a tensor's elements, with their scales."""
    best: tuple[float, tuple[int, int], Scales] | None = None
    splits = _splits(work.count, shape) or work.guessed_splits()
    for split in sorted(splits):
        scales = fit_scales(work.magnitudes(split, None))
        if scales is not None:
            # Of what elements are expected to be, an octave costs a bit.
            cost = scales.octaves_above(half_octaves(work.unit / 4)) * work.count + _side_bits(scales)
            best = min(best or (cost, split, scales), (cost, split, scales), key=lambda one: one[0])
    return ((1, work.count), None) if best is None else best[1:]


def _splits(count: int, shape: tuple[int, ...]) -> set[tuple[int, int]]:
    """Return the ways to see a tensor as a matrix: outermost dimension by the rest, and the rest by the innermost."""
    if count < _MIN_SCALED or prod(shape) != count or len(shape) < 2:
        return set()
    return {
        (rows, columns) for rows, columns in sides(shape) if min(rows, columns) >= 2 and max(rows, columns) <= MAX_SIDE
    }


def sides(shape: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return a shape's rows and columns: the outermost dimension by the rest, and the rest by the innermost one."""
    inner = len(shape) - 1
    return (shape[0], prod(shape[1:])), (prod(shape[:inner]), shape[inner])


def _side_bits(scales: Scales) -> float:
    return entropy(np.bincount(scales.rows)) + entropy(np.bincount(scales.columns)) + _MATRIX_BITS


def _predictions(work: _Work, split: tuple[int, int], gains: _Prediction | None) -> Iterator[_Prediction]:
    """Yield factors that may be worth it, beside the gains."""
    if not work.can_be_predicted:
        return
    floor = work.rounding_energy
    worthwhile = worthwhile_parts(work.update(split, gains), floor)
    if worthwhile is None:
        return
    parts, rank = worthwhile
    if gains is not None and _ABOVE_ROUNDING * floor < parts.beside(rank) < _OFF * parts.beside(0) / gains.share(split):
        gains, parts, rank = _fitted_together(work, split, gains, parts, rank)
    for candidate in sorted({round(rank * share) for share in _RANKS}):
        if candidate and (found := rounded_factors(parts, candidate, floor)) is not None:
            factors, exponent = found
            yield replace(gains or _Prediction(), factors=factors, exponent=exponent)


def _fitted_together(
    work: _Work, split: tuple[int, int], gains: _Prediction, parts: Decomposition, rank: int
) -> tuple[_Prediction, Decomposition, int]:
    """Return gains and parts that fit each other: each is fitted to what the other leaves, for as long as that helps.

    An adapter of normalised rows (DoRA, arXiv:2402.09353) is both, and large: gains that were fitted to all of the
    update are so far off that what they leave has no low rank.
    """
    best = gains, parts, rank
    for _ in range(_MAX_FITS):
        gains = replace(gains, gains=work.gain_sums(split, parts.first(rank)).gains(gains.side))
        found = worthwhile_parts(work.update(split, gains), work.rounding_energy)
        if found is None or found[0].beside(rank) > _FIT_HELPS * best[1].beside(rank):
            break
        parts = found[0]
        best = gains, *found
    return best


@dataclass(frozen=True, slots=True, eq=False)
class _Prediction:
    """What predicts elements from those of the base."""

    factors: Factors | None = None
    exponent: int = 0
    gains: Singles | None = None
    by_columns: bool = False

    def share(self, split: tuple[int, int]) -> int:
        """Return how many elements have a gain in common."""
        return split[0] if self.by_columns else split[1]

    @property
    def side(self) -> str:
        """Which side has gains, of `SIDES`."""
        return "columns" if self.by_columns else "rows"

    @property
    def rank(self) -> int:
        return 0 if self.factors is None else len(self.factors.shifts)

    @property
    def predicts(self) -> bool:
        return self.gains is not None or self.factors is not None

    @property
    def bits(self) -> float:
        """About what it takes."""
        bits = 0.0 if self.gains is None else float(GAIN_BITS * len(np.unique(self.gains)) + _COMMON_GAIN_BITS)
        if self.factors is not None:
            bits += estimated_bits(tally_factors(self.factors)) + _COMPONENT_BITS * self.rank
        return bits

    def subtract(self, update: Singles, base: Singles, start: int) -> None:
        """Take the prediction from the differences of some rows.

        Args:
            update: the differences of whole rows.
            base: the elements of the base.
            start: the first of the rows.
        """
        end = start + len(update)
        if self.gains is not None:
            gains = self.gains if self.by_columns else self.gains[start:end, None]
            update -= base * (gains - np.float32(1))
        if self.factors is not None:
            sums = self.factors.rows[:, start:end].T @ self.factors.columns
            update -= (sums * 2.0**self.exponent).astype(np.float32)


def _octaves(levels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return levels in octaves, each of which has room for the contexts of whole numbers."""
    octaves = np.minimum((levels + STEPS // 2) // STEPS, FRACTIONS - 1)
    return (octaves * FRACTIONS).astype(np.uint8)


class _Work:
    """A tensor, its base, and what is asked of both."""

    def __init__(self, target: Elements, base: Elements | None, origin: int = 0) -> None:
        kind = kind_of(target.dtype, None if base is None else base.dtype)
        self._float = FLOATS.get(target.dtype)
        self._target = target
        self._base = base
        self.count = len(target.content) // kind.width
        if self._float:
            kind = replace(kind, zeros=self._zeros(kind), origin=origin)
        self._kind = kind

    def _zeros(self, kind: Kind) -> int:
        if self.count < _MIN_ZEROS:
            return 0
        bits = np.bitwise_or.reduce(np.frombuffer(self._target.content, f"<u{kind.width}"))
        return next((zeros for zeros in _ZEROS[kind.width] if not int(bits) & ((1 << zeros) - 1)), 0)

    def _chunks(self, columns: int = 1) -> Iterator[slice]:
        """Yield runs of elements, of whole rows."""
        step = max(1, _CHUNK // columns) * columns
        for start in range(0, self.count, step):
            yield slice(start, min(start + step, self.count))

    def _values(self, elements: Elements, part: slice) -> npt.NDArray[Any]:
        """Return elements as numbers that can be subtracted, squared and summed; what is too large for that as 0."""
        octets = elements.part(part)
        numbers = FLOATS.get(elements.dtype)
        if numbers is None:
            return np.frombuffer(octets, f"<u{elements.width}")
        if numbers.number == "brain":
            values = (np.frombuffer(octets, "<u2").astype("<u4") << 16).view("<f4")
        else:
            values = np.frombuffer(octets, f"<f{numbers.width}").astype("<f8" if numbers.width == 8 else "<f4")
        if not len(values) or (values.min() > -_TOO_LARGE and values.max() < _TOO_LARGE):
            # Nearly always. What is no number is in no range.
            return values
        with np.errstate(invalid="ignore"):
            return np.where(np.abs(values) < _TOO_LARGE, values, values.dtype.type(0))

    def _differences(self, part: slice) -> npt.NDArray[Any]:
        target = self._values(self._target, part)
        if self._base is None:
            return target
        difference: npt.NDArray[Any] = target - self._values(self._base, part)
        return difference if self._float else np.asarray(difference.view(f"<i{self._kind.width}"))

    def mean(self) -> float:
        """Return how large a difference is on average."""
        sums = [float(np.abs(self._differences(part).astype(np.float64)).sum()) for part in self._chunks()]
        return sum(sums) / self.count

    def update(self, split: tuple[int, int], prediction: _Prediction | None = None) -> Singles:
        """Return the differences as a matrix, without what is predicted."""
        update = np.empty(self.count, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for part in self._chunks(split[1]):
                update[part] = self._differences(part)
                if prediction is not None and self._base is not None:
                    base = self._numbers(self._base, part).astype(np.float32).reshape(-1, split[1])
                    prediction.subtract(update[part].reshape(-1, split[1]), base, part.start // split[1])
                    # Gains may be as large as floats are.
                    np.nan_to_num(update[part], copy=False, posinf=0.0, neginf=0.0)
        return update.reshape(split)

    def magnitudes(self, split: tuple[int, int], prediction: _Prediction | None) -> Singles:
        """Return how large the differences are that are left of a prediction."""
        update = self.update(split, prediction)
        return np.abs(update, out=update)

    def gains(self, split: tuple[int, int]) -> _Prediction | None:
        """Return gains of rows or columns, if they are worth it."""
        base = self._base
        if base is None or (self._float is None and self._kind.width > MAX_WHOLE_BYTES):
            return None
        sums = self.gain_sums(split)
        saved, side = max((sums.saved_bits(side, self.rounding_energy), side) for side in SIDES)
        return _Prediction(gains=sums.gains(side), by_columns=side == "columns") if saved > 0 else None

    def gain_sums(self, split: tuple[int, int], parts: Decomposition | None = None) -> GainSums:
        """Return the sums that gains are fitted by, to a tensor with a base: to all of it, or to it without parts."""
        assert self._base is not None
        sums = GainSums(split)
        for part in self._chunks(split[1]):
            target, row = self._numbers(self._target, part), part.start // split[1]
            if parts is not None:
                target = target - parts.rows(row, row + len(target) // split[1]).ravel()
            sums.add(target, self._numbers(self._base, part), row)
        return sums

    def _numbers(self, elements: Elements, part: slice) -> npt.NDArray[Any]:
        """Return elements as numbers with signs."""
        values = self._values(elements, part)
        return values if self._float else np.asarray(values.view(f"<i{self._kind.width}"))

    def guessed_splits(self) -> set[tuple[int, int]]:
        """Return the rows and columns that a tensor seems to have whose shape is not known."""
        if self._base is None or not self.can_be_predicted:
            return set()
        some = slice(0, min(self.count, GUESSED))
        with np.errstate(over="ignore"):
            target, base = (self._values(one, some).astype(np.float32) for one in (self._target, self._base))
        columns = guess_columns(target, base, self.count, self.unit)
        return set() if columns is None else {(self.count // columns, columns)}

    @cached_property
    def can_be_predicted(self) -> bool:
        """Whether factors could be worth it."""
        if (
            self._base is None
            or self.count < _MIN_FACTORED
            or (self._float is None and self._kind.width > MAX_WHOLE_BYTES)
        ):
            return False
        changed = sum(int(np.count_nonzero(self._differences(part))) for part in self._chunks())
        return changed > _MIN_CHANGED * self.count

    @property
    def is_whole(self) -> bool:
        """Whether the elements are whole numbers."""
        return self._float is None

    @property
    def unit(self) -> float:
        """About what a difference is at least that is not 0."""
        return max(float(np.sqrt(12 * self.rounding_energy / self.count)), 1e-300)

    @cached_property
    def rounding_energy(self) -> float:
        """The sum of squares of what rounding adds to the elements, about."""
        if self._float is None:
            # Both the tensor and its base were rounded to whole numbers, by a sixth of one together in squares.
            return self.count / 12
        squares = sum(
            float(np.square(self._values(self._target, part), dtype=np.float64).sum()) for part in self._chunks()
        )
        # Of a unit in the last place, which is 2^-digits of an element to half of that; a twelfth of its square.
        return squares * 2.0 ** (-2 * self._float.shift if self._float.width < 8 else -104) / 24

    def plan(
        self, scales: Scales | None, rows: int, columns: int, *, level: int, prediction: _Prediction | None
    ) -> TensorPlan:
        """Return a way to code the tensor, with its price."""
        prediction = prediction or _Prediction()
        kind = self._kind
        if self._float is None and prediction.predicts:
            # The fraction of the prediction is the context: the lowest part of the level.
            kind = replace(kind, slope=1)
        data = self._matrix(scales, rows, columns, level, prediction)
        table = kind.table(0, bytes(LEVELS), (ClassCoding(0),))
        counts = tally(kind.width, (self._numbers_and_levels(table, data, part) for part in self._chunks()))
        bits = estimated_bits(counts) + _OPERATION_BITS + prediction.bits
        if scales is not None:
            bits += _side_bits(scales)
        return TensorPlan(kind, data, counts, bits)

    def _numbers_and_levels(
        self, table: Table, data: MatrixData, part: slice
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
        base = None if self._base is None else self._base.part(part)
        return numbers_and_levels(table, self._target.part(part), base, data, part.start)

    def _matrix(
        self, scales: Scales | None, rows: int, columns: int, level: int, prediction: _Prediction
    ) -> MatrixData:
        empty = np.zeros(0, np.uint8)
        of_rows = empty if scales is None else np.minimum(scales.rows, 255).astype(np.uint8)
        of_columns = empty if scales is None else np.minimum(scales.columns, 255).astype(np.uint8)
        whole = min(max(self._level_of_one() + level, 0), MAX_LEVEL)
        if self._float is None and prediction.predicts:
            whole = min(max(_UNIT_OCTAVE + round(level / STEPS), 0), FRACTIONS - 1) * FRACTIONS
            of_rows, of_columns = (_octaves(levels) for levels in (of_rows, of_columns))
        matrix = Matrix(
            rows,
            columns,
            level=whole,
            scales=None if scales is None else 0,
            rank=prediction.rank,
            exponent=prediction.exponent,
            gains=None if prediction.gains is None else 0,
            by_columns=prediction.by_columns,
        )
        return MatrixData(matrix, of_rows, of_columns, prediction.factors, prediction.gains)

    def _level_of_one(self) -> int:
        """Return the level of an element in whose place the differences are 1 on average, and the context 0."""
        if self._base is None:
            return _PLANES_LEVEL
        return _UNIT_LEVEL - STEPS * self._float.unit if self._float else _UNIT_LEVEL
