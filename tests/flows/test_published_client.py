"""The published client, version 0.3.0 from the package registry, unmodified, against `skafos up`."""

from __future__ import annotations

import json
import subprocess
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from skafos import models
from skafos.exceptions import InvalidParamError
from tests.command import PATIENCE_SECONDS, ROOT
from tests.components import require
from tests.flows.running import Running
from tests.flows.whole_path import Releases

APP, MODEL, EMPTY_MODEL = "Published", "voice-activity", "nothing-yet"
DRIVER = Path(__file__).with_name("published_client_driver.py")


@dataclass(frozen=True)
class PublishedClient:
    """The client in its own virtual environment, its two base addresses pointed at a running Skafos.

    Attributes:
        folder: where it works.
        temporary: where it makes its zips; it leaves them behind.
    """

    python: Path
    skafos: Running
    folder: Path
    temporary: Path

    def call(self, function: str, **arguments: Any) -> dict[str, Any]:
        """Call one function of the client and return ``{"result"}`` or ``{"error", "message"}``."""
        return self.run({"function": function, "arguments": arguments})

    def models(self, function: str, model: str = MODEL, **arguments: Any) -> dict[str, Any]:
        """Call a function of its ``models`` module with names and token as keyword arguments."""
        return self.call(f"models.{function}", **{**self.names(model), **arguments})

    def names(self, model: str = MODEL) -> dict[str, str]:
        """Return the keyword arguments that say who, and which model."""
        token, organization = self.skafos.connection["api_token"], self.skafos.organization
        return {"skafos_api_token": token, "org_name": organization, "app_name": APP, "model_name": model}

    def run(self, call: dict[str, Any], **variables: str) -> dict[str, Any]:
        """Run one call with ``variables`` added to an otherwise bare environment."""
        control = self.skafos.connection["control_url"]
        order = {"api": f"{control}/v2", "download": f"{control}/download/v2", "calls": [call]}
        done = subprocess.run(
            [self.python, DRIVER],
            input=json.dumps(order),
            env={"PATH": "/usr/bin:/bin", "TMPDIR": str(self.temporary), **variables},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        (outcome,) = json.loads(done.stdout.splitlines()[-1])
        assert isinstance(outcome, dict)
        return outcome


@pytest.fixture(scope="module")
def app(skafos_up: Running) -> Running:
    """A running Skafos with an app and two models made for these tests."""
    with skafos_up.client() as client:
        client.create_app(skafos_up.organization, APP, bundle_id="org.example.published", platform="ios")
        for model in (MODEL, EMPTY_MODEL):
            client.create_model(skafos_up.organization, APP, model)
    return skafos_up


@pytest.fixture
def published(app: Running, tmp_path: Path) -> PublishedClient:
    """The published client, working in an empty directory."""
    python = ROOT / ".venv-published" / "bin" / "python"
    program = require("the published client", python if python.exists() else None)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    return PublishedClient(program, app, tmp_path, temporary)


def test_it_uploads_a_file_lists_it_and_fetches_the_same_bytes(published: PublishedClient, silero: Releases) -> None:
    (published.folder / "silero_vad.onnx").write_bytes(silero[0][0].read_bytes())

    uploaded = published.models("upload_version", files="silero_vad.onnx", description="release 5.1")["result"]
    assert uploaded["description"] == "release 5.1"
    assert set(uploaded) == {"version", "description", "name", "model"}

    listed = published.models("list_versions")["result"]
    assert [entry["version"] for entry in listed] == list(range(1, len(listed) + 1))
    assert listed[-1]["version"] == uploaded["version"]
    assert set(listed[-1]) == {"version", "name", "updated_at", "description"}

    assert published.models("fetch_version") == {"result": None}
    (sent,) = published.temporary.glob(f"*/{MODEL}.zip")
    assert (published.folder / f"{MODEL}.zip").read_bytes() == sent.read_bytes()


def test_it_uploads_a_folder_and_a_file_with_their_paths(published: PublishedClient) -> None:
    package = published.folder / "Vision.mlpackage" / "Data"
    package.mkdir(parents=True)
    (package / "weights.bin").write_bytes(bytes(range(256)) * 40)
    (published.folder / "labels.txt").write_text("cat\ndog\n")

    uploaded = published.models("upload_version", files=["Vision.mlpackage", "labels.txt"], verbose=False)["result"]
    assert published.models("fetch_version", version=uploaded["version"]) == {"result": None}

    with zipfile.ZipFile(published.folder / f"{MODEL}.zip") as archive:
        assert sorted(archive.namelist()) == ["Vision.mlpackage/Data/weights.bin", "labels.txt"]
        assert archive.read("labels.txt") == b"cat\ndog\n"


def test_a_zip_of_the_models_name_is_sent_and_fetched_byte_for_byte(published: PublishedClient) -> None:
    archive = published.folder / f"{MODEL}.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as writer:
        writer.writestr("model.tflite", b"not really a model " * 1000)
    sent = archive.read_bytes()

    uploaded = published.models("upload_version", files=archive.name)["result"]
    archive.unlink()
    published.models("fetch_version", version=uploaded["version"])

    assert archive.read_bytes() == sent


def test_it_deploys_to_dev_and_to_prod_and_lists_the_environments(published: PublishedClient, silero: Releases) -> None:
    (published.folder / "silero_vad.onnx").write_bytes(silero[1][0].read_bytes())
    version = published.models("upload_version", files="silero_vad.onnx")["result"]["version"]

    assert published.models("deploy_version", version="latest", environment="dev") == {"result": None}
    assert published.models("deploy_version", version=version, environment="prod") == {"result": None}

    environments = published.models("list_environments")["result"]
    assert {"dev", "prod"} <= {environment["name"] for environment in environments}
    with published.skafos.client() as client:
        for environment in ("dev", "prod"):
            (deployment,) = client.list_deployments(published.skafos.organization, APP, MODEL, environment=environment)
            assert deployment.version == version


def test_it_reads_names_and_token_from_the_environment(published: PublishedClient) -> None:
    names = published.names()
    variables = {
        "SKAFOS_API_TOKEN": names["skafos_api_token"],
        "SKAFOS_ORG_NAME": names["org_name"],
        "SKAFOS_APP_NAME": names["app_name"],
        "SKAFOS_MODEL_NAME": names["model_name"],
    }
    outcome = published.run({"function": "models.list_versions", "arguments": {}}, **variables)
    assert isinstance(outcome["result"], list)


def test_the_summary_names_organizations_apps_and_models(published: PublishedClient) -> None:
    token, organization = published.names()["skafos_api_token"], published.skafos.organization

    full = published.call("summary", skafos_api_token=token)["result"]
    assert {"org_name": organization, "app_name": APP, "model_name": MODEL} in full

    compact = published.call("summary", skafos_api_token=token, compact=True)["result"]
    assert {model["name"] for model in compact[organization][APP]} == {MODEL, EMPTY_MODEL}


@pytest.mark.parametrize(
    "function", ["upload_version", "list_versions", "list_environments", "deploy_version", "fetch_version"]
)
def test_a_wrong_token_is_an_invalid_token(published: PublishedClient, function: str) -> None:
    (published.folder / "a.txt").write_text("a")
    arguments = {"files": "a.txt"} if function == "upload_version" else {}
    outcome = published.models(function, skafos_api_token="not-a-token", **arguments)
    assert outcome == {"error": "InvalidTokenError", "message": "Invalid Skafos API Token"}


def test_the_summary_with_a_wrong_token_is_an_invalid_token(published: PublishedClient) -> None:
    assert published.call("summary", skafos_api_token="not-a-token")["error"] == "InvalidTokenError"


def test_a_missing_token_is_an_invalid_token(published: PublishedClient) -> None:
    outcome = published.call("models.list_versions", org_name="a", app_name="b", model_name="c")
    assert outcome == {"error": "InvalidTokenError", "message": "Missing Skafos API Token"}


@pytest.mark.parametrize("wrong", ["org_name", "app_name", "model_name"])
@pytest.mark.parametrize("function", ["upload_version", "list_versions", "list_environments", "deploy_version"])
def test_a_wrong_name_is_an_invalid_parameter(published: PublishedClient, function: str, wrong: str) -> None:
    (published.folder / "a.txt").write_text("a")
    arguments = {"files": "a.txt"} if function == "upload_version" else {}
    outcome = published.models(function, **{wrong: "no-such-name", **arguments})
    assert outcome["error"] == "InvalidParamError"
    assert "Invalid connection parameters" in outcome["message"]


@pytest.mark.parametrize("arguments", [{"model": EMPTY_MODEL}, {"version": 4711}, {"model": "no-such-name"}])
def test_a_version_that_is_not_there_is_a_failed_download(
    published: PublishedClient, arguments: dict[str, Any]
) -> None:
    outcome = published.models("fetch_version", **arguments)
    assert outcome["error"] == "DownloadFailedError"
    assert [path.name for path in published.folder.glob("*.zip")] == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"version": 4711}, "4711"),
        ({"version": "latest", "environment": "no-such-place"}, "environment"),
        ({"model": EMPTY_MODEL, "version": "latest"}, "version"),
    ],
)
def test_a_deploy_that_cannot_be_is_a_failed_deploy_with_the_reason(
    published: PublishedClient, arguments: dict[str, Any], reason: str
) -> None:
    outcome = published.models("deploy_version", **arguments)
    assert outcome["error"] == "DeployFailedError"
    assert outcome["message"].startswith("Deploy model version failed. ")
    assert reason in outcome["message"]


