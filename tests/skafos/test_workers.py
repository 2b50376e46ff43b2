"""`skafos edge --workers N`: processes that share a port, started again when they die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from skafos.exceptions import InvalidParamError
from skafos.workers import edge_program
from tests.command import PATIENCE_SECONDS, ROOT
from tests.components import free_port
from tests.flows.running import has_ended, until
from tests.servers.redis import running_redis


def test_each_worker_has_a_name_and_a_metrics_port_of_its_own() -> None:
    settings = {"SKAFOS_EDGE_DATA": "/data", "SKAFOS_EDGE_METRICS_LISTEN": "[::1]:9000", "OTHER": "kept"}
    programs = [edge_program(number, settings) for number in range(3)]
    assert [program.environment["SKAFOS_EDGE_NAME"] for program in programs] == ["0", "1", "2"]
    ports = [program.environment["SKAFOS_EDGE_METRICS_LISTEN"] for program in programs]
    assert ports == ["[::1]:9000", "[::1]:9001", "[::1]:9002"]
    assert {program.environment["OTHER"] for program in programs} == {"kept"}


def test_without_a_directory_the_error_names_the_setting() -> None:
    with pytest.raises(InvalidParamError, match="SKAFOS_EDGE_DATA"):
        edge_program(0, {})


def answers(port: int) -> bool:
    """Whether a worker's health port answers."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_workers_serve_are_started_again_and_end_together(tmp_path: Path) -> None:
    metrics = free_port()
    with running_redis() as redis:
        process = subprocess.Popen(
            [sys.executable, "-m", "skafos", "edge", "--workers", "2"],
            cwd=ROOT,
            env={
                **os.environ,
                "SKAFOS_EDGE_LISTEN": f"127.0.0.1:{free_port()}",
                "SKAFOS_EDGE_METRICS_LISTEN": f"127.0.0.1:{metrics}",
                "SKAFOS_EDGE_DATA": str(tmp_path / "edge"),
                "SKAFOS_SPOOL_DIR": str(tmp_path / "spool"),
                "SKAFOS_REDIS_URL": redis.url,
                "SKAFOS_OBJECTS_URL": f"file://{tmp_path}/objects",
            },
            stderr=subprocess.DEVNULL,
        )
        try:
            until(lambda: answers(metrics) and answers(metrics + 1), "both workers")
            first, _ = psutil.Process(process.pid).children()
            first.kill()
            until(lambda: has_ended(first), "the end of a worker")
            until(lambda: answers(metrics) and answers(metrics + 1), "both workers again")
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_SECONDS) == 0
