"""Who runs on which core: the server on one, the load and everything else on another.

A child inherits the affinity of the thread that starts it, so a process is pinned from its first instruction by
starting it within `on`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class TooFewCores(Exception):
    """There are not two cores for us, so load and server would disturb each other."""


@dataclass(frozen=True)
class Cores:
    """The two cores that are used."""

    load: int
    server: int

    @property
    def both(self) -> frozenset[int]:
        """Both cores, for what is to run wherever there is room."""
        return frozenset({self.load, self.server})


def choose_cores(allowed: frozenset[int] | None = None) -> Cores:
    """Return the first core for the load and the last for the server: interrupts are mostly served by the first.

    Raises:
        TooFewCores: fewer than two are allowed.
    """
    ours = sorted(os.sched_getaffinity(0) if allowed is None else allowed)
    if len(ours) < 2:
        raise TooFewCores("two cores are needed, one for the server and one for the load")
    return Cores(load=ours[0], server=ours[-1])


@contextmanager
def on(*cores: int) -> Iterator[None]:
    """Run this thread, and what it starts, on these cores within the block."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
