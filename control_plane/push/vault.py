"""The credentials in the database: sealed when they are stored, opened when a channel needs them, and never shown."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane import second_factor
from control_plane.database import Database
from control_plane.push.apns import ApnsChannel
from control_plane.push.channel import Channel, ChannelUnusable
from control_plane.push.credentials import (
    AppleCertificate,
    AppleKey,
    CredentialUnusable,
    GoogleAccount,
    read_apple_certificate,
    read_apple_key,
    read_google_account,
)
from control_plane.push.fcm import FcmChannel
from control_plane.push.jobs import APPLE, APPLE_SANDBOX, GOOGLE
from control_plane.push.servers import Servers
from control_plane.push.start import uses_sandbox
from control_plane.sealing import CannotOpen, MasterKeys
from control_plane.tables import Application, Environment, PushCredential, SecondFactor, utc_now

# The services that an environment can have a credential for. Apple's two servers take the same one.
SERVICES = (APPLE, GOOGLE)
ACCOUNT = "account"

Credential = AppleKey | AppleCertificate | GoogleAccount


@dataclass(frozen=True, slots=True)
class Upload:
    """A credential as it was uploaded.

    Args:
        kind: `key` or `certificate` of Apple's, or Google's `account`.
        content: of the file.
        key_id, team_id: of a key.
        password: of a certificate's file.
    """

    kind: str
    content: bytes
    key_id: str = ""
    team_id: str = ""
    password: str | None = None


class _Stored(msgspec.Struct):
    """What is sealed."""

    kind: str
    content: bytes
    key_id: str = ""
    team_id: str = ""


Checked = tuple[bytes, dict[str, Any], datetime | None]


def check(service: str, upload: Upload, bundle_id: str | None, *, sandbox: bool, now: datetime) -> Checked:
    """Return what to seal of an upload, what may be shown of it, and when it expires.

    Args:
        service: that it is for.
        upload: what came.
        bundle_id: of the application.
        sandbox: whether the environment uses Apple's development server by default.
        now: with its zone.

    Raises:
        CredentialUnusable: it cannot work.
    """
    if (upload.kind == ACCOUNT) != (service == GOOGLE):
        raise CredentialUnusable(f"A service account is for {GOOGLE}; a key or a certificate is for {APPLE}.")
    if service == GOOGLE:
        account = read_google_account(upload.content)
        facts = {"project": account.project, "client_email": account.email, "key_id": account.key_id}
        return msgspec.msgpack.encode(_Stored(ACCOUNT, upload.content)), facts, None
    if not bundle_id:
        raise CredentialUnusable("The application has no bundle ID. Set it first: notifications are sent to it.")
    return _check_apple(upload, bundle_id, sandbox=sandbox, now=now)


def _check_apple(upload: Upload, bundle_id: str, *, sandbox: bool, now: datetime) -> Checked:
    if upload.kind == "key":
        read_apple_key(upload.content, upload.key_id, upload.team_id)
        stored = _Stored("key", upload.content, upload.key_id, upload.team_id)
        return msgspec.msgpack.encode(stored), {"key_id": upload.key_id, "team_id": upload.team_id}, None
    certificate = read_apple_certificate(upload.content, upload.password, bundle_id, sandbox=sandbox, now=now)
    facts = {
        "topics": sorted(certificate.topics),
        "sandbox": certificate.sandbox,
        "production": certificate.production,
    }
    return msgspec.msgpack.encode(_Stored("certificate", certificate.pem)), facts, certificate.expires_at


class Vault:
    """The credentials of all environments.

    Args:
        database: with the sealed ones.
        keys: the file of the master keys.
        servers: where services are.
    """

    def __init__(self, database: Database, keys: MasterKeys, servers: Servers | None = None) -> None:
        self._database = database
        self._keys = keys
        self._servers = servers or Servers()
        self._channels: dict[tuple[str, str], tuple[datetime, Channel]] = {}

    async def store(
        self, session: AsyncSession, environment: Environment, service: str, upload: Upload, actor_id: str | None
    ) -> PushCredential:
        """Check and store a credential in the place of the one before.

        Raises:
            CredentialUnusable: it cannot work.
        """
        application = await session.get_one(Application, environment.application_id)
        sandbox = uses_sandbox(environment)
        secret, facts, expires_at = await asyncio.to_thread(
            lambda: check(service, upload, application.bundle_id, sandbox=sandbox, now=utc_now())
        )
        row = await session.get(PushCredential, (environment.id, service))
        if row is None:
            row = PushCredential(environment_id=environment.id, service=service)
            session.add(row)
        row.kind, row.facts, row.expires_at = upload.kind, facts, expires_at
        row.sealed = self._keys.sealer().seal(secret, _purpose(environment.id, service))
        row.actor_id, row.created_at = actor_id, utc_now()
        await session.flush()
        return row

    async def channel(self, environment_id: str, service: str) -> Channel | None:
        """Return the channel for devices of a service, or None when there is no credential for it.

        Args:
            service: as devices tell it: one of Apple's servers, or another.

        Raises:
            ChannelUnusable: the credential cannot be opened, or has expired.
        """
        stored_as = APPLE if service == APPLE_SANDBOX else service
        async with self._database.read() as session:
            row = await session.get(PushCredential, (environment_id, stored_as))
            application = await session.scalar(
                select(Application)
                .join(Environment, Environment.application_id == Application.id)
                .where(Environment.id == environment_id)
            )
        if row is None or application is None or stored_as not in SERVICES:
            return None
        known = self._channels.get((environment_id, service))
        if known is not None and known[0] == row.created_at:
            return known[1]
        if row.expires_at is not None and row.expires_at <= utc_now():
            ended = row.expires_at.date().isoformat()
            raise ChannelUnusable(f"The push certificate expired on {ended}. Upload a new one.", "CertificateExpired")
        # In a thread: a long key is checked for 0.1 s when it is read.
        credential = await asyncio.to_thread(self._open, row)
        channel = self._make(credential, application, sandbox=service == APPLE_SANDBOX)
        self._channels[environment_id, service] = row.created_at, channel
        if known is not None:
            await known[1].close()
        return channel

    def _make(self, credential: Credential, application: Application, *, sandbox: bool) -> Channel:
        if isinstance(credential, GoogleAccount):
            return FcmChannel(credential, self._servers.google_messages(), self._servers.google_tokens())
        return ApnsChannel(credential, application.bundle_id or "", self._servers.apple(sandbox=sandbox))

    def _open(self, row: PushCredential) -> Credential:
        try:
            secret = self._keys.sealer().open(row.sealed, _purpose(row.environment_id, row.service))
        except CannotOpen as error:
            raise ChannelUnusable(
                f"The push credential cannot be opened: {error}. Upload it again.", "Sealed"
            ) from None
        stored = msgspec.msgpack.decode(secret, type=_Stored)
        if stored.kind == ACCOUNT:
            return read_google_account(stored.content)
        if stored.kind == "key":
            return read_apple_key(stored.content, stored.key_id, stored.team_id)
        facts: Mapping[str, Any] = row.facts
        assert row.expires_at is not None, "certificates have an end"
        return AppleCertificate(
            stored.content, frozenset(facts["topics"]), facts["sandbox"], facts["production"], row.expires_at
        )

    async def rotate(self) -> tuple[int, int]:
        """Add a master key, seal everything with it, and forget the keys that seal nothing any more.

        Returns:
            How many secrets were sealed anew, those of second factors among them, and how many keys are forgotten.

        Raises:
            CannotOpen: a secret cannot be opened; the keys stay as they are.
        """
        sealer = await asyncio.to_thread(self._keys.add)
        renewed, used = 0, set()
        async with self._database.write() as session:
            credentials = await session.scalars(select(PushCredential).with_for_update())
            factors = await session.scalars(select(SecondFactor).with_for_update())
            rows: list[tuple[PushCredential | SecondFactor, str]] = [
                *((row, _purpose(row.environment_id, row.service)) for row in credentials),
                *((row, second_factor.purpose(row.user_id)) for row in factors),
            ]
            for row, purpose in rows:
                sealed = sealer.renew(row.sealed, purpose)
                if sealed is not None:
                    row.sealed = sealed
                    renewed += 1
                used.add(sealer.key_id_of(row.sealed))
        return renewed, await asyncio.to_thread(self._keys.forget_all_but, used)

    async def close(self) -> None:
        """Close all channels."""
        channels, self._channels = self._channels, {}
        await asyncio.gather(*(channel.close() for _, channel in channels.values()))


def _purpose(environment_id: str, service: str) -> str:
    return f"push:{environment_id}:{service}"


def decode_content(text: str) -> bytes:
    """Return the bytes of a file that came as base64.

    Raises:
        CredentialUnusable: it is none.
    """
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise CredentialUnusable("The content of the file is to be sent as base64.") from None
