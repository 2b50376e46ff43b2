"""What the edges are to serve under each key of an environment, read from the database."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.places import labels_of
from control_plane.repository import signed
from control_plane.tables import EnvironmentKey, Manifest, Root
from manifests.store import Labels, Publication
from manifests.trust import SignedManifest, etag, render_body, root_file_name, tuf_files


def valid_keys(now: datetime) -> ColumnElement[bool]:
    """Return the condition that holds for the keys that devices may use now."""
    unexpired = or_(EnvironmentKey.expires_at.is_(None), EnvironmentKey.expires_at > now)
    return EnvironmentKey.revoked_at.is_(None) & unexpired


async def publications_of(session: AsyncSession, environment_ids: Collection[str], now: datetime) -> list[Publication]:
    """Return the publication of every valid key of these environments, each with the manifest now in force."""
    manifests = await _manifests(session, environment_ids)
    # After the manifests, which a renaming has signed anew: no revision goes out with names older than itself.
    labels = await labels_of(session, environment_ids)
    roots = await _roots(session, environment_ids)
    keys = select(EnvironmentKey).where(EnvironmentKey.environment_id.in_(environment_ids), valid_keys(now))
    return [
        _publication(key, manifests[key.environment_id], roots[key.environment_id], labels[key.environment_id])
        for key in await session.scalars(keys)
        if key.environment_id in manifests
    ]


async def _manifests(session: AsyncSession, environment_ids: Collection[str]) -> dict[str, SignedManifest]:
    rows = await session.scalars(select(Manifest).where(Manifest.environment_id.in_(environment_ids)))
    return {row.environment_id: signed(row) for row in rows}


async def _roots(session: AsyncSession, environment_ids: Collection[str]) -> dict[str, list[Root]]:
    rows = await session.scalars(select(Root).where(Root.environment_id.in_(environment_ids)).order_by(Root.version))
    roots: dict[str, list[Root]] = {}
    for row in rows:
        roots.setdefault(row.environment_id, []).append(row)
    return roots


def _publication(key: EnvironmentKey, manifest: SignedManifest, roots: Sequence[Root], labels: Labels) -> Publication:
    body = render_body(manifest, key.first_root)
    files = tuf_files(manifest) | {root_file_name(root.version): root.metadata_bytes for root in roots}
    return Publication(key.key, manifest.revision, body, etag(body), files, labels)
