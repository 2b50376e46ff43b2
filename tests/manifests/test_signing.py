"""Signing keys in files: kept safely, numbered, found again by their id."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from manifests.signing import MAX_KEY_VERSIONS, FileKeyStore, InsecureKeyFile, KeyMissing


@pytest.fixture
def store(tmp_path: Path) -> FileKeyStore:
    return FileKeyStore(tmp_path / "keys")


def key_file(tmp_path: Path, name: str = "root-1") -> Path:
    return tmp_path / "keys" / "e1" / f"{name}.pem"


def test_a_key_that_was_made_signs(store: FileKeyStore) -> None:
    key = store.create("e1", "root")
    signer = store.signer("e1", "root", key.version)
    key.public.verify_signature(signer.sign(b"text"), b"text")
    assert (key.version, signer.public_key) == (1, key.public)
    assert key.public.scheme == "ed25519"


def test_keys_are_numbered_and_rotation_keeps_the_old(store: FileKeyStore) -> None:
    made = [store.create("e1", "online") for _ in range(12)]
    assert [key.version for key in made] == list(range(1, 13))
    assert store.signer("e1", "online").public_key == made[-1].public
    assert store.signer("e1", "online", 2).public_key == made[1].public


def test_a_key_is_found_by_its_id(store: FileKeyStore) -> None:
    made = [store.create("e1", "root") for _ in range(3)]
    store.create("e2", "root")
    assert store.signer_for("e1", "root", made[1].public.keyid).public_key == made[1].public
    with pytest.raises(KeyMissing):
        store.signer_for("e2", "root", made[1].public.keyid)
    with pytest.raises(KeyMissing):
        store.signer_for("e1", "online", made[1].public.keyid)


def test_files_and_folders_belong_to_their_owner_alone(store: FileKeyStore, tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        store.create("e1", "root")
    finally:
        os.umask(old)
    assert stat.S_IMODE(key_file(tmp_path).stat().st_mode) == 0o600
    for folder in (tmp_path / "keys", tmp_path / "keys" / "e1"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [path.name for path in key_file(tmp_path).parent.iterdir()] == ["root-1.pem"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_key_that_others_can_reach_is_refused(store: FileKeyStore, tmp_path: Path, mode: int) -> None:
    key = store.create("e1", "root")
    key_file(tmp_path).chmod(mode)
    with pytest.raises(InsecureKeyFile, match="chmod 600"):
        store.signer("e1", "root")
    with pytest.raises(InsecureKeyFile):
        store.signer_for("e1", "root", key.public.keyid)


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777])
def test_a_folder_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    store = FileKeyStore(tmp_path / "keys")
    store.create("e1", "root")
    (tmp_path / "keys" / "e1").chmod(mode)
    with pytest.raises(InsecureKeyFile):
        store.create("e1", "root")
    (tmp_path / "keys").chmod(mode)
    with pytest.raises(InsecureKeyFile, match="chmod go-rwx"):
        FileKeyStore(tmp_path / "keys")


def test_a_missing_key_is_missing(store: FileKeyStore) -> None:
    with pytest.raises(KeyMissing):
        store.signer("e1", "root")
    store.create("e1", "root")
    with pytest.raises(KeyMissing):
        store.signer("e1", "root", 2)


@pytest.mark.parametrize("content", [b"", b"no key", b"\xff" * 20_000])
def test_a_file_that_holds_no_key_is_refused_without_showing_it(
    store: FileKeyStore, tmp_path: Path, content: bytes
) -> None:
    store.create("e1", "root")
    key_file(tmp_path).write_bytes(content)
    with pytest.raises(InsecureKeyFile, match="holds no private key"):
        store.signer("e1", "root")


@pytest.mark.parametrize("environment_id", ["", "..", "a/b", "/etc", "a\x00", "e" * 65, "größe"])
def test_only_environment_ids_become_folders(store: FileKeyStore, environment_id: str) -> None:
    with pytest.raises(ValueError, match="environment's id"):
        store.create(environment_id, "root")


def test_two_creations_at_once_make_two_keys(store: FileKeyStore) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: store.create("e1", "root"), range(8)))
    assert sorted(key.version for key in made) == list(range(1, 9))
    for key in made:
        assert store.signer("e1", "root", key.version).public_key == key.public


def test_there_is_an_end_to_rotations(store: FileKeyStore, tmp_path: Path) -> None:
    store.create("e1", "root")
    key_file(tmp_path).rename(key_file(tmp_path, f"root-{MAX_KEY_VERSIONS - 1}"))
    with pytest.raises(OverflowError):
        store.create("e1", "root")
    assert len(list(key_file(tmp_path).parent.iterdir())) == 1


def test_files_that_are_no_keys_are_not_counted(store: FileKeyStore, tmp_path: Path) -> None:
    store.create("e1", "root")
    for name in ("root-x", "root-02", "root-7.old", "online-9"):
        key_file(tmp_path, name).write_bytes(b"")
    assert store.create("e1", "root").version == 2
