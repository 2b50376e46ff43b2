"""A client of Redis by URL: one server, Sentinel's present master, or a cluster."""

from __future__ import annotations

import re
from typing import Any, TypeAlias
from urllib.parse import SplitResult, unquote, urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import ExponentialWithJitterBackoff
from redis.maint_notifications import MaintNotificationsConfig

RedisClient: TypeAlias = Redis | RedisCluster

DEFAULT_PORT = 6379
DEFAULT_SENTINEL_PORT = 26379
# Redis answers in microseconds; a server that needs seconds is a server that is away.
DEFAULT_TIMEOUT_SECONDS = 5.0
# One quick second try bridges a connection that idled out. Longer waits are the caller's, who knows what else to do.
RETRIES = 1
RETRY_PAUSE_SECONDS = 0.05
RETRY_LONGEST_PAUSE_SECONDS = 0.5
# An idle connection is tried before it is used again after this long, so that a silent cut does not cost a time-out.
HEALTH_CHECK_SECONDS = 30

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")


class InvalidRedisUrl(ValueError):
    """The URL names no Redis that can be connected to. The message never holds the URL, which may hold a password."""


def connect_redis(url: str, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> RedisClient:
    """Return a client; it connects when it is first used, and answers in bytes.

    Args:
        url: `redis://`, `rediss://` (TLS) or `unix://` for one server, as redis-py takes them;
            `redis+sentinel://[user:password@]host:port,host:port/service[/database]`;
            `redis+cluster://[user:password@]host:port,host:port`; the latter two with `rediss+` for TLS.
        timeout_seconds: for connecting and for each answer.

    Raises:
        InvalidRedisUrl: the URL is none of these.
    """
    options = _options(timeout_seconds)
    try:
        parts = urlsplit(url)
        if parts.scheme.endswith("+sentinel"):
            return _connect_sentinel(parts, options)
        if parts.scheme.endswith("+cluster"):
            return _connect_cluster(parts, options)
        if parts.scheme in SCHEMES:
            return Redis.from_url(url, **options)
    except InvalidRedisUrl:
        raise
    except ValueError as error:
        raise InvalidRedisUrl("The Redis URL cannot be read") from error
    raise InvalidRedisUrl(f"A Redis URL starts with one of {', '.join(SCHEMES)}")


def _options(timeout_seconds: float) -> dict[str, Any]:
    pauses = ExponentialWithJitterBackoff(base=RETRY_PAUSE_SECONDS, cap=RETRY_LONGEST_PAUSE_SECONDS)
    return {
        "protocol": 3,
        "decode_responses": False,
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": timeout_seconds,
        "health_check_interval": HEALTH_CHECK_SECONDS,
        "retry": Retry(pauses, RETRIES),
        # A feature of hosted Redis that costs a refused command on every connection elsewhere.
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }


def _connect_sentinel(parts: SplitResult, options: dict[str, Any]) -> Redis:
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise InvalidRedisUrl("A Sentinel URL ends with the name of the service, such as /skafos")
    if not re.fullmatch("[0-9]{0,4}", database):
        raise InvalidRedisUrl("A Sentinel URL's database is a number")
    timeouts = {name: value for name, value in options.items() if name.startswith("socket_")}
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        _hosts(parts, DEFAULT_SENTINEL_PORT),
        sentinel_kwargs=timeouts,
        db=int(database or 0),
        **_credentials(parts),
        **options,
    )
    client: Redis = sentinel.master_for(service)
    return client


def _connect_cluster(parts: SplitResult, options: dict[str, Any]) -> RedisCluster:
    if parts.path.strip("/"):
        raise InvalidRedisUrl("A cluster has one database, so its URL has no path")
    nodes = [ClusterNode(host, port) for host, port in _hosts(parts, DEFAULT_PORT)]
    return RedisCluster(startup_nodes=nodes, **_credentials(parts), **options)


def _credentials(parts: SplitResult) -> dict[str, Any]:
    return {
        "username": unquote(parts.username) if parts.username else None,
        "password": unquote(parts.password) if parts.password else None,
        "ssl": parts.scheme.startswith("rediss"),
    }


def _hosts(parts: SplitResult, default_port: int) -> list[tuple[str, int]]:
    addresses = parts.netloc.rpartition("@")[2].split(",")
    hosts = []
    for address in addresses:
        one = urlsplit(f"//{address}")
        if not one.hostname:
            raise InvalidRedisUrl("The Redis URL names no host, or an empty one")
        hosts.append((one.hostname, one.port or default_port))
    return hosts
