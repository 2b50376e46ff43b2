"""Deploying, rolling back, and what was deployed when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane import lookup
from control_plane.api.call import Call
from control_plane.api.environments import named_environment, valid_keys
from control_plane.api.paging import Keyset, Page, fetch_page
from control_plane.api.patches import offered_patches
from control_plane.api.pushes import show_status
from control_plane.api.schemas import (
    DeployedOut,
    DeploymentOut,
    DeploymentsQuery,
    EnvironmentGroupOut,
    EnvironmentGroupsQuery,
    NewDeployment,
    NewRollback,
    OfferedOut,
    OfferOut,
)
from control_plane.api.versions import find_model
from control_plane.errors import Invalid, Missing
from control_plane.tables import (
    Deployment,
    Environment,
    Model,
    ModelVersion,
    PushJob,
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
            sandbox=body.apple_sandbox,
            after=body.after,
        )
    except Missing as missing:
        raise Invalid(missing.sentence, missing.code) from missing
    return await _done(call, "Deployed", model, environment, deployment)


async def roll_back(call: Call, body: NewRollback) -> DeployedOut:
    """Take back the version that was deployed last, with every step of its rollout."""
    model, environment = await _find(call, body.environment)
    deployment = await call.services.publisher.roll_back(call.actor, environment.id, model.id, body.after)
    return await _done(call, "Rolled back", model, environment, deployment)


async def list_deployments(call: Call, query: DeploymentsQuery) -> Page[DeploymentOut]:
    """List the model's deployments and roll-backs, newest first."""
    async with call.database.read() as session:
        application, model = await find_model(session, call)
        rows = (
            select(Deployment, Environment.name, User.email, PushJob)
            .join(Environment, Environment.id == Deployment.environment_id)
            .outerjoin(User, User.id == Deployment.actor_id)
            .outerjoin(PushJob, PushJob.deployment_id == Deployment.id)
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
        releases = await _releases(session, model.id, ids)
        counts = await call.services.device_counts.of(session, ids) if query.with_device_count else {}
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


async def _find(call: Call, environment: str) -> tuple[Model, Environment]:
    """Return the model in the path and the environment that the body names."""
    async with call.database.read() as session:
        application, model = await find_model(session, call)
        return model, await named_environment(session, application, environment)


async def _done(call: Call, verb: str, model: Model, environment: Environment, deployment: Deployment) -> DeployedOut:
    """Return the answer to a deployment. The published client prints the last word as the version."""
    async with call.database.read() as session:
        push = await session.scalar(select(PushJob).where(PushJob.deployment_id == deployment.id))
    return DeployedOut(
        success=f"{verb} {model.name} in {environment.name}: version {deployment.version}",
        deployment=_show(deployment, environment.name, call.caller.email, push),
    )


def _show(deployment: Deployment, environment: str, email: str | None, push: PushJob | None) -> DeploymentOut:
    return DeploymentOut(
        id=deployment.id,
        number=deployment.number,
        kind="rollback" if deployment.kind == "rollback" else "deploy",
        environment=environment,
        version=deployment.version,
        percent=deployment.percent,
        conditions=deployment.conditions,
        push=show_status(deployment.push, push),
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


async def _releases(
    session: AsyncSession, model_id: str, environment_ids: Sequence[str]
) -> dict[str, list[OfferedOut]]:
    """Return what is offered of a model, by environment id, in the order in which devices ask."""
    query = (
        select(
            Release.environment_id,
            Release.buckets,
            Release.conditions,
            ModelVersion.version,
            ModelVersion.artifact_sha256,
        )
        .join(ModelVersion, ModelVersion.id == Release.model_version_id)
        .where(Release.model_id == model_id, Release.environment_id.in_(environment_ids))
        .order_by(Release.environment_id, Release.position)
    )
    rows = (await session.execute(query)).all()
    patches, lengths = await offered_patches(session, model_id, environment_ids, {row[4] or "" for row in rows})
    found: dict[str, list[OfferedOut]] = {}
    for environment_id, buckets, conditions, version, artifact in rows:
        offer = OfferedOut(
            version=version or 0,
            percent=_percent(buckets),
            conditions=conditions,
            full_length=lengths.get(artifact or ""),
            patches=patches.get((environment_id, artifact or ""), []),
        )
        found.setdefault(environment_id, []).append(offer)
    return found
