"""Whatever is sent, the lane answers as aiohttp alone does, or leaves it to aiohttp.

Two edges over the same manifests: one as it is, and one whose connections are aiohttp's from their first byte.
Everything is real, on the loop that production uses.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edge.connections import Door, _Connection
from edge.head_patterns import HeadPatterns
from edge.request_head import END
from tests.edge.heads import CLIENTS, SMUGGLING, check
from tests.edge.site import Edge, Environment, Site, metric, release_of
from tests.edge.wire import Exchange, exchange

KEY = "{key}"
ETAG = "{etag}"


class AiohttpAlone(Door):
    """A door without a lane."""

    def __call__(self) -> asyncio.Protocol:
        self.count(+1)
        return _Connection(self, self._server, self._loop, self._limits, self._refusals)

    def is_check(self, data: bytes) -> bool:
        return False


@dataclass(frozen=True)
class Pair:
    """The two edges, and the environment that both serve."""

    lane: Edge
    alone: Edge
    environment: Environment

    def fill_in(self, data: bytes) -> bytes:
        """Put key and tag where they belong."""
        return data.replace(KEY.encode(), self.environment.key.encode()).replace(
            ETAG.encode(), self.environment.publication().etag.encode()
        )

    async def same(self, pieces: Sequence[bytes], *, end: bool = False) -> Exchange:
        """Ask both the same; return what both answered.

        aiohttp drops what it has parsed of a piece when a later request in that piece is malformed, so what it
        answers depends on how the bytes happened to arrive. The lane answers such earlier checks. So aiohttp alone is
        also asked with the same bytes in more pieces, and must answer as the lane did to one of these ways.
        """
        sent = [self.fill_in(piece) for piece in pieces]
        by_lane = await exchange(self.lane.address, sent, end=end)
        first = None
        for cut in _ways_to_arrive(sent):
            by_aiohttp = await exchange(self.alone.address, cut, end=end)
            if by_lane == by_aiohttp:
                return by_lane
            first = first or by_aiohttp
        assert by_lane == first, sent
        raise AssertionError("unreachable")


def _ways_to_arrive(pieces: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Yield the pieces as they are, and with the heads at the beginning of each cut off, the first few one by one."""
    heads = [piece.split(END) for piece in pieces]
    for counts in itertools.product(*(range(min(len(ends), 5)) for ends in heads)):
        cut = (
            [*(head + END for head in ends[:count]), END.join(ends[count:])]
            for ends, count in zip(heads, counts, strict=True)
        )
        yield [piece for piece in itertools.chain.from_iterable(cut) if piece]


@pytest_asyncio.fixture(params=["lines", "patterns"])
async def pair(request: pytest.FixtureRequest, site: Site, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pair]:
    """Give two edges; the lane reads heads line by line, or by the pattern of their layout from its second head on."""
    if request.param == "patterns":
        monkeypatch.setattr("edge.lane.HeadPatterns", partial(HeadPatterns, requests_before_pattern=1))
    environment = Environment([release_of(b"artifact")])
    await site.publish(environment)
    async with site.edge(edge_name="lane") as lane:
        monkeypatch.setattr("edge.listening.Door", AiohttpAlone)
        async with site.edge(edge_name="alone") as alone:
            yield Pair(lane, alone, environment)


def handed_over() -> float:
    return sum(metric("skafos_edge_lane_handed_over_total", reason=reason) for reason in ("other", "fragment"))


async def test_real_clients_are_answered_by_the_lane_as_aiohttp_would(pair: Pair) -> None:
    before = handed_over()
    for name, head in CLIENTS.items():
        held = await pair.same([head] * 3)
        other = await pair.same([head.replace(b"{etag}", b'"another"')])
        assert (held.statuses, other.statuses) == ([304] * 3, [200]), name
        assert held.open, name
        assert other.open, name
    assert handed_over() == before


async def test_a_key_that_nobody_has_is_refused_by_the_lane_as_by_aiohttp(pair: Pair) -> None:
    before = handed_over()
    for head in CLIENTS.values():
        assert (await pair.same([head.replace(b"{key}", b"prod-nobodys")] * 3)).statuses == [404] * 3
    assert handed_over() == before


async def test_requests_that_two_readers_may_take_differently_are_answered_alike(pair: Pair) -> None:
    for hostile in SMUGGLING.values():
        for pieces in ([hostile], [check() + hostile], [hostile + check()], [check(), hostile, check()]):
            await pair.same(pieces)
            await pair.same(pieces, end=True)


