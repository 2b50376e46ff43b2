"""Batches of events that need nothing but storing: taken in the lane, answered when they are durable.

A batch is taken when its request is one whole of the strict grammar (`edge.request_head`), in one read, not compressed,
for an environment that is in memory, and when every event in it is good. Everything else, what is refused among it, is
for aiohttp's route (`edge.intake`), which answers the same to what is taken here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from edge import metrics
from edge.manifest_cache import ManifestCache
from edge.memory import BoundedMemory
from edge.prepared import PLAIN_KEY
from edge.request_head import CRLF, HeadReader
from manifests.store import Labels
from telemetry.events import InvalidBatch, decode_batch
from telemetry.spool import EventLabels, Settle, SpoolClosed, SpoolFull

# What a device reports in a day has some KB. Decoding this much takes half a millisecond, in which nobody is answered.
MAX_LANE_BATCH_BYTES = 64 * 1024

# Fields of requests that bring batches: devices of one kind send the same, but for the length. 1 MiB at the most.
MAX_HEADS = 1024
MAX_HEAD_FIELD_BYTES = 1024

_ACCEPTED = metrics.EVENTS.labels("accepted")
_ANSWERED = metrics.REQUESTS.labels("events", "202")


class BatchSpool(Protocol):
    """What is needed of the spool."""

    def submit(self, labels: EventLabels, events: bytes, received_ms: int, settle: Settle) -> None:
        """Take a batch, and call ``settle`` later; or raise `SpoolFull` or `SpoolClosed`."""
        ...


class _Body(NamedTuple):
    """What a head says of the body behind it.

    Args:
        length: in bytes.
        content_type: None when it tells none.
    """

    length: int
    content_type: str | None


@dataclass(slots=True)
class Taken:
    """A batch that is on its way to the disk.

    Args:
        end: where its request ends in what was read.
        count: of events.
    """

    end: int
    count: int


class Batches:
    """Takes batches for all lanes of a worker.

    Args:
        cache: whose environments' events are taken; followed from now on.
        spool: where they go.
        max_bytes: longest body that the edge takes; none over `MAX_LANE_BATCH_BYTES` is taken here.
        clock: tells the present moment, in seconds since 1970.
    """

    def __init__(
        self, cache: ManifestCache, spool: BatchSpool, max_bytes: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._cache = cache
        self._spool = spool
        self._max_bytes = min(max_bytes, MAX_LANE_BATCH_BYTES)
        self._clock = clock
        self._labels: dict[bytes, EventLabels] = {}
        self._bodies: BoundedMemory[_Body] = BoundedMemory(MAX_HEADS, MAX_HEAD_FIELD_BYTES)
        self._answers: dict[int, bytes] = {}
        self._answers_date = b""
        self._uncounted_batches = 0
        self._uncounted_events = 0
        cache.on_change(self._prepare)

    def take(self, reader: HeadReader, data: bytes, start: int, head_end: int, settle: Settle) -> Taken | None:
        """Take the batch of a request, or return None when aiohttp is to have it.

        Args:
            reader: reads its head.
            data: what was read.
            start: where the request begins in it.
            head_end: where its head ends, with the empty line.
            settle: called once when the batch is durable, or with the error that kept it from becoming so.
        """
        line_end = data.find(CRLF, start, head_end)
        labels = self._labels.get(data[start:line_end])
        if labels is None:
            return None
        body = self._bodies.get(data[line_end:head_end]) or self._read(reader, data[start:head_end], line_end - start)
        if body is None:
            return None
        end = head_end + body.length
        if end > len(data):
            return None
        try:
            batch = decode_batch(data[head_end:end], body.content_type)
        except InvalidBatch:
            return None
        if batch.refused_count or not batch.count:
            return None
        try:
            self._spool.submit(labels, batch.raw, int(self._clock() * 1000), settle)
        except (SpoolFull, SpoolClosed):
            return None
        return Taken(end, batch.count)

    def _read(self, reader: HeadReader, head: bytes, line_end: int) -> _Body | None:
        """Return what a head says of its body, or None when aiohttp is to judge it."""
        read = reader.read(head, line_end)
        if read is None or read.body_bytes is None or read.content_encoding is not None:
            return None
        if read.body_bytes > self._max_bytes:
            return None
        body = _Body(read.body_bytes, None if read.content_type is None else read.content_type.decode("latin-1"))
        self._bodies.add(head[line_end:], body)
        return body

    def answer(self, count: int, date: bytes, *, last: bool) -> bytes:
        """Return the answer to a batch that is durable, every event in it accepted, as aiohttp's route gives it.

        It is counted when the loop comes round: with the others of its commit, since a counter takes as long as the
        answer. Answers are kept for the second that their date is right.

        Args:
            count: of events.
            date: as answers state it.
            last: whether the connection is closed after it.
        """
        if not self._uncounted_batches:
            asyncio.get_running_loop().call_soon(self._count)
        self._uncounted_batches += 1
        self._uncounted_events += count
        if last:
            return _answer(count, date, b"Connection: close\r\n")
        if date is not self._answers_date:
            self._answers_date = date
            self._answers.clear()
        content = self._answers.get(count)
        if content is None:
            content = self._answers[count] = _answer(count, date, b"")
        return content

    def _count(self) -> None:
        _ANSWERED.inc(self._uncounted_batches)
        _ACCEPTED.inc(self._uncounted_events)
        self._uncounted_batches = self._uncounted_events = 0

    def _prepare(self, key: str) -> None:
        if not PLAIN_KEY.fullmatch(key):
            return  # aiohttp answers for it
        line = f"POST /v2/environments/{key}/events HTTP/1.1".encode()
        environment = self._cache.get(key)
        if environment is None:
            self._labels.pop(line, None)
        else:
            self._labels[line] = event_labels(environment.labels)


def event_labels(labels: Labels) -> EventLabels:
    """Return what is recorded with each event of an environment."""
    return EventLabels(
        organization_id=labels.organization_id,
        organization=labels.organization,
        application_id=labels.application_id,
        application=labels.application,
        environment=labels.environment,
    )


def accepted(count: int, refused: list[dict[str, object]], refused_count: int) -> dict[str, object]:
    """Return what a device is told of its batch."""
    return {"accepted": count, "refused": refused, "refused_count": refused_count}


def _answer(count: int, date: bytes, closing: bytes) -> bytes:
    body = b'{"accepted": %d, "refused": [], "refused_count": 0}' % count
    return (
        b"HTTP/1.1 202 Accepted\r\nCache-Control: no-store\r\nContent-Type: application/json; charset=utf-8\r\n"
        b"Content-Length: %d\r\nDate: %b\r\n%b\r\n%b"
    ) % (len(body), date, closing, body)
