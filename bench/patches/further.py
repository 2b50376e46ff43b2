"""Further pairs of released models, beside the corpus that totals are told of: changes that it does not have.

They were looked for after the codec had been tuned to the corpus, in other packages that hold models, and showed what
it did not know yet: weights of half precision with batch normalisation folded into them, parts of a layer in another
order, and the same network for another runtime, whose channels come last.
"""

from __future__ import annotations

from pathlib import Path

from bench import corpus
from bench.corpus import ModelFile, Wheel
from bench.patches.pairs import Pair
from bench.patches.released import RELEASES, Release, ReleasedPair, placed

__all__ = ["PAIRS", "make_further"]

_NUDENET, _PIPECAT, _MICRO = "nudenet", "pipecat-ai", "pymicro-wakeword"
_NABU = "pymicro_wakeword/models/okay_nabu.tflite"
_LINUX = "manylinux_2_35_x86_64"


def _wheel(project: str, version: str, sha256: str, name: str, of_file: str, platform: str = "any") -> Wheel:
    return Wheel(project, version, sha256, (ModelFile(name, of_file),), platform, cache=RELEASES)


WHEELS = (
    _wheel(
        *("silero-vad", "6.2.1", "09de93c4d874bb19c53e62a47dd38be5f163cedad2b5599583231f2a84ef79cb"),
        "silero_vad/data/silero_vad_16k_op15.onnx",
        "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
    ),
    _wheel(
        *("silero-vad", "6.2.3", "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8"),
        "silero_vad/data/silero_vad_16k_sequence.onnx",
        "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85",
    ),
    _wheel(
        *("openwakeword", "0.5.1", "015467e49f08b0ef8efa433690ce70566abb72f7c36501a6fa893762b4ddc559"),
        "openwakeword/resources/models/embedding_model.tflite",
        "c0aea21eb84a4ce90a08c870da41b7a7173b45269e6a3207c71d67c40f3a59d8",
    ),
    _wheel(
        *(_NUDENET, "3.0.8", "e36e30bab3fb02d928190285794f6b759c034ce6bd4d19811b10095c8e52366e"),
        "nudenet/best.onnx",
        "9832f15515bdb06bcb5a77beb60bc8ea54439bd7ecbaac46dac3b760b3dd13cc",
    ),
    _wheel(
        *(_NUDENET, "3.4.2", "5937dbd84e5d8e5de038f08ffea5a1bb50a08475776bf2b4795914ce0eaf0331"),
        "nudenet/320n.onnx",
        "c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f",
    ),
    _wheel(
        *(_MICRO, "2.0.0", "850916c6a3094a644e136fc55928a416b3d69d850ea383a1b3877c416fa17a48"),
        _NABU,
        "0689abe1912a95a3318a0d8cb2e67bad0cbcfe3e24dd6e050c75debddfb6f891",
        _LINUX,
    ),
    _wheel(
        *(_MICRO, "2.5.0", "3869f536402b1254e3be3549d3a462ecd6ed21ce2c3e77ec8eb501c3c700417c"),
        _NABU,
        "d89128c4d16a72de429119fb2254ce46649553c2a24f5dd840175c80d7b9d094",
        _LINUX,
    ),
    _wheel(
        *(_PIPECAT, "0.0.90", "88f54e969ba24d19aeec5b3fb776249fa4d4e11e55875946ae4436cc60880a9c"),
        "pipecat/audio/turn/smart_turn/data/smart-turn-v3.0.onnx",
        "07a133aba31e2d0b523f17f8c2e4e65efe6d8f685efd12ca4fe21ebf4e798991",
    ),
    _wheel(
        *(_PIPECAT, "0.0.99", "e4dded7b592bfe1f91144b16e80ad4feb12ae5f17f78c45cc146e9f05bed2836"),
        "pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx",
        "2bb026316b14a660486a75b1733cd3fbab8c2fd0314dc9af7be49f8cca967e4f",
    ),
)


def _pair(name: str, kind: str, numbers: str, old: tuple[str, str, str], new: tuple[str, str, str]) -> ReleasedPair:
    """Return a pair; ``old`` and ``new`` are each a project, a version and the name of a file."""
    pair = Pair.of(name, "further", kind, numbers, Path(new[2]).suffix)
    return ReleasedPair(pair, Release.one(*old), Release.one(*new))


PAIRS = (
    _pair(
        *("silero-op15", "ONNX, trained on", "float32"),
        old=("silero-vad", "6.0.0", "silero_vad_16k_op15.onnx"),
        new=("silero-vad", "6.2.1", "silero_vad_16k_op15.onnx"),
    ),
    _pair(
        *("silero-sequence", "ONNX, exported anew, gates of layers in another order", "float32"),
        old=("silero-vad", "6.2.1", "silero_vad_16k_op15.onnx"),
        new=("silero-vad", "6.2.3", "silero_vad_16k_sequence.onnx"),
    ),
    _pair(
        *("wakeword-runtime", "from ONNX to TensorFlow Lite, channels last", "float32"),
        old=("openwakeword", "0.5.1", "embedding_model.onnx"),
        new=("openwakeword", "0.5.1", "embedding_model.tflite"),
    ),
    _pair(
        *("nudenet", "ONNX, another network, of half precision with folded normalisation", "float32"),
        old=(_NUDENET, "3.0.8", "best.onnx"),
        new=(_NUDENET, "3.4.2", "320n.onnx"),
    ),
    _pair(
        *("okay-nabu", "TensorFlow Lite, int8, trained anew", "int8"),
        old=(_MICRO, "2.0.0", "okay_nabu.tflite"),
        new=(_MICRO, "2.5.0", "okay_nabu.tflite"),
    ),
    _pair(
        *("smart-turn", "ONNX, int8, trained on", "int8"),
        old=(_PIPECAT, "0.0.90", "smart-turn-v3.0.onnx"),
        new=(_PIPECAT, "0.0.99", "smart-turn-v3.2-cpu.onnx"),
    ),
)


def make_further() -> list[Pair]:
    """Fetch what is missing, and return the pairs, each with its files in place.

    Raises:
        CorpusError: a wheel could not be fetched, or is not the one that was released.
    """
    corpus.fetch(WHEELS)
    return placed(PAIRS)
