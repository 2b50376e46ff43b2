"""The device's side of the device API: each request, its bounds, and what its answers mean.

Every body has a bound in bytes and in time: an answer that never ends, or drips, is given up (the endless-data and
slow-retrieval attacks of the TUF specification, section 1.5.2).

Much stands between a device and its edge that answers in the edge's place: the sign-in page of a hotel, the error page
of a proxy. An answer without the form that the protocol gives it is not the edge's, and means that the device is
offline: for such an answer no event is forgotten, no key is void, and no attack is reported.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from manifests.trust import MAX_MANIFEST_BYTES
from skafos.device.errors import BlobUnusable, DeviceError, EdgeUnavailable, UnknownKey

T = TypeVar("T")

TIMEOUT = httpx.Timeout(30.0, connect=10.0)
# The bound of tuf.ngclient for root metadata; ours have about 1 KB.
MAX_ROOT_BYTES = 512_000
# Error bodies and acknowledgements are one sentence.
MAX_REPLY_BYTES = 64 << 10
# Slower than 1 KiB/s for a minute is no download: even a 2G connection gives ten times that.
SLOW_WINDOW_SECONDS = 60.0
SLOW_WINDOW_BYTES = 60 << 10

# The member that every manifest has, of whatever format: by it a device knows that an edge made it.
MANIFEST_MEMBER = "skafos"


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and when a request is tried again.

    Attributes:
        attempts: how many in a row may fail before it is given up.
        first_seconds, longest_seconds: the pause doubles from the first to the longest.
        sleep, chance: the clock to wait by and a random number in [0, 1), as arguments for the sake of tests.
    """

    attempts: int = 3
    first_seconds: float = 0.5
    longest_seconds: float = 8.0
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = random.random

    def seconds(self, failures: int, asked: float | None = None) -> float:
        """Return how long to wait after ``failures`` in a row: between half and all of the doubled pause.

        Args:
            failures: 1 after the first.
            asked: what the edge asked for; longer ones are cut to the longest pause.
        """
        pause = min(self.first_seconds * 2.0 ** (failures - 1), self.longest_seconds)
        # Many devices fail at the same moment; chance keeps them from coming back at the same moment.
        jittered = pause * (0.5 + self.chance() / 2)
        return max(jittered, min(asked or 0.0, self.longest_seconds))

    def run(self, attempt: Callable[[], T]) -> T:
        """Return what ``attempt`` returns, trying again while it raises `EdgeUnavailable`."""
        failures = 0
        while True:
            try:
                return attempt()
            except EdgeUnavailable as error:
                failures += 1
                if failures >= self.attempts:
                    raise
                self.sleep(self.seconds(failures, error.retry_after))


@dataclass(frozen=True, slots=True)
class ManifestAnswer:
    """A manifest as it came, not verified yet, with its entity tag ("" when there was none)."""

    etag: str
    body: bytes


@dataclass(frozen=True, slots=True)
class BlobAnswer:
    """The start of a blob's answer: where its bytes belong, its entity tag, and the bytes."""

    start: int
    etag: str
    chunks: Iterator[bytes]


