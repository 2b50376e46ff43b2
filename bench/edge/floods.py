"""Floods: bad input beside which an ordinary load is measured.

Each comes at a rate that leaves the server's core more than half free, so that what others feel is how the server
divides its time, and not that it has none left. The last one comes as fast as it is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.edge.counters import Counter
from bench.edge.probe import request
from bench.edge.site import Site

# The ordinary load: about a tenth of what one core answers, so that there is room for a flood beside it.
RATE = 10_000
CONNECTIONS = 64

# Where `flood.c` puts a number that never comes again.
NUMBER = "#" * 16
# A field that both peers take: nginx's buffers have 8 KiB (large_client_header_buffers), and a field of the edge has at
# most 8,190 bytes. Three fill three of nginx's four buffers.
LONG_FIELD = "x" * 8_000
LONG_FIELDS = 3
# One that neither takes.
TOO_LONG_FIELD = "x" * 8_400
# The edge takes 64 fields; nginx gives up behind its fourth buffer.
MOST_FIELDS = 60
# More than drips in a day, and below every bound on a body.
UNFINISHED_BYTES = 100_000
PIPELINED = 400
# With a byte a second of each, and opened within the first half second (OPENED_PER_SECOND in `flood.c`).
DRIPPING = 2_000
# As many as the ordinary load has.
ASKING = 64

# Makes what is sent from the site and the server's own entity tag.
Template = Callable[[Site, str], bytes]


@dataclass(frozen=True)
class Flood:
    """One flood.

    Args:
        name: on the command line.
        title: what comes, in words.
        kind: see `flood.c`.
        template: makes what is sent.
        rate: turns per second; 0 for as many as are answered.
        connections: that take turns.
        answers: status of every answer, by peer; nothing where none should come.
        counter: where an operator sees it.
        read_bytes: of a client that reads slowly, at each turn.
    """

    name: str
    title: str
    kind: str
    template: Template
    rate: int
    connections: int
    answers: Mapping[str, str]
    counter: Counter
    read_bytes: int = 0

    def arguments(self, site: Site, etag: str, peer: str, folder: Path) -> list[str]:
        """Return the flood as the generator is told it; what is sent is written into ``folder``."""
        file = folder / f"{self.name}.request"
        file.write_bytes(self.template(site, etag))
        words = (self.kind, self.rate, self.connections, file, self.answers.get(peer, ""), self.read_bytes)
        return [str(word) for word in words]


def slow_head(site: Site, _: str) -> bytes:
    """A check whose last field does not end."""
    return f"GET {site.manifest_path} HTTP/1.1\r\nHost: edge.test\r\nX-Slow: ".encode()


def slow_body(site: Site, _: str) -> bytes:
    """A batch of events whose body does not end."""
    fields = {"Content-Type": "application/json", "Content-Length": str(UNFINISHED_BYTES)}
    return request("POST", f"{site.environment_path}/events", fields) + b"["


def unknown_key(_: Site, etag: str) -> bytes:
    """A check with a key of the right form that nobody has."""
    path = f"/v2/environments/prod-{NUMBER}-u3ffomhceava4wj23ukyhhco3q/manifest"
    return request("GET", path, {"If-None-Match": etag})


def other_head(site: Site, etag: str) -> bytes:
    """A check in a header block that never came before."""
    fields = {"User-Agent": f"Camera/{NUMBER}", "X-Request-Id": NUMBER, "If-None-Match": etag}
    return request("GET", site.manifest_path, fields)


def long_head(site: Site, etag: str) -> bytes:
    """A check with as many bytes of header as nginx takes."""
    return _long(site, etag, [LONG_FIELD] * LONG_FIELDS)


def longest_head(site: Site, etag: str) -> bytes:
    """A check with as many bytes of header as the edge takes."""
    return _long(site, etag, [LONG_FIELD] * MOST_FIELDS)


def too_long_head(site: Site, etag: str) -> bytes:
    """A check with a field that is longer than anybody takes."""
    return _long(site, etag, [TOO_LONG_FIELD])


def _long(site: Site, etag: str, values: list[str]) -> bytes:
    fields = {f"X-{number}": value for number, value in enumerate(values)}
    return request("GET", site.manifest_path, {"X-Request-Id": NUMBER, "If-None-Match": etag, **fields})


def unknown_route(_: Site, __: str) -> bytes:
    """What aiohttp has to answer, in as few bytes as can be."""
    return request("GET", f"/{NUMBER}")


def check(site: Site, etag: str) -> bytes:
    """An ordinary check."""
    return request("GET", site.manifest_path, {"If-None-Match": etag})


def many_checks(site: Site, _: str) -> bytes:
    """Hundreds of devices' questions, each without an entity tag, so that the answers are 25 times as long."""
    return request("GET", site.manifest_path) * PIPELINED


def _both(status: str) -> dict[str, str]:
    return {"nginx": status, "edge": status}


FRAGMENTS = Counter("skafos_edge_lane_handed_over_total", {"reason": "fragment"})
TURNED_AWAY = Counter("skafos_edge_saturated_total", {"bound": "posts"})
NOBODYS = Counter("skafos_edge_checks_total", {"status": "404"})
NEW_HEADS = Counter("skafos_edge_lane_heads_new_total")
MALFORMED = Counter("skafos_edge_requests_malformed_total")
PAUSED = Counter("skafos_edge_lane_paused_total")
RESET = Counter("skafos_edge_connections_reset_total")
NO_ROUTE = Counter("skafos_edge_requests_total", {"route": "unknown", "status": "404"})

FLOODS = (
    Flood("slow-heads", "2,000 heads, a byte a second", "drip", slow_head, DRIPPING, DRIPPING, {}, FRAGMENTS),
    Flood(
        *("slow-bodies", "2,000 bodies, a byte a second", "drip", slow_body, DRIPPING, DRIPPING),
        {"nginx": "404", "edge": "429"},
        TURNED_AWAY,
    ),
    Flood(
        *("unknown-keys", "10,000 unknown keys a second", "ask", unknown_key, 10_000, ASKING),
        _both("404"),
        NOBODYS,
    ),
    Flood(
        *("other-heads", "10,000 header blocks a second", "ask", other_head, 10_000, ASKING),
        _both("304"),
        NEW_HEADS,
    ),
    Flood(
        *("long-heads", "1,000 heads of 24 KB a second, taken", "ask", long_head, 1_000, ASKING),
        _both("304"),
        FRAGMENTS,
    ),
    Flood(
        *("longest-heads", "100 heads of 480 KB a second", "once", longest_head, 100, ASKING),
        {"nginx": "400", "edge": "304"},
        FRAGMENTS,
    ),
    Flood(
        *("too-long-heads", "1,000 fields over the limit a second", "once", too_long_head, 1_000, ASKING),
        _both("400"),
        MALFORMED,
    ),
    Flood(
        *("pipelined", "400 checks in one write, 200 a second, read slowly", "pipe", many_checks, 200, 8),
        _both("200"),
        PAUSED,
        read_bytes=64 << 10,
    ),
    Flood("vanish", "2,000 connections a second, reset", "vanish", check, 2_000, ASKING, {}, RESET),
    Flood(
        "saturating", "unknown routes, as many as are answered", "ask", unknown_route, 0, ASKING, _both("404"), NO_ROUTE
    ),
)
