"""The peers by name, and how each is started."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from bench.edge import nginx as nginx_peer
from bench.edge.certificate import Certificate
from bench.edge.nginx import nginx
from bench.edge.servers import ROOT, Server, started
from bench.edge.site import Site
from bench.edge.waiting import answers
from bench.edge.worker import edge_worker, has_tls
from tests.components import free_port

GRANIAN = ROOT / ".venv-bench" / "bin" / "granian"

Start = Callable[[Site, Path, Certificate | None], AbstractContextManager[Server]]


@contextmanager
def aiohttp_route(site: Site, folder: Path, certificate: Certificate | None = None) -> Iterator[Server]:
    """Run a plain aiohttp route within the block; it has no TLS."""
    assert certificate is None
    port = free_port()
    file = site.www / site.manifest_path.lstrip("/")
    words = [str(port), site.manifest_path, str(file), str(folder / "events")]
    command = [sys.executable, "-m", "bench.edge.aiohttp_route", *words]
    with started(command, folder / "log", answers(port)) as pid:
        yield Server("aiohttp", ("127.0.0.1", port), pid)


@contextmanager
def granian(site: Site, folder: Path, certificate: Certificate | None = None) -> Iterator[Server]:
    """Run granian within the block: one worker with one thread for its runtime; it has no TLS here."""
    assert certificate is None
    port = free_port()
    how = ["--interface", "rsgi", "--loop", "uvloop", "--workers", "1", "--runtime-threads", "1"]
    how += ["--http", "1", "--no-ws", "--backlog", "4096", "--log-level", "warning"]
    command = [str(GRANIAN), *how, "--host", "127.0.0.1", "--port", str(port), "bench.edge.granian_app:app"]
    told = {"BENCH_MANIFEST": str(site.www / site.manifest_path.lstrip("/")), "BENCH_PATH": site.manifest_path}
    with started(command, folder / "log", answers(port), {**told, "PYTHONPATH": str(ROOT)}) as pid:
        yield Server("granian", ("127.0.0.1", port), pid)


PEERS: dict[str, Start] = {"nginx": nginx, "edge": edge_worker, "aiohttp": aiohttp_route, "granian": granian}


def why_missing(peer: str, *, tls: bool) -> str | None:
    """Return why a peer cannot take part, or None."""
    if peer == "nginx" and nginx_peer.program() is None:
        return "nginx is not installed"
    if peer == "granian" and not os.access(GRANIAN, os.X_OK):
        return "granian is not installed; `make bench-edge` does it"
    if peer == "edge" and tls and not has_tls():
        return "this edge has no TLS"
    return None
