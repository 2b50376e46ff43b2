"""Bytes go from a file to a client within the kernel: many transfers side by side, in small turns, no disk waited for.

uvloop has no ``loop.sendfile``, and refuses to watch a socket that one of its transports owns. So a transfer watches a
duplicate of the socket's descriptor, in an epoll of our own, which is itself watched by the loop:

    writable sockets → our epoll → at most `TURNS` of them at a time → one ``sendfile`` of at most `TURN_BYTES` each

The kernel hands out ready sockets in rotation, so nobody is passed over, and between two visits the loop answers
everybody else. A transfer leaves the epoll while the file's next bytes are not in memory (a thread reads them first)
and for good when it is done, cancelled, or its connection is gone; only then its duplicate is closed.

A transfer holds two descriptors and a few hundred bytes of ours. What it holds of the kernel's is bounded as well: what
waits in a socket and is not sent yet (``TCP_NOTSENT_LOWAT``, tcp(7)) is a share of `UNSENT_BYTES`.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import select
import socket
import termios
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from edge import metrics

# Bytes of one turn, of which a socket takes half at most. Less costs throughput, because a turn has a price in Python
# (2 MiB: a tenth); more keeps the others waiting longer: what a socket takes is a core's work of a millisecond.
TURN_BYTES = 8 * 1024 * 1024
# Turns between two visits of the loop to everything else.
TURNS = 4
# What a socket takes without being asked whether it can: a small range is then sent without being watched.
AT_ONCE_BYTES = 64 * 1024
# A client must take this much, or all there is, in the time it has: the slowest phone network gives 5 KiB a second.
PROGRESS_BYTES = 256 * 1024
# What may wait in the kernel for all clients together, and for one. Left to itself, Linux takes some 4 MB for a client
# that does not read, and 400 of them bring a machine of 25 GB near the end of what it gives to TCP (measured). Fewer
# clients have larger shares, because a fast one waits for us when its share is small; a phone does not fill the least.
# Shares are given as clients come and once in each time to stall, so they add up to a few times this at worst.
UNSENT_BYTES = 128 * 1024 * 1024
LEAST_UNSENT_BYTES = 64 * 1024
MOST_UNSENT_BYTES = 4 * 1024 * 1024
# Bytes of a file that are made sure to be in memory at a time, and for how many seconds that is believed, of how many
# windows: many clients take the same blob, and what was in use a moment ago is not what the kernel drops first.
WINDOW_BYTES = 8 * 1024 * 1024
WARM_SECONDS = 1.0
MAX_WARM = 4096
# Linux reads files ahead by this much unless told otherwise, so pages come and go in such stretches.
STRETCH_BYTES = 512 * 1024
# Reads of files that are not in memory, at once. A disk does a handful well, and the threads of others stay free.
READERS = 4

_GONE = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class Stalled(ConnectionResetError):
    """The client took too long to read; the connection is of no use any more."""


class Shortened(ConnectionResetError):
    """The file has become shorter: the answer cannot be finished, and must not look finished."""


Ended = Callable[[Exception | None], None]
"""Told once that a transfer has ended: None when the kernel has taken everything, else why it has not."""


@dataclass(slots=True, eq=False)
class Transfer:
    """One file on its way, of a `FileSender`.

    ``place``: next byte of the file; ``end``: one behind the last; ``warm``: up to here the file is in memory.
    """

    transport: asyncio.Transport
    source: int
    place: int
    end: int
    ended: Ended
    inode: int
    size: int
    descriptor: int = -1
    warm: int = 0
    reading: bool = False
    sent: int = 0
    taken: int = 0
    timer: asyncio.TimerHandle | None = field(default=None)


class FileSender:
    """All transfers of one loop; close it when they have ended."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._readers = ThreadPoolExecutor(READERS, "read-ahead")
        self._transfers: dict[int, Transfer] = {}
        self._warm_until: dict[tuple[int, int], float] = {}
        self._sent = 0
        self._poll = select.epoll()
        self._loop.add_reader(self._poll.fileno(), self._visit)

    def __len__(self) -> int:
        return len(self._transfers)

    def close(self) -> None:
        """Give everything back; transfers that are under way end with an error."""
        for transfer in list(self._transfers.values()):
            self._end(transfer, ConnectionResetError("the server ends"))
        self._loop.remove_reader(self._poll.fileno())
        self._poll.close()
        self._readers.shutdown(wait=False, cancel_futures=True)

    async def send(
        self, transport: asyncio.Transport, source: int, first: int, count: int, stall_seconds: float
    ) -> None:
        """Return when the kernel has taken so many bytes of a file for a connection.

        Args:
            transport: of a plain socket (see `can_send`), with nothing left in its write buffer, and to which nothing
                is written meanwhile.
            source: descriptor of the file, open until this returns.
            first: place of the first byte.
            count: of bytes, at least one.
            stall_seconds: time for the client to take the next `PROGRESS_BYTES`.

        Raises:
            ConnectionError: the connection is gone. Of its kinds, `Stalled` and `Shortened` tell more; the bytes that
                were announced can no longer be sent, so the caller must end the connection.
        """
        if transport.is_closing():
            raise ConnectionResetError("the connection is closed")
        done: asyncio.Future[None] = self._loop.create_future()

        def settle(error: Exception | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        transfer = self.begin(transport, source, first, count, stall_seconds, settle)
        try:
            await done
        finally:
            self._end(transfer)

    def begin(
        self,
        transport: asyncio.Transport,
        source: int,
        first: int,
        count: int,
        stall_seconds: float,
        ended: Ended,
    ) -> Transfer:
        """Begin to send, as `send` does, and return at once.

        Args:
            transport, source, first, count, stall_seconds: as for `send`.
            ended: called once, later, with the error that `send` would raise, or None.
        """
        transfer = _transfer(transport, source, first, count, ended)
        try:
            if self._at_once(transfer):
                self._loop.call_soon(ended, None)
            else:
                self._register(transfer, stall_seconds)
        except OSError as error:
            self._remove(transfer)
            self._loop.call_soon(ended, error if isinstance(error, ConnectionError) else _broken(error))
        return transfer

    def cancel(self, transfer: Transfer, error: Exception) -> None:
        """End a transfer that was begun, unless it has ended."""
        self._end(transfer, error)

    def _at_once(self, transfer: Transfer) -> bool:
        """Send what is little and in memory without watching the socket; say whether that was all."""
        if transfer.end - transfer.place > AT_ONCE_BYTES or not is_cached(
            transfer.source, transfer.place, transfer.end
        ):
            return False
        transfer.warm = transfer.end
        self._push(transfer, descriptor_of(transfer.transport))
        self._count()
        return transfer.place == transfer.end

    def _register(self, transfer: Transfer, stall_seconds: float) -> None:
        descriptor = os.dup(descriptor_of(transfer.transport))
        try:
            self._poll.register(descriptor, select.EPOLLOUT | select.EPOLLRDHUP)
        except OSError:
            os.close(descriptor)
            raise
        transfer.descriptor = descriptor
        self._transfers[descriptor] = transfer
        transfer.taken = transfer.sent - unread(descriptor)
        transfer.timer = self._loop.call_later(stall_seconds, self._look, transfer, stall_seconds)
        self._give_share(transfer)

    def _give_share(self, transfer: Transfer) -> None:
        share = max(LEAST_UNSENT_BYTES, min(MOST_UNSENT_BYTES, UNSENT_BYTES // len(self._transfers)))
        transfer.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, share)

    def _end(self, transfer: Transfer, error: Exception | None = None) -> None:
        if self._remove(transfer):
            transfer.ended(error)

    def _remove(self, transfer: Transfer) -> bool:
        """Watch a transfer's socket no more; say whether it was watched."""
        if self._transfers.get(transfer.descriptor) is not transfer:
            return False  # it has ended already, and its number may be another's by now
        del self._transfers[transfer.descriptor]
        # In this order: the socket outlives the duplicate, and an epoll goes on to report a socket whose descriptor was
        # closed behind its back.
        self._poll.unregister(transfer.descriptor)
        os.close(transfer.descriptor)
        if transfer.timer is not None:
            transfer.timer.cancel()
        return True

    def _visit(self) -> None:
        for descriptor, events in self._poll.poll(0, TURNS):
            transfer = self._transfers[descriptor]
            try:
                self._turn(transfer, events)
            except ConnectionError as error:
                self._end(transfer, error)
        self._count()

    def _count(self) -> None:
        metrics.SENT_BYTES.inc(self._sent)
        self._sent = 0

    def _turn(self, transfer: Transfer, events: int) -> None:
        if events & _GONE or transfer.transport.is_closing():
            raise ConnectionResetError("the client is gone")
        if transfer.place >= transfer.warm and not self._warm(transfer):
            return
        self._push(transfer, transfer.descriptor)
        if transfer.place == transfer.end:
            self._end(transfer)

    def _push(self, transfer: Transfer, descriptor: int) -> None:
        count = min(TURN_BYTES, transfer.warm - transfer.place)
        try:
            sent = os.sendfile(descriptor, transfer.source, transfer.place, count)
        except BlockingIOError:
            return
        except OSError as error:
            raise _broken(error) from None
        if sent == 0:
            raise Shortened("the blob has become shorter while it was read")
        transfer.place += sent
        transfer.sent += sent
        self._sent += sent

    def _warm(self, transfer: Transfer) -> bool:
        """Tell whether the next bytes are in memory; when not, have them read, and the transfer rest meanwhile."""
        window = transfer.place // WINDOW_BYTES
        end = min((window + 1) * WINDOW_BYTES, transfer.end)
        if self._is_warm(transfer, window):
            transfer.warm = end
            return True
        # A descriptor of its own: the transfer may be cancelled, and its file closed, while the thread reads.
        try:
            source = os.dup(transfer.source)
        except OSError as error:
            raise _broken(error) from None
        transfer.reading = True
        self._poll.modify(transfer.descriptor, select.EPOLLRDHUP)
        reading = self._loop.run_in_executor(self._readers, _read_through, source, transfer.place, end)
        reading.add_done_callback(lambda done: self._has_read(transfer, source, end, done))
        return False

    def _is_warm(self, transfer: Transfer, window: int) -> bool:
        key, now = (transfer.inode, window), self._loop.time()
        if self._warm_until.get(key, 0.0) > now:
            return True
        first = window * WINDOW_BYTES
        if not is_cached(transfer.source, first, min(first + WINDOW_BYTES, transfer.size)):
            return False
        if len(self._warm_until) >= MAX_WARM:
            self._warm_until.clear()
        self._warm_until[key] = now + WARM_SECONDS
        return True

    def _has_read(self, transfer: Transfer, source: int, end: int, reading: asyncio.Future[None]) -> None:
        os.close(source)
        failure = None if reading.cancelled() else reading.exception()
        if self._transfers.get(transfer.descriptor) is not transfer:
            return
        if failure is not None:
            self._end(transfer, _broken(failure))
            return
        # What was just read is not looked at again: on a file system that cannot tell, it would be read for ever.
        transfer.reading, transfer.warm = False, end
        self._poll.modify(transfer.descriptor, select.EPOLLOUT | select.EPOLLRDHUP)

    def _look(self, transfer: Transfer, stall_seconds: float) -> None:
        """End a transfer whose client does not read; a client that waits for us is not to blame."""
        waiting = unread(transfer.descriptor)
        taken = transfer.sent - waiting
        if waiting and not transfer.reading and taken - transfer.taken < PROGRESS_BYTES:
            self._end(transfer, Stalled("the client took too long to read"))
            return
        if transfer.transport.is_closing():
            self._end(transfer, ConnectionResetError("the connection is closed"))
            return
        transfer.taken = taken
        self._give_share(transfer)  # there may be more of them by now
        transfer.timer = self._loop.call_later(stall_seconds, self._look, transfer, stall_seconds)


def _transfer(transport: asyncio.Transport, source: int, first: int, count: int, ended: Ended) -> Transfer:
    facts = os.fstat(source)
    return Transfer(transport, source, first, first + count, ended, facts.st_ino, facts.st_size)


def can_send(transport: asyncio.Transport) -> bool:
    """Tell whether the bytes of a connection may go past its transport: it is a plain socket, without TLS."""
    return transport.get_extra_info("ssl_object") is None and descriptor_of(transport) >= 0


def is_cached(source: int, first: int, end: int) -> bool:
    """Tell whether a stretch of a file is in memory, from samples.

    One byte of each `STRETCH_BYTES` is read on condition that nobody has to wait for it (``RWF_NOWAIT``, preadv(2)). A
    file system that cannot tell counts as one that would wait.
    """
    byte = bytearray(1)
    try:
        for place in (*range(first, end, STRETCH_BYTES), end - 1):
            os.preadv(source, [byte], place, os.RWF_NOWAIT)
    except OSError:
        return False
    return True


def _read_through(source: int, first: int, end: int) -> None:
    """Bring a stretch of a file into memory. That the file has become shorter is for `sendfile` to notice."""
    os.posix_fadvise(source, first, end - first, os.POSIX_FADV_WILLNEED)
    buffer = bytearray(STRETCH_BYTES)
    for place in range(first, end, STRETCH_BYTES):
        os.preadv(source, [buffer], place)


def unread(descriptor: int) -> int:
    """Return the bytes of a socket that its peer has not acknowledged (SIOCOUTQ, tcp(7))."""
    count = array.array("i", [0])
    fcntl.ioctl(descriptor, termios.TIOCOUTQ, count)
    return count[0]


def descriptor_of(transport: asyncio.Transport) -> int:
    connection = transport.get_extra_info("socket")
    return -1 if connection is None else int(connection.fileno())


def _broken(error: BaseException) -> ConnectionResetError:
    broken = ConnectionResetError(f"the bytes cannot be sent: {error}")
    broken.__cause__ = error
    return broken
