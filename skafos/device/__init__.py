"""A device that keeps its models up to date: check, verify, download, swap, report.

It is real software for Linux devices, and the reference for clients in other languages::

    from skafos.device import DeviceClient

    with DeviceClient("https://edge.example.org", "prod-…", Path("/var/lib/camera/models")) as device:
        result = device.sync("vision")
        run(result.path)

The protocol is in `docs/protocol.md`; the flow reads top to bottom in `skafos.device.update`.
"""

from __future__ import annotations

from skafos.device.edge import Retry
from skafos.device.errors import (
    ArtifactRejected,
    DeviceError,
    DirectoryBusy,
    DiskFailed,
    EdgeUnavailable,
    ManifestRejected,
    NoModel,
    NoSpace,
    UnknownKey,
)
from skafos.device.identity import Facts, detect_facts
from skafos.device.slots import HeldVersion
from skafos.device.update import DeviceClient, SyncResult

__all__ = [
    "DeviceClient",
    "SyncResult",
    "HeldVersion",
    "Facts",
    "detect_facts",
    "Retry",
    "DeviceError",
    "EdgeUnavailable",
    "UnknownKey",
    "ManifestRejected",
    "ArtifactRejected",
    "NoSpace",
    "DiskFailed",
    "NoModel",
    "DirectoryBusy",
]
