"""How each kind of case is measured: peers start, take turns round by round, and end."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from bench.edge.cases import DownloadCase, RateCase
from bench.edge.certificate import make_certificate
from bench.edge.closedloop import run_closedloop
from bench.edge.cores import Cores, on
from bench.edge.cpu import tree_seconds
from bench.edge.downloads import Downloaded
from bench.edge.figures import Sample
from bench.edge.generators import build
from bench.edge.idle import Idle, measure_idle, most_connections
from bench.edge.load import Load, LoadFailed
from bench.edge.openloop import Asked, Latencies, run_openloop
from bench.edge.peers import PEERS, why_missing
from bench.edge.probe import Answer, WrongAnswer, ask, request
from bench.edge.publishing import measure_publishing
from bench.edge.servers import ROOT, Server
from bench.edge.shipped import shipped_at_once
from bench.edge.site import BLOB_BYTES, Site
from bench.edge.wrk import run_wrk

# Answers of one kind differ by a few bytes at most (a device id, a date); more means that others were answered.
SIZE_TOLERANCE = 0.05
# An edge that has to fetch the blob first may ask to come back.
BLOB_PATIENCE_SECONDS = 30.0
GRACE_SECONDS = 60
CAPACITY_CONNECTIONS = 64
LATENCY_SHARE = 0.5
MEMORY_PEERS = ("nginx", "edge", "aiohttp")
LATENCY_PEERS = ("nginx", "edge")


@dataclass(frozen=True)
class Throughput:
    """Samples of a case by peer, one a round, and why peers are missing."""

    case: RateCase | DownloadCase
    samples: dict[str, list[Sample]]
    missing: dict[str, str]


@dataclass(frozen=True)
class AtRate:
    """One peer in one round of the open-loop run: its capacity just before, and the latencies at half of it."""

    capacity: float
    latencies: Latencies


@dataclass
class Bench:
    """What all measurements share.

    Args:
        site: what is served.
        folder: for the files of servers.
        cores: for server and load; this process runs on the load's.
        rounds: how often each peer's turn comes.
        seconds: length of a turn.
        deadline: monotonic time after which one round has to do.
        say: tells progress.
        cut: cases that had fewer rounds, with how many.
    """

    site: Site
    folder: Path
    cores: Cores
    rounds: int
    seconds: int
    deadline: float
    say: Callable[[str], None]
    cut: list[tuple[str, int]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @cached_property
    def generator(self) -> Path:
        """The open-loop generator, compiled when it is first needed."""
        return build("openloop", self.new_folder("openloop"))

    @cached_property
    def closed_generator(self) -> Path:
        """The closed-loop generator of our own, compiled when it is first needed."""
        return build("closedloop", self.new_folder("closedloop"))

    def turns(self, title: str, most: int | None = None) -> Iterator[int]:
        """Yield the rounds' numbers, ``most`` at the most; after the deadline no more than the first."""
        for number in range(self.rounds if most is None else min(self.rounds, most)):
            if number and time.monotonic() > self.deadline:
                self.say(f"{title}: out of time, {number} rounds must do")
                self.cut.append((title, number))
                return
            yield number

    def left_out(self) -> list[str]:
        """Return what had fewer rounds than it should, as notes below the tables."""
        return [f"{title}: {rounds} rounds only, for lack of time" for title, rounds in self.cut]

    @contextmanager
    def peer(self, name: str, *, tls: bool = False) -> Iterator[Server]:
        """Run a peer on the server's core within the block."""
        folder = self.new_folder(name)
        certificate = make_certificate(folder) if tls else None
        with ExitStack() as stack:
            with on(self.cores.server):
                server = stack.enter_context(PEERS[name](self.site, folder, certificate))
            yield server

    def new_folder(self, name: str) -> Path:
        """Return a new, empty folder."""
        folder = self.folder / f"{next(self._numbers):03d}-{name}"
        folder.mkdir()
        return folder

    def word(self) -> str:
        """Return a word that was not given before."""
        return f"{next(self._numbers):08x}"


