"""Which base a tensor gets: by name, by content, by place; and that every element is covered once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts.patch.align import align
from artifacts.patch.containers import unpack
from artifacts.patch.tensors import Tensor, find_tensors
from tests.artifacts.patch.files import Array, safetensors, torch_file, trained, weights
from tests.models import real_pair, zipped

EMBEDDING = weights(500, 64, seed=100)
LAYERS: dict[str, Array] = {f"layer.{number}.weight": weights(60, 64, seed=number) for number in range(5)}
OLD: dict[str, Array] = {"embedding": EMBEDDING, **LAYERS}

# A target's name, its first element there and its base's name and first element; all but the number of elements.
Where = tuple[str, int, str, int, int]


def first(part: Tensor, tensors: list[Tensor]) -> tuple[str, int]:
    """Return the tensor that a part is of, and the part's first element in it."""
    (whole,) = (tensor for tensor in tensors if tensor.start <= part.start and part.end <= tensor.end)
    return whole.name, (part.start - whole.start) // part.width


def aligned(old: Mapping[str, Array], new: Mapping[str, Array]) -> list[Where]:
    """Return which parts of the new tensors have which bases; those without one are left out."""
    base_data, target_data = safetensors(old), safetensors(new)
    base, target = find_tensors(base_data), find_tensors(target_data)
    pairs = align(base, target, base_data, target_data)
    require_cover(target, pairs)
    return [(*first(part, target), *first(source, base), part.count) for part, source in pairs if source is not None]


def require_cover(target: list[Tensor], pairs: list[tuple[Tensor, Tensor | None]]) -> None:
    """Refuse pairs that do not cover every element of every target tensor once, in order."""
    parts = iter(pairs)
    for tensor in target:
        position = tensor.start
        while position < tensor.end:
            part, base = next(parts)
            assert part.start == position
            assert part.count > 0
            assert np.prod(part.shape) == part.count
            assert base is None or base.count == part.count
            assert base is None or base.dtype == part.dtype or {base.dtype, part.dtype} <= {"f16", "bf16", "f32", "f64"}
            position = part.end
        assert position == tensor.end
    assert next(parts, None) is None


def changed(arrays: Mapping[str, Array], step: float = 0.01) -> dict[str, Array]:
    return {name: trained(array, step=step) for name, array in arrays.items()}


def whole(names: Mapping[str, str]) -> list[Where]:
    return [(new, 0, old, 0, OLD[old].size) for new, old in names.items()]


def test_tensors_of_the_same_name_are_pairs_in_real_releases() -> None:
    for project in ("silero-vad", "magika"):
        base_data, target_data = (path.read_bytes() for path in real_pair(project))
        base, target = find_tensors(base_data), find_tensors(target_data)
        pairs = align(base, target, base_data, target_data)
        require_cover(target, pairs)
        named = [source is not None and source.name == part.name for part, source in pairs if part.count >= 32]
        assert sum(named) > 0.9 * len(named)


def test_names_pair_trained_tensors_and_retrained_ones() -> None:
    assert aligned(OLD, changed(OLD)) == whole({name: name for name in OLD})
    assert aligned(OLD, {name: weights(*array.shape, seed=77) for name, array in OLD.items()}) == whole(
        {name: name for name in OLD}
    )


def test_a_counter_that_moved_on_does_not_mislead() -> None:
    new = {"layer.0.weight": weights(60, 64, seed=50)}
    new |= {f"layer.{number + 1}.weight": array for number, array in enumerate(changed(LAYERS).values())}
    pairs = aligned(LAYERS, new)
    assert pairs[1:] == whole({f"layer.{number + 1}.weight": f"layer.{number}.weight" for number in range(5)})


@pytest.mark.parametrize("prefix", ["model.", "onnx::MatMul_"])
def test_a_prefix_does_not_hide_a_tensor(prefix: str) -> None:
    new = {prefix + name: array for name, array in changed(OLD).items()}
    assert aligned(OLD, new) == whole({prefix + name: name for name in OLD})


def test_tensors_with_new_names_in_another_order_are_found_by_their_content() -> None:
    renamed = {name: f"{array.sum()}" for name, array in OLD.items()}
    new = {renamed[name]: array for name, array in reversed(list(changed(OLD).items()))}
    assert aligned(OLD, new) == whole({renamed[name]: name for name in reversed(OLD)})


def test_rows_that_are_added_behind_leave_the_first_rows_aligned() -> None:
    new = np.concatenate([trained(EMBEDDING), weights(20, 64, seed=9)])
    assert aligned(OLD, {"embedding": new}) == [("embedding", 0, "embedding", 0, EMBEDDING.size)]


def test_rows_that_are_added_or_removed_in_the_middle_move_those_behind() -> None:
    grown = np.concatenate([trained(EMBEDDING[:200]), weights(20, 64, seed=9), trained(EMBEDDING[200:])])
    assert aligned(OLD, {"embedding": grown}) == [
        ("embedding", 0, "embedding", 0, 200 * 64),
        ("embedding", 220 * 64, "embedding", 200 * 64, 300 * 64),
    ]
    shrunk = np.concatenate([trained(EMBEDDING[:200]), trained(EMBEDDING[230:])])
    assert aligned(OLD, {"embedding": shrunk}) == [
        ("embedding", 0, "embedding", 0, 200 * 64),
        ("embedding", 200 * 64, "embedding", 230 * 64, 270 * 64),
    ]


