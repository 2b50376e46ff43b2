"""Real models for the demonstration, the tests and the benchmarks, taken from released Python packages.

``python -m bench.corpus`` downloads a few wheels with pip, checks each against the SHA-256 written here, and unpacks
the model files into ``.cache/models/<project>/<version>/<file>``. What is already there is checked and kept, so a
second run needs no network. Nothing of a wheel is executed.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "models"

# A download stops after ten minutes: the largest wheel has 76 MB (of the patches' benchmark; 16 MB otherwise), and a
# hanging set-up helps nobody.
DOWNLOAD_SECONDS = 600
READ_BYTES = 1 << 20


class CorpusError(Exception):
    """A model could not be fetched, or is not the one that was expected."""


@dataclass(frozen=True)
class ModelFile:
    """One file of a wheel: where it lies inside, and its SHA-256 as hexadecimal digits."""

    member: str
    sha256: str

    @property
    def name(self) -> str:
        """Return the bare file name."""
        return self.member.rpartition("/")[2]


@dataclass(frozen=True)
class Wheel:
    """A released wheel, pinned by its SHA-256, and the model files wanted from it.

    Attributes:
        platform: the tag that it was built for.
        python: the version of Python that it was built for; empty if that does not matter.
        cache: the folder below which its model files are kept.
    """

    project: str
    version: str
    sha256: str
    files: tuple[ModelFile, ...]
    platform: str = "any"
    python: str = ""
    cache: Path = CACHE

    @property
    def directory(self) -> Path:
        """Return where its model files are kept."""
        return self.cache / self.project / self.version


WHEELS = (
    # Two releases that share a file, and a file that is made from another: as real updates do.
    Wheel(
        "silero-vad",
        "5.1.2",
        "93b41953d7774b165407fda6b533c119c5803864e367d5034dc626c82cfdf661",
        (
            ModelFile(
                "silero_vad/data/silero_vad.onnx", "2623a2953f6ff3d2c1e61740c6cdb7168133479b267dfef114a4a3cc5bdd788f"
            ),
            ModelFile(
                "silero_vad/data/silero_vad_half.onnx",
                "1e0b195ad4806595ef4466f419d16fca7e4afcfc6669b8c0b5f76ea87547c769",
            ),
        ),
    ),
    Wheel(
        "silero-vad",
        "6.0.0",
        "37d29be8944d2a2e6f1cc38a066076f13e78e6fc1b567a1beddcca72096f077f",
        (
            ModelFile(
                "silero_vad/data/silero_vad.onnx", "597d30b3ec076608d059477bb14cfeffdf951bf5cae370d38f65d33bbfe82004"
            ),
            ModelFile(
                "silero_vad/data/silero_vad_16k_op15.onnx",
                "794ed8a51d4f37faf0555383aa34dbaeeb83e3031a1df1e0351c457e1142bd3e",
            ),
            ModelFile(
                "silero_vad/data/silero_vad_half.onnx",
                "1e0b195ad4806595ef4466f419d16fca7e4afcfc6669b8c0b5f76ea87547c769",
            ),
        ),
    ),
    Wheel(
        "magika",
        "0.6.1rc1",
        "412907396113fa6ba398c6233efd90e9dccce0ae942270fb4ae38bd1e763c61b",
        (
            ModelFile(
                "magika/models/standard_v3_0/model.onnx",
                "0c9bf7255c5a68e8e74c878005989b5ea7682c15d46f42fbb0198cfe5eeea38c",
            ),
        ),
        platform="manylinux_2_28_x86_64",
    ),
    Wheel(
        "magika",
        "1.0.3",
        "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529",
        (
            ModelFile(
                "magika/models/standard_v3_3/model.onnx",
                "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
            ),
        ),
        platform="manylinux_2_28_x86_64",
    ),
    Wheel(
        "rapidocr-onnxruntime",
        "1.2.13",
        "5a88f030a768072f43ceb63992ca683c6d63a39cf7d19987ea261b9d5ba941f2",
        (
            ModelFile(
                "rapidocr_onnxruntime/models/ch_PP-OCRv3_det_infer.onnx",
                "3439588c030faea393a54515f51e983d8e155b19a2e8aba7891934c1cf0de526",
            ),
            ModelFile(
                "rapidocr_onnxruntime/models/ch_PP-OCRv3_rec_infer.onnx",
                "897a3ededb38fee0dae2c1ccee38241f37df202c9509e3abca02e9217c5ee615",
            ),
        ),
    ),
    Wheel(
        "rapidocr-onnxruntime",
        "1.3.25",
        "3d8e5416f5bf4ab6566009dfdf24175ff80be937f633578c93befb1b526ff587",
        (
            ModelFile(
                "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
                "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
            ),
            ModelFile(
                "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
                "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
            ),
        ),
    ),
)


def model_path(project: str, version: str, name: str) -> Path:
    """Return the cached file ``name`` of a project's release.

    Raises:
        CorpusError: it has not been fetched.
    """
    path = CACHE / project / version / name
    if not path.is_file():
        raise CorpusError(f"{path} is missing: run `make models`")
    return path


def release_files(project: str, version: str) -> list[Path]:
    """Return all cached model files of a project's release.

    Raises:
        CorpusError: one has not been fetched.
    """
    (wheel,) = [wheel for wheel in WHEELS if (wheel.project, wheel.version) == (project, version)]
    return [model_path(project, version, file.name) for file in wheel.files]


def fetch(wheels: Sequence[Wheel] = WHEELS) -> None:
    """Fetch what is missing of ``wheels``, telling the progress on standard output.

    Raises:
        CorpusError: pip failed, or a file differs from its pinned SHA-256.
    """
    for number, wheel in enumerate(wheels, start=1):
        label = f"[{number}/{len(wheels)}] {wheel.project} {wheel.version}"
        if is_cached(wheel):
            print(f"{label}: cached")
            continue
        print(f"{label}: downloading …", flush=True)
        with tempfile.TemporaryDirectory(prefix="skafos-corpus-") as folder:
            unpack(wheel, download(wheel, Path(folder)))


def is_cached(wheel: Wheel) -> bool:
    """Tell whether every model file of ``wheel`` is there and whole."""
    return all(
        (wheel.directory / file.name).is_file() and sha256_of(wheel.directory / file.name) == file.sha256
        for file in wheel.files
    )


def download(wheel: Wheel, folder: Path) -> Path:
    """Download ``wheel`` into ``folder`` with pip and its configuration, and return its path once its hash holds."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--python-version", wheel.python] if wheel.python else []
    command += ["--platform", wheel.platform, "--dest", str(folder), f"{wheel.project}=={wheel.version}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise CorpusError(f"{wheel.project} {wheel.version}: no wheel after {DOWNLOAD_SECONDS} seconds") from error
    found = sorted(folder.glob("*.whl"))
    if done.returncode or not found:
        raise CorpusError(f"{wheel.project} {wheel.version} could not be downloaded:\n{done.stderr.strip()}")
    expect(found[0], wheel.sha256)
    return found[0]


def unpack(wheel: Wheel, path: Path) -> None:
    """Write the wanted files of the wheel at ``path`` into the cache, each whole or not at all."""
    wheel.directory.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path) as archive:
        for file in wheel.files:
            part = wheel.directory / f".{file.name}.part"
            with archive.open(file.member) as source, part.open("wb") as sink:
                shutil.copyfileobj(source, sink, READ_BYTES)
            expect(part, file.sha256)
            part.replace(wheel.directory / file.name)


def expect(path: Path, sha256: str) -> None:
    """Raise ``CorpusError``, and remove the file, unless ``path`` has the hash ``sha256``."""
    if sha256_of(path) != sha256:
        path.unlink()
        raise CorpusError(f"{path.name} is not the file that was released: its SHA-256 differs")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of the file at ``path`` as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    """Fetch everything; return the exit code."""
    try:
        fetch()
    except CorpusError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"models are in {CACHE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
