"""The GitHub Action: its steps run here as a runner runs them, against a whole Skafos."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.command import ROOT
from tests.environment import environment_with
from tests.flows.running import Running
from tests.imports import imported_by, locked_in
from tests.models import onnx_model

ACTION = ROOT / "integrations" / "github-action"
APP, MODEL = "Action", "vision"
# `shell: bash` means this (GitHub's workflow syntax, "jobs.<job_id>.steps[*].shell").
BASH = ("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c")
EXPRESSION = re.compile(r"\$\{\{ *([\w.]+) *\}\}")
CONTEXT = {"github.repository": "example/camera", "github.sha": "4f1d0c"}


@dataclass(frozen=True)
class Done:
    """What a run of the action left."""

    code: int
    printed: str
    outputs: dict[str, str]
    summary: str


Use = Callable[..., Done]


def evaluated(text: str, values: Mapping[str, str]) -> str:
    return EXPRESSION.sub(lambda found: values[found[1]], text)


@pytest.fixture(scope="module")
def action() -> dict[str, Any]:
    loaded = yaml.safe_load((ACTION / "action.yml").read_text())
    assert isinstance(loaded, dict)
    return loaded


@pytest.fixture(scope="module")
def app(skafos_up: Running) -> Running:
    with skafos_up.client() as client:
        client.create_app(skafos_up.organization, APP, "org.example.action", "ios", MODEL)
    return skafos_up


@pytest.fixture
def use(app: Running, action: dict[str, Any], tmp_path: Path) -> Use:
    """Run the action's steps with inputs, in a working directory that holds ``vision.onnx``."""
    workspace, temporary = tmp_path / "work", tmp_path / "temp"
    workspace.mkdir()
    (workspace / "vision.onnx").write_bytes(onnx_model())
    # What the first step makes; it takes seconds, and is run as it stands under SKAFOS_LONG_TESTS.
    (temporary / "skafos" / "bin").mkdir(parents=True)
    python = temporary / "skafos" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)

    def use(*, install: bool = False, **given: str) -> Done:
        inputs = {"server": app.connection["control_url"], "token": app.connection["api_token"], "app": APP}
        inputs |= {"model": MODEL, "file": "vision.onnx"} | given
        values = dict(CONTEXT)
        for name, details in action["inputs"].items():
            values[f"inputs.{name}"] = inputs[name] if name in inputs else evaluated(details["default"], CONTEXT)
        files = {"GITHUB_OUTPUT": tmp_path / "output", "GITHUB_STEP_SUMMARY": tmp_path / "summary"}
        printed = ""
        for step in action["runs"]["steps"][0 if install else 1 :]:
            done = subprocess.run(
                [*BASH, step["run"]],
                cwd=workspace,
                env=environment_with({})
                | {"GITHUB_ACTION_PATH": str(ACTION), "RUNNER_TEMP": str(temporary)}
                | {name: str(path) for name, path in files.items()}
                | {name: evaluated(value, values) for name, value in step["env"].items()},
                capture_output=True,
                text=True,
                check=False,
            )
            printed += done.stdout + done.stderr
            if done.returncode:
                break
        output, summary = (path.read_text() if path.exists() else "" for path in files.values())
        outputs = dict(line.split("=", 1) for line in output.splitlines())
        return Done(done.returncode, printed, outputs, summary)

    return use


def test_a_file_is_uploaded_and_deployed_and_the_outputs_say_as_what(app: Running, use: Use) -> None:
    done = use(environment="prod", percent="25", push="false")
    assert done.code == 0, done.printed
    with app.client() as client:
        newest = client.list_deployments(app.organization, APP, MODEL)[0]
        version = client.list_versions(app.organization, APP, MODEL)[-1]
    assert (newest.environment, newest.percent) == ("prod", 25)
    assert done.outputs == {"version": str(newest.version), "deployment": newest.id}
    assert version.description == "example/camera@4f1d0c"
    assert done.summary == f"Skafos: version {newest.version} (onnx) deployed to `prod`.\n"
    assert app.connection["api_token"] not in done.printed


def test_nothing_in_an_input_is_run(app: Running, use: Use, tmp_path: Path) -> None:
    attack = "\"; touch ran; $(touch ran) `touch ran` '; touch ran #"
    done = use(file=f"vision.onnx\n  {attack}  \n")
    assert done.code == 1
    assert "unable to find" in done.printed
    done = use(description=attack, environment="")
    assert done.code == 0, done.printed
    with app.client() as client:
        assert client.list_versions(app.organization, APP, MODEL)[-1].description == attack
    # Uploaded only: there is no deployment.
    assert done.outputs["deployment"] == ""
    assert not list(tmp_path.rglob("ran"))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"token": "wrong"}, "Invalid Skafos API Token"),
        ({"percent": "many"}, "percent is a number, not 'many'."),
        ({"push": "yes\n::set-env::"}, "push is true or false, not 'yes\\n::set-env::'."),
        ({"file": " \n"}, "There is nothing to upload: name at least one file."),
    ],
)
def test_what_is_wrong_fails_the_step_with_one_line(use: Use, wrong: dict[str, str], says: str) -> None:
    done = use(**wrong)
    assert (done.code, done.printed, done.outputs) == (1, f"::error title=Skafos::{says}\n", {})


def test_inputs_reach_the_shell_as_variables_only(action: dict[str, Any]) -> None:
    for step in action["runs"]["steps"]:
        assert "${{" not in step["run"]
    used = {
        name for step in action["runs"]["steps"] for text in step["env"].values() for name in EXPRESSION.findall(text)
    }
    assert used == {f"inputs.{name}" for name in action["inputs"]}


def test_its_documentation_names_every_input_and_output(action: dict[str, Any]) -> None:
    text = (ACTION / "README.md").read_text()
    for name in (*action["inputs"], *action["outputs"]):
        assert re.search(rf"^\| .*`{name}`.* \|", text, re.MULTILINE), name


def test_it_installs_what_it_imports() -> None:
    assert imported_by("import skafos.training", ROOT) <= locked_in(ACTION / "requirements.txt")


@pytest.mark.skipif(os.environ.get("SKAFOS_LONG_TESTS") != "1", reason="it installs: SKAFOS_LONG_TESTS=1")
def test_the_whole_action_installs_what_it_needs(use: Use, tmp_path: Path) -> None:
    (tmp_path / "temp" / "skafos" / "bin" / "python").unlink()
    done = use(install=True, python=sys.executable)
    assert done.code == 0, done.printed
    assert done.outputs["version"].isdigit()
