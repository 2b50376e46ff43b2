"""Readers of values that a stranger wrote: each returns the typed value or raises `InvalidManifest`.

Manifests travel as canonical JSON, which escapes nothing but quotes and backslashes and knows no fractions. So text
must hold no control characters (they would make the file unreadable to an ordinary JSON reader) and numbers are
integers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# The largest integer that every JSON reader holds exactly (RFC 8259, section 6).
MAX_INTEGER = 2**53 - 1

# C0 controls and DEL, and halves of surrogate pairs, which have no UTF-8 form.
_UNFIT_CHARACTERS = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class InvalidManifest(ValueError):
    """A manifest, or a part of one, breaks the format's rules. The message says which."""


def is_clean(text: str) -> bool:
    """Say whether the text can stand in canonical JSON: no control characters, no lone surrogates."""
    return _UNFIT_CHARACTERS.search(text) is None


def read_text(value: object, what: str, longest: int) -> str:
    """Return a non-empty text of at most ``longest`` characters without control characters."""
    if not isinstance(value, str):
        raise InvalidManifest(f"{what} must be a text")
    if not 0 < len(value) <= longest:
        raise InvalidManifest(f"{what} must have 1 to {longest} characters")
    if not is_clean(value):
        raise InvalidManifest(f"{what} holds control characters")
    return value


def read_integer(value: object, what: str, smallest: int, largest: int = MAX_INTEGER) -> int:
    """Return an integer between two bounds, both included. JSON's true and false are no integers."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidManifest(f"{what} must be an integer")
    if not smallest <= value <= largest:
        raise InvalidManifest(f"{what} must be between {smallest} and {largest}")
    return value


def read_sha256(value: object, what: str) -> str:
    """Return a SHA-256 in lower-case hex."""
    if not isinstance(value, str) or _SHA256.fullmatch(value) is None:
        raise InvalidManifest(f"{what} must be a SHA-256 in lower-case hex")
    return value


def read_object(value: object, what: str) -> Mapping[str, Any]:
    """Return a JSON object."""
    if not isinstance(value, dict):
        raise InvalidManifest(f"{what} must be an object")
    return value


def read_list(value: object, what: str, most: int) -> list[Any]:
    """Return a JSON array of at most ``most`` elements."""
    if not isinstance(value, list):
        raise InvalidManifest(f"{what} must be an array")
    if len(value) > most:
        raise InvalidManifest(f"{what} has more than {most} elements")
    return value
