"""Floods: bad input beside which an ordinary load is measured, each at a rate that leaves the server's core room, and one
that does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

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
# Half a minute's worth of drops, and below every bound on a body.
UNFINISHED_BYTES = 100_000
PIPELINED = 400
DRIPPING = 2_000

# Makes what is sent from the site and the server's own entity tag.
Template = Callable[[Site, str], bytes]


@dataclass(frozen=True)
class Counter:
    """A counter of the edge's metrics port, with labels that its samples must have."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        labels = ",".join(f'{name}="{value}"' for name, value in self.labels.items())
        return f"{self.name}{{{labels}}}" if labels else self.name


@dataclass(frozen=True)
class Flood:
    """One flood.

    Args:
        name: on the command line.
        title: what comes, in words.
        kind: see `flood.c`.
        rate: turns per second; 0 for as many as are answered.
        connections: that take turns.
        template: makes what is sent.
        answers: status of every answer, by peer; nothing where none should come.
        counter: where an operator sees it.
        read_bytes: of a client that reads slowly, at each turn.
    """

    name: str
    title: str
    kind: str
    rate: int
    connections: int
    template: Template
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


def unknown_key(site: Site, etag: str) -> bytes:
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


def check(site: Site, etag: str) -> bytes:
    """An ordinary check."""
    return request("GET", site.manifest_path, {"If-None-Match": etag})


def many_checks(site: Site, etag: str) -> bytes:
    """Hundreds of them."""
    return check(site, etag) * PIPELINED


def both(status: str) -> dict[str, str]:
    """Both peers answer this."""
    return {"nginx": status, "edge": status}


FRAGMENTS = Counter("skafos_edge_lane_handed_over_total", {"reason": "fragment"})
MALFORMED = Counter("skafos_edge_requests_malformed_total")
UNKNOWN = Counter("skafos_edge_requests_total", {"route": "manifest", "status": "404"})
CHECKS = Counter("skafos_edge_checks_total", {"status": "304"})
POSTS = Counter("skafos_edge_saturated_total", {"bound": "posts"})

FLOODS = (
    Flood("slow-heads", "heads, a byte a second", "drip", DRIPPING, DRIPPING, slow_head, {}, FRAGMENTS),
    Flood(
        *("slow-bodies", "bodies, a byte a second", "drip", DRIPPING, DRIPPING, slow_body),
        {"nginx": "404", "edge": "429"},
        POSTS,
    ),
    Flood("unknown-keys", "another unknown key each time", "ask", 3_000, 64, unknown_key, both("404"), UNKNOWN),
    Flood("other-heads", "another header block each time", "ask", 10_000, 64, other_head, both("304"), CHECKS),
    Flood("long-heads", "heads of 24 KB", "ask", 1_000, 64, long_head, both("304"), FRAGMENTS),
    Flood(
        *("longest-heads", "heads of 480 KB", "once", 40, 16, longest_head),
        {"nginx": "400", "edge": "304"},
        FRAGMENTS,
    ),
    Flood("too-long-heads", "heads over the limit", "once", 1_000, 64, too_long_head, both("400"), MALFORMED),
    Flood(
        *("pipelined", "400 checks in one write, read slowly", "pipe", 100, 50, many_checks, both("304"), CHECKS),
        read_bytes=32 << 10,
    ),
    Flood("vanish", "connections that come and vanish", "vanish", 1_000, 64, check, {}, CHECKS),
    Flood("saturated", "unknown keys, as many as are answered", "ask", 0, 64, unknown_key, both("404"), UNKNOWN),
)
