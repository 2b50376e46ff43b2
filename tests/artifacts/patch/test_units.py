"""Weights of half precision that an export multiplied by a number for each channel: the numbers are found again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from artifacts.patch.units import find_units
from tests.artifacts.patch.files import trained, weights
from tests.artifacts.patch.making import patched_tensor

Singles = NDArray[np.float32]


def _scales(count: int, seed: int = 1) -> Singles:
    return np.random.default_rng(seed).uniform(0.2, 3, count).astype(np.float32)


def _halves(*shape: int, seed: int = 0) -> Singles:
    return weights(*shape, seed=seed).astype(np.float16).astype(np.float32)


def _same(found: NDArray[np.float16], units: Singles, values: Singles) -> bool:
    """Tell whether products with units are a tensor, bit for bit."""
    made = (found.astype(np.float64) * units).astype(np.float32)
    return bool(np.array_equal(made.view(np.uint32), values.view(np.uint32)))


@pytest.mark.parametrize("columns", [9, 64, 1000])
def test_units_of_rows_are_found(columns: int) -> None:
    values = _halves(300, columns) * _scales(300)[:, None]
    values[7] = 0
    values[8, 2:] = -0.0
    found = find_units(values, by_columns=False)
    assert found is not None
    assert _same(found.halves, found.units[:, None], values)


def test_units_of_columns_are_found() -> None:
    values = _halves(64, 40) * _scales(40)
    assert find_units(values, by_columns=False) is None
    found = find_units(values, by_columns=True)
    assert found is not None
    assert _same(found.halves, found.units, values)


def test_whole_numbers_and_the_smallest_halves_have_units_too() -> None:
    random = np.random.default_rng(2)
    for values in (random.integers(-127, 128, (50, 80)), random.integers(-1023, 1024, (50, 80)) * 2.0**-24):
        tensor = (values * _scales(50)[:, None].astype(np.float64)).astype(np.float32)
        found = find_units(tensor, by_columns=False)
        assert found is not None
        assert _same(found.halves, found.units[:, None], tensor)


@pytest.mark.parametrize("odd", [np.nan, np.inf, 1.2345678])
def test_one_odd_element_is_enough_to_have_none(odd: float) -> None:
    values = _halves(300, 64) * _scales(300)[:, None]
    values[299, 3] = odd
    assert find_units(values, by_columns=False) is None


@pytest.mark.parametrize("shape", [(300, 64), (2, 9), (5, 3), (1, 1), (0, 4), (4, 0)])
def test_other_weights_have_none(shape: tuple[int, int]) -> None:
    assert find_units(weights(*shape), by_columns=False) is None or not weights(*shape).any()


# Outermost channels, as in ONNX, and innermost ones, as in TensorFlow.
@pytest.mark.parametrize(("shape", "channels"), [((64, 32, 3, 3), (64, 1, 1, 1)), ((3, 3, 32, 64), (64,))])
def test_an_export_of_other_halves_takes_half_of_its_bits(
    tmp_path: Path, shape: tuple[int, ...], channels: tuple[int, ...]
) -> None:
    new = _halves(*shape, seed=3) * _scales(64).reshape(channels)
    report = patched_tensor(tmp_path, weights(*shape), new)
    assert report.encoded.length < 0.46 * new.nbytes
    assert any("in units of" in region.how for region in report.regions)


@pytest.mark.parametrize(("shape", "channels"), [((64, 32, 3, 3), (64, 1, 1, 1)), ((3, 3, 32, 64), (64,))])
def test_an_export_of_halves_that_were_trained_takes_what_changed(
    tmp_path: Path, shape: tuple[int, ...], channels: tuple[int, ...]
) -> None:
    halves = _halves(*shape)
    old = halves * _scales(64).reshape(channels)
    moved = trained(halves, step=0.005).astype(np.float16).astype(np.float32)
    new = moved * (_scales(64) * _scales(64, seed=4) ** np.float32(0.01)).reshape(channels)
    assert patched_tensor(tmp_path, old, new).encoded.length < 0.2 * new.nbytes


def test_units_are_found_of_a_base_in_another_order_too(tmp_path: Path) -> None:
    halves = _halves(64, 32, 3, 3)
    moved = trained(halves, step=0.005).astype(np.float16).astype(np.float32)
    old, new = (one * _scales(64, seed).reshape(64, 1, 1, 1) for seed, one in ((1, halves), (2, moved)))
    report = patched_tensor(tmp_path, old, np.ascontiguousarray(new.transpose(0, 2, 3, 1)))
    assert report.encoded.length < 0.22 * new.nbytes
    assert any("another order" in region.how and "in units" in region.how for region in report.regions)


def test_an_export_with_other_statistics_takes_its_channels(tmp_path: Path) -> None:
    halves = _halves(64, 32, 3, 3)
    old, new = (halves * _scales(64, seed).reshape(64, 1, 1, 1) for seed in (1, 2))
    assert patched_tensor(tmp_path, old, new).encoded.length < 0.06 * new.nbytes


def test_rows_whose_largest_weights_are_equal_have_units_too() -> None:
    random = np.random.default_rng(6)
    for values in (
        np.clip(random.normal(0, 90, (40, 4096)).round(), -127, 127),
        np.clip(_halves(40, 4096), -0.0625, 0.0625),
    ):
        tensor = (values * _scales(40)[:, None].astype(np.float64)).astype(np.float32)
        found = find_units(tensor, by_columns=False)
        assert found is not None
        assert _same(found.halves, found.units[:, None], tensor)


@pytest.mark.parametrize("small", [1e-35, 1e-36, 2.0**-120, 1e-45])
def test_channels_that_are_dead_in_the_base_are_coded_without_it(tmp_path: Path, small: float) -> None:
    halves = _halves(64, 288)
    scales = _scales(64)[:, None]
    old, new = halves * scales, trained(halves, step=0.005).astype(np.float16).astype(np.float32) * scales
    old[5] = 0
    old[5, 7] = small
    # What is too small for a unit of its own leaves all to be coded without a base.
    most = 0.3 if small > 1e-40 else 0.46
    assert patched_tensor(tmp_path, old, new).encoded.length < most * new.nbytes
    assert patched_tensor(tmp_path, new, old).encoded.length < 0.9 * new.nbytes


# In units, and as halves kept as floats.
@pytest.mark.parametrize("kind", ["units", "halves"])
def test_weights_with_few_bits_are_found_in_another_order_too(tmp_path: Path, kind: str) -> None:
    old = _halves(96, 160)
    if kind == "units":
        old = old * _scales(96)[:, None]
    assert patched_tensor(tmp_path, old, np.ascontiguousarray(old.T)).encoded.length < 200
