"""Manifests in Redis: one hash a key, a sorted set of revisions, and a channel for notices.

    skafos:environment:<key>   hash: bundle, etag, revision, labels (JSON), and each TUF file under its name;
                               of a withdrawn key: revision and withdrawn, for TOMBSTONE_SECONDS
    skafos:revisions           sorted set: the key's revision; below zero once it is withdrawn
    skafos:withdrawn           sorted set: when the key's tombstone ends, in seconds since 1970
    skafos:notices             channel: "<revision> <key>", the revision below zero for a withdrawn key
    skafos:generation          text: set when everything has been published; absent when Redis was emptied
    skafos:filling             text: set before everything is published; another or absent: emptied meanwhile

The hash decides: a script compares and sets it, touching that one key, so it runs in a cluster too. The set and the
channel only tell where to look, follow after it, and are told again whenever the same revision is published again.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from dataclasses import asdict
from typing import Any

import structlog
from redis.exceptions import RedisClusterException, RedisError

from manifests.redis_client import RedisClient
from manifests.store import (
    WITHDRAWN,
    CorruptPublication,
    Labels,
    Notice,
    Publication,
    Resubscribed,
    StoreUnavailable,
    Withdrawn,
)

ENVIRONMENT_PREFIX = "skafos:environment:"
REVISIONS = "skafos:revisions"
WITHDRAWN_KEYS = "skafos:withdrawn"
NOTICES = "skafos:notices"
GENERATION = "skafos:generation"
FILLING = "skafos:filling"

# Keys are never made twice, so a tombstone only has to outlive late publishers and edges that were cut off. A server
# that is emptied loses its tombstones with the rest; whoever fills it withdraws those keys again.
TOMBSTONE_SECONDS = 30 * 24 * 3600
# After this long without a notice the subscription is tried with a PING: a connection can be dead and look alive.
IDLE_SECONDS = 10.0
FIRST_PAUSE_SECONDS = 0.1
# The edges poll the revisions as well, so a longer wait costs nothing but seconds of delay.
LONGEST_PAUSE_SECONDS = 5.0

# What the hash holds beside the TUF files, whose names all end in ".json".
_FILE_SUFFIX = ".json"

# KEYS: the hash. ARGV: the revision, then field, value, field, value… Returns 1 when the publication now stands there.
# The first HSET is for a server that is out of memory: it refuses a script's first write if that needs memory, and
# nothing after it, so the refusal comes before anything is lost.
_PUBLISH = """
local revision = tonumber(redis.call('HGET', KEYS[1], 'revision') or 0)
if revision > tonumber(ARGV[1]) or redis.call('HEXISTS', KEYS[1], 'withdrawn') == 1 then
  return 0
