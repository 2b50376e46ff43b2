"""An open way to an embedded ClickHouse, as the control plane has one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from control_plane.warehouse import WarehouseGate


@asynccontextmanager
async def open_gate(folder: Path) -> AsyncIterator[WarehouseGate]:
    """Open it in a folder while the block lasts."""
    gate = WarehouseGate(None, folder)
    opening = asyncio.create_task(gate.run())
    await gate.wait()
    yield gate
    opening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await opening
    await gate.close()
