"""The lane: answers checks out of memory, and hands every other request over to aiohttp.

99 of 100 requests ask whether there is a newer manifest. When what has been read is one or several whole checks of the
strict grammar in `edge.request_head`, for manifests that are in memory, the lane writes answers that were made
beforehand. At the first byte of anything else it gives the connection and all bytes from there on to aiohttp; answers
keep their order because both write to the same transport.

A header block is read in full once and then remembered. Remembered is what is left of a head without its request line
and its ``If-None-Match`` line, so devices of one kind share an entry. Why finding those parts again is safe, is said
where it happens.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import cast

from edge import metrics
from edge.prepared import Clock, PreparedManifest
from edge.request_head import CRLF, END, MAX_HEAD_BYTES, parse_head, strong_tag

# 4 MiB at the most, and in practice a tenth of it. Kinds of devices number in the hundreds: app and OS version, and
# language. A block that is longer, or differs with every request, is read in full each time.
MAX_BLOCKS = 4096
MAX_BLOCK_BYTES = 1024

_TITLE_CASE = b"\r\nIf-None-Match: "
_LOWER_CASE = b"\r\nif-none-match: "

_OTHER = metrics.HANDED_OVER.labels("other")
_FRAGMENT = metrics.HANDED_OVER.labels("fragment")


class HeaderMemory:
    """Header blocks that the strict grammar has accepted; the oldest are forgotten for new ones."""

    __slots__ = ("_in_order", "_most", "blocks")

    def __init__(self, most: int = MAX_BLOCKS) -> None:
        self._most = most
        self._in_order: deque[bytes] = deque()
        self.blocks: set[bytes] = set()

    def add(self, block: bytes) -> None:
        """Remember an accepted block, unless it is too long."""
        if len(block) > MAX_BLOCK_BYTES or block in self.blocks:
            return
        if len(self._in_order) >= self._most:
            self.blocks.discard(self._in_order.popleft())
        self._in_order.append(block)
        self.blocks.add(block)


class Desk:
    """What all lanes of a worker share.

    Args:
        manifests: by the request line that asks for each.
        clock: told the time by whoever owns the desk.
        hand_over: gives a connection to aiohttp, with what has been read of it.
        counted: called with +1 and -1 as connections come and go.
    """

    __slots__ = ("clock", "counted", "hand_over", "lanes", "manifests", "memory", "remembered")

    def __init__(
        self,
        manifests: Mapping[bytes, PreparedManifest],
        clock: Clock,
        hand_over: Callable[[asyncio.Transport, bytes], None],
        counted: Callable[[int], None],
    ) -> None:
        self.manifests = manifests
        self.clock = clock
        self.hand_over = hand_over
        self.counted = counted
        self.memory = HeaderMemory()
        self.remembered = self.memory.blocks
        self.lanes: set[Lane] = set()


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
        """Answer, or hand over.

        This is the way of a check that is alone in ``data`` and whose header block is remembered; everything else goes
        the long way. Why it finds nothing that the grammar would not: ``data`` ends with an empty line, and a
        remembered block ends with its only empty line. The block that is looked up is all of ``data`` but its first
        line and the ``If-None-Match`` line, both cut at line ends. So no other line of ``data`` is empty, unless it
        lies at the cut; there the last line before the cut would have to end where the block's last empty line begins,
        and the cut is followed by at least the four bytes with which ``data`` ends. The cut line itself has no line
        end inside, and its value must be our tag, or one tag of the grammar.
        """
        desk = self._desk
        end = data.find(CRLF)
        manifest = desk.manifests.get(data[:end])
        if manifest is None or data[-4:] != END or self._paused:
            self._take_apart(data)
            return
        at = data.find(_TITLE_CASE, end)
        if at < 0:
            at = data.find(_LOWER_CASE, end)
        if at < 0:
            tag = None
            block = data[end:]
        else:
            stop = data.find(CRLF, at + 17)
            tag = data[at + 17 : stop]
            block = data[end:at] + data[stop:]
        if block not in desk.remembered:
            self._take_apart(data)
            return
        if manifest.date is not desk.clock.date:
            manifest.refresh(desk.clock.date)
        if tag == manifest.etag:
            manifest.tally.not_modified += 1
            self._transport.write(manifest.not_modified)
        elif not self._answer_other_tag(manifest, tag):
            self._give_away(data)
            return
        self.seen = desk.clock.now

    def _answer_other_tag(self, manifest: PreparedManifest, value: bytes | None) -> bool:
        """Answer a check without a tag, with another one, or with one that is written otherwise; say if we did."""
        if value is not None:
            tag = strong_tag(value.strip(b" \t"))
            if tag is None:
                return False
            if tag == manifest.etag:
                manifest.tally.not_modified += 1
                self._transport.write(manifest.not_modified)
                return True
        manifest.tally.modified += 1
        self._transport.writelines(manifest.whole)
        return True

    def _take_apart(self, data: bytes) -> None:
        """Answer the checks with which ``data`` begins, one after another; hand over from what is not for us on."""
        start = 0
        while start < len(data):
            if self._paused:
                self._rest += data[start:]
                return
            end = data.find(END, start, start + MAX_HEAD_BYTES) + len(END)
            if end < len(END):
                _FRAGMENT.inc()
                self._hand_over(data[start:])
                return
            if not self._answer(data[start:end]):
                self._give_away(data[start:])
                return
            start = end

    def _answer(self, head: bytes) -> bool:
        """Read a head in full and answer it; say whether it is a check that we can answer."""
        desk = self._desk
        manifest = desk.manifests.get(head[: head.find(CRLF)])
        if manifest is None:
            return False
        parsed = parse_head(head)
        if parsed is None or parsed.conditional or parsed.body_bytes is not None:
            return False
        if parsed.block not in desk.remembered:
            metrics.HEADERS_LEARNED.inc()
            desk.memory.add(parsed.block)
        if manifest.date is not desk.clock.date:
            manifest.refresh(desk.clock.date)
        self.seen = desk.clock.now
        return self._answer_other_tag(manifest, parsed.tag)

    def _give_away(self, data: bytes) -> None:
        _OTHER.inc()
        self._hand_over(data)

    def _hand_over(self, data: bytes) -> None:
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

    def sweep(self, idle_since: float, stalled_since: float) -> None:
        """End the connection when nothing has happened on it since these moments.

        Args:
            idle_since: of a client that asks nothing.
            stalled_since: of a client that does not take its answers.
        """
        if self._paused:
            if self.seen < stalled_since:
                metrics.STALLED.inc()
                self._transport.abort()
        elif self.seen < idle_since:
            metrics.IDLE_CLOSED.inc()
            self.close()

    def close(self) -> None:
        """Close the connection once the client has taken what is written."""
        self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()
