"""The supervisor of `skafos up`, with small programs of our own as children."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skafos.supervise import (
    FIRST_DELAY_SECONDS,
    HEALTHY_SECONDS,
    LONGEST_DELAY_SECONDS,
    Child,
    Program,
    RotatingLog,
    Supervisor,
    describe_end,
    last_lines,
    next_delay,
)

# Writes its name into the journal when it ends in an orderly way, and its process id when it starts.
ORDERLY = """
import os, pathlib, signal, sys, time
journal, ready = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
def end(*_):
    with journal.open("a") as file: file.write(sys.argv[3] + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("started", flush=True)
ready.with_suffix(".part").write_text(str(os.getpid()))
ready.with_suffix(".part").replace(ready)
while True: time.sleep(60)
"""

DEAF = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[2]).write_text("deaf")
while True: time.sleep(60)
"""


def program(folder: Path, name: str, source: str) -> Program:
    """Return a program that runs ``source`` with the paths of the journal and of its ready file."""
    ready = folder / f"{name}.ready"
    command = (sys.executable, "-c", source, str(folder / "journal"), str(ready), name)
    return Program(name, command, dict(os.environ), folder, folder / f"{name}.log", ready)


async def until_ready(child: Child, but_not: int | None = None) -> int:
    """Wait until the child runs and has said so, as another process than ``but_not``; return its process id."""
    ready = child.program.ready_file
    assert ready is not None
    await until(lambda: child.pid not in (None, but_not) and ready.exists())
    assert child.pid is not None
    return child.pid


async def until(holds: Callable[[], bool]) -> None:
    """Wait until ``holds`` returns true; the test's own time limit is the bound."""
    while not holds():  # noqa: ASYNC110  what is waited for happens in another process
        await asyncio.sleep(0.01)


def has_ended(process: psutil.Process) -> bool:
    """Tell whether ``process`` runs no more; it may wait to be reaped where process 1 does not reap."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


async def test_a_child_that_is_killed_is_started_again(tmp_path: Path) -> None:
    said: list[str] = []
    supervisor = Supervisor(said.append)
    child = supervisor.start(program(tmp_path, "one", ORDERLY))
    first = await until_ready(child)

    os.kill(first, signal.SIGKILL)
    second = await until_ready(child, but_not=first)

    assert second != first
    assert said == [f"one was ended by SIGKILL; starting it again in {FIRST_DELAY_SECONDS:g} s"]
    await supervisor.stop(10)
    assert not psutil.pid_exists(second)


async def test_a_program_whose_log_cannot_be_opened_does_not_run(tmp_path: Path) -> None:
    said: list[str] = []
    one = program(tmp_path, "one", ORDERLY)
    one.log.mkdir()
    supervisor = Supervisor(said.append)
    before = set(psutil.Process().children())  # servers that other tests share
    child = supervisor.start(one)
    await until(lambda: child.starts >= 2)
    children = set(psutil.Process().children()) - before
    await supervisor.stop(10)

    assert said[0] == "one could not be started (Is a directory); starting it again in 0.2 s"
    assert children == set()


async def test_children_end_in_reverse_order(tmp_path: Path) -> None:
    supervisor = Supervisor(lambda _: None)
    for name in ("first", "second", "third"):
        await until_ready(supervisor.start(program(tmp_path, name, ORDERLY)))

    await supervisor.stop(10)

    assert (tmp_path / "journal").read_text().split() == ["third", "second", "first"]


async def test_a_child_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    said: list[str] = []
    supervisor = Supervisor(said.append)
    pid = await until_ready(supervisor.start(program(tmp_path, "deaf", DEAF)))

    await supervisor.stop(0.3)

    assert said == ["deaf did not end in time and was killed"]
    assert not psutil.pid_exists(pid)


async def test_what_a_dead_child_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    leaves_one_behind = (
        f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {DEAF!r}, *sys.argv[1:]]).wait()"
    )
    supervisor = Supervisor(lambda _: None)
    child = supervisor.start(program(tmp_path, "parent", leaves_one_behind))
    pid = await until_ready(child)
    (worker,) = psutil.Process(pid).children()

    await supervisor.stop(5)

    await until(lambda: has_ended(worker))


async def test_a_program_that_cannot_start_is_tried_again_with_growing_delays_and_its_log_is_named(
    tmp_path: Path,
) -> None:
    said: list[str] = []
    supervisor = Supervisor(said.append)
    child = supervisor.start(program(tmp_path, "broken", "import sys; sys.exit(3)"))
    await until(lambda: child.starts >= 3)
    await supervisor.stop(5)

    assert said[:2] == [
        "broken ended with exit code 3; starting it again in 0.2 s",
        f"broken ended with exit code 3; starting it again in 0.4 s (see {tmp_path / 'broken.log'})",
    ]


@given(lived=st.floats(0, 1e6), previous=st.none() | st.floats(FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS))
def test_the_delay_is_bounded_and_starts_anew_after_a_healthy_life(lived: float, previous: float | None) -> None:
    delay = next_delay(previous, lived)
    assert FIRST_DELAY_SECONDS <= delay <= LONGEST_DELAY_SECONDS
    if previous is None or lived >= HEALTHY_SECONDS:
        assert delay == FIRST_DELAY_SECONDS
    else:
        assert delay >= previous


def test_a_log_keeps_two_bounded_files(tmp_path: Path) -> None:
    log = RotatingLog(tmp_path / "x.log", limit=100)
    for number in range(50):
        log.write(b"line %02d\n" % number)
    log.close()

    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.log", "x.log.1"]
    assert all(path.stat().st_size <= 100 for path in tmp_path.iterdir())
    assert last_lines(tmp_path / "x.log", 1) == "line 49"


def test_a_log_that_cannot_be_turned_over_keeps_its_bound_and_goes_on_when_it_can(tmp_path: Path) -> None:
    (tmp_path / "x.log.1").mkdir()
    log = RotatingLog(tmp_path / "x.log", limit=20)
    for number in range(10):
        log.write(b"line %d\n" % number)
    assert (tmp_path / "x.log").stat().st_size <= 20

    (tmp_path / "x.log.1").rmdir()
    log.write(b"at last\n")
    log.close()

    assert last_lines(tmp_path / "x.log", 9) == "at last"
    assert last_lines(tmp_path / "x.log.1", 9) == "line 0\nline 1"


@pytest.mark.parametrize(
    ("status", "words"),
    [(3, "ended with exit code 3"), (-signal.SIGTERM, "was ended by SIGTERM"), (-40, "was ended by signal 40")],
)
def test_an_end_is_described_in_words(status: int, words: str) -> None:
    assert describe_end(status) == words


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
async def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    source = f"""
import asyncio
from pathlib import Path
from skafos.supervise import Supervisor
from tests.skafos.test_supervise import ORDERLY, program
async def main():
    Supervisor(print).start(program(Path({str(tmp_path)!r}), "orphan", ORDERLY))
    await asyncio.sleep(60)
asyncio.run(main())
"""
    root = Path(__file__).parents[2]
    supervisor = await asyncio.create_subprocess_exec(sys.executable, "-c", source, cwd=root)
    ready = tmp_path / "orphan.ready"
    await until(ready.exists)
    child = psutil.Process(int(ready.read_text()))

    supervisor.kill()
    await supervisor.wait()

    await until(lambda: has_ended(child))
    assert not (tmp_path / "journal").exists()


async def test_what_was_said_of_an_earlier_run_is_gone_when_a_child_is_started(tmp_path: Path) -> None:
    running = Supervisor(lambda sentence: None)
    (tmp_path / "next.ready").write_text("of another day")
    child = running.start(program(tmp_path, "next", ORDERLY))
    assert not (tmp_path / "next.ready").exists()
    assert await until_ready(child) == int((tmp_path / "next.ready").read_text())
    await running.stop(seconds=10)
