"""Connections that wait to be accepted: while the loop is busy, and while a worker has no descriptors left."""

from __future__ import annotations

import resource
import socket
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.edge.raw import connect, read_answer, request
from tests.edge.site import Environment, Site, eventually, release_of
from tests.edge.test_proxy_protocol import LINE

# More than would wait unless the edge said how many may.
CROWD = 150


@pytest.mark.parametrize("proxies", [{}, {"edge_proxy_protocol": True, "edge_trusted_proxies": "192.0.2.1"}])
async def test_connections_wait_while_the_loop_is_busy(site: Site, proxies: dict[str, object]) -> None:
    async with site.edge(**proxies) as edge:
        with ExitStack() as stack:
            crowd = [stack.enter_context(socket.socket()) for _ in range(CROWD)]
            for one in crowd:
                one.setblocking(False)
                with suppress(BlockingIOError):
                    one.connect(edge.address)
            # The loop has not run since, so nothing was accepted; those who found no room are not connected yet.
            assert sum(_is_connected(one) for one in crowd) == CROWD


def _is_connected(one: socket.socket) -> bool:
    with suppress(OSError):
        one.getpeername()
        return True
    return False


async def test_a_worker_without_descriptors_accepts_again_when_it_has_some(site: Site) -> None:
    environment = Environment([release_of(b"artifact")])
    await site.publish(environment)
    process = site.process(EDGE_PROXY_PROTOCOL="true", EDGE_TRUSTED_PROXIES="127.0.0.1")
    async with process.running() as edge:
        worker = psutil.Process(process.pid)
        before = worker.rlimit(resource.RLIMIT_NOFILE)
        # No descriptor of this number or above may be opened. One or two below it may be free.
        highest = max(int(entry.name) for entry in Path(f"/proc/{process.pid}/fd").iterdir())
        worker.rlimit(resource.RLIMIT_NOFILE, (highest + 1, before[1]))
        held = [await connect(edge) for _ in range(20)]

        async def out_of_descriptors() -> bool:
            return '"event": "cannot_accept"' in process.log

        await eventually(out_of_descriptors)
        worker.rlimit(resource.RLIMIT_NOFILE, before)
        for reader, writer in held:
            writer.write(LINE + request("GET", f"/v2/environments/{environment.key}/manifest"))
            assert (await read_answer(reader)).status == 200
            writer.close()
