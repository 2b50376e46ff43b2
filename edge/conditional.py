"""Conditional requests: which answer the preconditions of a request ask for (RFC 9110 section 13).

Pure: headers and validators in, a verdict out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Protocol

# entity-tag = [ "W/" ] DQUOTE *etagc DQUOTE (RFC 9110 section 8.8.3). A comma may stand inside the quotes, so a list
# cannot be split at commas. aiohttp decodes obs-text, so anything that is not a control, space or quote is an etagc.
_ENTITY_TAG = re.compile(r'(W/)?("[^\x00-\x20"\x7f]*")')
_SEPARATOR = re.compile(r"[ \t]*(?:,[ \t]*)+|[ \t]*\Z")
_LEADING = re.compile(r"[ \t,]*")


class Headers(Protocol):
    """The part of a header multidict that the rules need."""

    def getall(self, key: str, default: Sequence[str], /) -> Sequence[str]:
        """Return every value of the field ``key``, or ``default``."""
        ...

    def get(self, key: str, /) -> str | None:
        """Return the first value of the field ``key``, or None."""
        ...


@dataclass(frozen=True, slots=True)
class Validators:
    """What tells one state of a resource from another.

    Args:
        etag: strong entity tag, quoted.
        last_modified: aware, whole seconds; None when the resource has none, then conditions on dates do not apply.
    """

    etag: str
    last_modified: datetime | None = None


class Verdict(Enum):
    """What to answer."""

    PROCEED = "proceed"
    NOT_MODIFIED = "not_modified"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class EntityTag:
    """An entity tag as sent: ``opaque`` keeps its quotes."""

    opaque: str
    weak: bool


def parse_entity_tags(value: str) -> tuple[EntityTag, ...] | None:
    """Return the tags of a list, or None when ``value`` is no list of entity tags."""
    tags = tuple(_tags(value, _end(_LEADING, value, 0)))
    return None if not tags or None in tags else tuple(tag for tag in tags if tag is not None)


def _end(pattern: re.Pattern[str], value: str, position: int) -> int:
    found = pattern.match(value, position)
    return found.end() if found else position


def _tags(value: str, position: int) -> Iterator[EntityTag | None]:
    """Yield the tags in order; a None says that the grammar was left."""
    while position < len(value):
        tag = _ENTITY_TAG.match(value, position)
        after = _SEPARATOR.match(value, tag.end()) if tag else None
        if tag is None or after is None:
            yield None
            return
        yield EntityTag(opaque=tag[2], weak=tag[1] is not None)
        position = after.end()


def names_tag(values: Sequence[str], etag: str, *, weakly: bool) -> bool:
    """Say whether a field names ``etag``; what is no list of entity tags names nothing.

    Args:
        values: of ``If-Match`` or ``If-None-Match``, one for each line.
        etag: strong, quoted.
        weakly: whether weak tags count (RFC 9110 section 8.8.3.2).
    """
    value = ", ".join(values)
    if value.strip(" \t") == "*":
        return True
    tags = parse_entity_tags(value) or ()
    return any(tag.opaque == etag and (weakly or not tag.weak) for tag in tags)


def parse_http_date(value: str) -> datetime | None:
    """Return the moment that an HTTP-date names (RFC 9110 section 5.6.7), or None for anything else."""
    try:
        moment = parsedate_to_datetime(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def evaluate(headers: Headers, validators: Validators) -> Verdict:
    """Return what the preconditions of a GET or HEAD ask for, in the order of RFC 9110 section 13.2.2.

    ``If-Match`` compares strongly (13.1.1), ``If-None-Match`` weakly (13.1.2): a cache on the way that compressed our
    answer has made its tag weak, and still holds the same manifest. Conditions on dates count only where there is no
    condition on tags, and only for resources that have a date.
    """
    if _state_is_lost(headers, validators):
        return Verdict.FAILED
    return Verdict.NOT_MODIFIED if _state_is_held(headers, validators) else Verdict.PROCEED


def _state_is_lost(headers: Headers, validators: Validators) -> bool:
    if tags := headers.getall("If-Match", ()):
        return not names_tag(tags, validators.etag, weakly=False)
    since = _date(headers, "If-Unmodified-Since")
    return since is not None and validators.last_modified is not None and validators.last_modified > since


def _state_is_held(headers: Headers, validators: Validators) -> bool:
    if tags := headers.getall("If-None-Match", ()):
        return names_tag(tags, validators.etag, weakly=True)
    since = _date(headers, "If-Modified-Since")
    return since is not None and validators.last_modified is not None and validators.last_modified <= since


def _date(headers: Headers, name: str) -> datetime | None:
    value = headers.get(name)
    return None if value is None else parse_http_date(value)


def range_applies(if_range: str | None, validators: Validators) -> bool:
    """Say whether a ``Range`` counts under this ``If-Range`` (RFC 9110 section 13.1.5).

    The tag must be equal by strong comparison, a date must be exactly ours; anything else means that the client may
    hold a part of something different, and gets the whole.
    """
    if if_range is None:
        return True
    if '"' in if_range:
        return if_range.strip(" \t") == validators.etag
    return validators.last_modified is not None and parse_http_date(if_range) == validators.last_modified
