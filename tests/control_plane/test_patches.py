"""Patches in the background: asked for by deployments, made in a process of their own, listed once they are proved."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from sqlalchemy import select, update

from artifacts import encodings
from artifacts.patch.build import PatchLimits
from control_plane import patches
from control_plane.encodings import listed_encodings
from control_plane.errors import Unavailable
from control_plane.isolated import ProcessDied, call_isolated
from control_plane.offered import RECENT_VERSIONS
from control_plane.patch_policy import PatchPolicy
from control_plane.patches import (
    ABANDONED_AFTER,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    MAX_ATTEMPTS,
    MAX_FAILURES,
    PatchBuilder,
    pause_after,
)
from control_plane.tables import ArtifactEncoding, ModelVersion, PatchJob, utc_now
from manifests.model import Encoding
from tests.artifacts.patch.files import safetensors, trained, weights
from tests.control_plane.databases import fresh_database
from tests.control_plane.isolated_work import die, divide_by_zero, sleep_for_ever
from tests.control_plane.world import QUICK, Clock, World, open_world, stop

__all__ = ["fresh_database"]

NOISE = os.urandom(60_000)


@pytest.fixture
async def world(tmp_path: Path, fresh_database: str) -> AsyncIterator[World]:
    async with open_world(tmp_path, fresh_database) as world:
        yield world


def builder_of(
    world: World, limits: PatchLimits | None = None, clock: Callable[[], datetime] = utc_now
) -> PatchBuilder:
    folder = world.folder / "patches"
    return PatchBuilder(world.database, world.objects, world.publisher, folder, limits, clock=clock, policy=QUICK)


async def similar(world: World, number: int) -> ModelVersion:
    """Upload a version that shares nearly all its bytes with the others."""
    return await world.version({"weights": b"%04d" % number + NOISE})


async def deploy(world: World, version: ModelVersion, percent: float = 100) -> None:
    assert version.version is not None
    await world.publisher.deploy(world.actor, world.prod.id, world.model.id, version.version, percent)


async def jobs(world: World) -> list[PatchJob]:
    async with world.database.read() as session:
        return list(await session.scalars(select(PatchJob).order_by(PatchJob.created_at, PatchJob.id)))


async def pairs(world: World) -> set[tuple[str, str]]:
    return {(job.base_sha256, job.target_sha256) for job in await jobs(world)}


async def patch_bases(world: World) -> list[str | None]:
    """Return the bases of the patches that the first release lists."""
    (release, *_) = await world.offered()
    return [encoding.base for encoding in release.encodings if encoding.base]


def sha(version: ModelVersion) -> str:
    assert version.artifact_sha256 is not None
    return version.artifact_sha256


# --- What is asked for ------------------------------------------------------------------------------------------------


async def test_the_first_deployment_asks_for_no_patch(world: World) -> None:
    await deploy(world, await similar(world, 1))
    assert await jobs(world) == []


async def test_a_deployment_asks_for_patches_from_what_was_offered_lately(world: World) -> None:
    first, second, third = [await similar(world, number) for number in (1, 2, 3)]
    for version in (first, second, third):
        await deploy(world, version)
    assert await pairs(world) == {
        (sha(first), sha(second)),
        (sha(first), sha(third)),
        (sha(second), sha(third)),
    }


async def test_a_roll_back_asks_for_the_other_direction(world: World) -> None:
    first, second = await similar(world, 1), await similar(world, 2)
    await deploy(world, first)
    await deploy(world, second)
    await world.publisher.roll_back(world.actor, world.prod.id, world.model.id)
    assert (sha(second), sha(first)) in await pairs(world)


async def test_versions_that_were_offered_long_ago_are_no_bases(world: World) -> None:
    versions = [await similar(world, number) for number in range(RECENT_VERSIONS + 2)]
    for version in versions:
        await deploy(world, version)
    bases = {base for base, target in await pairs(world) if target == sha(versions[-1])}
    assert bases == {sha(version) for version in versions[-RECENT_VERSIONS:-1]}


async def test_the_same_bytes_under_another_number_need_no_patch(world: World) -> None:
    await deploy(world, await similar(world, 1))
    await deploy(world, await similar(world, 1))
    assert await jobs(world) == []


async def test_raising_the_percentage_asks_for_nothing_twice(world: World) -> None:
    first, second = await similar(world, 1), await similar(world, 2)
    await deploy(world, first)
    for percent in (10, 50, 100):
        await deploy(world, second, percent)
    assert await pairs(world) == {(sha(first), sha(second)), (sha(second), sha(first))}


async def test_many_steps_of_a_rollout_leave_the_versions_before_it_their_patches(world: World) -> None:
    first, second, third = [await similar(world, number) for number in (1, 2, 3)]
    await deploy(world, first)
    await deploy(world, second)
    for percent in range(10, 10 * (RECENT_VERSIONS + 2), 10):
        await deploy(world, third, percent)
    await deploy(world, third)
    await builder_of(world).work_through()
    assert set(await patch_bases(world)) == {sha(first), sha(second)}
    fourth = await similar(world, 4)
    await deploy(world, fourth)
    assert {base for base, target in await pairs(world) if target == sha(fourth)} == {
        sha(first),
        sha(second),
        sha(third),
    }


async def test_two_rollouts_in_turns_leave_the_version_before_them_its_patch(world: World) -> None:
    first, second, third = [await similar(world, number) for number in (1, 2, 3)]
    await deploy(world, first)
    for percent in range(10, 10 * (RECENT_VERSIONS + 1), 10):
        await deploy(world, second, percent)
        await deploy(world, third, percent)
    await deploy(world, third)
    await builder_of(world).work_through()
    assert set(await patch_bases(world)) == {sha(first), sha(second)}


async def test_what_was_offered_beside_many_small_rollouts_is_a_base(world: World) -> None:
    versions = [await similar(world, number) for number in range(RECENT_VERSIONS + 2)]
    await deploy(world, versions[0])
    for version in versions[1:]:
        await deploy(world, version, 1)
    await deploy(world, versions[-1])
    assert (sha(versions[0]), sha(versions[-1])) in await pairs(world)


async def test_versions_that_were_deleted_take_no_place_among_the_bases(world: World) -> None:
    versions = [await similar(world, number) for number in range(RECENT_VERSIONS + 1)]
    for version in versions[:-1]:
        await deploy(world, version)
    async with world.database.write() as session:
        await session.delete(await session.get_one(ModelVersion, versions[1].id))
    await deploy(world, versions[-1])
    assert (sha(versions[0]), sha(versions[-1])) in await pairs(world)


# --- What is listed ---------------------------------------------------------------------------------------------------


def row(name: str, length: int, base: str = "") -> ArtifactEncoding:
    return ArtifactEncoding(
        artifact_sha256="t", name=name, blob_sha256=f"{name}{base}", length=length, base_sha256=base
    )


def bases_listed(listed: tuple[Encoding, ...]) -> list[str | None]:
    return [encoding.base for encoding in listed if encoding.base]


def test_only_patches_from_likely_bases_that_save_a_tenth_are_listed() -> None:
    rows = [row("identity", 1000), row("zstd", 800), row("zstd-prefix", 720, "a"), row("zstd-prefix", 721, "b")]
    listed = listed_encodings([*rows, row("zstd-prefix", 10, "c")], ["b", "a", "d"], PatchPolicy())
    assert [encoding.name for encoding in listed] == ["zstd", "identity", "zstd-prefix"]
    assert bases_listed(listed) == ["a"]


def test_patches_are_listed_in_an_order_that_does_not_depend_on_the_wishes() -> None:
    bases = [f"base {number}" for number in range(8)]
    rows = [row("identity", 1000), *(row("zstd-prefix", 10, base) for base in bases)]
    for order in (bases, bases[::-1]):
        assert bases_listed(listed_encodings(rows, order, PatchPolicy())) == bases
        rows.reverse()


def test_of_several_patches_from_one_base_the_smallest_is_listed_or_each_of_them() -> None:
    rows = [row("identity", 1000), row("old", 300, "a"), row("given up", 100, "a"), row("new", 200, "a")]
    both = PatchPolicy(encodings=("new", "old"), every_encoding=False)
    assert [encoding.name for encoding in listed_encodings(rows, ["a"], both)] == ["identity", "new"]
    each = PatchPolicy(encodings=("new", "old"), every_encoding=True)
    assert [encoding.name for encoding in listed_encodings(rows, ["a"], each)] == ["identity", "new", "old"]


# --- How they are made ------------------------------------------------------------------------------------------------


async def test_a_patch_is_made_stored_and_published_and_makes_the_exact_target(world: World) -> None:
    first, second = await similar(world, 1), await similar(world, 2)
    await deploy(world, first)
    await deploy(world, second)
    before = (await world.manifest()).revision
    await builder_of(world).work_through()
    (job,) = await jobs(world)
    assert (job.state, job.reason) == ("built", None)
    assert (await world.manifest()).revision == before + 1
    await world.assert_published()
    (release,) = await world.offered()
    (patch,) = [encoding for encoding in release.encodings if encoding.base == sha(first)]
    assert patch.length == job.length
    assert patch.length < 1000
    folder = world.folder / "device"
    folder.mkdir()
    await world.objects.fetch_to(sha(first), folder / "base")
    await world.objects.fetch_to(patch.blob, folder / "patch")
    result = folder / "result"
    encodings.decode(
        patch.name, folder / "patch", result, length=release.length, sha256=release.artifact, base=folder / "base"
    )
    await world.objects.fetch_to(sha(second), folder / "target")
    assert result.read_bytes() == (folder / "target").read_bytes()


async def test_a_fine_tuned_model_gets_a_patch_that_knows_its_tensors_by_default(tmp_path: Path) -> None:
    before = weights(100, 200)
    policy = PatchPolicy()
    async with open_world(tmp_path, policy=policy) as world:
        for array in (before, trained(before)):
            await deploy(world, await world.version({"model.safetensors": safetensors({"layer": array})}))
        await PatchBuilder(
            world.database, world.objects, world.publisher, world.folder / "patches", policy=policy
        ).work_through()
        (job,) = await jobs(world)
        assert (job.state, job.tried) == ("built", ["skafos-delta", "zstd-prefix"])
        (release,) = await world.offered()
    (patch,) = [encoding for encoding in release.encodings if encoding.base]
    full = min(encoding.length for encoding in release.encodings if not encoding.base)
    assert patch.name == "skafos-delta"
    assert patch.length < 0.8 * full


async def test_a_patch_that_saves_too_little_is_skipped_and_says_so(world: World) -> None:
    await deploy(world, await world.version({"weights": os.urandom(20_000)}))
    await deploy(world, await world.version({"weights": os.urandom(20_000)}))
    before = (await world.manifest()).revision
    await builder_of(world).work_through()
    (job,) = await jobs(world)
    assert (job.state, job.code) == ("skipped", "not_smaller")
    assert job.reason is not None
    assert job.reason.startswith("the patch has")
    assert (await world.manifest()).revision == before


async def test_a_patch_that_would_take_too_much_memory_is_skipped(world: World) -> None:
    await deploy(world, await similar(world, 1))
    await deploy(world, await similar(world, 2))
    await builder_of(world, PatchLimits(max_build_bytes=1000)).work_through()
    (job,) = await jobs(world)
    assert (job.state, job.code) == ("skipped", "too_costly")
    assert job.reason is not None
    assert job.reason.startswith("the patch needs about")


async def test_every_environment_that_offers_the_target_lists_the_patch_it_can_use(world: World) -> None:
    first, second = await similar(world, 1), await similar(world, 2)
    for version in (first, second):
        await deploy(world, version)
    await world.publisher.deploy(world.actor, world.dev.id, world.model.id, 1)
    await world.publisher.deploy(world.actor, world.dev.id, world.model.id, 2)
    await builder_of(world).work_through()
    for environment in (world.dev, world.prod):
        (release,) = await world.offered(environment)
        assert [encoding.base for encoding in release.encodings if encoding.base] == [sha(first)]


async def test_an_environment_whose_devices_never_had_the_base_does_not_list_the_patch(world: World) -> None:
    first, second = await similar(world, 1), await similar(world, 2)
    for version in (first, second):
        await deploy(world, version)
    await world.publisher.deploy(world.actor, world.dev.id, world.model.id, 2)
    await builder_of(world).work_through()
    (release,) = await world.offered(world.dev)
    assert [encoding.base for encoding in release.encodings if encoding.base] == []


async def test_the_builder_makes_what_a_deployment_asks_for_while_it_runs(world: World) -> None:
    first, second = await similar(world, 1), await similar(world, 2)
    running = asyncio.create_task(builder_of(world).run())
    await deploy(world, first)
    await deploy(world, second)
    async with asyncio.timeout(60):
        while not await patch_bases(world):  # noqa: ASYNC110 - the builder says nothing to a test
            await asyncio.sleep(0.05)
    await stop(running)
    assert await patch_bases(world) == [sha(first)]
    assert list((world.folder / "patches").iterdir()) == []


# --- What can go wrong ------------------------------------------------------------------------------------------------


async def prepare_one_job(world: World) -> PatchJob:
    await deploy(world, await similar(world, 1))
    await deploy(world, await similar(world, 2))
    (job,) = await jobs(world)
    return job


async def test_a_patch_whose_process_was_killed_is_made_after_a_pause(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare_one_job(world)
    clock = Clock()
    with monkeypatch.context() as slow:
        slow.setattr(patches, "build_patch", sleep_for_ever)
        working = asyncio.create_task(builder_of(world, clock=clock).work_through())
        await until_a_worker_runs()
        for worker in workers(psutil.Process()):
            worker.kill()
        await working
    (job,) = await jobs(world)
    assert (job.state, job.attempts, job.failures, job.reason) == ("pending", 1, 1, "the process died")
    assert job.retry_at == clock.now + FIRST_PAUSE
    restarted = builder_of(world, clock=clock)
    await restarted.work_through()
    assert [job.state for job in await jobs(world)] == ["pending"]
    clock.now += FIRST_PAUSE
    await restarted.work_through()
    assert [(job.state, job.reason) for job in await jobs(world)] == [("built", None)]


@pytest.mark.parametrize("fresh_database", ["sqlite"], indirect=True)  # five processes, whatever the database
async def test_a_patch_that_kills_its_process_each_time_is_given_up_and_the_next_deployment_has_it_tried_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare_one_job(world)
    clock = Clock()
    builder = builder_of(world, clock=clock)
    pauses = []
    with monkeypatch.context() as deadly:
        deadly.setattr(patches, "build_patch", die)
        for _ in range(MAX_ATTEMPTS):
            await builder.work_through()
            (job,) = await jobs(world)
            if job.state == "pending":
                assert job.retry_at is not None
                pauses.append(job.retry_at - clock.now)
                clock.now = job.retry_at
    assert (job.state, job.attempts) == ("failed", MAX_ATTEMPTS)
    assert job.reason == f"failed {MAX_ATTEMPTS} times: the process died"
    assert pauses == [FIRST_PAUSE * factor for factor in (1, 2, 4, 8)]
    clock.now += LONGEST_PAUSE
    await builder.work_through()
    assert [job.state for job in await jobs(world)] == ["failed"]
    await world.publisher.deploy(world.actor, world.prod.id, world.model.id, "latest")
    assert [(job.state, job.attempts, job.failures) for job in await jobs(world)] == [("pending", 0, 0)]
    await builder.work_through()
    assert [(job.state, job.reason) for job in await jobs(world)] == [("built", None)]


async def test_a_patch_that_was_skipped_is_not_tried_anew_by_a_deployment(world: World) -> None:
    await prepare_one_job(world)
    await builder_of(world, PatchLimits(max_build_bytes=1000)).work_through()
    await world.publisher.deploy(world.actor, world.prod.id, world.model.id, "latest")
    assert [job.state for job in await jobs(world)] == ["skipped"]


async def test_while_the_object_store_is_away_patches_wait_longer_and_longer_and_are_made_once_it_is_back(
    world: World,
) -> None:
    await prepare_one_job(world)
    await deploy(world, await similar(world, 3), percent=50)
    clock = Clock()
    builder = builder_of(world, clock=clock)
    away = world.folder / "away"
    (world.folder / "objects").rename(away)
    for failures in range(1, MAX_ATTEMPTS + 2):
        await builder.work_through()
        await builder.work_through()
        for job in await jobs(world):
            assert (job.state, job.attempts, job.failures) == ("pending", 0, failures)
            assert job.retry_at == clock.now + pause_after(failures)
            assert job.reason == f"the object store holds nothing named {job.base_sha256}"
        clock.now += pause_after(failures)
    away.rename(world.folder / "objects")
    await builder.work_through()
    assert {(job.state, job.reason) for job in await jobs(world)} == {("built", None)}


async def test_an_object_store_that_stays_away_is_asked_a_bounded_number_of_times(world: World) -> None:
    await prepare_one_job(world)
    clock = Clock()
    builder = builder_of(world, clock=clock)
    (world.folder / "objects").rename(world.folder / "away")
    for failures in range(1, MAX_FAILURES + 1):
        await builder.work_through()
        clock.now += pause_after(failures)
    (job,) = await jobs(world)
    assert (job.state, job.attempts) == ("failed", 0)
    assert job.reason == f"failed {MAX_FAILURES} times: the object store holds nothing named {job.base_sha256}"


async def test_a_patch_from_a_version_that_was_deleted_is_given_up_at_once_and_says_why(world: World) -> None:
    job = await prepare_one_job(world)
    async with world.database.write() as session:
        first = await session.scalar(select(ModelVersion).where(ModelVersion.artifact_sha256 == job.base_sha256))
        await session.delete(first)
    (world.folder / "objects" / "blobs" / job.base_sha256[:2] / job.base_sha256).unlink()
    await builder_of(world).work_through()
    (job,) = await jobs(world)
    assert (job.state, job.reason) == ("failed", "deleted: a version that it is from or leads to is gone")


def test_pauses_double_up_to_the_longest() -> None:
    pauses = [pause_after(failures) for failures in range(1, MAX_FAILURES + 1)]
    assert pauses[0] == FIRST_PAUSE
    assert all(later == min(2 * earlier, LONGEST_PAUSE) for earlier, later in pairwise(pauses))
    assert pauses[-1] == LONGEST_PAUSE


async def test_a_job_whose_builder_died_is_taken_up_again(world: World) -> None:
    job = await prepare_one_job(world)
    await pretend_running(world, job, attempts=1)
    await builder_of(world).work_through()
    assert [job.state for job in await jobs(world)] == ["built"]


async def test_a_job_whose_builder_died_too_often_is_given_up(world: World) -> None:
    job = await prepare_one_job(world)
    await pretend_running(world, job, attempts=MAX_ATTEMPTS)
    await builder_of(world).work_through()
    (job,) = await jobs(world)
    assert (job.state, job.reason) == ("failed", f"its control plane died {MAX_ATTEMPTS} times")


async def pretend_running(world: World, job: PatchJob, attempts: int) -> None:
    long_ago = utc_now() - ABANDONED_AFTER - timedelta(seconds=1)
    async with world.database.write() as session:
        state = {"state": "running", "attempts": attempts, "updated_at": long_ago}
        await session.execute(update(PatchJob).where(PatchJob.id == job.id).values(**state))


async def test_a_job_that_somebody_else_is_working_on_is_left_alone(world: World) -> None:
    job = await prepare_one_job(world)
    async with world.database.write() as session:
        state = {"state": "running", "attempts": 1, "updated_at": utc_now()}
        await session.execute(update(PatchJob).where(PatchJob.id == job.id).values(**state))
    await builder_of(world).work_through()
    assert [job.state for job in await jobs(world)] == ["running"]


async def test_a_patch_that_was_recorded_before_a_crash_is_not_made_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare_one_job(world)
    await builder_of(world).work_through()
    async with world.database.write() as session:
        await session.execute(update(PatchJob).values(state="pending", length=None))
    monkeypatch.setattr(patches, "build_patch", die)
    await builder_of(world).work_through()
    (job,) = await jobs(world)
    assert job.state == "built"
    assert job.length is not None


async def test_while_the_database_is_away_a_job_waits_and_loses_no_attempt(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare_one_job(world)

    async def away(environment_id: str) -> None:
        raise Unavailable("The database does not answer.")

    with monkeypatch.context() as broken:
        broken.setattr(world.publisher, "republish", away)
        with pytest.raises(Unavailable):
            await builder_of(world).work_through()
    (job,) = await jobs(world)
    assert (job.state, job.attempts) == ("pending", 0)
    await builder_of(world).work_through()
    assert [job.state for job in await jobs(world)] == ["built"]


async def test_shutting_down_ends_the_process_and_puts_the_job_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare_one_job(world)
    monkeypatch.setattr(patches, "build_patch", sleep_for_ever)
    working = asyncio.create_task(builder_of(world).work_through())
    await until_a_worker_runs()
    await stop(working)
    assert [(job.state, job.attempts) for job in await jobs(world)] == [("pending", 0)]
    await until_no_worker_runs()


# --- A process of its own ---------------------------------------------------------------------------------------------


async def test_an_isolated_call_runs_elsewhere_and_returns_its_result() -> None:
    assert await call_isolated(os.getpid, 60) != os.getpid()


async def test_an_isolated_call_raises_what_the_call_raises() -> None:
    with pytest.raises(ZeroDivisionError):
        await call_isolated(divide_by_zero, 60)


async def test_a_call_that_takes_too_long_is_killed() -> None:
    with pytest.raises(ProcessDied, match="longer than 1 seconds"):
        await call_isolated(signal.pause, 1)
    await until_no_worker_runs()


async def test_when_the_parent_is_killed_the_process_ends_as_well() -> None:
    program = (
        "import asyncio, signal; from control_plane.isolated import call_isolated; "
        "asyncio.run(call_isolated(signal.pause, 60))"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", program, cwd=Path(__file__).parents[2])
    try:
        seen = psutil.Process(parent.pid)
        await until(lambda: any(is_waiting(child) for child in workers(seen)))
        (worker,) = workers(seen)
    finally:
        parent.kill()
        await parent.wait()
    await until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


async def until_a_worker_runs() -> None:
    await until(lambda: any(is_waiting(child) for child in workers()))


async def until_no_worker_runs() -> None:
    await until(lambda: not workers())


async def until(condition: object) -> None:
    assert callable(condition)
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("the condition never held")


def workers(parent: psutil.Process | None = None) -> list[psutil.Process]:
    """Return the spawned processes that we, or another parent, have."""
    found = []
    for child in (parent or psutil.Process()).children():
        with suppress(psutil.Error):
            if "spawn_main" in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


def is_waiting(child: psutil.Process) -> bool:
    """Tell whether a worker has its call: it has lowered its priority first."""
    with suppress(psutil.Error):
        return bool(child.nice() == 10)
    return False
