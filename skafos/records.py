"""What the management API answers, as types. Fields that a newer server adds are ignored."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field


class Organization(Struct, frozen=True, kw_only=True):
    """Who builds with Skafos. `display_name` is the name, as clients since 0.3 read it."""

    id: str = ""
    name: str = ""
    display_name: str = ""
    role: str | None = None
    created_at: str | None = None
    updated_at: str | None = None


class Membership(Struct, frozen=True, kw_only=True):
    """An organization that the token's user belongs to, and as what."""

    name: str
    role: str


class Me(Struct, frozen=True, kw_only=True):
    """Whose token it is."""

    email: str
    organizations: list[Membership] = field(default_factory=list)


class Member(Struct, frozen=True, kw_only=True):
    """A user's role in an organization: owner, developer or viewer."""

    email: str
    role: str
    id: str = ""
    name: str = ""
    created_at: str | None = None


class Invitation(Struct, frozen=True, kw_only=True):
    """An invitation into an organization. `url` is there once, when it was made; `mailed` if it was mailed too."""

    id: str
    email: str
    role: str
    actor: str | None = None
    url: str | None = None
    mailed: bool = False
    created_at: str | None = None
    expires_at: str | None = None


class Session(Struct, frozen=True, kw_only=True):
    """A browser that the user is signed in with; `present` if it is the one that asks."""

    id: str
    browser: str
    present: bool = False
    created_at: str | None = None
    seen_at: str | None = None


class Identity(Struct, frozen=True, kw_only=True):
    """A provider at which the user signs in; `name` is None if it is not set up any more."""

    id: str
    issuer: str
    name: str | None = None
    created_at: str | None = None


class Erasure(Struct, frozen=True, kw_only=True):
    """A device or an organization that is being erased; `finished_at` is None until nothing is left of it."""

    id: str
    kind: str
    asked_at: str | None = None
    finished_at: str | None = None


class Token(Struct, frozen=True, kw_only=True):
    """An API token. `token` itself is there once, when it was made. What bounds it is None where nothing does."""

    id: str
    name: str
    token: str | None = None
    hint: str | None = None
    organization: str | None = None
    role: str | None = None
    expires_at: str | None = None
    created_at: str | None = None
    last_used_at: str | None = None


class Model(Struct, frozen=True, kw_only=True):
    """A component of an app that a machine-learning artifact powers."""

    name: str
    id: str = ""
    latest_version: int | None = None
    created_at: str | None = None
    updated_at: str | None = None


class App(Struct, frozen=True, kw_only=True):
    """A mobile app, one per bundle ID. `models` is there when it was asked for."""

    name: str
    id: str = ""
    bundle_id: str = ""
    platform: str = ""
    models: list[Model] | None = None
    created_at: str | None = None
    updated_at: str | None = None


class Key(Struct, frozen=True, kw_only=True):
    """A key that apps ship. It ends being valid at `expires_at`; None means never."""

    id: str
    key: str
    created_at: str | None = None
    expires_at: str | None = None


class Environment(Struct, frozen=True, kw_only=True):
    """A place that versions are deployed to, with its valid keys; `key` is the newest, None when all are revoked."""

    name: str
    key: str | None = None
    id: str = ""
    keys: list[Key] = field(default_factory=list)
    revision: int | None = None
    root: int | None = None
    created_at: str | None = None
    updated_at: str | None = None


class File(Struct, frozen=True, kw_only=True):
    """A file of a version; its length in bytes, its SHA-256 in hex."""

    name: str
    length: int
    sha256: str


class Tensor(Struct, frozen=True, kw_only=True):
    """An input or an output of a model."""

    name: str
    type: str
    shape: list[int | str | None] = field(default_factory=list)


class PatchCounts(Struct, frozen=True, kw_only=True):
    """What became of the patches that lead to a version; `skipped` by the word that says why."""

    built: int = 0
    waiting: int = 0
    failed: int = 0
    skipped: dict[str, int] = field(default_factory=dict)


