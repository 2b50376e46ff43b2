"""A few hundred simulated devices: each is the real device client, in a directory of its own, at a human pace.

What is simulated is only who they are and when their app is opened. They check, verify, download, patch, swap and
report with the code that real devices run. They share one pool of connections and one disk, so once a version is in
use, the equal files of all devices are linked to one copy.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx

from skafos.device import DeviceClient, DeviceError, Facts, Retry, SyncResult

# Two devices a second come for the first time, so that the fleet fills up before one's eyes and leaves the processor to
# others. After that an app is opened each few minutes.
ARRIVAL_SECONDS_EACH = 0.5
SHORTEST_PAUSE_SECONDS = 120.0
LONGEST_PAUSE_SECONDS = 480.0
# Checks that run at once: people do not open their apps in step, and one core has other things to do.
WORKERS = 2
REQUEST_SECONDS = 10.0
IDLE_SECONDS = 1.0

PHONES = ("iPhone14,5", "iPhone15,3", "iPhone16,1", "iPhone17,2", "iPad14,3")
SYSTEMS = ("17.5.1", "17.6.1", "18.1", "18.2", "18.2")
APP_VERSIONS = ("2.3.0", "2.4.0", "2.4.0", "2.4.1")
LOCALES = ("en-US", "en-GB", "de-DE", "de-AT", "fr-FR", "ja-JP", "pt-BR")


@dataclass(frozen=True)
class Fleet:
    """Where the devices check, what for, and where they keep their models."""

    edge_url: str
    key: str
    models: tuple[str, ...]
    directory: Path
    size: int

    def facts(self, number: int) -> Facts:
        """Return who device ``number`` is; the same at every start."""
        draw = random.Random(number)  # noqa: S311  variety, not secrecy
        return Facts(
            os="ios",
            os_version=draw.choice(SYSTEMS),
            app_version=draw.choice(APP_VERSIONS),
            device_model=draw.choice(PHONES),
            locale=draw.choice(LOCALES),
        )

    def client(self, number: int, http: httpx.Client) -> DeviceClient:
        """Return the device client of device ``number``."""
        folder = self.directory / f"device-{number:04}"
        return DeviceClient(
            self.edge_url, self.key, folder, facts=self.facts(number), http=http, retry=Retry(attempts=2)
        )

    def check(self, number: int, http: httpx.Client) -> list[SyncResult]:
        """Let device ``number`` check for all its models, as when its app is opened."""
        with self.client(number, http) as device:
            results = [device.sync(model) for model in self.models]
        for result in results:
            if result.status == "updated" and result.path:
                share_files(result.path, self.directory / "shared" / result.model / result.path.name)
        return results


@dataclass
class Held:
    """By model and version, how many devices hold it; kept as the checks come in."""

    of_device: dict[tuple[int, str], int]

    def note(self, number: int, results: Sequence[SyncResult]) -> None:
        """Remember what device ``number`` holds after a check."""
        for result in results:
            if result.version is not None:
                self.of_device[number, result.model] = result.version

    def count(self, model: str) -> int:
        """Return how many devices hold any version of ``model``."""
        return sum(name == model for _, name in self.of_device)


def play(fleet: Fleet, stop: threading.Event, checked: Callable[[Held], None], say: Callable[[str], None]) -> None:
    """Let the devices check, each in its own rhythm, until ``stop`` is set.

    Args:
        fleet: the devices.
        stop: ends the play; a check under way is finished.
        checked: is told after each check, one at a time, what the devices hold.
        say: is told, in a sentence, of a check that failed.
    """
    draw = random.Random()  # noqa: S311  rhythm, not secrecy
    now, arrival = time.monotonic(), fleet.size * ARRIVAL_SECONDS_EACH
    due = [(now + draw.uniform(0, arrival), number) for number in range(fleet.size)]
    heapq.heapify(due)
    held, lock = Held({}), threading.Lock()
    limits = httpx.Limits(max_connections=WORKERS, max_keepalive_connections=WORKERS)

    def visit(number: int, http: httpx.Client) -> None:
        results: list[SyncResult] = []
        try:
            results = fleet.check(number, http)
        except (DeviceError, OSError) as error:
            say(f"device {number}: {error}")
        finally:
            pause = draw.uniform(SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
            with lock:
                heapq.heappush(due, (time.monotonic() + pause, number))
                held.note(number, results)
                checked(held)

    with httpx.Client(limits=limits, timeout=REQUEST_SECONDS) as http, ThreadPoolExecutor(WORKERS) as pool:
        try:
            while not stop.is_set():
                with lock:
                    number = heapq.heappop(due)[1] if due and due[0][0] <= time.monotonic() else None
                    wait = min(IDLE_SECONDS, max(0.0, due[0][0] - time.monotonic())) if due else IDLE_SECONDS
                if number is not None:
                    pool.submit(visit, number, http)
                else:
                    stop.wait(wait)
        finally:
            # While the edge is slow or away, checks that are due wait in the pool; at the end nobody waits for them.
            pool.shutdown(wait=False, cancel_futures=True)


def share_files(folder: Path, shared: Path) -> None:
    """Make every file of ``folder`` a link to the equal file in ``shared``, or the first of its kind there.

    Both folders hold one version of one model, whose bytes were verified before they came here.
    """
    for path in (path for path in folder.rglob("*") if path.is_file()):
        common = shared / path.relative_to(folder)
        common.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.link(path, common)
            continue
        # Aside of the device's folder, which must never hold a file too many, not even after a kill.
        aside = common.with_name(f".{common.name}.{threading.get_ident()}")
        aside.unlink(missing_ok=True)
        os.link(common, aside)
        aside.replace(path)
