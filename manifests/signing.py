"""Where the private keys live: in files; `manifests.key_pool` has those in a KMS or an HSM.

Keys of a role are numbered, so a rotation makes a new one and keeps the old. Which of them are in force is what the
environment's newest root says: take the ids from `trust.key_ids(root, role)` and the signers from `signer_for`. A key
that was made for a rotation which then failed is never picked by mistake.

Everything here may block, on a disk or on a network.
"""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, Key, Signer  # type: ignore[attr-defined]

Role = Literal["root", "online"]

# Environment ids are made by the control plane; nothing else becomes a folder's name.
_ENVIRONMENT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
# Rotations of one role that a folder is searched for; at one a day that is 27 years.
MAX_KEY_VERSIONS = 10_000
# An Ed25519 key in PKCS#8 has 119 bytes and an RSA key of 4,096 bits 3,300.
MAX_KEY_FILE_BYTES = 16 * 1024


class KeyMissing(LookupError):
    """There is no such signing key."""


class InsecureKeyFile(PermissionError):
    """A key's file or folder can be read or changed by others than its owner, or holds no key."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A signing key's public half and where its private half is.

    Attributes:
        version: 1, 2, 3… within the role of one environment.
        uri: of the private key, in the form that `securesystemslib` signers take.
    """

    environment_id: str
    role: Role
    version: int
    uri: str
    public: Key


class NoKeyLeft(LookupError):
    """A store that makes no keys of its own has none to give."""


class KeyStore(Protocol):
    """Makes signing keys and hands out signers. Its methods may block."""

    def create(self, environment_id: str, role: Role) -> SigningKey:
        """Make the next key of a role.

        Raises:
            NoKeyLeft: whoever keeps the keys has to provide more.
        """

    def signer(self, environment_id: str, role: Role, version: int | None = None) -> Signer:
        """Return the signer of one version of a role's key, by default of the newest.

        Raises:
            KeyMissing: there is none.
            InsecureKeyFile: the private key is not kept safely.
        """

    def signer_for(self, environment_id: str, role: Role, key_id: str) -> Signer:
        """Return the signer of the key with this TUF key id. Raises as `signer` does."""


class FileKeyStore:
    """Ed25519 keys in PKCS#8 PEM files: `<folder>/<environment id>/<role>-<version>.pem`.

    Folders are 0700 and files 0600; anything that others can reach is refused, when the store is opened and whenever
    a key is read.
    """

    def __init__(self, folder: Path) -> None:
        """Open the folder, making it when it is not there.

        Raises:
            InsecureKeyFile: others than its owner can enter it.
        """
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        refuse_shared(folder)

    def create(self, environment_id: str, role: Role) -> SigningKey:
        """Make the next key of a role; it is on disk when this returns."""
        folder = self._folder_of(environment_id)
        folder.mkdir(mode=0o700, exist_ok=True)
        refuse_shared(folder)
        sync_folder(self._folder)
        signer = CryptoSigner.generate_ed25519()
        version = self._write(environment_id, role, signer.private_bytes)
        return SigningKey(
            environment_id, role, version, f"file2:{self._path(environment_id, role, version)}", signer.public_key
        )

    def signer(self, environment_id: str, role: Role, version: int | None = None) -> Signer:
        """Return the signer of one version of a role's key, by default of the newest."""
        if version is None:
            version = next(reversed(self._versions(environment_id, role)), 0)
        return _read_signer(self._path(environment_id, role, version))

    def signer_for(self, environment_id: str, role: Role, key_id: str) -> Signer:
        """Return the signer of the key with this TUF key id."""
        for version in reversed(self._versions(environment_id, role)):
            signer = self.signer(environment_id, role, version)
            if signer.public_key.keyid == key_id:
                return signer
        raise KeyMissing(f"No {role} key of environment {environment_id} has the id {key_id}")

    def _versions(self, environment_id: str, role: Role) -> list[int]:
        return versions_in(self._folder_of(environment_id), role, "pem")

    def _write(self, environment_id: str, role: Role, pem: bytes) -> int:
        folder = self._folder_of(environment_id)
        newest = next(reversed(self._versions(environment_id, role)), 0)
        # mkstemp makes the file 0600. Linking it under its name only when it is whole, and only when the name is free,
        # leaves no torn key behind a crash and lets two creations at once both succeed.
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(pem)
                file.flush()
                os.fsync(file.fileno())
            return self._link_next(Path(temporary), environment_id, role, newest)
        finally:
            Path(temporary).unlink()
            sync_folder(folder)

    def _link_next(self, temporary: Path, environment_id: str, role: Role, newest: int) -> int:
        for version in range(newest + 1, MAX_KEY_VERSIONS):
            try:
                self._path(environment_id, role, version).hardlink_to(temporary)
            except FileExistsError:
                continue
            return version
        raise OverflowError(f"Environment {environment_id} has {MAX_KEY_VERSIONS} {role} keys")

    def _folder_of(self, environment_id: str) -> Path:
        return folder_of(self._folder, environment_id)

    def _path(self, environment_id: str, role: Role, version: int) -> Path:
        return self._folder_of(environment_id) / f"{role}-{version}.pem"


def folder_of(keys: Path, environment_id: str) -> Path:
    """Return the folder of an environment's keys below ``keys``.

    Raises:
        ValueError: this is no environment's id.
    """
    if _ENVIRONMENT_ID.fullmatch(environment_id) is None:
        raise ValueError("An environment's id has 1 to 64 letters, digits, _ and -")
    return keys / environment_id


def versions_in(folder: Path, role: Role, suffix: str) -> list[int]:
    """Return the numbers of the files ``<role>-<number>.<suffix>`` in ``folder``, the least first."""
    form = re.compile(rf"{role}-([1-9][0-9]{{0,4}})\.{suffix}")
    names = (path.name for path in folder.glob(f"{role}-*.{suffix}"))
    return sorted(int(match[1]) for match in map(form.fullmatch, names) if match)


def refuse_shared(path: Path) -> None:
    """Raise `InsecureKeyFile` when others than the owner can reach ``path``."""
    if path.stat().st_mode & 0o077:
        raise InsecureKeyFile(f"{path} can be reached by others than its owner: chmod go-rwx it")


def _read_signer(path: Path) -> Signer:
    try:
        with path.open("rb") as file:
            # The open file is examined, not the path: nobody can swap it in between.
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise InsecureKeyFile(f"{path} can be read by others than its owner: chmod 600 it")
            pem = file.read(MAX_KEY_FILE_BYTES)
    except FileNotFoundError as error:
        raise KeyMissing(f"There is no signing key {path}") from error
    try:
        return CryptoSigner(load_pem_private_key(pem, None))
    except ValueError as error:
        raise InsecureKeyFile(f"{path} holds no private key") from error


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
