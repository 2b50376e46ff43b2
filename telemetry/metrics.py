"""The counters of this room, one typed list. Names and meanings are part of what operators rely on."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

SPOOL_COMMITS: Final = Counter("skafos_spool_commits_total", "Group commits written to the spool.")
SPOOL_BATCHES: Final = Counter("skafos_spool_batches_total", "Batches of events made durable in the spool.")
SPOOL_FULL: Final = Counter("skafos_spool_full_total", "Batches turned away because the spool or its disk was full.")
SPOOL_FAILURES: Final = Counter("skafos_spool_failures_total", "Group commits that the disk refused.")
SPOOL_BYTES: Final = Gauge("skafos_spool_used_bytes", "Bytes of all segments of this writer.")
SPOOL_LIMIT: Final = Gauge(
    "skafos_spool_limit_bytes", "Bound of this writer's segments; full, batches are turned away."
)

SHIPPED_EVENTS: Final = Counter(
    "skafos_shipper_events_total", "Events inserted into ClickHouse, re-sent ones included."
)
SHIPPED_SEGMENTS: Final = Counter("skafos_shipper_segments_total", "Segments inserted and removed from the spool.")
SHIP_LAG: Final = Histogram(
    "skafos_shipper_lag_seconds",
    "Age of the oldest event of each insert, once it is in: from the edge's clock to this one.",
    buckets=(0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 3600, 6 * 3600),
)
SHIP_RETRIES: Final = Counter(
    "skafos_shipper_retries_total", "Inserts put off because ClickHouse could not be reached."
)
DEAD_SEGMENTS: Final = Counter("skafos_shipper_dead_segments_total", "Segments put aside in the dead-letter folder.")
WAITING_SEGMENTS: Final = Gauge("skafos_shipper_waiting_segments", "Segments that waited at the last look.")
WAITING_BYTES: Final = Gauge("skafos_shipper_waiting_bytes", "Their bytes.")
WAITING_AGE: Final = Gauge("skafos_shipper_waiting_age_seconds", "Age of the oldest waiting segment at the last look.")
DEAD_WAITING: Final = Gauge(
    "skafos_shipper_dead_letter_segments", "Segments that lie in the dead-letter folder, at the last look."
)
DEAD_BYTES: Final = Gauge("skafos_shipper_dead_letter_bytes", "Their bytes.")
FOLDED_VALUES: Final = Counter(
    "skafos_shipper_folded_values_total",
    'Values of events stored as "other", because their dimension had too many on that day, by dimension.',
    ["dimension"],
)

REGISTRATIONS: Final = Counter("skafos_registrations_added_total", "Device registrations put into the stream.")
