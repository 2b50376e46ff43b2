"""Every metric of the edge, in one typed list. ``docs/protocol.md`` does not repeat them; ``/metrics`` shows them."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

# From a 304 out of memory (tens of microseconds) to a blob that had to be fetched first.
_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30)

REQUESTS: Final = Counter("skafos_edge_requests", "Requests answered, by route and status.", ["route", "status"])
REQUEST_SECONDS: Final = Histogram(
    "skafos_edge_request_seconds", "Time to answer, downloads included.", ["route"], buckets=_SECONDS
)
CONNECTIONS: Final = Gauge("skafos_edge_connections", "Open connections of devices.")
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
BLOB_CACHE_BYTES: Final = Gauge("skafos_edge_blob_cache_bytes", "Bytes of whole blobs in the cache.")
SENT_BYTES: Final = Counter("skafos_edge_sent_bytes", "Bytes of blobs sent to devices.")

EVENTS: Final = Counter("skafos_edge_events", "Events handed in, by outcome.", ["outcome"])
REGISTRATIONS: Final = Counter("skafos_edge_registrations", "Device registrations, by outcome.", ["outcome"])
SATURATED: Final = Counter("skafos_edge_saturated", "Requests refused because a bound was reached.", ["bound"])
