"""The credentials in the database: sealed when they are stored, opened when a channel needs them, and never shown."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.database import Database
from control_plane.push.apns import PRODUCTION_HOST, SANDBOX_HOST, ApnsChannel, Server, apple_server
from control_plane.push.channel import Channel, ChannelUnusable
from control_plane.push.credentials import (
    AppleCertificate,
    AppleKey,
    CredentialUnusable,
    read_apple_certificate,
    read_apple_key,
)
from control_plane.push.http2 import client_context
from control_plane.push.jobs import APPLE, APPLE_SANDBOX
from control_plane.push.start import uses_sandbox
from control_plane.sealing import CannotOpen, MasterKeys
from control_plane.tables import Application, Environment, PushCredential, utc_now

# The services that an environment can have a credential for. Apple's two servers take the same one.
SERVICES = ("apns",)


@dataclass(frozen=True, slots=True)
class Upload:
    """A credential as it was uploaded.

    Args:
        kind: `key` or `certificate`.
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


def check(
    upload: Upload, bundle_id: str, *, sandbox: bool, now: datetime
) -> tuple[bytes, dict[str, Any], datetime | None]:
    """Return what to seal of an upload, what may be shown of it, and when it expires.

    Args:
        bundle_id: of the application.
        sandbox: whether the environment uses Apple's development server by default.

    Raises:
        CredentialUnusable: it cannot work.
    """
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


@dataclass(frozen=True, slots=True)
class Servers:
    """Where services are, when they are not where everybody's are: a relay, or a server for tests.

    Args:
        apns: host and port that stand in for both of Apple's servers.
        authorities: PEM file of those that are trusted beside the system's.
    """

    apns: tuple[str, int] | None = None
    authorities: Path | None = None

    def apple(self, *, sandbox: bool) -> Server:
        """Return Apple's server, or what stands in for it."""
        if self.apns is None:
            return apple_server(sandbox=sandbox)
        context: ssl.SSLContext = client_context()
        if self.authorities is not None:
            context.load_verify_locations(self.authorities)
        return Server(*self.apns, SANDBOX_HOST if sandbox else PRODUCTION_HOST, context)


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
        if not application.bundle_id:
            raise CredentialUnusable("The application has no bundle ID. Set it first: notifications are sent to it.")
        sandbox = uses_sandbox(environment)
        secret, facts, expires_at = await asyncio.to_thread(
            lambda: check(upload, application.bundle_id or "", sandbox=sandbox, now=utc_now())
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
        stored_as = "apns" if service in (APPLE, APPLE_SANDBOX) else service
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
        channel = ApnsChannel(
            self._open(row), application.bundle_id or "", self._servers.apple(sandbox=service == APPLE_SANDBOX)
        )
        self._channels[environment_id, service] = row.created_at, channel
        if known is not None:
            await known[1].close()
        return channel

    def _open(self, row: PushCredential) -> AppleKey | AppleCertificate:
        try:
            secret = self._keys.sealer().open(row.sealed, _purpose(row.environment_id, row.service))
        except CannotOpen as error:
            raise ChannelUnusable(
                f"The push credential cannot be opened: {error}. Upload it again.", "Sealed"
            ) from None
        stored = msgspec.msgpack.decode(secret, type=_Stored)
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
            How many credentials were sealed anew, and how many keys are forgotten.

        Raises:
            CannotOpen: a credential cannot be opened; the keys stay as they are.
        """
        sealer = await asyncio.to_thread(self._keys.add)
        renewed, used = 0, set()
        async with self._database.write() as session:
            for row in await session.scalars(select(PushCredential).with_for_update()):
                sealed = sealer.renew(row.sealed, _purpose(row.environment_id, row.service))
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
