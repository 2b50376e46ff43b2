"""Upload URLs of our own: only what we signed, only until it expires."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.presign import InsecureSecretFile, Presigner, load_or_create_secret

NOW = datetime(2026, 5, 1, tzinfo=UTC)
PRESIGNER = Presigner(bytes(range(32)))


def parts(upload_id: str, expires: datetime) -> tuple[str, str]:
    query = parse_qs(PRESIGNER.query(upload_id, expires))
    return query["expires"][0], query["signature"][0]


def test_its_own_url_is_allowed_until_it_expires() -> None:
    expires, signature = parts("a", NOW + timedelta(seconds=10))
    assert PRESIGNER.allows("a", expires, signature, NOW)
    assert PRESIGNER.allows("a", expires, signature, NOW + timedelta(seconds=9))
    assert not PRESIGNER.allows("a", expires, signature, NOW + timedelta(seconds=10))


def test_a_url_holds_for_its_upload_alone() -> None:
    expires, signature = parts("a", NOW + timedelta(hours=1))
    assert not PRESIGNER.allows("b", expires, signature, NOW)


def test_a_later_expiry_needs_another_signature() -> None:
    expires, signature = parts("a", NOW + timedelta(hours=1))
    assert not PRESIGNER.allows("a", str(int(expires) + 1), signature, NOW)


def test_another_secret_makes_another_signature() -> None:
    expires, signature = parts("a", NOW + timedelta(hours=1))
    assert not Presigner(bytes(32)).allows("a", expires, signature, NOW)


@given(st.text(max_size=20), st.text(max_size=80))
@settings(max_examples=100)
def test_no_made_up_expiry_or_signature_is_allowed_or_raises(expires: str, signature: str) -> None:
    assert not PRESIGNER.allows("a", expires, signature, NOW)


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(InsecureSecretFile):
        Presigner(b"short")


def test_the_secret_is_made_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "data" / "upload-secret"
    first = load_or_create_secret(path)
    assert load_or_create_secret(path) == first
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["upload-secret"]


def test_two_that_make_the_secret_at_once_agree(tmp_path: Path) -> None:
    path = tmp_path / "upload-secret"
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(load_or_create_secret, [path] * 32))) == 1


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "upload-secret"
    load_or_create_secret(path)
    path.chmod(0o640)
    with pytest.raises(InsecureSecretFile, match="chmod 600"):
        load_or_create_secret(path)


def test_an_empty_secret_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "upload-secret"
    path.touch(0o600)
    with pytest.raises(InsecureSecretFile, match="0 bytes"):
        load_or_create_secret(path)
