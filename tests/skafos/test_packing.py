"""Files become the one zip that is uploaded."""

from __future__ import annotations

import os
import time
import zipfile
from pathlib import Path

import pytest

from skafos.exceptions import InvalidParamError
from skafos.packing import packed, zip_name


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("build/M.mlpackage/Data/w.bin", "build/M.mlpackage/Manifest.json", "labels.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def names_in(files: list[str], *, keep_paths: bool) -> list[str]:
    with packed(files, "vision", keep_paths=keep_paths) as archive, zipfile.ZipFile(archive) as opened:
        return opened.namelist()


def test_a_folder_is_kept_with_its_name(here: Path) -> None:
    assert names_in(["build/M.mlpackage", "labels.txt"], keep_paths=False) == [
        "M.mlpackage/Data/w.bin",
        "M.mlpackage/Manifest.json",
        "labels.txt",
    ]


def test_paths_are_kept_as_given_when_asked(here: Path) -> None:
    assert names_in(["build/M.mlpackage/Manifest.json"], keep_paths=True) == ["build/M.mlpackage/Manifest.json"]
    assert names_in(["."], keep_paths=True)[0] == "build/M.mlpackage/Data/w.bin"


@pytest.mark.parametrize("keep_paths", [True, False])
def test_no_name_is_absolute_or_leads_upwards(here: Path, keep_paths: bool) -> None:
    given = [str(here / "labels.txt"), "build/../build/M.mlpackage"]
    assert names_in(given, keep_paths=keep_paths) == [
        "M.mlpackage/Data/w.bin",
        "M.mlpackage/Manifest.json",
        "labels.txt",
    ]


def test_the_same_files_give_the_same_zip(here: Path) -> None:
    with packed(["labels.txt"], "vision", keep_paths=False) as archive:
        first = archive.read_bytes()
    os.utime("labels.txt", (time.time() - 10_000, time.time() - 10_000))
    with packed(["labels.txt"], "vision", keep_paths=False) as archive:
        assert archive.read_bytes() == first
        assert archive.name == "vision.zip"
    assert not archive.exists()


def test_a_single_zip_goes_as_it_is(here: Path) -> None:
    with zipfile.ZipFile("mine.zip", "w") as made:
        made.writestr("m.bin", b"1")
    with packed(["mine.zip"], "vision", keep_paths=False) as archive:
        assert archive == Path("mine.zip")
    assert Path("mine.zip").exists()


def test_two_files_of_one_name_are_refused(here: Path) -> None:
    (here / "other").mkdir()
    (here / "other/labels.txt").write_text("other")
    with pytest.raises(InvalidParamError, match="would both be"):
        names_in(["labels.txt", "other/labels.txt"], keep_paths=False)


@pytest.mark.parametrize("files", [[], ["missing"], ["broken.zip"], ["empty"]])
def test_what_cannot_be_packed_is_refused(here: Path, files: list[str]) -> None:
    (here / "broken.zip").write_bytes(b"no zip")
    (here / "empty").mkdir()
    with pytest.raises(InvalidParamError):
        names_in(files, keep_paths=False)


@pytest.mark.parametrize("model", ["a/b", "..", "a\\b", "a\0b"])
def test_a_models_name_that_is_no_file_name_is_refused(model: str) -> None:
    with pytest.raises(InvalidParamError):
        zip_name(model)
