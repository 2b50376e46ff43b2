"""The certificate of the device API: loaded at the start, and again when its files change, for connections to come.

Certificates are renewed every few weeks by a program that replaces two files, and restarting a server for that is a
habit worth losing. The files are looked at every few seconds instead of on a signal: that works alike for a worker,
for many of them under one command, and for mounted secrets, whose files are swapped by a symbolic link.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from cryptography import x509

from edge import metrics

# Two `stat` calls each time. Renewed certificates overlap with old ones by weeks.
LOOK_SECONDS = 5.0
# Renewal is usual a month before the end; half of that without one means that it does not work.
EXPIRES_SOON = timedelta(days=14)
# How often an old certificate is complained about.
WARN_AGAIN = timedelta(days=1)

log = structlog.get_logger(__name__)

# What tells one state of a file from another: its time, its length, and its number, which a rename changes.
_State = tuple[tuple[int, int, int], ...]


class CertificateUnusable(Exception):
    """The certificate or its key cannot be used; the sentence says which and why."""


class Certificates:
    """Makes the context of each new connection from a certificate and its key.

    Args:
        certificate: PEM file of the certificate, followed by those that lead to the root.
        key: PEM file of its private key, not encrypted.
        now: the wall clock, with its zone.

    Raises:
        CertificateUnusable: a file is missing or unreadable, or the key is not the certificate's.
    """

    def __init__(self, certificate: Path, key: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._files = certificate, key
        self._now = now
        self._seen = self._state()
        self._context, self._expires = self._load()
        self._warned: datetime | None = None
        self._warn()

    @property
    def context(self) -> ssl.SSLContext:
        """What a connection that begins now uses. Those that began before keep theirs."""
        return self._context

    async def watch(self) -> None:
        """Follow the files for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """Take over files that changed. While they cannot be used, as between two renames, the old ones stay."""
        state = self._state()
        if state != self._seen:
            self._reload(state)
        self._warn()

    def _reload(self, state: _State) -> None:
        try:
            self._context, self._expires = self._load()
        except CertificateUnusable as error:
            metrics.CERTIFICATE_FAILURES.inc()
            log.error("certificate_not_reloaded", reason=str(error))
        else:
            log.info("certificate_reloaded", expires=self._expires.isoformat())
        # The state from before the files were read: if they changed meanwhile, the next look sees that.
        self._seen = state

    def _state(self) -> _State:
        return tuple(_state_of(path) for path in self._files)

    def _load(self) -> tuple[ssl.SSLContext, datetime]:
        certificate, key = self._files
        expires = _expiry(certificate)
        _read(key, "key")
        # Python's defaults for servers follow what is thought secure at its release, and are kept up by it.
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # A client could make the server compute without end (TLS 1.2 only; 1.3 has none).
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(certificate, key, password=_no_password)
        except (ssl.SSLError, OSError) as error:
            raise CertificateUnusable(_why(error, certificate, key)) from None
        metrics.CERTIFICATE_EXPIRES.set(expires.timestamp())
        return context, expires

    def _warn(self) -> None:
        now = self._now()
        if self._expires - now > EXPIRES_SOON or (self._warned is not None and now - self._warned < WARN_AGAIN):
            return
        self._warned = now
        log.warning(
            "certificate_expired" if self._expires <= now else "certificate_expires_soon",
            certificate=str(self._files[0]),
            expires=self._expires.isoformat(),
        )


def _state_of(path: Path) -> tuple[int, int, int]:
    try:
        told = path.stat()
    except OSError:
        return 0, 0, 0
    return told.st_mtime_ns, told.st_size, told.st_ino


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateUnusable(f"the TLS {what} {path} cannot be read: {error.strerror}") from None


def _expiry(path: Path) -> datetime:
    try:
        first = x509.load_pem_x509_certificates(_read(path, "certificate"))[0]
    except ValueError:
        raise CertificateUnusable(f"{path} holds no certificate in PEM") from None
    return first.not_valid_after_utc


def _no_password() -> str:
    """Stand in for the terminal, where OpenSSL would ask for the password of an encrypted key, and wait."""
    raise OSError("it is encrypted")


def _why(error: OSError, certificate: Path, key: Path) -> str:
    reason = error.reason if isinstance(error, ssl.SSLError) else str(error)
    if reason == "KEY_VALUES_MISMATCH":
        return f"the TLS key {key} does not belong to the certificate {certificate}"
    return f"the TLS key {key} cannot be used with the certificate {certificate}: {reason or error}"
