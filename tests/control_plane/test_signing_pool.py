"""Signing with keys from a pool: put in by command, taken by applications and rotations, missed with a sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.control_plane.running import ORGANIZATION, Api, running_api
from tests.manifests.test_key_pool import a_key

APPS = f"/v2/organizations/{ORGANIZATION}/apps"
APP = {"name": "Scanner", "bundle_id": "org.example.scanner", "platform": "ios"}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    folder = tmp_path / "control-plane"
    folder.mkdir()
    with running_api(folder, f"sqlite:///{folder / 'test.sqlite3'}", SKAFOS_SIGNING_KEYS="pool") as running:
        yield running


def put_in(api: Api, folder: Path, count: int) -> list[str]:
    """Put keys in; return their ids."""
    ids = []
    for _ in range(count):
        uri, public = a_key(folder)
        (folder / "public.txt").write_bytes(public)
        done = api.command("add-signing-key", "--uri", uri, "--public", str(folder / "public.txt"))
        assert done.returncode == 0, done.stderr
        ids.append(json.loads(done.stdout)["key_id"])
    return ids


def test_applications_and_rotations_take_keys_and_say_when_none_is_left(api: Api, tmp_path: Path) -> None:
    refused = api.call("POST", APPS, APP)
    assert (refused.status_code, refused.json()["code"]) == (503, "no_signing_key")
    assert "add-signing-key" in refused.json()["error"]
    assert api.get(APPS) == []

    ids = put_in(api, tmp_path, 6)  # two environments, two keys each; then two rotations
    api.post(APPS, APP)
    environment = f"{APPS}/Scanner/environments/prod"
    before = api.get(environment)
    api.post(f"{environment}/root/rotate")
    assert api.get(environment)["root"] == before["root"] + 1
    taken = {json.loads(file.read_text())["key_id"] for file in (api.folder / "data" / "keys").glob("*/*-*.json")}
    assert taken <= set(ids)
    api.post(f"{environment}/online-key/rotate")
    refused = api.call("POST", f"{environment}/root/rotate", {})
    assert (refused.status_code, refused.json()["code"]) == (503, "no_signing_key")
    assert api.get(environment)["root"] == before["root"] + 2


def test_a_key_that_cannot_sign_is_refused_in_a_line(api: Api, tmp_path: Path) -> None:
    _, public = a_key(tmp_path)
    (tmp_path / "public.txt").write_bytes(public)
    refused = api.command("add-signing-key", "--uri", "awskms:alias/none", "--public", str(tmp_path / "public.txt"))
    assert refused.returncode == 1
    assert "cannot sign" in refused.stderr
    assert "Traceback" not in refused.stderr
    missing = api.command("add-signing-key", "--uri", "file2:x", "--public", str(tmp_path / "nothing"))
    assert missing.returncode == 1
    assert "Traceback" not in missing.stderr
