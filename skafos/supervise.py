"""Keeps a set of programs running: starts them, starts them again when they die, and ends them in reverse order.

Every child is the leader of a session of its own, so a Ctrl-C at the terminal reaches the supervisor alone, which
then ends its children in order; and whatever a dead child left behind (its worker processes) is ended with its group.
A child's output goes through a pipe into a log of bounded size.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

LAUNCHER = Path(__file__).with_name("child.py")

# The first restart is nearly at once, because most deaths are accidents; a program that cannot live is not started
# more often than each ten seconds. One that lived for half a minute counts as healthy again.
FIRST_DELAY_SECONDS = 0.2
LONGEST_DELAY_SECONDS = 10.0
HEALTHY_SECONDS = 30.0

# Two files of 5 MB hold several days of a quiet installation, and are nothing on a laptop's disk.
LOG_BYTES = 5 << 20
LOG_READ_BYTES = 64 << 10


@dataclass(frozen=True)
class Program:
    """What to run: its name, command, whole environment, working directory, log, and the file it writes when ready."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    directory: Path
    log: Path
    ready_file: Path | None = None


def next_delay(previous: float | None, lived: float) -> float:
    """Return the seconds to wait before a dead program is started again.

    Args:
        previous: the delay before its last start, None if that was its first.
        lived: how many seconds it ran.
    """
    if previous is None or lived >= HEALTHY_SECONDS:
        return FIRST_DELAY_SECONDS
    return min(previous * 2, LONGEST_DELAY_SECONDS)


class RotatingLog:
    """An append-only log that keeps at most ``limit`` bytes and one older file of the same size (``.1``)."""

    def __init__(self, path: Path, limit: int = LOG_BYTES) -> None:
        """Open ``path`` for appending; ``limit`` is in bytes."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._limit = limit
        self._file = path.open("ab", buffering=0)

    def write(self, chunk: bytes) -> None:
        """Append ``chunk``, turning the log over first when it would grow past its bound."""
        # A full disk must not stop the programs: what cannot be written is lost.
        with contextlib.suppress(OSError):
            if self._file.tell() and self._file.tell() + len(chunk) > self._limit:
                self._turn_over()
            self._file.write(chunk)

    def _turn_over(self) -> None:
        # It may have been renamed already, by a turn whose new file could not be opened.
        with contextlib.suppress(FileNotFoundError):
            self._path.replace(self._path.with_name(self._path.name + ".1"))
        fresh = self._path.open("ab", buffering=0)
        self._file.close()
        self._file = fresh

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Child:
    """One program, kept running until it is stopped."""

    def __init__(self, program: Program, report: Callable[[str], None]) -> None:
        """Prepare to run ``program``; ``report`` is told in a sentence when it dies."""
        self.program = program
        self.starts = 0
        self._report = report
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Return the process id while it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    def start(self) -> None:
        """Begin to run the program and to start it again whenever it dies.

        What an earlier supervisor's child wrote when it was ready is gone on return, so that nobody believes it.
        """
        self._unsay_ready()
        self._task = asyncio.create_task(self._keep_running(), name=f"child {self.program.name}")

    async def _keep_running(self) -> None:
        delay: float | None = None
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                end = describe_end(await self._run_once())
            except OSError as error:  # no process, descriptor or memory to be had just now
                end = f"could not be started ({error.strerror})"
            if self._stopping.is_set():
                return
            delay = next_delay(delay, time.monotonic() - began)
            # One death is an accident. Of more than one, the log says more.
            log = "" if delay == FIRST_DELAY_SECONDS else f" (see {self.program.log})"
            self._report(f"{self.program.name} {end}; starting it again in {delay:g} s{log}")
            await asyncio.sleep(delay)

    async def _run_once(self) -> int:
        """Run the program to its end, copying its output to the log, and return its status."""
        self.starts += 1
        self._unsay_ready()
        # First of all, because a program whose output nobody takes must not run.
        log = RotatingLog(self.program.log)
        reading, writing = os.pipe()
        try:
            process = await spawn(self.program, output=writing)
        except BaseException:
            os.close(reading)
            log.close()
            raise
        finally:
            os.close(writing)
        self._process = process
        copying = asyncio.create_task(copy_output(reading, log))
        try:
            status = await process.wait()
        finally:
            # Its workers, if any, hold the pipe and whatever else it had open: they end with it.
            kill_group(process.pid, signal.SIGKILL)
        await copying
        return status

    def _unsay_ready(self) -> None:
        if self.program.ready_file:
            self.program.ready_file.unlink(missing_ok=True)

    async def stop(self, seconds: float) -> bool:
        """End the program with SIGTERM, or after ``seconds`` with SIGKILL; return whether it ended by itself."""
        self._stopping.set()
        if self._task is None:
            return True
        if self._process is None or self._process.returncode is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            return True
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        done, _ = await asyncio.wait([self._task], timeout=seconds)
        if not done:
            kill_group(self._process.pid, signal.SIGKILL)
            await asyncio.wait([self._task])
        return bool(done)


class Supervisor:
    """Children in the order in which they were started."""

    def __init__(self, report: Callable[[str], None]) -> None:
        """Make an empty supervisor; ``report`` is told in a sentence whatever happens to a child."""
        self._report = report
        self.children: list[Child] = []

    def start(self, program: Program) -> Child:
        """Start ``program`` and keep it running."""
        child = Child(program, self._report)
        self.children.append(child)
        child.start()
        return child

    async def stop(self, seconds: float) -> None:
        """End all children, the last started first, within about ``seconds`` altogether."""
        deadline = time.monotonic() + seconds
        for child in reversed(self.children):
            if not await child.stop(max(0.1, deadline - time.monotonic())):
                self._report(f"{child.program.name} did not end in time and was killed")
        self.children.clear()


async def spawn(program: Program, output: int) -> asyncio.subprocess.Process:
    """Start ``program`` as a session of its own that dies with this process and writes to the descriptor ``output``.

    The pipe is ours and not asyncio's, because ``wait`` of a process with pipes lasts until they are closed, which a
    worker left behind by a dead program would delay for ever.
    """
    launcher = (sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()))
    return await asyncio.create_subprocess_exec(
        *launcher,
        *program.command,
        env=dict(program.environment),
        cwd=program.directory,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


async def copy_output(descriptor: int, log: RotatingLog) -> None:
    """Write everything that comes from the pipe ``descriptor`` to ``log``, and close both."""
    stream = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(descriptor, "rb", buffering=0)
    )
    try:
        while chunk := await stream.read(LOG_READ_BYTES):
            log.write(chunk)
    finally:
        transport.close()
        log.close()


def kill_group(pid: int, number: signal.Signals) -> None:
    """Send the signal ``number`` to the process group that ``pid`` leads, if it still has members."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def describe_end(status: int) -> str:
    """Return in words how a program with this ``returncode`` ended."""
    if status < 0:
        return f"was ended by {signal_name(-status)}"
    return f"ended with exit code {status}"


def signal_name(number: int) -> str:
    """Return the name of the signal ``number``; real-time signals have none in Python."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def last_lines(path: Path, count: int) -> str:
    """Return the last ``count`` lines of the log at ``path``, for an error message."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_READ_BYTES))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-count:])
    except FileNotFoundError:
        return ""
