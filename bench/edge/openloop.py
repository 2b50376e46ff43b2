"""Open-loop load at a fixed rate, and the percentiles of what it saw. The generator itself is ``openloop.c``."""

from __future__ import annotations

import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.edge.figures import percentile
from bench.edge.generators import run_generator
from bench.edge.load import LoadFailed

# Enough that a free connection is at hand while the slowest answers of a thousand are awaited: 100,000 requests a
# second that take a millisecond each need a hundred.
CONNECTIONS = 256
WARM_SECONDS = 0.5


@dataclass(frozen=True)
class Latencies:
    """What devices would have waited, in microseconds, with the generator's own part of it.

    Args:
        rate: requests per second that were asked for.
        median, p99, p999: percentiles of the time from the moment a request was due to its answer.
        late_p99: 99th percentile of how late requests left; the part of the above that is the generator's.
        answered: requests that were recorded.
    """

    rate: float
    median: float
    p99: float
    p999: float
    late_p99: float
    answered: int


@dataclass(frozen=True)
class Flooded:
    """What a flood beside the load did and saw; see ``flood.c``.

    Args:
        turns: of its connections.
        skipped: turns in which nothing could be sent, because an answer was still awaited.
        opened: connections.
        requests: that were sent, or begun.
        answers: that began to arrive.
        unexpected: of these, how many did not begin as they should.
        ended: connections that the server ended with an answer still due.
        received: bytes.
    """

    turns: int
    skipped: int
    opened: int
    requests: int
    answers: int
    unexpected: int
    ended: int
    received: int


@dataclass(frozen=True)
class Seen:
    """What the generator saw: latencies, answers that were wrong or cut off, and what a flood beside it did."""

    latencies: Latencies
    wrong: int
    flood: Flooded | None


@dataclass(frozen=True)
class Asked:
    """The load.

    Args:
        port: on the loopback interface.
        request: the same each time.
        answer_bytes: size of every answer.
        answer_start: what each begins with.
        rate: requests per second.
        connections: over which they go.
        warm: seconds before anything is recorded.
    """

    port: int
    request: bytes
    answer_bytes: int
    answer_start: str
    rate: float
    connections: int = CONNECTIONS
    warm: float = WARM_SECONDS


def run_openloop(program: Path, asked: Asked, seconds: float) -> Latencies:
    """Ask for so long and return how long answers took.

    Raises:
        LoadFailed: an answer was another than expected, or some requests were never answered.
    """
    seen = run_beside(program, asked, seconds)
    if seen.wrong:
        raise LoadFailed(f"{seen.wrong} of {asked.rate:,.0f} requests per second got another answer, or none")
    return seen.latencies


def run_beside(program: Path, asked: Asked, seconds: float, flood: Sequence[str] = ()) -> Seen:
    """Ask for so long, beside a flood when one is given by its arguments, and return what was seen.

    Raises:
        LoadFailed: the generator failed, or some requests were never answered.
    """
    output = program.with_suffix(".samples")
    numbers = (asked.port, asked.connections, asked.rate, seconds, asked.warm, asked.answer_bytes)
    words = (*numbers, asked.answer_start, output, *flood)
    told = run_generator(program, words, asked.request, asked.warm + seconds)
    if told["unanswered"]:
        raise LoadFailed(f"{told['unanswered']} of {asked.rate:,.0f} requests per second were not answered in time")
    if not told["recorded"]:
        raise LoadFailed(f"all {told['wrong']} requests got another answer, or none")
    flooded = Flooded(**told["flood"]) if told["flood"] else None
    return Seen(latencies(output.read_bytes(), asked.rate), told["wrong"], flooded)


def latencies(samples: bytes, rate: float) -> Latencies:
    """Return the percentiles of the generator's output: float32 times, then as many float32 delays of its own."""
    numbers = array.array("f", samples)
    half, rest = divmod(len(numbers), 2)
    if rest or not half:
        raise LoadFailed(f"{len(numbers)} numbers are not two arrays of one length")
    times, late = sorted(numbers[:half]), sorted(numbers[half:])
    return Latencies(
        rate=rate,
        median=percentile(times, 0.5),
        p99=percentile(times, 0.99),
        p999=percentile(times, 0.999),
        late_p99=percentile(late, 0.99),
        answered=half,
    )