class Edge:
    """One environment at one edge.

    Args:
        address: of the edge, without ``/v2``.
        key: the environment's key.
        http: the connections; they may be shared with other devices.
        retry: for what is asked for whole; a blob's download has its own.
    """

    def __init__(self, address: str, key: str, http: httpx.Client, retry: Retry) -> None:
        self._root = address.rstrip("/") + "/v2"
        self._environment = f"{self._root}/environments/{key}"
        self._http = http
        self._retry = retry

    def manifest(self, etag: str | None) -> ManifestAnswer | None:
        """Return the manifest, or None when it is the one of ``etag``.

        Raises:
            EdgeUnavailable: in every attempt.
            UnknownKey: the edge does not know the key.
        """
        return self._retry.run(lambda: self._manifest(etag))

    def _manifest(self, etag: str | None) -> ManifestAnswer | None:
        headers = {"if-none-match": etag} if etag else {}
        with self._request("GET", f"{self._environment}/manifest", headers) as response:
            if response.status_code == 304 and etag:
                return None
            if response.status_code == 404:
                if _reply(response, "code")["code"] == "unknown_key":
                    raise UnknownKey("The edge does not know this environment key.")
                raise _not_the_edge(response)
            _require(response, 200)
            body = _whole(response, MAX_MANIFEST_BYTES)
            if MANIFEST_MEMBER not in _object(body):
                raise _not_the_edge(response)
            return ManifestAnswer(response.headers.get("etag", ""), body)

    def root(self, number: int) -> bytes | None:
        """Return root metadata as it came, or None when there is none of this number.

        Raises:
            EdgeUnavailable: in every attempt.
        """
        return self._retry.run(lambda: self._root_file(number))

    def _root_file(self, number: int) -> bytes | None:
        with self._request("GET", f"{self._environment}/root/{number}.json") as response:
            if response.status_code == 404 and _reply(response, "code"):
                return None
            _require(response, 200)
            return _whole(response, MAX_ROOT_BYTES)

    @contextmanager
    def blob(self, sha256: str, length: int, start: int, etag: str) -> Iterator[BlobAnswer]:
        """Open a blob, from ``start`` on when the edge still has the one of ``etag``, else from its beginning.

        Raises:
            EdgeUnavailable: the edge does not answer now, or the bytes stopped coming.
            BlobUnusable: it has no such blob, or one of another length.
        """
        headers = {"range": f"bytes={start}-"} | ({"if-range": etag} if etag else {}) if start else {}
        with self._request("GET", f"{self._root}/artifacts/{sha256}", headers) as response:
            if response.status_code in (404, 416):
                raise BlobUnusable(f"The edge has no blob {sha256} with these bytes (status {response.status_code}).")
            _require(response, 200, 206)
            begins = _start_of(response, length)
            too_long = BlobUnusable(f"The blob has more than the {length} bytes that the manifest names.")
            yield BlobAnswer(begins, response.headers.get("etag", ""), _bounded(response, length - begins, too_long))

    def register(self, device_id: str, registration: Mapping[str, object]) -> bool:
        """Tell the edge this device's facts; say whether it took them, or refused them for good.

        Raises:
            EdgeUnavailable: it may take them later.
        """
        with self._request("PUT", f"{self._environment}/devices/{device_id}", json=registration) as response:
            return _took(response, "registered")

    def report(self, batch: bytes, content_encoding: str | None) -> bool:
        """Hand in a batch of events in NDJSON; say whether it may be forgotten: accepted, or refused for good.

        Raises:
            EdgeUnavailable: it may be taken later.
        """
        headers = {"content-type": "application/x-ndjson"}
        if content_encoding:
            headers["content-encoding"] = content_encoding
        with self._request("POST", f"{self._environment}/events", headers, content=batch) as response:
            return _took(response, "accepted") or response.status_code in (400, 413, 415)

    @contextmanager
    def _request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        json: Mapping[str, object] | None = None,
        content: bytes | None = None,
    ) -> Iterator[httpx.Response]:
        """Send a request; every failure of the network is `EdgeUnavailable`."""
        # Hashes and lengths are of the bytes as they are, so none may be compressed on the way.
        asked = {"accept-encoding": "identity"} | dict(headers or {})
        try:
            with self._http.stream(method, url, headers=asked, json=json, content=content, timeout=TIMEOUT) as response:
                yield response
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise EdgeUnavailable(f"The edge cannot be reached: {reason}.") from None


