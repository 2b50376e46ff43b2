"""Manifests on the local disk, so that an edge that is restarted while the store is away serves what it had.

One file a key, ``<key>.manifest``: SHA-256 of the rest, then the publication in MessagePack. It is written aside and
renamed, and only the files of changed keys are written, so one deploy among many thousand environments costs one small
write. Nothing is flushed: a file that a power cut tore fails its hash and is read from the store again.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from pathlib import Path

import msgspec
import structlog

from edge import metrics
from edge.manifest_cache import ManifestCache, Unsound
from manifests.store import Publication

SUFFIX = ".manifest"
# After a failure of the disk; what could not be written waits in memory as a set of keys.
RETRY_SECONDS = 5.0

_DIGEST_BYTES = hashlib.sha256().digest_size
# The shape of an environment key, so that a key can be a file's name as it is.
_FILE_KEY = re.compile(r"[a-z][a-z0-9-]{0,99}")
_DECODER = msgspec.msgpack.Decoder(Publication)

log = structlog.get_logger(__name__)


class ManifestSnapshot:
    """The snapshot of one worker's cache.

    Args:
        directory: made when absent; no other process writes to it.
        cache: what is kept; changes are followed from `restore` on.
    """

    def __init__(self, directory: Path, cache: ManifestCache) -> None:
        self._directory = directory
        self._cache = cache
        self._changed: set[str] = set()
        self._wake = asyncio.Event()

    def restore(self) -> int:
        """Fill the cache with what an earlier process kept, then follow its changes; return the number of manifests."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for torn in self._directory.glob("*.partial"):
            torn.unlink(missing_ok=True)
        restored = sum(self._restore(path) for path in self._directory.glob(f"*{SUFFIX}"))
        self._cache.on_change(self._note)
        return restored

    def _restore(self, path: Path) -> bool:
        try:
            return self._cache.take(_read(path))
        except (ValueError, OSError) as error:
            log.warning("snapshot_unreadable", file=path.name, reason=str(error))
            path.unlink(missing_ok=True)
            return False

    def _note(self, key: str) -> None:
        if _FILE_KEY.fullmatch(key):
            self._changed.add(key)
            self._wake.set()

    async def run(self) -> None:
        """Write changes as they come, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not await self.flush():
                await asyncio.sleep(RETRY_SECONDS)
                self._wake.set()

    async def flush(self) -> bool:
        """Write every change that is not on the disk yet; say whether that worked."""
        changed, self._changed = self._changed, set()
        work = [(key, environment.publication if (environment := self._cache.get(key)) else None) for key in changed]
        failed = await asyncio.to_thread(lambda: {key for key, publication in work if not self._keep(key, publication)})
        self._changed |= failed
        return not failed

    def _keep(self, key: str, publication: Publication | None) -> bool:
        path = self._directory / f"{key}{SUFFIX}"
        try:
            if publication is None:
                path.unlink(missing_ok=True)
            else:
                _write(path, publication)
        except OSError as error:
            metrics.SNAPSHOT_FAILURES.inc()
            log.error("snapshot_failed", key=key, errno=error.errno)
            return False
        return True


def _write(path: Path, publication: Publication) -> None:
    content = msgspec.msgpack.encode(publication)
    aside = path.with_suffix(".partial")
    aside.write_bytes(hashlib.sha256(content).digest() + content)
    aside.replace(path)


def _read(path: Path) -> Publication:
    held = path.read_bytes()
    digest, content = held[:_DIGEST_BYTES], held[_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        raise Unsound("the file is torn")
    publication = _DECODER.decode(content)
    if path.name != f"{publication.key}{SUFFIX}":
        raise Unsound("the file is named for another key")
    return publication
