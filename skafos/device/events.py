"""What happened, kept on the disk until an edge has taken it.

Events are lines of JSON in two files: new ones go to ``pending``, which becomes ``older`` when it is full, so that a
device that is offline for months keeps its latest. An edge may get an event twice; its id tells.

A disk that fails never makes reporting fail: what it does not take waits in memory for the end of the check, what it
does not forget is handed in again.
"""

from __future__ import annotations

import gzip
import json
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from artifacts.files import make_directory, whole_file
from skafos.device.edge import Edge

# Two files of 512 KiB hold about 3,000 events of 350 bytes: weeks of a device that checks each quarter of an hour.
MAX_FILE_BYTES = 512 << 10
# Half of what an edge takes at once.
MAX_BATCH_EVENTS = 500
# Below that, compressing saves less than a packet.
COMPRESS_FROM_BYTES = 1_200
MAX_ERROR_LENGTH = 500
# A check reports each encoding that failed, 32 at most, and a few steps of its own.
MAX_UNWRITTEN_EVENTS = 64

Value = str | int | float | None


class EventQueue:
    """A device's events. Use it only while the directory's lock is held.

    Args:
        directory: where they are kept.
        common: what every event states: the device's id and facts.
        now: the present moment, in UTC.
    """

    def __init__(
        self, directory: Path, common: Mapping[str, Value], now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._older = directory / "older.ndjson"
        self._pending = directory / "pending.ndjson"
        self._common = common
        self._now = now
        self._unwritten: deque[bytes] = deque(maxlen=MAX_UNWRITTEN_EVENTS)

    def add(self, kind: str, **fields: Value) -> None:
        """Keep an event; in memory when the disk does not take it, which may be what it tells of.

        Args:
            kind: check, download, verify, activate or error.
            **fields: as the device protocol names them; None leaves one out.
        """
        if (error := fields.get("error")) is not None:
            fields["error"] = str(error)[:MAX_ERROR_LENGTH]
        moment = self._now().isoformat(timespec="milliseconds")
        event = {"event_id": str(uuid.uuid4()), "type": kind, "occurred_at": moment, **self._common, **fields}
        known = {name: value for name, value in event.items() if value is not None}
        self._write(json.dumps(known).encode())

    def _write(self, event: bytes) -> None:
        # The line break before it ends what a process that was killed, or a full disk, may have left torn.
        line = b"\n" + event + b"\n"
        try:
            make_directory(self._pending.parent)
            if self._pending.exists() and self._pending.stat().st_size + len(line) > MAX_FILE_BYTES:
                self._pending.replace(self._older)
            with self._pending.open("ab") as file:
                file.write(line)
        except OSError:
            self._unwritten.append(event)

    def deliver(self, edge: Edge) -> None:
        """Hand all events to the edge, oldest first, and forget what it took.

        Raises:
            EdgeUnavailable: the rest stays.
        """
        for _ in range(len(self._unwritten)):
            # The check may have made room since.
            self._write(self._unwritten.popleft())
        for file in (self._older, self._pending):
            # A file that cannot be read now stays, and does not keep the others back.
            with suppress(OSError):
                if not _hand_in(file, edge):
                    return
        if self._unwritten and edge.report(*_encoded(self._unwritten)):
            self._unwritten.clear()


def _hand_in(file: Path, edge: Edge) -> bool:
    """Hand in a file's events; say whether it is done with."""
    lines = _lines(file)
    while lines:
        if not edge.report(*_encoded(lines[:MAX_BATCH_EVENTS])):
            return False
        lines = lines[MAX_BATCH_EVENTS:]
        # Without room to write down what is left, all of it stays until all of it was taken.
        with suppress(OSError):
            _replace(file, lines)
    file.unlink(missing_ok=True)
    return True


def _lines(file: Path) -> list[bytes]:
    """Return the whole events of a file: a process that was killed may have left the last one torn."""
    try:
        return [line for line in file.read_bytes().split(b"\n") if _is_event(line)]
    except FileNotFoundError:
        return []


def _is_event(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _replace(file: Path, lines: list[bytes]) -> None:
    if lines:
        with whole_file(file) as rest:
            rest.write(b"\n".join(lines) + b"\n")
    else:
        file.unlink(missing_ok=True)


def _encoded(events: Iterable[bytes]) -> tuple[bytes, str | None]:
    batch = b"\n".join(events) + b"\n"
    return (gzip.compress(batch, 6), "gzip") if len(batch) >= COMPRESS_FROM_BYTES else (batch, None)
