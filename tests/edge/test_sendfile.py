"""Files to sockets within the kernel, on uvloop: every byte, in turns, and nothing kept of those who leave."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
import pytest_asyncio

from edge import sendfile
from edge.sendfile import FileSender, Shortened, Stalled, is_cached
from tests.edge.site import eventually, metric

CONTENT = random.Random(7).randbytes(5_000_001)
PATIENCE = 30.0


@pytest_asyncio.fixture
async def sender() -> AsyncIterator[FileSender]:
    made = FileSender()
    yield made
    made.close()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    descriptor = os.open(path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


@dataclass
class Wire:
    """A connection: our end as a transport of the loop, the client's as a plain socket that reads when it is told."""

    transport: asyncio.Transport
    client: socket.socket

    async def read(self, count: int) -> bytes:
        loop = asyncio.get_running_loop()
        received = bytearray()
        while len(received) < count:
            piece = await loop.sock_recv(self.client, count - len(received))
            if not piece:
                break
            received += piece
        return bytes(received)

    def vanish(self, *, reset: bool) -> None:
        if reset:
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.client.close()


@asynccontextmanager
async def wires(number: int = 1) -> AsyncIterator[list[Wire]]:
    loop = asyncio.get_running_loop()
    accepted: asyncio.Queue[asyncio.Transport] = asyncio.Queue()

    class Accepting(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted.put_nowait(cast("asyncio.Transport", transport))  # uvloop's are none by inheritance

    server = await loop.create_server(Accepting, "127.0.0.1", 0)
    made = []
    for _ in range(number):
        client = socket.create_connection(server.sockets[0].getsockname())
        client.setblocking(False)
        made.append(Wire(await accepted.get(), client))
    try:
        yield made
    finally:
        for wire in made:
            wire.client.close()
            wire.transport.abort()
        server.close()
        await server.wait_closed()


def descriptors() -> int:
    gc.collect()  # what tests before this one have left in cycles may hold some
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize(
    ("first", "count"), [(0, 1), (0, len(CONTENT)), (123_457, 3_000_000), (4_999_990, 11), (17, 65_536), (17, 65_537)]
)
async def test_every_byte_arrives_and_is_counted(sender: FileSender, file: int, first: int, count: int) -> None:
    before = metric("skafos_edge_sent_bytes_total")
    async with wires() as (wire,):
        held = descriptors()
        received, _ = await asyncio.gather(wire.read(count), sender.send(wire.transport, file, first, count, PATIENCE))
        assert received == CONTENT[first : first + count]
        assert not wire.transport.is_closing()
        assert wire.transport.get_write_buffer_size() == 0
        assert descriptors() == held
    assert metric("skafos_edge_sent_bytes_total") - before == count
    assert len(sender) == 0


async def test_what_is_written_before_and_after_keeps_its_place(sender: FileSender, file: int) -> None:
    async with wires() as (wire,):
        reading = asyncio.create_task(wire.read(2 * len(CONTENT) + 14))
        for word in (b"before.", b"after.."):
            wire.transport.set_write_buffer_limits(0)
            wire.transport.write(word)
            assert wire.transport.get_write_buffer_size() == 0
            await sender.send(wire.transport, file, 0, len(CONTENT), PATIENCE)
        assert await reading == b"before." + CONTENT + b"after.." + CONTENT


@pytest.mark.parametrize("reset", [True, False])
async def test_a_reader_that_vanishes_ends_its_transfer(sender: FileSender, file: int, reset: bool) -> None:
    async with wires() as (wire,):
        held = descriptors()
        sending = asyncio.create_task(sender.send(wire.transport, file, 0, len(CONTENT), PATIENCE))
        await wire.read(100_000)
        wire.vanish(reset=reset)
        with pytest.raises(ConnectionError):
            await sending
        assert len(sender) == 0
        assert descriptors() < held  # the client's is gone, and the duplicate


async def test_a_reader_that_closes_its_half_is_gone(sender: FileSender, file: int) -> None:
    async with wires() as (wire,):
        sending = asyncio.create_task(sender.send(wire.transport, file, 0, len(CONTENT), PATIENCE))
        await wire.read(1)
        wire.client.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionError):
            await sending


async def test_a_reader_that_stalls_is_given_up(sender: FileSender, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(32_000_000))
    with (tmp_path / "large").open("rb") as large:
        async with wires() as (wire,):
            with pytest.raises(Stalled):
                await sender.send(wire.transport, large.fileno(), 0, 32_000_000, 0.2)
            assert len(sender) == 0


