"""What the ``skafos`` command is given wrongly ends in one line, or in wrong use; never in a traceback."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from skafos.cli import INTERRUPTED
from skafos.client import Client
from skafos.exceptions import InvalidParamError
from tests.command import PATIENCE_SECONDS, ROOT, run
from tests.flows.running import until

# A byte that is no UTF-8, as Python holds it.
NO_UTF8 = "a\udcff"
NOBODY = {"SKAFOS_URL": "http://127.0.0.1:9", "SKAFOS_API_TOKEN": "x"}
KEY = "dev-5unyezgtgxsz-k4fwvcn65mdhd2wi7wbp4vvgja"
NAMES = ["--org", "o", "--app", "a", "--model", "m"]
REVOKE = ["keys", "revoke", "some-id", "--env", "dev", "--org", "o", "--app", "a"]
WRONG_ADDRESSES = [
    *("h:8800", "ftp://h", "http://", "http://h:abc", "http://h:99999", "http://h\x01", "http://[::1", "http://h?x"),
    *("http://h#x", "http://a..b", f"http://{'a' * 64}.org", f"http://{NO_UTF8}"),
]


def failed_with_one_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the sentence of a failure, having seen that there is nothing else."""
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


@pytest.mark.parametrize("address", WRONG_ADDRESSES)
def test_an_address_that_is_none_is_said_to_be_none(address: str) -> None:
    with pytest.raises(InvalidParamError, match="The address of Skafos"):
        Client(address, "x")


@pytest.mark.parametrize("address", ["http://h:abc", "http://h\x01"])
def test_the_command_says_where_a_wrong_address_was_given(address: str, tmp_path: Path) -> None:
    said = failed_with_one_line(run("orgs", "list", SKAFOS_URL=address, SKAFOS_API_TOKEN="x"))
    assert said.startswith("The address of Skafos (SKAFOS_URL) is no address: ")
    options = ["--edge", address, "--key", KEY, "--model", "m", "--dir", str(tmp_path)]
    said = failed_with_one_line(run("device", "sync", *options))
    assert said.startswith("The edge's address (--edge, SKAFOS_EDGE_URL) is no address: ")


def test_a_password_in_an_address_is_not_shown() -> None:
    assert "secret" not in failed_with_one_line(run("orgs", "list", SKAFOS_URL="u:secret@h", SKAFOS_API_TOKEN="x"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["versions", "--org", NO_UTF8, "--app", "a", "--model", "m"],
        ["deploy", "--org", "o", "--app", "a", "--model", NO_UTF8],
        ["tokens", "create", NO_UTF8],
        ["device", "sync", "--key", KEY, "--dir", "d", "--edge", "http://127.0.0.1:9", "--model", "m", "--os", NO_UTF8],
    ],
)
def test_a_name_that_is_no_text_is_refused(arguments: list[str]) -> None:
    assert failed_with_one_line(run(*arguments, **NOBODY)) == r"'a\udcff' is no valid UTF-8."


def test_a_query_that_is_no_text_is_refused() -> None:
    assert "UTF-8" in failed_with_one_line(run("sql", "-", typed=NO_UTF8, **NOBODY))


def test_a_path_that_is_no_text_is_shown_with_escapes(tmp_path: Path) -> None:
    old, patch = str(tmp_path / NO_UTF8), str(tmp_path / f"{NO_UTF8}.patch")
    Path(old).write_bytes(bytes(1000))
    made = run("delta", "make", old, old, patch)
    assert (made.returncode, made.stderr) == (0, "")
    assert r"a\udcff.patch: " in made.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        *(["keys", "add", "--env", "dev", "--overlap-days", days] for days in ("inf", "nan", "367")),
        *(["deploy", "--percent", percent, *NAMES] for percent in ("nan", "0")),
        *(["device", "sync", "--key", KEY, "--dir", "d", "--model", "m", "--every", each] for each in ("inf",)),
    ],
)
def test_a_number_that_cannot_be_is_wrong_use(arguments: list[str]) -> None:
    done = run(*arguments, **NOBODY)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Invalid value" in done.stderr


@pytest.mark.parametrize(("listen", "says"), [("bad", "HOST:PORT"), ("127.0.0.1:65535", "edge 1 would listen on")])
def test_workers_with_a_wrong_metrics_address_are_refused(listen: str, says: str, tmp_path: Path) -> None:
    settings = {"SKAFOS_EDGE_METRICS_LISTEN": listen, "SKAFOS_EDGE_DATA": str(tmp_path)}
    said = failed_with_one_line(run("edge", "--workers", "2", **settings))
    assert said.startswith("SKAFOS_EDGE_METRICS_LISTEN: ")
    assert says in said


@pytest.mark.parametrize("typed", ["n\n", "", f"{NO_UTF8}\n"])
def test_what_was_not_confirmed_is_a_failure(typed: str) -> None:
    done = run(*REVOKE, typed=typed, **NOBODY)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Apps with key some-id will get no more updates. Revoke it? [y/N]: ")
    assert done.stderr.endswith("error: Nothing was changed: it was not confirmed. Answer y, or give --yes.\n")


def test_what_was_confirmed_is_done() -> None:
    assert "Cannot reach" in run(*REVOKE, typed="Yes\n", **NOBODY).stderr


def test_ctrl_c_at_a_question_is_an_interruption() -> None:
    terminal, its_end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "skafos", *REVOKE],
        env={**os.environ, **NOBODY, "PYTHONPATH": str(ROOT)},
        stdin=its_end,
        stderr=its_end,
        # As a shell leaves it to what is at the terminal; what runs in the background may ignore it.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    os.close(its_end)
    try:
        with open(terminal, "rb", buffering=0, closefd=False) as screen:
            asked = b""
            while b"[y/N]: " not in asked:
                asked += screen.read(1000)
        # A signal between the question and the reading of its answer is only noticed when the reading ends.
        until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_SLEEPING, "the reading of an answer")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == INTERRUPTED
    finally:
        process.kill()
        os.close(terminal)
