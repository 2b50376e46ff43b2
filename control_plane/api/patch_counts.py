"""How many patches lead to versions, by what became of them: the short form that lists of versions show."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.api.schemas import PatchCountsOut
from control_plane.patch_jobs import BUILT, FAILED, PENDING, RUNNING, SKIPPED
from control_plane.tables import ModelVersion, PatchJob


async def count_patches(session: AsyncSession, versions: Sequence[ModelVersion]) -> dict[str, PatchCountsOut]:
    """Return what became of the patches that lead to versions of one model, by the version's id."""
    targets = {version.artifact_sha256 for version in versions if version.artifact_sha256}
    models = {version.model_id for version in versions}
    base = select(ModelVersion.id).where(
        ModelVersion.model_id.in_(models), ModelVersion.artifact_sha256 == PatchJob.base_sha256
    )
    query = (
        select(PatchJob.target_sha256, PatchJob.state, PatchJob.code, func.count())
        .where(PatchJob.target_sha256.in_(targets), base.exists())
        .group_by(PatchJob.target_sha256, PatchJob.state, PatchJob.code)
    )
    counted: dict[str, list[tuple[str, str | None, int]]] = {}
    for target, state, code, number in await session.execute(query):
        counted.setdefault(target, []).append((state, code, number))
    return {version.id: _counts(counted.get(version.artifact_sha256 or "", [])) for version in versions}


def _counts(outcomes: Sequence[tuple[str, str | None, int]]) -> PatchCountsOut:
    def of(*states: str) -> int:
        return sum(number for state, _, number in outcomes if state in states)

    skipped = {code or "other": number for state, code, number in outcomes if state == SKIPPED}
    return PatchCountsOut(built=of(BUILT), waiting=of(PENDING, RUNNING), failed=of(FAILED), skipped=skipped)
