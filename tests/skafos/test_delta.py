"""Patches between plain files."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from artifacts.encodings import SKAFOS_DELTA, ZSTD_PREFIX
from skafos import delta
from skafos.delta import ENCODINGS, Limits, PatchFailedError
from skafos.exceptions import InvalidParamError
from tests.components import require


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """An old file, a new one that is much alike, and where the patch goes."""
    old, new = tmp_path / "old", tmp_path / "new"
    content = random.Random(1).randbytes(200_000)
    old.write_bytes(content)
    new.write_bytes(content[:90_000] + b"something else" + content[90_100:])
    return old, new, tmp_path / "patch"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_patch_leads_from_the_old_file_to_the_new_one(
    files: tuple[Path, Path, Path], tmp_path: Path, encoding: str
) -> None:
    old, new, patch = files
    made = delta.make(old, new, patch, encoding=encoding).info
    assert made.encoding == encoding
    assert made.length == patch.stat().st_size < 1_000
    assert (made.old_length, made.new_length) == (old.stat().st_size, new.stat().st_size)
    assert delta.info(patch) == made
    delta.apply(old, patch, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == new.read_bytes()
    assert not list(tmp_path.glob(".skafos-delta-*"))


def test_the_zstd_program_decodes_a_patch(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    old, new, patch = files
    delta.make(old, new, patch, encoding=ZSTD_PREFIX)
    out = tmp_path / "by zstd"
    command = [str(require("zstd")), "-q", "-d", "--long=31", f"--patch-from={old}", str(patch), "-o", str(out)]
    subprocess.run(command, check=True)
    assert out.read_bytes() == new.read_bytes()


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(old=st.binary(max_size=300), new=st.binary(max_size=300), encoding=st.sampled_from(ENCODINGS))
def test_any_pair_of_files_has_a_patch(tmp_path: Path, old: bytes, new: bytes, encoding: str) -> None:
    (tmp_path / "old").write_bytes(old)
    (tmp_path / "new").write_bytes(new)
    delta.make(tmp_path / "old", tmp_path / "new", tmp_path / "patch", encoding=encoding)
    delta.apply(tmp_path / "old", tmp_path / "patch", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == new


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_another_old_file_is_refused(files: tuple[Path, Path, Path], tmp_path: Path, encoding: str) -> None:
    old, new, patch = files
    delta.make(old, new, patch, encoding=encoding)
    with pytest.raises(PatchFailedError, match="not the one that the patch was made from"):
        delta.apply(new, patch, tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_damaged_patch_makes_no_file(files: tuple[Path, Path, Path], tmp_path: Path, encoding: str) -> None:
    old, new, patch = files
    delta.make(old, new, patch, encoding=encoding)
    whole = patch.read_bytes()
    for position in range(0, len(whole), 7):
        patch.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        with pytest.raises((PatchFailedError, InvalidParamError)):
            delta.apply(old, patch, tmp_path / "again")
        assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("content", [b"", b"x", b"\0" * 2000, b"\xff" * 16])
def test_a_file_that_is_no_patch_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "patch").write_bytes(content)
    with pytest.raises(InvalidParamError, match="no patch"):
        delta.info(tmp_path / "patch")


def test_the_beginning_of_a_patch_is_no_patch(files: tuple[Path, Path, Path]) -> None:
    old, new, patch = files
    delta.make(old, new, patch)
    whole = patch.read_bytes()
    for length in range(0, 60, 5):
        patch.write_bytes(whole[:length])
        with pytest.raises(InvalidParamError):
            delta.info(patch)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_memory_is_bounded_and_the_error_says_how_much_it_takes(
    files: tuple[Path, Path, Path], tmp_path: Path, encoding: str
) -> None:
    old, new, patch = files
    with pytest.raises(PatchFailedError, match="--max-memory"):
        delta.make(old, new, patch, Limits(memory_bytes=1000), encoding=encoding)
    assert not patch.exists()
    delta.make(old, new, patch, encoding=encoding)
    with pytest.raises(PatchFailedError, match="--max-memory"):
        delta.apply(old, patch, tmp_path / "again", Limits(memory_bytes=1000))
    assert not (tmp_path / "again").exists()


def test_an_unknown_encoding_is_refused_with_those_that_there_are(files: tuple[Path, Path, Path]) -> None:
    with pytest.raises(InvalidParamError, match=f"{SKAFOS_DELTA} and {ZSTD_PREFIX}"):
        delta.make(*files, encoding="bsdiff")


def test_progress_is_told_to_its_end(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    old, new, patch = files
    making: list[tuple[int, int]] = []
    trying: list[tuple[int, int]] = []
    applying: list[tuple[int, int]] = []
    delta.make(old, new, patch, making=lambda *told: making.append(told), trying=lambda *told: trying.append(told))
    delta.apply(old, patch, tmp_path / "again", progress=lambda *told: applying.append(told))
    for told in (making, trying, applying):
        assert told
        assert [done for done, _ in told] == sorted(done for done, _ in told)
        assert told[-1][0] == told[-1][1]


def test_the_report_covers_the_new_file(files: tuple[Path, Path, Path]) -> None:
    report = delta.make(*files).report
    assert report is not None
    assert sum(region.length for region in report.regions) == files[1].stat().st_size
    assert report.sizes[report.candidate] == min(report.sizes.values()) == files[2].stat().st_size


def test_missing_files_and_folders_are_named(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    old, new, patch = files
    with pytest.raises(InvalidParamError, match="nothing"):
        delta.make(tmp_path / "nothing", new, patch)
    with pytest.raises(InvalidParamError, match="folder"):
        delta.make(old, new, tmp_path / "nowhere" / "patch")
