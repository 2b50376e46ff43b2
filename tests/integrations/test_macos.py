"""The macOS Quick Action: its script uploads what is selected, and its bundle holds that script."""

from __future__ import annotations

import plistlib
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import ROOT
from tests.environment import environment_with
from tests.flows.running import Running
from tests.models import onnx_model

MACOS = ROOT / "integrations" / "macos"
APP, MODEL = "Finder", "vision"
# What macOS has and Linux does not; each writes down what it was told.
OSASCRIPT = '#!/bin/sh\nfor text in "$@"; do printf "%s\\n" "$text"; done >"$NOTIFIED"\n'
SECURITY = (
    '#!/bin/sh\n[ "$*" = "find-generic-password -s skafos -w" ] && [ -n "$KEYCHAIN" ] && printf "%s\\n" "$KEYCHAIN"\n'
)
SHELLS = [shell for shell in ("dash", "bash", "zsh") if shutil.which(shell)]

Upload = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def app(skafos_up: Running) -> Running:
    with skafos_up.client() as client:
        client.create_app(skafos_up.organization, APP, "org.example.finder", "macos", MODEL)
    return skafos_up


@pytest.fixture
def upload(app: Running, tmp_path: Path) -> Upload:
    """Run the script on files, and return how it ended and the notification."""
    programs = tmp_path / "programs"
    programs.mkdir()
    command = tmp_path / "the command" / "skafos"
    command.parent.mkdir()
    for file, text in {
        programs / "osascript": OSASCRIPT,
        programs / "security": SECURITY,
        command: f'#!/bin/sh\nexec {sys.executable} -m skafos "$@"\n',
    }.items():
        file.write_text(text)
        file.chmod(0o755)
    settings = tmp_path / "settings.sh"

    def upload(*files: Path, shell: str = "dash", token: str | None = None, more: str = "") -> tuple[int, str]:
        settings.write_text(
            f'SKAFOS_COMMAND="{command}"\nSKAFOS_URL={app.connection["control_url"]}\n'
            f"SKAFOS_APP_NAME={APP}\nSKAFOS_MODEL_NAME={MODEL}\n{more}"
        )
        notified = tmp_path / "notified"
        notified.unlink(missing_ok=True)
        given = {"SKAFOS_SETTINGS": str(settings), "NOTIFIED": str(notified), "PYTHONPATH": str(ROOT)}
        given["KEYCHAIN"] = app.connection["api_token"] if token is None else token
        done = subprocess.run(
            [shell, str(MACOS / "upload.sh"), *map(str, files)],
            env=environment_with(given) | {"PATH": f"{programs}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        _, _, shown = notified.read_text().partition("end run\n")
        return done.returncode, shown

    return upload


@pytest.fixture
def selected(tmp_path: Path) -> list[Path]:
    """Files whose names a careless script would take apart, or run."""
    folder = tmp_path / "my models $(touch ran)"
    folder.mkdir()
    (folder / 'night "vision".onnx').write_bytes(onnx_model())
    (folder / "-labels; one.txt").write_text("cat\n")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("shell", SHELLS)
def test_what_is_selected_becomes_one_version_and_is_deployed(
    app: Running, upload: Upload, selected: list[Path], shell: str
) -> None:
    code, shown = upload(*selected, shell=shell, more="SKAFOS_ENVIRONMENT=dev\n")
    with app.client() as client:
        version = client.list_versions(app.organization, APP, MODEL)[-1]
        deployed = client.list_deployments(app.organization, APP, MODEL)[0]
    assert (code, sorted(file.name for file in version.files)) == (0, sorted(path.name for path in selected))
    assert (deployed.version, deployed.environment) == (version.version, "dev")
    assert shown.startswith(f"Skafos: uploaded\nUploaded version {version.version} of {MODEL} (onnx, 2 files).\n")


def test_without_a_token_a_file_or_settings_nothing_is_uploaded_and_that_is_shown(
    upload: Upload, selected: list[Path]
) -> None:
    for files, options, says in (
        (selected, {"token": ""}, "The keychain has no token named skafos."),
        (selected, {"token": "wrong"}, "error: Invalid Skafos API Token"),
        ([], {}, "No file is selected."),
        (selected, {"more": "SKAFOS_COMMAND=/missing/skafos\n"}, "/missing/skafos: not found"),
    ):
        code, shown = upload(*files, **options)
        assert code == 1
        assert shown.startswith("Skafos: not uploaded\n")
        assert shown.rstrip().endswith(says)


def test_the_bundle_is_what_the_script_and_its_maker_give() -> None:
    bundle, contents = runpy.run_path(str(MACOS / "bundle.py")), MACOS / "Upload to Skafos.workflow" / "Contents"
    information = plistlib.loads((contents / "Info.plist").read_bytes())
    workflow = plistlib.loads((contents / "document.wflow").read_bytes())
    assert information == bundle["info"]()
    assert workflow == bundle["document"]((MACOS / "upload.sh").read_text()), "run: python integrations/macos/bundle.py"
    (step,) = workflow["actions"]
    assert step["action"]["ActionParameters"]["inputMethod"] == 1
    assert information["NSServices"][0]["NSSendFileTypes"] == ["public.item"]
