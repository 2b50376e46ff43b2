"""Pairs of fine-tuned models: networks that were really trained (`training`), each written as one that phones get.

Training takes about a minute and a half on one core, once: what is in the cache is kept.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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
from bench.patches.pairs import Pair, keep
from bench.patches.places import BENCH_PYTHON, CORPUS, ROOT

__all__ = ["PAIRS", "TrainingFailed", "make_finetuned"]

TRAINED = CORPUS / "trained"

# Ten times what it takes on an idle core of the machine that the figures were made on.
TRAINING_SECONDS = 900

# Zips tell when their members were written: a day and a month apart.
_OLD_TIME, _NEW_TIME = (2026, 9, 1, 10, 30, 0), (2026, 10, 2, 16, 5, 42)


class TrainingFailed(Exception):
    """The networks could not be trained."""


Writer = Callable[[Path, str, bool], None]
"""Writes a state to a path; the flag tells that it is the newer of a pair."""


@dataclass(frozen=True, slots=True)
class TunedPair:
    """A network's first state and a tuned one, written in the same way."""

    pair: Pair
    old_state: str
    new_state: str
    write: Writer

    def place(self) -> None:
        """Write both files, each whole or not at all."""
        for path, state, newer in zip(self.pair.files(), (self.old_state, self.new_state), (False, True), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.part")
            self.write(part, state, newer)
            part.replace(path)


def _state(name: str) -> Weights:
    with np.load(TRAINED / f"{name}.npz") as loaded:
        return {key: loaded[key] for key in loaded.files}


def _deployed(name: str) -> Weights:
    """Return the weights as they are after an export: without what only training needs."""
    return folded(_state(name))


def _same(weights: Weights) -> Weights:
    return weights


def _safetensors(convert: Callable[[Weights], Weights] = _same) -> Writer:
    return lambda path, name, _newer: write_tensors(path, convert(_state(name)))


def _onnx(convert: Callable[[Weights], Weights] = _same) -> Writer:
    return lambda path, name, _newer: write_onnx(path, convert(_deployed(name)))


def _quantized(*, by_channel: bool) -> Writer:
    return lambda path, name, _newer: write_quantized(path, _deployed(name), by_channel=by_channel)


def _package(convert: Callable[[Weights], Weights] = _same) -> Writer:
    def write(path: Path, name: str, newer: bool) -> None:
        write_package(path, convert(_deployed(name)), when=_NEW_TIME if newer else _OLD_TIME)

    return write


def _torchscript(path: Path, name: str, _newer: bool) -> None:
    keep(TRAINED / f"{name}.pt", path)


def _exported_again(path: Path, name: str, newer: bool) -> None:
    exporter, prefix = ("2.14.1", "/model") if newer else ("2.13.0", "")
    write_onnx(path, _deployed(name), exporter=exporter, prefix=prefix)


def _reordered(path: Path, name: str, newer: bool) -> None:
    weights = _deployed(name)
    write_onnx(path, renamed(weights) if newer else weights)


def _tuned(name: str, kind: str, numbers: str, suffix: str, write: Writer) -> TunedPair:
    """Return a pair; its name begins with the network and the way."""
    network, way, *_ = name.split("-")
    new = "base" if way in ("exported", "reordered") else way
    return TunedPair(Pair.of(name, "finetuned", kind, numbers, suffix), f"{network}-base", f"{network}-{new}", write)


# Both networks, tuned in every way (Adam, SGD, the head alone), in every form that phones get (float32, float16, int8,
# floats in a zip); beside that, other containers, bfloat16, exports of the same weights, and a training that goes far.
PAIRS = (
    _tuned("vision-adam-f32", "Adam, safetensors", "float32", ".safetensors", _safetensors()),
    _tuned("vision-adam-torchscript", "Adam, TorchScript", "float32", ".pt", _torchscript),
    _tuned("vision-adam-f16", "Adam, ONNX, float16", "float16", ".onnx", _onnx(float16)),
    _tuned("vision-adam-f32-zip", "Adam, zipped .mlpackage", "float32", ".zip", _package()),
    _tuned("vision-adam-f16-zip", "Adam, zipped .mlpackage, float16", "float16", ".zip", _package(float16)),
    _tuned("vision-adam-int8", "Adam, ONNX, int8 by channel", "int8", ".onnx", _quantized(by_channel=True)),
    _tuned("vision-sgd-f32", "SGD with momentum, ONNX", "float32", ".onnx", _onnx()),
    _tuned("vision-sgd-f16", "SGD with momentum, ONNX, float16", "float16", ".onnx", _onnx(float16)),
    _tuned("vision-sgd-int8", "SGD with momentum, ONNX, int8 by channel", "int8", ".onnx", _quantized(by_channel=True)),
    _tuned("vision-sgd-f32-zip", "SGD with momentum, zipped .mlpackage", "float32", ".zip", _package()),
    _tuned("vision-sgd-f16-zip", "SGD with momentum, zipped .mlpackage, float16", "float16", ".zip", _package(float16)),
    _tuned("vision-head-f32", "head only, ONNX", "float32", ".onnx", _onnx()),
    _tuned("vision-head-f16", "head only, ONNX, float16", "float16", ".onnx", _onnx(float16)),
    _tuned("vision-head-int8", "head only, ONNX, int8 by channel", "int8", ".onnx", _quantized(by_channel=True)),
    _tuned("vision-head-f32-zip", "head only, zipped .mlpackage", "float32", ".zip", _package()),
    _tuned("vision-head-f16-zip", "head only, zipped .mlpackage, float16", "float16", ".zip", _package(float16)),
    _tuned("vision-exported", "ONNX, exported anew, only names differ", "float32", ".onnx", _exported_again),
    _tuned("vision-reordered", "ONNX, tensors in another order with other names", "float32", ".onnx", _reordered),
    _tuned("text-adam-f32", "AdamW, ONNX", "float32", ".onnx", _onnx()),
    _tuned("text-adam-f16", "AdamW, safetensors, float16", "float16", ".safetensors", _safetensors(float16)),
    _tuned("text-adam-f32-zip", "AdamW, zipped .mlpackage", "float32", ".zip", _package()),
    _tuned("text-adam-f16-zip", "AdamW, zipped .mlpackage, float16", "float16", ".zip", _package(float16)),
    _tuned("text-adam-bf16", "AdamW, safetensors, bfloat16", "bfloat16", ".safetensors", _safetensors(bfloat16)),
    _tuned("text-adam-int8", "AdamW, ONNX, int8 by tensor", "int8", ".onnx", _quantized(by_channel=False)),
    _tuned("text-sgd-f32", "SGD, safetensors", "float32", ".safetensors", _safetensors()),
    _tuned("text-sgd-f16", "SGD, safetensors, float16", "float16", ".safetensors", _safetensors(float16)),
    _tuned("text-sgd-bf16", "SGD, safetensors, bfloat16", "bfloat16", ".safetensors", _safetensors(bfloat16)),
    _tuned("text-sgd-int8", "SGD, ONNX, int8 by tensor", "int8", ".onnx", _quantized(by_channel=False)),
    _tuned("text-sgd-f32-zip", "SGD, zipped .mlpackage", "float32", ".zip", _package()),
    _tuned("text-sgd-f16-zip", "SGD, zipped .mlpackage, float16", "float16", ".zip", _package(float16)),
    _tuned("text-head-f16", "head only, ONNX, float16", "float16", ".onnx", _onnx(float16)),
    _tuned("text-head-int8", "head only, ONNX, int8 by tensor", "int8", ".onnx", _quantized(by_channel=False)),
    _tuned("text-head-f32-zip", "head only, zipped .mlpackage", "float32", ".zip", _package()),
    _tuned("text-head-f16-zip", "head only, zipped .mlpackage, float16", "float16", ".zip", _package(float16)),
    _tuned("text-head-f32", "head only, ONNX", "float32", ".onnx", _onnx()),
    _tuned("text-far-f32", "AdamW at a high rate, safetensors", "float32", ".safetensors", _safetensors()),
)


def make_finetuned() -> list[Pair]:
    """Train what is missing, and return the pairs, each with its files in place.

    Raises:
        TrainingFailed: the environment of the benchmarks is missing or the training ended early.
    """
    states = {state for tuned in PAIRS for state in (tuned.old_state, tuned.new_state)}
    if not all((TRAINED / f"{state}{suffix}").is_file() for state in states for suffix in (".npz", ".pt")):
        _train()
    for tuned in PAIRS:
        if not tuned.pair.is_there():
            tuned.place()
    return [tuned.pair for tuned in PAIRS]


def _train() -> None:
    if not BENCH_PYTHON.is_file():
        raise TrainingFailed(f"{BENCH_PYTHON} is missing: run `make bench-patches`")
    command = [str(BENCH_PYTHON), "-m", "bench.patches.training", str(TRAINED)]
    try:
        subprocess.run(command, cwd=ROOT, check=True, timeout=TRAINING_SECONDS)
    except subprocess.SubprocessError as error:
        raise TrainingFailed(f"the networks could not be trained: {error}") from error
