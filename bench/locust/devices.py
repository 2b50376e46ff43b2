"""Devices that visit an edge as they do every day: checks, now and then an update, a registration, events.

``locust -f bench/locust/devices.py --host https://edge.example.org --environment-key prod-…`` from the root of the
repository, with the web page on port 8089, or with ``--headless --users 200 --run-time 5m``. docs/capacity.md says what
a user stands for.
"""

from __future__ import annotations

import json
import logging
import random
import time
import uuid
from typing import Any, ClassVar

from locust import events, task
from locust.contrib.fasthttp import FastHttpUser

from bench.locust.population import (
    FACTS,
    Download,
    NoOffer,
    Offer,
    Shares,
    Visit,
    check_events,
    draw_visit,
    offer_of,
    update_events,
)

# Downloads are read in pieces and dropped, so that memory does not grow with the model.
PIECE_BYTES = 1 << 18
COLLECTED_CHECKS = 20
NO_MANIFEST = '"never"'
HEADERS = {"Accept-Encoding": "identity", "User-Agent": "Models/2.1 CFNetwork/1494.0.7 Darwin/23.4.0"}

log = logging.getLogger(__name__)


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _arguments(parser: Any) -> None:
    # Not in a group: locust shows in its web page only what belongs to the parser itself.
    text, number = {"type": str, "default": ""}, {"type": float}
    parser.add_argument("--environment-key", env_var="SKAFOS_ENVIRONMENT_KEY", help="key of the environment", **text)
    parser.add_argument("--model", env_var="SKAFOS_BENCH_MODEL", help="model to update; by default the first", **text)
    usual = Shares()
    for name, default, what in (
        ("visit-seconds", 1.0, "mean time between two visits of a user"),
        ("behind", usual.behind, "share of visits by devices that then update"),
        ("new", usual.new, "share of visits by devices that were just installed"),
        ("reporting", usual.reporting, "share of visits that post collected events"),
        ("interrupted", usual.interrupted, "share of downloads that go on in a second request"),
        ("day-seconds", 600.0, "release day, push burst: length of the simulated day"),
        ("check-hours", 6.0, "release day, push burst: interval of a device's checks, in hours of the simulated day"),
        ("release-at", 0.3, "release day, push burst: when the release comes, as a share of the day"),
        ("pushed", 0.5, "release day, push burst: share of the devices that a push wakes up"),
        ("push-minutes", 30.0, "release day, push burst: within how many minutes of the simulated day they come"),
    ):
        variable = f"SKAFOS_BENCH_{name.upper().replace('-', '_')}"
        parser.add_argument(f"--{name}", env_var=variable, default=default, help=what, **number)


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def _check_settings(environment: Any, **_: Any) -> None:
    if not environment.parsed_options.environment_key:
        environment.process_exit_code = 2
        log.error("Name the environment with --environment-key or SKAFOS_ENVIRONMENT_KEY.")
        environment.runner.quit()


