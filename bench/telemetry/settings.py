"""What a run is told, and what it shares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.edge.measuring import Bench

EVENTS: Final = 3_000_000
"""Rows that questions are asked over: some minutes with both engines. The goal is stated for 50 million."""
DAYS: Final = 30
OUTAGE_SECONDS: Final = 15
ARRIVALS: Final = 20_000
"""Events per second while ClickHouse is away and while the shipper catches up, on a machine whose cores all share."""
PROBES: Final = 40
ENGINES: Final = ("server", "embedded")


@dataclass(frozen=True)
class Run:
    """A run's settings.

    Args:
        bench: site, folder, cores, rounds and seconds, as for the edge.
        events: of the population that is asked about.
        days: that they are spread over.
        outage_seconds: ClickHouse is away.
        arrivals: events per second meanwhile and after.
        engines: that are asked.
    """

    bench: Bench
    events: int
    days: int
    outage_seconds: float
    arrivals: int
    engines: tuple[str, ...]

    def new_folder(self, name: str) -> Path:
        """Return a new, empty folder."""
        return self.bench.new_folder(name)
