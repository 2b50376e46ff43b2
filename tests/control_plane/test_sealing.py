"""Sealed secrets: opened with the right key for the right purpose and in no other way, and renewed by rotation."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.sealing import MAX_MASTER_KEYS, BadKeyFile, CannotOpen, MasterKeys, Sealer

SECRET = b"-----BEGIN PRIVATE KEY-----"
PURPOSE = "push:env-1:apns"


@pytest.fixture
def keys(tmp_path: Path) -> MasterKeys:
    return MasterKeys(tmp_path / "data" / "secrets")


def test_what_is_sealed_can_be_opened_by_a_later_process(keys: MasterKeys) -> None:
    sealed = keys.sealer().seal(SECRET, PURPOSE)
    assert SECRET not in sealed
    assert keys.sealer().open(sealed, PURPOSE) == SECRET
    assert keys.sealer().seal(SECRET, PURPOSE) != sealed


def test_a_secret_cannot_be_opened_for_another_purpose_or_with_another_key(keys: MasterKeys, tmp_path: Path) -> None:
    sealed = keys.sealer().seal(SECRET, PURPOSE)
    with pytest.raises(CannotOpen, match="another"):
        keys.sealer().open(sealed, "push:env-2:apns")
    with pytest.raises(CannotOpen, match="not in the file"):
        MasterKeys(tmp_path / "other").sealer().open(sealed, PURPOSE)


@given(place=st.integers(0, 200), bit=st.integers(0, 7))
def test_a_changed_secret_is_noticed(place: int, bit: int) -> None:
    sealer = Sealer({b"12345678": bytes(32)})
    sealed = bytearray(sealer.seal(SECRET, PURPOSE))
    sealed[place % len(sealed)] ^= 1 << bit
    with pytest.raises(CannotOpen):
        sealer.open(bytes(sealed), PURPOSE)


@given(st.binary(max_size=200))
def test_what_is_no_sealed_secret_is_refused(data: bytes) -> None:
    with pytest.raises(CannotOpen):
        Sealer({b"12345678": bytes(32)}).open(data, PURPOSE)


def test_rotation_renews_and_old_keys_go_when_nothing_needs_them(keys: MasterKeys) -> None:
    first = keys.sealer().seal(SECRET, PURPOSE)
    sealer = keys.add()
    renewed = sealer.renew(first, PURPOSE)
    assert renewed is not None
    assert Sealer.key_id_of(renewed) != Sealer.key_id_of(first)
    assert sealer.renew(renewed, PURPOSE) is None
    assert keys.forget_all_but({Sealer.key_id_of(first)}) == 0
    assert keys.sealer().open(first, PURPOSE) == SECRET
    assert keys.forget_all_but({Sealer.key_id_of(renewed)}) == 1
    assert keys.sealer().open(renewed, PURPOSE) == SECRET
    with pytest.raises(CannotOpen):
        keys.sealer().open(first, PURPOSE)


def test_the_newest_key_stays_also_when_it_seals_nothing_yet(keys: MasterKeys) -> None:
    keys.sealer()
    sealed = keys.add().seal(SECRET, PURPOSE)
    keys.forget_all_but(set())
    assert keys.sealer().open(sealed, PURPOSE) == SECRET


def test_rotations_that_never_end_are_bounded(keys: MasterKeys) -> None:
    keys.sealer()
    for _ in range(MAX_MASTER_KEYS - 1):
        keys.add()
    with pytest.raises(BadKeyFile, match="finish the rotation"):
        keys.add()


def test_the_file_is_for_its_owner_alone(keys: MasterKeys, tmp_path: Path) -> None:
    keys.sealer()
    file = tmp_path / "data" / "secrets"
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)
    with pytest.raises(BadKeyFile, match="chmod"):
        keys.sealer()


@pytest.mark.parametrize("text", ["nonsense", "00:", "0102030405060708:AAAA", "0102030405060708:%%%%"])
def test_what_holds_no_keys_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "secrets"
    file.touch(mode=0o600)
    file.write_text(text)
    with pytest.raises(BadKeyFile):
        MasterKeys(file).sealer()
