"""Answers to checks, made once when a manifest arrives: the fields that aiohttp's route sends, and the lane's bytes.

Both come from `fields_of`, so that a device cannot tell who answered it, apart from ``Date`` and ``Server``.
"""

from __future__ import annotations

import re
import time
from email.utils import formatdate

from edge import metrics
from edge.errors import UNCACHED, error_body
from edge.manifest_cache import Document, Environment, ManifestCache, unknown_key
from edge.memory import BoundedMemory

# The shape of an environment key: such a key stands in a request line as it is, with nothing to decode.
PLAIN_KEY = re.compile(r"[a-z][a-z0-9-]{0,99}")
_CHECK = re.compile(rb"GET /v2/environments/(%b)/manifest HTTP/1\.1" % PLAIN_KEY.pattern.encode())
# A larger manifest is aiohttp's to send, since prepared it is in memory twice. One of three models has 2 KB.
MAX_PREPARED_BYTES = 64 * 1024
# 4 MiB of heads at the most. Devices of one kind that hold the same manifest send the same bytes.
MAX_HEADS = 4096
MAX_HEAD_BYTES = 1024


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


class Answer:
    """One answer, as bytes that are up to date for a second.

    Args:
        head: up to the date.
        body: may be empty.
        tally: where it is counted.
    """

    __slots__ = ("_body", "_head", "content", "date", "tally")

    def __init__(self, head: bytes, body: bytes, tally: metrics.CheckTally) -> None:
        self._head = head
        self._body = body
        self.tally = tally
        self.date = b""
        self.content = b""

    def refresh(self, date: bytes) -> None:
        """Make it tell this date."""
        self.content = b"%b%b\r\n\r\n%b" % (self._head, date, self._body)
        self.date = date


class PreparedManifest:
    """The two answers to checks of one environment.

    Args:
        environment: whose manifest it is.
        cache_control: of both answers.
    """

    __slots__ = ("etag", "modified", "not_modified")

    def __init__(self, environment: Environment, cache_control: str) -> None:
        document = environment.manifest
        self.etag = document.validators.etag.encode()
        self.not_modified = Answer(
            _head("304 Not Modified", fields_of(document, cache_control, modified=False)),
            b"",
            metrics.CHECKS.of(environment.labels, 304),
        )
        self.modified: Answer | None = None
        if len(document.body) <= MAX_PREPARED_BYTES:
            self.modified = Answer(
                _head("200 OK", fields_of(document, cache_control, modified=True)),
                document.body,
                metrics.CHECKS.of(environment.labels, 200),
            )


def _unknown_answer() -> Answer:
    """Return the answer to a check whose key no environment has, as `edge.errors.render_error` gives it."""
    error = unknown_key()
    body = error_body(error.sentence, error.code)
    fields = {"Cache-Control": UNCACHED, "Content-Type": "application/json", "Content-Length": str(len(body))}
    return Answer(_head("404 Not Found", fields), body, metrics.CHECKS.of(metrics.NOBODY, 404))


def _head(status: str, fields: dict[str, str]) -> bytes:
    """Return the bytes before the date."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{lines}Date: ".encode("latin-1")


class PreparedManifests:
    """The prepared manifests of a worker.

    Args:
        cache: followed from now on.
        cache_control: of manifests.
        refuse: whether there is an answer to checks with a key of nobody's as well.

    Attributes:
        by_request_line: by the request line that asks for each.
        by_head: answers to heads that were read before, forgotten whenever a manifest changes.
    """

    def __init__(self, cache: ManifestCache, cache_control: str, *, refuse: bool = True) -> None:
        self._cache = cache
        self._unknown = _unknown_answer() if refuse else None
        self._cache_control = cache_control
        self.by_request_line: dict[bytes, PreparedManifest] = {}
        self.by_head: BoundedMemory[Answer] = BoundedMemory(MAX_HEADS, MAX_HEAD_BYTES)
        cache.on_change(self._prepare)

    def refusal(self, line: bytes) -> Answer | None:
        """Return the answer to a check, told by its request line, whose key certainly is nobody's.

        Devices whose environment was deleted ask as often as any others, and so may somebody who guesses keys.
        """
        check = _CHECK.fullmatch(line)
        return self._unknown if check is not None and self._cache.is_nobodys(check[1].decode()) else None

    def _prepare(self, key: str) -> None:
        if not PLAIN_KEY.fullmatch(key):
            return  # aiohttp answers for it
        self.by_head.clear()
        line = f"GET /v2/environments/{key}/manifest HTTP/1.1".encode()
        environment = self._cache.get(key)
        if environment is None:
            self.by_request_line.pop(line, None)
        else:
            self.by_request_line[line] = PreparedManifest(environment, self._cache_control)
