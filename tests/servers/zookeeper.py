"""A private ZooKeeper on loopback: Debian's, from a directory of its own, ended by its process id."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.components import free_port, require

START_SECONDS = 30.0
JAR = Path("/usr/share/java/zookeeper.jar")
"""Of Debian's ``libzookeeper-java``; it names the other archives that it needs."""

CONFIG = """tickTime=500
dataDir={data}
clientPort={port}
clientPortAddress=127.0.0.1
admin.enableServer=false
4lw.commands.whitelist=srvr,cons
"""


@contextmanager
def running_zookeeper(directory: Path) -> Iterator[int]:
    """Run a ZooKeeper within the block; its port is given."""
    java = require("java")
    jar = require("libzookeeper-java", JAR if JAR.exists() else None)
    port = free_port()
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "zoo.cfg").write_text(CONFIG.format(data=directory / "data", port=port))
    # Small and quick to start: it holds some hundred nodes for a minute.
    options = ("-Xmx64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
    main = "org.apache.zookeeper.server.ZooKeeperServerMain"
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [java, *options, "-cp", f"{jar}:/usr/share/java/slf4j-nop.jar", main, directory / "zoo.cfg"],
            stdout=log,
            stderr=log,
        )
    try:
        _wait(port, process, directory / "log")
        yield port
    finally:
        process.kill()  # nothing in it is kept
        process.wait()


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _answers(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"ZooKeeper did not start: {log.read_text()[-2000:]}")
        time.sleep(0.05)


def settled_clients(port: int) -> int:
    """Return how many clients have done what they do at first, and look at children of nodes, or are silent."""
    return sum(
        "sid=" in line and ("lop=GETC" in line or "lop=PING" in line) for line in _asked(port, b"cons").splitlines()
    )


def _answers(port: int) -> bool:
    """Tell whether it serves: `ruok` is answered before that, and a ClickHouse 18.16 that starts meanwhile gives up."""
    return "Mode: standalone" in _asked(port, b"srvr")


def _asked(port: int, word: bytes) -> str:
    """Return the answer to a word of four letters; nothing when there is none."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as probe:
            probe.sendall(word)
            with probe.makefile("rb") as answer:
                return answer.read().decode()
    except OSError:
        return ""
