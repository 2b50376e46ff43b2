"""Measure patches beside those of other tools: ``python -m bench.patches`` (or ``make bench-patches``).

It takes the corpus that `corpus` made, lets every tool make and apply a patch for every pair, one at a time, prints
tables, and with ``--write FILE`` replaces their section in that file. Results of other tools are kept beside the
corpus, by version and by hashes of the files, so that another run measures only ours; ``--fresh`` measures all again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from artifacts.hashing import hash_file
from bench.markdown import write_section
from bench.patches.machine import preface
from bench.patches.measuring import Failed, Measured, measure
from bench.patches.pairs import Pair, read_index
from bench.patches.peers import OURS, PEERS, ZLIB_ALONE, Peer
from bench.patches.places import CORPUS
from bench.patches.report import SECTION, render
from bench.patches.results import Kept, Row

KEPT = CORPUS / "peers.json"


def main() -> int:
    """Measure, print, write; return the exit code."""
    options = arguments()
    pairs = [pair for pair in read_index() if not options.pairs or pair.name in options.pairs.split()]
    if not pairs:
        print("error: there is no such pair", file=sys.stderr)
        return 1
    versions = {peer: peer.version() for peer in (*OURS, *PEERS)}
    for peer in [peer for peer, version in versions.items() if not version]:
        print(f"left out: {peer.name} is not installed", file=sys.stderr)
        del versions[peer]
    kept = Kept(KEPT, fresh=options.fresh)
    rows = [measure_pair(pair, versions, kept, f"[{number}/{len(pairs)}]") for number, pair in enumerate(pairs, 1)]
    section = render(rows, {peer.name: version for peer, version in versions.items()}, preface(CORPUS))
    print(section)
    if options.write:
        write_section(options.write, SECTION, section)
    return 0


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", default="", metavar="NAMES", help="only these, separated by spaces")
    parser.add_argument("--fresh", action="store_true", help="measure other tools again too")
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the tables in FILE")
    return parser.parse_args(words)


def measure_pair(pair: Pair, versions: dict[Peer, str], kept: Kept, label: str) -> Row:
    """Return what every tool needed for one pair, telling the progress on standard error."""
    old, new = pair.files()
    (old_sha256, old_bytes), (new_sha256, new_bytes) = hash_file(old), hash_file(new)
    row = Row(pair, old_bytes, new_bytes)
    bounds = {ZLIB_ALONE: ZLIB_ALONE.version()} if pair.new.endswith(".zip") else {}
    for peer, version in {**versions, **bounds}.items():
        # What ours is divided by is measured beside it.
        theirs = peer.family not in ("ours", "bound")
        result = kept.find(peer, version, old_sha256, new_sha256) if theirs else None
        if result is None:
            began = time.monotonic()
            result = measured_or_why_not(peer, old, new)
            told = f"{result.patch_bytes:,} bytes" if isinstance(result, Measured) else f"failed: {result}"
            print(f"{label} {pair.name}, {peer.name}: {told}, {time.monotonic() - began:.1f} s", file=sys.stderr)
            if theirs:
                kept.keep(peer, version, old_sha256, new_sha256, result)
        row.results[peer.name] = result
    return row


def measured_or_why_not(peer: Peer, old: Path, new: Path) -> Measured | str:
    """Return what a tool needed, or why it made no patch."""
    try:
        return measure(peer, old, new)
    except Failed as problem:
        return f"{problem}"


if __name__ == "__main__":
    sys.exit(main())
