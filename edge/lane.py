"""The lane: answers checks out of memory, and hands every other request over to aiohttp.

99 of 100 requests ask whether there is a newer manifest. When what has been read is one or several whole checks of the
strict grammar in `edge.request_head`, for manifests that are in memory, the lane writes answers that were made
beforehand. At the first byte of anything else it gives the connection and all bytes from there on to aiohttp; answers
keep their order because both write to the same transport.

Devices of one kind that hold the same manifest ask with the same bytes, so the answer to a head is remembered as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from prometheus_client import Counter

from edge import metrics
from edge.conditional import names_tag
from edge.prepared import Answer, Clock, PreparedManifest, PreparedManifests
from edge.request_head import CRLF, END, MAX_HEAD_BYTES, HeadReader

_OTHER = metrics.HANDED_OVER.labels("other")
_FRAGMENT = metrics.HANDED_OVER.labels("fragment")


class Desk:
    """What all lanes of a worker share.

    Args:
        prepared: what there is to answer with.
        clock: told the time by whoever owns the desk.
        hand_over: gives a connection to aiohttp, with what has been read of it.
        counted: called with +1 and -1 as connections come and go.
    """

    __slots__ = ("answers", "clock", "counted", "hand_over", "heads", "lanes", "manifests", "reader")

    def __init__(
        self,
        prepared: PreparedManifests,
        clock: Clock,
        hand_over: Callable[[asyncio.Transport, bytes], None],
        counted: Callable[[int], None],
    ) -> None:
        self.manifests = prepared.by_request_line
        self.heads = prepared.by_head
        self.answers = prepared.by_head.entries
        self.clock = clock
        self.hand_over = hand_over
        self.counted = counted
        self.reader = HeadReader()
        self.lanes: set[Lane] = set()

    def leave_all_to_aiohttp(self) -> None:
        """Answer nothing more."""
        self.manifests = {}
        self.answers = {}

    def answer_to(self, head: bytes) -> Answer | None:
        """Return the answer to what ends with an empty line; None when it is not one head, or aiohttp is to answer."""
        end = head.find(CRLF)
        manifest = self.manifests.get(head[:end])
        if manifest is None:
            return None
        fields = self.reader.read(head, end)
        if fields is None or fields.conditional or fields.body_bytes is not None:
            return None
        answer = _choose(manifest, fields.tag)
        # What comes once, as with an id of its own in each request, would only push out what comes again.
        if answer is not None and not fields.new:
            self.heads.add(head, answer)
        return answer


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
    holds is bounded by the transport's write buffer and by one read.
    """

    __slots__ = ("_desk", "_paused", "_rest", "_transport", "seen")

    _transport: asyncio.Transport

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._paused = False
        self._rest = b""
        self.seen = desk.clock.now

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to serve a new connection."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its bases
        self._desk.lanes.add(self)
        self._desk.counted(+1)

    def connection_lost(self, exc: BaseException | None) -> None:  # noqa: ARG002 - whatever ended it, it is gone
        """Forget the connection."""
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
        answer = desk.answers.get(data)
        if answer is None and data[-4:] == END and len(data) <= MAX_HEAD_BYTES:
            answer = desk.answer_to(data)
        if answer is None or self._paused:
            self._take_apart(data)
            return
        if answer.date is not desk.clock.date:
            answer.refresh(desk.clock.date)
        answer.tally.count += 1
        self._transport.write(answer.content)
        self.seen = desk.clock.now

    def _take_apart(self, data: bytes) -> None:
        """Answer the checks with which ``data`` begins, one after another; hand over from what is not for us on."""
        desk = self._desk
        start = 0
        while start < len(data):
            if self._paused:
                self._rest += data[start:]
                return
            end = data.find(END, start, start + MAX_HEAD_BYTES) + len(END)
            if end < len(END):
                self._hand_over(data[start:], _FRAGMENT)
                return
            head = data[start:end]
            answer = desk.answers.get(head) or desk.answer_to(head)
            if answer is None:
                self._hand_over(data[start:], _OTHER)
                return
            if answer.date is not desk.clock.date:
                answer.refresh(desk.clock.date)
            answer.tally.count += 1
            self._transport.write(answer.content)
            self.seen = desk.clock.now
            start = end

    def _hand_over(self, data: bytes, reason: Counter) -> None:
        reason.inc()
        self._desk.lanes.discard(self)
        self._desk.hand_over(self._transport, data)

    def pause_writing(self) -> None:
        """Read nothing more until the client has taken what is written."""
        self._paused = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on with what was read before the pause, then read on."""
        self._paused = False
        if self._transport.is_closing():
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
        """Close the connection once the client has taken what is written."""
        self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()