# --- beside our own `skafos.models`, on the same files

PACKED_ALIKE = [
    ["labels.txt"],
    ["build/M.mlpackage", "labels.txt"],
    ["./build/../build/M.mlpackage/"],
    ["."],
    ["{here}/build/M.mlpackage", "{here}/labels.txt"],
    ["{here}/build/../labels.txt"],
    ["linked.txt", "labels.txt"],
    ["build"],
    ["other.zip"],
    ["./{model}.zip"],
    ["{here}/{model}.zip"],
    ["{model}.zip", "labels.txt"],
    ["{model}.zip"],
]
REFUSED_ALIKE = [
    ["../labels.txt"],
    ["build/../../{folder}/labels.txt"],
    ["nothing"],
    ["broken.zip"],
    ["labels.txt", ""],
]


@pytest.fixture
def beside(published: PublishedClient, monkeypatch: pytest.MonkeyPatch) -> PublishedClient:
    """Files to pack, in a working directory that both clients have."""
    here = published.folder / "work"
    for name in ("build/M.mlpackage/Data/w.bin", "build/M.mlpackage/.hidden", "build/deep/er/l.bin", "labels.txt"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(name * 100)
    (published.folder / "labels.txt").write_text("outside")
    (here / "build/unused").mkdir()
    (here / "linked.txt").symlink_to("labels.txt")
    (here / "build/linked-folder").symlink_to("M.mlpackage", target_is_directory=True)
    (here / "broken.zip").write_text("no zip")
    for name in ("other.zip", f"{MODEL}.zip"):
        with zipfile.ZipFile(here / name, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("model.tflite", name * 100)
    monkeypatch.chdir(here)
    monkeypatch.setenv("SKAFOS_URL", published.skafos.connection["control_url"])
    return replace(published, folder=here)


def filled(files: list[str]) -> list[str]:
    """Return the names with what a test learns only when it runs."""
    return [file.format(here=Path.cwd(), folder=Path.cwd().name, model=MODEL) for file in files]


def zip_of(published: PublishedClient, version: int) -> Path:
    """Return what was uploaded as a version, byte for byte."""
    fetched = published.folder.parent / f"fetched-{version}.zip"
    with published.skafos.client() as client:
        client.fetch_version(published.skafos.organization, APP, MODEL, fetched, version=version)
    return fetched


@pytest.mark.parametrize("files", PACKED_ALIKE, ids=" ".join)
def test_both_clients_upload_the_same_names_with_the_same_bytes(beside: PublishedClient, files: list[str]) -> None:
    if files == ["."]:
        Path("broken.zip").unlink()
    theirs = beside.models("upload_version", files=filled(files))["result"]
    ours = models.upload_version(filled(files), None, False, **beside.names())

    assert set(ours) == set(theirs)
    assert contents(zip_of(beside, ours["version"])) == contents(zip_of(beside, theirs["version"]))
    if files == ["{model}.zip"]:
        assert zip_of(beside, ours["version"]).read_bytes() == Path(f"{MODEL}.zip").read_bytes()


def contents(archive: Path) -> dict[str, bytes]:
    """Return a zip's names with their bytes; each name is there once."""
    with zipfile.ZipFile(archive) as opened:
        names = opened.namelist()
        assert len(set(names)) == len(names)
        return {name: opened.read(name) for name in names}


@pytest.mark.parametrize("files", REFUSED_ALIKE, ids=" ".join)
def test_what_cannot_be_uploaded_fails_with_both_clients(beside: PublishedClient, files: list[str]) -> None:
    before = beside.models("list_versions")["result"]
    assert "error" in beside.models("upload_version", files=filled(files))
    with pytest.raises(InvalidParamError):
        models.upload_version(filled(files), None, False, **beside.names())
    assert beside.models("list_versions")["result"] == before
