"""Canonical JSON, and the strict reading of JSON that has a canonical form.

The form is OLPC's, which TUF signs: members sorted by name, no whitespace, no fractions, and nothing escaped but quotes
and backslashes. So control characters have no place in it, nor have members that are named twice.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from securesystemslib.formats import encode_canonical

from manifests.checks import InvalidManifest, is_clean

# Our deepest value is a list in a condition, ten levels down; the rest is room for later members.
MAX_DEPTH = 32


def canonical(value: Any) -> bytes:
    """Return the canonical JSON of a value, in UTF-8."""
    text = encode_canonical(value)
    assert text is not None  # it is only None for whoever collects the text in parts
    return text.encode()


def parse_json(data: bytes) -> Any:
    """Read JSON, of which the caller has bounded the size, and refuse what has no canonical form.

    Raises:
        InvalidManifest: it is no JSON, or has fractions, control characters, members named twice, or too many levels.
    """
    try:
        value = json.loads(
            data.decode(), parse_float=_refuse_number, parse_constant=_refuse_number, object_pairs_hook=_unique_members
        )
    except InvalidManifest:
        raise
    except (ValueError, RecursionError) as error:
        raise InvalidManifest("the manifest is no JSON in UTF-8") from error
    _check_value(value, MAX_DEPTH)
    return value


def _refuse_number(text: str) -> NoReturn:
    raise InvalidManifest(f"canonical JSON has no number such as {text[:20]}")


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise InvalidManifest("an object names a member twice")
    return members


def _check_value(value: object, depth: int) -> None:
    """Refuse what canonical JSON cannot hold, and what is nested too deeply to walk safely."""
    if depth == 0:
        raise InvalidManifest(f"the manifest is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, str):
        if not is_clean(value):
            raise InvalidManifest("the manifest holds control characters")
    elif isinstance(value, dict):
        for name, member in value.items():
            _check_value(name, depth)
            _check_value(member, depth - 1)
    elif isinstance(value, list):
        for element in value:
            _check_value(element, depth - 1)
