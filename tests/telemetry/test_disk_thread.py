"""The thread that waits for the disk: jobs in order, results in the loop, an end that leaves nothing undone."""

from __future__ import annotations

import asyncio
import threading
import weakref
from functools import partial

import pytest

from telemetry.disk_thread import DiskThread
from tests.telemetry.waiting import until


async def test_jobs_run_one_after_another_outside_of_the_loop_and_are_told_in_it() -> None:
    here = threading.get_ident()
    ran: list[int] = []
    told: list[tuple[int, bool]] = []
    disk = DiskThread("disk")
    disk.start(asyncio.get_running_loop())
    ended = asyncio.Event()

    def job(number: int) -> int:
        assert threading.get_ident() != here
        ran.append(number)
        return number

    for number in range(100):
        disk.run(
            lambda number=number: job(number),  # type: ignore[misc]
            lambda result: told.append((result, threading.get_ident() == here)),
            lambda error: pytest.fail(repr(error)),
        )
    disk.run(lambda: None, lambda _: ended.set(), lambda error: pytest.fail(repr(error)))
    await ended.wait()
    disk.stop()

    assert ran == list(range(100))
    assert told == [(number, True) for number in range(100)]


async def test_what_a_job_raises_is_told_and_the_next_one_runs() -> None:
    disk = DiskThread("disk")
    disk.start(asyncio.get_running_loop())
    failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    done: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def broken() -> None:
        raise OSError("the disk is gone")

    disk.run(broken, lambda _: pytest.fail("it did not fail"), failed.set_result)
    disk.run(lambda: "done", done.set_result, lambda error: pytest.fail(repr(error)))

    assert str(await failed) == "the disk is gone"
    assert await done == "done"
    disk.stop()


async def test_an_idle_thread_keeps_nothing_of_its_last_job() -> None:
    class Large:
        pass

    large = Large()
    alive = weakref.ref(large)
    disk = DiskThread("disk")
    disk.start(asyncio.get_running_loop())
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    disk.run(partial(_forget, large), done.set_result, lambda error: pytest.fail(repr(error)))
    del large
    await done
    await until(lambda: alive() is None)
    disk.stop()


def _forget(_: object) -> None:
    pass


def test_a_thread_that_never_began_can_be_stopped() -> None:
    DiskThread("disk").stop()
