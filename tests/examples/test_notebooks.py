"""The notebooks run from top to bottom, with the token from the environment."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skafos.device import DeviceClient
from tests.command import ROOT
from tests.flows.running import Running, until

NOTEBOOKS = ROOT / "examples" / "notebooks"
NAMES = ("azure-ml", "colab", "sagemaker")
APP, MODEL = "Examples", "waves"


@pytest.fixture(scope="module")
def organization(skafos_up: Running) -> Running:
    with skafos_up.client() as client:
        if APP not in [app.name for app in client.list_apps(skafos_up.organization)]:
            client.create_app(skafos_up.organization, APP, "org.example.examples", "linux")
        client.create_model(skafos_up.organization, APP, MODEL)
    return skafos_up


def code_of(name: str) -> list[str]:
    document = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())
    assert (document["nbformat"], document["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in document["cells"]]
    assert len(set(ids)) == len(ids)
    return ["".join(cell["source"]) for cell in document["cells"] if cell["cell_type"] == "code"]


def test_there_are_no_others() -> None:
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == sorted(NAMES)


def test_they_are_what_their_maker_writes() -> None:
    notebook = runpy.run_path(str(NOTEBOOKS / "make.py"))["notebook"]
    for name in NAMES:
        assert (NOTEBOOKS / f"{name}.ipynb").read_text() == notebook(name), "run: python examples/notebooks/make.py"


@pytest.fixture
def execute(
    organization: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], tuple[str, dict[str, Any]]]:
    """Run a notebook as a kernel does; return its last cell, and the names that its cells made."""
    monkeypatch.setenv("SKAFOS_URL", organization.connection["control_url"])
    monkeypatch.setenv("SKAFOS_API_TOKEN", organization.connection["api_token"])
    monkeypatch.delenv("SKAFOS_ORG_NAME", raising=False)
    monkeypatch.chdir(tmp_path)

    def execute(name: str) -> tuple[str, dict[str, Any]]:
        install, *cells = code_of(name)
        assert install.startswith("%pip install ")
        names: dict[str, Any] = {"__name__": "__main__"}
        for cell in cells:
            exec(compile(cell, f"{name}.ipynb", "exec"), names)
        return cells[-1], names

    return execute


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_delivers_what_it_trains(
    execute: Callable[[str], tuple[str, dict[str, Any]]], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, names = execute(name)
    assert f"Published version {names['published'].version} of {MODEL} to dev." in capsys.readouterr().out
    assert names["right"] > 0.8


def test_the_last_cell_sees_who_has_it(
    organization: Running,
    execute: Callable[[str], tuple[str, dict[str, Any]]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    last, names = execute("colab")
    version = names["published"].version
    with organization.client() as client:
        key = client.get_environment(organization.organization, APP, "dev").keys[0].key
    with DeviceClient(organization.edge_url, key, tmp_path / "device") as device:
        until(lambda: device.sync(MODEL).version == version, "the version at the edge")

    def seen() -> str:
        exec(compile(last, "colab.ipynb", "exec"), names)
        return capsys.readouterr().out

    until(lambda: f"version {version}: 1 devices" in seen(), "the device in the notebook's last cell")
