"""The ``skafos`` command, as a process, against a real Skafos."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from typer.testing import CliRunner

from skafos.cli.app import COMMANDS, FAMILIES
from skafos.cli.app import app as tree
from skafos.cli.output import MAX_CELL
from skafos.cli.reference import HEADING, commands, reference
from tests.command import ROOT, run
from tests.control_plane.push.certificates import EMAIL, PROJECT, service_account
from tests.flows.running import Running, until

APP, MODEL = "Command", "vision"
COMMANDS_OF_THE_DESIGN = {
    *("up", "control-plane", "edge", "shipper", "upload", "versions", "fetch", "deploy", "rollback", "environments"),
    *("adoption", "push", "keys", "tokens", "device", "delta", "sql"),
}


@pytest.fixture(scope="module")
def app(skafos_up: Running) -> Running:
    """An app and a model, made by the command."""
    made = skafos_up.skafos("apps", "create", APP, "--bundle-id", "org.example.command")
    assert {each["name"] for each in made["environments"]} == {"dev", "prod"}
    skafos_up.skafos("models", "create", MODEL, "--app", APP)
    return skafos_up


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of two files, as exported."""
    folder = tmp_path / "Model.mlpackage"
    (folder / "Data").mkdir(parents=True)
    (folder / "Data" / "weights.bin").write_bytes(os.urandom(50_000))
    (folder / "Manifest.json").write_text("{}")
    return folder


def test_every_command_of_the_design_is_there() -> None:
    assert {*COMMANDS, *FAMILIES} >= COMMANDS_OF_THE_DESIGN


def test_every_command_takes_json() -> None:
    takes = {path: any("--json" in each.opts for each in command.params) for path, command in commands()}
    assert [path for path, json_too in takes.items() if not json_too] == []
    families = {path.split()[1] for path in takes}
    assert families == {*COMMANDS, *FAMILIES}
    assert len(takes) > len(families)


@pytest.mark.parametrize("command", [path.split()[1:] for path, _ in commands()], ids=" ".join)
def test_the_help_of_every_command_names_json(command: list[str]) -> None:
    shown = CliRunner().invoke(tree, [*command, "--help"])
    assert shown.exit_code == 0
    assert "--json" in shown.output


@pytest.mark.parametrize("family", ["", *FAMILIES])
def test_no_command_is_cut_short_in_a_list_of_commands(family: str) -> None:
    shown = CliRunner().invoke(tree, [*([family] if family else []), "--help"], env={"COLUMNS": "80"})
    assert shown.exit_code == 0
    assert [line for line in shown.output.splitlines()[1:] if line.endswith("...")] == []


def test_the_reference_in_the_documents_is_that_of_the_command() -> None:
    document = (ROOT / "docs" / "cli.md").read_text()
    assert document.endswith(HEADING + reference()), "run: python -m skafos.cli.reference docs/cli.md"


