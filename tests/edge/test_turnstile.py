"""How many requests of aiohttp's pass in one turn of the loop."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from edge.turnstile import REQUESTS_A_TURN, Turnstile
from tests.edge.raw import connect, read_answer, request
from tests.edge.site import Edge, Environment, metric


async def enter(turnstile: Turnstile, number: int, passed: list[int]) -> None:
    await turnstile.enter()
    passed.append(number)


async def turn_by_turn(passed: list[int], count: int) -> list[int]:
    """Return how many passed in each turn of the loop, until so many have."""
    totals = [0]
    async with asyncio.timeout(20):
        while len(passed) < count:
            await asyncio.sleep(0)
            totals.append(len(passed))
    return [after - before for before, after in itertools.pairwise(totals)]


async def test_so_many_pass_in_each_turn_and_the_others_later_in_their_order() -> None:
    turnstile, passed = Turnstile(3), list[int]()
    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(enter(turnstile, number, passed))
        assert max(await turn_by_turn(passed, 10)) == 3
    assert passed == list(range(10))


async def test_who_comes_while_others_wait_does_not_pass_them() -> None:
    turnstile, passed = Turnstile(1), list[int]()
    async with asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(enter(turnstile, number, passed))
            await asyncio.sleep(0)
    assert passed == list(range(6))


async def test_a_request_that_is_given_up_holds_nobody_up() -> None:
    turnstile, passed = Turnstile(1), list[int]()
    tasks = [asyncio.create_task(enter(turnstile, number, passed)) for number in range(5)]
    await asyncio.sleep(0)
    for given_up in tasks[1:4]:
        given_up.cancel()
    assert set(await turn_by_turn(passed, 2)) <= {0, 1}
    assert passed == [0, 4]
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_after_a_rest_as_many_pass_again_at_once() -> None:
    turnstile, passed = Turnstile(2), list[int]()
    for begin in (0, 2):
        async with asyncio.TaskGroup() as group:
            for number in (begin, begin + 1):
                group.create_task(enter(turnstile, number, passed))
        for _ in range(5):
            await asyncio.sleep(0)
    assert passed == [0, 1, 2, 3]


async def test_a_rest_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    turnstile = Turnstile(2)
    await turnstile.enter()
    for _ in range(5):
        await asyncio.sleep(0)
    monkeypatch.setattr(turnstile, "_turn", None)  # would be called in the next turn, and fail
    for _ in range(5):
        await asyncio.sleep(0)


async def test_many_requests_at_once_are_all_answered_and_those_that_waited_counted(
    edge: Edge, environment: Environment
) -> None:
    before = metric("skafos_edge_requests_waited_total")
    clients = [await connect(edge) for _ in range(10 * REQUESTS_A_TURN)]
    for _, writer in clients:
        writer.write(request("GET", f"/v2/environments/{environment.key}/root/1.json"))
    for reader, writer in clients:
        assert (await read_answer(reader)).status == 200
        writer.close()
    assert metric("skafos_edge_requests_waited_total") > before
