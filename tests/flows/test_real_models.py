"""Both releases of real models go all the way: uploaded, deployed, on a device in full and by patch, loaded and run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import onnxruntime
import pytest

from artifacts.encodings import SKAFOS_DELTA
from artifacts.patch.build import ENCODERS
from bench.corpus import model_path
from bench.finetune import finetuned
from skafos.device import DeviceClient, SyncResult
from tests.flows.running import Running, until
from tests.flows.whole_path import Releases, contents

APP = "RealModels"
SAMPLE_RATE = 16_000


@dataclass(frozen=True)
class Delivery:
    """One model of one app, from the upload to a device's directory."""

    skafos: Running
    model: str
    key: str

    def release(self, files: list[Path], version: int) -> None:
        """Upload ``files`` as ``version`` and deploy it to everybody, without waiting for patches."""
        uploaded = self.skafos.skafos("upload", *map(str, files), app=APP, model=self.model)
        assert (uploaded["version"], uploaded["format"]) == (version, "onnx")
        # Of one model the inputs are told; of several files nobody can say which is meant.
        assert bool(uploaded["inputs"]) == (len(files) == 1)
        self.skafos.skafos("deploy", str(version), "--env", "prod", app=APP, model=self.model)

    def sync(self, device: Path) -> SyncResult:
        """Let the device in the directory ``device`` check once."""
        with DeviceClient(self.skafos.edge_url, self.key, device) as client:
            return client.sync(self.model)

    def wait_for_patch(self, from_version: int) -> None:
        """Wait until the manifest names a patch for whoever holds ``from_version``."""
        with self.skafos.client() as client:
            held = client.get_version(self.skafos.organization, APP, self.model, from_version).artifact_sha256
        url = f"{self.skafos.edge_url}/v2/environments/{self.key}/manifest"
        until(lambda: f'"base":"{held}"' in json.dumps(httpx.get(url).json(), separators=(",", ":")), "the patch")


@pytest.fixture(scope="module")
def app(skafos_up: Running) -> str:
    """Return the key of ``prod`` of an app made for these tests."""
    with skafos_up.client() as client:
        client.create_app(skafos_up.organization, APP, bundle_id="org.example.real", platform="linux")
        key = client.get_environment(skafos_up.organization, APP, "prod").key
    assert key is not None
    return key


def delivery(skafos: Running, key: str, model: str) -> Delivery:
    """Return the delivery of a new model."""
    with skafos.client() as client:
        client.create_model(skafos.organization, APP, model)
    return Delivery(skafos, model, key)


def test_an_audio_model_by_patch_and_in_full(skafos_up: Running, app: str, tmp_path: Path, silero: Releases) -> None:
    audio = delivery(skafos_up, app, "audio")
    old, fresh = tmp_path / "old", tmp_path / "fresh"

    audio.release(silero[0], version=1)
    first = audio.sync(old)
    assert (first.status, first.encoding) == ("updated", "zstd")
    assert contents(files_of(first)) == contents(silero[0])

    audio.release(silero[1], version=2)
    audio.wait_for_patch(from_version=1)
    by_patch, in_full = audio.sync(old), audio.sync(fresh)
    assert (by_patch.encoding in ENCODERS, in_full.encoding) == (True, "zstd")
    assert by_patch.bytes < 0.9 * in_full.bytes
    for result in (by_patch, in_full):
        assert contents(files_of(result)) == contents(silero[1])
        assert 0 <= speech_probability(result) <= 1


def test_a_classifier_comes_in_full_until_a_patch_is_made(
    skafos_up: Running, app: str, tmp_path: Path, magika: Releases
) -> None:
    classifier = delivery(skafos_up, app, "file-type")
    for version, files in enumerate(magika, start=1):
        classifier.release(files, version)
        result = classifier.sync(tmp_path / "device")
        # The patch is there if another application has offered the same releases.
        assert (result.version, result.encoding in ("zstd", *ENCODERS)) == (version, True)
        assert contents(files_of(result)) == contents(files)
        assert file_type_scores(result).shape == (1, 214)


def test_a_fine_tuned_model_of_ten_megabytes_by_patch(skafos_up: Running, app: str, tmp_path: Path) -> None:
    reader = delivery(skafos_up, app, "text-recognition")
    released = model_path("rapidocr-onnxruntime", "1.3.25", "ch_PP-OCRv4_rec_infer.onnx")
    tuned = finetuned(released, tmp_path / "tuned" / released.name)

    reader.release([released], version=1)
    reader.sync(tmp_path / "device")
    reader.release([tuned], version=2)
    reader.wait_for_patch(from_version=1)
    result = reader.sync(tmp_path / "device")

    assert (result.version, result.encoding) == (2, SKAFOS_DELTA)
    assert result.bytes < result.full_bytes / 3
    assert contents(files_of(result)) == contents([tuned])
    (scores,) = run(result, x=np.zeros((1, 3, 48, 320), np.float32))
    assert scores.shape[-1] == 6625


def files_of(result: SyncResult) -> list[Path]:
    """Return the model files that the device has put in use."""
    assert result.path is not None
    return sorted(result.path.iterdir())


def run(result: SyncResult, file: int = 0, **inputs: np.ndarray) -> list[np.ndarray]:
    """Load the device's model file in onnxruntime and run it once."""
    session = onnxruntime.InferenceSession(str(files_of(result)[file]))
    outputs: list[np.ndarray] = session.run(None, inputs)
    return outputs


def speech_probability(result: SyncResult) -> float:
    """Return what the audio model says of half a tenth of a second of silence."""
    silence, state = np.zeros((1, 512), np.float32), np.zeros((2, 1, 128), np.float32)
    output, _ = run(result, input=silence, state=state, sr=np.array(SAMPLE_RATE, np.int64))
    return float(output[0, 0])


def file_type_scores(result: SyncResult) -> np.ndarray:
    """Return what the classifier says of 2048 zero bytes."""
    (scores,) = run(result, bytes=np.zeros((1, 2048), np.int32))
    return scores
