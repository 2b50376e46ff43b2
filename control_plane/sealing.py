"""Secrets of others, such as push credentials, encrypted before they reach the database.

An envelope (NIST SP 800-57 part 1, section 6): each secret is sealed with a key of its own, and that key with the
newest of the master keys, which are in a file and never in the database. A backup of the database alone shows nothing.
Rotation adds a master key and seals the small keys anew; the secrets themselves stay as they are.

    sealed = format (1) · master key's id (8) · nonce (12) · sealed data key (32 + 16) · nonce (12) · sealed secret

Both are AES-256-GCM (NIST SP 800-38D), and what the secret is for is authenticated with it, so that a row copied to
another place cannot be opened there.
"""

from __future__ import annotations

import base64
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from artifacts.files import whole_file

FORMAT: Final = b"\x01"
KEY_BYTES: Final = 32
KEY_ID_BYTES: Final = 8
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
_KEY_END: Final = len(FORMAT) + KEY_ID_BYTES + NONCE_BYTES + KEY_BYTES + TAG_BYTES
# Rotation adds one; those that seal nothing any more are taken out with it.
MAX_MASTER_KEYS: Final = 16


class CannotOpen(Exception):
    """A secret cannot be opened: its master key is not in the file, or it was changed or moved."""


class BadKeyFile(RuntimeError):
    """The file of the master keys can be read by others, or does not hold keys."""


class Sealer:
    """Seals with the newest master key, and opens with the one that a secret names.

    Args:
        keys: master keys by their ids, the newest last.
    """

    def __init__(self, keys: dict[bytes, bytes]) -> None:
        self._keys = keys
        self._newest = next(reversed(keys))

    def seal(self, secret: bytes, purpose: str) -> bytes:
        """Return the secret, sealed.

        Args:
            purpose: what it is for and whose it is; it is needed to open it.
        """
        data_key, nonce = secrets.token_bytes(KEY_BYTES), secrets.token_bytes(NONCE_BYTES)
        return self._seal_key(data_key, purpose) + nonce + AESGCM(data_key).encrypt(nonce, secret, purpose.encode())

    def open(self, sealed: bytes, purpose: str) -> bytes:
        """Return the secret.

        Raises:
            CannotOpen: for whatever reason.
        """
        data_key = self._open_key(sealed, purpose)
        nonce, rest = sealed[_KEY_END : _KEY_END + NONCE_BYTES], sealed[_KEY_END + NONCE_BYTES :]
        try:
            return AESGCM(data_key).decrypt(nonce, rest, purpose.encode())
        except (InvalidTag, ValueError):
            raise CannotOpen("the secret was changed") from None

    def renew(self, sealed: bytes, purpose: str) -> bytes | None:
        """Return the same secret under the newest master key; None when it is already.

        Raises:
            CannotOpen: for whatever reason.
        """
        if self.key_id_of(sealed) == self._newest:
            return None
        return self._seal_key(self._open_key(sealed, purpose), purpose) + sealed[_KEY_END:]

    @staticmethod
    def key_id_of(sealed: bytes) -> bytes:
        """Return the id of the master key that a secret is sealed with."""
        return sealed[len(FORMAT) : len(FORMAT) + KEY_ID_BYTES]

    def _seal_key(self, data_key: bytes, purpose: str) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        key = AESGCM(self._keys[self._newest]).encrypt(nonce, data_key, purpose.encode())
        return FORMAT + self._newest + nonce + key

    def _open_key(self, sealed: bytes, purpose: str) -> bytes:
        if sealed[:1] != FORMAT or len(sealed) < _KEY_END + NONCE_BYTES + TAG_BYTES:
            raise CannotOpen("the secret has a form that this version does not know")
        master = self._keys.get(self.key_id_of(sealed))
        if master is None:
            raise CannotOpen("the master key of the secret is not in the file of keys")
        place = len(FORMAT) + KEY_ID_BYTES
        nonce, key = sealed[place : place + NONCE_BYTES], sealed[place + NONCE_BYTES : _KEY_END]
        try:
            return AESGCM(master).decrypt(nonce, key, purpose.encode())
        except InvalidTag:
            raise CannotOpen("the secret was changed, or is another's") from None


class MasterKeys:
    """The file of the master keys: one a line, the newest last, for its owner alone.

    Args:
        path: made with a first key when it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def sealer(self) -> Sealer:
        """Return what seals with the keys of the file.

        Raises:
            BadKeyFile: others can read it, or it does not hold keys.
        """
        with self._locked() as keys:
            if not keys:
                _add_key(keys)
                self._write(keys)
            return Sealer(keys)

    def add(self) -> Sealer:
        """Add a master key and return what seals with it.

        Raises:
            BadKeyFile: as for `sealer`, or there are too many: the last rotation did not end.
        """
        with self._locked() as keys:
            if len(keys) >= MAX_MASTER_KEYS:
                raise BadKeyFile(f"{self._path} holds {len(keys)} master keys; finish the rotation before")
            _add_key(keys)
            self._write(keys)
            return Sealer(keys)

    def forget_all_but(self, used: set[bytes]) -> int:
        """Remove the keys that seal nothing, except the newest; return how many went.

        Args:
            used: ids of those that some secret names.
        """
        with self._locked() as keys:
            newest = next(reversed(keys), b"")
            kept = {name: key for name, key in keys.items() if name in used or name == newest}
            if len(kept) < len(keys):
                self._write(kept)
            return len(keys) - len(kept)

    @contextmanager
    def _locked(self) -> Iterator[dict[bytes, bytes]]:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield self._read()
        finally:
            os.close(descriptor)

    def _read(self) -> dict[bytes, bytes]:
        try:
            if self._path.stat().st_mode & 0o077:
                raise BadKeyFile(f"{self._path} can be read by others; chmod 600 it")
            lines = self._path.read_text().split()
        except FileNotFoundError:
            return {}
        keys = {}
        for line in lines:
            name, _, key = line.partition(":")
            try:
                keys[bytes.fromhex(name)] = base64.b64decode(key, validate=True)
            except ValueError:
                raise BadKeyFile(f"{self._path} holds something that is no master key") from None
        if any(len(name) != KEY_ID_BYTES or len(key) != KEY_BYTES for name, key in keys.items()):
            raise BadKeyFile(f"{self._path} holds a master key of another length")
        return keys

    def _write(self, keys: dict[bytes, bytes]) -> None:
        """Replace the file as a whole: half a file would be keys that nobody has any more."""
        text = "".join(f"{name.hex()}:{base64.b64encode(key).decode()}\n" for name, key in keys.items())
        with whole_file(self._path) as file:
            os.fchmod(file.fileno(), 0o600)  # before there is anything in it
            file.write(text.encode())


def _add_key(keys: dict[bytes, bytes]) -> None:
    keys[secrets.token_bytes(KEY_ID_BYTES)] = secrets.token_bytes(KEY_BYTES)
