"""Plans of patches, made by what devices hold, looked at again, and bounded; on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import delete, event, select, update

from artifacts.encoded import Encoded
from artifacts.hashing import hash_file
from artifacts.patch.build import Built, Skipped, SkipReason
from control_plane import holdings, offered, patch_planner, patches
from control_plane.api import models
from control_plane.api.schemas import DeleteModelQuery
from control_plane.errors import Conflict, Invalid, Unavailable
from control_plane.garbage import GRACE, UNWANTED_FOR, GarbageCollector
from control_plane.holdings import Holdings, Question, TelemetryCensus
from control_plane.isolated import ProcessDied, TookTooLong
from control_plane.patch_plan import CALM_PAUSE, REMEMBERED_FOR, ROLLOUT_FOR
from control_plane.patch_planner import LEASE, PatchPlanner
from control_plane.patch_policy import LOOK_SECONDS, PatchPolicy
from control_plane.patches import MAX_ATTEMPTS, PatchBuilder
from control_plane.publish import Publisher
from control_plane.repository import Signing
from control_plane.settings import Settings
from control_plane.tables import ArtifactEncoding, Environment, ModelVersion, PatchJob, PatchPlan, PatchWish, utc_now
from control_plane.warehouse import WarehouseGate
from manifests.signing import FileKeyStore
from manifests.trust import Lifetimes
from telemetry.adoption import ModelName
from telemetry.columns import event_columns
from telemetry.segment import EventLabels
from tests.control_plane.calls import call_in
from tests.control_plane.databases import fresh_database
from tests.control_plane.world import QUICK, Clock, World, open_world, stop
from tests.telemetry.samples import event as device_event
from tests.telemetry.samples import record

__all__ = ["fresh_database"]

NOISE = os.urandom(40_000)
LOOK = timedelta(seconds=LOOK_SECONDS)


@pytest.fixture
async def world(tmp_path: Path, fresh_database: str) -> AsyncIterator[World]:
    async with open_world(tmp_path, fresh_database) as world:
        yield world


@pytest.fixture(autouse=True)
def made_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let patches be made without a process of their own, which takes longer than they do."""

    async def call_here(call: Callable[[], Any], seconds: float) -> Any:
        return await asyncio.to_thread(call)

    monkeypatch.setattr(patches, "call_isolated", call_here)


class Devices:
    """What devices hold, as a test says; away, when it says nothing."""

    def __init__(self) -> None:
        self.held: Mapping[str, Mapping[int, int]] | None = {}
        self.questions: list[Question] = []

    def hold(self, environment: str = "prod", /, **devices: int) -> None:
        """Let an environment's devices hold versions, as in ``v1=90``; ``v0`` is none."""
        self.held = {**(self.held or {}), environment: {int(name[1:]): number for name, number in devices.items()}}

    async def ready(self) -> None:
        return None

    async def ask(self, question: Question, now: datetime) -> Holdings:
        self.questions.append(question)
        if self.held is None:
            raise Unavailable("ClickHouse cannot be reached.")
        held = self.held.get(question.environment, {})
        return Holdings(sum(held.values()), {version: number for version, number in held.items() if version}, now)


@pytest.fixture
def devices() -> Devices:
    return Devices()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def planner_of(world: World, devices: Devices, clock: Clock) -> PatchPlanner:
    return PatchPlanner(world.database, world.publisher, devices, clock=clock)


async def look(world: World, devices: Devices, clock: Clock) -> int:
    """Look at every plan that is due by now."""
    clock.now = max(clock.now, utc_now())
    return await planner_of(world, devices, clock).step()


async def look_after(world: World, devices: Devices, clock: Clock, pause: timedelta = CALM_PAUSE) -> int:
    clock.now = max(clock.now, utc_now()) + pause
    return await planner_of(world, devices, clock).step()


async def make(world: World, policy: PatchPolicy = QUICK) -> None:
    await PatchBuilder(
        world.database, world.objects, world.publisher, world.folder / "patches", policy=policy
    ).work_through()


async def similar(world: World, count: int) -> list[ModelVersion]:
    """Upload versions that share nearly all their bytes, and of which no two lead by the same patch to another."""
    return [await world.version({"weights": os.urandom(500 + 100 * number) + NOISE}) for number in range(count)]


