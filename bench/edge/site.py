"""What all peers serve: a real manifest of about 2 KB and a blob of 20 MB; what devices send; and a Redis."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from artifacts.store import open_store
from bench.telemetry.bodies import varied_bodies
from manifests.keys import make_key
from manifests.model import Condition, Encoding, Release, Rule
from manifests.redis_client import connect_redis
from manifests.redis_store import RedisManifestStore
from manifests.store import Labels, Publication
from manifests.trust import etag, render_body
from tests.manifests.builders import Repository
from tests.servers.redis import running_redis

BLOB_BYTES = 20_000_000
# The middle 8 MiB of the blob, as a download that goes on would ask for them.
RANGE_FIRST, RANGE_BYTES = 4 << 20, 8 << 20
BATCH_EVENTS = 20
# 13 MB: more than a processor's caches hold, so that each batch comes from memory, as it does from a network.
VARIED_BATCHES = 2_000
PATCH_BYTES = 50_000
# Two models with a rule, one of them with a patch, make a body of 2 KB.
MODELS = ("faces", "digits")
LABELS = Labels("org-1", "Acme", "app-1", "Camera", "env-1", "prod")


@dataclass(frozen=True)
class Site:
    """Where everything lies, and what it is called."""

    folder: Path
    redis_url: str
    repository: Repository
    key: str
    manifest: bytes
    blob: str

    @property
    def objects_url(self) -> str:
        """The object store: a folder."""
        return f"file://{self.folder}/objects"

    @property
    def www(self) -> Path:
        """What nginx serves: the same manifest and blob, under the same paths."""
        return self.folder / "www"

    @property
    def environment_path(self) -> str:
        """Path of the environment on every peer."""
        return f"/v2/environments/{self.key}"

    @property
    def manifest_path(self) -> str:
        """Path of the manifest on every peer."""
        return f"{self.environment_path}/manifest"

    @property
    def blob_path(self) -> str:
        """Path of the blob on every peer."""
        return f"/v2/artifacts/{self.blob}"

    @property
    def events_json(self) -> Path:
        """A batch of events as a JSON array."""
        return self.folder / "events.json"

    @property
    def events_ndjson(self) -> Path:
        """The same batch, one event a line."""
        return self.folder / "events.ndjson"

    @property
    def events_varied(self) -> Path:
        """Batches of events, a JSON array a line, of another device each."""
        return self.folder / "events-varied.jsonl"

    @property
    def registration(self) -> Path:
        """The body with which a device registers."""
        return self.folder / "registration.json"

    def publication(self) -> Publication:
        """Return what the environment offers now."""
        body = render_body(self.repository.manifest, 1)
        manifest = self.repository.manifest
        return Publication(self.key, manifest.revision, body, etag(body), self.repository.files(), LABELS)


@contextmanager
def running_site(folder: Path) -> Iterator[Site]:
    """Make everything in ``folder`` and keep a Redis running within the block."""
    numbers = random.Random(7)
    blob, patch = numbers.randbytes(BLOB_BYTES), numbers.randbytes(PATCH_BYTES)
    digest = hashlib.sha256(blob).hexdigest()
    repository = Repository(releases(digest, hashlib.sha256(patch).hexdigest()))
    key = make_key("prod", repository.roots[1], bytes(range(8)))
    with running_redis() as redis:
        site = Site(folder, redis.url, repository, key, render_body(repository.manifest, 1), digest)
        write_files(site, blob)
        asyncio.run(publish(site, (blob, patch)))
        yield site


def releases(blob: str, patch: str) -> list[Release]:
    """Return the releases that the manifest offers; the first has a patch from some version before."""
    rule = Rule("9f2c51d0a4b7e683", 2_500, {"os_version": Condition(min="17.0")})
    base = hashlib.sha256(b"the version before").hexdigest()
    full, small = Encoding("identity", blob, BLOB_BYTES), Encoding("zstd-prefix", patch, PATCH_BYTES, base)
    return [
        Release(model, 3, blob, BLOB_BYTES, 0, rule, (full, small) if model == MODELS[0] else (full,), f"{number:032x}")
        for number, model in enumerate(MODELS)
    ]


def write_files(site: Site, blob: bytes) -> None:
    """Write what nginx serves, and the bodies that devices send."""
    for path, content in ((site.manifest_path, site.manifest), (site.blob_path, blob)):
        file = site.www / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    events = [event(number) for number in range(BATCH_EVENTS)]
    site.events_json.write_text(json.dumps(events, separators=(",", ":")))
    site.events_ndjson.write_text("".join(json.dumps(one, separators=(",", ":")) + "\n" for one in events))
    site.events_varied.write_bytes(b"\n".join(varied_bodies(VARIED_BATCHES, BATCH_EVENTS)) + b"\n")
    facts = {"os": "ios", "os_version": "17.4", "app_version": "2.1", "device_model": "iPhone16,1", "locale": "de-AT"}
    site.registration.write_text(json.dumps({"facts": facts, "push_token": "a1b2" * 16, "push_service": "apns"}))


def event(number: int) -> dict[str, object]:
    """Return an event with the fields that a device fills in after an update."""
    return {
        "event_id": str(UUID(int=number, version=4)),
        "type": "download",
        "occurred_at": datetime.now(UTC).isoformat(),
        "device_id": str(UUID(int=1_000_000, version=4)),
        "model": "faces",
        "version": 3,
        "from_version": 2,
        "bytes": 51_873,
        "duration_ms": 183,
        "encoding": "zstd-prefix",
        "os": "ios",
        "os_version": "17.4",
        "device_model": "iPhone16,1",
        "locale": "de-AT",
    }


async def publish(site: Site, blobs: Sequence[bytes]) -> None:
    """Store the blobs, then publish the manifest that names them, which is all there is."""
    for blob in blobs:
        file = site.folder / "blob"
        file.write_bytes(blob)
        await open_store(site.objects_url).put_file(hashlib.sha256(blob).hexdigest(), file)
    redis = connect_redis(site.redis_url)
    try:
        store = RedisManifestStore(redis)
        if not await store.publish(site.publication()):
            raise RuntimeError("the manifest was not taken")
        await store.set_generation("filled")  # so that other keys are known to be none
    finally:
        await redis.aclose()
