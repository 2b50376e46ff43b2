"""Versions of a model with patches between them, published as the control plane would."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from artifacts.patch.zstd_prefix import make_patch
from manifests.model import Encoding, Release, Rule
from tests.edge.site import Environment, Site, sha256

MODEL = "digits"


def successor(before: bytes, seed: int, grown: int = 0) -> bytes:
    """Return a next version: some bytes here and there are others, and a few came behind."""
    randomly = random.Random(seed)
    after = bytearray(before + randomly.randbytes(grown))
    for _ in range(10):
        place = randomly.randrange(len(after) - 100)
        after[place : place + 50] = randomly.randbytes(50)
    return bytes(after)


def patch_between(folder: Path, base: bytes, target: bytes) -> bytes:
    """Return the blob of a ``zstd-prefix`` patch."""
    old, new, patch = folder / "old", folder / "new", folder / "patch"
    old.write_bytes(base)
    new.write_bytes(target)
    make_patch(old, new, patch)
    content = patch.read_bytes()
    for path in (old, new, patch):
        path.unlink()
    return content


def version_release(version: int, artifact: bytes, patches: Mapping[str, bytes], model: str = MODEL) -> Release:
    """Return a release.

    Args:
        version: its number.
        artifact: its bytes.
        patches: blobs by the hash of the artifact that they start from.
        model: its name.
    """
    digest = sha256(artifact)
    encodings = [Encoding("identity", digest, len(artifact))]
    encodings += [Encoding("zstd-prefix", sha256(blob), len(blob), base) for base, blob in patches.items()]
    return Release(model, version, digest, len(artifact), 100 - version, Rule("salt"), tuple(encodings))


@dataclass
class Versions:
    """Versions 1, 2, 3 … of a model, each with a patch from the one before, all of them on offer."""

    site: Site
    environment: Environment
    artifacts: Sequence[bytes]
    model: str = MODEL
    patches: list[bytes] = field(default_factory=list)

    async def publish(self) -> Versions:
        """Store and offer them, and nothing else."""
        await self.site.publish(self.environment, *await self.store())
        return self

    async def store(self) -> list[Release]:
        """Store them; return what is to be offered."""
        releases = []
        for number, artifact in enumerate(self.artifacts, 1):
            patches: dict[str, bytes] = {}
            if number > 1:
                base = self.artifacts[number - 2]
                patches[sha256(base)] = patch_between(self.site.folder, base, artifact)
                self.patches.append(patches[sha256(base)])
                await self.site.put(self.patches[-1])
            await self.site.put(artifact)
            releases.append(version_release(number, artifact, patches, self.model))
        return releases

    def path(self, version: int | str) -> str:
        """Return the path of a version; ``*`` for that of all."""
        model = quote(self.model, safe="")
        return f"/v2/environments/{self.environment.key}/models/{model}/versions/{version}/artifact"
