"""A whole Skafos for tests: `skafos up` as users start it, on free ports, in a directory of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from skafos.client import Client
from tests.command import PATIENCE_SECONDS, ROOT, run


def until(holds: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS) -> Any:
    """Wait until ``holds`` returns something true, and return it; fail with ``what`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain: {what}"
        time.sleep(0.02)
    return found


def has_ended(process: psutil.Process) -> bool:
    """Tell whether ``process`` runs no more; it may wait to be reaped where process 1 does not reap."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Connected:
    """A running Skafos, wherever its processes are, as clients see it."""

    def __init__(self, connection: Mapping[str, str]) -> None:
        """Take what ``connection.json`` tells: addresses, token, organization."""
        self.connection = dict(connection)

    @property
    def organization(self) -> str:
        """Return the name of the organization."""
        return self.connection["organization"]

    @property
    def edge_url(self) -> str:
        """Return the address of the edge."""
        return self.connection["edge_url"]

    def client(self) -> Client:
        """Return a client of the management API with the token of the connection."""
        return Client(self.connection["control_url"], self.connection["api_token"])

    def settings(self, app: str = "", model: str = "") -> dict[str, str]:
        """Return the environment that the command line reads."""
        return {
            **os.environ,
            "SKAFOS_URL": self.connection["control_url"],
            "SKAFOS_API_TOKEN": self.connection["api_token"],
            "SKAFOS_ORG_NAME": self.organization,
            **({"SKAFOS_APP_NAME": app} if app else {}),
            **({"SKAFOS_MODEL_NAME": model} if model else {}),
        }

    def skafos(self, *arguments: str, app: str = "", model: str = "") -> Any:
        """Run the ``skafos`` command with ``--json`` and return what it printed."""
        done = self.command(*arguments, "--json", app=app, model=model)
        assert done.returncode == 0, f"skafos {' '.join(arguments)}: {done.stderr}{done.stdout}"
        return json.loads(done.stdout)

    def command(self, *arguments: str, app: str = "", model: str = "") -> subprocess.CompletedProcess[str]:
        """Run the ``skafos`` command and return how it ended."""
        return run(*arguments, **self.settings(app, model))


class Running(Connected):
    """One `skafos up` and what it told in ``connection.json``."""

    def __init__(self, data: Path, process: subprocess.Popen[bytes], output: Path) -> None:
        """Take over the started ``process``, whose output goes to the file ``output``."""
        super().__init__({})
        self.data = data
        self.process = process
        self.output = output

    def wait_until_up(self) -> None:
        """Wait until everything answers, which is when ``up`` prints so."""
        until(lambda: self.is_up() or self.process.poll() is not None, "skafos up")
        assert self.process.poll() is None, f"skafos up ended:\n{self.output.read_text()}"
        self.connection = json.loads((self.data / "connection.json").read_text())

    def is_up(self) -> bool:
        """Tell whether ``up`` has printed that it runs."""
        return "Skafos is running" in self.output.read_text()

    def children(self) -> dict[str, psutil.Process]:
        """Return the running programs by name: redis, control-plane, edge-0 and so on."""
        children = [child for child in psutil.Process(self.process.pid).children() if is_running(child)]
        return {name_of(child): child for child in children}

    def everything(self) -> list[psutil.Process]:
        """Return all processes, ``up`` itself among them."""
        up = psutil.Process(self.process.pid)
        return [up, *up.children(recursive=True)]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it as a user would, and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)

    def kill_up_alone(self) -> None:
        """Kill ``up`` with SIGKILL, and wait until everything it had started is gone as well."""
        processes = self.everything()
        self.process.kill()
        self.process.wait(PATIENCE_SECONDS)
        until(lambda: all(map(has_ended, processes)), "the end of what skafos up had started")

    def kill_everything(self) -> None:
        """Kill all processes with SIGKILL, as a power cut would."""
        processes = self.everything()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(PATIENCE_SECONDS)
        until(lambda: all(map(has_ended, processes)), "the end of everything")


def is_running(process: psutil.Process) -> bool:
    """Whether it has not ended; one whose command line is gone already is about to."""
    try:
        return not has_ended(process) and bool(process.cmdline())
    except psutil.NoSuchProcess:
        return False


def name_of(process: psutil.Process) -> str:
    """Return the name under which ``up`` started ``process``; an empty one if it has just ended."""
    try:
        line, environment = process.cmdline(), process.environ()
    except psutil.Error:
        return ""
    if not line:
        return ""
    if "edge" in line:
        return f"edge-{environment['SKAFOS_EDGE_NAME']}"
    return "control-plane" if "control_plane" in line else "redis" if "redis" in line[0] else " ".join(line)


@contextlib.contextmanager
def running(
    data: Path, *options: str, settings: Mapping[str, str] | None = None, wait: bool = True
) -> Iterator[Running]:
    """Run `skafos up` on ``data`` with free ports, and end it afterwards.

    Args:
        data: the data directory; used again, it continues.
        options: more options of `skafos up`.
        settings: variables added to its environment.
        wait: whether to wait until everything answers.
    """
    output = data.with_name(f"{data.name}-output-{time.monotonic_ns()}.txt")
    data.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "skafos", "up", "--data", str(data)]
    command += ["--control", "127.0.0.1:0", "--edge", "127.0.0.1:0", *options]
    with output.open("wb") as file:
        process = subprocess.Popen(
            command,
            env={**os.environ, **(settings or {})},
            cwd=ROOT,
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
        )
    skafos = Running(data, process, output)
    try:
        if wait:
            skafos.wait_until_up()
        yield skafos
    finally:
        if process.poll() is None:
            skafos.stop()
