"""``python -m telemetry.dead_letters``: show what lies in a spool's dead-letter folder, or have it shipped once more.

Works on the folder alone, of ``SKAFOS_SPOOL_DIR``: neither ClickHouse nor a running shipper is needed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from pydantic import ValidationError

from telemetry.dead_letter import DeadSegment, NoSuchDeadSegment, dead_segments, redrive
from telemetry.settings import SpoolSettings


def main(words: Sequence[str] | None = None) -> int:
    """List, or hand over again; return 0, 1 when there is no such segment, 2 when the settings are wrong."""
    options = _arguments(words)
    try:
        root = SpoolSettings().spool_dir  # type: ignore[call-arg]  # the environment gives what is required
    except ValidationError:
        print("The settings are wrong. SKAFOS_SPOOL_DIR: the directory of the spool is needed", file=sys.stderr)
        return 2
    try:
        _print(_redriven(root, options.redrive) if options.redrive else dead_segments(root), options)
    except (NoSuchDeadSegment, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="skafos shipper", description=__doc__)
    parser.add_argument("--redrive", action="append", default=[], metavar="NAME", help="ship it once more; `all`: all")
    parser.add_argument("--json", action="store_true", help="print a list of objects")
    return parser.parse_args(words)


def _redriven(root: Path, names: Sequence[str]) -> list[DeadSegment]:
    wanted = [dead.name for dead in dead_segments(root)] if "all" in names else names
    return [redrive(root, name) for name in wanted]


def _print(segments: Sequence[DeadSegment], options: argparse.Namespace) -> None:
    if options.json:
        print(msgspec.json.encode(segments).decode())
        return
    for dead in segments:
        put_aside = datetime.fromtimestamp(dead.put_aside_at, UTC)
        print(f"{dead.name}  {put_aside:%Y-%m-%d %H:%M:%S} UTC  {dead.bytes:,} bytes\n    {dead.reason}")
    count = f"{len(segments)} segment{'' if len(segments) == 1 else 's'}"
    print(f"{count} handed over again" if options.redrive else f"{count} put aside", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
