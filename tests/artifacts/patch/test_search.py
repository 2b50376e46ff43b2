"""Arrays that are found by their bytes alone, and what is not taken for one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts.patch.weights.search import BLOCK_BYTES, find_arrays
from artifacts.patch.weights.tensor import Tensor
from tests.artifacts.patch.files import weights
from tests.models import real_models

COUNT = 40_000
WEIGHTS = weights(COUNT)
BRAIN = (WEIGHTS.view("<u4") >> 16).astype("<u2")
INT8 = np.clip(np.round(WEIGHTS * 600), -127, 127).astype(np.int8)
ARRAYS = {
    "f32": WEIGHTS.tobytes(),
    "f16": WEIGHTS.astype(np.float16).tobytes(),
    "bf16": BRAIN.tobytes(),
    "f64": (WEIGHTS * np.random.default_rng(0).random(COUNT)).astype(np.float64).tobytes(),
    "i8": INT8.tobytes(),
    "u8": (INT8.astype(np.int16) + 128).astype(np.uint8).tobytes(),
}
WIDTHS = {"f32": 4, "f16": 2, "bf16": 2, "f64": 8, "i8": 1, "u8": 1}


def noise(length: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(length)


def arrays(data: bytes) -> list[Tensor]:
    return list(find_arrays(memoryview(data)))


@pytest.mark.parametrize("dtype", ARRAYS)
def test_an_array_of_each_type_is_found_whole(dtype: str) -> None:
    (array,) = arrays(ARRAYS[dtype])
    assert (array.dtype, array.start) == (dtype, 0)
    assert array.length == len(ARRAYS[dtype]) == array.count * WIDTHS[dtype]


@pytest.mark.parametrize("dtype", ARRAYS)
@pytest.mark.parametrize("before", [1, 6, 1003, 4096])
def test_an_array_between_compressed_bytes_is_found_at_its_elements(dtype: str, before: int) -> None:
    start, end = 20_000 + before, 20_000 + before + len(ARRAYS[dtype])
    (array,) = arrays(noise(start) + ARRAYS[dtype] + noise(9_999, seed=1))
    assert array.dtype == dtype
    assert (array.start - start) % WIDTHS[dtype] == 0
    # Bytes at its ends can look like elements by chance; integers are found by the block.
    slack = 2 * BLOCK_BYTES if WIDTHS[dtype] == 1 else 128
    assert abs(array.start - start) <= slack
    assert abs(array.end - end) <= slack


def test_two_arrays_side_by_side_that_are_aligned_differently_are_two() -> None:
    found = arrays(ARRAYS["f32"] + b"odd" + ARRAYS["f32"])
    assert [(array.dtype, array.start % 4) for array in found] == [("f32", 0), ("f32", 3)]


@pytest.mark.parametrize("between", [bytes(50_000), b"a header of the next one"])
def test_zeros_and_headers_do_not_split_an_array(between: bytes) -> None:
    between += bytes(-len(between) % 4)
    (array,) = arrays(ARRAYS["f32"] + between + ARRAYS["f32"])
    assert array.length == 2 * len(ARRAYS["f32"]) + len(between)


def test_pruned_weights_are_found() -> None:
    pruned = WEIGHTS * (np.random.default_rng(1).random(COUNT) < 0.1)
    (array,) = arrays(pruned.astype(np.float32).tobytes())
    assert array.dtype == "f32"
    assert array.length > 0.95 * 4 * COUNT


@pytest.mark.parametrize(
    "data",
    [
        noise(300_000),
        bytes(300_000),
        b"".join(b"%d lines of plain text, and more\n" % number for number in range(9_000)),
        b"".join(b"%.6f, " % number for number in WEIGHTS),
        ("中文\n第二行\n" * 9000).encode(),
        np.arange(300_000, dtype="<u2").tobytes(),
        np.random.default_rng(0).integers(-100_000, 100_000, 99_000).astype("<i4").tobytes(),
        np.random.default_rng(0).normal(0, 3000, 99_000).astype("<i2").tobytes(),
        b"",
        noise(100),
    ],
    ids=["random", "zeros", "text", "numbers in text", "chinese", "indices", "int32", "sound", "nothing", "little"],
)
def test_other_bytes_are_no_arrays(data: bytes) -> None:
    assert arrays(data) == []


def test_the_floats_of_real_models_are_found_without_their_parser() -> None:
    for path in real_models():
        if path.stat().st_size < 4_000_000:
            data = path.read_bytes()
            found = sum(array.length for array in arrays(data) if array.dtype == "f32")
            assert found > 0.8 * len(data), path


@settings(max_examples=50, deadline=None)
@given(pieces=st.lists(st.tuples(st.sampled_from(sorted(ARRAYS)), st.integers(0, 30_000), st.integers(0, 5_000))))
def test_whatever_the_bytes_arrays_are_in_order_and_within_them(pieces: list[tuple[str, int, int]]) -> None:
    data = b"".join(ARRAYS[dtype][:length] + noise(junk) for dtype, length, junk in pieces)
    end = 0
    for array in arrays(data):
        assert end <= array.start < array.end <= len(data)
        assert array.length == array.count * WIDTHS[array.dtype]
        end = array.end
