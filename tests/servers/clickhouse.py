"""A private ClickHouse server on loopback: Debian's, from a directory of its own, ended by its process id."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clickhouse_driver import Client, errors

from tests.components import free_port, require

START_SECONDS = 20.0
STOP_SECONDS = 10.0

CONFIG = """<yandex>
  <logger><level>warning</level><log>{path}/server.log</log><errorlog>{path}/error.log</errorlog></logger>
  <listen_host>127.0.0.1</listen_host>
  <tcp_port>{port}</tcp_port>
  <http_port>{http_port}</http_port>
  <interserver_http_port>{interserver_port}</interserver_http_port>
  <path>{path}/data/</path>
  <tmp_path>{path}/tmp/</tmp_path>
  <user_files_path>{path}/user_files/</user_files_path>
  <format_schema_path>{path}/format_schemas/</format_schema_path>
  <users_config>{path}/users.xml</users_config>
  <default_profile>default</default_profile>
  <default_database>default</default_database>
  <mark_cache_size>16777216</mark_cache_size>
  <max_concurrent_queries>50</max_concurrent_queries>
</yandex>
"""

# 18.16 calls LowCardinality experimental; every later version has it without a switch.
USERS = """<yandex>
  <profiles><default>
    <allow_experimental_low_cardinality_type>1</allow_experimental_low_cardinality_type>
  </default></profiles>
  <users><default>
    <password>{password}</password>
    <networks><ip>127.0.0.1</ip></networks>
    <profile>default</profile><quota>default</quota>
  </default></users>
  <quotas><default/></quotas>
</yandex>
"""

PASSWORD = "only-for-tests"


@dataclass
class ClickHouseServer:
    """A running (or stopped) server. ``url`` stays the same over stop and start."""

    directory: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"clickhouse://default:{PASSWORD}@127.0.0.1:{self.port}/skafos"

    def start(self) -> None:
        """Start it and wait until it answers."""
        program = require("clickhouse-server")
        self.process = subprocess.Popen(
            [program, f"--config-file={self.directory}/config.xml"],
            cwd=self.directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                log = self.directory / "error.log"
                raise RuntimeError(
                    f"clickhouse-server did not start: {log.read_text()[-2000:] if log.exists() else ''}"
                )
            time.sleep(0.05)

    def answers(self) -> bool:
        """Tell whether a query is answered."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        client = Client("127.0.0.1", self.port, password=PASSWORD, connect_timeout=1)
        try:
            client.execute("SELECT 1")
        except (errors.Error, OSError, EOFError):
            return False
        finally:
            client.disconnect()
        return True

    def stop(self) -> None:
        """End it in an orderly way."""
        self._end(kill=False)

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(kill=True)

    def _end(self, kill: bool) -> None:
        if self.process is None:
            return
        if kill:
            self.process.kill()
        else:
            self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


@contextmanager
def clickhouse_server(directory: Path) -> Iterator[ClickHouseServer]:
    """Run a private server with its data in ``directory``."""
    require("clickhouse-server")
    for name in ("data", "tmp", "user_files", "format_schemas"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    server = ClickHouseServer(directory, free_port())
    (directory / "config.xml").write_text(
        CONFIG.format(path=directory, port=server.port, http_port=free_port(), interserver_port=free_port())
    )
    (directory / "users.xml").write_text(USERS.format(password=PASSWORD))
    server.start()
    try:
        yield server
    finally:
        server.stop()
