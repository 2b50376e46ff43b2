"""The open-loop generator: its output, and the program itself against a real server."""

from __future__ import annotations

import array
import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from bench.edge.generators import build
from bench.edge.load import LoadFailed
from bench.edge.openloop import Asked, latencies, run_beside, run_openloop
from bench.edge.probe import ask, request
from tests.components import require

RATE = 500
SECONDS = 0.5
WARM = 0.1


def samples(times: list[float], late: list[float]) -> bytes:
    return array.array("f", times + late).tobytes()


def test_times_and_delays_become_percentiles() -> None:
    seen = latencies(samples([float(n) for n in range(1000, 0, -1)], [5.0] * 1000), rate=2000)
    assert (seen.median, seen.p99, seen.p999, seen.late_p99) == (500, 990, 999, 5)
    assert (seen.rate, seen.answered) == (2000, 1000)


@pytest.mark.parametrize("numbers", [[], [1.0, 2.0, 3.0]])
def test_half_an_output_is_refused(numbers: list[float]) -> None:
    with pytest.raises(LoadFailed):
        latencies(samples(numbers, []), rate=1)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require("cc")
    return build("openloop", tmp_path_factory.mktemp("openloop"))


@pytest_asyncio.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[int]]]:
    """Give a function that starts a server: it answers 304, after one pause of so many seconds, or another status."""
    runners = []

    async def start(pause: float, status: int = 304, failing: int = 0) -> int:
        asked = 0

        async def handler(_: web.Request) -> web.Response:
            nonlocal asked
            asked += 1
            if asked == RATE // 2:
                time.sleep(pause)  # noqa: ASYNC251 - the whole server stands still, as in a stall
            if asked == failing:
                raise RuntimeError
            return web.Response(status=status, headers={"Date": "now"})

        app = web.Application()
        app.router.add_get("/", handler)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return int(runner.addresses[0][1])

    yield start
    for runner in runners:
        await runner.cleanup()


async def test_every_request_that_was_due_is_recorded_also_when_the_server_stood_still(
    program: Path, serve: Callable[..., Awaitable[int]]
) -> None:
    port = await serve(0.2)
    sent = request("GET", "/")
    size = len(await asyncio.to_thread(ask, ("127.0.0.1", port), sent))
    asked = Asked(port, sent, size, "HTTP/1.1 304", RATE, warm=WARM)
    seen = await asyncio.to_thread(run_openloop, program, asked, SECONDS)
    assert abs(seen.answered - RATE * SECONDS) <= 1
    assert seen.median <= seen.p99 <= seen.p999


@pytest.mark.parametrize("status", [200, 304], ids=["another status", "another length"])
async def test_answers_that_are_others_than_expected_end_the_run(
    program: Path, serve: Callable[..., Awaitable[int]], status: int
) -> None:
    asked = Asked(await serve(0, status), request("GET", "/"), 50, "HTTP/1.1 304", RATE, warm=WARM)
    with pytest.raises(LoadFailed, match="another answer"):
        await asyncio.to_thread(run_openloop, program, asked, SECONDS)


async def test_wrong_answers_beside_a_flood_are_counted_and_the_load_goes_on(
    program: Path, serve: Callable[..., Awaitable[int]]
) -> None:
    """Here one answer in the middle of the run is an error, whose connection the server closes."""
    port = await serve(0, 304, failing=RATE // 2)
    sent = request("GET", "/")
    size = len(await asyncio.to_thread(ask, ("127.0.0.1", port), sent))
    asked = Asked(port, sent, size, "HTTP/1.1 304", RATE, warm=0)
    seen = await asyncio.to_thread(run_beside, program, asked, SECONDS)
    assert seen.wrong == 1
    assert abs(seen.latencies.answered - RATE * SECONDS) <= 2