async def deploy(world: World, version: int, percent: float = 100, environment: Environment | None = None) -> None:
    await world.publisher.deploy(world.actor, (environment or world.prod).id, world.model.id, version, percent)


async def states(world: World) -> dict[tuple[int, int], str]:
    """Return what became of each pair, by version numbers: its state, or why it was skipped."""
    async with world.database.read() as session:
        query = select(ModelVersion.artifact_sha256, ModelVersion.version)
        numbers = {artifact: version or 0 for artifact, version in await session.execute(query)}
        return {
            (numbers[job.base_sha256], numbers[job.target_sha256]): job.code or job.state
            for job in await session.scalars(select(PatchJob))
        }


async def listed(world: World, environment: Environment | None = None) -> dict[int, list[int]]:
    """Return the versions from which the manifest lists patches, by the version that they lead to."""
    async with world.database.read() as session:
        query = select(ModelVersion.artifact_sha256, ModelVersion.version)
        numbers = {artifact: version or 0 for artifact, version in await session.execute(query)}
    return {
        release.version: sorted(numbers[each.base] for each in release.encodings if each.base)
        for release in await world.offered(environment)
    }


async def plan(world: World) -> PatchPlan:
    async with world.database.read() as session:
        return await session.get_one(PatchPlan, (world.prod.id, world.model.id))


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"skafos_control_{name}_total", labels) or 0.0


# --- What devices hold decides ----------------------------------------------------------------------------------------


async def test_patches_are_made_from_what_devices_hold_and_not_from_what_was_deployed(
    world: World, devices: Devices, clock: Clock
) -> None:
    await similar(world, 5)
    for version in (1, 2, 3, 4, 5):
        await deploy(world, version)
    devices.hold(v1=700, v2=1, v4=299)
    await look(world, devices, clock)
    assert {pair: state for pair, state in (await states(world)).items() if pair[1] == 5} == {
        (1, 5): "pending",
        (2, 5): "too_few_devices",
        (3, 5): "no_longer_wanted",
        (4, 5): "pending",
    }
    await make(world)
    assert await listed(world) == {5: [1, 4]}


