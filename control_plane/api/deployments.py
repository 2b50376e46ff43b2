"""Deploying, rolling back, and what was deployed when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from control_plane import lookup
from control_plane.api.call import Call
from control_plane.api.environments import valid_keys
from control_plane.api.paging import Keyset, Page, Paging, fetch_page
from control_plane.api.schemas import (
    DeployedOut,
    DeploymentOut,
    DeploymentsQuery,
    EnvironmentGroupOut,
    EnvironmentGroupsQuery,
    NewDeployment,
    NewRollback,
    OfferOut,
    PatchOut,
    PushOut,
)
from control_plane.api.versions import find_model
from control_plane.errors import Invalid, Missing
from control_plane.tables import (
    ArtifactEncoding,
    Deployment,
    Device,
    Environment,
    Model,
    ModelVersion,
    PatchJob,
    Release,
    User,
)
from manifests.model import BUCKETS


async def deploy(call: Call, body: NewDeployment) -> DeployedOut:
    """Deploy a version. What the body names and is not there answers 400, which the published client needs."""
    model, environment = await _find(call, body.environment)
    try:
        deployment = await call.services.publisher.deploy(
            call.actor,
            environment.id,
            model.id,
            body.version,
            percent=body.percent,
            conditions=body.conditions,
            push=body.push,
        )
    except Missing as missing:
        raise Invalid(missing.sentence, missing.code) from missing
    return _done(call, "Deployed", model, environment, deployment)


async def roll_back(call: Call, body: NewRollback) -> DeployedOut:
    """Take back the version that was deployed last, with every step of its rollout."""
    model, environment = await _find(call, body.environment)
    deployment = await call.services.publisher.roll_back(call.actor, environment.id, model.id)
    return _done(call, "Rolled back", model, environment, deployment)


async def list_deployments(call: Call, query: DeploymentsQuery) -> Page[DeploymentOut]:
    """List the model's deployments and roll-backs, newest first."""
    async with call.database.read() as session:
        application, model = await find_model(session, call)
        rows = (
            select(Deployment, Environment.name, User.email)
            .join(Environment, Environment.id == Deployment.environment_id)
            .outerjoin(User, User.id == Deployment.actor_id)
            .where(Deployment.model_id == model.id)
        )
        if query.environment is not None:
            environment = await lookup.environment(session, application.id, query.environment)
            rows = rows.where(Deployment.environment_id == environment.id)
        page = await fetch_page(session, rows, Keyset((Deployment.created_at, Deployment.id), descending=True), query)
    return page.map(lambda row: _show(*row))


async def list_environment_groups(call: Call, query: EnvironmentGroupsQuery) -> Page[EnvironmentGroupOut]:
    """List the application's environments with what each offers of this model."""
    async with call.database.read() as session:
        application, model = await find_model(session, call)
        rows = select(Environment).where(Environment.application_id == application.id)
        page = await fetch_page(session, rows, Keyset((Environment.name,)), query)
        environments: list[Environment] = [row[0] for row in page.items]
        ids = [environment.id for environment in environments]
        keys = await valid_keys(session, ids, call.now)
        releases = await _releases(session, model.id)
        counts = await _device_counts(session, ids) if query.with_device_count else {}
    shown = [
        EnvironmentGroupOut(
            id=environment.id,
            name=environment.name,
            key=keys[environment.id][0].key if keys[environment.id] else None,
            releases=releases.get(environment.id, []),
            device_count=counts.get(environment.id, 0) if query.with_device_count else None,
            created_at=environment.created_at,
            updated_at=environment.updated_at,
        )
        for environment in environments
    ]
    return Page(shown, page.next_cursor)


