"""The forms in which devices can download an artifact: recorded once its blob is stored, listed in each release.

A release lists the artifact itself, its compressed form, and patches. Every device of the environment reads the list,
so only patches are in it that the environment wants (`control_plane.patch_plan`) and that are worth it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import groupby

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from artifacts.encodings import Encoded
from control_plane.patch_policy import PatchPolicy
from control_plane.tables import ArtifactEncoding, new_id, utc_now
from control_plane.upserts import insert_into
from manifests.model import Encoding

# A patch costs the device memory and time, so it has to save something.
WORTHWHILE = 0.9


async def record_encodings(session: AsyncSession, artifact_sha256: str, encodings: Iterable[Encoded]) -> None:
    """Record encodings of an artifact whose blobs are stored; those that are recorded already stay as they are."""
    rows = [
        {
            "id": new_id(),
            "artifact_sha256": artifact_sha256,
            "name": encoding.name,
            "blob_sha256": encoding.sha256,
            "length": encoding.length,
            "base_sha256": encoding.base or "",
            "created_at": utc_now(),
        }
        for encoding in encodings
    ]
    if rows:
        await session.execute(insert_into(session, ArtifactEncoding).values(rows).on_conflict_do_nothing())


async def encodings_of(session: AsyncSession, artifacts: Iterable[str]) -> dict[str, list[ArtifactEncoding]]:
    """Return every recorded encoding of each artifact, by the artifact's hash."""
    query = select(ArtifactEncoding).where(ArtifactEncoding.artifact_sha256.in_(set(artifacts)))
    found: dict[str, list[ArtifactEncoding]] = {}
    for row in await session.scalars(query):
        found.setdefault(row.artifact_sha256, []).append(row)
    return found


def listed_encodings(
    rows: Sequence[ArtifactEncoding], bases: Collection[str], policy: PatchPolicy
) -> tuple[Encoding, ...]:
    """Return the encodings that a release lists: full ones, then the patches that are worth it, in an order that stays.

    Args:
        rows: everything recorded for the artifact.
        bases: artifacts from which patches are wanted.
        policy: in which encodings, and whether the smallest patch from each base is enough.
    """
    full = sorted((row for row in rows if not row.base_sha256), key=lambda row: row.length)
    most = full[0].length * WORTHWHILE if full else 0
    wanted = [row for row in rows if row.base_sha256 in bases and row.name in policy.encodings and row.length <= most]
    patches = sorted(wanted, key=lambda row: (row.base_sha256, row.length, policy.encodings.index(row.name)))
    if not policy.every_encoding:
        patches = [next(of_base) for _, of_base in groupby(patches, key=lambda row: row.base_sha256)]
    return tuple(_encoding(row) for row in (*full, *patches))


def _encoding(row: ArtifactEncoding) -> Encoding:
    return Encoding(row.name, row.blob_sha256, row.length, row.base_sha256 or None)
