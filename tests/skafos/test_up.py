"""Steps of `skafos up`."""

from __future__ import annotations

import asyncio
from pathlib import Path

from skafos.up import redis_answers


async def test_asking_redis_ends_whenever_it_is_cancelled(tmp_path: Path) -> None:
    async def pong(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            writer.write(b"+PONG\r\n")
        writer.close()

    path = tmp_path / "redis.sock"
    async with await asyncio.start_unix_server(pong, path):
        turns = 0
        while True:
            asking = asyncio.create_task(redis_answers(path))
            for _ in range(turns):
                await asyncio.sleep(0)
            if not asking.cancel():  # it had its answer
                break
            await asyncio.wait({asking})
            assert asking.cancelled(), f"the cancellation after {turns} turns of the loop was swallowed"
            turns += 1
    assert turns > 1
    assert asking.result()
