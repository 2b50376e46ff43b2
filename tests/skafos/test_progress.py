"""Long work shows what it does, on a real terminal; and nothing of it where nobody would see it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from tests.command import OnTerminal, run, run_on_terminal
from tests.flows.running import Running

APP, MODEL = "Progress", "vision"
LENGTH = 3_000_000
WHOLE = re.compile(r"3\.\d/3\.\d MB")


@pytest.fixture(scope="module")
def settings(skafos_up: Running) -> dict[str, str]:
    """An app with a model, named in the environment."""
    with skafos_up.client() as client:
        client.create_app(skafos_up.organization, APP, "org.example.progress", "linux")
        client.create_model(skafos_up.organization, APP, MODEL)
    return {**skafos_up.settings(APP, MODEL), "SKAFOS_EDGE_URL": skafos_up.edge_url}


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    file = tmp_path / "model.bin"
    file.write_bytes(os.urandom(LENGTH))
    return file


def drawn(done: OnTerminal, *steps: str) -> None:
    """Expect a success that drew these steps in this order, and left nothing of them on the screen."""
    assert done.returncode == 0, done.screen
    places = [done.screen.find(step) for step in steps]
    assert all(place >= 0 for place in places), done.screen
    assert places == sorted(places)
    # The last line is erased, and the cursor is shown again.
    assert "\x1b[2K" in done.screen
    assert done.screen.rfind("\x1b[?25h") > done.screen.rfind("\x1b[?25l")


def test_an_upload_a_fetch_and_a_device_show_each_step(
    skafos_up: Running, settings: dict[str, str], model_file: Path, tmp_path: Path
) -> None:
    uploaded = run_on_terminal("-m", "skafos", "upload", str(model_file), "--deploy", "dev", "--json", **settings)
    drawn(uploaded, "Packing", "Uploading", "The server inspects the model")
    assert len(WHOLE.findall(uploaded.screen)) >= 2
    assert json.loads(uploaded.stdout)["version"] == 1

    out = str(tmp_path / "fetched.zip")
    fetched = run_on_terminal("-m", "skafos", "fetch", "--out", out, "--json", **settings)
    drawn(fetched, "Downloading", "Comparing the bytes with their hash")
    assert WHOLE.search(fetched.screen)
    assert json.loads(fetched.stdout)["path"] == out

    (dev,) = [each for each in skafos_up.skafos("environments", app=APP) if each["name"] == "dev"]
    sync = ["-m", "skafos", "device", "sync", "--key", dev["key"], "--dir", str(tmp_path / "device"), "--json"]
    synced = run_on_terminal(*sync, **settings)
    drawn(synced, "Checking", "Downloading", "Verifying and unpacking")
    assert json.loads(synced.stdout)["version"] == 1


def test_the_sdk_shows_each_step_between_its_sentences_and_none_when_told_to_be_silent(
    settings: dict[str, str], model_file: Path
) -> None:
    code = "import sys; from skafos import models; models.upload_version(sys.argv[1], verbose=sys.argv[2] == 'yes')"
    loud = run_on_terminal("-c", code, str(model_file), "yes", **settings)
    drawn(loud, "Packing", "Uploading", "The server inspects the model")
    assert loud.stdout.splitlines() == [
        "Started uploading model version to Skafos.",
        "Finished uploading model version to Skafos.",
        *("", "Successful model version upload.", ""),
    ]
    silent = run_on_terminal("-c", code, str(model_file), "no", **settings)
    assert (silent.returncode, silent.screen) == (0, "")


def test_a_patch_in_the_making_is_shown(tmp_path: Path, model_file: Path) -> None:
    patch = str(tmp_path / "patch")
    drawn(run_on_terminal("-m", "skafos", "delta", "make", str(model_file), str(model_file), patch), "Making the patch")


def test_nothing_is_drawn_where_standard_error_is_no_terminal(
    settings: dict[str, str], model_file: Path, tmp_path: Path
) -> None:
    uploaded = run("upload", str(model_file), **settings)
    fetched = run("fetch", "--out", str(tmp_path / "fetched.zip"), **settings)
    assert (uploaded.returncode, uploaded.stderr) == (0, "")
    assert (fetched.returncode, fetched.stderr) == (0, "")


def test_bytes_that_have_to_be_sent_again_are_counted_again() -> None:
    code = """
from skafos.progress import progress_display
with progress_display() as display:
    told = display.bytes("Uploading", then="The server inspects")
    told(100, 100)
    told(50, 100)
    told(100, 100)
"""
    done = run_on_terminal("-c", code)
    steps = re.findall("Uploading|The server inspects", done.screen)
    changes = [step for step, before in zip(steps, ["", *steps], strict=False) if step != before]
    assert changes == ["Uploading", "The server inspects", "Uploading", "The server inspects"]
