"""A private PostgreSQL server on loopback: in a folder of its own, as an ordinary user, ended by its process id."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.components import free_port, require

START_SECONDS = 30.0
STOP_SECONDS = 15.0

# The data is thrown away, so nothing has to survive a power cut. The locale is one that sorts by code point, as SQLite.
INITDB_OPTIONS = ("--auth=trust", "--username=skafos", "--encoding=UTF8", "--locale=C", "--no-sync")
SERVER_OPTIONS = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "shared_buffers=16MB")


def ordinary_user() -> str | None:
    """Return the user to run as, for PostgreSQL refuses root; None when we are no root."""
    if os.getuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@dataclass
class PostgresServer:
    """A server that can be stopped and started again on the same port and data.

    Args:
        folder: holds its data and log; belongs to the ordinary user.
        port: on loopback.
        settings: of the server, as `name=value`.
    """

    folder: Path
    port: int
    user: str | None = field(default_factory=ordinary_user)
    settings: tuple[str, ...] = SERVER_OPTIONS
    _process: subprocess.Popen[bytes] | None = None
    _databases: int = 0

    def initialize(self) -> None:
        """Make an empty cluster."""
        if self.user is not None:
            shutil.chown(self.folder, self.user)
        self._run("initdb", *INITDB_OPTIONS, "-D", str(self.folder / "data"))

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = [part for option in self.settings for part in ("-c", option)]
        listen = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.folder}"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [require("postgres"), "-D", self.folder / "data", "-p", str(self.port), *listen, *options],
                stdout=log,
                stderr=log,
                user=self.user,
                cwd=self.folder,
            )
        self._wait()

    def stop(self) -> None:
        """Stop the server at once, ending its connections; do nothing if it has stopped."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGINT)  # "fast shutdown" (PostgreSQL 15, section 19.5)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def new_database(self, template: str = "template0") -> str:
        """Make a database, empty or a copy of another one that nobody is connected with, and return its URL."""
        self._databases += 1
        name = f"test_{self._databases}"
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "skafos", "-T", template, name)
        return f"postgresql://skafos@127.0.0.1:{self.port}/{name}"

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with suppress(subprocess.CalledProcessError):
                self._run("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port))
                return
            time.sleep(0.05)
        log = (self.folder / "log").read_text(errors="replace")
        self.stop()
        raise AssertionError(f"PostgreSQL does not answer:\n{log[-2000:]}")

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [require(program), *arguments], check=True, capture_output=True, user=self.user, cwd=self.folder, timeout=60
        )


@contextmanager
def running_postgres(settings: tuple[str, ...] = SERVER_OPTIONS) -> Iterator[PostgresServer]:
    """Run a private server while the block lasts."""
    require("postgres")
    folder = Path(tempfile.mkdtemp(prefix="skafos-postgres-"))
    server = PostgresServer(folder, free_port(), settings=settings)
    try:
        server.initialize()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for the whole run; each user of it makes a database of its own."""
    with running_postgres() as server:
        yield server
