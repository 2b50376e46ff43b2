"""Events of a population as columns of numbers: what is generated, counted, and written in one form or another.

A row is one event in one delivery of its batch. Texts are codes into the tuples below; 0 is the empty text, and -1 a
number that was left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[Any]
NONE: Final = -1

CHECK, DOWNLOAD, VERIFY, ACTIVATE, ERROR, REGISTER, OPENED = range(7)
KINDS: Final = ("check", "download", "verify", "activate", "error", "register", "app_opened")
"""The last is a type that the server does not know, as a newer client would send it."""
MODELS: Final = ("", "faces", "digits")
SUBJECT: Final = 1
"""The model whose figures are asked for; events about the other must not touch them."""
OTHER: Final = 2
PLAIN, FULL, PATCH = range(3)
ENCODINGS: Final = ("", "zstd", "skafos-delta")
ERRORS: Final = (
    "",
    "edge_unavailable: The download stopped.",
    "edge_unavailable: The connection was lost.",
    "no_space: The disk is too full.",
    "artifact_rejected: The hash is another.",
    "artifact_rejected: The patch gives other bytes.",
    "disk_failed: The model cannot be activated.",
    "model_refused: The app cannot load this model.",
)
DOWNLOAD_ERRORS: Final = (1, 2, 3)
VERIFY_ERRORS: Final = (4, 5)
ACTIVATE_ERRORS: Final = (6, 7)
SYSTEMS: Final = ("", "ios", "android")
SYSTEM_VERSIONS: Final = ("", "16.7", "17.4", "17.6", "18.0", "18.2", "12", "13", "14", "15")
FIRST_ANDROID: Final = 6
"""The place of the first version of the second system in ``SYSTEM_VERSIONS``."""
DEVICE_MODELS: Final = (
    "",
    *(f"iPhone{major},{minor}" for major in range(12, 18) for minor in range(1, 5)),
    *(f"SM-{letter}{number}" for letter in "AGS" for number in (136, 236, 356, 546, 715, 901, 928, 990)),
)
IPHONES: Final = 24
APP_VERSIONS: Final = ("", "3.0", "3.1", "3.2", "4.0", "4.1", "4.2")
LOCALES: Final = (
    "",
    *("en-US", "es-MX", "pt-BR", "en-GB", "de-DE", "de-AT", "fr-FR", "es-ES", "it-IT", "tr-TR", "hi-IN", "zh-CN"),
    *("ja-JP", "ko-KR", "en-AU"),
)

TEXTS: Final = {
    "kind": KINDS,
    "model": MODELS,
    "encoding": ENCODINGS,
    "error": ERRORS,
    "os": SYSTEMS,
    "os_version": SYSTEM_VERSIONS,
    "device_model": DEVICE_MODELS,
    "app_version": APP_VERSIONS,
    "locale": LOCALES,
}
DIMENSIONS: Final = ("os", "os_version", "device_model", "app_version", "locale")

TYPES: Final[dict[str, type[np.generic]]] = {
    "source": np.uint8,  # place of the population among those that are mixed
    "received_ms": np.int64,  # the server's clock
    "place": np.int32,  # in its batch
    "device": np.int32,  # place in its population
    "kind": np.uint8,
    "model": np.uint8,
    "version": np.int32,
    "from_version": np.int32,
    "bytes": np.int64,
    "full_bytes": np.int64,
    "duration_ms": np.int64,
    "encoding": np.uint8,
    "error": np.uint8,
    "id_high": np.uint64,
    "id_low": np.uint64,
    "occurred": np.int64,  # the device's clock, seconds
    "os": np.uint8,
    "os_version": np.uint8,
    "device_model": np.uint8,
    "app_version": np.uint8,
    "locale": np.uint8,
    "last": np.bool_,  # no later delivery of the same event follows
}


@dataclass(frozen=True)
class Rows:
    """Columns by name, all of one length; the names and types are those of ``TYPES``."""

    columns: dict[str, Column]

    def __len__(self) -> int:
        """Rows."""
        return len(self.columns["kind"])

    def __getitem__(self, name: str) -> Column:
        """Return a column."""
        return self.columns[name]

    def take(self, places: Column) -> Rows:
        """Return some rows: places, or a mask."""
        return Rows({name: column[places] for name, column in self.columns.items()})

    def with_columns(self, **columns: Column) -> Rows:
        """Return the same rows with other values in some columns."""
        return Rows(self.columns | {name: column.astype(TYPES[name], copy=False) for name, column in columns.items()})

    def arrival(self) -> Column:
        """Return what orders deliveries: milliseconds, then the place in the batch."""
        return self["received_ms"] * 1000 + self["place"]

    def in_order_of_arrival(self) -> Rows:
        """Return the rows sorted by arrival, those of a batch together."""
        return self.take(np.lexsort((self["place"], self["device"], self["source"], self["received_ms"])))


def joined(parts: Sequence[Rows]) -> Rows:
    """Return the rows of all parts, one after another."""
    return Rows({name: np.concatenate([part[name] for part in parts]) for name in TYPES})


def no_rows() -> Rows:
    """Return no rows."""
    return Rows({name: np.zeros(0, kind) for name, kind in TYPES.items()})
