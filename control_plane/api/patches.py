"""Patches between a model's versions: what became of each, and why those that are not there are not."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from control_plane import lookup
from control_plane.api.call import Call
from control_plane.api.paging import Keyset, Page, fetch_page
from control_plane.api.schemas import OfferedPatchOut, PatchesQuery, PatchOut, PatchPlaceOut
from control_plane.api.versions import find_model
from control_plane.patch_jobs import FAILED, SENTENCES, SKIPPED
from control_plane.patch_wishes import Pair, Unwanted
from control_plane.tables import ArtifactEncoding, Environment, ModelVersion, PatchJob, PatchWish


async def list_patches(call: Call, query: PatchesQuery) -> Page[PatchOut]:
    """List the patches between the model's versions that came into question: made, under way, or skipped and why."""
    base, target = aliased(ModelVersion), aliased(ModelVersion)
    async with call.database.read() as session:
        application, model = await find_model(session, call)
        # Versions with the same bytes share a patch: it is shown once, with the newest number of either side.
        rows = (
            select(PatchJob, func.max(base.version), func.max(target.version))
            .join(base, (base.artifact_sha256 == PatchJob.base_sha256) & (base.model_id == model.id))
            .join(target, (target.artifact_sha256 == PatchJob.target_sha256) & (target.model_id == model.id))
            .group_by(PatchJob.id)
        )
        for column, number in ((base.version, query.from_version), (target.version, query.to_version)):
            if number is not None:
                rows = rows.where(column == number)
        if query.environment is not None:
            environment = await lookup.environment(session, application.id, query.environment)
            wished = (
                PatchWish.base_sha256 == PatchJob.base_sha256,
                PatchWish.target_sha256 == PatchJob.target_sha256,
                PatchWish.environment_id == environment.id,
                PatchWish.model_id == model.id,
            )
            rows = rows.where(select(PatchWish.rank).where(*wished).exists())
        page = await fetch_page(session, rows, Keyset((PatchJob.created_at, PatchJob.id), descending=True), query)
        pairs = [(job.base_sha256, job.target_sha256) for job, *_ in page.items]
        made = await _made(session, {target for _, target in pairs})
        places = await _places(session, model.id, pairs)
    return page.map(lambda row: _show(row[0], row[1], row[2], made, places))


async def offered_patches(
    session: AsyncSession, model_id: str, environment_ids: Collection[str], targets: Collection[str]
) -> tuple[dict[tuple[str, str], list[OfferedPatchOut]], dict[str, int]]:
    """Return the patches to artifacts that environments offer, and the artifacts' smallest full lengths.

    Returns:
        Patches by environment and target, the most wanted first; lengths by target.
    """
    query = (
        select(PatchWish, PatchJob)
        .outerjoin(
            PatchJob,
            (PatchJob.base_sha256 == PatchWish.base_sha256) & (PatchJob.target_sha256 == PatchWish.target_sha256),
        )
        .where(
            PatchWish.model_id == model_id,
            PatchWish.environment_id.in_(environment_ids),
            PatchWish.target_sha256.in_(targets),
        )
        .order_by(PatchWish.unwanted.is_not(None), PatchWish.rank, PatchWish.base_sha256)
    )
    rows = (await session.execute(query)).all()
    numbers = await _numbers(session, model_id, {wish.base_sha256 for wish, _ in rows})
    made = await _made(session, targets)
    found: dict[tuple[str, str], list[OfferedPatchOut]] = {}
    for wish, job in rows:
        shown = _show_offered(wish, job, numbers.get(wish.base_sha256), made)
        found.setdefault((wish.environment_id, wish.target_sha256), []).append(shown)
    return found, made.full


@dataclass(frozen=True, slots=True)
class _Made:
    """The smallest encodings that are recorded: patches by pair, full ones by artifact."""

    patches: dict[Pair, ArtifactEncoding]
    full: dict[str, int]


async def _made(session: AsyncSession, targets: Collection[str]) -> _Made:
    query = select(ArtifactEncoding).where(ArtifactEncoding.artifact_sha256.in_(targets))
    made = _Made({}, {})
    for row in await session.scalars(query.order_by(ArtifactEncoding.length.desc())):
        if row.base_sha256:
            made.patches[row.base_sha256, row.artifact_sha256] = row
        else:
            made.full[row.artifact_sha256] = row.length
    return made


async def _places(session: AsyncSession, model_id: str, pairs: Collection[Pair]) -> dict[Pair, list[PatchPlaceOut]]:
    """Return what the model's environments want of patches."""
    query = (
        select(PatchWish, Environment.name)
        .join(Environment, Environment.id == PatchWish.environment_id)
        .where(PatchWish.model_id == model_id, tuple_(PatchWish.base_sha256, PatchWish.target_sha256).in_(pairs))
        .order_by(Environment.name)
    )
    found: dict[Pair, list[PatchPlaceOut]] = {}
    for wish, environment in await session.execute(query) if pairs else ():
        place = PatchPlaceOut(
            environment=environment,
            wanted=wish.unwanted is None,
            code=wish.unwanted,
            devices=wish.devices,
            share=wish.share,
        )
        found.setdefault((wish.base_sha256, wish.target_sha256), []).append(place)
    return found


async def _numbers(session: AsyncSession, model_id: str, artifacts: Collection[str]) -> dict[str, int | None]:
    """Return the newest version of a model with each artifact."""
    query = (
        select(ModelVersion.artifact_sha256, func.max(ModelVersion.version))
        .where(ModelVersion.model_id == model_id, ModelVersion.artifact_sha256.in_(artifacts))
        .group_by(ModelVersion.artifact_sha256)
    )
    return {artifact or "": number for artifact, number in await session.execute(query)}


def _show(
    job: PatchJob,
    from_version: int | None,
    to_version: int | None,
    made: _Made,
    places: dict[Pair, list[PatchPlaceOut]],
) -> PatchOut:
    pair = job.base_sha256, job.target_sha256
    smallest = made.patches.get(pair)
    return PatchOut.model_validate(
        {
            **_outcome(job),
            "id": job.id,
            "from_version": from_version,
            "to_version": to_version,
            "encoding": smallest.name if smallest else None,
            "length": smallest.length if smallest else job.length,
            "full_length": made.full.get(job.target_sha256),
            "environments": places.get(pair, []),
            "created_at": job.created_at,
            "updated_at": job.updated_at,
        }
    )


def _show_offered(wish: PatchWish, job: PatchJob | None, from_version: int | None, made: _Made) -> OfferedPatchOut:
    smallest = made.patches.get((wish.base_sha256, wish.target_sha256))
    outcome = _outcome(job)
    if wish.unwanted is not None:  # by this environment, whatever others have made of it
        outcome = {"state": SKIPPED, "code": wish.unwanted, "reason": SENTENCES[Unwanted(wish.unwanted)]}
    return OfferedPatchOut.model_validate(
        {
            **outcome,
            "from_version": from_version,
            "encoding": smallest.name if smallest else None,
            "length": smallest.length if smallest else job and job.length,
            "devices": wish.devices,
            "share": wish.share,
        }
    )


def _outcome(job: PatchJob | None) -> dict[str, Any]:
    if job is None:  # a collection of garbage has just removed it with its versions
        return {"state": FAILED, "code": None, "reason": None}
    return {"state": job.state, "code": job.code, "reason": job.reason}
