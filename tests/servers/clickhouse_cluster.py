"""A cluster of Debian's ClickHouse servers on loopback: two shards of two replicas, and a ZooKeeper."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.components import free_port
from tests.servers.clickhouse import PASSWORD, START_SECONDS, ClickHouseServer, prepared
from tests.servers.zookeeper import running_zookeeper, settled_clients

NAME = "skafos"
SHARDS = ("a", "b")
REPLICAS = ("1", "2")


@contextmanager
def clickhouse_cluster(directory: Path) -> Iterator[dict[str, ClickHouseServer]]:
    """Run the cluster ``NAME`` within the block; its servers are given by name: a1 and a2 hold one shard, b1 and b2 the
    other."""
    with running_zookeeper(directory / "zookeeper") as zookeeper:
        ports = {shard + replica: free_port() for shard in SHARDS for replica in REPLICAS}
        servers = {
            name: prepared(directory / name, port, _configuration(name, ports, zookeeper))
            for name, port in ports.items()
        }
        with ThreadPoolExecutor(len(servers)) as threads:
            list(threads.map(ClickHouseServer.start, servers.values()))
        try:
            _wait_for_queue(zookeeper, len(servers))
            yield servers
        finally:
            with ThreadPoolExecutor(len(servers)) as threads:
                list(threads.map(ClickHouseServer.kill, servers.values()))  # nothing in them is kept


def _wait_for_queue(zookeeper: int, servers: int) -> None:
    """Return when every server looks at the queue of statements: 18.16 dies of ``ON CLUSTER`` before that (seen)."""
    deadline = time.monotonic() + START_SECONDS
    while settled_clients(zookeeper) < servers:
        if time.monotonic() > deadline:
            raise RuntimeError("the servers do not look at their queue of statements")
        time.sleep(0.05)


def _configuration(name: str, ports: dict[str, int], zookeeper: int) -> str:
    shards = "".join(
        "<shard><internal_replication>true</internal_replication>"
        + "".join(_replica(ports[shard + replica]) for replica in REPLICAS)
        + "</shard>"
        for shard in SHARDS
    )
    return f"""<interserver_http_host>127.0.0.1</interserver_http_host>
  <zookeeper><node><host>127.0.0.1</host><port>{zookeeper}</port></node>
    <session_timeout_ms>5000</session_timeout_ms></zookeeper>
  <distributed_ddl><path>/clickhouse/task_queue/ddl</path></distributed_ddl>
  <macros><shard>{name[0]}</shard><replica>{name[1]}</replica></macros>
  <remote_servers><{NAME}>{shards}</{NAME}></remote_servers>"""


def _replica(port: int) -> str:
    return (
        f"<replica><host>127.0.0.1</host><port>{port}</port><user>default</user>"
        f"<password>{PASSWORD}</password></replica>"
    )
