"""Upload URLs of our own: whoever holds one may send the bytes of one upload, until it expires.

The URL carries its expiry and an HMAC-SHA-256 over the upload's id and that expiry, so the server keeps no table of
URLs and any control plane with the same secret honours it. Object stores whose signed URLs take a plain PUT (S3, GCS)
do not need this.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from datetime import datetime
from pathlib import Path
from urllib.parse import urlencode

# As long as the hash's output: a longer key adds nothing (RFC 2104, section 3).
SECRET_BYTES = 32


class InsecureSecretFile(RuntimeError):
    """The secret's file can be read by others, or does not hold a secret."""


class Presigner:
    """Signs upload URLs and recognises its own.

    Args:
        secret: at least 32 random bytes, the same in every control plane behind one address.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) < SECRET_BYTES:
            raise InsecureSecretFile(f"the secret for upload URLs needs at least {SECRET_BYTES} bytes")
        self._secret = secret

    def query(self, upload_id: str, expires: datetime) -> str:
        """Return the query string that lets its holder send ``upload_id`` until ``expires``."""
        seconds = int(expires.timestamp())
        return urlencode({"expires": seconds, "signature": self._signature(upload_id, seconds)})

    def allows(self, upload_id: str, expires: str, signature: str, now: datetime) -> bool:
        """Tell whether a URL is one of ours and still valid; takes the same time for every wrong signature.

        Args:
            upload_id: the upload that the URL names.
            expires: the URL's expiry as it came, Unix seconds in decimal.
            signature: the URL's signature as it came.
            now: the present moment.
        """
        if not (expires.isascii() and expires.isdigit() and len(expires) <= 12 and signature.isascii()):
            return False
        seconds = int(expires)
        genuine = hmac.compare_digest(self._signature(upload_id, seconds), signature)
        return genuine and now.timestamp() < seconds

    def _signature(self, upload_id: str, seconds: int) -> str:
        message = f"{upload_id}\n{seconds}".encode()
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()


def load_or_create_secret(path: Path) -> bytes:
    """Return the secret kept in ``path``, which is made, readable by its owner alone, when it is not there.

    Raises:
        InsecureSecretFile: others can read the file, or it is too short to be a secret.
    """
    if not path.exists():
        _create_secret(path)
    if path.stat().st_mode & 0o077:
        raise InsecureSecretFile(f"{path} can be read by others; run: chmod 600 {path}")
    secret = path.read_bytes()
    if len(secret) < SECRET_BYTES:
        raise InsecureSecretFile(f"{path} holds {len(secret)} bytes where a secret has {SECRET_BYTES}")
    return secret


def _create_secret(path: Path) -> None:
    """Write a fresh secret under a name of its own, then link it into place: of two makers, the first wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
    finally:
        fresh.unlink()
