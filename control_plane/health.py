"""Which of the parts that the control plane depends on answer: for readiness, the status page and a metric.

Only the database is needed to answer the API. Without Redis a deploy is kept and delivered later; without the object
store uploads wait; without ClickHouse the questions to it do. So those are told, and do not make the process unready.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from control_plane.metrics import PART_UP

# A part that takes longer to say that it is there is as good as away.
ANSWER_SECONDS = 3.0
# How old what the status page and the metric show may be.
WATCH_SECONDS = 10.0
NEEDED = frozenset({"database"})

_log = structlog.get_logger(__name__)


class Health:
    """Asks every part whether it is there.

    Args:
        pings: by the part's name; each raises when the part does not answer.
    """

    def __init__(self, pings: Mapping[str, Callable[[], Awaitable[object]]]) -> None:
        self._pings = pings
        self.latest: dict[str, bool] = dict.fromkeys(pings, False)

    @property
    def is_ready(self) -> bool:
        """Whether the API could be answered when last asked."""
        return all(self.latest[part] for part in NEEDED)

    async def check(self) -> dict[str, bool]:
        """Ask every part at once and return which ones answered."""
        answers = await asyncio.gather(*(self._answers(part) for part in self._pings))
        for part, answered in zip(self._pings, answers, strict=True):
            if answered != self.latest[part]:
                _log.info("part_answers" if answered else "part_does_not_answer", part=part)
            self.latest[part] = answered
            PART_UP.labels(part).set(answered)
        return dict(self.latest)

    async def wait_for_all(self, seconds: float) -> None:
        """Return when every part answers, or when the time is up: the API does not need them all."""
        deadline = asyncio.get_running_loop().time() + seconds
        pause = 0.05
        while not all((await self.check()).values()) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.0)

    async def run(self) -> None:
        """Keep asking."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            await self.check()

    async def _answers(self, part: str) -> bool:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._pings[part]()
        except Exception:
            return False
        return True
