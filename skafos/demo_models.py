"""The models of the demonstration: two releases each of an image and of an audio model, fetched at set-up."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from skafos.installation import source_directory

FOLDER_VARIABLE = "SKAFOS_DEMO_MODELS"


@dataclass(frozen=True)
class Release:
    """One release: the folder of its project below the folder of models, its files, and what to say of it."""

    folder: str
    names: tuple[str, ...]
    description: str

    def files(self, models: Path) -> list[Path]:
        """Return its files below the folder ``models``."""
        return [models / self.folder / name for name in self.names]


@dataclass(frozen=True)
class DemoModel:
    """A model of the demonstration, with its versions in order."""

    name: str
    releases: tuple[Release, ...]


IMAGE = DemoModel(
    "text-detection",
    (
        Release("rapidocr-onnxruntime/1.2.13", ("ch_PP-OCRv3_det_infer.onnx",), "PP-OCRv3: finds text in a photo"),
        Release("rapidocr-onnxruntime/1.3.25", ("ch_PP-OCRv4_det_infer.onnx",), "PP-OCRv4: finds text in a photo"),
    ),
)
AUDIO = DemoModel(
    "voice-activity",
    (
        Release(
            "silero-vad/5.1.2",
            ("silero_vad.onnx", "silero_vad_half.onnx"),
            "Silero VAD 5.1.2: hears when somebody speaks",
        ),
        Release(
            "silero-vad/6.0.0",
            ("silero_vad.onnx", "silero_vad_16k_op15.onnx", "silero_vad_half.onnx"),
            "Silero VAD 6.0.0: hears when somebody speaks",
        ),
    ),
)
MODELS = (IMAGE, AUDIO)


class ModelsMissing(Exception):
    """The demonstration's models have not been fetched."""


def models_folder(settings: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of fetched models: ``SKAFOS_DEMO_MODELS``, else ``.cache/models`` beside the source.

    Raises:
        ModelsMissing: a model file is not there.
    """
    named = settings.get(FOLDER_VARIABLE)
    folder = Path(named) if named else Path(source_directory()) / ".cache" / "models"
    for model in MODELS:
        for release in model.releases:
            if not all(file.is_file() for file in release.files(folder)):
                raise ModelsMissing(
                    f"the demonstration's models are not in {folder}: run `make models`, "
                    f"or name their folder with {FOLDER_VARIABLE}"
                )
    return folder
