"""How a tensor of floats of 4 bytes is coded that is one of floats of 2 bytes, times a unit for each row or column."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import numpy.typing as npt

from artifacts.patch.gains import GAIN_BITS
from artifacts.patch.matrix import MAX_SIDE, MAX_UNITS, Matrix, MatrixData
from artifacts.patch.tensor_plan import Elements, TensorPlan, plan_planes, plan_update, sides
from artifacts.patch.units import ORIGIN, Units, find_units

__all__ = ["plan_in_units"]

Singles = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _InUnits:
    """A tensor with its units."""

    units: Units
    rows: int
    columns: int

    @property
    def halves(self) -> Elements:
        """The elements in their units."""
        return Elements(self.units.halves.data.cast("B"), "f16")


def plan_in_units(
    target: Elements, base: Elements | None, shape: tuple[int, ...], *, thorough: bool = True
) -> tuple[TensorPlan, bool] | None:
    """Return the best way to code a tensor in units, and whether with its base; None if it has none.

    Args:
        target: the tensor.
        base: as many elements; None without one. It is of use if it has units too.
        shape: of the tensor.
        thorough: as of `plan_update`.
    """
    if target.dtype != "f32" or (new := _found(target, shape)) is None:
        return None
    options = [(_in_units(plan_planes(new.halves, shape, ORIGIN), new, None), False)]
    old = None if base is None or base.dtype != "f32" else _found(base, shape)
    if old is not None and old.units.by_columns == new.units.by_columns:
        new = _near(new, old)
        plan = plan_update(new.halves, old.halves, shape, thorough=thorough)
        options.append((_in_units(plan, new, old), True))
    possible = [(plan, with_base) for plan, with_base in options if plan is not None]
    return min(possible, key=lambda option: option[0].bits, default=None)


def _found(elements: Elements, shape: tuple[int, ...]) -> _InUnits | None:
    values = np.frombuffer(elements.content, "<f4")
    for by_columns, (rows, columns) in _splits(len(values), shape):
        units = find_units(values.reshape(rows, columns), by_columns=by_columns)
        if units is not None:
            return _InUnits(units, rows, columns)
    return None


def _splits(count: int, shape: tuple[int, ...]) -> Iterator[tuple[bool, tuple[int, int]]]:
    """Yield the sides that may have units: the outermost dimension, and the innermost one."""
    if len(shape) < 2 or prod(shape) != count:
        return
    for by_columns, (rows, columns) in zip((False, True), sides(shape), strict=True):
        if max(rows, columns) <= MAX_SIDE and (columns if by_columns else rows) <= MAX_UNITS:
            yield by_columns, (rows, columns)


def _near(new: _InUnits, old: _InUnits) -> _InUnits:
    """Return a tensor whose elements are about as large as those of its base: units are found up to a power of two."""
    by_columns = new.units.by_columns
    sizes = [np.abs(one.units.halves).sum(axis=0 if by_columns else 1, dtype=np.float64) for one in (new, old)]
    with np.errstate(divide="ignore", invalid="ignore"):
        octaves = np.nan_to_num(np.rint(np.log2(sizes[1] / sizes[0])), posinf=0.0, neginf=0.0)
    # More would make the largest ones infinite, or take bits from small ones.
    factors = np.float32(2) ** np.clip(octaves, -1, 1).astype(np.float32)
    of_each = (factors if by_columns else factors[:, None]).astype(np.float16)
    halves = new.units.halves * of_each
    units = (new.units.units / factors).astype(np.float32)
    is_exact = np.array_equal(halves / of_each, new.units.halves) and np.array_equal(units * factors, new.units.units)
    return replace(new, units=replace(new.units, units=units, halves=halves)) if is_exact else new


def _in_units(plan: TensorPlan, new: _InUnits, old: _InUnits | None) -> TensorPlan | None:
    """Return a way to code a tensor whose elements are coded in units by a plan; None if one matrix cannot say both."""
    matrix = plan.data.matrix
    if not matrix.has_sides:
        matrix = replace(matrix, rows=new.rows, columns=new.columns)
    by_columns = new.units.by_columns
    if matrix.gains is not None and matrix.by_columns != by_columns:
        return None
    units, gains = _spread(new, matrix), plan.data.gains
    if units is None:
        return None
    bits, kind = GAIN_BITS * len(new.units.units), plan.kind
    if old is not None:
        of_base = _spread(old, matrix)
        assert of_base is not None
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            scaled = (np.float32(1) if gains is None else gains) / of_base
        # Channels that are dead have next to nothing that could be predicted from.
        gains = np.where(np.isfinite(scaled), scaled, np.float32(0)).astype(np.float32)
        bits, kind = 2 * bits, replace(kind, base="single")
    whole = replace(matrix, units=0, gains=None if gains is None else 0, by_columns=by_columns)
    data = MatrixData(whole, plan.data.row_levels, plan.data.column_levels, plan.data.factors, gains, units)
    return TensorPlan(kind, data, plan.counts, plan.bits + bits)


def _spread(one: _InUnits, matrix: Matrix) -> Singles | None:
    """Return the units of all rows or columns of a matrix, which may see the tensor's dimensions in another way."""
    units = one.units.units
    side = matrix.columns if one.units.by_columns else matrix.rows
    if side % len(units) or side > MAX_UNITS:
        return None
    times = side // len(units)
    return np.tile(units, times) if one.units.by_columns else np.repeat(units, times)
