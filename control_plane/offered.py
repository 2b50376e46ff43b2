"""What an environment offers, read from the database: the releases of its next manifest."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane import tables
from control_plane.encodings import encodings_of, listed_encodings
from control_plane.offers import Offer, salt_of
from control_plane.tables import ArtifactEncoding, Deployment, Model, ModelVersion
from manifests.model import Release, Rule, parse_conditions

# A device that is five versions behind is rare, and takes the full artifact. Versions are counted and not deployments:
# a version that is rolled out in ten steps does not make the one before it any rarer.
RECENT_VERSIONS = 5


async def offered_releases(session: AsyncSession, environment_id: str) -> list[Release]:
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
    bases = await recent_artifacts(session, environment_id)
    return [
        _release(row, version, model, encodings.get(version.artifact_sha256 or "", []), bases.get(row.model_id, []))
        for row, version, model in rows
    ]


async def recent_artifacts(
    session: AsyncSession, environment_id: str, model_id: str | None = None
) -> dict[str, list[str]]:
    """Return the artifacts that devices of an environment may hold, by model: those offered last come first.

    They are the artifacts of the last `RECENT_VERSIONS` versions that were deployed or came back by a roll-back, and of
    those that the last deployment of each left on offer beside it. Versions that were deleted do not count.
    """
    offered = await _recent_versions(session, environment_id, model_id)
    query = select(ModelVersion.model_id, ModelVersion.version, ModelVersion.artifact_sha256).where(
        ModelVersion.model_id.in_(offered), ModelVersion.version.is_not(None)
    )
    artifacts = {(model, version): artifact for model, version, artifact in await session.execute(query)}
    return {
        model: [artifact for version in versions if (artifact := artifacts.get((model, version)))]
        for model, versions in offered.items()
    }


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


async def _recent_versions(session: AsyncSession, environment_id: str, model_id: str | None) -> dict[str, list[int]]:
    """Return the numbers of the versions that were offered lately, by model, the latest deployment's first."""
    latest = (
        select(Deployment.model_id, func.max(Deployment.number).label("number"))
        .join(
            ModelVersion,
            (ModelVersion.model_id == Deployment.model_id) & (ModelVersion.version == Deployment.version),
        )
        .where(Deployment.environment_id == environment_id, *([Deployment.model_id == model_id] if model_id else []))
        .group_by(Deployment.model_id, Deployment.version)
        .subquery()
    )
    age = func.row_number().over(partition_by=latest.c.model_id, order_by=latest.c.number.desc())
    ranked = select(latest, age.label("age")).subquery()
    query = (
        select(Deployment.model_id, Deployment.offers)
        .join(ranked, (ranked.c.model_id == Deployment.model_id) & (ranked.c.number == Deployment.number))
        .where(Deployment.environment_id == environment_id, ranked.c.age <= RECENT_VERSIONS)
        .order_by(ranked.c.age)
    )
    offered: dict[str, list[int]] = {}
    for model, offers in await session.execute(query):
        offered.setdefault(model, []).extend(offer["version"] for offer in offers)
    return {model: list(dict.fromkeys(versions)) for model, versions in offered.items()}


def _release(
    row: tables.Release,
    version: ModelVersion,
    model: str,
    encodings: Sequence[ArtifactEncoding],
    bases: Sequence[str],
) -> Release:
    artifact = version.artifact_sha256 or ""
    salt = salt_of(row.environment_id, version.id)
    return Release(
        model=model,
        version=version.version or 0,
        artifact=artifact,
        length=version.artifact_length or 0,
        position=row.position,
        rule=Rule(salt, row.buckets, parse_conditions(row.conditions)),
        encodings=listed_encodings(encodings, [base for base in bases if base != artifact]),
        interface=version.interface,
    )
