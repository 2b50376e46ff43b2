"""The corpus of the benchmark of patches: what it names can be had, and its files stand where the index says."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import corpus
from bench.patches import finetunes, released
from bench.patches.pairs import Pair, keep, read_index, write_index


def a_pair(name: str) -> Pair:
    return Pair.of(name, "released", "of a test", "float32", ".onnx")


def place(pair: Pair, folder: Path) -> None:
    for path in pair.files(folder):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pair.name.encode())


def test_the_index_gives_back_the_pairs_whose_files_are_there(tmp_path: Path) -> None:
    there, missing = a_pair("there"), a_pair("missing")
    place(there, tmp_path)
    write_index([there, missing], tmp_path)
    assert read_index(tmp_path) == [there]
    assert there.files(tmp_path) == (tmp_path / "there" / "old.onnx", tmp_path / "there" / "new.onnx")


def test_a_corpus_that_was_not_made_has_no_index(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_index(tmp_path)


def test_a_file_that_is_kept_replaces_what_stood_there_and_leaves_its_source_alone(tmp_path: Path) -> None:
    source, path = tmp_path / "source", tmp_path / "folder" / "kept"
    source.write_bytes(b"new")
    path.parent.mkdir()
    path.write_bytes(b"old")
    keep(source, path)
    assert path.read_bytes() == source.read_bytes() == b"new"
    assert sorted(one.name for one in path.parent.iterdir()) == ["kept"]


def test_pairs_have_names_of_their_own() -> None:
    names = [one.pair.name for one in (*released.PAIRS, *finetunes.PAIRS)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("pair", released.PAIRS, ids=lambda pair: pair.pair.name)
def test_every_file_of_a_released_pair_is_in_a_wheel_that_is_pinned(pair: released.ReleasedPair) -> None:
    pinned = {
        (wheel.project, wheel.version, file.name)
        for wheel in (*corpus.WHEELS, *released.WHEELS)
        for file in wheel.files
    }
    for release in (pair.old, pair.new):
        assert {(release.project, release.version, name) for name in release.files} <= pinned


def test_the_wheels_of_the_benchmark_are_kept_apart_from_the_models_that_tests_fetch() -> None:
    assert not any(wheel.directory.is_relative_to(corpus.CACHE) for wheel in released.WHEELS)
