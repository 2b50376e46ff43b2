"""Weights become files as phones get them: the right numbers, where each format says they are."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bench.patches.exports import (
    Weights,
    bfloat16,
    float16,
    folded,
    renamed,
    write_onnx,
    write_package,
    write_quantized,
    write_tensors,
)

WHEN = (2026, 9, 1, 10, 30, 0)


def network(seed: int = 0) -> Weights:
    numbers = np.random.default_rng(seed)

    def some(*shape: int) -> np.ndarray:
        return numbers.normal(0, 0.1, shape).astype(np.float32)

    return {
        "conv1.weight": some(4, 3, 3, 3),
        "norm1.weight": 1 + some(4),
        "norm1.bias": some(4),
        "norm1.running_mean": some(4),
        "norm1.running_var": 1 + np.abs(some(4)),
        "norm1.num_batches_tracked": np.array(7),
        "head.weight": some(5, 4),
        "head.bias": some(5),
    }


def test_safetensors_say_where_each_tensor_is(tmp_path: Path) -> None:
    path, weights = tmp_path / "a.safetensors", float16(network())
    write_tensors(path, weights)
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    begin, end = header["head.weight"]["data_offsets"]
    assert header["head.weight"]["dtype"] == "F16"
    assert content[8 + length :][begin:end] == weights["head.weight"].tobytes()
    assert header["norm1.num_batches_tracked"]["dtype"] == "I64"
    assert length % 8 == 0


@pytest.mark.parametrize(
    ("number", "bits"),
    [
        pytest.param(1.0, 0x3F80, id="exact"),
        pytest.param(1.00390625, 0x3F80, id="a tie goes to the even one below"),
        pytest.param(1.01171875, 0x3F82, id="a tie goes to the even one above"),
        pytest.param(1.00390637, 0x3F81, id="above a tie goes up"),
        pytest.param(-2.5, 0xC020, id="negative"),
    ],
)
def test_bfloat16_rounds_to_the_nearest(number: float, bits: int) -> None:
    assert bfloat16({"a": np.array([number], np.float32)})["a"].tolist() == [bits]


def test_a_folded_convolution_does_what_it_did_with_its_normalization() -> None:
    weights = network()
    out = folded(weights)
    assert set(out) == {"conv1.weight", "conv1.bias", "head.weight", "head.bias"}
    patch = np.random.default_rng(1).normal(size=(3, 3, 3)).astype(np.float32)

    def convolved(kernels: np.ndarray) -> np.ndarray:
        return np.asarray(np.einsum("oihw,ihw->o", kernels, patch))

    plain = (convolved(weights["conv1.weight"]) - weights["norm1.running_mean"]) / np.sqrt(
        weights["norm1.running_var"] + 1e-5
    )
    expected = plain * weights["norm1.weight"] + weights["norm1.bias"]
    assert np.allclose(convolved(out["conv1.weight"]) + out["conv1.bias"], expected, atol=1e-5)


def test_onnx_holds_the_weights_by_name(tmp_path: Path) -> None:
    path, weights = tmp_path / "a.onnx", folded(network())
    write_onnx(path, weights)
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(str(path)).graph.initializer}
    assert all(np.array_equal(found[name], array) for name, array in weights.items())
    assert set(found) == set(weights)


def test_an_export_by_another_version_differs_in_names_alone(tmp_path: Path) -> None:
    before, after = tmp_path / "a.onnx", tmp_path / "b.onnx"
    write_onnx(before, folded(network()))
    write_onnx(after, folded(network()), exporter="2.14.1", prefix="/model")
    old, new = (onnx.load(str(path)) for path in (before, after))
    assert before.read_bytes() != after.read_bytes()
    assert [one.raw_data for one in old.graph.initializer] == [one.raw_data for one in new.graph.initializer]


def test_renamed_weights_are_the_same_numbers_in_another_order() -> None:
    weights = folded(network())
    out = renamed(weights)
    assert not set(out) & set(weights)
    assert [array.tobytes() for array in out.values()] == [weights[name].tobytes() for name in sorted(weights)]


@pytest.mark.parametrize("by_channel", [True, False])
def test_quantized_weights_are_within_half_a_step(tmp_path: Path, by_channel: bool) -> None:
    path, weights = tmp_path / "a.onnx", folded(network())
    write_quantized(path, weights, by_channel=by_channel)
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(str(path)).graph.initializer}
    scale = found["head.weight_scale"].reshape(-1, 1)
    assert found["head.weight_quantized"].dtype == np.int8
    assert scale.size == (5 if by_channel else 1)
    assert np.all(np.abs(found["head.weight_quantized"] * scale - weights["head.weight"]) <= scale * 0.501)
    assert np.array_equal(found["head.bias"], weights["head.bias"])


def test_a_package_is_deflated_and_its_weight_file_says_where_each_tensor_is(tmp_path: Path) -> None:
    path, weights = tmp_path / "a.zip", float16(folded(network()))
    write_package(path, weights, when=WHEN)
    with zipfile.ZipFile(path) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_DEFLATED}
        assert {info.date_time for info in archive.infolist()} == {WHEN}
        (name,) = [name for name in archive.namelist() if name.endswith("weight.bin")]
        blob = archive.read(name)
    count, version = struct.unpack_from("<II", blob)
    assert (count, version) == (len(weights), 2)
    position = 64
    for array in weights.values():
        sentinel, kind, length, start = struct.unpack_from("<IIQQ", blob, position)
        assert (sentinel, kind) == (0xDEADBEEF, 1)
        assert blob[start : start + length] == array.tobytes()
        position = -(-(start + length) // 64) * 64
    assert position == len(blob)


def test_the_same_weights_make_the_same_bytes(tmp_path: Path) -> None:
    for write in (write_tensors, write_onnx):
        first, second = tmp_path / "first", tmp_path / "second"
        write(first, network())
        write(second, network())
        assert first.read_bytes() == second.read_bytes()
