"""How tensors are planned: what they have in common is found, and estimates are near what is written."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from artifacts.patch.classes import choose_classes
from artifacts.patch.codebook import StreamPlan, make_codebook
from artifacts.patch.elements import encode_block
from artifacts.patch.factors import decompose, rounded_factors, worthwhile_rank
from artifacts.patch.gains import GainSums
from artifacts.patch.guess import guess_columns
from artifacts.patch.kinds import kind_of
from artifacts.patch.scales import fit_scales
from artifacts.patch.tally import LEVELS, buckets, entropy, estimated_bits, tally
from artifacts.patch.tensor_plan import Elements, TensorPlan, plan_planes, plan_update
from artifacts.patch.writer import frame_of
from tests.finetunes import halved, model, normalized, quantized, trained

Parts = list[tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]]

STREAMS = StreamPlan(escapes=0, bits=1, first=2, most=20, frame_bytes=1 << 16)


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_buckets_cover_all_numbers_without_gaps(width: int) -> None:
    found = buckets(width)
    ends = [int(start) + (1 << int(bits)) for start, bits in zip(found.starts, found.bits, strict=True)]
    assert ends[:-1] == [int(start) for start in found.starts[1:]]
    assert ends[-1] == 1 << 8 * width


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_each_number_is_counted_in_its_bucket(dtype: type) -> None:
    found = buckets(np.dtype(dtype).itemsize)
    numbers = np.concatenate([found.starts, found.starts + (1 << found.bits).astype(np.uint64) - np.uint64(1)])
    parts: Parts = [(some.astype(dtype), np.full(len(some), 7, np.uint8)) for some in np.array_split(numbers, 3)]
    counts = tally(np.dtype(dtype).itemsize, parts)
    assert counts.levels.tolist() == [7]
    assert counts.table().tolist() == [[2] * len(found.starts)]
    assert counts.total == len(numbers)


@settings(deadline=None)
@given(arrays.arrays(np.uint32, st.integers(1, 300)), st.data())
def test_classes_cover_every_level(numbers: npt.NDArray[np.uint32], data: st.DataObject) -> None:
    levels = data.draw(arrays.arrays(np.uint8, len(numbers)))
    chosen = choose_classes(tally(4, [(numbers, levels)]))
    assert len(chosen.lut) == LEVELS
    assert max(chosen.lut) < len(chosen.choices) <= 16
    assert all(0 <= choice.low_bits < 32 for choice in chosen.choices)


def test_entropy_is_that_of_frequencies() -> None:
    assert entropy(np.array([4, 4, 0])) == 8
    assert entropy(np.array([5])) == 0
    assert entropy(np.array([0])) == 0


def test_scales_of_rows_and_columns_are_found() -> None:
    generator = np.random.default_rng(0)
    rows, columns = 2.0 ** generator.integers(-6, 6, 40), 2.0 ** generator.integers(-6, 6, 50)
    magnitudes = np.abs(generator.normal(size=(40, 50)) * rows[:, None] * columns).astype(np.float32)
    scales = fit_scales(magnitudes)
    assert scales is not None
    found = scales.rows[:, None] + scales.columns + scales.level
    wanted = 2 * np.log2(np.sqrt(2 / np.pi) * rows[:, None] * columns)
    assert np.abs(found - wanted).mean() < 1


@pytest.mark.parametrize("value", [0.0, 1e-40, 3e38])
def test_scales_of_the_smallest_and_largest_floats_are_no_error(value: float) -> None:
    scales = fit_scales(np.full((4, 4), value, np.float32))
    assert scales is None or np.abs(scales.level) < 600


def test_an_exact_low_rank_is_found_and_rounded_finely() -> None:
    generator = np.random.default_rng(0)
    update = (generator.normal(size=(96, 3)) @ generator.normal(size=(3, 128))).astype(np.float32)
    parts = decompose(update.copy())
    assert parts is not None
    floor = float(np.square(update).sum()) * 1e-12
    assert worthwhile_rank(parts, floor) == 3
    found = rounded_factors(parts, 3, floor)
    assert found is not None
    factors, exponent = found
    left = update - factors.rows.T @ factors.columns * 2.0**exponent
    assert np.square(left).sum() < 3 * floor


@pytest.mark.parametrize("noise", [1e-3, 1e-5])
def test_what_is_beside_the_parts_is_told_however_little_it_is(noise: float) -> None:
    rng = np.random.default_rng(7)
    exact = rng.standard_normal((300, 8)) @ rng.standard_normal((8, 200))
    update = (exact + noise * rng.standard_normal(exact.shape)).astype(np.float32)
    values = np.linalg.svd(update.astype(np.float64), compute_uv=False)
    parts = decompose(update.copy(), 8)
    assert parts is not None
    assert parts.beside(8) == pytest.approx(float((values[8:] ** 2).sum()), rel=0.2)
    assert parts.beside(3) == pytest.approx(float((values[3:] ** 2).sum()), rel=1e-3)


def test_noise_has_no_rank_that_is_worth_it() -> None:
    parts = decompose(np.random.default_rng(0).normal(size=(96, 128)).astype(np.float32))
    assert parts is not None
    assert worthwhile_rank(parts, 0.0) == 0


@pytest.mark.parametrize("shape", [(24, 3000), (3000, 24), (700, 600)])
@pytest.mark.parametrize("rank", [1, 4])
def test_matrices_of_lower_rank_than_directions_that_are_tried_have_exact_parts(
    shape: tuple[int, int], rank: int
) -> None:
    rng = np.random.default_rng(9)
    update = (rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1]))).astype(np.float32)
    # Nothing tells most directions apart there.
    update[:, ::3] = 0
    parts = decompose(update.copy())
    assert parts is not None
    assert np.isfinite(parts.left).all()
    assert np.isfinite(parts.right).all()
    assert np.allclose(parts.rows(0, shape[0]), update, atol=1e-4 * np.abs(update).max())
    assert np.allclose(parts.left[:, :rank].T @ parts.left[:, :rank], np.eye(rank), atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 50), (50, 1), (7, 100), (40, 50)])
def test_matrices_that_are_zero_or_thin_have_no_parts(shape: tuple[int, int]) -> None:
    assert decompose(np.zeros(shape, np.float32)) is None


@pytest.mark.parametrize("side", ["all", "rows", "columns"])
def test_gains_are_fitted(side: str) -> None:
    generator = np.random.default_rng(0)
    base = generator.normal(size=(30, 40))
    gains = {
        "all": np.full((30, 1), 1.25),
        "rows": generator.normal(1, 0.1, (30, 1)),
        "columns": generator.normal(1, 0.1, (1, 40)),
    }
    sums = GainSums((30, 40))
    sums.add(base * gains[side], base, 0)
    assert np.allclose(sums.gains(side), gains[side].ravel())
    assert sums.saved_bits(side, 1e-9) > 0
    assert max(("all", "rows", "columns"), key=lambda one: sums.saved_bits(one, 1e-9)) == side


def test_the_rows_of_a_flat_update_are_guessed() -> None:
    generator = np.random.default_rng(0)
    base = generator.normal(size=(48, 80)).astype(np.float32)
    target = (base * generator.normal(1, 0.1, (48, 1)) + 1e-3 * generator.normal(size=(48, 80))).astype(np.float32)
    assert guess_columns(target.ravel(), base.ravel(), base.size, 1e-7) == 80


def test_an_update_without_rows_is_left_flat() -> None:
    generator = np.random.default_rng(0)
    base = generator.normal(size=4096).astype(np.float32)
    target = (base + 1e-3 * generator.normal(size=4096)).astype(np.float32)
    assert guess_columns(target, base, base.size, 1e-7) is None


def _elements(values: npt.NDArray[np.generic], dtype: str) -> Elements:
    return Elements(memoryview(values.tobytes()), dtype)


def _update(new: npt.NDArray[np.generic], old: npt.NDArray[np.generic], dtype: str, base: str = "") -> TensorPlan:
    return plan_update(_elements(new, dtype), _elements(old, base or dtype), new.shape)


def _written(plan: TensorPlan, new: Elements, old: Elements | None) -> int:
    """Return what the elements take that a plan leads to, without those of its matrix."""
    book = make_codebook([(plan.kind, plan.counts)], STREAMS)
    whole = slice(0, len(new.content) // new.width)
    streams: dict[int, bytes] = {}
    base = None if old is None else old.part(whole)
    for stream, content in encode_block(book.tables[0], new.part(whole), base, plan.data):
        streams[stream] = streams.get(stream, b"") + content
    return sum(len(frame_of(content)) for content in streams.values())


def test_an_adapter_that_was_merged_costs_its_factors_alone() -> None:
    generator = np.random.default_rng(0)
    old = generator.normal(size=(256, 256)).astype(np.float32)
    update = generator.normal(size=(256, 4)) @ generator.normal(size=(4, 256))
    plan = _update((old + 1e-3 * update).astype(np.float32), old, "f32")
    assert plan.data.matrix.rank == 4
    assert plan.bits < 0.12 * 32 * old.size  # without factors, 0.6


def test_channels_that_were_multiplied_cost_a_factor_each() -> None:
    old, new = model()["conv.weight"], normalized(model())["conv.weight"]
    plan = _update(new, old, "f32")
    assert plan.data.matrix.gains is not None
    assert plan.bits < 0.15 * 32 * old.size


@pytest.mark.parametrize("dtype", ["f16", "f32", "i8"])
def test_updates_are_estimated_about_as_they_are_written(dtype: str) -> None:
    kinds = {"f16": halved, "f32": lambda weights: weights, "i8": quantized}
    old, new = (kinds[dtype](weights)["hidden.weight"] for weights in (model(), trained(model())))
    plan = _update(new, old, dtype)
    written = _written(plan, _elements(new, dtype), _elements(old, dtype))
    of_matrix = plan.bits / 8 - estimated_bits(plan.counts) / 8
    assert written == pytest.approx(plan.bits / 8 - of_matrix, rel=0.08, abs=400)
    assert plan.bits < 0.7 * 8 * new.nbytes


def test_a_base_of_another_type_is_converted() -> None:
    old = model()["hidden.weight"]
    plan = _update(old.astype(np.float16), old, "f16", "f32")
    assert plan.kind.base == "single"
    assert plan.bits < 2000


def test_floats_that_were_narrower_have_no_low_bits() -> None:
    old, new = (
        weights["hidden.weight"].astype(np.float16).astype(np.float32) for weights in (model(), trained(model()))
    )
    wide, narrow = _update(new, old, "f32"), _update(new.astype(np.float16), old.astype(np.float16), "f16")
    assert wide.kind.zeros == 13
    assert wide.bits < 1.05 * narrow.bits


def test_a_tensor_without_a_base_takes_what_its_exponents_do_not_tell() -> None:
    values = model()["hidden.weight"]
    plan = plan_planes(_elements(values, "f32"), values.shape, origin=128)
    assert 0.80 < plan.bits / (32 * values.size) < 0.85


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32", "f64", "i8", "u8", "i16", "i32", "i64"])
@pytest.mark.parametrize("shape", [(1,), (3,), (1000,), (1, 1, 1), (20, 30), (4, 5, 6, 7)])
def test_every_type_and_shape_has_a_plan(dtype: str, shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    count = int(np.prod(shape))
    width = Elements(memoryview(b""), dtype).width
    # Bits at random: not a number, infinite, and of any size.
    new, old = (generator.integers(0, 256, (count, width), np.uint8) for _ in range(2))
    target = Elements(memoryview(new.tobytes()), dtype)
    for plan in (plan_update(target, Elements(memoryview(old.tobytes()), dtype), shape), plan_planes(target, shape)):
        assert plan.data.matrix.rows * plan.data.matrix.columns == count
        assert plan.counts.total == count
        assert np.isfinite(plan.bits)


def test_streams_are_not_more_than_allowed() -> None:
    generator = np.random.default_rng(0)
    levels = generator.integers(0, 60, 20000).astype(np.uint8)
    numbers = (generator.exponential(size=20000) * 2.0 ** (levels / 2)).astype(np.uint32)
    kinds = [kind_of("f32", "f32"), kind_of("f32", None), kind_of("u32", "u32")]
    items = [(kind, tally(4, [(numbers, levels)])) for kind in kinds]
    for most in (2, 5, 20):
        book = make_codebook(items, StreamPlan(0, 1, 2, most, 1 << 16))
        used = {coding.symbols for table in book.tables for coding in table.classes}
        used |= {coding.mask for table in book.tables for coding in table.classes if coding.mask is not None}
        assert used <= set(range(2, 2 + most))
