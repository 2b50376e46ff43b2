"""Uploads on their way in: resumed without loss, held by one at a time, whole only when every byte is on disk."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.content_range import Part, part_of
from control_plane.errors import Conflict, Invalid
from control_plane.staging import MAX_REMEMBERED_HASHES, StagedUpload, Staging

ID = "0123456789abcdef" * 2


@pytest.fixture
def upload(tmp_path: Path) -> StagedUpload:
    return Staging(tmp_path / "staging").upload(ID)


def send(upload: StagedUpload, start: int, data: bytes) -> str:
    with upload.lock():
        writer = upload.write_at(start)
        writer.write(data)
        return writer.close()


def test_bytes_that_come_in_parts_hash_as_if_they_came_at_once(upload: StagedUpload) -> None:
    send(upload, 0, b"one ")
    assert upload.offset == 4
    assert send(upload, 4, b"two") == hashlib.sha256(b"one two").hexdigest()


def test_a_part_is_resumed_by_another_process_that_remembers_nothing(tmp_path: Path, upload: StagedUpload) -> None:
    send(upload, 0, b"one ")
    other = Staging(tmp_path / "staging").upload(ID)
    assert send(other, 4, b"two") == hashlib.sha256(b"one two").hexdigest()


def test_beginning_anew_forgets_what_came(upload: StagedUpload) -> None:
    send(upload, 0, b"a longer first attempt")
    assert send(upload, 0, b"short") == hashlib.sha256(b"short").hexdigest()
    assert upload.offset == 5


def test_a_complete_upload_is_whole_and_keeps_its_hash(upload: StagedUpload) -> None:
    sha256 = send(upload, 0, b"bytes")
    assert not upload.whole.exists()
    upload.complete(sha256)
    assert upload.is_whole
    assert upload.sha256 == sha256
    assert upload.offset == 5
    assert upload.whole.read_bytes() == b"bytes"


def test_a_second_holder_is_refused_until_the_first_ends(upload: StagedUpload) -> None:
    with upload.lock(), pytest.raises(Conflict), upload.lock():
        pass
    with upload.lock():
        pass


def test_only_ids_become_directories(tmp_path: Path) -> None:
    staging = Staging(tmp_path / "staging")
    for name in ("", "..", "../" + ID, ID + "/x", ID.upper(), ID + "\n"):
        with pytest.raises(ValueError, match="id"):
            staging.upload(name)


def test_untouched_uploads_are_found(tmp_path: Path) -> None:
    staging = Staging(tmp_path / "staging")
    send(staging.upload(ID), 0, b"x")
    now = datetime.now(UTC)
    assert staging.ids_untouched_since(now - timedelta(minutes=1)) == []
    assert staging.ids_untouched_since(now + timedelta(minutes=1)) == [ID]
    staging.upload(ID).remove()
    assert staging.ids_untouched_since(now + timedelta(minutes=1)) == []


def test_remembered_hashes_are_bounded_and_forgetting_one_does_no_harm(tmp_path: Path) -> None:
    staging = Staging(tmp_path / "staging")
    ids = [f"{number:032x}" for number in range(MAX_REMEMBERED_HASHES + 3)]
    for upload_id in ids:
        send(staging.upload(upload_id), 0, b"one ")
    assert len(staging._hashes._hashes) == MAX_REMEMBERED_HASHES
    assert {send(staging.upload(upload_id), 4, b"two") for upload_id in ids} == {hashlib.sha256(b"one two").hexdigest()}


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=8), st.data())
@settings(max_examples=60, deadline=None)
def test_any_cutting_of_the_bytes_with_any_restarts_gives_the_same_file(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], data: st.DataObject
) -> None:
    upload = Staging(tmp_path_factory.mktemp("staging")).upload(ID)
    whole = b"".join(parts)
    for _ in range(data.draw(st.integers(0, 2))):
        send(upload, 0, data.draw(st.binary(max_size=60)))
    sha256, offset = "", 0
    for part in parts:
        sha256 = send(upload, offset, part)
        offset += len(part)
    assert sha256 == hashlib.sha256(whole).hexdigest()
    assert upload.offset == len(whole)


def test_a_request_without_a_range_carries_the_whole_upload() -> None:
    assert part_of(None, 10) == Part(0, 10, 10)
    assert part_of(None, None) == Part(0, None, None)


def test_a_range_says_where_its_bytes_go() -> None:
    assert part_of("bytes 4-9/20", 6) == Part(4, 6, 20)
    assert part_of("bytes 4-9/20", None) == Part(4, 6, 20)
    assert part_of("bytes */20", 0).is_question
    assert not part_of(None, 0).is_question


@pytest.mark.parametrize(
    ("header", "length"),
    [
        ("bytes 9-4/20", None),
        ("bytes 4-20/20", None),
        ("bytes 4-9/*", None),
        ("bytes 4-9/20", 5),
        ("bytes */20", 5),
        ("items 4-9/20", None),
        ("bytes 4-9", None),
        ("bytes ٤-٩/20", None),
        ("bytes -1-9/20", None),
        (f"bytes 0-{10**30}/{10**31}", None),
    ],
)
def test_a_malformed_or_contradictory_range_is_invalid(header: str, length: int | None) -> None:
    with pytest.raises(Invalid):
        part_of(header, length)


@given(st.text(max_size=40), st.one_of(st.none(), st.integers(0, 100)))
@settings(max_examples=100)
def test_any_header_is_a_part_or_invalid(header: str, length: int | None) -> None:
    try:
        part = part_of(header, length)
    except Invalid:
        return
    assert part.start >= 0