class ModelVersion(Struct, frozen=True, kw_only=True):
    """An immutable version of a model, as uploaded, and what was read from it. Lengths are bytes."""

    version: int | None = None
    name: str = ""
    model: str = ""
    description: str | None = None
    id: str = ""
    state: str = ""
    filename: str | None = None
    format: str | None = None
    interface: str | None = None
    upload_sha256: str | None = None
    upload_length: int | None = None
    artifact_sha256: str | None = None
    artifact_length: int | None = None
    files: list[File] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    patches: PatchCounts = PatchCounts()
    created_at: str | None = None
    updated_at: str | None = None


class LastPush(Struct, frozen=True, kw_only=True):
    """The last push that a device was sent to, and what became of it."""

    push_id: str
    outcome: str
    reason: str | None = None
    sent_at: str | None = None


class Device(Struct, frozen=True, kw_only=True):
    """A device that registered itself, with the facts that it told."""

    device_id: str
    facts: dict[str, Any] = field(default_factory=dict)
    push_service: str | None = None
    last_push: LastPush | None = None
    registered_at: str | None = None
    updated_at: str | None = None


class OfferedPatch(Struct, frozen=True, kw_only=True):
    """A patch to a version that an environment offers, as it stands there: made, under way, or skipped and why."""

    state: str
    from_version: int | None = None
    code: str | None = None
    reason: str | None = None
    encoding: str | None = None
    length: int | None = None
    devices: int | None = None
    share: float | None = None


class Offer(Struct, frozen=True, kw_only=True):
    """A version that an environment offers: to which share of devices (percent), and to which of them.

    `patches` and `full_length`, the bytes that a device downloads without one, are told of what is offered now.
    """

    version: int
    percent: float = 100.0
    conditions: dict[str, Any] = field(default_factory=dict)
    full_length: int | None = None
    patches: list[OfferedPatch] = field(default_factory=list)


class EnvironmentGroup(Struct, frozen=True, kw_only=True):
    """An environment as a model sees it: what it offers there, the first that fits a device first."""

    name: str
    id: str = ""
    key: str | None = None
    releases: list[Offer] = field(default_factory=list)
    device_count: int | None = None
    created_at: str | None = None
    updated_at: str | None = None


class PushStatus(Struct, frozen=True, kw_only=True):
    """What became of a deployment's wish to wake devices up: "not_requested", "not_configured", or the push's state."""

    status: str
    push_id: str | None = None


class PushCredential(Struct, frozen=True, kw_only=True):
    """What an environment can push with; the secret itself is never shown."""

    service: str
    kind: str
    facts: dict[str, Any] = field(default_factory=dict)
    expires_at: str | None = None
    expires_soon: bool = False
    actor: str | None = None
    created_at: str | None = None


class PushSteps(Struct, frozen=True, kw_only=True):
    """How many devices checked in, downloaded the version that they were told of, and activated it."""

    checked: int = 0
    downloaded: int = 0
    activated: int = 0


class PushEffect(Struct, frozen=True, kw_only=True):
    """What the devices did that a push was accepted for, within an hour ``after`` they were sent to and ``before``.

    ``counted`` of the ``devices`` were looked at; a share of them is right within ``margin``. The figures still grow
    unless they are ``complete``: until ``until``, where that is known.
    """

    devices: int
    counted: int
    margin: float = 0.0
    after: PushSteps = PushSteps()
    before: PushSteps = PushSteps()
    complete: bool = False
    until: str | None = None
    asked_at: str | None = None


class PushedDevice(Struct, frozen=True, kw_only=True):
    """A device that a push was sent to, and what became of it."""

    device_id: str
    outcome: str
    reason: str | None = None
    sent_at: str | None = None


class PushedDevices(Struct, frozen=True, kw_only=True):
    """A page of them; ``next`` is what asks for the next one, None on the last."""

    devices: list[PushedDevice]
    next: dict[str, str] | None = None


