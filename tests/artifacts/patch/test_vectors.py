"""The golden vectors of the patch format: what clients in every language must make of the same bytes."""

from __future__ import annotations

import hashlib
import json
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import backports.zstd
import pytest

from artifacts.errors import ArtifactError
from artifacts.patch.apply import apply_patch
from artifacts.patch.format import read_header
from tests.artifacts.patch import plain_decoder
from tests.vectors import make_patches

FOLDER = make_patches.FOLDER
NAMES = sorted(path.name for path in FOLDER.glob("*.json"))
GOOD = [name for name in NAMES if name != "refused.json"]
DESCRIPTION = Path(__file__).parents[3] / "docs" / "patch-format.md"


def vector(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / name).read_text())
    return content


def written(folder: Path, **files: str) -> list[Path]:
    for name, content in files.items():
        (folder / name).write_bytes(bytes.fromhex(content))
    return [folder / name for name in files]


@pytest.mark.parametrize("name", GOOD)
def test_a_patch_makes_its_target(tmp_path: Path, name: str) -> None:
    content = vector(name)
    target = bytes.fromhex(content["target"])
    base, patch = written(tmp_path, base=content["base"], patch=content["patch"])
    sha256 = hashlib.sha256(target).hexdigest()
    apply_patch(base, patch, tmp_path / "out", length=len(target), sha256=sha256)
    assert (tmp_path / "out").read_bytes() == target


@pytest.mark.parametrize("name", GOOD)
def test_a_decoder_written_from_the_description_makes_the_same(name: str) -> None:
    content = vector(name)
    assert plain_decoder.decode(*(bytes.fromhex(content[key]) for key in ("base", "patch"))).hex() == content["target"]


@pytest.mark.parametrize("case", vector("refused.json")["refused"], ids=lambda case: case["why"])
def test_a_bad_patch_is_refused(tmp_path: Path, case: dict[str, str]) -> None:
    base, patch = written(tmp_path, base=vector("refused.json")["base"], patch=case["patch"])
    try:
        # What a header says is believed here, so that nothing else is wrong.
        promised = read_header(BytesIO(patch.read_bytes())).target
        length, sha256 = promised.length, promised.sha256
    except ArtifactError:
        length, sha256 = 20, "0" * 64
    with pytest.raises(ArtifactError):
        apply_patch(base, patch, tmp_path / "out", length=length, sha256=sha256)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "patch"]


@pytest.mark.parametrize("name", NAMES)
def test_the_script_writes_the_same_vectors(name: str, made: dict[str, Any]) -> None:
    assert sorted(made) == NAMES
    there = vector(name)
    if there["zstd"] == backports.zstd.zstd_version:
        assert (FOLDER / name).read_text() == make_patches.written(made[name])
    else:
        # Another zstd compresses otherwise; what the vectors say must be the same.
        unchanged = [key for key in there if key not in ("zstd", "patch", "refused")]
        assert {key: there[key] for key in unchanged} == {key: made[name][key] for key in unchanged}


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return make_patches.vectors()


def test_the_worked_example_of_the_description_is_the_vector() -> None:
    section = DESCRIPTION.read_text().split("## 12.")[1].split("```")[1]
    octets = [re.match(r"(?:[0-9a-f]{2} )*[0-9a-f]{2}(?= {3}|$)", line) for line in section.splitlines()]
    written = "".join(found[0] for found in octets if found).replace(" ", "")
    assert written == vector("example.json")["patch"]
