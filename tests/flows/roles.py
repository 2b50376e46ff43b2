"""Skafos as it runs at scale: each role a process of its own, from `SKAFOS_*` settings, on engines of yours."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.command import PATIENCE_SECONDS, ROOT
from tests.components import free_port
from tests.flows.running import Connected, until

EDGE_WORKERS = 2


class Role:
    """One ``skafos <name>``.

    Args:
        name: of the role, as typed.
        log: the file for what it prints; it grows from start to start.
        settings: its environment.
    """

    def __init__(self, name: str, log: Path, settings: Mapping[str, str]) -> None:
        self._name = name
        self._log = log
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        with self._log.open("ab") as log:
            command = [sys.executable, "-m", "skafos", self._name]
            self._process = subprocess.Popen(command, env=self._settings, cwd=ROOT, stdout=log, stderr=log)

    def stop(self) -> None:
        """Tell it to end, and expect it to end well."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(PATIENCE_SECONDS) == 0, f"{self._name}: {self._log.read_text()[-2000:]}"
        self._process = None

    def kill(self) -> None:
        """End it at once, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Roles(Connected):
    """A Skafos whose roles are processes of their own; ``control_plane`` may be stopped and started again."""

    def __init__(self, connection: Mapping[str, str], control_plane: Role) -> None:
        super().__init__(connection)
        self.control_plane = control_plane

    def control_plane_answers(self) -> bool:
        """Tell whether the management API can be reached."""
        return self.command("orgs", "list").returncode == 0


@contextlib.contextmanager
def running_roles(folder: Path, engines: Mapping[str, str]) -> Iterator[Roles]:
    """Run a control plane, edge workers and a shipper while the block lasts; all must end in an orderly way.

    Args:
        folder: for what the roles keep on their own disks, and for their logs.
        engines: settings that name the engines.
    """
    control, edge = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    settings = {**os.environ, **engines, "SKAFOS_DATA": str(folder / "control-plane")}
    settings |= {"SKAFOS_CONTROL_LISTEN": control, "SKAFOS_CONTROL_METRICS_LISTEN": "127.0.0.1:0"}
    settings |= {"SKAFOS_CONTROL_READY_FILE": str(folder / "control-plane.json")}
    at_the_edge = settings | {"SKAFOS_EDGE_LISTEN": edge, "SKAFOS_EDGE_METRICS_LISTEN": "127.0.0.1:0"}
    at_the_edge |= {"SKAFOS_EDGE_DATA": str(folder / "edge"), "SKAFOS_SPOOL_DIR": str(folder / "spool")}
    shipping = settings | {"SKAFOS_SPOOL_DIR": str(folder / "spool"), "SKAFOS_SHIPPER_METRICS_LISTEN": "127.0.0.1:0"}

    (folder / "spool").mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        control_plane = stack.enter_context(running_role("control-plane", folder, settings))
        for number in range(EDGE_WORKERS):
            own = {"SKAFOS_EDGE_NAME": str(number), "SKAFOS_EDGE_READY_FILE": str(folder / f"edge-{number}.json")}
            stack.enter_context(running_role("edge", folder, at_the_edge | own))
        stack.enter_context(running_role("shipper", folder, shipping))
        for ready in ("control-plane.json", *(f"edge-{number}.json" for number in range(EDGE_WORKERS))):
            until((folder / ready).exists, f"{ready}; logs are in {folder}")
        first = first_token(settings)
        yield Roles({"control_url": f"http://{control}", "edge_url": f"http://{edge}", **first}, control_plane)


@contextlib.contextmanager
def running_role(name: str, folder: Path, settings: Mapping[str, str]) -> Iterator[Role]:
    """Run ``skafos <name>`` while the block lasts, and expect it to end well when it is told to."""
    role = Role(name, folder / f"{name}-{settings.get('SKAFOS_EDGE_NAME', '')}.log", settings)
    role.start()
    try:
        yield role
        role.stop()
    finally:
        role.kill()


def first_token(settings: Mapping[str, str]) -> dict[str, str]:
    """Make the first organization and token, as an operator does, and return both."""
    command = (
        sys.executable,
        "-m",
        "control_plane",
        "bootstrap",
        "--organization",
        "example",
        "--email",
        "a@example.org",
    )
    done = subprocess.run(command, env=settings, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    made: dict[str, str] = json.loads(done.stdout)
    return made
