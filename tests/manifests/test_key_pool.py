"""Keys that live elsewhere: put in, tried out, taken once each, found again."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from securesystemslib.signer import (  # type: ignore[attr-defined]
    SIGNER_FOR_URI_SCHEME,
    CryptoSigner,
    Key,
    SecretsHandler,
    Signature,
    Signer,
)

from manifests.key_pool import KeyPool, KeyUnusable
from manifests.signing import InsecureKeyFile, KeyMissing, NoKeyLeft


@pytest.fixture
def pool(tmp_path: Path) -> KeyPool:
    return KeyPool(tmp_path / "keys")


def a_key(folder: Path, private: Ed25519PrivateKey | ec.EllipticCurvePrivateKey | None = None) -> tuple[str, bytes]:
    """Return the URI and the public half of a new key outside the pool: the URI scheme that needs no other service."""
    private = private or Ed25519PrivateKey.generate()
    file = folder / f"{len(list(folder.glob('*.pem')))}.pem"
    file.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return f"file2:{file}", public


def test_each_environment_and_role_takes_a_key_of_its_own(pool: KeyPool, tmp_path: Path) -> None:
    put = {pool.put(*a_key(tmp_path)) for _ in range(4)}
    assert pool.left() == 4
    made = [pool.create(environment, role) for environment in ("e1", "e2") for role in ("root", "online")]
    assert {key.public.keyid for key in made} == put
    assert pool.left() == 0
    for key in made:
        signer = pool.signer(key.environment_id, key.role)
        key.public.verify_signature(signer.sign(b"text"), b"text")
        assert pool.signer_for(key.environment_id, key.role, key.public.keyid).public_key == key.public


def test_a_rotation_takes_the_next_and_keeps_the_old(pool: KeyPool, tmp_path: Path) -> None:
    for _ in range(2):
        pool.put(*a_key(tmp_path))
    old, new = pool.create("e1", "online"), pool.create("e1", "online")
    assert (old.version, new.version) == (1, 2)
    assert pool.signer("e1", "online").public_key == new.public
    assert pool.signer("e1", "online", 1).public_key == old.public


def test_an_empty_pool_says_how_to_fill_it(pool: KeyPool) -> None:
    with pytest.raises(NoKeyLeft, match="add-signing-key"):
        pool.create("e1", "root")
    with pytest.raises(KeyMissing):
        pool.signer("e1", "root")
    with pytest.raises(KeyMissing):
        pool.signer_for("e1", "root", "0" * 64)


def test_those_who_take_at_once_take_different_keys(pool: KeyPool, tmp_path: Path) -> None:
    put = {pool.put(*a_key(tmp_path)) for _ in range(8)}
    with ThreadPoolExecutor(8) as threads:
        stores = [KeyPool(tmp_path / "keys") for _ in range(8)]
        made = list(threads.map(lambda store: store.create("e1", "root"), stores))
    assert {key.public.keyid for key in made} == put
    assert sorted(key.version for key in made) == list(range(1, 9))


def test_a_key_is_put_in_once_taken_or_not(pool: KeyPool, tmp_path: Path) -> None:
    key = a_key(tmp_path)
    pool.put(*key)
    with pytest.raises(KeyUnusable, match="before"):
        pool.put(*key)
    pool.create("e1", "root")
    with pytest.raises(KeyUnusable, match="before"):
        pool.put(*key)


def test_a_key_of_another_kind_signs_too(pool: KeyPool, tmp_path: Path) -> None:
    pool.put(*a_key(tmp_path, ec.generate_private_key(ec.SECP256R1())))
    key = pool.create("e1", "root")
    assert key.public.scheme == "ecdsa-sha2-nistp256"
    key.public.verify_signature(pool.signer("e1", "root").sign(b"text"), b"text")


def test_a_key_that_cannot_be_used_is_refused_when_it_is_put_in(pool: KeyPool, tmp_path: Path) -> None:
    uri, public = a_key(tmp_path)
    with pytest.raises(KeyUnusable, match="does not match"):
        pool.put(uri, a_key(tmp_path)[1])
    with pytest.raises(KeyUnusable, match="cannot sign"):
        pool.put(f"file2:{tmp_path}/nothing.pem", public)
    with pytest.raises(KeyUnusable, match="cannot sign"):
        pool.put("no-such-scheme:key", public)
    with pytest.raises(KeyUnusable, match="no PEM"):
        pool.put(uri, b"no key")
    other = dsa.generate_private_key(1024).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(KeyUnusable, match="no PEM"):
        pool.put(uri, other)
    assert pool.left() == 0


class Mistaken(Signer):
    """Signs with another key than the one it is asked for, as a service with a wrong alias does."""

    def __init__(self, public: Key) -> None:
        self._public = public

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> Mistaken:
        del priv_key_uri, secrets_handler
        return cls(public_key)

    @property
    def public_key(self) -> Key:
        return self._public

    def sign(self, payload: bytes) -> Signature:
        signature: Signature = CryptoSigner.generate_ed25519().sign(payload)
        return signature


def test_a_service_that_signs_with_another_key_is_found_out(
    pool: KeyPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SIGNER_FOR_URI_SCHEME, "mistaken", Mistaken)
    with pytest.raises(KeyUnusable, match="another public half"):
        pool.put("mistaken:1", a_key(tmp_path)[1])
    assert pool.left() == 0


def test_only_its_owner_decides_which_keys_sign(pool: KeyPool, tmp_path: Path) -> None:
    pool.put(*a_key(tmp_path))
    pool.create("e1", "root")
    taken = tmp_path / "keys" / "e1" / "root-1.json"
    assert taken.stat().st_mode & 0o077 == 0
    taken.chmod(0o644)
    with pytest.raises(InsecureKeyFile):
        pool.signer("e1", "root")
    (tmp_path / "keys" / "pool").chmod(0o755)
    with pytest.raises(InsecureKeyFile):
        KeyPool(tmp_path / "keys")


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"uri": "file2:x", "key_id": "k", "public": {}})])
def test_a_file_that_names_no_key_is_said_to(pool: KeyPool, tmp_path: Path, content: str) -> None:
    pool.put(*a_key(tmp_path))
    pool.create("e1", "root")
    (tmp_path / "keys" / "e1" / "root-1.json").write_text(content)
    with pytest.raises(KeyMissing, match="names no signing key"):
        pool.signer("e1", "root")
