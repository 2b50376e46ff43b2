"""Beginning a push: in the transaction of the deployment that wants it, or when a person asks."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.push import jobs
from control_plane.tables import Environment, PushCredential, PushJob

# Apps that developers build themselves have tokens of Apple's development server.
SANDBOX_ENVIRONMENTS = ("dev",)


def uses_sandbox(environment: Environment) -> bool:
    """Say whether pushes to an environment go through Apple's development server by default."""
    return environment.name in SANDBOX_ENVIRONMENTS


async def is_configured(session: AsyncSession, environment_id: str) -> bool:
    """Say whether an environment has a credential for any service."""
    query = select(PushCredential.service).where(PushCredential.environment_id == environment_id).limit(1)
    return await session.scalar(query) is not None


async def begin_push(
    session: AsyncSession,
    environment: Environment,
    model_id: str,
    version: int,
    *,
    sandbox: bool | None,
    actor_id: str | None,
    deployment_id: str | None = None,
) -> PushJob | None:
    """Add a job that wakes an environment's devices; None when it has no credential to push with.

    Args:
        version: that devices are told of.
        sandbox: whether Apple's development server is used; None: for the environment `dev` it is.
        actor_id: who asked.
        deployment_id: the deployment that asked.
    """
    if not await is_configured(session, environment.id):
        return None
    job = PushJob(
        environment_id=environment.id,
        model_id=model_id,
        version=version,
        deployment_id=deployment_id,
        sandbox=uses_sandbox(environment) if sandbox is None else sandbox,
        actor_id=actor_id,
    )
    await jobs.begin(session, job)
    return job
