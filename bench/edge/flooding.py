"""How a flood is measured: the ordinary load alone, then beside the flood, on one server after the other."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from bench.edge.counters import read_counter
from bench.edge.cpu import tree_seconds
from bench.edge.floods import CONNECTIONS, RATE, Flood
from bench.edge.measuring import Bench, asked_at, etag_of
from bench.edge.openloop import Asked, Seen, run_beside
from bench.edge.peers import why_missing
from bench.edge.probe import WrongAnswer, request
from bench.edge.residence import forget_peak, peak_resident, resident
from bench.edge.servers import Server
from bench.edge.site import Site

PEERS = ("nginx", "edge")
# All floods together take as long as a few other cases: two rounds are told as their mean.
ROUNDS = 2
# Shares of a turn, for the load alone and beside the flood. At 10,000 requests per second and turns of two seconds the
# 99.9th percentile stands on four and on six requests.
QUIET_SHARE, FLOODED_SHARE = 0.2, 0.3
# Until connections are open; with a flood until 2,000 more are.
QUIET_WARM_SECONDS, FLOODED_WARM_SECONDS = 0.15, 0.5
# For the server to be done with the connections of a flood.
SETTLE_SECONDS = 0.1


@dataclass(frozen=True)
class Turn:
    """What was seen of one server while the generator ran.

    Args:
        seen: by the generator.
        seconds: of the load, with those in which nothing was recorded yet.
        busy: share of its core that the server used.
        grown: bytes by which its resident memory exceeded at its highest what it was before.
        counted: by how much the flood's counter rose; None where there is none.
    """

    seen: Seen
    seconds: float
    busy: float
    grown: int
    counted: float | None


@dataclass(frozen=True)
class Beside:
    """One peer in one round: alone with the ordinary load, and beside the flood."""

    quiet: Turn
    flooded: Turn

    @property
    def wrong(self) -> int:
        """Answers of the ordinary load that were not as they should be, or did not come."""
        return self.quiet.seen.wrong + self.flooded.seen.wrong


@dataclass(frozen=True)
class Flooding:
    """A flood with what was seen of each peer, one a round, and why peers are missing."""

    flood: Flood
    rounds: Mapping[str, list[Beside]]
    missing: Mapping[str, str]


def measure_flood(bench: Bench, flood: Flood) -> Flooding:
    """Measure one flood; servers start anew for it, so that they grow in none before it."""
    missing = {peer: why for peer in PEERS if (why := why_missing(peer, tls=False))}
    rounds: dict[str, list[Beside]] = {peer: [] for peer in PEERS if peer not in missing}
    with ExitStack() as stack:
        running = {peer: stack.enter_context(bench.peer(peer)) for peer in rounds}
        for number in bench.turns(flood.title, ROUNDS):
            for peer, server in running.items():
                one = beside(bench, server, flood)
                rounds[peer].append(one)
                quiet, flooded = one.quiet.seen.latencies, one.flooded.seen.latencies
                bench.say(
                    f"{flood.title}, round {number + 1}: {peer} median {quiet.median:.0f} → {flooded.median:.0f}, "
                    f"99 % {quiet.p99:.0f} → {flooded.p99:.0f} µs, core {one.flooded.busy:.0%} busy"
                )
    return Flooding(flood, rounds, missing)


def beside(bench: Bench, server: Server, flood: Flood) -> Beside:
    """Load one server alone, then beside the flood."""
    asked = ordinary(bench.site, server)
    quiet = turn(bench, server, flood, asked, bench.seconds * QUIET_SHARE)
    asked = replace(asked, warm=FLOODED_WARM_SECONDS)
    arguments = flood.arguments(bench.site, etag_of(bench.site, server), server.name, bench.folder)
    flooded = turn(bench, server, flood, asked, bench.seconds * FLOODED_SHARE, arguments)
    time.sleep(SETTLE_SECONDS)
    return Beside(quiet, flooded)


def turn(
    bench: Bench, server: Server, flood: Flood, asked: Asked, seconds: float, arguments: Sequence[str] = ()
) -> Turn:
    """Load a server once.

    Raises:
        WrongAnswer: the flood is answered otherwise than its case expects, so it is another one.
    """
    forget_peak(server.pid)
    before, counted = resident(server.pid), count(server, flood)
    used, began = tree_seconds(server.pid), time.perf_counter()
    seen = run_beside(bench.generator, asked, seconds, arguments)
    busy = (tree_seconds(server.pid) - used) / (time.perf_counter() - began)
    grown = peak_resident(server.pid) - before
    if seen.flood is not None and seen.flood.unexpected:
        raise WrongAnswer(f"{server.name} answers {flood.name} otherwise {seen.flood.unexpected} times")
    now = count(server, flood)
    return Turn(seen, asked.warm + seconds, busy, grown, None if counted is None or now is None else now - counted)


def count(server: Server, flood: Flood) -> float | None:
    """Return what a flood's counter shows, of a server that tells."""
    return None if server.metrics is None else read_counter(server.metrics, flood.counter)


def ordinary(site: Site, server: Server) -> Asked:
    """Return the ordinary load: checks of devices that hold the newest manifest."""
    sent = request("GET", site.manifest_path, {"If-None-Match": etag_of(site, server)})
    return replace(asked_at(RATE, server, sent, 304), connections=CONNECTIONS, warm=QUIET_WARM_SECONDS)
