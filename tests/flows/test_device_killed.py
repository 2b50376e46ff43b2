"""A device killed at random points of an update, again and again, always comes up with a whole version."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from skafos.device import DeviceClient, HeldVersion
from tests.command import ROOT
from tests.skafos.repository import Repository, Served, Version

MODEL = "vision"
ROUNDS = 2 * int(os.environ.get("SKAFOS_TEST_KILLS") or "30")
# One round in that many the device may finish: it must then have what is offered.
FINISHED_EACH = 10
# By the audit events of one update; counting further is no kill.
STEPS_OF_AN_UPDATE = 150
# Random, so that a download without a patch is at least as long.
WEIGHTS_BYTES = 400_000
SEED = 20_190_401


@dataclass
class Runner:
    """The process that forks devices."""

    process: subprocess.Popen[str]
    served: Served
    directory: Path

    def device(self, kill: dict[str, Any] | None) -> dict[str, Any]:
        """Run one device until it ends, and return how it ended and how long that took."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        key = self.served.repository.key
        order = {"edge": self.served.url, "key": key, "directory": str(self.directory), "model": MODEL, "kill": kill}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        ended: dict[str, Any] = json.loads(self.process.stdout.readline())
        return ended


@contextmanager
def runner(served: Served, directory: Path) -> Iterator[Runner]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.flows.killed_device"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield Runner(process, served, directory)
    finally:
        process.communicate(timeout=30)


def make_versions(repository: Repository) -> dict[int, Version]:
    """Return three versions of many files, each to be had whole or as a patch of one of the others.

    Three, because a device keeps two: there is always one that it has to fetch.
    """
    chance = random.Random(SEED)
    weights = chance.randbytes(WEIGHTS_BYTES)
    made: list[Version] = []
    for number in (1, 2, 3):
        changed = weights[: 100_000 * number] + chance.randbytes(2_000) + weights[100_000 * number + 2_000 :]
        labels = {f"labels/{each}.txt": f"{number} {each}".encode() * 50 for each in range(5 + number)}
        made.append(repository.add_version(number, {"Model/weights.bin": changed, **labels}, bases=made[-1:]))
    return {version.release.version: version for version in made}


def assert_whole(held: HeldVersion, versions: dict[int, Version]) -> int:
    """The folder in use holds exactly the files of one version. Return its number."""
    assert held.version is not None
    files = {str(path.relative_to(held.path)): digest(path) for path in held.path.rglob("*") if path.is_file()}
    wanted = {name: sha256(content).hexdigest() for name, content in versions[held.version].files.items()}
    assert files == wanted
    return held.version


def digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def how_to_kill(chance: random.Random, number: int, seconds: float) -> dict[str, Any] | None:
    """Choose a moment: by the clock, by the bytes that were downloaded, by the step, or none at all."""
    if number % FINISHED_EACH == FINISHED_EACH - 1:
        return None
    if number % 2:
        return {"after": chance.uniform(0, seconds)}
    if number % 4:
        return {"bytes": chance.randint(1, WEIGHTS_BYTES // 2)}
    return {"event": chance.randint(1, STEPS_OF_AN_UPDATE)}


def leftovers(directory: Path) -> list[Path]:
    """Return what an update needs only on its way."""
    patterns = ("**/*.partial", "**/.link-*", "**/tuf/tmp*", "*/work")
    return [path for pattern in patterns for path in directory.glob(pattern)]


def test_a_device_killed_at_random_points_always_has_one_whole_version_in_use(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repository")
    # Long enough that some kills hit a download half-way.
    repository.pause = 0.005
    versions = make_versions(repository)
    directory = tmp_path / "device"
    chance = random.Random(SEED)
    kills = 0
    with Served(repository) as served, runner(served, directory) as devices:
        repository.offer(versions[1].release)
        took = devices.device(None)
        assert took["signal"] == 0
        reader = DeviceClient(served.url, repository.key, directory)
        before = assert_whole(reader.load(MODEL), versions)
        offered = 2
        for number in range(10 * ROUNDS):
            repository.offer(versions[offered].release)
            ended = devices.device(how_to_kill(chance, number, took["seconds"]))
            assert ended["signal"] in (0, signal.SIGKILL)
            kills += ended["signal"] == signal.SIGKILL
            now = assert_whole(reader.load(MODEL), versions)
            assert now in (before, offered)
            if ended["signal"] == 0:
                assert now == offered
                assert leftovers(directory) == []
            # A version that was not reached is offered on, or taken back half-way.
            if now == offered or chance.random() < 0.3:
                offered = offered % len(versions) + 1
            before = now
            if kills == ROUNDS:
                break
        assert kills == ROUNDS
        assert devices.device(None)["signal"] == 0
    assert leftovers(directory) == []
    assert len(list(directory.glob("*/versions/*/"))) <= 2
    # What was downloaded before a kill is not downloaded again.
    assert any("range" in request.headers for request in repository.asked("/artifacts/"))