async def test_a_slow_reader_that_goes_on_is_served_to_the_end(
    sender: FileSender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sendfile, "PROGRESS_BYTES", 1)
    (tmp_path / "large").write_bytes(bytes(16_000_000))
    with (tmp_path / "large").open("rb") as large:
        async with wires() as (wire,):
            sending = asyncio.create_task(sender.send(wire.transport, large.fileno(), 0, 16_000_000, 0.5))
            received = 0
            while received < 16_000_000:
                received += len(await wire.read(min(500_000, 16_000_000 - received)))
                await asyncio.sleep(0.05)
            await sending


async def test_a_file_that_became_shorter_ends_its_transfer(sender: FileSender, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    with path.open("rb") as file:
        async with wires() as (wire,):
            os.truncate(path, 1_000_000)
            reading = asyncio.create_task(wire.read(len(CONTENT)))
            with pytest.raises(Shortened):
                await sender.send(wire.transport, file.fileno(), 0, len(CONTENT), PATIENCE)
            wire.transport.close()
            assert await reading == CONTENT[:1_000_000]


async def test_a_transfer_that_is_cancelled_holds_nothing(sender: FileSender, file: int) -> None:
    async with wires() as (wire,):
        held = descriptors()
        sending = asyncio.create_task(sender.send(wire.transport, file, 0, len(CONTENT), PATIENCE))
        await wire.read(1)
        assert descriptors() == held + 1
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert descriptors() == held
        assert len(sender) == 0


async def test_a_connection_that_is_closed_already_is_told(sender: FileSender, file: int) -> None:
    async with wires() as (wire,):
        wire.transport.abort()
        with pytest.raises(ConnectionError):
            await sender.send(wire.transport, file, 0, 100, PATIENCE)


async def test_closing_ends_what_is_under_way(file: int) -> None:
    async with wires() as (wire,):
        held = descriptors()
        sender = FileSender()
        sending = asyncio.create_task(sender.send(wire.transport, file, 0, len(CONTENT), PATIENCE))
        await wire.read(1)
        sender.close()
        with pytest.raises(ConnectionError):
            await sending
        assert descriptors() == held


# --- fairness ---


class Turns:
    """The system call, and a record of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken: list[tuple[int, int]] = []  # descriptor, bytes asked for
        self._call: Callable[[int, int, int, int], int] = os.sendfile
        monkeypatch.setattr("os.sendfile", self._take)

    def _take(self, descriptor: int, source: int, place: int, count: int) -> int:
        self.taken.append((descriptor, count))
        return self._call(descriptor, source, place, count)


async def test_those_who_are_ready_take_turns(sender: FileSender, file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sendfile, "TURN_BYTES", 10_000)
    monkeypatch.setattr(sendfile, "TURNS", 2)
    turns = Turns(monkeypatch)
    async with wires(7) as all_:
        async with asyncio.TaskGroup() as group:
            for wire in all_:
                group.create_task(sender.send(wire.transport, file, 0, 100_000, PATIENCE))
        # Nothing is full yet, so all are ready all the time.
        order = [descriptor for descriptor, _ in turns.taken]
        assert len(set(order)) == 7
        for place in range(0, 70, 7):
            assert len(set(order[place : place + 7])) == 7
        assert {count for _, count in turns.taken} == {10_000}
        for wire in all_:
            assert await wire.read(100_000) == CONTENT[:100_000]


async def test_between_turns_the_loop_has_time_for_others(
    sender: FileSender, file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sendfile, "TURN_BYTES", 10_000)
    turns = Turns(monkeypatch)
    seen: list[int] = []

    async def other() -> None:
        while True:
            seen.append(len(turns.taken))
            await asyncio.sleep(0)

    async with wires(20) as all_:
        others = asyncio.create_task(other())
        async with asyncio.TaskGroup() as group:
            for wire in all_:
                group.create_task(sender.send(wire.transport, file, 0, 100_000, PATIENCE))
        others.cancel()
    steps = [after - before for before, after in itertools.pairwise(seen)]
    assert sum(steps) >= 190
    assert max(steps) <= sendfile.TURNS


async def test_fast_readers_pass_many_that_do_not_read(sender: FileSender, file: int) -> None:
    async with wires(60) as all_:
        stuck = [
            asyncio.create_task(sender.send(wire.transport, file, 0, len(CONTENT), PATIENCE)) for wire in all_[:55]
        ]
        fast = all_[55:]
        for _ in range(3):
            sending = [sender.send(wire.transport, file, 0, len(CONTENT), PATIENCE) for wire in fast]
            got = await asyncio.gather(*(wire.read(len(CONTENT)) for wire in fast), *sending)
            assert got[: len(fast)] == [CONTENT] * len(fast)
        # No byte for those who do not read lies in memory of ours.
        assert all(wire.transport.get_write_buffer_size() == 0 for wire in all_)
        for one in stuck:
            one.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)
        assert len(sender) == 0


async def test_what_waits_in_the_kernel_is_a_share_that_many_make_smaller(
    sender: FileSender, file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sendfile, "UNSENT_BYTES", 1_200_000)
    monkeypatch.setattr(sendfile, "MOST_UNSENT_BYTES", 400_000)
    monkeypatch.setattr(sendfile, "LEAST_UNSENT_BYTES", 100_000)
    monkeypatch.setattr(sendfile, "PROGRESS_BYTES", 0)
    async with wires(20) as all_:
        sending = [asyncio.create_task(sender.send(wire.transport, file, 0, len(CONTENT), 0.1)) for wire in all_]

        def shares() -> list[int]:
            sockets = [wire.transport.get_extra_info("socket") for wire in all_]
            return [one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) for one in sockets]

        await asyncio.sleep(0)
        assert shares() == [max(100_000, min(400_000, 1_200_000 // number)) for number in range(1, 21)]

        async def all_the_least() -> bool:  # once each has been looked at
            return set(shares()) == {100_000}

        await eventually(all_the_least)
        for one in sending:
            one.cancel()
        await asyncio.gather(*sending, return_exceptions=True)


# --- a file that is not in memory ---


def forget(descriptor: int) -> None:
    """Have the kernel drop a file's pages."""
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


async def test_what_is_not_in_memory_is_read_by_a_thread_first(
    sender: FileSender, file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(file)
    if is_cached(file, 0, len(CONTENT)):
        pytest.skip("this file system keeps everything in memory")
    ready: list[bool] = []
    call = os.sendfile

    def look_first(descriptor: int, source: int, place: int, count: int) -> int:
        ready.append(is_cached(source, place, place + count))
        return call(descriptor, source, place, count)

    monkeypatch.setattr("os.sendfile", look_first)
    async with wires() as (wire,):
        received, _ = await asyncio.gather(
            wire.read(len(CONTENT)), sender.send(wire.transport, file, 0, len(CONTENT), PATIENCE)
        )
    assert received == CONTENT
    assert all(ready)
    assert is_cached(file, 0, len(CONTENT))


async def test_a_file_system_that_cannot_tell_is_read_by_a_thread_each_time(
    sender: FileSender, file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sendfile, "is_cached", lambda *_: False)
    monkeypatch.setattr(sendfile, "WINDOW_BYTES", 1_000_000)
    async with wires() as (wire,):
        received, _ = await asyncio.gather(
            wire.read(len(CONTENT)), sender.send(wire.transport, file, 0, len(CONTENT), PATIENCE)
        )
    assert received == CONTENT


async def test_a_transfer_cancelled_while_its_file_is_read_holds_nothing(
    sender: FileSender, file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sendfile, "is_cached", lambda *_: False)
    async with wires() as (wire,):
        held = descriptors()
        sending = asyncio.create_task(sender.send(wire.transport, file, 0, len(CONTENT), PATIENCE))
        await asyncio.sleep(0)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

        async def nothing_held() -> bool:
            return descriptors() == held

        await eventually(nothing_held)


async def test_without_a_descriptor_to_spare_the_connection_ends(
    sender: FileSender, file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dup, left = os.dup, [0]

    def spare(descriptor: int) -> int:
        if left[0] == 0:
            raise OSError(24, "too many open files")
        left[0] -= 1
        return dup(descriptor)

    monkeypatch.setattr("os.dup", spare)
    monkeypatch.setattr(sendfile, "is_cached", lambda *_: False)
    async with wires() as (wire,):
        held = descriptors()
        for spared in (0, 1):  # none for the socket, none for the thread that reads
            left[0] = spared
            with pytest.raises(ConnectionError):
                await sender.send(wire.transport, file, 0, len(CONTENT), PATIENCE)
        assert descriptors() == held
    assert len(sender) == 0


async def test_a_disk_that_fails_ends_the_transfer(
    sender: FileSender, file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(5, "input/output error")

    monkeypatch.setattr("os.sendfile", broken)
    async with wires() as (wire,):
        for count in (10, len(CONTENT)):
            with pytest.raises(ConnectionError):
                await sender.send(wire.transport, file, 0, count, PATIENCE)
    assert len(sender) == 0
