"""Which patches a deployment asks for: from what devices of the environment may hold to what it newly offers.

After a deploy that is from the versions before to the new one; after a roll-back, from the version that was taken
back to those that returned. A patch that could not be made for a while, and was given up, is asked for anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.encodings import MAX_PATCHES_PER_RELEASE
from control_plane.offered import recent_artifacts
from control_plane.tables import Deployment, ModelVersion, PatchJob, new_id, utc_now
from control_plane.upserts import insert_into

# What becomes of a patch job. A pair that was skipped would be skipped again: its bytes never change.
PENDING = "pending"
RUNNING = "running"
BUILT = "built"
SKIPPED = "skipped"  # not worth it, or too costly
FAILED = "failed"  # given up, after too many failures or because a version was deleted, until a deployment asks again

_FRESH: dict[str, Any] = {"state": PENDING, "attempts": 0, "failures": 0, "retry_at": None}


async def plan_patches(session: AsyncSession, environment_id: str, model_id: str) -> None:
    """Queue the patches that the newest deployment makes useful, and again those that were given up.

    The others that were asked for before stay as they are.
    """
    targets = await _new_artifacts(session, environment_id, model_id)
    bases = (await recent_artifacts(session, environment_id, model_id)).get(model_id, [])
    rows = [
        {"id": new_id(), "base_sha256": base, "target_sha256": target, "created_at": utc_now()}
        for base, target in wanted_pairs(targets, bases)
    ]
    if rows:
        revived = {"updated_at": utc_now()} | _FRESH
        insert = insert_into(session, PatchJob).values([row | revived for row in rows])
        pair = [PatchJob.base_sha256, PatchJob.target_sha256]
        await session.execute(
            insert.on_conflict_do_update(index_elements=pair, set_=revived, where=PatchJob.state == FAILED)
        )


def wanted_pairs(targets: Sequence[str], bases: Iterable[str]) -> list[tuple[str, str]]:
    """Return the (base, target) pairs to build.

    Args:
        targets: artifacts that are newly offered, the most wanted first.
        bases: artifacts that devices may hold, the likeliest first.
    """
    likeliest = list(dict.fromkeys(bases))
    return [
        (base, target)
        for target in targets
        for base in [base for base in likeliest if base != target][:MAX_PATCHES_PER_RELEASE]
    ]


async def _new_artifacts(session: AsyncSession, environment_id: str, model_id: str) -> list[str]:
    """Return the artifacts that the newest deployment offers and the one before it did not, or else its first."""
    place = Deployment.environment_id == environment_id, Deployment.model_id == model_id
    query = select(Deployment.offers).where(*place).order_by(Deployment.number.desc()).limit(2)
    newest, *before = [[offer["version"] for offer in offers] for offers in await session.scalars(query)]
    known = before[0] if before else []
    wanted = [version for version in newest if version not in known] or newest[:1]
    return await _artifacts_of(session, model_id, wanted)


async def _artifacts_of(session: AsyncSession, model_id: str, versions: Sequence[int]) -> list[str]:
    """Return the artifacts of these versions, in their order."""
    query = select(ModelVersion.version, ModelVersion.artifact_sha256).where(
        ModelVersion.model_id == model_id, ModelVersion.version.in_(versions)
    )
    artifacts = dict((await session.execute(query)).all())
    found = [artifacts.get(version) for version in versions]
    return list(dict.fromkeys(artifact for artifact in found if artifact))