async def list_patches(call: Call, query: Paging) -> Page[PatchOut]:
    """List the patches between the model's versions: built, under way, or skipped and why."""
    base, target = aliased(ModelVersion), aliased(ModelVersion)
    full = (
        select(func.min(ArtifactEncoding.length))
        .where(ArtifactEncoding.artifact_sha256 == PatchJob.target_sha256, ArtifactEncoding.base_sha256 == "")
        .correlate(PatchJob)
        .scalar_subquery()
    )
    async with call.database.read() as session:
        _, model = await find_model(session, call)
        # Versions with the same bytes share a patch: it is shown once, with the newest number of either side.
        rows = (
            select(PatchJob, func.max(base.version), func.max(target.version), full)
            .join(base, (base.artifact_sha256 == PatchJob.base_sha256) & (base.model_id == model.id))
            .join(target, (target.artifact_sha256 == PatchJob.target_sha256) & (target.model_id == model.id))
            .group_by(PatchJob.id)
        )
        page = await fetch_page(session, rows, Keyset((PatchJob.created_at, PatchJob.id), descending=True), query)
    return page.map(lambda row: _show_patch(*row))


async def _find(call: Call, environment: str) -> tuple[Model, Environment]:
    """Return the model in the path and the environment that the body names."""
    async with call.database.read() as session:
        application, model = await find_model(session, call)
        try:
            return model, await lookup.environment(session, application.id, environment)
        except Missing as missing:
            raise Invalid(missing.sentence, missing.code) from missing


def _done(call: Call, verb: str, model: Model, environment: Environment, deployment: Deployment) -> DeployedOut:
    """Return the answer to a deployment. The published client prints the last word as the version."""
    return DeployedOut(
        success=f"{verb} {model.name} in {environment.name}: version {deployment.version}",
        deployment=_show(deployment, environment.name, call.caller.email),
    )


def _show(deployment: Deployment, environment: str, email: str | None) -> DeploymentOut:
    return DeploymentOut(
        id=deployment.id,
        number=deployment.number,
        kind="rollback" if deployment.kind == "rollback" else "deploy",
        environment=environment,
        version=deployment.version,
        percent=deployment.percent,
        conditions=deployment.conditions,
        # No environment has credentials to push with yet, and the answer says so rather than nothing.
        push=PushOut(status="not_configured" if deployment.push else "not_requested"),
        offers=[_show_offer(offer) for offer in deployment.offers],
        restores=deployment.restores,
        revision=deployment.revision,
        actor=email,
        created_at=deployment.created_at,
    )


def _show_offer(offer: Mapping[str, Any]) -> OfferOut:
    return OfferOut(version=offer["version"], percent=_percent(offer["buckets"]), conditions=dict(offer["conditions"]))


def _percent(buckets: int) -> float:
    return buckets * 100 / BUCKETS


async def _releases(session: AsyncSession, model_id: str) -> dict[str, list[OfferOut]]:
    """Return what is offered of a model, by environment id, in the order in which devices ask."""
    query = (
        select(Release.environment_id, Release.buckets, Release.conditions, ModelVersion.version)
        .join(ModelVersion, ModelVersion.id == Release.model_version_id)
        .where(Release.model_id == model_id)
        .order_by(Release.environment_id, Release.position)
    )
    found: dict[str, list[OfferOut]] = {}
    for environment_id, buckets, conditions, version in (await session.execute(query)).all():
        offer = OfferOut(version=version, percent=_percent(buckets), conditions=conditions)
        found.setdefault(environment_id, []).append(offer)
    return found


async def _device_counts(session: AsyncSession, environment_ids: Sequence[str]) -> dict[str, int]:
    query = (
        select(Device.environment_id, func.count())
        .where(Device.environment_id.in_(environment_ids))
        .group_by(Device.environment_id)
    )
    return {row[0]: row[1] for row in (await session.execute(query)).all()}


def _show_patch(job: PatchJob, from_version: int | None, to_version: int | None, full: int | None) -> PatchOut:
    return PatchOut(
        id=job.id,
        from_version=from_version,
        to_version=to_version,
        state=job.state,
        reason=job.reason,
        length=job.length,
        full_length=full,
        created_at=job.created_at,
        updated_at=job.updated_at,
    )
