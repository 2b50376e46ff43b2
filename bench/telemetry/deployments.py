"""What is deployed, and when: versions with steps of percent, one of them taken back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from bench.telemetry.rows import Column

HOUR: Final = 3600
DAY: Final = 86_400
BUCKETS: Final = 10_000


@dataclass(frozen=True)
class Deployment:
    """One version of the model.

    Args:
        version: its number.
        at: when its rollout began, in seconds since 1970.
        steps: seconds after ``at``, and the buckets of 10,000 that are offered the version from then on.
        withdrawn_at: when it was taken back; from then on the version before is offered.
        full_bytes: of the artifact.
        patch_bytes: of the patch from the version before.
        refused: share of attempts at which the app cannot use it.
    """

    version: int
    at: int
    steps: tuple[tuple[int, int], ...]
    full_bytes: int
    patch_bytes: int
    refused: float = 0.002
    withdrawn_at: int | None = None

    def buckets(self, moments: Column) -> Column:
        """Return how many buckets are offered the version at each moment."""
        after = np.array([seconds for seconds, _ in self.steps])
        wide = np.array([0, *(width for _, width in self.steps)])
        offered = wide[np.searchsorted(after, moments - self.at, side="right")]
        return offered if self.withdrawn_at is None else np.where(moments < self.withdrawn_at, offered, 0)


def usual_deployments(first_second: int, days: int) -> tuple[Deployment, ...]:
    """Return five versions: one from before, by steps, bad and taken back, its successor, and at once."""

    def at(share: float) -> int:
        return first_second + int(days * 24 * share) * HOUR

    return (
        Deployment(1, first_second - 30 * DAY, ((0, BUCKETS),), 11_400_000, 2_900_000),
        Deployment(2, at(0.1), ((0, 500), (6 * HOUR, 2_500), (DAY, BUCKETS)), 11_400_512, 1_210_000),
        Deployment(3, at(0.4), ((0, 1_000), (4 * HOUR, 5_000)), 12_000_128, 3_400_000, 0.2, at(0.4) + 20 * HOUR),
        Deployment(4, at(0.5), ((0, 1_000), (8 * HOUR, BUCKETS)), 11_900_640, 2_250_000),
        Deployment(5, at(0.75), ((0, BUCKETS),), 11_905_024, 310_000, 0.01),
    )


def offered(deployments: Sequence[Deployment], buckets: Column, moments: Column) -> Column:
    """Return the version that each device is offered.

    Args:
        deployments: in order; a later one goes before an earlier one.
        buckets: a row a device, a column a deployment.
        moments: seconds since 1970, one a device.
    """
    version = np.zeros(len(moments), np.int32)
    for place, one in enumerate(deployments):
        version = np.where(buckets[:, place] < one.buckets(moments), one.version, version)
    return version.astype(np.int32)