class PushJob(Struct, frozen=True, kw_only=True):
    """A push to the devices of an environment: its state, and what became of those that it came to so far.

    ``devices_kept`` says whether it is still known of each device; ``effect`` is the last that was asked for.
    """

    id: str
    environment: str
    version: int
    state: str
    reason: str | None = None
    resume_at: str | None = None
    deployment_id: str | None = None
    apple_sandbox: bool = False
    targeted: int = 0
    accepted: int = 0
    gone: int = 0
    refused: int = 0
    unknown: int = 0
    spared: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    actor: str | None = None
    created_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    seconds: float | None = None
    devices_kept: bool = False
    effect: PushEffect | None = None


class Deployment(Struct, frozen=True, kw_only=True):
    """One deploy or roll-back, and the offers that it left."""

    version: int
    id: str = ""
    number: int = 0
    kind: str = "deploy"
    environment: str = ""
    percent: float = 100.0
    conditions: dict[str, Any] = field(default_factory=dict)
    push: PushStatus = PushStatus(status="not_requested")
    offers: list[Offer] = field(default_factory=list)
    restores: int | None = None
    revision: int | None = None
    actor: str | None = None
    created_at: str | None = None


class PatchPlace(Struct, frozen=True, kw_only=True):
    """Whether an environment wants a patch (`code` says why not), and for how many of its active devices."""

    environment: str
    wanted: bool
    code: str | None = None
    devices: int | None = None
    share: float | None = None


class Patch(Struct, frozen=True, kw_only=True):
    """A patch from one version to another: its state, its length in bytes, and that of the smallest full encoding.

    A patch that was skipped says why: in a word (`code`) and for people (`reason`).
    """

    state: str
    id: str = ""
    from_version: int | None = None
    to_version: int | None = None
    code: str | None = None
    reason: str | None = None
    encoding: str | None = None
    length: int | None = None
    full_length: int | None = None
    environments: list[PatchPlace] = field(default_factory=list)
    created_at: str | None = None
    updated_at: str | None = None


class AuditEntry(Struct, frozen=True, kw_only=True):
    """Who changed what, when, from which address (of IPv6 the network), via `browser` or a token that is named."""

    action: str
    target: str
    actor: str = ""
    client: str | None = None
    via: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    id: int = 0
    created_at: str | None = None


class Edge(Struct, frozen=True, kw_only=True):
    """An edge: one process that serves devices."""

    name: str
    silent: bool
    environments: int
    version: str = ""
    started_at: str | None = None
    seen_at: str | None = None


class VersionShare(Struct, frozen=True, kw_only=True):
    """Active devices on a version; `version` is None for those that hold none, `share` is between 0 and 1."""

    version: int | None
    devices: int
    share: float


class DayAdoption(Struct, frozen=True, kw_only=True):
    """A day (UTC) with at least one active device."""

    day: str
    active_devices: int
    versions: list[VersionShare]


class Failure(Struct, frozen=True, kw_only=True):
    """How often a version failed with an error, and on how many devices."""

    version: int | None
    error: str
    count: int
    devices: int


class Adoption(Struct, frozen=True, kw_only=True):
    """How a model's versions are adopted: by day, now, installations in total, and what failed, most frequent first."""

    model: str
    environment: str
    first_day: str
    last_day: str
    by_day: list[DayAdoption]
    now: list[VersionShare]
    installations: int
    failures: list[Failure]
    failures_total: int


class Deployed(Struct, frozen=True, kw_only=True):
    """The answer to a deploy: a sentence that ends with the version, and the deployment."""

    success: str
    deployment: Deployment


class Begun(Struct, frozen=True, kw_only=True):
    """An upload that may start: where the bytes go, and how the version is named until it is finished."""

    presigned_url: str
    filepath: str
    model_version_id: str


class SqlAnswer(Struct, frozen=True, kw_only=True):
    """Rows of a query; `truncated` when there were more than the server gives."""

    rows: list[dict[str, Any]]
    truncated: bool = False