def test_columns_that_are_added_leave_the_rows_aligned_one_by_one() -> None:
    new = np.concatenate([trained(EMBEDDING), weights(500, 8, seed=9)], axis=1)
    expected = [("embedding", row * 72, "embedding", row * 64, 64) for row in range(500)]
    assert aligned(OLD, {"embedding": new}) == expected


@pytest.mark.parametrize("step", [0.01, 0.1])
def test_tensors_that_were_joined_or_split_are_found_in_parts(step: float) -> None:
    parts = list(changed(LAYERS, step).values())[:3]
    assert aligned(OLD, {"qkv": np.concatenate(parts)}) == [
        ("qkv", number * 60 * 64, f"layer.{number}.weight", 0, 60 * 64) for number in range(3)
    ]
    assert aligned({"all": np.concatenate(list(LAYERS.values()))}, changed(LAYERS, step)) == [
        (name, 0, "all", number * 60 * 64, 60 * 64) for number, name in enumerate(LAYERS)
    ]


def test_one_tensor_can_be_the_base_of_several() -> None:
    new = {"a": trained(EMBEDDING, seed=1), "b": trained(EMBEDDING, seed=2)}
    assert aligned(OLD, new) == whole({"a": "embedding", "b": "embedding"})


@pytest.mark.parametrize(("old", "new"), [(np.float32, np.float16), (np.float16, np.float32)])
def test_a_network_with_other_floats_is_paired_with_the_one_it_was_made_from(old: type, new: type) -> None:
    base: dict[str, Array] = {name: array.astype(old) for name, array in OLD.items()}
    target: dict[str, Array] = {f"{name}.cast": array.astype(new) for name, array in changed(OLD).items()}
    assert aligned(base, target) == whole({f"{name}.cast": name for name in OLD})


def test_integers_are_paired_with_integers_only() -> None:
    quantized = {name: np.clip(np.round(array * 600), -127, 127).astype(np.int8) for name, array in OLD.items()}
    assert aligned(OLD, quantized) == []
    moved = {f"{name}?": (array + (array > 60)).astype(np.int8) for name, array in reversed(list(quantized.items()))}
    assert aligned(quantized, moved) == whole({f"{name}?": name for name in reversed(OLD)})


def test_names_count_within_their_file_and_its_name_does_not_matter() -> None:
    one, other = {"w": weights(40, 8, seed=1)}, {"w": weights(40, 8, seed=2)}
    base_data = zipped({"a.pt": torch_file(one), "b.pt": torch_file(other)})
    # Retrained, so nothing but the name tells.
    new = {"b.pt": torch_file({"w": weights(40, 8, seed=3)}, "other")}
    target_data = zipped(new)
    with unpack(base_data, "old.zip") as old, unpack(target_data, "new.zip") as target:
        pairs = align(find_tensors(old), find_tensors(target), old, target)
    assert [source is not None and source.member for _, source in pairs] == ["old.zip!a.pt!archive/data/0"]


def test_regions_of_an_unknown_format_are_aligned_by_their_content() -> None:
    def opaque(arrays: Mapping[str, Array]) -> bytes:
        return b"unknown " * 999 + b"".join(array.tobytes() + b"12345678" for array in arrays.values())

    old = opaque(OLD)
    grown = np.concatenate([trained(EMBEDDING[:200]), weights(20, 64, seed=9), trained(EMBEDDING[200:])])
    new = opaque({"embedding": grown, **changed(LAYERS)})
    pairs = align(find_tensors(old), find_tensors(new), old, new)
    moved = [part.start - source.start for part, source in pairs if source is not None]
    assert moved == [0, 20 * 64 * 4]
    assert sum(part.length for part, source in pairs if source is None) < 22 * 64 * 4


def test_nothing_is_aligned_with_nothing() -> None:
    assert align([], [], b"", b"") == []
    (tensor,) = find_tensors(safetensors({"a": EMBEDDING}))
    assert align([], [tensor], b"", safetensors({"a": EMBEDDING})) == [(tensor, None)]


_ARRAYS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "layer.1", "layer.2", "x.layer.1"]),
        st.sampled_from(["f4", "f2", "i1", "f8"]),
        st.sampled_from([(1,), (3,), (40,), (5, 8), (64, 32), (70, 32), (64, 40), (2, 64, 32)]),
        st.integers(0, 2),
    ),
    max_size=6,
)


@settings(max_examples=80, deadline=None)
@given(old=_ARRAYS, new=_ARRAYS)
def test_any_two_sets_of_tensors_are_aligned_within_bounds(
    old: list[tuple[str, str, tuple[int, ...], int]], new: list[tuple[str, str, tuple[int, ...], int]]
) -> None:
    def arrays(described: list[tuple[str, str, tuple[int, ...], int]]) -> dict[str, Array]:
        scale = {"i1": 30.0}
        return {
            name: weights(*shape, seed=seed, scale=scale.get(kind, 0.05)).astype(kind)
            for name, kind, shape, seed in described
        }

    aligned(arrays(old), arrays(new))
