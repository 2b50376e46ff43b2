"""A blob that was made of an artifact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

# The name on the wire of the patches that know tensors (`artifacts.patch.format`). It stands here because what knows
# them loads NumPy, which takes a quarter of a second.
SKAFOS_DELTA: Final = "skafos-delta"


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoding of an artifact, in a file.

    Attributes:
        name: of the encoding, as it goes on the wire.
        sha256: of the blob.
        length: of the blob, in bytes.
        base: SHA-256 of the artifact that a patch was made from; None for an encoding that needs none.
        path: where the blob is.
    """

    name: str
    sha256: str
    length: int
    base: str | None
    path: Path