async def test_hostile_requests_that_are_cut_anywhere_are_answered_alike(pair: Pair) -> None:
    for hostile in SMUGGLING.values():
        data = pair.fill_in(hostile + check())
        for place in range(1, min(len(data), 400), 11):
            await pair.same([data[:place], data[place:]])


async def test_checks_that_are_cut_anywhere_are_answered_alike(pair: Pair) -> None:
    data = pair.fill_in(check() + check(b'"other"'))
    for place in range(1, len(data)):
        assert (await pair.same([data[:place], data[place:]])).statuses == [304, 200]


async def test_a_head_that_comes_byte_by_byte_is_answered_alike(pair: Pair) -> None:
    data = pair.fill_in(check())
    assert (await pair.same([data[at : at + 1] for at in range(len(data))])).statuses == [304]


MANIFEST = b"GET /v2/environments/{key}/manifest HTTP/1.1"
PIECES = st.sampled_from(
    [
        check(),
        check(b'"other"'),
        check(b"W/{etag}"),
        check(b'"a", {etag}'),
        check(b"*"),
        b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v2/environments/nobodys/manifest HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1\r\n\r\n",
        b"HEAD /v2/environments/{key}/manifest HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v2/environments/{key}/events HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n[]",
        b"POST /nowhere HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        MANIFEST + b"\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
        MANIFEST + b"\r\nHost: x\r\nConnection: close\r\n\r\n",
        *SMUGGLING.values(),
    ]
)
LOOSE_ENDS = st.sampled_from(
    [
        *(
            b"\r\n",
            b"\n",
            b"\r",
            b" ",
            b"\t",
            b":",
            b",",
            b"\x00",
            b"\x0b",
            b"\x7f",
            b"\x80",
            b"\xff",
            b'"',
            END,
            b"GET ",
        ),
        *(b"Host: y\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"If-None-Match: {etag}\r\n"),
        *(b"If-Match: *\r\n", b"Connection: close\r\n", b"Connection: upgrade\r\n", b"Expect: 100-continue\r\n"),
    ]
)
AT = st.floats(0, 1, exclude_max=True)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    requests=st.lists(PIECES, min_size=1, max_size=4),
    slips=st.lists(st.tuples(AT, st.integers(0, 3), LOOSE_ENDS), max_size=3),
    cuts=st.lists(AT, max_size=3),
    end=st.booleans(),
)
@example(requests=[check()], slips=[(0.999, 0, b"\r\n")], cuts=[], end=False)
async def test_mutated_streams_of_requests_are_answered_alike(
    pair: Pair, requests: list[bytes], slips: list[tuple[float, int, bytes]], cuts: list[float], end: bool
) -> None:
    data = b"".join(requests)
    for at, removed, inserted in slips:
        place = int(at * len(data))
        data = data[:place] + inserted + data[place + removed :]
    data = pair.fill_in(data)
    places = sorted({0, len(data), *(int(at * len(data)) for at in cuts)})
    await pair.same([data[a:b] for a, b in itertools.pairwise(places)], end=end)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    fields=st.lists(
        st.tuples(
            st.sampled_from([b"Host", b"Accept", b"X-A", b"If-None-Match", b"Connection", b"Cookie", b"Range", b"DNT"]),
            st.sampled_from([b": ", b":", b":\t", b" : ", b":  "]),
            st.one_of(
                st.sampled_from(
                    [b"keep-alive", b"close", b"x", b"{etag}", b"W/{etag}", b"*", b"", b"bytes=0-1", b"a b"]
                ),
                st.binary(max_size=6),
            ),
            st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b" \r\n", b"\n", b"\r\n "]),
        ),
        max_size=6,
    ),
    case=st.sampled_from([bytes, bytes.lower, bytes.upper]),
)
async def test_whatever_fields_a_check_has_it_is_answered_alike(
    pair: Pair, fields: list[tuple[bytes, bytes, bytes, bytes]], case: object
) -> None:
    assert callable(case)
    lines = b"".join(case(name) + colon + value + line_end for name, colon, value, line_end in fields)
    await pair.same([MANIFEST + b"\r\nHost: edge.test\r\n" + lines + b"\r\n"])
    await pair.same([MANIFEST + b"\r\n" + lines + b"\r\n" + check()])
