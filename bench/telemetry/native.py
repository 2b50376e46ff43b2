"""Rows as ClickHouse's Native format: column after column, so that numbers are copied and nothing is parsed.

The product ships JSON from a spool; this is for filling a table with tens of millions of rows that are to be asked
about. The types are those that the table has, whatever its migrations made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from bench.telemetry.deployments import DAY
from bench.telemetry.population import Population
from bench.telemetry.rows import TEXTS, Column, Rows
from bench.telemetry.wire import device_id_bytes

# LowCardinality: keys follow the block, they replace what was there, and are indexed by one byte each.
_KEYS_VERSION: Final = (1).to_bytes(8, "little")
_ONE_BYTE_KEYS: Final = (1 << 9 | 1 << 10).to_bytes(8, "little")
_LABELS: Final = ("organization_id", "organization", "application_id", "application", "environment")
_INTEGERS: Final = {"UInt8": np.uint8, "UInt16": np.uint16, "UInt32": np.uint32, "UInt64": np.uint64}


def native_block(rows: Rows, populations: Sequence[Population], types: Mapping[str, str]) -> bytes:
    """Return one block.

    Args:
        rows: up to some 100,000.
        populations: all that the rows come from.
        types: of the columns that are written, by name, as ``DESCRIBE TABLE`` tells them.

    Raises:
        ValueError: a column or its type is none that rows have.
    """
    made = [
        _text(name.encode()) + _text(kind.encode()) + _column(name, kind, rows, populations)
        for name, kind in types.items()
    ]
    return _number(len(types)) + _number(len(rows)) + b"".join(made)


def _column(name: str, kind: str, rows: Rows, populations: Sequence[Population]) -> bytes:
    if name in _LABELS:
        texts = [getattr(population.settings.labels, name) for population in populations]
        return _texts(kind, texts, rows["source"])
    column = "kind" if name == "type" else name
    if column in TEXTS:
        return _texts(kind, TEXTS[column], rows[column])
    if name == "device_id" and kind == "String":
        return _fixed_texts(device_id_bytes(rows, populations))
    if name == "event_id" and kind == "UUID":
        return np.stack([rows["id_high"], rows["id_low"]], axis=1).tobytes()
    if name in _MOMENTS:
        return _integers(kind, _MOMENTS[name](rows))
    if name in rows.columns:
        return _integers(kind, rows[name])
    raise ValueError(f"rows have nothing for the column {name} of type {kind}")


_MOMENTS: Final[dict[str, Callable[[Rows], Column]]] = {
    "day": lambda rows: rows["received_ms"] // (DAY * 1000),
    "received_at": lambda rows: rows["received_ms"] // 1000,
    "occurred_at": lambda rows: rows["occurred"],
    "arrival": lambda rows: rows.arrival(),
}


def _integers(kind: str, values: Column) -> bytes:
    if kind.startswith("Nullable("):
        known = values >= 0
        return (~known).astype(np.uint8).tobytes() + _integers(kind[len("Nullable(") : -1], np.where(known, values, 0))
    plain = "UInt16" if kind == "Date" else "UInt32" if kind.startswith("DateTime") else kind
    if plain not in _INTEGERS:
        raise ValueError(f"rows have nothing for the type {kind}")
    return values.astype(_INTEGERS[plain]).tobytes()


def _texts(kind: str, texts: Sequence[str], codes: Column) -> bytes:
    encoded = [_text(text.encode()) for text in texts]
    if kind == "String":
        return b"".join([encoded[code] for code in codes.tolist()])
    if kind != "LowCardinality(String)":
        raise ValueError(f"rows have nothing for the type {kind}")
    used, keys = np.unique(codes, return_inverse=True)
    dictionary = b"".join(encoded[code] for code in used.tolist())
    head = _KEYS_VERSION + _ONE_BYTE_KEYS + len(used).to_bytes(8, "little")
    return head + dictionary + len(codes).to_bytes(8, "little") + keys.astype(np.uint8).tobytes()


def _fixed_texts(texts: Column) -> bytes:
    width = texts.dtype.itemsize
    whole = np.empty((len(texts), width + 1), np.uint8)
    whole[:, 0] = width
    whole[:, 1:] = texts.view(np.uint8).reshape(len(texts), width)
    return whole.tobytes()


def _text(text: bytes) -> bytes:
    return _number(len(text)) + text


def _number(value: int) -> bytes:
    """Return a number of variable length, seven bits a byte, the lowest first."""
    made = bytearray()
    while value >= 0x80:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])
