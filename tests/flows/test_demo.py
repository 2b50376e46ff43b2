"""`skafos up --demo`: real models, devices that are the real client, and a roll-out that happens by itself."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from skafos.demo import APP, BUNDLE_ID, ENVIRONMENT, PLATFORM, ROLLOUT_PERCENT, Demonstration
from skafos.demo_fleet import Held
from skafos.demo_models import MODELS
from tests.conftest import real_release
from tests.flows.running import Running, running, until

DEVICES = 6
NAMES = [model.name for model in MODELS]


def test_devices_adopt_the_first_version_and_the_second_rolls_out(tmp_path: Path) -> None:
    for project, version in (("silero-vad", "5.1.2"), ("rapidocr-onnxruntime", "1.3.25")):
        real_release(project, version)
    settings = {"SKAFOS_DEMO_DEVICES": str(DEVICES)}
    with running(tmp_path / "data", "--demo", settings=settings) as skafos, skafos.client() as client:
        until(lambda: "The demonstration is running" in skafos.output.read_text(), "the demonstration")
        organization = skafos.organization

        def is_adopted(model: str) -> bool:
            report = skafos.skafos("adoption", "--env", "prod", app=APP, model=model)
            return bool(report["installations"] == DEVICES)

        def rolled_out(model: str) -> bool:
            newest, *_ = client.list_deployments(organization, APP, model, environment="prod")
            return (newest.version, newest.percent) == (2, 30)

        for model in NAMES:
            until(partial(is_adopted, model), f"adoption of {model}")
            until(partial(rolled_out, model), f"roll-out of {model}")
            assert skafos.skafos("adoption", "--env", "prod", app=APP, model=model)["failures"] == []
        printed = skafos.output.read_text()
        deployments = {name: len(client.list_deployments(organization, APP, name)) for name in NAMES}
    for command in ("versions", "adoption", "device sync", "deploy", "sql"):
        assert f"  skafos {command}" in printed

    # Every device has files of its own name, which are one file on the disk.
    files = list((tmp_path / "data" / "demo-devices").glob("device-*/voice-activity/current/silero_vad.onnx"))
    assert len(files) == DEVICES
    assert min(file.stat().st_nlink for file in files) > 1

    with running(tmp_path / "data", "--demo", settings=settings) as skafos, skafos.client() as client:
        until(lambda: "Press Ctrl-C" in skafos.output.read_text(), "the demonstration")
        again = skafos.output.read_text()
        for name in NAMES:
            assert len(client.list_versions(skafos.organization, APP, name)) == 2
            assert len(client.list_deployments(skafos.organization, APP, name)) == deployments[name]
            assert f"{name!r} in version 2 to 30 % and 1 to 100 %" in again
    assert "go on where they were" in again
    assert "fetch" not in again.partition("Try, in another terminal")[0]
    # All that the first start printed for the next terminal is printed again, with the addresses of now.
    connection = skafos.connection
    assert f"export SKAFOS_URL={connection['control_url']} SKAFOS_API_TOKEN={connection['api_token']}" in again
    assert str(skafos.data / "connection.json") in again
    for command in ("versions", "adoption", "device sync", "deploy", "sql"):
        assert f"  skafos {command}" in again


def test_without_its_models_the_demonstration_is_refused_with_a_sentence(tmp_path: Path) -> None:
    settings = {"SKAFOS_DEMO_MODELS": str(tmp_path)}
    with running(tmp_path / "data", "--demo", settings=settings, wait=False) as skafos:
        assert skafos.process.wait(60) == 1
        assert "run `make models`" in skafos.output.read_text()


def test_a_demonstration_that_cannot_start_leaves_skafos_running(tmp_path: Path) -> None:
    real_release("silero-vad", "5.1.2")
    with running(tmp_path / "data", "--demo", settings={"SKAFOS_DEMO_DEVICES": "many"}) as skafos:
        until(lambda: "demo does not start" in skafos.output.read_text(), "the sentence about the demonstration")
        until(lambda: "demo" not in " ".join(skafos.children()), "the end of the demonstration")
        assert skafos.command("orgs", "list").returncode == 0


def test_a_roll_out_that_a_user_began_is_left_alone_and_not_claimed(
    skafos_up: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    organization, (image, audio) = skafos_up.organization, NAMES
    with skafos_up.client() as client:
        client.create_app(organization, APP, bundle_id=BUNDLE_ID, platform=PLATFORM)
        for name in NAMES:
            client.create_model(organization, APP, name)
            for version in (1, 2):
                file = tmp_path / f"{version}.tflite"
                file.write_bytes(b"%d" % version)
                client.upload_version(organization, APP, name, file)
            client.deploy(organization, APP, name, version=1, environment=ENVIRONMENT)
        client.deploy(organization, APP, image, version=2, environment=ENVIRONMENT, percent=60)

        demonstration = Demonstration(client, skafos_up.connection, size=1)
        demonstration.roll_out_when_adopted(Held({(0, image): 2, (0, audio): 1}))

        offered = [client.list_deployments(organization, APP, name, environment=ENVIRONMENT)[0] for name in NAMES]
    assert [(one.version, one.percent) for one in offered] == [(2, 60), (2, ROLLOUT_PERCENT)]
    said = capsys.readouterr().out
    assert f"{audio}: version 2 is offered to {ROLLOUT_PERCENT} % of the devices" in said
    assert image not in said
