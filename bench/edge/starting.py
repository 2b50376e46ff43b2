"""What benchmarks that load an edge begin with: common options, cores that are theirs, and a bench."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from bench.edge.cores import Cores
from bench.edge.measuring import Bench
from bench.edge.site import Site

SECONDS = 2
# After this, cases that are left have one round each, so that the whole ends within twelve minutes. On two idle cores
# the defaults take about ten for the edge, and nine for telemetry, five of which it waits.
BUDGET_MINUTES = 10.0


def add_options(parser: argparse.ArgumentParser, rounds: int) -> None:
    """Add the options that tell how much is measured and where it is written; ``rounds`` is the default."""
    parser.add_argument("--rounds", type=int, default=rounds, help="turns of each peer in each case")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="length of a turn")
    parser.add_argument("--minutes", type=float, default=BUDGET_MINUTES, help="after these, one round each must do")
    parser.add_argument("--write", type=Path, metavar="DOCS", help="write the tables into the documents of this folder")


def take_place(cores: Cores) -> None:
    """Go to the core of the load, and let servers be ended when this process is told to stop."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    os.sched_setaffinity(0, {cores.load})


def bench_of(options: argparse.Namespace, site: Site, folder: Path, cores: Cores, began: float) -> Bench:
    """Return the bench for what the options say; ``began`` is the monotonic time that progress is told from."""
    return Bench(
        site=site,
        folder=folder,
        cores=cores,
        rounds=options.rounds,
        seconds=options.seconds,
        deadline=began + options.minutes * 60,
        say=lambda text: print(f"[{time.monotonic() - began:4.0f} s] {text}", file=sys.stderr, flush=True),
    )