@pytest.mark.parametrize(
    "module", ["httpx", "msgspec", "tuf", "rich", "obstore", "sqlglot", "skafos.client", "skafos.device"]
)
def test_showing_help_imports_nothing_heavy(module: str) -> None:
    code = f"import sys; import skafos.cli.app; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_the_life_of_a_version(app: Running, folder: Path, tmp_path: Path) -> None:
    first = app.skafos("upload", str(folder), "-d", "first", "--deploy", "dev", app=APP, model=MODEL)
    assert (first["version"], first["format"], first["description"]) == (1, "coreml-mlpackage", "first")
    assert first["deployment"]["environment"] == "dev"
    assert [file["name"] for file in first["files"]] == [
        "Model.mlpackage/Data/weights.bin",
        "Model.mlpackage/Manifest.json",
    ]
    (folder / "Manifest.json").write_text('{"changed": true}')
    second = app.skafos("upload", str(folder), app=APP, model=MODEL)
    assert [each["version"] for each in app.skafos("versions", app=APP, model=MODEL)] == [1, 2]

    out = tmp_path / "fetched.zip"
    fetched = app.skafos("fetch", "1", "--out", str(out), app=APP, model=MODEL)
    assert fetched["sha256"] == first["upload_sha256"] == sha256(out.read_bytes()).hexdigest()
    assert zipfile.is_zipfile(out)

    condition = ["--condition", "os_version.min=17", "--condition", "locale.any_of=de,fr-CH"]
    deployed = app.skafos("deploy", "2", "--env", "dev", "--percent", "12.5", *condition, app=APP, model=MODEL)
    assert deployed["deployment"]["percent"] == 12.5
    assert deployed["deployment"]["conditions"] == {
        "os_version": {"min": "17"},
        "locale": {"any_of": ["de", "fr-CH"]},
    }
    (dev,) = [each for each in app.skafos("environments", app=APP, model=MODEL) if each["name"] == "dev"]
    assert [offer["version"] for offer in dev["releases"]] == [2, 1]
    assert dev["key"].startswith("dev-")
    back = app.skafos("rollback", "--env", "dev", app=APP, model=MODEL)
    assert (back["deployment"]["kind"], back["deployment"]["version"]) == ("rollback", 1)
    assert second["version"] == 2


def test_a_push_without_credentials_says_what_is_missing(app: Running, folder: Path) -> None:
    app.skafos("upload", str(folder), app=APP, model=MODEL)
    told = app.command("deploy", "--env", "prod", "--push", app=APP, model=MODEL)
    assert told.returncode == 0
    assert "no push credentials" in told.stderr
    assert app.skafos("push", "history", "--env", "prod", app=APP, model=MODEL) == []
    asked = app.command("push", "send", "--env", "prod", app=APP, model=MODEL)
    assert asked.returncode == 1
    assert "no push credentials" in asked.stderr


def test_a_credential_is_set_a_push_held_up_and_told(app: Running, folder: Path, tmp_path: Path) -> None:
    app.skafos("upload", str(folder), app=APP, model=MODEL)
    app.command("deploy", "--env", "prod", app=APP, model=MODEL)
    key = ec.generate_private_key(ec.SECP256R1())
    file = tmp_path / "AuthKey_ABCDE12345.p8"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    bad = app.command("push", "credentials", "set", str(file), "--env", "prod", "--key-id", "short", app=APP)
    assert (bad.returncode, "key id" in bad.stderr) == (1, True)
    ids = ("--key-id", "ABCDE12345", "--team-id", "TEAM567890")
    told = app.command("push", "credentials", "set", str(file), "--env", "prod", *ids, app=APP)
    assert told.stdout == "prod pushes with this key now (key ABCDE12345 of team TEAM567890).\n"
    assert "key ABCDE12345" in app.command("push", "credentials", "list", "--env", "prod", app=APP).stdout
    sent = app.skafos("push", "send", "--env", "prod", app=APP, model=MODEL)
    again = app.command("push", "send", "--env", "prod", "--follow", app=APP, model=MODEL)
    assert "finished" in again.stdout
    assert "0 devices, 0 accepted" in again.stdout.replace(": ", ", ")
    assert app.skafos("push", "status", sent["id"], app=APP, model=MODEL)["state"] == "finished"
    late = app.command("push", "cancel", "--yes", sent["id"], app=APP, model=MODEL)
    assert (late.returncode, "cannot be cancelled" in late.stderr) == (1, True)
    lines = app.command("push", "history", "--csv", app=APP, model=MODEL).stdout.splitlines()
    assert lines[0].startswith("version,environment,sent,devices")
    assert len(lines) == 3
    account = tmp_path / "service-account.json"
    account.write_bytes(service_account(rsa.generate_private_key(65537, 2048)))
    told = app.command("push", "credentials", "set", str(account), "--env", "prod", app=APP)
    assert told.stdout == f"prod pushes with this service account now ({EMAIL} of project {PROJECT}).\n"
    which = app.command("push", "credentials", "delete", "--yes", "--env", "prod", app=APP)
    assert (which.returncode, "apns and fcm: say which" in which.stderr) == (1, True)
    app.command("push", "credentials", "delete", "--yes", "--env", "prod", "--service", "fcm", app=APP)
    app.command("push", "credentials", "delete", "--yes", "--env", "prod", app=APP)
    assert app.skafos("push", "credentials", "list", "--env", "prod", app=APP) == []


