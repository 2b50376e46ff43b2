"""HTTP/2 to a push service: many at once, and for each that is not answered it is told whether it may be sent again."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from control_plane.push import http2
from control_plane.push.apns import ProviderToken
from control_plane.push.http2 import (
    Answer,
    CannotConnect,
    Header,
    Http2Connection,
    Lost,
    NotProcessed,
    TooLate,
    client_context,
    connect,
)
from control_plane.push.pool import Http2Pool
from tests.components import free_port
from tests.control_plane.push.certificates import BUNDLE_ID, Pair, server_context, trusting
from tests.control_plane.push.conftest import Apple

SECONDS = 20.0
BODY = b'{"aps":{"content-available":1}}'


def headers(apple: Apple, number: int) -> list[Header]:
    return [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "push.test"),
        (":path", f"/3/device/{number:064x}"),
        ("apns-topic", BUNDLE_ID),
        ("authorization", f"bearer {ProviderToken(apple.key)()}"),
    ]


@pytest_asyncio.fixture
async def connection(apple: Apple) -> AsyncIterator[Http2Connection]:
    opened = await connect("127.0.0.1", apple.server.port, apple.at().context)
    yield opened
    opened.abort()


async def ask(connection: Http2Connection | Http2Pool, apple: Apple, number: int, seconds: float = SECONDS) -> Answer:
    return await connection.request(headers(apple, number), BODY, seconds)


async def test_many_requests_are_answered_each_with_its_own_answer(connection: Http2Connection, apple: Apple) -> None:
    apple.server.behaviour.refuse = {f"{number:064x}": "Unregistered" for number in range(0, 50, 2)}
    apple.server.behaviour.unregistered_at = 1_700_000_000_000
    apple.server.behaviour.delay = 0.01
    answers = await asyncio.gather(*(ask(connection, apple, number) for number in range(50)))
    assert [answer.status for answer in answers] == [410, 200] * 25
    assert json.loads(answers[0].body) == {"reason": "Unregistered", "timestamp": 1_700_000_000_000}
    assert apple.server.most_streams > 10
    assert (apple.server.connections, apple.server.accepted_count) == (1, 25)
    assert connection.open_requests == 0


async def test_no_more_are_open_than_the_server_allows(apple: Apple) -> None:
    apple.server.behaviour.max_streams = 3
    apple.server.behaviour.delay = 0.01
    connection = await connect("127.0.0.1", apple.server.port, apple.at().context)
    under_way = [asyncio.ensure_future(ask(connection, apple, number)) for number in range(3)]
    await asyncio.sleep(0)
    assert connection.room == 0
    with pytest.raises(NotProcessed):
        await ask(connection, apple, 9)
    await asyncio.gather(*under_way)
    assert connection.room == 3
    assert apple.server.most_streams == 3
    await connection.close()


async def test_what_the_server_did_not_look_at_is_told_apart_and_the_rest_is_answered(
    connection: Http2Connection, apple: Apple
) -> None:
    apple.server.behaviour.goaway_after = 5
    apple.server.behaviour.delay = 0.05
    ends = await asyncio.gather(*(ask(connection, apple, number) for number in range(12)), return_exceptions=True)
    assert [end.status if isinstance(end, Answer) else type(end) for end in ends] == [200] * 5 + [NotProcessed] * 7
    assert not connection.usable
    with pytest.raises(NotProcessed):
        await ask(connection, apple, 99)


async def test_when_the_connection_is_cut_nobody_knows(connection: Http2Connection, apple: Apple) -> None:
    apple.server.behaviour.drop_after = 3
    ends = await asyncio.gather(*(ask(connection, apple, number) for number in range(3)), return_exceptions=True)
    assert {type(end) for end in ends} <= {Answer, Lost}
    assert isinstance(ends[-1], Lost)
    assert not connection.usable


async def test_an_answer_that_does_not_come_is_given_up_alone(connection: Http2Connection, apple: Apple) -> None:
    apple.server.behaviour.stalls = 1
    with pytest.raises(TooLate):
        await ask(connection, apple, 1, seconds=0.05)
    assert (await ask(connection, apple, 2)).status == 200
    assert connection.open_requests == 0
    assert connection.usable


async def test_a_connection_on_which_nothing_is_heard_any_more_is_replaced(
    apple: Apple, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http2, "PING_SECONDS", 0.05)
    pool = Http2Pool("127.0.0.1", apple.server.port, apple.at().context, most=1)
    apple.server.behaviour.mute = 1
    with pytest.raises(TooLate):
        await ask(pool, apple, 1, seconds=0.05)
    # This one finds the old connection, and ends with it.
    with pytest.raises(Lost):
        await ask(pool, apple, 2)
    assert (await ask(pool, apple, 3)).status == 200
    assert apple.server.connections == 2
    await pool.close()


async def test_a_connection_that_was_silent_for_long_is_not_trusted_again(apple: Apple) -> None:
    pool = Http2Pool("127.0.0.1", apple.server.port, apple.at().context, most=1)
    for _ in range(2):
        assert (await ask(pool, apple, 1)).status == 200
    assert apple.server.connections == 1
    pool._connections[0]._heard_at -= http2.MAX_SILENT_SECONDS
    assert (await ask(pool, apple, 2)).status == 200
    assert apple.server.connections == 2
    await pool.close()


async def test_who_gives_up_waiting_leaves_nothing_behind(connection: Http2Connection, apple: Apple) -> None:
    apple.server.behaviour.delay = 0.05
    waiting = asyncio.ensure_future(ask(connection, apple, 1))
    await asyncio.sleep(0.01)
    waiting.cancel()
    assert isinstance((await asyncio.gather(waiting, return_exceptions=True))[0], asyncio.CancelledError)
    assert connection.open_requests == 0
    assert (await ask(connection, apple, 2)).status == 200


async def test_a_connection_is_replaced_before_its_numbers_end(apple: Apple, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control_plane.push.http2.MAX_REQUESTS", 10)
    pool = Http2Pool("127.0.0.1", apple.server.port, apple.at().context, most=1)
    for number in range(25):
        assert (await ask(pool, apple, number)).status == 200
    assert apple.server.connections == 3
    await pool.close()
    assert apple.server.open_connections == set()


async def test_a_pool_opens_as_many_connections_as_are_needed(apple: Apple) -> None:
    apple.server.behaviour.delay = 0.05
    pool = Http2Pool("127.0.0.1", apple.server.port, apple.at().context, most=3, streams=4)
    answers = await asyncio.gather(*(ask(pool, apple, number) for number in range(40)))
    assert {answer.status for answer in answers} == {200}
    assert apple.server.connections == 3
    assert apple.server.most_streams == 4
    await pool.close()


async def test_a_pool_passes_by_a_connection_whose_server_takes_no_more(apple: Apple) -> None:
    apple.server.behaviour.delay, apple.server.behaviour.max_streams = 0.05, 2
    pool = Http2Pool("127.0.0.1", apple.server.port, apple.at().context, most=2, streams=8)
    await asyncio.gather(*(ask(pool, apple, number) for number in range(2)))
    apple.server.behaviour.max_streams = 100
    answers = await asyncio.gather(*(ask(pool, apple, number) for number in range(30)))
    assert {answer.status for answer in answers} == {200}
    assert apple.server.connections == 2
    assert apple.server.most_streams == 8
    await pool.close()


async def test_a_pool_sends_again_what_was_not_looked_at(apple: Apple) -> None:
    apple.server.behaviour.goaway_after = 6
    pool = Http2Pool("127.0.0.1", apple.server.port, apple.at().context, most=2)
    answers = await asyncio.gather(*(ask(pool, apple, number) for number in range(20)))
    assert {answer.status for answer in answers} == {200}
    assert sorted(push.device_token for push in apple.server.accepted) == [f"{number:064x}" for number in range(20)]
    await pool.close()


async def test_no_server_is_told(apple: Apple) -> None:
    pool = Http2Pool("127.0.0.1", free_port(), apple.at().context)
    with pytest.raises(CannotConnect, match="cannot be reached"):
        await ask(pool, apple, 1)
    await pool.close()


async def test_a_server_that_is_not_trusted_is_told(apple: Apple) -> None:
    with pytest.raises(CannotConnect, match="cannot be trusted"):
        await connect("127.0.0.1", apple.server.port, client_context())


async def test_a_server_without_http2_is_told(server_pair: Pair) -> None:
    async def never(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    context = server_context(server_pair)
    context.set_alpn_protocols(["http/1.1"])
    server = await asyncio.start_server(never, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    async with server:
        with pytest.raises(CannotConnect, match=r"does not speak HTTP/2|at once"):
            await connect("127.0.0.1", port, trusting(client_context(), server_pair))


async def test_what_is_no_http2_ends_the_connection(server_pair: Pair) -> None:
    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" * 10)
        await writer.drain()

    context = server_context(server_pair)
    context.set_alpn_protocols(["h2"])
    server = await asyncio.start_server(babble, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    async with server:
        with pytest.raises(CannotConnect):
            await connect("127.0.0.1", port, trusting(client_context(), server_pair))


def test_a_client_demands_a_modern_tls() -> None:
    context = client_context()
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
