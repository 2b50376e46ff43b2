"""What trainers call when they are done: upload, then deploy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from skafos import training
from skafos.exceptions import DeployFailedError, InvalidParamError, InvalidTokenError
from skafos.training import is_main_process, publish, publishing
from tests.flows.running import Running
from tests.models import onnx_model

APP, MODEL = "Training", "vision"


@pytest.fixture(scope="module")
def app(skafos_up: Running) -> Running:
    with skafos_up.client() as client:
        client.create_app(skafos_up.organization, APP, "org.example.training", "ios", MODEL)
    return skafos_up


@pytest.fixture
def trained(app: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trained model; address and token come from the environment, as a trainer's machine has them."""
    for variable in (*training.GLOBAL_RANK_VARIABLES, *training.LOCAL_RANK_VARIABLES):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("SKAFOS_URL", app.connection["control_url"])
    monkeypatch.setenv("SKAFOS_API_TOKEN", app.connection["api_token"])
    monkeypatch.setenv("SKAFOS_APP_NAME", APP)
    monkeypatch.setenv("SKAFOS_MODEL_NAME", MODEL)
    file = tmp_path / "vision.onnx"
    file.write_bytes(onnx_model())
    return file


def versions(app: Running) -> list[int | None]:
    with app.client() as client:
        return [each.version for each in client.list_versions(app.organization, APP, MODEL)]


def test_files_are_uploaded_and_offered_in_dev_unless_said_otherwise(
    app: Running, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = publish(trained, description="first")
    assert (done.environment, done.format) == ("dev", "onnx")
    assert capsys.readouterr().out == f"Published version {done.version} of {MODEL} to dev.\n"
    monkeypatch.setenv("SKAFOS_ENVIRONMENT", "prod")
    labels = trained.with_name("labels.txt")
    labels.write_text("cat\ndog\n")
    again = publish([trained, labels], percent=25, conditions={"os_version": {"min": "17"}}, verbose=False)
    assert (again.version, again.environment) == (done.version + 1, "prod")
    with app.client() as client:
        newest, first = client.list_deployments(app.organization, APP, MODEL)[:2]
    assert (newest.id, newest.environment, newest.percent) == (again.deployment, "prod", 25)
    assert newest.conditions == {"os_version": {"min": "17"}}
    assert (first.id, first.environment, first.percent) == (done.deployment, "dev", 100)
    assert capsys.readouterr().out == ""


def test_what_somebody_else_is_to_deploy_is_only_uploaded(app: Running, trained: Path) -> None:
    done = publish(trained, deploy=False)
    assert (done.version, done.environment, done.deployment) == (versions(app)[-1], None, None)
    with app.client() as client:
        assert done.version not in [each.version for each in client.list_deployments(app.organization, APP, MODEL)]


def test_what_cannot_be_deployed_is_said_to_be_uploaded(app: Running, trained: Path) -> None:
    count = len(versions(app))
    with pytest.raises(
        DeployFailedError, match=r"Version \d+ of vision is uploaded, but not deployed\. There is no environment"
    ):
        publish(trained, environment="nowhere")
    assert len(versions(app)) == count + 1


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"token": "wrong"}, InvalidTokenError),
        ({"app": "none"}, InvalidParamError),
        ({"org": "none"}, InvalidParamError),
        ({"files": "missing.onnx"}, InvalidParamError),
        ({"description": "x" * 256}, InvalidParamError),
    ],
)
def test_nothing_is_uploaded_when_something_is_wrong(
    app: Running, trained: Path, wrong: dict[str, Any], error: type[Exception]
) -> None:
    before = versions(app)
    with pytest.raises(error):
        publish(**{"files": trained} | wrong)
    assert versions(app) == before


def test_a_trainers_call_exports_what_it_hands_over_and_publishes_that(app: Running, trained: Path) -> None:
    seen: list[object] = []

    def export(*arguments: object, **named: object) -> Path:
        seen.append((arguments, named))
        return trained

    hook = publishing(export, environment="prod", verbose=False)
    done = hook("trainer", "module", logs={"loss": 0.1})
    assert done is not None
    assert (done.version, done.environment) == (versions(app)[-1], "prod")
    assert seen == [(("trainer", "module"), {"logs": {"loss": 0.1}})]


def test_a_model_that_is_no_better_is_neither_exported_nor_published(app: Running, trained: Path) -> None:
    before = versions(app)

    def export(accuracy: float) -> Path:
        raise AssertionError(f"exported at {accuracy}")

    assert publishing(export, when=lambda accuracy: accuracy > 0.9)(0.8) is None
    assert versions(app) == before


@pytest.mark.parametrize(
    ("environ", "main"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "4", "LOCAL_RANK": "0"}, False),
        ({"SLURM_PROCID": "1"}, False),
        ({"OMPI_COMM_WORLD_RANK": "1"}, False),
        ({"LOCAL_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
    ],
)
def test_of_processes_that_train_together_only_the_first_publishes(
    trained: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], main: bool
) -> None:
    assert is_main_process(environ) is main
    if not main:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        assert publishing(lambda: pytest.fail("exported"))() is None