def test_tables_are_for_people(app: Running, folder: Path) -> None:
    app.skafos("upload", str(folder), "-d", "x" * 200, app=APP, model=MODEL)
    table = app.command("versions", app=APP, model=MODEL).stdout.splitlines()
    assert table[0].split() == ["VERSION", "FORMAT", "BYTES", "INTERFACE", "UPDATED", "PATCHES", "DESCRIPTION"]
    assert table[-1].endswith("x" * (MAX_CELL - 1) + "…")


def test_patches_are_told_with_the_reasons_of_those_that_are_not_there(app: Running, tmp_path: Path) -> None:
    app.skafos("models", "create", "patched", app=APP)
    for _ in (1, 2):
        (tmp_path / "m.bin").write_bytes(os.urandom(10_000))
        app.skafos("upload", str(tmp_path / "m.bin"), "--deploy", "prod", app=APP, model="patched")
    (patch,) = until(
        lambda: (
            (found := app.skafos("patches", "--to", "2", "--env", "prod", app=APP, model="patched"))
            and found[0]["state"] == "skipped"
            and found
        ),
        "the end of the patch",
    )
    assert (patch["from_version"], patch["to_version"], patch["code"]) == (1, 2, "not_smaller")
    assert [place["environment"] for place in patch["environments"]] == ["prod"]
    table = app.command("patches", app=APP, model="patched").stdout.splitlines()
    assert table[0].split() == ["FROM", "TO", "STATE", "WHY", "ENCODING", "BYTES", "FULL", "DEVICES", "REASON"]
    assert table[1].split()[:4] == ["1", "2", "skipped", "not_smaller"]
    assert "1 not_smaller" in app.command("versions", app=APP, model="patched").stdout
    assert app.skafos("versions", app=APP, model="patched")[1]["patches"]["skipped"] == {"not_smaller": 1}
    assert app.skafos("patches", "--from", "2", app=APP, model="patched") == []
    nothing = app.command("patches", "--from", "2", app=APP, model="patched")
    assert nothing.stdout == "no patch came into question yet\n"


def test_adoption_and_sql_answer_from_clickhouse(app: Running, folder: Path, tmp_path: Path) -> None:
    app.skafos("models", "create", "adopted", app=APP)
    app.skafos("upload", str(folder), "--deploy", "prod", app=APP, model="adopted")
    (prod,) = [each for each in app.skafos("environments", app=APP) if each["name"] == "prod"]
    device = ["device", "sync", "--edge", app.edge_url, "--key", prod["key"], "--model", "adopted"]
    device += ["--dir", str(tmp_path / "device")]
    until(lambda: app.skafos(*device)["version"] == 1, "version 1")

    def told() -> Any:  # its figures are asked for one after the other, so events may come in between
        found = app.skafos("adoption", "--env", "prod", app=APP, model="adopted")
        return found if found["by_day"] and found["now"] and found["installations"] else None

    report = until(told, "the installation")
    assert report["by_day"][-1]["versions"][0]["version"] == 1
    text = app.command("adoption", app=APP, model="adopted").stdout
    assert "1 installations in total" in text
    assert "v1 100.0% (1)" in text
    rows = app.skafos("sql", "SELECT count() AS n FROM events WHERE model = 'adopted' AND type = 'activate'")
    assert rows == [{"n": 1}]
    refused = app.command("sql", "SELECT * FROM system.tables")
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
    devices = until(lambda: app.skafos("device", "list", "--env", "prod", app=APP), "the registration")
    assert devices[0]["facts"]["os"] == "linux"


