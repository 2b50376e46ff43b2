"""Every metric of the edge, in one typed list. ``docs/protocol.md`` does not repeat them; ``/metrics`` shows them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from manifests.store import Labels

# From a 304 out of memory (tens of microseconds) to a blob that had to be fetched first.
_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30)

REQUESTS: Final = Counter(
    "skafos_edge_requests", "Requests that aiohttp's routes answered, by route and status.", ["route", "status"]
)
REQUEST_SECONDS: Final = Histogram(
    "skafos_edge_request_seconds", "Time to answer, downloads included.", ["route"], buckets=_SECONDS
)
WAITED: Final = Counter(
    "skafos_edge_requests_waited", "Requests of aiohttp's that waited for a turn, because many came at once."
)
HANDED_OVER: Final = Counter(
    "skafos_edge_lane_handed_over", "Requests that the lane handed over to aiohttp, by reason.", ["reason"]
)
GIVEN_BACK: Final = Counter("skafos_edge_lane_given_back", "Connections that came back to the lane from aiohttp.")
PAUSED: Final = Counter(
    "skafos_edge_lane_paused", "Times that the lane read no more because a client did not take its answers."
)
IDLE_CLOSED: Final = Counter("skafos_edge_connections_idle", "Connections that the lane closed because nothing came.")
CONNECTIONS: Final = Gauge("skafos_edge_connections", "Open connections of devices.")
CONNECTIONS_OPENED: Final = Counter("skafos_edge_connections_opened", "Connections of devices that were accepted.")
CONNECTIONS_RESET: Final = Counter("skafos_edge_connections_reset", "Connections that clients cut off (TCP reset).")
CONNECTIONS_REFUSED: Final = Counter("skafos_edge_connections_refused", "Connections over the bound, refused with 503.")
CONNECTIONS_FAILED: Final = Counter(
    "skafos_edge_connections_failed", "Connections that ended before their first request, by cause.", ["cause"]
)
CERTIFICATE_EXPIRES: Final = Gauge(
    "skafos_edge_certificate_expiry_timestamp_seconds", "When the TLS certificate in use expires, in Unix time."
)
CERTIFICATE_FAILURES: Final = Counter(
    "skafos_edge_certificate_failures", "Changed certificates that could not be used; the one before stays in use."
)
MALFORMED: Final = Counter("skafos_edge_requests_malformed", "Requests that are no HTTP.")
UNFINISHED: Final = Counter(
    "skafos_edge_heads_unfinished", "Connections closed because a long head did not end within two seconds."
)
STALLED: Final = Counter("skafos_edge_answers_stalled", "Answers given up because the client took too long to read.")
FAILURES: Final = Counter("skafos_edge_requests_failed", "Requests that met an error of ours (500).")

ENVIRONMENTS: Final = Gauge("skafos_edge_environments", "Environment keys that are served.")
MANIFESTS_TAKEN: Final = Counter("skafos_edge_manifests_taken", "Manifests taken over from the store.")
MANIFESTS_REFUSED: Final = Counter("skafos_edge_manifests_refused", "Manifests in the store that are not sound.")
MANIFEST_STORE_UP: Final = Gauge("skafos_edge_manifest_store_up", "1 while the manifest store answers.")
MANIFEST_STORE_READ_SECONDS: Final = Gauge(
    "skafos_edge_manifest_store_read_timestamp_seconds", "When all revisions were last read, in Unix time."
)
SNAPSHOT_FAILURES: Final = Counter("skafos_edge_snapshot_failures", "Manifests that could not be written to the disk.")

BLOB_REQUESTS: Final = Counter("skafos_edge_blob_requests", "Blobs asked for, by where they were found.", ["found"])
BLOB_FILL_BYTES: Final = Counter("skafos_edge_blob_fill_bytes", "Bytes fetched from the object store.")
BLOB_FILL_FAILURES: Final = Counter("skafos_edge_blob_fill_failures", "Fetches that failed, by cause.", ["cause"])
BLOB_EVICTED_BYTES: Final = Counter("skafos_edge_blob_evicted_bytes", "Bytes that had to go from the cache.")
BLOB_SCRUBBED_BYTES: Final = Counter("skafos_edge_blob_scrubbed_bytes", "Bytes of cached blobs that were hashed again.")
BLOB_DAMAGED: Final = Counter("skafos_edge_blob_damaged", "Cached blobs removed because their bytes had changed.")
BLOB_CACHE_BYTES: Final = Gauge("skafos_edge_blob_cache_bytes", "Bytes of whole blobs in the cache.")
SENT_BYTES: Final = Counter("skafos_edge_sent_bytes", "Bytes of blobs sent to devices.")
VERSIONS_ASKED: Final = Counter(
    "skafos_edge_versions_asked", "Versions asked for by number, by the content coding of the answer.", ["coding"]
)

EVENTS: Final = Counter("skafos_edge_events", "Events handed in, by outcome.", ["outcome"])
REGISTRATIONS: Final = Counter("skafos_edge_registrations", "Device registrations, by outcome.", ["outcome"])
SATURATED: Final = Counter("skafos_edge_saturated", "Requests refused because a bound was reached.", ["bound"])


# Whose checks are counted that have a key of nobody's.
NOBODY: Final = Labels("", "", "", "", "", "")


class CheckTally:
    """Checks of one environment with one status, counted by adding to a number: a labelled counter takes far longer."""

    __slots__ = ("count", "labels", "status")

    def __init__(self, labels: Labels, status: int) -> None:
        self.labels = labels
        self.status = status
        self.count = 0


class CheckCounts(Collector):
    """Manifests answered, by environment and status, in the lane and by aiohttp's route alike.

    An environment is told by its id and names; its key is known to devices only. There are two tallies for each
    environment that was in memory, far smaller than its manifest, and one for all keys that nobody has (404).

    Attributes:
        new_heads: checks in the lane whose head did not come lately; counted as a number, too.
    """

    def __init__(self) -> None:
        self.new_heads = 0
        self._tallies: dict[tuple[str, int], CheckTally] = {}

    def of(self, labels: Labels, status: int) -> CheckTally:
        """Return a tally of an environment; it goes on when the environment's manifest or names change."""
        tally = self._tallies.setdefault((labels.environment_id, status), CheckTally(labels, status))
        tally.labels = labels
        return tally

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the checks of the environments that were asked for, and the heads."""
        family = CounterMetricFamily(
            "skafos_edge_checks",
            "Checks answered with a manifest (200) or without (304), by environment and status; 404: key of nobody's.",
            labels=["environment_id", "application", "environment", "status"],
        )
        for tally in self._tallies.values():
            if tally.count:
                names = (tally.labels.environment_id, tally.labels.application, tally.labels.environment)
                family.add_metric([*names, str(tally.status)], tally.count)
        yield family
        yield CounterMetricFamily(
            "skafos_edge_lane_heads_new",
            "Checks in the lane whose head did not come lately, so that it was read and not remembered.",
            self.new_heads,
        )


CHECKS: Final = CheckCounts()
REGISTRY.register(CHECKS)
