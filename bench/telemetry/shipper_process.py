"""The shipper as its own process, as a user starts it, by settings; and whose figures the site's events are."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.edge.servers import started
from bench.edge.site import LABELS, MODELS
from bench.edge.waiting import answers
from telemetry.queries import ModelName, Subject
from tests.components import free_port

SUBJECT = Subject(LABELS.organization_id, LABELS.application_id, LABELS.environment, (ModelName(MODELS[0]),))


@contextmanager
def shipper_process(spool: Path, url: str, folder: Path) -> Iterator[int]:
    """Run a shipper within the block, with its defaults; give its process id.

    Args:
        spool: the folder of the writers' directories.
        url: of ClickHouse.
        folder: for its log.
    """
    port = free_port()
    settings = {
        "SKAFOS_SPOOL_DIR": str(spool),
        "SKAFOS_CLICKHOUSE_URL": url,
        "SKAFOS_SHIPPER_METRICS_LISTEN": f"127.0.0.1:{port}",
    }
    command = [sys.executable, "-m", "telemetry"]
    with started(command, folder / "shipper.log", answers(port), settings) as pid:
        yield pid
