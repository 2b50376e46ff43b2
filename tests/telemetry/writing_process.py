"""A process that appends to a spool from several devices at once, tells what was acknowledged, and is killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from telemetry.spool import DEFAULT_SEGMENT_BYTES

_PROGRAM = """
import asyncio, sys
from pathlib import Path
from telemetry.spool import Spool
from tests.telemetry.samples import NOON, body, event, labels

async def main(directory, roll_seconds, segment_bytes):
    async with Spool(Path(directory), roll_seconds=float(roll_seconds), segment_bytes=int(segment_bytes)) as spool:
        async def device(n):
            count = 0
            while True:
                await spool.append(labels(), body(event(device=f"{n}-{count}")), NOON)
                print(f"{n}-{count}", flush=True)  # acknowledged
                count += 1
        await asyncio.gather(*(device(n) for n in range(8)))

asyncio.run(main(*sys.argv[1:]))
"""


@dataclass(frozen=True)
class WritingProcess:
    """A writer. Each batch has one event, of a device of its own."""

    process: subprocess.Popen[str]

    def acknowledged(self) -> str:
        """Wait for the next batch that is acknowledged, and return its device."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> list[str]:
        """Kill it; return the devices whose batches it had acknowledged and told nobody of yet."""
        assert self.process.stdout is not None
        self.process.kill()
        lines = self.process.stdout.read().splitlines(keepends=True)
        return [line.strip() for line in lines if line.endswith("\n")]


@contextmanager
def writing_process(
    directory: Path, roll_seconds: float, segment_bytes: int = DEFAULT_SEGMENT_BYTES
) -> Iterator[WritingProcess]:
    """Run one in a writer's directory while the block lasts."""
    command = [sys.executable, "-c", _PROGRAM, str(directory), str(roll_seconds), str(segment_bytes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield WritingProcess(process)
        finally:
            process.kill()
