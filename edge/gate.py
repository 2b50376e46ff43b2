"""A bound on work in progress that turns callers away at once instead of letting them queue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edge import metrics
from edge.errors import EdgeError


class Gate:
    """Lets a number of callers in at once.

    Args:
        name: what is bounded, for the metric.
        places: how many may be inside.
        refusal: makes the error for those who find no place.
    """

    def __init__(self, name: str, places: int, refusal: Callable[[], EdgeError]) -> None:
        self._name = name
        self._free = places
        self._refusal = refusal

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Hold a place; raises the refusal when all are taken."""
        if self._free == 0:
            metrics.SATURATED.labels(self._name).inc()
            raise self._refusal()
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1
