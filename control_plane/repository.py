"""An environment's TUF repository as the database holds it: its roots, the manifest in force, and its signing.

Every function works inside the caller's transaction, which must hold the environment (`control_plane.locks`): a
manifest
follows the one before it by one revision, and two signings at once would make two manifests of the same revision.
Signing runs in a thread, because a key may live behind a network.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from securesystemslib.signer import Signer  # type: ignore[attr-defined]
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.errors import Invalid, Missing, Unavailable
from control_plane.tables import Manifest, OutboxRow, Root
from manifests import trust
from manifests.model import InvalidManifest, Release
from manifests.signing import KeyStore, NoKeyLeft, Role
from manifests.trust import Lifetimes, SignedManifest

# A manifest is signed anew when between a half and three quarters of its life are over, at a moment drawn at random:
# not all environments at once, and a quarter of the life is left for outages.
RESIGN_FROM = 0.5
RESIGN_SPREAD = 0.25

ROLES: tuple[Role, ...] = ("root", "online")


@dataclass(frozen=True, slots=True)
class Signing:
    """What signs, and for how long.

    Args:
        keystore: private keys of every environment.
        lifetimes: of each role's metadata.
        chance: draws a number from 0 to 1, to spread re-signing.
    """

    keystore: KeyStore
    lifetimes: Lifetimes
    chance: Callable[[], float] = random.random


async def open_repository(session: AsyncSession, signing: Signing, environment_id: str, now: datetime) -> Root:
    """Make an environment's keys, its root 1 and a manifest that offers nothing."""

    def make() -> tuple[bytes, SignedManifest]:
        root_key, online = (_create(signing, environment_id, role) for role in ROLES)
        root = trust.first_root([root_key], online, now, signing.lifetimes)
        return root, trust.sign_content((), None, online, 1, now, signing.lifetimes)

    root_bytes, manifest = await asyncio.to_thread(make)
    root = _add_root(session, environment_id, root_bytes)
    session.add(Manifest(environment_id=environment_id, **_columns(manifest, signing, now)))
    queue(session, environment_id, manifest.revision)
    return root


async def sign_content(
    session: AsyncSession, signing: Signing, environment_id: str, releases: Sequence[Release], now: datetime
) -> int:
    """Sign what the environment offers from now on and queue it for the edges; return the revision.

    Raises:
        Invalid: the manifest would be too large, or hold too many releases.
    """
    row = await _manifest(session, environment_id)
    root = await newest_root(session, environment_id)
    previous = signed(row)

    def sign() -> SignedManifest:
        online = _online(signing, environment_id, root.metadata_bytes)
        return trust.sign_content(releases, previous, online, root.version, now, signing.lifetimes)

    try:
        manifest = await asyncio.to_thread(sign)
    except InvalidManifest as error:
        raise Invalid(f"The environment cannot offer this: {error}.", "invalid_manifest") from error
    return _replace(session, row, manifest, signing, now)


async def sign_again(session: AsyncSession, signing: Signing, environment_id: str, now: datetime) -> int:
    """Sign the same content anew, by the newest root's online key, and queue it; return the revision."""
    row = await _manifest(session, environment_id)
    root = await newest_root(session, environment_id)
    previous = signed(row)

    def sign() -> SignedManifest:
        online = _online(signing, environment_id, root.metadata_bytes)
        return trust.resign(previous, online, root.version, now, signing.lifetimes)

    return _replace(session, row, await asyncio.to_thread(sign), signing, now)


async def add_root(
    session: AsyncSession,
    signing: Signing,
    environment_id: str,
    now: datetime,
    new_root_key: bool = False,
    new_online_key: bool = False,
) -> Root:
    """Make the next root, signed by the old keys and the new; the manifest still has to be signed again.

    Args:
        new_root_key: replace the root key. Apps that ship an older environment key follow from root to root.
        new_online_key: replace the key that signs the manifest.
    """
    previous = await newest_root(session, environment_id)

    before = previous.metadata_bytes

    def make() -> bytes:
        old = _root_signers(signing, environment_id, before)
        new = [_create(signing, environment_id, "root")] if new_root_key else old
        renew = _create(signing, environment_id, "online") if new_online_key else None
        online = renew or _online(signing, environment_id, before)
        return trust.next_root(before, old, new, online, now, signing.lifetimes)

    return _add_root(session, environment_id, await asyncio.to_thread(make))


async def newest_root(session: AsyncSession, environment_id: str) -> Root:
    """Return the environment's newest root.

    Raises:
        Missing: it is gone.
    """
    query = select(Root).where(Root.environment_id == environment_id).order_by(Root.version.desc()).limit(1)
    root = await session.scalar(query)
    if root is None:
        raise Missing("There is no such environment.")
    return root


def resign_at(now: datetime, expires: datetime, chance: float) -> datetime:
    """Return when a manifest that is signed now is signed anew; ``chance`` is from 0 to 1."""
    return now + (expires - now) * (RESIGN_FROM + RESIGN_SPREAD * chance)


def signed(row: Manifest) -> SignedManifest:
    """Return the manifest that a row holds."""
    return SignedManifest(row.root, row.timestamp_bytes, row.snapshot_bytes, row.targets_bytes)


def queue(session: AsyncSession, environment_id: str, revision: int, withdrawn_keys: Sequence[str] = ()) -> None:
    """Write down, in the transaction that made a change, that the edges have to be told of it."""
    session.add(OutboxRow(environment_id=environment_id, revision=revision, withdrawn_keys=list(withdrawn_keys)))


async def _manifest(session: AsyncSession, environment_id: str) -> Manifest:
    row = await session.get(Manifest, environment_id, populate_existing=True)
    if row is None:
        raise Missing("There is no such environment.")
    return row


def _replace(session: AsyncSession, row: Manifest, manifest: SignedManifest, signing: Signing, now: datetime) -> int:
    for column, value in _columns(manifest, signing, now).items():
        setattr(row, column, value)
    queue(session, row.environment_id, manifest.revision)
    return manifest.revision


def _columns(manifest: SignedManifest, signing: Signing, now: datetime) -> dict[str, int | bytes | datetime]:
    return {
        "revision": manifest.revision,
        "root": manifest.root,
        "timestamp_bytes": manifest.timestamp,
        "snapshot_bytes": manifest.snapshot,
        "targets_bytes": manifest.targets,
        "resign_at": resign_at(now, manifest.expires, signing.chance()),
    }


def _add_root(session: AsyncSession, environment_id: str, root_bytes: bytes) -> Root:
    root = Root(
        environment_id=environment_id,
        version=trust.root_version(root_bytes),
        metadata_bytes=root_bytes,
        expires_at=trust.root_expires(root_bytes),
    )
    session.add(root)
    return root


def _create(signing: Signing, environment_id: str, role: Role) -> Signer:
    """Make the next key of a role. If the transaction fails, no root names it, and it is never used."""
    try:
        key = signing.keystore.create(environment_id, role)
    except NoKeyLeft as error:
        raise Unavailable(str(error), "no_signing_key") from error
    return signing.keystore.signer(environment_id, role, key.version)


def _online(signing: Signing, environment_id: str, root_bytes: bytes) -> Signer:
    """Return the signer of the online key that the root names."""
    return signing.keystore.signer_for(environment_id, "online", trust.key_ids(root_bytes, "timestamp")[0])


def _root_signers(signing: Signing, environment_id: str, root_bytes: bytes) -> list[Signer]:
    """Return the signers of the root keys that the root names."""
    return [signing.keystore.signer_for(environment_id, "root", key_id) for key_id in trust.key_ids(root_bytes, "root")]
