"""How many patches are made and kept, and in which encodings: the bounds of `control_plane.settings`, in one value."""

from __future__ import annotations

from dataclasses import dataclass

from artifacts.patch.build import ENCODERS

# Every device of an environment reads the list of patches, some 200 bytes each. Devices that are more than eight
# versions apart are few, and take the full artifact.
MAX_PER_TARGET = 8
# Room for four patches of half the full encoding, or for eight of a quarter, as fine-tuned models have.
TOTAL_SHARE = 2.0
# The 200 bytes that all devices read for a patch are paid back by these devices once it saves each of them 40 KB.
MIN_DEVICE_SHARE = 0.005
# While a rollout is under way. Devices ask a few times a day, so what they hold moves little in five minutes.
LOOK_SECONDS = 300
# The largest pair within the memory limit takes some minutes on a slow core.
BUILD_SECONDS = 1800


@dataclass(frozen=True, slots=True)
class PatchPolicy:
    """What bounds the patches.

    Args:
        max_per_target: patches that lead to one version and that an environment lists.
        total_share: bytes of all wanted patches that lead to one artifact, as a multiple of its full encoding.
        min_device_share: of an environment's active devices, from 0 to 1; a version that fewer hold gets no patch.
        encodings: which are tried, the preferred one first; some of `artifacts.patch.build.ENCODERS`.
        every_encoding: offer a patch in each of them that is worth it, for devices that know only some; else the
            smallest alone.
    """

    max_per_target: int = MAX_PER_TARGET
    total_share: float = TOTAL_SHARE
    min_device_share: float = MIN_DEVICE_SHARE
    encodings: tuple[str, ...] = tuple(ENCODERS)
    every_encoding: bool = True

    @property
    def for_each_pair(self) -> int:
        """How many patches a pair of versions may have."""
        return len(self.encodings) if self.every_encoding else 1
