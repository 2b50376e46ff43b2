"""The patches of one model in one environment, planned: what is wanted is written down, and what is to be made queued.

A deployment plans by what is known, in its own transaction, so that the manifest that it signs lists the patches that
are there. Right after that, and again from time to time, telemetry is asked what devices hold, and the plan is made
anew (`control_plane.patch_planner`). Which patches are wanted is decided by `control_plane.patch_wishes`; here it meets
the database. Each environment writes its own wishes, under its lock.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane import tables
from control_plane.holdings import Holdings, moved
from control_plane.metrics import PATCHES_SKIPPED
from control_plane.offered import recent_versions
from control_plane.patch_jobs import hopeless_pairs, settle
from control_plane.patch_policy import PatchPolicy
from control_plane.patch_room import within_budget
from control_plane.patch_wishes import Held, Known, Pair, Unwanted, Wish, wishes
from control_plane.tables import ModelVersion, PatchPlan, PatchWish
from control_plane.upserts import insert_into

_KNOWN = ModelVersion.version, ModelVersion.artifact_sha256, ModelVersion.interface

# Most devices ask once a day, and an app that is opened now and then takes some days to move.
ROLLOUT_FOR = timedelta(days=3)
# A move of one device in twenty between two looks may go on.
MOVED_SHARE = 0.05
# While nothing is rolled out and nothing moves: a version that devices come to hold by itself, as an old one that a new
# build of the app ships, gets its patch within the hour.
CALM_PAUSE = timedelta(hours=1)
# How long the last answer of telemetry stands in when it cannot be asked: what devices hold moves in days.
REMEMBERED_FOR = timedelta(days=1)


Source = Literal["adoption", "remembered", "history"]
"""What a plan was made by: the devices' own word, that of a while ago, or what was deployed."""


async def plan_deployed(
    session: AsyncSession, environment_id: str, model_id: str, policy: PatchPolicy, now: datetime
) -> None:
    """Plan the patches of a deployment that the transaction has recorded, and have them looked at right after it.

    Patches that were given up are tried anew.
    """
    plan = await _plan_row(session, environment_id, model_id, now)
    plan.deployed_at = plan.look_at = now
    await _plan(session, plan, _remembered(plan, now), policy, now, deployed=True)


async def plan_again(
    session: AsyncSession,
    environment_id: str,
    model_id: str,
    holdings: Holdings | None,
    pause: timedelta,
    policy: PatchPolicy,
    now: datetime,
) -> Source:
    """Plan the patches by what devices hold now. The transaction holds the environment and the model.

    Args:
        holdings: telemetry's answer; None when it could not be asked.
        pause: until the next look while a rollout is under way, or telemetry is away.
    """
    plan = await _plan_row(session, environment_id, model_id, now)
    before = _stored(plan)
    if holdings is not None:
        plan.asked_at, plan.active_devices = holdings.asked_at, holdings.active
        plan.held = sorted([version, devices] for version, devices in holdings.devices.items())
    used = holdings if holdings is not None else _remembered(plan, now)
    source: Source = "history"
    if await _plan(session, plan, used, policy, now):
        source = "adoption" if holdings is not None else "remembered"
    restless = holdings is None or moved(before, holdings) >= MOVED_SHARE
    plan.look_at = now + (pause if _deployed_lately(plan, now) or restless else max(pause, CALM_PAUSE))
    return source


# --- One plan -----------------------------------------------------------------------------------------------------


async def _plan(
    session: AsyncSession,
    plan: PatchPlan,
    holdings: Holdings | None,
    policy: PatchPolicy,
    now: datetime,
    deployed: bool = False,
) -> bool:
    """Write down what is wanted, and settle the jobs; say whether it was decided by what devices hold."""
    offered = await _offered(session, plan)
    recent = await recent_versions(session, plan.environment_id, plan.model_id)
    held_versions = holdings.devices if holdings is not None else {}
    known = await _known(session, plan.model_id, {*recent, *held_versions})
    held = _held(holdings, known)
    stored = await _stored_wishes(session, plan)
    standing = {pair for pair, wish in stored.items() if wish.unwanted is None}
    likely = [known[version] for version in recent if version in known]
    hopeless = await hopeless_pairs(session, {each.artifact for each in offered}, policy)
    thought_of = wishes(offered, likely, held, standing, policy, _deployed_lately(plan, now), hopeless)
    thought_of = await within_budget(session, plan.environment_id, plan.model_id, thought_of, standing, policy)
    await _write_wishes(session, plan, thought_of, stored, now)
    await settle(session, {wish.pair for wish in thought_of}, stored.keys(), policy, now, deployed)
    return held is not None