def measure_rate(bench: Bench, case: RateCase) -> Throughput:
    """Measure small requests."""
    missing, present = _look_up(case.peers, tls=case.tls)
    samples: dict[str, list[Sample]] = {peer: [] for peer in present}
    with ExitStack() as stack:
        running = {} if case.fresh else {peer: stack.enter_context(bench.peer(peer, tls=case.tls)) for peer in present}
        for number in bench.turns(case.title):
            for peer in present:
                if case.fresh:
                    with bench.peer(peer, tls=case.tls) as server, shipped_at_once(bench.folder):
                        sample = rate_sample(bench, case, server)
                else:
                    sample = rate_sample(bench, case, running[peer])
                samples[peer].append(sample)
                bench.say(
                    f"{case.title}, round {number + 1}: {peer} {sample.rate:,.0f}/s, "
                    f"{sample.cost:.1f} µs, generator {sample.load:.0%}"
                )
    return Throughput(case, samples, missing)


def rate_sample(bench: Bench, case: RateCase, server: Server) -> Sample:
    """Look at one server's answers, then load it once."""
    etag = etag_of(bench.site, server)
    asked = case.asking(bench.site, etag, bench.word())
    answers = [example_of(server, sent, status) for _, sent, status in asked.examples]
    expected = sum(share * len(answer) for (share, _, _), answer in zip(asked.examples, answers, strict=True))
    program = bench.closed_generator if case.polled else None  # compiled before anything is counted
    before = tree_seconds(server.pid)
    if program is None:
        load = run_wrk(
            server.url + asked.path,
            case.connections,
            bench.seconds,
            headers=dict(asked.headers),
            script=asked.script,
            arguments=asked.arguments,
        )
    else:
        (_, sent, _), (answer,) = asked.examples[0], answers
        load = run_closedloop(program, server.address[1], sent, answer.head, case.connections, bench.seconds)
    used = tree_seconds(server.pid) - before
    _expect_size(server, load, expected)
    return Sample(load.rate, used / load.requests * 1e6, load.cpu_seconds / load.seconds)


def etag_of(site: Site, server: Server) -> str:
    """Return the server's own entity tag of the manifest."""
    return ask(server.address, request("GET", site.manifest_path), tls=server.tls).header("ETag")


def example_of(server: Server, sent: bytes, status: int) -> Answer:
    """Return a server's answer to a request.

    Raises:
        WrongAnswer: it has another status.
    """
    answer = ask(server.address, sent, tls=server.tls)
    if answer.status != status:
        raise WrongAnswer(f"{server.name} answers {answer.status} instead of {status}")
    return answer


def asked_at(rate: float, server: Server, sent: bytes, status: int) -> Asked:
    """Return the open-loop load of one request to a server; all answers must be like one that it gives now.

    Raises:
        WrongAnswer: that one has another status.
    """
    return Asked(server.address[1], sent, len(example_of(server, sent, status)), f"HTTP/1.1 {status}", rate)


def _expect_size(server: Server, load: Load, expected: float) -> None:
    mean = load.received / load.requests
    if abs(mean - expected) > SIZE_TOLERANCE * expected:
        raise WrongAnswer(f"{server.name} answered {mean:.0f} bytes a request, not {expected:.0f}")


def measure_downloads(bench: Bench, case: DownloadCase) -> Throughput:
    """Measure large answers: client and server share one core, so that the sending is paid for there."""
    missing, present = _look_up(case.peers, tls=False)
    samples: dict[str, list[Sample]] = {peer: [] for peer in present}
    with ExitStack() as stack:
        running = {peer: stack.enter_context(bench.peer(peer)) for peer in present}
        for server in running.values():
            fill(bench, server)
        for number in bench.turns(case.title):
            for peer, server in running.items():
                sample = download_sample(bench, case, server)
                samples[peer].append(sample)
                bench.say(
                    f"{case.title}, round {number + 1}: {peer} {sample.rate / 1e6:,.0f} MB/s, {sample.cost:.1f} µs/MB"
                )
    return Throughput(case, samples, missing)


