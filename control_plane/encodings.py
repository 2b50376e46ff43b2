"""The forms in which devices can download an artifact: recorded once its blob is stored, listed in each release.

A release lists the artifact itself, its compressed form, and patches. Every device of the environment reads the list,
so only patches that some device may use are in it: their base was offered there lately, and they are worth it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from artifacts.encodings import Encoded
from control_plane.tables import ArtifactEncoding, new_id, utc_now
from control_plane.upserts import insert_into
from manifests.model import Encoding

# The versions that were deployed lately (`control_plane.offered.RECENT_VERSIONS`), and a few that were offered beside
# them; about 200 bytes each in a manifest that every device fetches.
MAX_PATCHES_PER_RELEASE = 8
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


def listed_encodings(rows: Sequence[ArtifactEncoding], bases: Sequence[str]) -> tuple[Encoding, ...]:
    """Return the encodings that a release lists: full ones, then the patches that are worth it.

    Args:
        rows: everything recorded for the artifact.
        bases: artifacts that devices of the environment may hold, the likeliest first.
    """
    full = sorted((row for row in rows if not row.base_sha256), key=lambda row: row.length)
    smallest = full[0].length if full else 0
    patches = {row.base_sha256: row for row in sorted(rows, key=lambda row: -row.length) if row.base_sha256}
    wanted = [patches[base] for base in dict.fromkeys(bases) if base in patches]
    worthwhile = [patch for patch in wanted if patch.length <= smallest * WORTHWHILE]
    return tuple(_encoding(row) for row in (*full, *worthwhile[:MAX_PATCHES_PER_RELEASE]))


def _encoding(row: ArtifactEncoding) -> Encoding:
    return Encoding(row.name, row.blob_sha256, row.length, row.base_sha256 or None)
