"""Four devices of which every figure is known: two install version 1, one fails at it, one only checks."""

from __future__ import annotations

import uuid
from typing import Any

SENT = {"bytes": 100, "full_bytes": 100, "encoding": "identity", "duration_ms": 120}
PATCHED = {"bytes": 30, "full_bytes": 100, "encoding": "zstd-prefix", "duration_ms": 40}


def population(model: str) -> list[dict[str, Any]]:
    """Return what they report of a model, as one batch."""

    def event(kind: str, device: str, **fields: Any) -> dict[str, Any]:
        given = {"event_id": str(uuid.uuid4()), "type": kind, "occurred_at": "2026-01-02T03:04:05Z"}
        facts = {"device_id": device, "os": "ios", "os_version": "17.1" if device < "d-3" else "18.0"}
        return {**given, **facts, "model": model, **fields}

    return [
        *(event("check", f"d-{number}") for number in (1, 2, 3, 4)),
        event("download", "d-1", version=1, **SENT),
        event("download", "d-2", version=1, **PATCHED),
        event("download", "d-3", version=1, **SENT),
        *(event(kind, device, version=1) for kind in ("verify", "activate") for device in ("d-1", "d-2")),
        event("error", "d-3", version=1, error="hash differs"),
        event("error", "d-3", version=1, error="hash differs"),
    ]
