"""The edge: ``python -m edge`` as a user starts it, by settings."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench.edge.certificate import Certificate
from bench.edge.servers import Server, started
from bench.edge.site import Site
from bench.edge.waiting import written
from edge.settings import EdgeSettings, parse_address

# Above the 10,000 connections of the memory case; low enough that the files they may need are within common limits.
MAX_CONNECTIONS = 12_000
# As long as nginx's here: connections that are counted must not be closed while others are still opened.
KEEPALIVE_SECONDS = 300


def has_tls() -> bool:
    """Tell whether this edge can be given a certificate."""
    return {"edge_tls_certificate", "edge_tls_key"} <= set(EdgeSettings.model_fields)


@contextmanager
def edge_worker(
    site: Site,
    folder: Path,
    certificate: Certificate | None = None,
    *,
    name: str = "0",
    more: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Run an edge worker within the block, with empty caches and an empty spool; ``more`` are settings."""
    for used in ("edge", "spool"):
        shutil.rmtree(folder / used, ignore_errors=True)
    ready = folder / "ready.json"
    ready.unlink(missing_ok=True)
    settings = {
        "SKAFOS_EDGE_LISTEN": "127.0.0.1:0",
        "SKAFOS_EDGE_METRICS_LISTEN": "127.0.0.1:0",
        "SKAFOS_EDGE_NAME": name,
        "SKAFOS_EDGE_DATA": str(folder / "edge"),
        "SKAFOS_SPOOL_DIR": str(folder / "spool"),
        "SKAFOS_REDIS_URL": site.redis_url,
        "SKAFOS_OBJECTS_URL": site.objects_url,
        "SKAFOS_EDGE_READY_FILE": str(ready),
        "SKAFOS_EDGE_MAX_CONNECTIONS": str(MAX_CONNECTIONS),
        "SKAFOS_EDGE_KEEPALIVE_SECONDS": str(KEEPALIVE_SECONDS),
    }
    if certificate is not None:
        settings["SKAFOS_EDGE_TLS_CERTIFICATE"] = str(certificate.certificate)
        settings["SKAFOS_EDGE_TLS_KEY"] = str(certificate.key)
    settings |= more or {}
    with started([sys.executable, "-m", "edge"], folder / "log", written(ready), settings) as pid:
        told = json.loads(ready.read_text())
        listen, operators = parse_address(told["listen"]), parse_address(told["metrics"])
        yield Server("edge", listen, pid, tls=certificate is not None, metrics=operators)
