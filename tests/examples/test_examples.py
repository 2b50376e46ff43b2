"""Each example goes its whole way: trained, delivered, run on a device; trained further, and taken as a patch."""

from __future__ import annotations

import os
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from skafos.client import Client
from tests.command import ROOT
from tests.flows.running import Running, until
from tests.imports import imported_by, locked_in

EXAMPLES = ROOT / "examples"
APP = "Examples"
# Each example's folder, its model, how little it may train here, and what its device says when it has run the model.
SMALL = {
    "image-classification": ("digits", ["--rounds", "1"], r"^reads \d \(\d+%\)$"),
    "object-detection": ("shapes", ["--pictures", "320"], r"\A.+\n(?:.{64}\n){32}(?:a \w+, .+\n)*\Z"),
    "text-classification": ("messages", ["--rounds", "2"], r"(?:(?:account|crash|idea|payment) +\d+%  .+\n){4}\Z"),
}

Run = Callable[..., str]


@pytest.fixture(scope="module")
def key(skafos_up: Running) -> str:
    """The key of the environment dev of an app with the examples' models."""
    with skafos_up.client() as client:
        client.create_app(skafos_up.organization, APP, "org.example.examples", "linux")
        for model, _, _ in SMALL.values():
            client.create_model(skafos_up.organization, APP, model)
        return client.get_environment(skafos_up.organization, APP, "dev").keys[0].key


@pytest.fixture
def run(
    skafos_up: Running, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    """Run a program of an example as its reader does, but in this process, where libraries are imported once."""
    for name, value in skafos_up.settings(APP).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SKAFOS_EDGE_URL", skafos_up.edge_url)
    monkeypatch.setenv("SKAFOS_KEY", key)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def run(program: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [program, *arguments])
        runpy.run_path(str(EXAMPLES / program), run_name="__main__")
        return capsys.readouterr().out

    yield run
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(EXAMPLES)):
            del sys.modules[name]


def wait_until_offered(skafos: Running, key: str, version: str, *, patched: bool = False) -> None:
    """Wait until the edge offers a version (model and number), and a patch to it if so said."""
    url = f"{skafos.edge_url}/v2/environments/{key}/manifest"

    def offered() -> bool:
        target = httpx.get(url).json()["targets"]["signed"]["targets"].get(version)
        return target is not None and (not patched or any("base" in each for each in target["custom"]["encodings"]))

    until(offered, f"{version} at the edge")


def test_examples_are_trained_delivered_and_run_and_their_next_versions_come_as_patches(
    run: Run, skafos_up: Running, key: str
) -> None:
    """Side by side, because patches are made in the background; more than one of them with SKAFOS_LONG_TESTS."""
    for example, (model, little, _) in SMALL.items():
        assert f"Published version 1 of {model} to dev." in run(f"{example}/train.py", *little, "--build", model)
    for example, (model, _, says) in SMALL.items():
        wait_until_offered(skafos_up, key, f"{model}/1")
        first = run(f"{example}/device.py")
        assert first.startswith(f"{model}: version 1 (updated, ")
        assert re.search(says, first, re.MULTILINE), first
    patched = list(SMALL) if os.environ.get("SKAFOS_LONG_TESTS") == "1" else ["image-classification"]
    for example in patched:
        model, little, _ = SMALL[example]
        again = run(f"{example}/train.py", "--again", *little, "--build", model)
        assert f"Published version 2 of {model} to dev." in again
    for example in patched:
        model, _, says = SMALL[example]
        wait_until_offered(skafos_up, key, f"{model}/2", patched=True)
        second = run(f"{example}/device.py")
        cost = re.match(rf"{model}: version 2 \(updated, (\d+) of (\d+) bytes by skafos-delta\)\n", second)
        assert cost, second
        assert int(cost[1]) < 0.9 * int(cost[2])
        assert re.search(says, second, re.MULTILINE), second
    with skafos_up.client() as client:
        for example in patched:
            expect_reported(client, skafos_up.organization, SMALL[example][0])


def expect_reported(client: Client, organization: str, model: str) -> None:
    """Wait until the adoption of a model tells that its one device runs version 2."""

    def now() -> list[tuple[int | None, int]]:
        return [
            (each.version, each.devices) for each in client.adoption(organization, APP, model, environment="dev").now
        ]

    until(lambda: now() == [(2, 1)], f"adoption of {model}, which is {now()}")


def test_every_example_is_tried_here() -> None:
    assert {path.parent.name for path in EXAMPLES.glob("*/train.py")} == set(SMALL)


def test_their_environment_has_what_they_import() -> None:
    code = (
        "import importlib, pkgutil, skafos.cli, skafos.device, skafos.training, onnx, onnxruntime\n"
        "for package in (skafos.cli, skafos.device):\n"
        "    for module in pkgutil.iter_modules(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
    )
    assert imported_by(code, ROOT) <= locked_in(EXAMPLES / "requirements.txt")
