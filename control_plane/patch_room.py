"""Room for patches: all wanted ones to one artifact together are bounded, as a multiple of its full encoding.

Environments share the patches to an artifact, so the devices of all of them count. A patch whose length is not known
yet has room until it is made; then it may find that there is none, or take the room of one that fewer devices use.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.patch_jobs import SKIPPED
from control_plane.patch_policy import PatchPolicy
from control_plane.patch_wishes import STANDING_WEIGHT, Pair, Stored, Unwanted, Wish, beyond_budget
from control_plane.tables import ArtifactEncoding, PatchJob, PatchWish


@dataclass(frozen=True, slots=True)
class _Stock:
    """Patches to some artifacts, in bytes.

    Args:
        full: the smallest encoding that needs no base, by artifact.
        stored: the patches of a pair together.
        refused: what they would take where there was no room for them.
    """

    full: dict[str, int]
    stored: dict[Pair, int]
    refused: dict[Pair, int]


_Demand = dict[Pair, tuple[int, int]]
"""Of wanted patches: how many devices have a use for each, and the best rank that an environment gives it."""


async def has_room(session: AsyncSession, pair: Pair, length: int, policy: PatchPolicy) -> bool:
    """Say whether a patch that was made has room beside those to the same artifact that more devices use.

    Args:
        pair: it is wanted.
        length: of all that would be stored for the pair, in bytes.
    """
    demand = await _demand(session, [pair[1]])
    stock = await _stock(session, [pair[1]])
    stock.refused[pair] = length
    stock.stored.pop(pair, None)
    return pair not in _beyond_budget(demand, demand.keys(), stock, policy)


async def is_crowded(session: AsyncSession, target: str, policy: PatchPolicy) -> bool:
    """Say whether the stored patches to an artifact that are wanted have more than their room."""
    demand, stock = await _demand(session, [target]), await _stock(session, [target])
    return sum(stock.stored.get(pair, 0) for pair in demand) > _budget(stock, target, policy)


async def within_budget(
    session: AsyncSession,
    environment_id: str,
    model_id: str,
    thought_of: Sequence[Wish],
    standing: Collection[Pair],
    policy: PatchPolicy,
) -> list[Wish]:
    """Return the wishes of a plan, those marked that have no room beside the patches that more devices use.

    Args:
        thought_of: by this plan, now.
        standing: what it wanted until now.
    """
    targets = {wish.target for wish in thought_of}
    elsewhere = (PatchWish.environment_id != environment_id) | (PatchWish.model_id != model_id)
    demand = await _demand(session, targets, elsewhere)
    present = standing | demand.keys()
    for wish in thought_of:
        if wish.unwanted is None:
            devices, rank = demand.get(wish.pair, (0, wish.rank))
            demand[wish.pair] = devices + (wish.devices or 0), min(rank, wish.rank)
    beyond = _beyond_budget(demand, present, await _stock(session, targets), policy)
    return [
        replace(wish, unwanted=Unwanted.OVER_SIZE) if wish.unwanted is None and wish.pair in beyond else wish
        for wish in thought_of
    ]


def _beyond_budget(demand: _Demand, present: Collection[Pair], stock: _Stock, policy: PatchPolicy) -> set[Pair]:
    """Return the pairs whose patches have no room. Where a length is not known yet, there is room for it.

    Args:
        present: pairs that were wanted until now; such a patch that is stored is not given up for a little more.
    """
    by_target: dict[str, list[Stored]] = {}
    for pair, (devices, rank) in demand.items():
        base, target = pair
        length = stock.stored.get(pair, stock.refused.get(pair))
        if length is not None:
            weight = STANDING_WEIGHT if pair in stock.stored and pair in present else 1
            by_target.setdefault(target, []).append(Stored(base, length, devices * weight, rank))
    return {
        (base, target)
        for target, patches in by_target.items()
        for base in beyond_budget(patches, _budget(stock, target, policy))
    }


def _budget(stock: _Stock, target: str, policy: PatchPolicy) -> int:
    return int(policy.total_share * stock.full.get(target, 0))


async def _demand(session: AsyncSession, targets: Collection[str], *which: ColumnElement[bool]) -> _Demand:
    columns = PatchWish.base_sha256, PatchWish.target_sha256
    query = (
        select(*columns, func.coalesce(func.sum(PatchWish.devices), 0), func.min(PatchWish.rank))
        .where(PatchWish.target_sha256.in_(targets), PatchWish.unwanted.is_(None), *which)
        .group_by(*columns)
    )
    rows = await session.execute(query)
    return {(base, target): (int(devices or 0), rank) for base, target, devices, rank in rows}


async def _stock(session: AsyncSession, targets: Collection[str]) -> _Stock:
    columns = ArtifactEncoding.artifact_sha256, ArtifactEncoding.base_sha256
    stored = (
        select(*columns, func.min(ArtifactEncoding.length), func.sum(ArtifactEncoding.length))
        .where(ArtifactEncoding.artifact_sha256.in_(targets))
        .group_by(*columns)
    )
    refused = select(PatchJob.target_sha256, PatchJob.base_sha256, PatchJob.length).where(
        PatchJob.target_sha256.in_(targets), PatchJob.state == SKIPPED, PatchJob.length.is_not(None)
    )
    stock = _Stock({}, {}, {(base, target): length or 0 for target, base, length in await session.execute(refused)})
    for target, base, least, total in await session.execute(stored):
        if base:
            stock.stored[base, target] = int(total)
        else:
            stock.full[target] = least
    return stock