async def test_the_patch_that_most_devices_wait_for_is_made_first(
    world: World, devices: Devices, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await similar(world, 4)
    for version in (1, 2, 3, 4):
        await deploy(world, version)
    devices.hold(v1=10, v2=70, v3=20)
    await look(world, devices, clock)
    made: list[str] = []

    class Noting(PatchBuilder):
        async def _claim(self) -> patches.Job | None:
            job = await super()._claim()
            if job:
                made.append(job.base)
            return job

    folder = world.folder / "patches"
    await Noting(world.database, world.objects, world.publisher, folder, policy=QUICK).work_through()
    async with world.database.read() as session:
        numbers = dict((await session.execute(select(ModelVersion.artifact_sha256, ModelVersion.version))).all())
    assert [numbers[base] for base in made] == [2, 3, 1]


async def test_what_is_asked_is_about_the_model_and_its_versions(world: World, devices: Devices, clock: Clock) -> None:
    await similar(world, 2)
    await deploy(world, 1)
    await look(world, devices, clock)
    (question,) = devices.questions
    assert (question.organization_id, question.application_id) == (world.organization.id, world.application.id)
    assert (question.environment, [name.name for name in question.names]) == ("prod", ["digits"])
    assert list(question.versions) == [2, 1]


async def test_after_a_roll_back_the_version_that_left_is_a_base_and_its_patch_may_be_there_already(
    world: World, devices: Devices, clock: Clock
) -> None:
    await similar(world, 2)
    await deploy(world, 1)
    await deploy(world, 2, percent=10)
    devices.hold(v1=90, v2=10)
    await look(world, devices, clock)
    await make(world)
    assert await listed(world) == {2: [1], 1: [2]}
    await world.publisher.roll_back(world.actor, world.prod.id, world.model.id)
    assert await listed(world) == {1: [2]}, "the manifest of the roll-back itself has it"
    assert await states(world) == {(1, 2): "built", (2, 1): "built"}


async def test_a_version_that_many_devices_come_to_hold_gets_its_patch(
    world: World, devices: Devices, clock: Clock
) -> None:
    await similar(world, 4)
    for version in (1, 2, 3, 4):
        await deploy(world, version)
    devices.hold(v3=1000)
    await look(world, devices, clock)
    await make(world)
    assert await listed(world) == {4: [3]}
    devices.hold(v1=300, v3=700)  # a new build of the app that ships the first version, say
    await look_after(world, devices, clock)
    await make(world)
    assert await listed(world) == {4: [1, 3]}


async def test_a_patch_that_nobody_needs_any_more_is_listed_no_longer_and_kept_for_a_while(
    world: World, devices: Devices, clock: Clock
) -> None:
    await similar(world, 3)
    for version in (1, 2, 3):
        await deploy(world, version)
    devices.hold(v1=500, v2=500)
    await look(world, devices, clock)
    await make(world)
    (release,) = await world.offered()
    (blob,) = [each.blob for each in release.encodings if each.base == (await first(world)).artifact_sha256]
    devices.hold(v2=100, v3=900)
    await look_after(world, devices, clock)
    assert await listed(world) == {3: [2]}
    collector = GarbageCollector(world.database, world.objects)
    await collector.collect(utc_now() + max(GRACE, UNWANTED_FOR - CALM_PAUSE))
    assert await world.objects.length(blob) > 0, "a manifest that names it may be valid still"
    later = clock.now + UNWANTED_FOR + timedelta(minutes=1)
    counted_only = await collector.collect(later, dry_run=True)
    assert (await collector.collect(later)).blobs == counted_only.blobs == 1
    assert await listed(world) == {3: [2]}
    assert (await states(world))[1, 3] == "no_longer_wanted"
    devices.hold(v1=500, v3=500)
    await look_after(world, devices, clock)
    await make(world)
    assert await listed(world) == {3: [1, 2]}, "it is made again when it is wanted again"
    assert await world.objects.length(blob) > 0


async def first(world: World) -> ModelVersion:
    async with world.database.read() as session:
        return (await session.scalars(select(ModelVersion).where(ModelVersion.version == 1))).one()


async def test_a_patch_that_is_wanted_is_never_forgotten(world: World, devices: Devices, clock: Clock) -> None:
    await similar(world, 2)
    await deploy(world, 1)
    await deploy(world, 2)
    await make(world)
    await GarbageCollector(world.database, world.objects).collect(utc_now() + 10 * UNWANTED_FOR)
    assert await listed(world) == {2: [1]}
    assert await states(world) == {(1, 2): "built"}


async def test_while_nothing_changes_no_manifest_is_signed(world: World, devices: Devices, clock: Clock) -> None:
    await similar(world, 3)
    for version in (1, 2, 3):
        await deploy(world, version)
    devices.hold(v1=500, v2=500)
    await look(world, devices, clock)
    await make(world)
    before = (await world.manifest()).revision
    devices.hold(v1=510, v2=490)
    await look_after(world, devices, clock)
    devices.hold(v1=480, v2=520)
    await look_after(world, devices, clock)
    assert (await world.manifest()).revision == before


async def test_every_environment_lists_what_its_own_devices_need(world: World, devices: Devices, clock: Clock) -> None:
    await similar(world, 3)
    for version in (1, 2, 3):
        for environment in (world.prod, world.dev):
            await deploy(world, version, environment=environment)
    devices.hold("prod", v1=10)
    devices.hold("dev", v2=10)
    await look(world, devices, clock)
    clock.now += ROLLOUT_FOR
    await look(world, devices, clock)
    await make(world)
    assert await listed(world) == {3: [1]}
    assert await listed(world, world.dev) == {3: [2]}
    devices.hold("dev", v1=10)
    await look_after(world, devices, clock)
    assert await listed(world, world.dev) == {3: [1]}
    assert (await states(world))[2, 3] == "built", "what is made is kept while it may be needed again"


# --- When telemetry cannot tell ---------------------------------------------------------------------------------------


async def test_when_telemetry_is_away_what_was_deployed_decides_and_that_is_counted(
    world: World, devices: Devices, clock: Clock
) -> None:
    await similar(world, 3)
    for version in (1, 2, 3):
        await deploy(world, version)
    devices.held = None
    unanswered, by_history = counted("patch_looks_unanswered"), counted("patch_looks", source="history")
    await look(world, devices, clock)
    assert {pair for pair, state in (await states(world)).items() if state == "pending"} == {(1, 3), (2, 3)}
    assert counted("patch_looks_unanswered") == unanswered + 1
    assert counted("patch_looks", source="history") == by_history + 1
    assert (await plan(world)).look_at == clock.now + LOOK, "it is asked again soon"


async def test_when_telemetry_knows_nothing_what_was_deployed_decides(
    world: World, devices: Devices, clock: Clock
) -> None:
    await similar(world, 3)
    for version in (1, 2, 3):
        await deploy(world, version)
    unanswered = counted("patch_looks_unanswered")
    useless: list[dict[str, int]] = [{}, {"v0": 20}, {"v77": 5}]
    for holding in useless:
        devices.hold(**holding)
        await look_after(world, devices, clock)
        assert {pair for pair, state in (await states(world)).items() if state == "pending"} == {(1, 3), (2, 3)}
    assert counted("patch_looks_unanswered") == unanswered


async def test_what_telemetry_said_last_stands_in_for_a_day(world: World, devices: Devices, clock: Clock) -> None:
    await similar(world, 4)
    for version in (1, 2, 3, 4):
        await deploy(world, version)
    devices.hold(v1=100)
    await look(world, devices, clock)
    before = await states(world)
    remembered = counted("patch_looks", source="remembered")
    devices.held = None
    await look_after(world, devices, clock, timedelta(hours=20))
    assert await states(world) == before
    assert counted("patch_looks", source="remembered") == remembered + 1
    await look_after(world, devices, clock, REMEMBERED_FOR)
    assert {pair for pair, state in (await states(world)).items() if state == "pending" and pair[1] == 4} == {
        (1, 4),
        (2, 4),
        (3, 4),
    }


async def test_telemetry_that_does_not_answer_is_asked_once_for_many_plans(
    world: World, devices: Devices, clock: Clock
) -> None:
    await similar(world, 1)
    for environment in (world.prod, world.dev):
        await deploy(world, 1, environment=environment)
    devices.held = None
    assert await look(world, devices, clock) == 2
    assert len(devices.questions) == 1


async def test_the_devices_own_events_are_asked(world: World, clock: Clock, tmp_path: Path) -> None:
    await similar(world, 4)
    for version in (1, 2, 3, 4):
        await deploy(world, version)
    gate = WarehouseGate(None, tmp_path / "clickhouse")
    opening = asyncio.create_task(gate.run())
    try:
        warehouse = await asyncio.wait_for(gate.wait(), 30)
        sender = EventLabels(world.organization.id, "Example", world.application.id, "Camera", "prod")
        events = [device_event("check", f"d{number}", version=1, model="digits") for number in range(5)]
        await warehouse.insert_events(event_columns([record(*events, at=utc_now(), sender=sender)]), "one")
        planner = PatchPlanner(world.database, world.publisher, TelemetryCensus(gate))
        assert await planner.step() == 1
    finally:
        await stop(opening)
        await gate.close()
    async with world.database.read() as session:
        wished = select(PatchWish.devices, PatchWish.share).where(PatchWish.devices > 0)
        assert [tuple(row) for row in await session.execute(wished)] == [(5, 1.0)]
    stored = await plan(world)
    assert (stored.active_devices, stored.held) == (5, [[1, 5]])


async def test_a_clickhouse_that_is_not_open_cannot_be_asked(tmp_path: Path, clock: Clock) -> None:
    census = TelemetryCensus(WarehouseGate(None, tmp_path / "clickhouse"))
    with pytest.raises(Unavailable):
        await census.ask(Question("o", "a", "prod", [], [1]), clock())


async def test_a_clickhouse_that_takes_too_long_counts_as_away(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(WarehouseGate):
        def get(self) -> Any:
            return self

        async def query(self, *_: object) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(holdings, "ANSWER_SECONDS", 0.05)
    with pytest.raises(Unavailable):
        await TelemetryCensus(Slow(None, tmp_path)).ask(Question("o", "a", "prod", [ModelName("m")], [1]), clock())


async def test_what_is_asked_about_and_looked_at_together_and_listed_is_bounded(
    world: World, devices: Devices, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await similar(world, 3)
    for version in (1, 2, 3):
        for environment in (world.prod, world.dev):
            await deploy(world, version, environment=environment)
    monkeypatch.setattr(patch_planner, "BATCH", 1)
    monkeypatch.setattr(patch_planner, "MAX_VERSIONS", 2)
    devices.hold("prod", v1=10, v2=5)
    assert [await look(world, devices, clock) for _ in range(3)] == [1, 1, 0]
    assert [question.versions for question in devices.questions] == [[3, 2], [3, 2]]
    monkeypatch.setattr(offered, "MAX_LISTED_PATCHES", 1)
    await make(world)
    assert await listed(world) == {3: [1]}, "the most wanted one"


# --- When it is looked at ---------------------------------------------------------------------------------------------


async def test_a_plan_is_looked_at_often_during_a_rollout_and_hourly_when_nothing_moves(
    world: World, devices: Devices, clock: Clock
) -> None:
    await similar(world, 2)
    await deploy(world, 1)
    await deploy(world, 2)
    devices.hold(v1=100)
    assert await look(world, devices, clock) == 1
    assert (await plan(world)).look_at == clock.now + LOOK
    assert await look(world, devices, clock) == 0, "it is not due before that"
    await look_after(world, devices, clock, ROLLOUT_FOR)
    assert (await plan(world)).look_at == clock.now + CALM_PAUSE
    devices.hold(v1=90, v2=10)
    await look_after(world, devices, clock)
    assert (await plan(world)).look_at == clock.now + LOOK, "devices move"
    await look_after(world, devices, clock)
    assert (await plan(world)).look_at == clock.now + CALM_PAUSE


async def test_of_two_planners_one_looks_and_a_look_that_was_begun_and_not_done_is_done_later(
    world: World, devices: Devices, clock: Clock
) -> None:
    await similar(world, 1)
    await deploy(world, 1)
    clock.now = utc_now()
    claims = await asyncio.gather(*(planner_of(world, devices, clock)._claim() for _ in range(3)))
    assert sorted(len(claim) for claim in claims) == [0, 0, 1]
    assert await look_after(world, devices, clock, LEASE / 2) == 0
    assert await look_after(world, devices, clock, LEASE) == 1


async def test_the_planner_looks_by_itself_after_a_deployment(world: World, devices: Devices) -> None:
    await similar(world, 2)
    await deploy(world, 1)
    devices.hold(v1=9)
    running = asyncio.create_task(PatchPlanner(world.database, world.publisher, devices).run())
    await deploy(world, 2)
    async with asyncio.timeout(30):
        while (await plan(world)).held != [[1, 9]]:  # noqa: ASYNC110 - the planner says nothing to a test
            await asyncio.sleep(0.02)
    await stop(running)


async def test_a_plan_whose_model_or_environment_is_gone_is_gone_with_its_wishes(
    world: World, devices: Devices, clock: Clock
) -> None:
    await similar(world, 2)
    added = Environment(application_id=world.application.id, name="beta")
    async with world.database.write() as session:
        session.add(added)
        await world.publisher.open_environment(session, added)
    await deploy(world, 1, environment=added)
    await deploy(world, 2, environment=added)
    assert await states(world) == {(1, 2): "pending"}
    async with world.database.write() as session:
        await session.execute(delete(Environment).where(Environment.id == added.id))
    assert await look(world, devices, clock) == 0
    await make(world)
    assert await states(world) == {(1, 2): "no_longer_wanted"}


async def test_a_look_takes_a_number_of_queries_that_does_not_grow_with_the_versions(
    world: World, devices: Devices, clock: Clock
) -> None:
    await similar(world, 3)
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    async def queries_of_a_look() -> int:
        await deploy(world, 3, percent=50)
        statements.clear()
        assert await look(world, devices, clock) == 1
        return len(statements)

    await deploy(world, 1)
    event.listen(world.database.engine.sync_engine, "before_cursor_execute", note)
    devices.hold(v1=10)
    few = await queries_of_a_look()
    for number in range(4, 24):
        await world.version(b"%d" % number)
    devices.hold(**{f"v{number}": 10 for number in range(1, 24)})
    many = await queries_of_a_look()
    assert many <= few + 4, statements


# --- Bounds -----------------------------------------------------------------------------------------------------------


def with_policy(world: World, policy: PatchPolicy) -> Publisher:
    signing = Signing(FileKeyStore(world.folder / "keys"), Lifetimes())
    return Publisher(world.database, world.relay, signing, policy)


async def test_patches_together_are_bounded_and_those_for_the_most_devices_stay(
    world: World, devices: Devices, clock: Clock
) -> None:
    versions = [{"weights": os.urandom(10_000) + NOISE} for _ in range(4)]
    for files in versions:
        await world.version(files)
    policy = replace(QUICK, total_share=0.5)  # room for two patches of a fifth
    publisher = with_policy(world, policy)
    for version in (1, 2, 3, 4):
        await publisher.deploy(world.actor, world.prod.id, world.model.id, version)
    planner = PatchPlanner(world.database, publisher, devices, clock=clock)
    builder = PatchBuilder(world.database, world.objects, publisher, world.folder / "patches", policy=policy)
    devices.hold(v1=10, v2=20, v3=5)
    clock.now = utc_now()
    await planner.step()
    await builder.work_through()
    assert await listed(world) == {4: [1, 2]}
    assert (await states(world))[3, 4] == "over_size"
    await builder.work_through()
    assert (await states(world))[3, 4] == "over_size", "it is not tried again for nothing"

    devices.hold(v1=10, v2=20, v3=500)
    clock.now += CALM_PAUSE
    await planner.step()
    assert (await states(world))[3, 4] == "pending"
    await builder.work_through()
    clock.now = utc_now() + CALM_PAUSE
    await planner.step()
    assert await listed(world) == {4: [2, 3]}, "the one for the fewest devices has given up its room"
    async with world.database.read() as session:
        unwanted = select(PatchWish.unwanted).where(PatchWish.base_sha256 == (await first(world)).artifact_sha256)
        assert "over_size" in set(await session.scalars(unwanted))


async def test_the_room_is_looked_at_before_a_patch_is_made(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await similar(world, 2)
    policy = replace(QUICK, total_share=1e-9)
    for version in (1, 2):
        await deploy(world, version)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("nothing is to be made")

    monkeypatch.setattr(patches, "build_patch", never)
    await make(world, policy)
    assert await states(world) == {(1, 2): "over_size"}


async def test_a_patch_that_is_wanted_no_more_when_it_is_made_is_not_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await similar(world, 3)
    await deploy(world, 1)
    await deploy(world, 2)
    folder = world.folder / "patches"
    builder = PatchBuilder(world.database, world.objects, world.publisher, folder, policy=QUICK)
    put = world.objects.put_file

    async def meanwhile(sha256: str, path: Path) -> None:
        async with world.database.write() as session:
            await session.execute(update(PatchWish).values(unwanted="no_longer_wanted"))
        await put(sha256, path)

    monkeypatch.setattr(world.objects, "put_file", meanwhile)
    await builder.work_through()
    assert await states(world) == {(1, 2): "no_longer_wanted"}
    async with world.database.read() as session:
        patches_kept = select(ArtifactEncoding.id).where(ArtifactEncoding.base_sha256 != "")
        assert list(await session.scalars(patches_kept)) == []


async def test_plans_of_two_environments_at_once_agree_on_the_queue(
    world: World, devices: Devices, clock: Clock
) -> None:
    await similar(world, 3)
    for version in (1, 2, 3):
        for environment in (world.prod, world.dev):
            await deploy(world, version, environment=environment)
    for _ in range(3):
        devices.hold("prod", v1=10)
        devices.hold("dev", v2=10)
        planners = [planner_of(world, devices, clock) for _ in range(2)]
        clock.now += ROLLOUT_FOR
        await asyncio.gather(
            *(planner.step() for planner in planners),
            deploy(world, 3, environment=world.dev),
            deploy(world, 3, environment=world.prod),
        )
        clock.now += ROLLOUT_FOR
        await planners[0].step()
        async with world.database.read() as session:
            wanted = select(PatchWish.base_sha256, PatchWish.target_sha256).where(PatchWish.unwanted.is_(None))
            pending = select(PatchJob.base_sha256, PatchJob.target_sha256).where(PatchJob.state == "pending")
            assert set((await session.execute(wanted)).all()) == set((await session.execute(pending)).all())


async def test_a_version_that_was_deleted_is_no_base_any_more(world: World, devices: Devices, clock: Clock) -> None:
    versions = await similar(world, 3)
    for version in (1, 2, 3):
        await deploy(world, version)
    devices.hold(v1=50, v2=50)
    await look(world, devices, clock)
    await make(world)
    async with world.database.write() as session:
        await session.execute(delete(ModelVersion).where(ModelVersion.id == versions[0].id))
    await look_after(world, devices, clock)
    (release,) = await world.offered()
    assert [each.base for each in release.encodings if each.base] == [versions[1].artifact_sha256]
    await GarbageCollector(world.database, world.objects).collect(utc_now() + GRACE + timedelta(hours=1))
    await look_after(world, devices, clock)
    await make(world)
    assert await states(world) == {(2, 3): "built"}


async def test_looking_making_deploying_and_deleting_at_once_contradict_nothing(
    world: World, devices: Devices, clock: Clock
) -> None:
    await similar(world, 3)
    for version in (1, 2):
        for environment in (world.prod, world.dev):
            await deploy(world, version, environment=environment)
    devices.hold("prod", v1=10)
    devices.hold("dev", v1=4, v2=6)
    clock.now = utc_now() + CALM_PAUSE
    call = call_in(world, app=world.application.id, model=world.model.id)
    tries = (
        look(world, devices, clock),
        make(world),
        deploy(world, 3),
        deploy(world, 3, environment=world.dev),
        GarbageCollector(world.database, world.objects).collect(utc_now()),
        models.delete_model(call, DeleteModelQuery(withdraw=True)),
        deploy(world, 1),
    )
    for result in await asyncio.gather(*tries, return_exceptions=True):
        # Invalid is a deployment after the deletion; Conflict a collection before the edges were told.
        assert not isinstance(result, BaseException) or isinstance(result, Invalid | Conflict), result
    await make(world)
    await look_after(world, devices, clock)
    async with world.database.read() as session:
        assert list(await session.scalars(select(PatchWish))) == []
        assert list(await session.scalars(select(PatchJob.state).where(PatchJob.state == "pending"))) == []
    assert await world.offered() == []


# --- Several encodings ------------------------------------------------------------------------------------------------


class Encodings:
    """Encodings under names of their own, made here rather than in a process: what each comes to, as a test says.

    All are zstd's, so that they can be applied; they differ in what is told of their length.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **outcomes: int | Exception | SkipReason) -> None:
        self.outcomes = outcomes
        self.tried: list[str] = []
        monkeypatch.setattr(patches, "call_isolated", self._call)

    async def _call(self, call: partial[Built | Skipped], seconds: float) -> Built | Skipped:
        name = call.keywords["encoding"]
        self.tried.append(name)
        outcome = self.outcomes[name]
        if isinstance(outcome, Exception):
            raise outcome
        if isinstance(outcome, SkipReason):
            return Skipped(outcome, "for a test")
        path = call.args[2]
        path.write_bytes(os.urandom(outcome))
        sha256, length = hash_file(path)
        base, _ = hash_file(call.args[0])
        return Built(Encoded(name, sha256, length, base, path))


async def recorded(world: World) -> dict[str, int]:
    """Return the patches that are stored, by encoding."""
    async with world.database.read() as session:
        query = select(ArtifactEncoding.name, ArtifactEncoding.length).where(ArtifactEncoding.base_sha256 != "")
        return {name: length for name, length in (await session.execute(query)).all()}  # noqa: C416 - typed so


async def the_job(world: World) -> PatchJob:
    async with world.database.read() as session:
        return (await session.scalars(select(PatchJob))).one()


def two(every: bool = False) -> PatchPolicy:
    return PatchPolicy(encodings=("new", "old"), every_encoding=every)


async def deploy_two(world: World, policy: PatchPolicy) -> PatchBuilder:
    """Deploy two versions; return what makes the patch between them."""
    publisher = with_policy(world, policy)
    await similar(world, 2)
    for version in (1, 2):
        await publisher.deploy(world.actor, world.prod.id, world.model.id, version)
    return PatchBuilder(world.database, world.objects, publisher, world.folder / "patches", policy=policy)


async def names_listed(world: World) -> list[str]:
    (release,) = await world.offered()
    return [each.name for each in release.encodings if each.base]


async def test_of_several_encodings_the_smallest_is_offered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    encodings = Encodings(monkeypatch, new=900, old=800)
    await (await deploy_two(world, two())).work_through()
    assert (encodings.tried, await recorded(world)) == (["new", "old"], {"old": 800})
    job = await the_job(world)
    assert (job.state, job.length, job.tried) == ("built", 800, ["new", "old"])
    assert await names_listed(world) == ["old"]


async def test_each_encoding_that_is_worth_it_is_offered_when_that_is_asked_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    Encodings(monkeypatch, new=700, old=800)
    await (await deploy_two(world, two(every=True))).work_through()
    assert await recorded(world) == {"new": 700, "old": 800}
    assert await names_listed(world) == ["new", "old"]
    assert (await the_job(world)).length == 700


async def test_an_encoding_that_is_added_later_is_tried_for_every_pair_that_is_wanted(
    world: World, devices: Devices, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    encodings = Encodings(monkeypatch, new=700, old=SkipReason.NOT_SMALLER)
    await (await deploy_two(world, PatchPolicy(encodings=("old",)))).work_through()
    assert await states(world) == {(1, 2): "not_smaller"}
    publisher = with_policy(world, two())
    clock.now = utc_now()
    await PatchPlanner(world.database, publisher, devices, clock=clock).step()
    assert await states(world) == {(1, 2): "pending"}
    encodings.tried.clear()
    builder = PatchBuilder(world.database, world.objects, publisher, world.folder / "patches", policy=two())
    await builder.work_through()
    assert encodings.tried == ["new"]
    assert await names_listed(world) == ["new"]


async def test_a_later_encoding_replaces_a_patch_only_by_a_smaller_one(
    world: World, devices: Devices, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    encodings = Encodings(monkeypatch, new=800, old=700)
    await (await deploy_two(world, PatchPolicy(encodings=("old",)))).work_through()
    publisher = with_policy(world, two())
    clock.now = utc_now()
    await PatchPlanner(world.database, publisher, devices, clock=clock).step()
    builder = PatchBuilder(world.database, world.objects, publisher, world.folder / "patches", policy=two())
    await builder.work_through()
    assert (encodings.tried, await recorded(world)) == (["old", "new"], {"old": 700})
    assert ((await the_job(world)).state, (await the_job(world)).length) == ("built", 700)


async def test_a_pair_keeps_its_patch_when_there_is_no_room_for_one_in_another_encoding(
    world: World, devices: Devices, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    Encodings(monkeypatch, new=30_000, old=800)
    await (await deploy_two(world, PatchPolicy(encodings=("old",)))).work_through()
    tight = replace(two(every=True), total_share=0.1)
    publisher = with_policy(world, tight)
    clock.now = utc_now()
    await PatchPlanner(world.database, publisher, devices, clock=clock).step()
    assert await states(world) == {(1, 2): "pending"}
    await PatchBuilder(world.database, world.objects, publisher, world.folder / "patches", policy=tight).work_through()
    assert (await recorded(world), (await the_job(world)).state) == ({"old": 800}, "built")
    assert await names_listed(world) == ["old"]


async def test_an_encoder_that_dies_keeps_no_other_patch_from_being_offered_and_is_given_up_in_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    encodings = Encodings(monkeypatch, new=ProcessDied("the process died"), old=800)
    builder = await deploy_two(world, two())
    await builder.work_through()
    assert await names_listed(world) == ["old"]
    job = await the_job(world)
    assert (job.state, job.attempts, job.reason) == ("pending", 1, "the process died")
    assert job.retry_at is not None
    for _ in range(MAX_ATTEMPTS):
        async with world.database.write() as session:
            await session.execute(update(PatchJob).values(retry_at=None))
        await builder.work_through()
    job = await the_job(world)
    assert (job.state, job.length) == ("built", 800)
    assert job.reason == f"failed {MAX_ATTEMPTS} times: the process died"
    assert encodings.tried == ["new", "old"] + ["new"] * (MAX_ATTEMPTS - 1)


async def test_an_encoder_that_takes_too_long_is_too_costly(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    Encodings(monkeypatch, new=TookTooLong("the process took longer than 1800 seconds"), old=SkipReason.TOO_COSTLY)
    await (await deploy_two(world, two())).work_through()
    job = await the_job(world)
    assert (job.state, job.code, job.reason) == (
        *("skipped", "too_costly"),
        "the process took longer than 1800 seconds",
    )


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"patch_encodings": "zstd-prefix,tar"}, "is not an encoding of patches"),
        ({"patch_max_per_target": 31}, "more than a manifest lists"),
        ({"patch_min_device_share": 1.5}, "less than or equal to 1"),
        ({"patch_total_share": 0}, "greater than 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Settings(**wrong)


def test_settings_become_the_bounds() -> None:
    given = Settings(patch_encodings=" zstd-prefix , zstd-prefix", patch_offer="each", patch_max_per_target=3)
    assert given.patch_policy == PatchPolicy(max_per_target=3, encodings=("zstd-prefix",), every_encoding=True)
    assert Settings().patch_policy == PatchPolicy()