def fill(bench: Bench, server: Server) -> None:
    """Ask for the blob until it is there, and look whether it is the right one."""
    deadline = time.monotonic() + BLOB_PATIENCE_SECONDS
    while (answer := ask(server.address, request("GET", bench.site.blob_path))).status == 503:
        if time.monotonic() > deadline:
            raise WrongAnswer(f"{server.name} does not get the blob")
        time.sleep(0.1)
    if answer.status != 200 or len(answer.body) != BLOB_BYTES:
        raise WrongAnswer(f"{server.name} answers {answer.status} with {len(answer.body)} bytes")


def download_sample(bench: Bench, case: DownloadCase, server: Server) -> Sample:
    """Download from one server once."""
    words = [server.address[1], bench.site.blob_path, case.connections, bench.seconds, server.pid]
    command = [sys.executable, "-m", "bench.edge.downloads", *map(str, words), *([case.range] if case.range else [])]
    with on(bench.cores.server):
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=bench.seconds + GRACE_SECONDS, check=False
        )
    if done.returncode:
        raise LoadFailed(f"downloads from {server.name} failed: {done.stderr.strip()[-500:]}")
    counted = Downloaded(**json.loads(done.stdout))
    # Load: what of the core was not the server's.
    own = max(0.0, counted.machine - counted.server) / counted.seconds
    return Sample(counted.received / counted.seconds, counted.machine / counted.received * 1e12, own)


def measure_latency(bench: Bench, seconds: int) -> dict[str, list[AtRate]]:
    """Measure each peer's capacity, then its latencies at half of that, in turn."""
    results: dict[str, list[AtRate]] = {}
    with ExitStack() as stack:
        running = {
            peer: stack.enter_context(bench.peer(peer)) for peer in LATENCY_PEERS if not why_missing(peer, tls=False)
        }
        for number in bench.turns("latency"):
            for peer, server in running.items():
                one = latency_sample(bench, server, seconds)
                results.setdefault(peer, []).append(one)
                seen = one.latencies
                bench.say(
                    f"latency, round {number + 1}: {peer} at {seen.rate:,.0f}/s: median {seen.median:.0f}, "
                    f"99 % {seen.p99:.0f}, 99.9 % {seen.p999:.0f} µs (sent late by {seen.late_p99:.0f})"
                )
    return results


def latency_sample(bench: Bench, server: Server, seconds: int) -> AtRate:
    """Measure one server's capacity and its latencies at half of it, once."""
    etag = etag_of(bench.site, server)
    headers = {"If-None-Match": etag}
    load = run_wrk(server.url + bench.site.manifest_path, CAPACITY_CONNECTIONS, 1, headers=headers)
    sent = request("GET", bench.site.manifest_path, headers)
    asked = asked_at(load.rate * LATENCY_SHARE, server, sent, 304)
    return AtRate(load.rate, run_openloop(bench.generator, asked, seconds))


def measure_memory(bench: Bench) -> dict[str, Idle]:
    """Measure each peer's memory per idle connection."""
    results = {}
    for peer in MEMORY_PEERS:
        if why_missing(peer, tls=False):
            continue
        with bench.peer(peer) as server:
            etag = etag_of(bench.site, server)
            asked = request("GET", bench.site.manifest_path, {"If-None-Match": etag})
            results[peer] = measure_idle(server, asked, most_connections())
        bench.say(f"idle memory: {peer} {results[peer].unique:,.0f} bytes a connection")
    return results


def measure_publish(bench: Bench) -> list[float]:
    """Measure publishing; workers, this process and Redis share both cores."""
    with on(*bench.cores.both):
        times = measure_publishing(bench.site, bench.new_folder("publish"))
    bench.say(f"publish: slowest of {len(times)} {max(times):.1f} ms")
    return times


def _look_up(peers: tuple[str, ...], *, tls: bool) -> tuple[dict[str, str], list[str]]:
    reasons = {peer: why_missing(peer, tls=tls) for peer in peers}
    missing = {peer: reason for peer, reason in reasons.items() if reason}
    return missing, [peer for peer in peers if peer not in missing]
