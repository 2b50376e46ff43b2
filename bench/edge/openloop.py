"""Open-loop load at a fixed rate, and the percentiles of what it saw. The generator itself is ``openloop.c``."""

from __future__ import annotations

import array
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.edge.figures import percentile
from bench.edge.wrk import LoadFailed

SOURCE = Path(__file__).resolve().parent / "openloop.c"
# Enough that a free connection is at hand while the slowest answers of a thousand are awaited: 100,000 requests a
# second that take a millisecond each need a hundred.
CONNECTIONS = 256
WARM_SECONDS = 0.5
GRACE_SECONDS = 30


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


def compiler() -> str | None:
    """Return the C compiler, or None."""
    return shutil.which("cc") or shutil.which("gcc")


def build(folder: Path) -> Path:
    """Compile the generator into ``folder``."""
    program = folder / "openloop"
    found = compiler()
    assert found is not None, "the case was looked at before"
    subprocess.run([found, "-O2", "-o", str(program), str(SOURCE)], check=True)
    return program


def run_openloop(
    program: Path, port: int, request: bytes, answer_bytes: int, answer_start: str, rate: float, seconds: float
) -> Latencies:
    """Ask the loopback ``port`` at ``rate`` per second and return how long answers took.

    Raises:
        LoadFailed: an answer was another than expected, or some requests were never answered.
    """
    output = program.with_suffix(".samples")
    numbers = (port, CONNECTIONS, rate, seconds, WARM_SECONDS, answer_bytes)
    done = subprocess.run(
        [str(program), *map(str, numbers), answer_start, str(output)],
        input=request,
        capture_output=True,
        timeout=seconds + GRACE_SECONDS,
        check=False,
    )
    if done.returncode:
        raise LoadFailed(done.stderr.decode(errors="replace").strip())
    told = json.loads(done.stdout)
    if told["unanswered"]:
        raise LoadFailed(f"{told['unanswered']} of {rate:,.0f} requests per second were not answered in time")
    return latencies(output.read_bytes(), rate)


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
