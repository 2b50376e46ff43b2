"""The control plane's metrics, in one place so that their names stay of one kind.

Routes are labelled by their pattern, never by what stands in the path: the number of series is bounded.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

# From what a read of SQLite takes to what the finishing of a large upload takes.
_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

REQUESTS = Counter(
    "skafos_control_requests_total", "Requests answered, by route and status.", ["method", "route", "status"]
)
REQUEST_SECONDS = Histogram(
    "skafos_control_request_duration_seconds", "From a request's head to its answer's end.", ["route"], buckets=_SECONDS
)
TASK_RESTARTS = Counter(
    "skafos_control_task_restarts_total", "Background tasks that ended by themselves and were started again.", ["task"]
)
PART_UP = Gauge("skafos_control_part_up", "Whether a part that we depend on answered when last asked.", ["part"])

OUTBOX_ROWS = Gauge("skafos_control_outbox_rows", "Changes that the manifest store has yet to be told of.")
PUBLICATIONS = Counter("skafos_control_publications_total", "Publications written to the manifest store.")
STORE_FILLED = Counter("skafos_control_store_filled_total", "Times that an empty manifest store was filled.")
MANIFESTS_DUE = Gauge("skafos_control_manifests_due", "Manifests that were due to be signed anew when last looked.")
MANIFESTS_RESIGNED = Counter("skafos_control_manifests_resigned_total", "Manifests signed anew without a change.")
RESIGN_DUE = Gauge(
    "skafos_control_resign_due_timestamp_seconds",
    "When the first manifest is due to be signed anew, in Unix time: before three quarters of its life are over.",
)
ROOT_EXPIRES = Gauge(
    "skafos_control_root_expiry_timestamp_seconds", "When the first root in force expires, in Unix time."
)
PATCH_JOBS_WAITING = Gauge("skafos_control_patch_jobs_waiting", "Patches that wait or are being made.")
PATCH_JOBS_ENDED = Counter("skafos_control_patch_jobs_ended_total", "Patch jobs that ended, by how.", ["state"])
# An alert asks for its increase, and Prometheus sees none from nothing to one: the series is there from the start.
PATCH_JOBS_ENDED.labels("failed")
PATCHES_SKIPPED = Counter(
    "skafos_control_patches_skipped_total",
    "Patches that an environment or their making decided against, by why.",
    ["code"],
)
PATCH_LOOKS = Counter(
    "skafos_control_patch_looks_total",
    "Looks at which patches are wanted, by what told: adoption, remembered or history.",
    ["source"],
)
PATCH_LOOKS_UNANSWERED = Counter(
    "skafos_control_patch_looks_unanswered_total", "Looks for which ClickHouse could not be asked."
)
PATCH_LOOKS_DUE = Gauge("skafos_control_patch_looks_due", "Looks that were due when last counted.")
GARBAGE_OBJECTS = Counter("skafos_control_garbage_objects_total", "Objects freed because nothing named them any more.")
GARBAGE_BYTES = Counter("skafos_control_garbage_bytes_total", "Their bytes.")
REGISTRATIONS_STORED = Counter("skafos_control_registrations_stored_total", "Device registrations stored.")
REGISTRATIONS_REFUSED = Counter(
    "skafos_control_registrations_refused_total", "Device registrations that the database cannot hold."
)
MAILS = Counter("skafos_control_mails_total", "Mails, by what became of them: sent, failed or dropped.", ["outcome"])
PUSHES_SENT = Counter("skafos_control_pushes_total", "Notifications that were sent, by outcome.", ["outcome"])
PUSH_JOBS_FAILED = Counter("skafos_control_push_jobs_failed_total", "Push jobs that failed, by reason.", ["reason"])
PUSH_SLICES_LOST = Counter(
    "skafos_control_push_slices_lost_total", "Slices that another worker had taken over, so that they were sent twice."
)
PUSH_CREDENTIAL_EXPIRES = Gauge(
    "skafos_control_push_credential_expiry_timestamp_seconds",
    "When a push credential expires, in Unix time.",
    ["environment_id", "service"],
)