def _require(response: httpx.Response, *statuses: int) -> None:
    """Raise `EdgeUnavailable` for an answer that is none of ``statuses``.

    That includes what no edge says: a redirection to a sign-in page is how many networks say that one is offline, and
    such a page with status 200 is how the others do.
    """
    if response.status_code not in statuses:
        raise EdgeUnavailable(f"The edge answers with status {response.status_code}.", _retry_after(response))
    if response.headers.get("content-type", "").lower().startswith("text/html"):
        raise _not_the_edge(response)
    if response.headers.get("content-encoding", "identity") != "identity":
        raise EdgeUnavailable("Something between the edge and this device changes the bytes of its answers.")


def _took(response: httpx.Response, member: str) -> bool:
    """Say whether the edge took what it was given: 202 with ``member``. If not, it refused that, with a code.

    Raises:
        EdgeUnavailable: it is busy, or it is not the edge that answers.
    """
    status = response.status_code
    if status == 429 or status >= 500:
        raise EdgeUnavailable(f"The edge answers with status {status}.", _retry_after(response))
    if status != 202 and status < 400:
        raise _not_the_edge(response)
    _reply(response, member if status == 202 else "code")
    return status == 202


def _reply(response: httpx.Response, member: str) -> Mapping[str, Any]:
    """Return a short answer of the edge's; without ``member`` in it, it is not the edge's, and `EdgeUnavailable`."""
    reply = _object(_whole(response, MAX_REPLY_BYTES))
    if member not in reply:
        raise _not_the_edge(response)
    return reply


def _object(body: bytes) -> Mapping[str, Any]:
    """Return a JSON object; an empty one when the bytes are anything else."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _not_the_edge(response: httpx.Response) -> EdgeUnavailable:
    status = response.status_code
    return EdgeUnavailable(f"Something between the edge and this device answers in its place (status {status}).")


def _retry_after(response: httpx.Response) -> float | None:
    """Return the seconds of ``Retry-After``; its other form, a date, needs a right clock, and is ignored."""
    asked = response.headers.get("retry-after", "")
    return float(asked) if asked.isascii() and asked.isdigit() and len(asked) <= 6 else None


def _start_of(response: httpx.Response, length: int) -> int:
    """Return where in a blob of ``length`` bytes an answer's body starts; refuse what cannot be that blob."""
    if response.status_code == 200:
        stated = response.headers.get("content-length", str(length))
        if stated != str(length):
            raise BlobUnusable(f"The blob has {stated[:20]} bytes where the manifest names {length}.")
        return 0
    first, _, rest = response.headers.get("content-range", "").removeprefix("bytes ").partition("-")
    if not (first.isascii() and first.isdigit() and len(first) <= 18 and rest == f"{length - 1}/{length}"):
        raise BlobUnusable("The blob's part is not the one that was asked for.")
    return int(first)


def _whole(response: httpx.Response, limit: int) -> bytes:
    too_long = EdgeUnavailable(f"The edge's answer does not end after {limit} bytes.")
    return b"".join(_bounded(response, limit, too_long))


def _bounded(response: httpx.Response, limit: int, too_long: DeviceError) -> Iterator[bytes]:
    """Yield the body; raise ``too_long`` after ``limit`` bytes, `EdgeUnavailable` when they come too slowly."""
    pace = Pace(time.monotonic())
    total = 0
    # As they arrive: asked for pieces of a size, httpx would collect a drip for hours before it let us see the first.
    for chunk in response.iter_raw():
        total += len(chunk)
        if total > limit:
            raise too_long
        if pace.is_too_slow(total, time.monotonic()):
            raise EdgeUnavailable("The edge's answer comes too slowly.")
        yield chunk


class Pace:
    """Watches how fast bytes come, window by window.

    Args:
        now: seconds of a clock that never goes back.
    """

    def __init__(self, now: float) -> None:
        self._window_start = now
        self._bytes_at_start = 0

    def is_too_slow(self, total: int, now: float) -> bool:
        """Say whether the window that ended by ``now`` brought too little."""
        if now - self._window_start < SLOW_WINDOW_SECONDS:
            return False
        slow = total - self._bytes_at_start < SLOW_WINDOW_BYTES
        self._window_start, self._bytes_at_start = now, total
        return slow
