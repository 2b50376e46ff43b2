"""What was measured: by pair and tool, and kept on disk for tools that do not change from one run to the next."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.patches.measuring import Measured
from bench.patches.pairs import Pair
from bench.patches.peers import Peer

__all__ = ["Kept", "Row"]

# A change of the adapters or of what is measured makes what was kept worthless: count up then.
REVISION = 1


@dataclass(frozen=True, slots=True)
class Row:
    """One pair: the lengths of its files in bytes, and what each tool needed, by its name. A string tells a failure."""

    pair: Pair
    old_bytes: int
    new_bytes: int
    results: dict[str, Measured | str] = field(default_factory=dict)

    def measured(self, tool: str) -> Measured | None:
        """Return what a tool needed, or None if it failed or did not take part."""
        result = self.results.get(tool)
        return result if isinstance(result, Measured) else None


class Kept:
    """Results of other tools in one file, by tool, version, and hashes of the pair; failures are kept as well."""

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        self._path = path
        self._entries: dict[str, dict[str, object]] = {}
        if path.is_file() and not fresh:
            self._entries = json.loads(path.read_text())

    def find(self, peer: Peer, version: str, old_sha256: str, new_sha256: str) -> Measured | str | None:
        """Return what was kept, or None."""
        entry = self._entries.get(self._key(peer, version, old_sha256, new_sha256))
        if entry is None:
            return None
        if "failed" in entry:
            return str(entry["failed"])
        return Measured(**{**entry, "setting": tuple(entry["setting"])})  # type: ignore[arg-type] # as it was written

    def keep(self, peer: Peer, version: str, old_sha256: str, new_sha256: str, result: Measured | str) -> None:
        """Keep a result; the file is whole at any time."""
        entry: dict[str, object] = {"failed": result} if isinstance(result, str) else asdict(result)
        self._entries[self._key(peer, version, old_sha256, new_sha256)] = entry
        part = self._path.with_name(f".{self._path.name}.part")
        part.write_text(json.dumps(self._entries, indent=1) + "\n")
        part.replace(self._path)

    def _key(self, peer: Peer, version: str, old_sha256: str, new_sha256: str) -> str:
        return " ".join((str(REVISION), peer.name, version, old_sha256, new_sha256))
