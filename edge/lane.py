"""The lane: answers checks out of memory, sends blobs, stores good batches, and hands all else over to aiohttp.

99 of 100 requests ask whether there is a newer manifest. When what has been read is one or several whole checks of the
strict grammar in `edge.request_head`, for manifests that are in memory, the lane writes answers that were made
beforehand. At the first byte of anything else it gives the connection and all bytes from there on to aiohttp; answers
keep their order because both write to the same transport. Batches of events (`edge.batches`) are answered once they are
durable, and blobs that lie on the disk go within the kernel (`edge.blob_lane`); what comes behind one waits until then.

Devices of one kind that hold the same manifest ask with the same bytes, so the answer to a head is remembered as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from prometheus_client import Counter

from edge import metrics
from edge.batches import Batches, Taken
from edge.blob_lane import BlobLane, Sending
from edge.conditional import names_tag
from edge.head_patterns import HeadPatterns
from edge.memory import Doorkeeper
from edge.prepared import MAX_HEADS, Answer, Clock, PreparedManifest, PreparedManifests
from edge.request_head import CRLF, END, MAX_HEAD_BYTES, HeadReader, value_of

_OTHER = metrics.HANDED_OVER.labels("other")
_FRAGMENT = metrics.HANDED_OVER.labels("fragment")


@dataclass(frozen=True, slots=True)
class Answering:
    """What lanes answer with: manifests that were prepared, batches of events that are taken, blobs that are sent."""

    prepared: PreparedManifests
    batches: Batches
    blobs: BlobLane


class Desk:
    """What all lanes of a worker share.

    Args:
        answering: what there is to answer with.
        clock: told the time by whoever owns the desk.
        hand_over: gives a connection to aiohttp, with what has been read of it.
        counted: called with +1 and -1 as connections come and go.
    """

    __slots__ = (
        "answers",
        "batches",
        "blobs",
        "clock",
        "counted",
        "doorkeeper",
        "hand_over",
        "heads",
        "lanes",
        "leaving",
        "manifests",
        "patterns",
        "reader",
        "refusal",
    )

    def __init__(
        self,
        answering: Answering,
        clock: Clock,
        hand_over: Callable[[asyncio.Transport, bytes], None],
        counted: Callable[[int], None],
    ) -> None:
        self.manifests = answering.prepared.by_request_line
        self.heads = answering.prepared.by_head
        self.answers: Mapping[bytes, Answer] = answering.prepared.by_head
        self.refusal: Callable[[bytes], Answer | None] = answering.prepared.refusal
        self.batches = answering.batches
        self.blobs = answering.blobs
        self.leaving = False
        self.clock = clock
        self.hand_over = hand_over
        self.counted = counted
        self.reader = HeadReader()
        self.patterns = HeadPatterns()
        self.doorkeeper = Doorkeeper(MAX_HEADS)
        self.lanes: set[Lane] = set()

    def leave_all_to_aiohttp(self) -> None:
        """Answer nothing more, but end what is on its way to the disk or to a client."""
        self.leaving = True
        self.manifests = {}
        self.answers = {}
        self.refusal = _no_refusal

    def answer_to(self, head: bytes) -> Answer | None:
        """Return the answer to what ends with an empty line; None when it is not one head, or aiohttp is to answer."""
        end = head.find(CRLF)
        manifest = self.manifests.get(head[:end])
        refusal = self.refusal(head[:end]) if manifest is None else None
        if manifest is None and refusal is None:
            return None
        read = self._read(head, end)
        if read is None:
            return None
        if manifest is None:
            return refusal
        conditional, tag = read
        answer = None if conditional else _choose(manifest, tag)
        if answer is not None:
            # What comes once, as with an id of its own in each request, would only push out what comes again.
            if self.doorkeeper.came_before(head):
                self.heads.add(head, answer)
            else:
                metrics.CHECKS.new_heads += 1
        return answer

    def is_check(self, line: bytes) -> bool:
        """Say whether this is the request line of a check that can be answered here."""
        return line in self.manifests or self.refusal(line) is not None

    def _read(self, head: bytes, end: int) -> tuple[bool, bytes | None] | None:
        """Return whether a head has other conditions than ``If-None-Match``, and the value of that.

        None when it is not of the grammar, or a body follows it.
        """
        fits = self.patterns.match(head, end)
        if fits is not None:
            return False, fits[1].rstrip(b" \t") if fits.lastindex else None
        found = self.reader.scan(head, end)
        if found is None or found[0].length >= 0:
            return None
        layout, lines = found
        if not layout.conditional:
            self.patterns.learn(layout.names)
        return layout.conditional, value_of(lines, layout.tag)


def _no_refusal(_: bytes) -> Answer | None:
    return None


def _choose(manifest: PreparedManifest, held: bytes | None) -> Answer | None:
    """Return the answer to a device that holds what ``If-None-Match`` names; None when it is too large for us."""
    if held is None:
        return manifest.modified
    if held == manifest.etag:
        return manifest.not_modified
    # By the rules of aiohttp's route, and decoded as aiohttp decodes.
    value = held.decode("utf-8", "surrogateescape")
    return manifest.not_modified if names_tag((value,), manifest.etag.decode(), weakly=True) else manifest.modified


class Lane(asyncio.Protocol):
    """One connection, until it is handed over.

    While the client does not take its answers, nothing is read from it and nothing more is answered: what a connection
    holds is bounded by the transport's write buffer and by one read. The same holds while a batch is being stored.
    """

    __slots__ = ("_batch", "_desk", "_leaving", "_paused", "_rest", "_taken", "_transport", "_waits", "seen")

    _transport: asyncio.Transport

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._paused = False
        self._taken: Taken | Sending | None = None
        self._waits = False  # for either of the two
        self._batch = b""
        self._rest = b""
        self._leaving = False
        self.seen = desk.clock.now

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to serve a new connection."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its bases
        self._desk.lanes.add(self)
        self._desk.counted(+1)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        if exc is not None:
            metrics.CONNECTIONS_RESET.inc()
        if isinstance(self._taken, Sending):
            self._desk.blobs.cancel(self._taken)
        self._desk.lanes.discard(self)
        self._desk.counted(-1)

    def take_back(self, transport: asyncio.Transport, *, paused: bool) -> None:
        """Serve a connection again that aiohttp has no more to do with.

        Args:
            transport: with everything answered that was read from it.
            paused: whether the client has yet to take a part of these answers.
        """
        self._transport = transport
        self._desk.lanes.add(self)
        transport.set_protocol(self)
        if paused:
            self.pause_writing()
        else:
            transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Answer, or hand over."""
        desk = self._desk
        answer = None
        if len(data) <= MAX_HEAD_BYTES:
            answer = desk.answers.get(data)
            if answer is None and data[-4:] == END:
                answer = desk.answer_to(data)
        if answer is None or self._waits:
            self._take_apart(data)
            return
        if answer.date is not desk.clock.date:
            answer.refresh(desk.clock.date)
        answer.tally.count += 1
        self._transport.write(answer.content)
        self.seen = desk.clock.now

    def _take_apart(self, data: bytes) -> None:
        """Answer what ``data`` begins with, one request after another; hand over from what is not for us on."""
        desk = self._desk
        start = 0
        while start < len(data):
            if self._waits:
                self._rest += data[start:]
                self._transport.pause_reading()
                return
            end = data.find(END, start, start + MAX_HEAD_BYTES) + len(END)
            if end < len(END):
                self._hand_over(data[start:], _FRAGMENT)
                return
            posted = data.startswith(b"POST ", start)
            answer = None if posted else self._answer_to(data[start:end])
            if answer is None:
                taken = None if desk.leaving else self._take(data, start, end, posted=posted)
                if taken is None:
                    self._hand_over(data[start:], _OTHER)
                    return
                self._taken = taken
                self._waits = True
                start = taken.end
                continue
            if answer.date is not desk.clock.date:
                answer.refresh(desk.clock.date)
            answer.tally.count += 1
            self._transport.write(answer.content)
            self.seen = desk.clock.now
            start = end

    def _answer_to(self, head: bytes) -> Answer | None:
        return self._desk.answers.get(head) or self._desk.answer_to(head)

    def _take(self, data: bytes, start: int, head_end: int, *, posted: bool) -> Taken | Sending | None:
        """Begin to answer what takes its time: a blob that we send, or a batch that we have stored."""
        desk = self._desk
        if not posted:
            return desk.blobs.take(desk.reader, data, start, head_end, self._transport, desk.clock, self._sent)
        taken = desk.batches.take(desk.reader, data, start, head_end, self._settle)
        if taken is not None:
            self._batch = data[start : taken.end]
        return taken

    def _sent(self, error: Exception | None) -> None:
        """Go on behind a blob that was sent; or end a connection on which the rest of it cannot come."""
        self._taken, rest, self._rest = None, self._rest, b""
        self._waits = self._paused
        transport = self._transport
        if transport.is_closing():
            return
        if error is not None:
            transport.abort()
            return
        self.seen = self._desk.clock.now
        if self._leaving:
            transport.close()
            return
        self._go_on(rest)

    def _settle(self, error: Exception | None) -> None:
        """Answer for a batch that was stored, and go on with what came behind it."""
        taken, batch, rest = self._taken, self._batch, self._rest
        assert isinstance(taken, Taken)
        self._taken, self._batch, self._rest = None, b"", b""
        self._waits = self._paused
        transport = self._transport
        if transport.is_closing():
            return
        if error is None:
            desk = self._desk
            self.seen = desk.clock.now
            transport.write(desk.batches.answer(taken.count, desk.clock.date, last=self._leaving))
            if self._leaving:
                transport.close()
                return
        elif self._paused:
            rest = batch + rest
        else:
            # It was not kept. aiohttp tries once more, and tells what is wrong.
            if not transport.is_reading():
                transport.resume_reading()
            self._hand_over(batch + rest, _OTHER)
            return
        self._go_on(rest)

    def _go_on(self, rest: bytes) -> None:
        """Take up what came while something else was going on."""
        if not self._paused and not self._transport.is_reading():
            self._transport.resume_reading()
        self._take_apart(rest)

    def _hand_over(self, data: bytes, reason: Counter) -> None:
        reason.inc()
        self._desk.lanes.discard(self)
        self._desk.hand_over(self._transport, data)

    def pause_writing(self) -> None:
        """Read nothing more until the client has taken what is written."""
        self._paused = self._waits = True
        metrics.PAUSED.inc()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on with what was read before the pause, then read on."""
        self._paused = False
        self._waits = self._taken is not None
        if self._waits or self._transport.is_closing():
            return
        self.seen = self._desk.clock.now
        rest, self._rest = self._rest, b""
        self._transport.resume_reading()
        self._take_apart(rest)

    def sweep(self, now: float, idle: float, stall: float) -> None:
        """End the connection when nothing has happened on it for too long.

        Args:
            now: on the desk's clock.
            idle: seconds for a client that asks nothing.
            stall: seconds for a client that does not take its answers.
        """
        if self._taken is not None:
            return  # it is we who are slow, or `edge.sendfile` that watches the client
        quiet = now - self.seen
        if self._paused or self._transport.is_closing():
            if quiet > stall:
                metrics.STALLED.inc()
                self.abort()
        elif quiet > idle:
            metrics.IDLE_CLOSED.inc()
            self.seen = now  # from here on it has the time to take what is written
            self.close()

    def close(self) -> None:
        """Close the connection once the client has taken what is written, and the answer that is under way."""
        if self._taken is None:
            self._transport.close()
        else:
            self._leaving = True

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()