def test_a_device_that_goes_on_prints_a_line_of_json_for_each_check(app: Running, folder: Path, tmp_path: Path) -> None:
    app.skafos("models", "create", "watched", app=APP)
    app.skafos("upload", str(folder), "--deploy", "dev", app=APP, model="watched")
    (dev,) = [each for each in app.skafos("environments", app=APP) if each["name"] == "dev"]
    sync = ["device", "sync", "--edge", app.edge_url, "--key", dev["key"], "--model", "watched", "--every", "1"]
    with subprocess.Popen(
        [sys.executable, "-m", "skafos", *sync, "--dir", str(tmp_path / "device"), "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as device:
        try:
            assert device.stdout is not None
            first, second = (json.loads(device.stdout.readline()) for _ in range(2))
        finally:
            device.kill()
    assert (first["status"], first["version"]) == ("updated", 1)
    assert (second["status"], second["version"]) == ("current", 1)


def test_a_check_that_fails_is_a_line_of_json_too_and_the_device_goes_on(app: Running, tmp_path: Path) -> None:
    # A key of the right form that no environment has.
    (key,) = [each["key"] for each in app.skafos("environments", app=APP) if each["name"] == "dev"]
    sync = ["device", "sync", "--edge", app.edge_url, "--key", key.replace("dev-", "gone-"), "--model", "m"]
    with subprocess.Popen(
        [sys.executable, "-m", "skafos", *sync, "--every", "1", "--dir", str(tmp_path / "device"), "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as device:
        try:
            assert device.stdout is not None
            lines = [json.loads(device.stdout.readline()) for _ in range(2)]
        finally:
            device.kill()
    assert [(line["model"], line["code"]) for line in lines] == [("m", "unknown_key")] * 2
    assert all(line["error"] for line in lines)


def test_keys_are_added_revoked_and_rotated(app: Running) -> None:
    before = app.skafos("keys", "list", "--env", "dev", app=APP)
    added = app.skafos("keys", "add", "--env", "dev", "--overlap-days", "1", app=APP)
    keys = app.skafos("keys", "list", "--env", "dev", app=APP)
    assert {key["id"] for key in keys} == {added["id"], *(key["id"] for key in before)}
    unasked = app.command("keys", "revoke", before[0]["id"], "--env", "dev", app=APP)
    assert unasked.returncode != 0
    app.skafos("keys", "revoke", before[0]["id"], "--env", "dev", "--yes", app=APP)
    assert [key["id"] for key in app.skafos("keys", "list", "--env", "dev", app=APP)] == [added["id"]]
    root = app.skafos("keys", "rotate-root", "--env", "dev", app=APP)["root"]
    assert app.skafos("keys", "rotate-online", "--env", "dev", app=APP)["root"] == root + 1


def test_what_has_a_name_is_renamed_and_what_was_added_deleted(app: Running) -> None:
    made = app.skafos("apps", "create", "Naming", "--bundle-id", "org.example.naming")
    assert app.skafos("apps", "rename", "Naming", "Named")["id"] == made["app"]["id"]
    assert app.command("envs", "create", "beta", app="Named").stdout.startswith("Created environment beta. Its key: b")
    assert app.command("envs", "rename", "beta", "staging", app="Named").stdout == "Renamed beta to staging.\n"
    assert {each["name"] for each in app.skafos("environments", app="Named")} == {"dev", "prod", "staging"}
    refused = app.command("envs", "rename", "dev", "other", app="Named")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    unasked = app.command("envs", "delete", "staging", app="Named")
    assert unasked.returncode == 1
    assert app.skafos("envs", "delete", "staging", "--yes", app="Named") == {"deleted": "staging"}
    app.skafos("models", "create", "one", app="Named")
    assert app.skafos("models", "rename", "one", "two", app="Named")["name"] == "two"
    assert [each["name"] for each in app.skafos("models", "list", app="Named")] == ["two"]
    another = app.skafos("orgs", "create", "before")
    try:
        assert app.skafos("orgs", "rename", "before", "after")["id"] == another["id"]
    finally:
        with app.client() as client:
            client.delete_organization(another["id"])


def test_a_device_is_erased_and_stays_away(app: Running, folder: Path, tmp_path: Path) -> None:
    private = (app.organization, "Private")
    with app.client() as client:
        client.create_app(*private, "org.example.private", "ios")
        client.create_model(*private, MODEL)
        client.upload_version(*private, MODEL, folder / "Data" / "weights.bin")
        client.deploy(*private, MODEL)
        key = next(each.key for each in client.list_environments(*private) if each.name == "dev")
        assert key is not None
        sync = ["device", "sync", "--edge", app.edge_url, "--key", key, "--model", MODEL, "--dir"]
        app.skafos(*sync, str(tmp_path / "device"))

        def reporting() -> set[str]:
            return {
                row["device_id"]
                for row in client.sql("SELECT device_id FROM events WHERE application = 'Private'").rows
            }

        (device_id,) = until(reporting, "its events")
        refused = app.command("erase", "device", device_id)
        assert (refused.returncode, "not confirmed" in refused.stderr) == (1, True)
        erased = app.skafos("erase", "device", device_id, "--yes")

        assert (erased["kind"], erased["finished_at"] is not None) == ("device", True)
        assert reporting() == set()
        # The device does not know. What it sends is dropped, while the next one's events arrive.
        app.skafos(*sync, str(tmp_path / "device"))
        app.skafos(*sync, str(tmp_path / "another"))
        assert device_id not in until(reporting, "the other's events")
        registered = until(lambda: client.list_devices(*private, "dev"), "the other's registration")
        assert device_id not in {each.device_id for each in registered}


def test_an_organization_is_erased_by_typing_its_name(app: Running) -> None:
    connection = {name: app.settings()[name] for name in ("SKAFOS_URL", "SKAFOS_API_TOKEN")}
    with app.client() as client:
        client.create_organization("leaving")
        mistyped = run("erase", "organization", "leaving", typed="leavin\n", **connection)
        assert (mistyped.returncode, "not confirmed" in mistyped.stderr) == (1, True)

        erased = run("erase", "organization", "leaving", typed="leaving\n", **connection)

        assert (erased.returncode, erased.stdout) == (0, "Erased organization leaving.\n")
        assert "leaving" not in {each.name for each in client.list_organizations()}


def test_tokens_are_created_used_and_revoked(app: Running) -> None:
    made = app.skafos("tokens", "create", "for a test")
    used = run("tokens", "list", "--json", SKAFOS_URL=app.connection["control_url"], SKAFOS_API_TOKEN=made["token"])
    assert made["id"] in {each["id"] for each in json.loads(used.stdout)}
    assert made["token"] not in used.stdout
    bounds = ("--organization", app.organization, "--role", "viewer", "--days", "7")
    less = app.skafos("tokens", "create", "for less", *bounds)
    assert (less["organization"], less["role"]) == (app.organization, "viewer")
    assert less["expires_at"] > less["created_at"]
    for token in (less, made):
        app.skafos("tokens", "revoke", token["id"])
    after = run("tokens", "list", SKAFOS_URL=app.connection["control_url"], SKAFOS_API_TOKEN=made["token"])
    assert (after.returncode, after.stderr) == (1, "error: Invalid Skafos API Token\n")


def test_the_only_organization_need_not_be_named(app: Running) -> None:
    settings = {"SKAFOS_URL": app.connection["control_url"], "SKAFOS_API_TOKEN": app.connection["api_token"]}
    assert [each["name"] for each in app.skafos("orgs", "list")] == [app.organization]
    listed = run("apps", "list", "--json", **settings)
    assert APP in {each["name"] for each in json.loads(listed.stdout)}
    another = app.skafos("orgs", "create", "another")
    try:
        refused = run("apps", "list", "--json", **settings)
    finally:
        with app.client() as client:
            client.delete_organization(another["id"])
    assert (refused.returncode, refused.stderr) == (
        1,
        f"error: Which organization? Give --org or SKAFOS_ORG_NAME: another, {app.organization}.\n",
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["versions", "--model", MODEL], "Which app? Give --app or set SKAFOS_APP_NAME."),
        (["versions", "--app", APP], "Which model? Give --model or set SKAFOS_MODEL_NAME."),
        (["versions", "--app", APP, "--model", "nothing"], None),
        (["upload", "/does/not/exist", "--app", APP, "--model", MODEL], None),
        (["deploy", "first", "--app", APP, "--model", MODEL], "A version is a number or latest, not 'first'."),
        (
            ["deploy", "--app", APP, "--model", MODEL, "--condition", "x"],
            "A condition is written FACT.PART=VALUE, not 'x'.",
        ),
        (["deploy", "--app", APP, "--model", MODEL, "--condition", "shoe.min=3"], None),
        (["rollback", "--env", "nowhere", "--app", APP, "--model", MODEL], None),
        (["delta", "info", "/does/not/exist"], "There is no file /does/not/exist."),
        (["device", "sync", "--key", "x", "--model", "m", "--dir", "/dev/null/x"], "This is no environment key."),
    ],
)
def test_a_failure_is_one_line_and_exit_code_1(app: Running, arguments: list[str], says: str | None) -> None:
    settings = {**app.settings(), "SKAFOS_ORG_NAME": app.organization}
    failed = run(*arguments, **settings)
    assert (failed.returncode, failed.stdout) == (1, "")
    (line,) = failed.stderr.splitlines()
    assert line == f"error: {says}" if says else line.startswith("error: ")


def test_without_a_server_or_a_token_the_line_says_so() -> None:
    assert run("orgs", "list").stderr == "error: Missing Skafos API Token\n"
    away = run("orgs", "list", SKAFOS_URL="http://127.0.0.1:9", SKAFOS_API_TOKEN="x")
    assert away.returncode == 1
    assert away.stderr.startswith("error: Cannot reach http://127.0.0.1:9: ")


@pytest.mark.parametrize("arguments", [["nonsense"], ["deploy", "--nonsense"], ["rollback"], ["up", "--workers", "0"]])
def test_wrong_use_is_exit_code_2(arguments: list[str]) -> None:
    assert run(*arguments).returncode == 2


def test_patches_between_files_are_made_applied_and_shown(tmp_path: Path) -> None:
    old, new, patch, again = (str(tmp_path / name) for name in ("old", "new", "patch", "again"))
    Path(old).write_bytes(bytes(100_000))
    Path(new).write_bytes(bytes(100_000) + b"!")
    assert "of" in run("delta", "make", old, new, patch).stdout
    shown = json.loads(run("delta", "info", patch, "--json").stdout)
    assert (shown["encoding"], shown["new_length"]) == ("skafos-delta", 100_001)
    assert run("delta", "apply", old, patch, again).returncode == 0
    assert Path(again).read_bytes() == Path(new).read_bytes()
    wrong = run("delta", "apply", new, patch, again)
    assert wrong.stderr == "error: The old file is not the one that the patch was made from.\n"


def test_a_patch_is_explained_region_by_region(tmp_path: Path) -> None:
    old, new, patch = (str(tmp_path / name) for name in ("old", "new", "patch"))
    Path(old).write_bytes(bytes(100_000))
    Path(new).write_bytes(bytes(50_000) + b"!" + bytes(50_000))
    explained = run("delta", "make", old, new, patch, "--explain").stdout
    assert "tried " in explained
    assert "IN THE PATCH" in explained
    told = json.loads(run("delta", "make", old, new, patch, "--explain", "--json").stdout)
    assert sum(region["length"] for region in told["regions"]) == 100_001
    assert {region["how"] for region in told["regions"]} >= {"copy"}
    other = run("delta", "make", old, new, patch, "--explain", "--encoding", "zstd-prefix").stdout
    assert "no regions" in other
    assert run("delta", "make", old, new, patch, "--encoding", "nonsense").returncode != 0