end
redis.call('HSET', KEYS[1], 'revision', ARGV[1])
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'revision', ARGV[1])
for i = 2, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
return 1
"""

# KEYS: the hash. ARGV: the revision, the tombstone's seconds. Returns the revision that the key was withdrawn at.
_WITHDRAW = """
local revision = math.max(tonumber(redis.call('HGET', KEYS[1], 'revision') or 0), tonumber(ARGV[1]))
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'revision', string.format('%d', revision), 'withdrawn', '1')
redis.call('EXPIRE', KEYS[1], ARGV[2])
return revision
"""

log = structlog.get_logger(__name__)


class RedisManifestStore:
    """A `ManifestStore` in Redis: one server, the master that Sentinel names, or a cluster."""

    def __init__(
        self,
        client: RedisClient,
        *,
        clock: Callable[[], float] = time.time,
        idle_seconds: float = IDLE_SECONDS,
        tombstone_seconds: int = TOMBSTONE_SECONDS,
    ) -> None:
        """Use a client that answers in bytes, as `connect_redis` makes it. Who made the client closes it."""
        # Any: redis-py types every answer as "a value or an awaitable of one", for its two kinds of client at once.
        self._client: Any = client
        self._clock = clock
        self._idle_seconds = idle_seconds
        self._tombstone_seconds = tombstone_seconds

    async def publish(self, publication: Publication) -> bool:
        """See `ManifestStore.publish`."""
        key, revision = publication.key, publication.revision
        fields = [part for field in _fields(publication).items() for part in field]
        with failures_as_unavailable():
            if not await self._client.eval(_PUBLISH, 1, ENVIRONMENT_PREFIX + key, revision, *fields):
                return False
            # GT: when two publishers meet here, the set ends with the newer revision too.
            await self._client.zadd(REVISIONS, {key: revision}, gt=True)
            await self._tell(key, revision)
        return True

    async def withdraw(self, key: str, revision: int) -> None:
        """See `ManifestStore.withdraw`."""
        with failures_as_unavailable():
            newest = await self._client.eval(_WITHDRAW, 1, ENVIRONMENT_PREFIX + key, revision, self._tombstone_seconds)
            await self._client.zadd(WITHDRAWN_KEYS, {key: self._clock() + self._tombstone_seconds})
            await self._client.zadd(REVISIONS, {key: -newest})
            await self._tell(key, -newest)
            await self._forget_old_tombstones()

    async def load(self, key: str) -> Publication | Withdrawn | None:
        """See `ManifestStore.load`."""
        with failures_as_unavailable():
            fields: dict[bytes, bytes] = await self._client.hgetall(ENVIRONMENT_PREFIX + key)
        if not fields:
            return None
        if b"withdrawn" in fields:
            return WITHDRAWN
        return _publication(key, fields)

    async def revisions(self) -> dict[str, int]:
        """See `ManifestStore.revisions`."""
        with failures_as_unavailable():
            scores = await self._client.zrange(REVISIONS, 0, -1, withscores=True)
            withdrawn = set(await self._client.zrange(WITHDRAWN_KEYS, 0, -1))
        # A publisher that was overtaken by a withdrawal can leave its revision above zero.
        return {key.decode(): -abs(int(score)) if key in withdrawn else int(score) for key, score in scores}

    async def notices(self) -> AsyncIterator[Notice | Resubscribed]:
        """See `ManifestStore.notices`."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                async with aclosing(self._subscription()) as subscription:
                    async for notice in subscription:
                        pause = FIRST_PAUSE_SECONDS
                        yield notice
            except StoreUnavailable as error:
                log.warning("manifest_notices_lost", error=str(error), next_try_seconds=pause)
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - so that edges do not return in step
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def generation(self) -> str | None:
        """See `ManifestStore.generation`."""
        with failures_as_unavailable():
            value: bytes | None = await self._client.get(GENERATION)
        return None if value is None else value.decode()

    async def set_generation(self, value: str) -> None:
        """See `ManifestStore.set_generation`."""
        with failures_as_unavailable():
            await self._client.set(GENERATION, value)

    async def begin_filling(self, value: str) -> None:
        """See `ManifestStore.begin_filling`."""
        with failures_as_unavailable():
            await self._client.set(FILLING, value)

    async def end_filling(self, value: str) -> bool:
        """See `ManifestStore.end_filling`.

        A publication is a hash and then a revision. Emptied between these two, Redis would have the revision alone, and
        who compares revisions would never miss the hash. Emptied after the look here, it has no revisions either.
        """
        with failures_as_unavailable():
            if await self._client.get(FILLING) != value.encode():
                return False
        await self.set_generation(value)
        return True

    async def ping(self) -> None:
        """See `ManifestStore.ping`."""
        with failures_as_unavailable():
            await self._client.ping()

    async def _tell(self, key: str, revision: int) -> None:
        # Not `publish`, which the cluster client does not have; the command reaches every node's subscribers.
        await self._client.execute_command("PUBLISH", NOTICES, f"{revision} {key}")

    async def _forget_old_tombstones(self) -> None:
        ended = await self._client.zrangebyscore(WITHDRAWN_KEYS, "-inf", self._clock())
        if ended:
            await self._client.zrem(REVISIONS, *ended)
            await self._client.zrem(WITHDRAWN_KEYS, *ended)

    async def _subscription(self) -> AsyncGenerator[Notice | Resubscribed, None]:
        """Yield the notices of one subscription, until it breaks with `StoreUnavailable`."""
        with failures_as_unavailable():
            pubsub = self._client.pubsub()
            try:
                await pubsub.subscribe(NOTICES)
                async for message in self._messages(pubsub):
                    notice = _notice(message)
                    if notice is not None:
                        yield notice
            finally:
                with suppress(RedisError, OSError):
                    await pubsub.aclose()

    async def _messages(self, pubsub: Any) -> AsyncIterator[Mapping[str, Any]]:
        unanswered = False
        while True:
            message = await pubsub.get_message(timeout=self._idle_seconds)
            if message is not None:
                unanswered = False
                yield message
            elif unanswered:
                raise StoreUnavailable("the subscription does not answer")
            else:
                await pubsub.ping()
                unanswered = True


@contextmanager
def failures_as_unavailable() -> Iterator[None]:
    """Tell of whatever goes wrong with Redis within the block as `StoreUnavailable`."""
    try:
        yield
    except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
        # The kind of error only: messages of the client can hold addresses.
        raise StoreUnavailable(f"Redis: {type(error).__name__}") from error


def _notice(message: Mapping[str, Any]) -> Notice | Resubscribed | None:
    # redis-py subscribes again by itself after a short cut, and says so with another "subscribe".
    if message["type"] == "subscribe":
        return Resubscribed()
    if message["type"] != "message":
        return None
    revision, _, key = message["data"].partition(b" ")
    try:
        return Notice(key.decode(), int(revision))
    except ValueError:
        log.warning("manifest_notice_unreadable")
        return None


def _fields(publication: Publication) -> dict[str, bytes]:
    for name in publication.files:
        if not name.endswith(_FILE_SUFFIX):
            raise ValueError(f"{name} is no name of a TUF metadata file")
    return {
        "bundle": publication.body,
        "etag": publication.etag.encode(),
        "labels": json.dumps(asdict(publication.labels)).encode(),
        **publication.files,
    }


def _publication(key: str, fields: Mapping[bytes, bytes]) -> Publication:
    try:
        return Publication(
            key=key,
            revision=int(fields[b"revision"]),
            body=fields[b"bundle"],
            etag=fields[b"etag"].decode(),
            files={name.decode(): data for name, data in fields.items() if name.endswith(_FILE_SUFFIX.encode())},
            labels=Labels(**json.loads(fields[b"labels"])),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise CorruptPublication(f"{ENVIRONMENT_PREFIX}{key} holds no publication") from error
