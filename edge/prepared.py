"""Answers to checks, made once when a manifest arrives: the fields that aiohttp's route sends, and the lane's bytes.

Both come from `fields_of`, so that a device cannot tell who answered it, apart from ``Date`` and ``Server``.
"""

from __future__ import annotations

import re
import time
from email.utils import formatdate

from edge import metrics
from edge.manifest_cache import Document, ManifestCache

# The shape of an environment key: such a key stands in a request line as it is, with nothing to decode.
_PLAIN_KEY = re.compile(r"[a-z][a-z0-9-]{0,99}")
# Heads, dates and bodies of this size are kept as one piece of bytes; of larger bodies there is one copy only. The
# manifests of hundred models take about 64 KB.
MAX_JOINED_BYTES = 64 * 1024


def fields_of(document: Document, cache_control: str, *, modified: bool) -> dict[str, str]:
    """Return the fields of an answer to a GET, in the order in which they are sent.

    Args:
        document: what was asked for.
        cache_control: how long it may be kept.
        modified: whether the document goes with it (200), or the client has it (304).
    """
    fields = {"ETag": document.validators.etag, "Cache-Control": cache_control}
    if modified:
        fields |= {"Content-Type": "application/json", "Content-Length": str(len(document.body))}
    return fields


class Clock:
    """The present second, as answers state it (RFC 9110 section 6.6.1) and as the sweep measures idleness.

    Args:
        unix_time: seconds since 1970.
        monotonic: seconds that no correction of the clock moves.
    """

    __slots__ = ("date", "now")

    def __init__(self, unix_time: float | None = None, monotonic: float | None = None) -> None:
        self.date = b""
        self.now = 0.0
        self.tick(time.time() if unix_time is None else unix_time, time.monotonic() if monotonic is None else monotonic)

    def tick(self, unix_time: float, monotonic: float) -> None:
        """Tell the time; once a second."""
        self.now = monotonic
        self.date = formatdate(unix_time, usegmt=True).encode()


class PreparedManifest:
    """The two answers to checks of one environment, as bytes that are up to date for a second.

    Args:
        document: the manifest.
        cache_control: of both answers.
        tally: where its checks are counted.
    """

    __slots__ = ("_body", "_not_modified_head", "_whole_head", "date", "etag", "not_modified", "tally", "whole")

    def __init__(self, document: Document, cache_control: str, tally: metrics.CheckTally) -> None:
        self._body = document.body
        self._not_modified_head = _head("304 Not Modified", fields_of(document, cache_control, modified=False))
        self._whole_head = _head("200 OK", fields_of(document, cache_control, modified=True))
        self.etag = document.validators.etag.encode()
        self.tally = tally
        self.date = b""
        self.not_modified = b""
        # One piece, or head and body.
        self.whole: tuple[bytes, ...] = ()

    def refresh(self, date: bytes) -> None:
        """Make the answers tell this date."""
        end = date + b"\r\n\r\n"
        self.not_modified = self._not_modified_head + end
        joined = len(self._body) <= MAX_JOINED_BYTES
        self.whole = (self._whole_head + end + self._body,) if joined else (self._whole_head + end, self._body)
        self.date = date


def _head(status: str, fields: dict[str, str]) -> bytes:
    """Return the bytes before the date."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{lines}Date: ".encode("latin-1")


class PreparedManifests:
    """The prepared manifests of a worker, by the request line that asks for each.

    Args:
        cache: followed from now on.
        cache_control: of manifests.
    """

    def __init__(self, cache: ManifestCache, cache_control: str) -> None:
        self._cache = cache
        self._cache_control = cache_control
        self.by_request_line: dict[bytes, PreparedManifest] = {}
        cache.on_change(self._prepare)

    def _prepare(self, key: str) -> None:
        if not _PLAIN_KEY.fullmatch(key):
            return  # aiohttp answers for it
        line = f"GET /v2/environments/{key}/manifest HTTP/1.1".encode()
        environment = self._cache.get(key)
        if environment is None:
            self.by_request_line.pop(line, None)
            return
        tally = metrics.CHECKS.of(environment.labels)
        self.by_request_line[line] = PreparedManifest(environment.manifest, self._cache_control, tally)
