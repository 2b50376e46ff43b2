"""What releases change beside training: rows sorted anew, adapters merged, weights pruned. Each costs what it tells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from artifacts.patch.elsewhere import Part, found_elsewhere
from artifacts.patch.opened import opened
from tests.artifacts.patch.files import Array, safetensors, weights
from tests.artifacts.patch.making import patched, patched_tensor

ROWS = 1000


def _bytes(folder: Path, old: Array, new: Array) -> int:
    return patched_tensor(folder, old, new).encoded.length


def _order(rows: int) -> NDArray[np.int64]:
    return np.asarray(np.random.default_rng(5).permutation(rows), np.int64)


def _updated(array: Array, step: float = 1e-4) -> Array:
    """Add an update that is noise: what no tool can predict."""
    noise: Array = np.random.default_rng(6).normal(0, step, array.shape)
    return np.asarray(array + noise, array.dtype)


# From rows that are aligned as parts of a tensor to some that only a search for equal bytes finds.
@pytest.mark.parametrize(
    ("columns", "dtype"),
    [(1024, np.float32), (1024, np.float16), (128, np.float32), (64, np.float16), (16, np.float32)],
)
def test_rows_in_another_order_cost_their_places(tmp_path: Path, columns: int, dtype: type) -> None:
    old: Array = weights(ROWS, columns).astype(dtype)
    assert _bytes(tmp_path, old, old[_order(ROWS)]) < 300 + 4 * ROWS


def test_a_few_rows_in_another_place_cost_their_places(tmp_path: Path) -> None:
    old = weights(ROWS, 128)
    new = old.copy()
    new[100:140] = old[100:140][_order(40)]
    assert _bytes(tmp_path, old, new) < 600


def test_a_few_rows_that_were_trained_cost_no_more_beside_many_that_were_not(tmp_path: Path) -> None:
    old = weights(ROWS, 128)
    new = old.copy()
    new[100:110] = _updated(old[100:110])
    # 17 of 32 bits are noise.
    assert _bytes(tmp_path, old, new) < 0.68 * new[100:110].nbytes + 200


def test_quantized_rows_in_another_order_cost_their_places(tmp_path: Path) -> None:
    old = np.rint(weights(ROWS, 128, scale=20.0)).astype(np.int8)
    assert _bytes(tmp_path, old, old[_order(ROWS)]) < 300 + 4 * ROWS


def test_rows_that_were_trained_and_sorted_anew_cost_little_more_than_trained(tmp_path: Path) -> None:
    old = weights(ROWS, 1024)
    new = _updated(old)
    assert _bytes(tmp_path, old, new[_order(ROWS)]) < 1.02 * _bytes(tmp_path, old, new)


@pytest.mark.parametrize("size", [1e-2, 1e-3, 1e-5])
def test_a_merged_adapter_costs_its_factors_however_large_it_is(tmp_path: Path, size: float) -> None:
    random = np.random.default_rng(7)
    down, up = (random.standard_normal((512, 8), np.float32) for _ in range(2))
    old = weights(512, 512)
    # An update that is larger than the weights moves their exponents, whose last bits then tell less.
    assert _bytes(tmp_path, old, old + np.float32(size) * (down @ up.T)) < 0.16 * old.nbytes


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_an_adapter_of_normalised_rows_costs_its_factors_and_a_number_for_each_row(tmp_path: Path, dtype: type) -> None:
    random = np.random.default_rng(7)
    down, up = (random.standard_normal((512, 8), np.float32) for _ in range(2))
    old = weights(512, 512)
    adapted = old + np.float32(2e-3) * (down @ up.T)
    # As in DoRA, arXiv:2402.09353: each row has the length that it had, but for a factor that was trained.
    lengths = [np.linalg.norm(one, axis=1, keepdims=True) for one in (old, adapted)]
    new = adapted * lengths[0] / lengths[1] * random.normal(1, 0.02, (512, 1))
    assert _bytes(tmp_path, old.astype(dtype), new.astype(dtype)) < 0.2 * new.astype(dtype).nbytes


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_weights_that_were_pruned_cost_which_ones(tmp_path: Path, share: float) -> None:
    old = weights(512, 512)
    new = np.where(np.random.default_rng(8).random(old.shape) < share, np.float32(0), old)
    report = patched_tensor(tmp_path, old, new)
    assert report.encoded.length < 0.08 * old.nbytes
    assert "data with its base" in {region.how for region in report.regions}


def test_weights_that_were_clipped_cost_where(tmp_path: Path) -> None:
    old = weights(512, 512)
    assert _bytes(tmp_path, old, np.clip(old, -0.08, 0.08)) < 0.07 * old.nbytes


# A matrix transposed, square or not; convolutions of ONNX as TensorFlow Lite has them, and the other way.
@pytest.mark.parametrize(
    ("shape", "order"),
    [((96, 160), (1, 0)), ((128, 128), (1, 0)), ((32, 16, 3, 3), (0, 2, 3, 1)), ((3, 3, 32, 32), (3, 2, 0, 1))],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8])
def test_dimensions_in_another_order_cost_nothing(
    tmp_path: Path, shape: tuple[int, ...], order: tuple[int, ...], dtype: type
) -> None:
    old: Array = (weights(*shape) * (2000 if dtype is np.int8 else 1)).astype(dtype)
    report = patched_tensor(tmp_path, old, np.ascontiguousarray(old.transpose(order)))
    assert report.encoded.length < 200
    assert any("dimensions in another order" in region.how for region in report.regions)


def test_dimensions_in_another_order_cost_little_more_after_training(tmp_path: Path) -> None:
    old = weights(64, 32, 3, 3)
    new = _updated(old)
    turned = np.ascontiguousarray(new.transpose(0, 2, 3, 1))
    assert _bytes(tmp_path, old, turned) < 1.02 * _bytes(tmp_path, old, new)


def test_dimensions_in_another_order_are_left_alone_where_decoding_would_take_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("artifacts.patch.planner._ARRANGED_SHARE", 0.0)
    old = weights(96, 160)
    report = patched_tensor(tmp_path, old, np.ascontiguousarray(old.T))
    assert "tensors" in report.sizes
    assert not any("another order" in region.how for region in report.regions)


def test_of_several_tensors_with_the_same_dimensions_the_right_one_is_found(tmp_path: Path) -> None:
    old = {f"layer{number}": weights(64, 96, seed=number) for number in range(8)}
    new = {f"renamed{(number * 3) % 8}": np.ascontiguousarray(array.T) for number, array in enumerate(old.values())}
    assert patched(tmp_path, safetensors(old), safetensors(new)).encoded.length < 1000


def test_a_part_that_is_elsewhere_is_told_from_one_that_is_not(tmp_path: Path) -> None:
    old = weights(ROWS, 64)
    moved, fresh = old[_order(ROWS)], weights(ROWS, 64, seed=9)
    (tmp_path / "old").write_bytes(old.tobytes())
    (tmp_path / "new").write_bytes(moved.tobytes() + fresh.tobytes() + b"short")
    parts = [
        Part(0, moved.nbytes, 0),
        Part(moved.nbytes, fresh.nbytes, None),
        Part(moved.nbytes + fresh.nbytes, 5, None),
    ]
    with opened(tmp_path / "old") as base, opened(tmp_path / "new") as target:
        first, second, third = found_elsewhere(base, target, parts, new_bits=8.0)
    assert 4 * ROWS < first.bits < 64 * ROWS
    assert first.sources
    assert all(0 <= source < old.nbytes for source in first.sources)
    assert second.bits == pytest.approx(8.0 * fresh.nbytes)
    assert third.bits == pytest.approx(40)
    assert not second.sources + third.sources


def test_what_repeats_itself_is_copied_in_one_piece_from_a_base_that_has_it_too(tmp_path: Path) -> None:
    arrays = {f"layer{number}": weights(64, 32, seed=number % 3) for number in range(30)}
    report = patched(tmp_path, safetensors(arrays), safetensors(arrays) + b"\0\1")
    assert [region.how for region in report.regions] == ["copy", "data"]


@pytest.mark.parametrize("length", [5_000, 200_000])
def test_what_is_smaller_by_itself_is_sent_whole(tmp_path: Path, length: int) -> None:
    random = np.random.default_rng(3)
    words = [bytes(random.integers(97, 123, 7, np.uint8)) for _ in range(800)]
    old, new = (
        b" ".join(words[each] for each in random.integers(*some, length // 8)) for some in ((0, 400), (400, 800))
    )
    assert "whole" in patched(tmp_path, old, new).sizes
