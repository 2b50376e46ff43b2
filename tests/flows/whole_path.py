"""The whole path, typed as a user types it: from an uploaded model to an adoption figure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from artifacts.patch.build import ENCODERS
from tests.flows.running import Connected, until

Releases = tuple[list[Path], list[Path]]

MODEL = "voice-activity"
# A device that was away reports at its next check; the shipper needs seconds at most.
EVENTS_SECONDS = 30.0


@dataclass(frozen=True)
class Journey:
    """One app with one model on a running Skafos, and one device that follows its environment ``prod``."""

    skafos: Connected
    app: str
    device: Path

    def run(self, *arguments: str) -> Any:
        """Run a command of ``skafos`` for this app and model."""
        return self.skafos.skafos(*arguments, app=self.app, model=MODEL)

    def begin(self) -> None:
        """Create the app and its model."""
        self.run("apps", "create", self.app, "--bundle-id", f"org.example.{self.app.lower()}", "--platform", "ios")
        self.run("models", "create", MODEL)

    def upload_and_deploy(self, files: list[Path], version: int) -> None:
        """Upload ``files`` as ``version`` and deploy it to everybody."""
        uploaded = self.run("upload", *map(str, files))
        assert (uploaded["version"], uploaded["format"]) == (version, "onnx")
        deployed = self.run("deploy", str(version), "--env", "prod")
        assert deployed["success"].endswith(f" {version}")

    def key(self) -> str:
        """Return the key of ``prod``."""
        (key,) = [each["key"] for each in self.run("environments") if each["name"] == "prod"]
        return str(key)

    def sync(self, device: Path | None = None, key: str = "") -> dict[str, Any]:
        """Let a device check once: the one of this journey, or the one in the directory ``device``.

        Without ``key`` the control plane is asked for it.
        """
        directory = str(device or self.device)
        options = ("--edge", self.skafos.edge_url, "--key", key or self.key(), "--model", MODEL, "--dir", directory)
        result = self.run("device", "sync", *options)
        assert isinstance(result, dict)
        return result

    def wait_for_patch(self) -> None:
        """Wait until the manifest offers a patch; it is made in the background after a deploy."""
        url = f"{self.skafos.edge_url}/v2/environments/{self.key()}/manifest"
        until(lambda: '"base":' in httpx.get(url).text, "a patch in the manifest")

    def holds(self, files: list[Path]) -> bool:
        """Tell whether the device's app finds exactly these files, byte for byte."""
        return contents((self.device / MODEL / "current").iterdir()) == contents(files)

    def adoption(self) -> Any:
        """Return the adoption report of ``prod``."""
        return self.run("adoption", "--env", "prod")


def contents(files: Iterable[Path]) -> dict[str, bytes]:
    """Return the bytes of ``files`` by name."""
    return {file.name: file.read_bytes() for file in files}


def travel(skafos: Connected, app: str, device: Path, releases: Releases) -> Journey:
    """Take two releases of a model all the way, forth and back, checking each station.

    Args:
        skafos: where to.
        app: the name of the app to make.
        device: the directory of the device.
        releases: the files of the first and of the second version.
    """
    journey = Journey(skafos, app, device)
    first, second = releases
    journey.begin()

    journey.upload_and_deploy(first, version=1)
    updated = journey.sync()
    assert (updated["status"], updated["version"], updated["encoding"]) == ("updated", 1, "zstd")
    assert journey.holds(first)
    assert journey.sync()["status"] == "current"

    journey.upload_and_deploy(second, version=2)
    journey.wait_for_patch()
    updated = journey.sync()
    assert (updated["status"], updated["version"], updated["previous"]) == ("updated", 2, 1)
    assert updated["encoding"] in ENCODERS
    assert updated["bytes"] < 0.9 * updated["full_bytes"]
    assert journey.holds(second)

    assert journey.run("rollback", "--env", "prod")["success"].endswith(" 1")
    back = journey.sync()
    assert (back["status"], back["version"], back["bytes"]) == ("updated", 1, 0)
    assert journey.holds(first)

    expect_figures(journey, by_patch=updated["encoding"])
    return journey


def expect_figures(journey: Journey, by_patch: str) -> None:
    """Expect adoption and SQL to tell that the one device runs version 1 again, and that nothing failed."""

    def activated() -> list[int]:
        """Which versions the device activated, one for each time."""
        question = f"SELECT version FROM events WHERE application = '{journey.app}' AND type = 'activate'"
        return sorted(row["version"] for row in journey.run("sql", question))

    # Version 1 was in use before as well: only its second activation says that all of the journey has been told.
    until(lambda: activated() == [1, 1, 2], "all three activations", EVENTS_SECONDS)
    until(lambda: journey.adoption()["now"] == [{"version": 1, "devices": 1, "share": 1.0}], "adoption", EVENTS_SECONDS)
    report = journey.adoption()
    assert (report["installations"], report["failures"]) == (1, [])
    rows = journey.run(
        "sql",
        f"SELECT version, encoding, bytes < full_bytes AS smaller FROM events WHERE application = '{journey.app}' "
        "AND type = 'download' ORDER BY version",
    )
    assert rows == [
        {"version": 1, "encoding": "zstd", "smaller": 0},
        {"version": 2, "encoding": by_patch, "smaller": 1},
    ]
