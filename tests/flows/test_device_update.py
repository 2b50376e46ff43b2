"""The whole path of a device with real models: uploaded, deployed, served by a real edge, patched, loaded, reported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from skafos.client import Client
from skafos.device import DeviceClient, Facts
from skafos.packing import Naming, packed
from tests.flows.running import Running, until

APP = "Updates"


@dataclass(frozen=True)
class Site:
    """A running Skafos, an app of these tests, and the key of its prod environment."""

    skafos: Running
    client: Client
    key: str

    def release(self, model: str, files: dict[str, bytes], folder: Path) -> int:
        """Upload files as the next version of a model, deploy it to prod, and return its number."""
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        names = (self.skafos.organization, APP, model)
        with packed([*folder.iterdir()], model, Naming.LAST_PART) as archive:
            version = self.client.upload_version(*names, archive)
        assert version.version is not None
        self.client.deploy(*names, version=version.version, environment="prod")
        return version.version

    def make_model(self, model: str) -> None:
        self.client.create_model(self.skafos.organization, APP, model)

    @contextmanager
    def device(self, directory: Path, facts: Facts | None = None) -> Iterator[DeviceClient]:
        with DeviceClient(self.skafos.edge_url, self.key, directory, facts=facts) as device:
            yield device

    def wait_until_offered(self, version: int, device: DeviceClient, model: str) -> None:
        """Wait until the edge has the newest manifest: a few milliseconds after the deployment."""
        until(lambda: device.sync(model).version == version, f"version {version} on the device")

    def wait_for_patches(self, model: str) -> None:
        """Wait until every patch that was planned is built or skipped, and the edge offers what there is."""
        names = (self.skafos.organization, APP, model)

        def done() -> bool:
            patches = self.client.list_patches(*names)
            return bool(patches) and all(patch.state in ("built", "skipped") for patch in patches)

        until(done, "patches")
        environment = self.client.get_environment(self.skafos.organization, APP, "prod")
        url = f"{self.skafos.edge_url}/v2/environments/{self.key}/manifest"
        wanted = environment.revision
        assert wanted is not None
        until(lambda: httpx.get(url).json()["timestamp"]["signed"]["version"] >= wanted, "the manifest")


@pytest.fixture(scope="module")
def site(skafos_up: Running) -> Iterator[Site]:
    with skafos_up.client() as client:
        client.create_app(skafos_up.organization, APP, "org.example.updates", "linux")
        key = client.get_environment(skafos_up.organization, APP, "prod").keys[0].key
        yield Site(skafos_up, client, key)


def files_in(folder: Path | None) -> dict[str, bytes]:
    assert folder is not None
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["silero", "magika"])
def test_a_real_model_reaches_a_device_in_full_and_then_as_a_patch(
    site: Site, tmp_path: Path, name: str, request: pytest.FixtureRequest
) -> None:
    old, new = request.getfixturevalue(name)
    site.make_model(name)
    first, second = ({path.name: path.read_bytes() for path in release} for release in (old, new))
    with site.device(tmp_path / "device") as device:
        assert site.release(name, first, tmp_path / "1") == 1
        until(lambda: device.sync(name).status in ("updated", "current"), "version 1")
        held = device.load(name)
        assert (held.version, files_in(held.path)) == (1, first)
        load_all(held.path)

        assert site.release(name, second, tmp_path / "2") == 2
        site.wait_for_patches(name)
        # Another model with the same artifacts may have made the patch back as well.
        patches = site.client.list_patches(site.skafos.organization, APP, name)
        (patch,) = (each for each in patches if (each.from_version, each.to_version) == (1, 2))
        result = device.sync(name)
        assert (result.status, result.version, files_in(result.path)) == ("updated", 2, second)
        if patch.state == "built":
            assert (result.encoding, result.bytes) == (patch.encoding, patch.length)
            assert result.bytes < 0.9 * result.full_bytes
        else:
            assert result.encoding in ("zstd", "identity")
        load_all(device.load(name).path)

    with site.device(tmp_path / "new device") as device:
        result = device.sync(name)
        assert (result.version, files_in(result.path)) == (2, second)
        assert result.bytes == result.full_bytes


def load_all(folder: Path) -> None:
    """The models run where they lie."""
    import onnxruntime

    models = list(folder.glob("*.onnx"))
    assert models
    for model in models:
        assert onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"]).get_inputs()


def test_a_roll_back_reaches_the_device_without_a_download(site: Site, tmp_path: Path) -> None:
    site.make_model("rollback")
    names = (site.skafos.organization, APP, "rollback")
    with site.device(tmp_path / "device") as device:
        site.release("rollback", {"m.bin": b"one" * 5000}, tmp_path / "1")
        site.wait_until_offered(1, device, "rollback")
        site.release("rollback", {"m.bin": b"two" * 5000}, tmp_path / "2")
        site.wait_until_offered(2, device, "rollback")
        site.client.roll_back(*names, environment="prod")
        result = until(lambda: (found := device.sync("rollback")).version == 1 and found, "version 1")
        assert (result.status, result.previous, result.bytes) == ("updated", 2, 0)
        assert files_in(device.load("rollback").path) == {"m.bin": b"one" * 5000}


def test_conditions_decide_on_the_device(site: Site, tmp_path: Path) -> None:
    site.make_model("conditions")
    names = (site.skafos.organization, APP, "conditions")
    with site.device(tmp_path / "a", Facts(os_version="16")) as older:
        site.release("conditions", {"m.bin": b"for all"}, tmp_path / "1")
        site.wait_until_offered(1, older, "conditions")
        (tmp_path / "2").mkdir()
        (tmp_path / "2" / "m.bin").write_bytes(b"for new systems")
        with packed([tmp_path / "2" / "m.bin"], "conditions", Naming.LAST_PART) as archive:
            site.client.upload_version(*names, archive)
        conditions = {"os_version": {"min": "17"}}
        site.client.deploy(*names, version=2, environment="prod", conditions=conditions)
        with site.device(tmp_path / "b", Facts(os_version="17.1")) as newer:
            site.wait_until_offered(2, newer, "conditions")
        assert older.sync("conditions").version == 1


def test_root_and_online_keys_are_rotated_under_a_device_that_notices_nothing(site: Site, tmp_path: Path) -> None:
    site.make_model("rotation")
    names = (site.skafos.organization, APP, "prod")
    with site.device(tmp_path / "device") as device:
        site.release("rotation", {"m.bin": b"1"}, tmp_path / "1")
        site.wait_until_offered(1, device, "rotation")
        site.client.rotate_root(*names)
        site.client.rotate_online_key(*names)
        site.release("rotation", {"m.bin": b"2"}, tmp_path / "2")
        site.wait_until_offered(2, device, "rotation")
    with site.device(tmp_path / "new device") as device:
        assert device.sync("rotation").version == 2


def test_what_a_device_reports_is_in_clickhouse_seconds_later(site: Site, tmp_path: Path) -> None:
    site.make_model("reports")
    with site.device(tmp_path / "device", Facts(os="linux", app_version="2.1")) as device:
        site.release("reports", {"m.bin": b"x" * 100_000}, tmp_path / "1")
        site.wait_until_offered(1, device, "reports")
        query = (
            "SELECT version, os, app_version, bytes, full_bytes, environment, application FROM events "
            f"WHERE type = 'download' AND device_id = '{device.device_id}'"
        )
        (row,) = until(lambda: site.client.sql(query).rows, "the event")
    assert (row["version"], row["os"], row["app_version"]) == (1, "linux", "2.1")
    assert (row["environment"], row["application"]) == ("prod", APP)
    assert 0 < row["bytes"] == row["full_bytes"]

    def told() -> Any:  # its figures are asked for one after the other, so events may come in between
        report = site.client.adoption(site.skafos.organization, APP, "reports", environment="prod")
        return report if report.now and report.installations else None

    report = until(told, "the version in use")
    assert [(share.version, share.devices) for share in report.now] == [(1, 1)]
    assert report.installations == 1

    def registered() -> bool:
        devices = site.client.list_devices(site.skafos.organization, APP, "prod")
        return any(each.facts.get("app_version") == "2.1" for each in devices)

    until(registered, "the registration")


def test_the_command_is_a_whole_device(site: Site, tmp_path: Path) -> None:
    site.make_model("command")
    site.release("command", {"m.bin": b"x" * 1000}, tmp_path / "1")
    arguments = ["device", "sync", "--edge", site.skafos.edge_url, "--key", site.key, "--model", "command"]
    arguments += ["--dir", str(tmp_path / "device")]
    result = until(lambda: (found := site.skafos.skafos(*arguments))["status"] == "updated" and found, "version 1")
    assert (result["version"], result["previous"]) == (1, None)
    assert files_in(Path(result["path"])) == {"m.bin": b"x" * 1000}
    assert site.skafos.skafos(*arguments)["status"] == "current"
    wrong = site.skafos.command(*arguments[:5], "dev" + site.key.removeprefix("prod"), *arguments[6:])
    assert wrong.returncode == 1
    assert wrong.stderr.splitlines() == ["error: The edge does not know this environment key."]