def _deployed_lately(plan: PatchPlan, now: datetime) -> bool:
    return plan.deployed_at is not None and now - plan.deployed_at < ROLLOUT_FOR


async def _offered(session: AsyncSession, plan: PatchPlan) -> list[Known]:
    query = (
        select(*_KNOWN)
        .join(tables.Release, tables.Release.model_version_id == ModelVersion.id)
        .where(tables.Release.environment_id == plan.environment_id, tables.Release.model_id == plan.model_id)
        .order_by(tables.Release.position)
    )
    return [found for row in await session.execute(query) if (found := _as_known(*row))]


async def _known(session: AsyncSession, model_id: str, versions: Collection[int]) -> dict[int, Known]:
    """Return those of these versions that are there, by their number."""
    query = select(*_KNOWN).where(ModelVersion.model_id == model_id, ModelVersion.version.in_(versions))
    return {found.version: found for row in await session.execute(query) if (found := _as_known(*row))}


def _as_known(version: int | None, artifact: str | None, interface: str | None) -> Known | None:
    return Known(version, artifact, interface) if version is not None and artifact is not None else None


def _held(holdings: Holdings | None, known: dict[int, Known]) -> Held | None:
    """Return what devices hold of the versions that are there; None when there is no such device."""
    if holdings is None:
        return None
    versions = tuple(
        (known[version], devices) for version, devices in sorted(holdings.devices.items()) if version in known
    )
    return Held(holdings.active, versions) if versions else None


# --- Wishes -------------------------------------------------------------------------------------------------------


async def _stored_wishes(session: AsyncSession, plan: PatchPlan) -> dict[Pair, PatchWish]:
    query = select(PatchWish).where(
        PatchWish.environment_id == plan.environment_id, PatchWish.model_id == plan.model_id
    )
    return {(row.base_sha256, row.target_sha256): row for row in await session.scalars(query)}


async def _write_wishes(
    session: AsyncSession, plan: PatchPlan, thought_of: Sequence[Wish], stored: dict[Pair, PatchWish], now: datetime
) -> None:
    """Bring the stored wishes to what was thought of; what was thought of no more is no longer wanted."""
    pairs = {wish.pair for wish in thought_of}
    forgotten = [
        Wish(base, target, row.rank, None, None, Unwanted.NO_LONGER_WANTED)
        for (base, target), row in stored.items()
        if (base, target) not in pairs
    ]
    place = {"environment_id": plan.environment_id, "model_id": plan.model_id}
    rows = []
    for wish in (*thought_of, *forgotten):
        row = stored.get(wish.pair)
        decided = row is None or row.unwanted != wish.unwanted
        if decided and wish.unwanted is not None:
            PATCHES_SKIPPED.labels(wish.unwanted.value).inc()
        said = {"rank": wish.rank, "devices": wish.devices, "share": wish.share, "unwanted": wish.unwanted}
        if row is None or any(getattr(row, name) != value for name, value in said.items()):
            since = now if row is None or decided else row.since
            rows.append(place | {"base_sha256": wish.base, "target_sha256": wish.target, "since": since} | said)
    if rows:
        insert = insert_into(session, PatchWish).values(rows)
        key = [PatchWish.environment_id, PatchWish.model_id, PatchWish.target_sha256, PatchWish.base_sha256]
        told = {name: insert.excluded[name] for name in ("rank", "devices", "share", "unwanted", "since")}
        await session.execute(insert.on_conflict_do_update(index_elements=key, set_=told))


# --- What was heard of devices ------------------------------------------------------------------------------------


async def _plan_row(session: AsyncSession, environment_id: str, model_id: str, now: datetime) -> PatchPlan:
    plan = await session.get(PatchPlan, (environment_id, model_id))
    if plan is None:
        plan = PatchPlan(environment_id=environment_id, model_id=model_id, look_at=now)
        session.add(plan)
        await session.flush()
    return plan


def _stored(plan: PatchPlan) -> Holdings | None:
    """Return the last answer of telemetry; None when there was none."""
    if plan.asked_at is None:
        return None
    return Holdings(plan.active_devices, dict(plan.held), plan.asked_at)


def _remembered(plan: PatchPlan, now: datetime) -> Holdings | None:
    """Return the last answer of telemetry while it may stand in for a new one."""
    stored = _stored(plan)
    return stored if stored is not None and now - stored.asked_at < REMEMBERED_FOR else None
