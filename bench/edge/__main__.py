"""``python -m bench.edge``: measure the edge beside its peers, print tables, and write them into the documents.

Ends with 0 also when goals do not hold: machines differ, and the tables say which do not. Ends with 1 when something
could not be measured.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.edge import cases
from bench.edge.capacity import render_capacity
from bench.edge.cores import Cores, TooFewCores, choose_cores
from bench.edge.figures import Sample
from bench.edge.flood_report import render_floods
from bench.edge.flooding import measure_flood
from bench.edge.floods import FLOODS
from bench.edge.generators import compiler
from bench.edge.idle import allow_open_files
from bench.edge.load import LoadFailed
from bench.edge.locust_run import run_locust, why_no_locust
from bench.edge.machine import circumstances, preface
from bench.edge.measuring import (
    Bench,
    measure_downloads,
    measure_latency,
    measure_memory,
    measure_publish,
    measure_rate,
)
from bench.edge.peers import why_missing
from bench.edge.probe import WrongAnswer
from bench.edge.report import Results, render
from bench.edge.servers import NotStarted
from bench.edge.site import running_site
from bench.edge.starting import add_options, bench_of, take_place
from bench.markdown import write_section

ROUNDS = 5


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, write; return the exit code."""
    options = arguments(words)
    try:
        chosen = choose(options.cases)
        cores = choose_cores()
    except (ValueError, TooFewCores) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if shutil.which("wrk") is None:
        print("error: wrk is not installed; `make bench-edge` as root does it", file=sys.stderr)
        return 2
    take_place(cores)
    allow_open_files()
    try:
        text, floods, results = measure(options, chosen, cores)
    except (LoadFailed, NotStarted, WrongAnswer) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n\n".join(part for part in (text, floods) if part))
    if options.write:
        write(options.write, text, floods, results)
    return 0


def write(documents: Path, text: str, floods: str, results: Results) -> None:
    """Write what was measured into the documents; what was not stays there."""
    if text:
        write_section(documents / "performance.md", "edge figures", text)
        write_section(documents / "capacity.md", "capacity figures", render_capacity(results))
    if floods:
        write_section(documents / "performance.md", "flood figures", floods)


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(prog="python -m bench.edge", description=__doc__)
    add_options(parser, ROUNDS)
    parser.add_argument("--cases", default="", help=f"some of: {' '.join((*cases.NAMES, *cases.GROUPS))}")
    options = parser.parse_args(words)
    if options.rounds < 1 or options.seconds < 1:
        parser.error("rounds and seconds are at least 1")
    return options


def choose(text: str) -> list[str]:
    """Return the names of the cases to run, in their order; all that run by default when none is named.

    Raises:
        ValueError: there is no such case.
    """
    words = text.replace(",", " ").split()
    wanted = [name for word in words for name in cases.GROUPS.get(word, (word,))]
    unknown = [name for name in wanted if name not in cases.NAMES]
    if unknown:
        raise ValueError(f"no case is named {unknown[0]}; there are {', '.join((*cases.NAMES, *cases.GROUPS))}")
    return [name for name in cases.NAMES if name in wanted] if wanted else list(cases.DEFAULT)


def measure(options: argparse.Namespace, chosen: Sequence[str], cores: Cores) -> tuple[str, str, Results]:
    """Run the cases and return the tables, that of floods by itself, with what they were made from.

    When only floods were chosen the first is empty.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="skafos-bench-") as name, running_site(Path(name)) as site:
        bench = bench_of(options, site, Path(name), cores, began)
        results = Results()
        for case in chosen:
            run(bench, case, results)
        results.left_out += bench.left_out()
        floods = render_floods(results.floods, circumstances(Path(name)))
        others = not floods or not set(chosen) <= set(cases.GROUPS["floods"])
        text = render(results, preface(Path(name), options.rounds, options.seconds)) if others else ""
        return text, floods, results


def run(bench: Bench, name: str, results: Results) -> None:
    """Measure one case and keep what it gave."""
    compiled = name in (cases.LATENCY, *cases.POLLED, *cases.GROUPS["floods"])
    if compiled and compiler() is None:
        results.left_out.append(f"{name}: there is no C compiler (Debian: gcc, libc6-dev)")
        return
    for rate_case in cases.RATE_CASES:
        if rate_case.name == name:
            result = measure_rate(bench, rate_case)
            results.throughput.append(result)
            results.left_out += [f"{rate_case.title}, {peer}: {why}" for peer, why in result.missing.items()]
    for download_case in cases.DOWNLOAD_CASES:
        if download_case.name == name:
            results.throughput.append(measure_downloads(bench, download_case))
    if name == cases.LUA and not why_missing("nginx", tls=False):
        results.lua = measure_lua(bench)
    if name == cases.LATENCY:
        results.latency = measure_latency(bench, bench.seconds)
    for flood in FLOODS:
        if flood.name == name:
            results.floods.append(measure_flood(bench, flood))
    if name == cases.MEMORY:
        results.memory = measure_memory(bench)
    if name == cases.PUBLISH:
        results.publish = measure_publish(bench)
    if name == cases.LOCUST:
        missing = why_no_locust()
        if missing:
            results.left_out.append(missing)
        else:
            run_locust(bench)


def measure_lua(bench: Bench) -> tuple[list[Sample], list[Sample]]:
    """Measure what it costs the load generator to have its requests handed out by a script."""
    plain, scripted = (measure_rate(bench, case) for case in (cases.PLAIN_CASE, cases.LUA_CASE))
    return plain.samples["nginx"], scripted.samples["nginx"]


if __name__ == "__main__":
    sys.exit(main())
