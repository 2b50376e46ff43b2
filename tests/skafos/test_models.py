"""The functions of the SDK since version 0.3: same names, arguments, results and exceptions."""

from __future__ import annotations

import inspect
import zipfile
from pathlib import Path

import pytest

import skafos
from skafos import models
from skafos.exceptions import (
    DeployFailedError,
    DownloadFailedError,
    InvalidParamError,
    InvalidTokenError,
    UploadFailedError,
)
from tests.flows.running import Running

APP, MODEL = "SDK", "vision"
VARIABLES = ("SKAFOS_ORG_NAME", "SKAFOS_APP_NAME", "SKAFOS_MODEL_NAME", "SKAFOS_API_TOKEN", "SKAFOS_URL")


@pytest.fixture(scope="module")
def app(skafos_up: Running) -> Running:
    with skafos_up.client() as client:
        client.create_app(skafos_up.organization, APP, "org.example.sdk", "ios")
        for model in (MODEL, "empty"):
            client.create_model(skafos_up.organization, APP, model)
    return skafos_up


@pytest.fixture
def here(app: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a model's files, and everything named in the environment."""
    for name, value in app.settings(APP, MODEL).items():
        if name in VARIABLES:
            monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "M.mlpackage" / "Data").mkdir(parents=True)
    (tmp_path / "M.mlpackage" / "Data" / "weights.bin").write_bytes(b"weights" * 100)
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    return tmp_path


def test_the_functions_have_the_arguments_they_always_had() -> None:
    arguments = {
        name: list(inspect.signature(getattr(models, name)).parameters)
        for name in ("upload_version", "fetch_version", "list_versions", "list_environments", "deploy_version")
    }
    assert arguments == {
        "upload_version": ["files", "description", "verbose", "kwargs"],
        "fetch_version": ["version", "kwargs"],
        "list_versions": ["kwargs"],
        "list_environments": ["kwargs"],
        "deploy_version": ["version", "environment", "kwargs"],
    }
    assert list(inspect.signature(skafos.summary).parameters) == ["skafos_api_token", "compact"]
    assert skafos.get_version()


