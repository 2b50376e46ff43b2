"""What a closed-loop load generator counts, and how it fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


class LoadFailed(Exception):
    """The load generator failed, or was not answered as it should be."""


@dataclass(frozen=True)
class Load:
    """What a generator counted.

    Args:
        requests: answers that arrived whole.
        received: bytes.
        seconds: measured time.
        cpu_seconds: what the generator itself used, without the making of requests beforehand.
    """

    requests: int
    received: int
    seconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.requests / self.seconds

    @classmethod
    def told(cls, told: Mapping[str, int]) -> Load:
        """Return what a generator tells in its own units."""
        return cls(told["requests"], told["bytes"], told["duration_us"] / 1e6, told["cpu_us"] / 1e6)
