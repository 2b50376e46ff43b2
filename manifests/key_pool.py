"""Signing keys that live elsewhere, in a KMS or an HSM: made there, put in by an operator, taken when they are needed.

An environment needs keys of its own: with shared ones, metadata of one would pass as metadata of another. Whoever
keeps the keys makes some in advance and puts the URI and the public half of each into the pool. A new environment, or
a rotation, takes the next; a key that was taken is never given again. Nothing in these files is secret: a URI names a
key, and the service behind it decides who may use it.

    <folder>/pool/<key id>.json              not taken yet
    <folder>/<environment id>/<role>-1.json  taken

Everything here may block, on a disk or on a network.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key, Signer, SSlibKey  # type: ignore[attr-defined]

from manifests.signing import (
    KeyMissing,
    NoKeyLeft,
    Role,
    SigningKey,
    folder_of,
    refuse_shared,
    sync_folder,
    versions_in,
)

# A public RSA key of 4,096 bits has 800 bytes; URIs have a few hundred.
MAX_ENTRY_BYTES = 16 * 1024
# What a new key signs when it is put in, so that one that cannot sign is found before an environment needs it.
TRIAL = b"skafos: a key that is put into the pool signs this"


class KeyUnusable(ValueError):
    """A key that was to be put into the pool cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class _Entry:
    uri: str
    public: Key

    def signer(self) -> Signer:
        return Signer.from_priv_key_uri(self.uri, self.public)


class KeyPool:
    """Keys by the URIs of `securesystemslib` signers: ``awskms:…``, ``gcpkms:…``, ``azurekms:…``, ``hsm:…`` …."""

    def __init__(self, folder: Path) -> None:
        """Open the folder, making it when it is not there.

        Raises:
            InsecureKeyFile: others than its owner can enter it, and so decide which keys sign.
        """
        self._folder = folder
        self._pool = folder / "pool"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._pool.mkdir(mode=0o700, exist_ok=True)
        for each in (folder, self._pool):
            refuse_shared(each)

    def put(self, uri: str, public_pem: bytes) -> str:
        """Put a key in and return its TUF key id. It signs once, so that one that cannot is refused here.

        Args:
            uri: of the private key.
            public_pem: the public half, as PEM (SubjectPublicKeyInfo).

        Raises:
            KeyUnusable: no such key, no access to it, another public half, or it was put in before.
        """
        entry = _Entry(uri, _public_key(public_pem))
        _try_out(entry)
        key_id = entry.public.keyid
        with self._alone():
            if any(key_id == each.public.keyid for each in self._all()):
                raise KeyUnusable("This key was put in before; every environment and role needs one of its own.")
            _write(self._pool / f"{key_id}.json", entry)
        return key_id

    def left(self) -> int:
        """Return how many keys are not taken yet."""
        return len(list(self._pool.glob("*.json")))

    def create(self, environment_id: str, role: Role) -> SigningKey:
        """Take the next key of the pool for a role."""
        folder = folder_of(self._folder, environment_id)
        with self._alone():
            free = min(self._pool.glob("*.json"), default=None)
            if free is None:
                raise NoKeyLeft(
                    "No signing key is left in the pool; put one in with `python -m control_plane add-signing-key`."
                )
            folder.mkdir(mode=0o700, exist_ok=True)
            version = next(reversed(versions_in(folder, role, "json")), 0) + 1
            taken = folder / f"{role}-{version}.json"
            # One step: a crash leaves the key either free or taken.
            free.rename(taken)
            for changed in (self._folder, folder, self._pool):
                sync_folder(changed)
        entry = _read(taken)
        return SigningKey(environment_id, role, version, entry.uri, entry.public)

    def signer(self, environment_id: str, role: Role, version: int | None = None) -> Signer:
        """Return the signer of one version of a role's key, by default of the newest."""
        folder = folder_of(self._folder, environment_id)
        if version is None:
            version = next(reversed(versions_in(folder, role, "json")), 0)
        return _read(folder / f"{role}-{version}.json").signer()

    def signer_for(self, environment_id: str, role: Role, key_id: str) -> Signer:
        """Return the signer of the key with this TUF key id."""
        folder = folder_of(self._folder, environment_id)
        for version in reversed(versions_in(folder, role, "json")):
            entry = _read(folder / f"{role}-{version}.json")
            if entry.public.keyid == key_id:
                return entry.signer()
        raise KeyMissing(f"No {role} key of environment {environment_id} has the id {key_id}")

    def _all(self) -> Iterator[_Entry]:
        return map(_read, self._folder.glob("*/*.json"))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other control planes on this folder waiting, so that none takes the same key."""
        handle = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _public_key(pem: bytes) -> SSlibKey:
    try:
        return SSlibKey.from_crypto(load_pem_public_key(pem))
    except ValueError as error:
        raise KeyUnusable("The public key is no PEM of a kind that TUF clients can verify.") from error


def _try_out(entry: _Entry) -> None:
    """Let a key sign, and check the signature with the public half. Signers raise what their libraries raise."""
    try:
        signature = entry.signer().sign(TRIAL)
    except Exception as error:
        # The URI may name accounts; whoever put it in knows it.
        raise KeyUnusable(f"The key at this URI cannot sign ({type(error).__name__}): {error}") from error
    try:
        entry.public.verify_signature(signature, TRIAL)
    except UnverifiedSignatureError as error:
        raise KeyUnusable("The key at this URI has another public half.") from error


def _write(path: Path, entry: _Entry) -> None:
    """Write a file whole or not at all, readable by its owner only."""
    content: dict[str, Any] = {"uri": entry.uri, "key_id": entry.public.keyid, "public": entry.public.to_dict()}
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).rename(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _read(path: Path) -> _Entry:
    try:
        refuse_shared(path)
        with path.open("rb") as file:
            content = json.loads(file.read(MAX_ENTRY_BYTES))
        return _Entry(content["uri"], Key.from_dict(content["key_id"], content["public"]))
    except FileNotFoundError as error:
        raise KeyMissing(f"There is no signing key {path}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise KeyMissing(f"{path} names no signing key") from error
