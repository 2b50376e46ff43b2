"""What is asked in each case, of whom, and what it is held to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.edge.floods import FLOODS
from bench.edge.probe import request
from bench.edge.site import RANGE_BYTES, RANGE_FIRST, Site


@dataclass(frozen=True)
class Goal:
    """Bounds on the edge's figures: as a share of nginx's, or absolute. Rates at least, costs at most."""

    rate_ratio: float | None = None
    cost_ratio: float | None = None
    rate: float | None = None


@dataclass(frozen=True)
class Ask:
    """What wrk is told to ask, and what it must be answered.

    Args:
        path: of the URL.
        headers: for wrk's command line.
        script: in ``lua/``, with its arguments.
        examples: requests of this kind with their share of all and their status, to look at before measuring.
    """

    path: str
    examples: tuple[tuple[float, bytes, int], ...]
    headers: tuple[tuple[str, str], ...] = ()
    script: str = "report.lua"
    arguments: tuple[str, ...] = ()


# Makes the question from the site, the server's own entity tag, and a word that no other run has.
Asking = Callable[[Site, str, str], Ask]


@dataclass(frozen=True)
class RateCase:
    """Small requests, as many as the server answers.

    Args:
        fresh: servers start anew for each round, because they keep what they are given.
        polled: asked by ``closedloop.c``, which leaves the server the limit, and not by wrk; of one example only.
    """

    name: str
    title: str
    peers: tuple[str, ...]
    connections: int
    asking: Asking
    goal: Goal = Goal()
    tls: bool = False
    fresh: bool = False
    polled: bool = False


@dataclass(frozen=True)
class DownloadCase:
    """Large answers, as many bytes as the server sends."""

    name: str
    title: str
    connections: int
    range: str = ""
    goal: Goal = Goal(rate_ratio=0.95, cost_ratio=1.1)
    peers: tuple[str, ...] = ("nginx", "edge")


def conditional(site: Site, etag: str, _: str) -> Ask:
    """A device that has the newest manifest."""
    headers = {"If-None-Match": etag}
    example = (1.0, request("GET", site.manifest_path, headers), 304)
    return Ask(site.manifest_path, (example,), tuple(headers.items()))


def through_lua(site: Site, etag: str, _: str) -> Ask:
    """The same, handed out by a script."""
    example = (1.0, request("GET", site.manifest_path, {"If-None-Match": etag}), 304)
    return Ask(site.manifest_path, (example,), script="constant.lua", arguments=(etag,))


def whole(site: Site, _: str, __: str) -> Ask:
    """A device that has none."""
    return Ask(site.manifest_path, ((1.0, request("GET", site.manifest_path), 200),))


def mix(site: Site, etag: str, _: str) -> Ask:
    """One device of a hundred has none."""
    has = (0.99, request("GET", site.manifest_path, {"If-None-Match": etag}), 304)
    lacks = (0.01, request("GET", site.manifest_path), 200)
    return Ask(site.manifest_path, (has, lacks), script="mix.lua", arguments=(etag,))


def layouts(site: Site, etag: str, word: str) -> Ask:
    """Every device sends other headers than all before."""
    example = (1.0, request("GET", site.manifest_path, {"If-None-Match": etag, "X-Request-Id": word}), 304)
    return Ask(site.manifest_path, (example,), script="layouts.lua", arguments=(etag, word))


def registering(site: Site, _: str, word: str) -> Ask:
    """Every request registers another device."""
    path = f"{site.environment_path}/devices/"
    body = site.registration.read_bytes()
    example = (1.0, request("PUT", f"{path}{word}-00000", {"Content-Type": "application/json"}, body), 202)
    return Ask(path, (example,), script="register.lua", arguments=(word, str(site.registration)))


def events_json(site: Site, _: str, __: str) -> Ask:
    """A batch of events as a JSON array."""
    return _events(site, "application/json", str(site.events_json), site.events_json.read_bytes())


def events_ndjson(site: Site, _: str, __: str) -> Ask:
    """A batch of events, one a line."""
    return _events(site, "application/x-ndjson", str(site.events_ndjson), site.events_ndjson.read_bytes())


def events_varied(site: Site, _: str, __: str) -> Ask:
    """Batches of events as JSON arrays, of another device each time."""
    with site.events_varied.open("rb") as file:
        body = file.readline().rstrip()
    return _events(site, "application/json", str(site.events_varied), body, script="posts.lua")


def _events(site: Site, content_type: str, file: str, body: bytes, *, script: str = "post.lua") -> Ask:
    path = f"{site.environment_path}/events"
    example = (1.0, request("POST", path, {"Content-Type": content_type}, body), 202)
    return Ask(path, (example,), script=script, arguments=(content_type, file))


ALL = ("nginx", "edge", "aiohttp", "granian")
PAIR = ("nginx", "edge")
PARITY = Goal(rate_ratio=1.0, cost_ratio=1.0)

RATE_CASES = (
    RateCase("304-64", "304, 64 connections", ALL, 64, conditional, PARITY),
    RateCase("304-64-polled", "304, 64 connections, polled", PAIR, 64, conditional, PARITY, polled=True),
    RateCase("304-512", "304, 512 connections", ("nginx", "edge", "aiohttp"), 512, conditional, PARITY),
    RateCase("304-512-polled", "304, 512 connections, polled", PAIR, 512, conditional, PARITY, polled=True),
    RateCase("layouts", "304, another header block each time, 64", PAIR, 64, layouts, Goal(rate_ratio=0.6)),
    RateCase("200", "200 with 2 KB, 64", ALL, 64, whole, Goal(rate_ratio=1.0)),
    RateCase("mix", "99 times 304, once 200, 64", PAIR, 64, mix),
    RateCase("tls", "304 over TLS, 64", PAIR, 64, conditional, tls=True),
    RateCase("register", "registering a device, 64", ("edge",), 64, registering),
    RateCase("events", "20 events as JSON, 64", ("edge",), 64, events_json, Goal(rate=20_000), fresh=True),
    RateCase("events-512", "20 events as JSON, 512", ("edge",), 512, events_json, Goal(rate=20_000), fresh=True),
    RateCase(
        "events-varied",
        "20 events, each time others, 64",
        ("edge", "aiohttp"),
        64,
        events_varied,
        Goal(rate=20_000),
        fresh=True,
    ),
    RateCase("ndjson", "20 events as NDJSON, 64", ("edge",), 64, events_ndjson, Goal(rate=20_000), fresh=True),
)
POLLED = tuple(case.name for case in RATE_CASES if case.polled)
LUA_CASE = RateCase("lua", "the same 304 through Lua", ("nginx",), 64, through_lua)
PLAIN_CASE = RateCase("plain", "304 without Lua", ("nginx",), 64, conditional)

_RANGE = f"bytes={RANGE_FIRST}-{RANGE_FIRST + RANGE_BYTES - 1}"
DOWNLOAD_CASES = (
    DownloadCase("whole-8", "20 MB whole, 8 connections", 8),
    DownloadCase("whole-64", "20 MB whole, 64 connections", 64),
    DownloadCase("range-8", "8 MiB of 20 MB, 8 connections", 8, _RANGE),
    DownloadCase("range-64", "8 MiB of 20 MB, 64 connections", 64, _RANGE),
)

# Of the kinds that are no table of rates.
LATENCY, MEMORY, PUBLISH, LUA, LOCUST = "latency", "memory", "publish", "lua", "locust"
P99_RATIO_GOAL = 1.5
IDLE_BYTES_GOAL = 1.5 * 1024
PUBLISH_P99_MS_GOAL = 20.0

# The order in which they run. Locust shows behaviour, not ceilings, and runs only when it is asked for.
DEFAULT = (
    *(case.name for case in RATE_CASES),
    LUA,
    LATENCY,
    MEMORY,
    PUBLISH,
    *(case.name for case in DOWNLOAD_CASES),
    *(flood.name for flood in FLOODS),
)
# Names for several at once.
GROUPS = {"floods": tuple(flood.name for flood in FLOODS)}
NAMES = (*DEFAULT, LOCUST)
