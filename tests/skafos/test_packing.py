"""Files become the one zip that is uploaded."""

from __future__ import annotations

import os
import time
import zipfile
from pathlib import Path

import pytest

from skafos.exceptions import InvalidParamError
from skafos.packing import Naming, packed, zip_name


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("build/M.mlpackage/Data/w.bin", "build/M.mlpackage/Manifest.json", "labels.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def names_in(files: list[str], naming: Naming = Naming.LAST_PART) -> list[str]:
    with packed(files, "vision", naming) as archive, zipfile.ZipFile(archive) as opened:
        return opened.namelist()


def test_a_folder_is_kept_with_its_name(here: Path) -> None:
    assert names_in(["build/M.mlpackage", "labels.txt"], Naming.LAST_PART) == [
        "M.mlpackage/Data/w.bin",
        "M.mlpackage/Manifest.json",
        "labels.txt",
    ]


def test_paths_are_kept_as_given_when_asked(here: Path) -> None:
    assert names_in(["build/M.mlpackage/Manifest.json"], Naming.AS_GIVEN) == ["build/M.mlpackage/Manifest.json"]
    assert names_in(["."], Naming.AS_GIVEN)[0] == "build/M.mlpackage/Data/w.bin"


def test_an_absolute_path_is_kept_without_its_leading_slash(here: Path) -> None:
    given = [str(here / "labels.txt"), str(here / "build/../build/M.mlpackage")]
    top = str(here).lstrip("/")
    assert names_in(given, Naming.AS_GIVEN) == [
        f"{top}/build/M.mlpackage/Data/w.bin",
        f"{top}/build/M.mlpackage/Manifest.json",
        f"{top}/labels.txt",
    ]


def test_the_last_part_of_a_path_names_it_wherever_it_lies(here: Path) -> None:
    (here / "latest.txt").symlink_to("labels.txt")
    given = [str(here / "labels.txt"), "build/../build/M.mlpackage", "latest.txt", "build/M.mlpackage/."]
    assert names_in(given) == ["M.mlpackage/Data/w.bin", "M.mlpackage/Manifest.json", "labels.txt", "latest.txt"]


@pytest.mark.parametrize("path", ["../labels.txt", "..", "build/../../x/labels.txt"])
def test_a_path_that_leads_out_of_the_working_directory_is_not_kept_but_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    (here / "inside/build").mkdir(parents=True)
    (here / "x").mkdir()
    (here / "x/labels.txt").write_text("cat")
    monkeypatch.chdir(here / "inside")
    with pytest.raises(InvalidParamError, match="out of the working directory"):
        names_in([path], Naming.AS_GIVEN)
    assert names_in([path])


def test_the_same_files_give_the_same_zip(here: Path) -> None:
    with packed(["labels.txt"], "vision", Naming.LAST_PART) as archive:
        first = archive.read_bytes()
    os.utime("labels.txt", (time.time() - 10_000, time.time() - 10_000))
    with packed(["labels.txt"], "vision", Naming.LAST_PART) as archive:
        assert archive.read_bytes() == first
        assert archive.name == "vision.zip"
    assert not archive.exists()


def write_a_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("m.bin", b"1")


def test_a_single_zip_goes_as_it_is(here: Path) -> None:
    write_a_zip(here / "mine.zip")
    with packed(["mine.zip"], "vision", Naming.LAST_PART) as archive:
        assert archive == Path("mine.zip")
    assert Path("mine.zip").exists()


def test_with_paths_as_given_only_a_zip_given_as_that_of_the_model_goes_as_it_is(here: Path) -> None:
    for name in ("vision.zip", "mine.zip"):
        write_a_zip(here / name)
    with packed(["vision.zip"], "vision", Naming.AS_GIVEN) as archive:
        assert archive == Path("vision.zip")
    assert names_in(["mine.zip"], Naming.AS_GIVEN) == ["mine.zip"]
    assert names_in(["./vision.zip"], Naming.AS_GIVEN) == ["vision.zip"]
    assert names_in(["vision.zip", "labels.txt"], Naming.AS_GIVEN) == ["labels.txt", "vision.zip"]


def test_two_files_of_one_name_are_refused(here: Path) -> None:
    (here / "other").mkdir()
    (here / "other/labels.txt").write_text("other")
    with pytest.raises(InvalidParamError, match="would both be"):
        names_in(["labels.txt", "other/labels.txt"], Naming.LAST_PART)


@pytest.mark.parametrize("naming", Naming)
@pytest.mark.parametrize(
    "files",
    [
        *([], [""], ["missing"], ["missing.zip"], ["broken.zip"], ["labels.txt", "broken.zip"], ["folder.zip"]),
        *(["empty"], ["pipes"], ["links"], ["other"]),
    ],
)
def test_what_cannot_be_packed_is_refused(here: Path, files: list[str], naming: Naming) -> None:
    (here / "broken.zip").write_bytes(b"no zip")
    for folder in ("empty", "folder.zip", "pipes", "links", "other"):
        (here / folder).mkdir()
    os.mkfifo(here / "pipes/pipe")
    (here / "links/broken").symlink_to("nowhere")
    Path(os.fsdecode(os.fsencode(here / "other") + b"/\xff")).write_bytes(b"x")
    with pytest.raises(InvalidParamError):
        names_in(files, naming)


@pytest.mark.parametrize("model", ["a/b", "..", "a\\b", "a\0b"])
def test_a_models_name_that_is_no_file_name_is_refused(model: str) -> None:
    with pytest.raises(InvalidParamError):
        zip_name(model)
