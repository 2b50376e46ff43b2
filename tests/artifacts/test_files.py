"""Files that are whole or not there, and hashes of streams."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import pytest

from artifacts.files import make_directory, whole_file
from artifacts.hashing import HashingWriter, hash_file, is_sha256, require_sha256


def test_a_file_appears_when_its_block_ends(tmp_path: Path) -> None:
    with whole_file(tmp_path / "file") as sink:
        sink.write(b"content")
        assert not (tmp_path / "file").exists()
    assert (tmp_path / "file").read_bytes() == b"content"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("problem", [ValueError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_what_was_there(tmp_path: Path, problem: type[BaseException]) -> None:
    def fail() -> None:
        with whole_file(tmp_path / "file") as sink:
            sink.write(b"half")
            raise problem

    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(problem):
        fail()
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_bytes_are_flushed_before_the_name_and_the_folder_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any other order, a power cut could leave a good name over an empty file."""
    seen: list[tuple[str, bool]] = []
    flush = os.fsync

    def recording(descriptor: int) -> None:
        what = "folder" if Path(f"/proc/self/fd/{descriptor}").is_dir() else "file"
        seen.append((what, (tmp_path / "file").exists()))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", recording)
    with whole_file(tmp_path / "file") as sink:
        sink.write(b"content")
    assert seen == [("file", False), ("folder", True)]


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    with whole_file(tmp_path / "file") as one, whole_file(tmp_path / "file") as two:
        one.write(b"one")
        two.write(b"two")
    assert (tmp_path / "file").read_bytes() == b"one"


def test_a_folder_is_made_with_those_above_it_and_may_be_there(tmp_path: Path) -> None:
    for _ in range(2):
        make_directory(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()


def test_a_file_and_a_stream_have_the_same_hash_and_length(tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(content)
    sink = io.BytesIO()
    writer = HashingWriter(sink)
    for start in range(0, len(content), 70_001):
        writer.write(content[start : start + 70_001])
    expected = (hashlib.sha256(content).hexdigest(), len(content))
    assert hash_file(tmp_path / "file") == (writer.sha256, writer.length) == expected
    assert sink.getvalue() == content


@pytest.mark.parametrize("text", ["", "0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 64 + "\n", "\u0660" * 64])
def test_only_64_lower_case_hex_digits_name_a_blob(text: str) -> None:
    assert not is_sha256(text)
    with pytest.raises(ValueError, match="64 lower-case"):
        require_sha256(text)
    assert require_sha256("0123456789abcdef" * 4)
