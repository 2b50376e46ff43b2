"""What an environment offers, read from the database: the releases of its next manifest."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane import tables
from control_plane.encodings import encodings_of, listed_encodings
from control_plane.offers import Offer, salt_of
from control_plane.patch_policy import PatchPolicy
from control_plane.tables import Deployment, Model, ModelVersion, PatchWish
from manifests.model import Encoding, Release, Rule, parse_conditions

# A device that is five versions behind is rare, and takes the full artifact. Versions are counted and not deployments:
# a version that is rolled out in ten steps does not make the one before it any rarer.
RECENT_VERSIONS = 5
# Patches in one manifest, at 200 bytes each: less than half of `manifests.trust.MAX_MANIFEST_BYTES`, so that no
# deployment is refused for their sake.
MAX_LISTED_PATCHES = 4000


async def offered_releases(session: AsyncSession, environment_id: str, policy: PatchPolicy) -> list[Release]:
    """Return every release of every model that the environment offers, as its manifest lists them."""
    query = (
        select(tables.Release, ModelVersion, Model.name)
        .join(ModelVersion, ModelVersion.id == tables.Release.model_version_id)
        .join(Model, Model.id == tables.Release.model_id)
        .where(tables.Release.environment_id == environment_id)
        .order_by(Model.name, tables.Release.position)
    )
    rows = (await session.execute(query)).all()
    encodings = await encodings_of(session, [version.artifact_sha256 or "" for _, version, _ in rows])
    bases = await _wanted_bases(session, environment_id, MAX_LISTED_PATCHES // policy.for_each_pair)
    return [
        _release(
            row,
            version,
            model,
            listed_encodings(
                encodings.get(version.artifact_sha256 or "", []),
                bases.get((row.model_id, version.artifact_sha256 or ""), []),
                policy,
            ),
        )
        for row, version, model in rows
    ]


async def recent_versions(session: AsyncSession, environment_id: str, model_id: str) -> list[int]:
    """Return the numbers of the versions that devices may hold, by what was offered: those offered last come first.

    They are the last `RECENT_VERSIONS` versions that were deployed or came back by a roll-back, and those that the last
    deployment of each left on offer beside it. Versions that were deleted do not count.
    """
    latest = (
        select(func.max(Deployment.number).label("number"))
        .join(
            ModelVersion,
            (ModelVersion.model_id == Deployment.model_id) & (ModelVersion.version == Deployment.version),
        )
        .where(Deployment.environment_id == environment_id, Deployment.model_id == model_id)
        .group_by(Deployment.version)
        .order_by(func.max(Deployment.number).desc())
        .limit(RECENT_VERSIONS)
        .subquery()
    )
    query = (
        select(Deployment.offers)
        .join(latest, latest.c.number == Deployment.number)
        .where(Deployment.environment_id == environment_id, Deployment.model_id == model_id)
        .order_by(Deployment.number.desc())
    )
    offered = [offer["version"] for offers in await session.scalars(query) for offer in offers]
    return list(dict.fromkeys(offered))


async def present_offers(session: AsyncSession, environment_id: str, model_id: str) -> list[Offer]:
    """Return what a model offers in an environment now, in order."""
    query = (
        select(tables.Release, ModelVersion)
        .join(ModelVersion, ModelVersion.id == tables.Release.model_version_id)
        .where(tables.Release.environment_id == environment_id, tables.Release.model_id == model_id)
        .order_by(tables.Release.position)
    )
    rows = await session.execute(query)
    return [Offer(version.version or 0, version.interface, row.buckets, row.conditions) for row, version in rows]


async def _wanted_bases(session: AsyncSession, environment_id: str, most: int) -> dict[tuple[str, str], list[str]]:
    """Return the bases of the ``most`` wanted patches of an environment, by model and target."""
    query = (
        select(PatchWish.model_id, PatchWish.target_sha256, PatchWish.base_sha256)
        .where(PatchWish.environment_id == environment_id, PatchWish.unwanted.is_(None))
        .order_by(PatchWish.rank, PatchWish.model_id, PatchWish.target_sha256)
        .limit(most)
    )
    bases: dict[tuple[str, str], list[str]] = {}
    for model, target, base in await session.execute(query):
        bases.setdefault((model, target), []).append(base)
    return bases


def _release(row: tables.Release, version: ModelVersion, model: str, encodings: tuple[Encoding, ...]) -> Release:
    return Release(
        model=model,
        version=version.version or 0,
        artifact=version.artifact_sha256 or "",
        length=version.artifact_length or 0,
        position=row.position,
        rule=Rule(salt_of(row.environment_id, version.id), row.buckets, parse_conditions(row.conditions)),
        encodings=encodings,
        interface=version.interface,
    )