class Device(FastHttpUser):  # type: ignore[misc] # locust is installed beside the product, not with it
    """A stream of devices over one connection: each visit is another one's."""

    default_headers: ClassVar = HEADERS
    # What the newest manifest is, as far as any device here has seen; the same for all of them.
    _etag = NO_MANIFEST
    _offer: Offer | None = None

    def on_start(self) -> None:
        """Read the settings."""
        options = self.environment.parsed_options
        self._chance = random.Random()
        self._below = f"/v2/environments/{options.environment_key}"
        self._model = options.model or None
        self._visit_seconds = options.visit_seconds
        self._shares = Shares(options.behind, options.new, options.reporting, options.interrupted)

    def wait_time(self) -> float:
        """Return the seconds until the next visit: memoryless, as many independent devices make it."""
        return self._chance.expovariate(1 / self._visit_seconds)

    def behind(self) -> float:
        """Return the share of visits that find another manifest; a release day changes it."""
        return self._shares.behind

    @task  # type: ignore[untyped-decorator]
    def visit(self) -> None:
        """Be one device for one visit."""
        device = str(uuid.uuid4())
        kind = draw_visit(self._chance, self.behind(), self._shares.new)
        if kind is Visit.NEW:
            self._register(device)
        offer = self._check(kind)
        if offer is not None:
            if kind is Visit.NEW:
                self._root(offer.first_root)
            taken = offer.download(holds_a_model=kind is not Visit.NEW)
            self._download(taken)
            self._post(update_events(device, offer, taken))
        if self._chance.random() < self._shares.reporting and (known := Device._offer):
            self._post(check_events(device, known.model, known.version, COLLECTED_CHECKS))

    def _check(self, kind: Visit) -> Offer | None:
        """Ask for the manifest; return what it offers when it is another than the device's."""
        tag = Device._etag if kind is Visit.CURRENT else NO_MANIFEST
        headers = {} if kind is Visit.NEW else {"If-None-Match": tag}
        first = kind is Visit.CURRENT and tag == NO_MANIFEST
        name = f"manifest ({'first look' if first else kind.name.lower()})"
        with self.client.get(f"{self._below}/manifest", headers=headers, name=name, catch_response=True) as answer:
            if answer.status_code == 304 and tag != NO_MANIFEST:
                answer.success()
                return None
            if answer.status_code != 200:
                answer.failure(f"status {answer.status_code}")
                return None
            try:
                offer = offer_of(answer.content, self._model)
            except (NoOffer, KeyError, ValueError) as error:
                answer.failure(f"manifest: {error!r}")
                return None
            # The first answer, or somebody deployed while the test runs: from now on this is the newest.
            Device._etag, Device._offer = answer.headers["etag"], offer
            # A device that is current only did not know by what; it holds the model already.
            return None if first else offer

    def _download(self, wanted: Download) -> None:
        name = f"artifact ({'patch' if wanted.patch else 'full'})"
        if wanted.length > 1 and self._chance.random() < self._shares.interrupted:
            half = wanted.length // 2
            self._get_blob(wanted, f"{name}, first half", 206, half, f"bytes=0-{half - 1}")
            self._get_blob(wanted, f"{name}, resumed", 206, wanted.length - half, f"bytes={half}-")
        else:
            self._get_blob(wanted, name, 200, wanted.length)

    def _get_blob(self, wanted: Download, name: str, status: int, length: int, part: str = "") -> None:
        headers = {"Range": part, "If-Range": f'"{wanted.blob}"'} if part else {}
        began = time.perf_counter()
        path = f"/v2/artifacts/{wanted.blob}"
        with self.client.get(path, headers=headers, name=name, stream=True, catch_response=True) as answer:
            read = sum(map(len, answer.iter_content(PIECE_BYTES, decode_content=False))) if answer.status_code else 0
            answer.request_meta["response_time"] = (time.perf_counter() - began) * 1000
            if answer.status_code != status or read != length:
                answer.failure(f"status {answer.status_code}, {read} of {length} bytes")

    def _register(self, device: str) -> None:
        body = {"facts": FACTS, "push_token": device.replace("-", "") * 2, "push_service": "apns"}
        self._send("PUT", f"{self._below}/devices/{device}", "register", body)

    def _root(self, number: int) -> None:
        self.client.get(f"{self._below}/root/{number}.json", name="root")

    def _post(self, batch: list[dict[str, object]]) -> None:
        self._send("POST", f"{self._below}/events", f"events ({'report' if len(batch) > 3 else 'update'})", batch)

    def _send(self, method: str, path: str, name: str, body: object) -> None:
        data, headers = json.dumps(body), {"Content-Type": "application/json"}
        with self.client.request(method, path, data=data, headers=headers, name=name, catch_response=True) as answer:
            if answer.status_code != 202:
                answer.failure(f"status {answer.status_code}")