def test_upload_list_deploy_and_fetch(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uploaded = models.upload_version(["M.mlpackage", "labels.txt"], description="first")
    assert set(uploaded) == {"version", "name", "model", "description"}
    assert (uploaded["model"], uploaded["description"]) == (MODEL, "first")
    assert "Successful model version upload." in capsys.readouterr().out

    listed = models.list_versions()
    assert listed[-1]["version"] == uploaded["version"]
    assert set(listed[-1]) == {"version", "name", "updated_at", "description"}

    models.deploy_version()
    assert capsys.readouterr().out == f"Successfully deployed model version {uploaded['version']}.\n"
    environments = models.list_environments()
    assert {"dev", "prod"} <= {each["name"] for each in environments}
    assert not any(key.endswith("id") for each in environments for key in each)

    assert models.fetch_version(uploaded["version"]) is None  # type: ignore[func-returns-value]
    assert "Downloaded model file as vision.zip." in capsys.readouterr().out
    with zipfile.ZipFile("vision.zip") as archive:
        assert sorted(archive.namelist()) == ["M.mlpackage/Data/weights.bin", "labels.txt"]


def test_a_zip_of_the_callers_is_sent_and_fetched_byte_for_byte(here: Path) -> None:
    with zipfile.ZipFile("vision.zip", "w") as archive:
        archive.writestr("m.bin", b"123")
    sent = Path("vision.zip").read_bytes()
    models.upload_version("vision.zip", verbose=False)
    Path("vision.zip").unlink()
    models.fetch_version()
    assert Path("vision.zip").read_bytes() == sent


def test_names_and_token_may_be_arguments(here: Path, monkeypatch: pytest.MonkeyPatch, app: Running) -> None:
    for variable in VARIABLES[:4]:
        monkeypatch.delenv(variable)
    token = app.connection["api_token"]
    names = {"org_name": app.organization, "app_name": APP, "model_name": MODEL}
    assert models.list_versions(skafos_api_token=token, **names)
    with pytest.raises(InvalidTokenError, match="Missing Skafos API Token"):
        models.list_versions(**names)
    for missing in names:
        rest = {name: value for name, value in names.items() if name != missing}
        with pytest.raises(InvalidParamError, match="Missing Skafos"):
            models.list_versions(skafos_api_token=token, **rest)


def test_a_wrong_token_is_an_invalid_token(here: Path) -> None:
    with pytest.raises(InvalidTokenError, match="Invalid Skafos API Token"):
        models.list_versions(skafos_api_token="wrong")
    with pytest.raises(InvalidTokenError):
        skafos.summary(skafos_api_token="wrong")
    with pytest.raises(InvalidTokenError):
        models.list_versions(skafos_api_token="")


def test_a_wrong_name_is_an_invalid_parameter(here: Path) -> None:
    for wrong in ({"org_name": "x"}, {"app_name": "x"}, {"model_name": "x"}):
        with pytest.raises(InvalidParamError, match="Invalid connection parameters"):
            models.list_versions(**wrong)
        with pytest.raises(InvalidParamError):
            models.upload_version("labels.txt", verbose=False, **wrong)


def test_what_cannot_be_deployed_fails_to_deploy(here: Path) -> None:
    models.upload_version("labels.txt", verbose=False)
    with pytest.raises(DeployFailedError, match="Deploy model version failed"):
        models.deploy_version(version=999)
    with pytest.raises(DeployFailedError):
        models.deploy_version(environment="nowhere")
    with pytest.raises(InvalidParamError, match="integer"):
        models.deploy_version(version="newest")
    with pytest.raises(InvalidParamError, match="string"):
        models.deploy_version(environment=1)  # type: ignore[arg-type]


def test_what_cannot_be_fetched_fails_to_download(here: Path) -> None:
    with pytest.raises(DownloadFailedError, match="Model version download failed"):
        models.fetch_version(model_name="empty")
    with pytest.raises(DownloadFailedError):
        models.fetch_version(version=999)
    with pytest.raises(InvalidParamError, match="integer"):
        models.fetch_version(version="2")  # type: ignore[arg-type]
    Path("vision.zip").write_bytes(b"mine")
    with pytest.raises(InvalidParamError, match="overwrite"):
        models.fetch_version()
    assert Path("vision.zip").read_bytes() == b"mine"


def test_what_cannot_be_uploaded_is_refused_before_anything_is_sent(here: Path) -> None:
    Path("broken.zip").write_bytes(b"no zip")
    for files in ("missing.bin", "broken.zip", [], 3, [3]):
        with pytest.raises(InvalidParamError):
            models.upload_version(files)  # type: ignore[arg-type]
    with pytest.raises(InvalidParamError, match="too long"):
        models.upload_version("labels.txt", description="x" * 256)


def test_a_zip_that_the_server_refuses_fails_to_upload(here: Path) -> None:
    with zipfile.ZipFile("vision.zip", "w") as archive:
        archive.writestr("../escape", b"x")
    with pytest.raises(UploadFailedError, match="Model upload failed"):
        models.upload_version("vision.zip", verbose=False)


def test_without_a_server_each_function_fails_in_its_way(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKAFOS_URL", "http://127.0.0.1:9")
    with pytest.raises(UploadFailedError):
        models.upload_version("labels.txt", verbose=False)
    with pytest.raises(DeployFailedError):
        models.deploy_version()
    monkeypatch.setenv("SKAFOS_URL", "ftp://example.org")
    with pytest.raises(InvalidParamError, match="http"):
        models.list_versions()


def test_a_summary_lists_everything_the_token_sees(here: Path, app: Running) -> None:
    flat = skafos.summary()
    assert {"org_name": app.organization, "app_name": APP, "model_name": MODEL} in flat
    compact = skafos.summary(compact=True)
    assert isinstance(compact, dict)
    assert {model["name"] for model in compact[app.organization][APP]} == {MODEL, "empty"}
    assert all(set(model) == {"name", "updated_at"} for model in compact[app.organization][APP])
