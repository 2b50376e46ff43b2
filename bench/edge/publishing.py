"""From the publishing of a manifest until the last of four edge workers answers with it.

The workers listen on four ports, not on one shared port: then each can be asked, and none is asked by chance. How a
manifest reaches a worker is the same either way.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from bench.edge.probe import ANSWER_SECONDS, WrongAnswer, read_answer, request
from bench.edge.site import Site
from bench.edge.worker import edge_worker
from manifests.redis_client import connect_redis
from manifests.redis_store import RedisManifestStore

WORKERS = 4
PUBLICATIONS = 200
# Each worker is asked about twice a millisecond, which is also the resolution.
POLL_SECONDS = 0.0005
# A worker that does not have the manifest after so long will not get it.
PATIENCE_SECONDS = 15.0
# Between publications, so that each meets workers at rest.
PAUSE_SECONDS = 0.01


def measure_publishing(site: Site, folder: Path, publications: int = PUBLICATIONS) -> list[float]:
    """Return the milliseconds of each publication."""
    with ExitStack() as stack:
        workers = []
        for number in range(WORKERS):
            own = folder / f"worker-{number}"
            own.mkdir()
            workers.append(stack.enter_context(edge_worker(site, own, name=str(number))))
        sockets = [
            stack.enter_context(closing(socket.create_connection(worker.address, timeout=ANSWER_SECONDS)))
            for worker in workers
        ]
        return asyncio.run(_publish_all(site, sockets, publications))


async def _publish_all(site: Site, workers: Sequence[socket.socket], publications: int) -> list[float]:
    redis = connect_redis(site.redis_url)
    store = RedisManifestStore(redis)
    times = []
    try:
        old = site.publication().etag
        for _ in range(publications):
            site.repository.resign()
            new = site.publication()
            began = time.perf_counter()
            if not await store.publish(new):
                raise RuntimeError("the manifest was not taken")
            _until_everywhere(site, workers, old, new.etag)
            times.append((time.perf_counter() - began) * 1000)
            old = new.etag
            await asyncio.sleep(PAUSE_SECONDS)
    finally:
        await redis.aclose()
    return times


def _until_everywhere(site: Site, workers: Sequence[socket.socket], old: str, new: str) -> None:
    asked = request("GET", site.manifest_path, {"If-None-Match": old})
    behind = list(workers)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while behind:
        for worker in behind:
            worker.sendall(asked)
        answers = [(worker, read_answer(worker)) for worker in behind]
        behind = [worker for worker, answer in answers if answer.status == 304]
        if any(answer.status != 304 and answer.header("ETag") != new for _, answer in answers):
            raise WrongAnswer("a worker answers with another manifest")
        if time.monotonic() > deadline:
            raise WrongAnswer(f"{len(behind)} workers do not get the manifest")
        if behind:
            time.sleep(POLL_SECONDS)
