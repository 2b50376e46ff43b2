"""What the management API takes and gives, as types.

Requests refuse fields that they do not know and values of another type (a number in quotes, say), and the answer names
the field. Times are UTC, RFC 3339. Lengths are bytes.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from artifacts.patch.build import SkipReason
from control_plane import names, passwords
from control_plane.accounts import RoleName
from control_plane.api.paging import Paging
from control_plane.audit import ACTION_LENGTH
from control_plane.patch_wishes import Unwanted
from control_plane.push.credentials import MAX_CREDENTIAL_BYTES
from control_plane.tables import NAME_LENGTH
from manifests.keys import DEFAULT_OVERLAP, MAX_OVERLAP

# Longer queries than people write; it is parsed in this process.
MAX_SQL_LENGTH = 20_000
# The widest span that the daily rollups are asked for at once.
MAX_ADOPTION_DAYS = 400
# A token that lasts longer is one without an end.
MAX_TOKEN_DAYS = 3650
# Version numbers are 32-bit integers in the database.
MAX_VERSION = 2**31 - 1

# Longer texts are refused before they are looked at; the checks below say what a name is.
_MAX_RAW_NAME = 4 * NAME_LENGTH

Name = Annotated[str, StringConstraints(max_length=_MAX_RAW_NAME), AfterValidator(names.check_name)]
EnvironmentName = Annotated[str, StringConstraints(max_length=31), AfterValidator(names.check_environment_name)]
BundleId = Annotated[str, StringConstraints(max_length=names.BUNDLE_ID_LENGTH), AfterValidator(names.check_bundle_id)]
Email = Annotated[str, StringConstraints(max_length=names.EMAIL_LENGTH), AfterValidator(names.check_email)]
Description = Annotated[str, StringConstraints(max_length=names.DESCRIPTION_LENGTH), AfterValidator(names.check_text)]
Filename = Annotated[str, StringConstraints(max_length=names.FILENAME_LENGTH), AfterValidator(names.check_filename)]
Reference = Annotated[str, StringConstraints(min_length=1, max_length=_MAX_RAW_NAME)]  # a name or an id
PushOutcome = Literal["accepted", "gone", "refused", "unknown"]
PushState = Literal["pending", "running", "paused", "finished", "cancelled", "failed"]
PushCredentialKind = Literal["key", "certificate", "account"]
PatchState = Literal["pending", "running", "built", "skipped", "failed"]
PATCH_CODES = f"Why it was skipped: {', '.join([*SkipReason, *Unwanted])}."
Platform = Literal["ios", "ipados", "macos", "tvos", "watchos", "visionos", "android", "linux", "windows", "other"]


def _checked_text(text: str) -> str:
    """Return a text to look for; PostgreSQL refuses to look for a zero byte."""
    if names.has_control_characters(text):
        raise ValueError("the text holds control characters")
    return text


class Body(BaseModel):
    """A JSON body: fields of exactly these names and types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Answer(BaseModel):
    """A JSON answer."""

    model_config = ConfigDict(frozen=True)


# What comes in


class Nothing(Body):
    """An empty object; the body may also be left out."""


class NewOrganization(Body):
    """An organization to create."""

    name: Name


class OrganizationChange(Body):
    """What to change of an organization."""

    name: Name


class NewMember(Body):
    """A member to add, by e-mail address."""

    email: Email
    role: RoleName = "developer"


class NewInvitation(Body):
    """Whom to invite, by e-mail address."""

    email: Email
    role: RoleName = "developer"


class NewPassword(Body):
    """A password to set."""

    password: Annotated[str, StringConstraints(max_length=passwords.MAX_LENGTH)]
    current_password: Annotated[str, StringConstraints(max_length=passwords.MAX_LENGTH)] | None = Field(
        None, description="The one until now, if there was one."
    )


class MemberChange(Body):
    """A member's new role."""

    role: RoleName


class NewToken(Body):
    """A token to make, with a name by which to tell it from others, and what it may do at most."""

    name: Name
    organization: Reference | None = Field(None, description="The only one that it opens; all of the caller's if null.")
    role: RoleName | None = Field(None, description="The highest that it has anywhere; the caller's own if null.")
    expires_days: int | None = Field(None, ge=1, le=MAX_TOKEN_DAYS, description="After which it ends; never if null.")


class NewApplication(Body):
    """An application to create, with its environments `dev` and `prod`."""

    name: Name
    bundle_id: BundleId
    platform: Platform
    first_model: Name | None = Field(None, description="A model to create with it.")


class ApplicationChange(Body):
    """What to change of an application."""

    name: Name | None = None
    bundle_id: BundleId | None = None
    platform: Platform | None = None


class NewEnvironment(Body):
    """An environment to add to an application."""

    name: EnvironmentName


class EnvironmentChange(Body):
    """What to change of an environment that was added to an application."""

    name: EnvironmentName


class NewKey(Body):
    """How to replace an environment's key."""

    overlap_seconds: int = Field(
        int(DEFAULT_OVERLAP.total_seconds()),
        ge=0,
        le=int(MAX_OVERLAP.total_seconds()),
        description="For how long the present keys stay valid beside the new one.",
    )


class NewModel(Body):
    """A model to create."""

    name: Name


class ModelChange(Body):
    """What to change of a model."""

    name: Name


class NewModelVersion(Body):
    """An upload to begin."""

    filename: Filename
    description: Description | None = None


class ModelVersionChange(Body):
    """The end of an upload (`filepath`, as its beginning answered it), another description, or another name."""

    filepath: Annotated[str, StringConstraints(max_length=255)] | None = None
    description: Description | None = None
    name: Filename | None = Field(None, description="What the uploaded file is called; a zip stays one.")


# The number of the deployment that whoever calls has seen last.
After = Annotated[int, Field(ge=0, le=MAX_VERSION)] | None
_AFTER = "Only if the last deployment of the model there has this number; 409 `changed_since` otherwise."


class NewDeployment(Body):
    """A version to deploy."""

    version: Annotated[int, Field(ge=1, le=MAX_VERSION)] | Literal["latest"]
    environment: Reference
    percent: float = Field(100.0, gt=0, le=100, allow_inf_nan=False, description="Of the devices.")
    conditions: dict[str, Any] = Field(default_factory=dict, description="What a device must be; see docs/protocol.md.")
    push: bool = Field(False, description="Whether to wake the devices up.")
    apple_sandbox: bool | None = Field(
        None, description="Whether through Apple's development server; by default in the environment dev only."
    )
    after: After = Field(None, description=_AFTER)


class NewPush(Body):
    """Whose devices to wake up."""

    environment: Reference
    apple_sandbox: bool | None = Field(
        None, description="Whether through Apple's development server; by default in the environment dev only."
    )


class NewPushCredential(Body):
    """A credential to push with."""

    kind: PushCredentialKind
    content: Annotated[str, StringConstraints(max_length=2 * MAX_CREDENTIAL_BYTES)] = Field(
        description="The file, a .p8, .p12, PEM or the JSON of a service account, as base64."
    )
    key_id: Annotated[str, StringConstraints(max_length=32)] = Field("", description="Of a key.")
    team_id: Annotated[str, StringConstraints(max_length=32)] = Field("", description="Of a key.")
    password: Annotated[str, StringConstraints(max_length=256)] | None = Field(
        None, description="Of a certificate's file."
    )


class NewRollback(Body):
    """Where to go back to the version before."""

    environment: Reference
    after: After = Field(None, description=_AFTER)


class NewErasure(Body):
    """What to erase: a device of the organization, or the organization itself."""

    device_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,64}$")] | None = Field(
        default=None, description="A device of the organization, in whichever app."
    )
    organization: Reference | None = Field(
        default=None, description="The organization's name, to erase it with all that it holds."
    )

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        if (self.device_id is None) == (self.organization is None):
            raise ValueError("give either device_id or organization")
        return self


class SqlQuestion(Body):
    """A read-only question to ClickHouse: one SELECT from the view `events`."""

    query: Annotated[str, StringConstraints(min_length=1, max_length=MAX_SQL_LENGTH)]
    organization: Reference | None = Field(None, description="One of the caller's; all of them when left out.")


# What stands behind the question mark


class ApplicationsQuery(Paging):
    """How to list applications."""

    with_models: bool = Field(default=False, description="Whether to show each application's models.")


class ApplicationQuery(BaseModel):
    """How to show an application."""

    model_config = ConfigDict(extra="forbid")

    with_models: bool = Field(default=False, description="Whether to show its models.")


class PushesQuery(Paging):
    """How to list pushes."""

    environment: Reference | None = Field(default=None, description="Of this one only.")


class PushedDevicesQuery(Paging):
    """Which devices of a push to list."""

    outcome: PushOutcome | None = Field(None, description="Only those of which this became.")


class DeleteModelQuery(BaseModel):
    """How to delete a model."""

    model_config = ConfigDict(extra="forbid")

    withdraw: bool = Field(
        default=False, description="Delete it even while it is offered; devices keep what they hold."
    )


class ModelVersionsQuery(Paging):
    """How to list versions. They are always in the order of their numbers."""

    order_by: Literal["version"] = "version"


class EnvironmentGroupsQuery(Paging):
    """How to list a model's environments."""

    with_device_count: bool = Field(default=False, description="Whether to count the devices that registered.")


class DeploymentsQuery(Paging):
    """How to list deployments, newest first."""

    environment: Reference | None = Field(default=None, description="Only of this environment.")


class PatchesQuery(Paging):
    """Which patches to list, newest first."""

    environment: Reference | None = Field(default=None, description="Only those that came into question there.")
    from_version: int | None = Field(default=None, ge=1, le=MAX_VERSION, description="Only those that lead from it.")
    to_version: int | None = Field(default=None, ge=1, le=MAX_VERSION, description="Only those that lead to it.")


class AuditExportQuery(BaseModel):
    """Which entries of the audit log."""

    model_config = ConfigDict(extra="forbid")

    actor: Annotated[str, StringConstraints(max_length=names.EMAIL_LENGTH), AfterValidator(_checked_text)] | None = (
        Field(None, description="The e-mail address of who did it, or `system`.")
    )
    action: Annotated[str, StringConstraints(max_length=ACTION_LENGTH), AfterValidator(_checked_text)] | None = Field(
        None, description="What it begins with, as `token.`."
    )
    since: AwareDatetime | None = Field(None, description="From this moment on.")
    until: AwareDatetime | None = Field(None, description="Before this moment.")


class AuditQuery(AuditExportQuery, Paging):
    """Which entries of the audit log, newest first."""


class AdoptionQuery(BaseModel):
    """What adoption to show."""

    model_config = ConfigDict(extra="forbid")

    environment: Reference = "prod"
    days: int = Field(30, ge=1, le=MAX_ADOPTION_DAYS)


class DownloadQuery(BaseModel):
    """Which version to fetch."""

    model_config = ConfigDict(extra="forbid")

    version: int | None = Field(default=None, ge=1, le=MAX_VERSION, description="The latest when left out.")


class UploadQuery(BaseModel):
    """The parts of a signed upload address."""

    model_config = ConfigDict(extra="forbid")

    expires: str
    signature: str


# What goes out


class ErrorOut(Answer):
    """Every error."""

    error: str = Field(description="A sentence for a person.")
    code: str = Field(description="A word for a program.")


class OrganizationOut(Answer):
    """An organization and the caller's role in it."""

    id: str
    name: str
    display_name: str
    role: RoleName
    created_at: datetime
    updated_at: datetime


class MemberOut(Answer):
    """A member of an organization."""

    id: str
    email: str
    name: str
    role: RoleName
    created_at: datetime


class InvitationOut(Answer):
    """An invitation that is open."""

    id: str
    email: str
    role: RoleName
    actor: str | None
    created_at: datetime
    expires_at: datetime


class NewInvitationOut(InvitationOut):
    """An invitation that was just made."""

    url: str = Field(description="To be handed to whom is invited; shown this once.")
    mailed: bool = Field(description="Whether it was mailed to them as well.")


class SessionOut(Answer):
    """A browser that the caller is signed in with."""

    id: str
    browser: str = Field(description="What it calls itself.")
    created_at: datetime
    seen_at: datetime = Field(description="When it was used last, to within some minutes.")
    present: bool = Field(description="Whether it is the one that asks.")


class IdentityOut(Answer):
    """A provider at which the caller signs in."""

    id: str
    name: str | None = Field(description="What people call it; null if it is not set up any more.")
    issuer: str = Field(description="Its address.")
    created_at: datetime = Field(description="When the caller came from there first.")


class ErasureOut(Answer):
    """A device or an organization that is being erased."""

    id: str
    kind: Literal["device", "organization"]
    asked_at: datetime
    finished_at: datetime | None = Field(description="When ClickHouse had nothing left of it; null until then.")


class EdgeOut(Answer):
    """An edge: one process that serves devices."""

    name: str = Field(description="Its host, and its name there.")
    version: str
    started_at: datetime = Field(description="By its own clock.")
    seen_at: datetime = Field(description="When it reported last; it does each 10 seconds.")
    silent: bool = Field(description="Whether it should have reported again: it was killed, or cannot reach Redis.")
    environments: int = Field(description="Environment keys that it serves.")


class TokenOut(Answer):
    """A token, as lists show it."""

    id: str
    name: str
    hint: str = Field(description="The token's beginning.")
    organization: str | None = Field(description="The name of the only one that it opens; null for all.")
    role: RoleName | None = Field(description="The highest that it has anywhere; null for the person's own.")
    expires_at: datetime | None = Field(description="When it ends; null for never.")
    created_at: datetime
    last_used_at: datetime | None


class NewTokenOut(TokenOut):
    """A token that was just made."""

    token: str = Field(description="Shown this once.")


class ModelOut(Answer):
    """A model."""

    id: str
    name: str
    latest_version: int | None
    created_at: datetime
    updated_at: datetime


class ApplicationOut(Answer):
    """An application; `models` only when it was asked for."""

    id: str
    name: str
    bundle_id: str
    platform: str
    created_at: datetime
    updated_at: datetime
    models: list[ModelOut] | None = None


class KeyOut(Answer):
    """A key of an environment, which apps ship."""

    id: str
    key: str
    created_at: datetime
    expires_at: datetime | None = Field(description="None while it is valid without end.")


class EnvironmentOut(Answer):
    """An environment."""

    id: str
    name: str
    key: str | None = Field(description="The newest valid key.")
    keys: list[KeyOut] = Field(description="All valid keys, newest first.")
    revision: int = Field(description="Of its manifest.")
    root: int = Field(description="The number of its newest TUF root.")
    created_at: datetime
    updated_at: datetime


class LastPushOut(Answer):
    """The last push that a device was sent to."""

    push_id: str
    outcome: PushOutcome
    reason: str | None = Field(description="The service's word for it.")
    sent_at: datetime


class DeviceOut(Answer):
    """A device that registered itself."""

    device_id: str
    facts: dict[str, Any]
    push_service: str | None
    last_push: LastPushOut | None = Field(description="Null when none was sent to it.")
    registered_at: datetime
    updated_at: datetime


class UploadOut(Answer):
    """Where to send the bytes of a version."""

    presigned_url: str = Field(description="PUT the file's bytes here; it expires.")
    filepath: str = Field(description="To be sent back when the bytes are there.")
    model_version_id: str


class FileOut(Answer):
    """A file of a version."""

    name: str
    length: int
    sha256: str


def _known_dimensions(shape: object) -> object:
    """Return a stored shape with null for what is no dimension: one odd row must not break the list that shows it."""
    return [part if type(part) in (int, str) else None for part in shape] if isinstance(shape, list | tuple) else []


class TensorOut(Answer):
    """An input or an output of a model."""

    name: str
    type: str
    shape: Annotated[list[int | str | None], BeforeValidator(_known_dimensions)]


class PatchCountsOut(Answer):
    """What became of the patches that lead to a version from others of its model."""

    built: int = 0
    waiting: int = Field(default=0, description="Pending or being made.")
    failed: int = 0
    skipped: dict[str, int] = Field(default_factory=dict, description="How many, by the `code` that says why.")


class ModelVersionOut(Answer):
    """A version. `version` is null until its upload has finished."""

    id: str
    version: int | None
    name: str = Field(description="The uploaded file's name, or the one that the version was given since.")
    model: str = Field(description="The model's name.")
    filename: str
    description: str | None
    state: str
    format: str | None
    interface: str | None = Field(description="Equal for versions with the same inputs and outputs.")
    upload_length: int | None
    upload_sha256: str | None
    artifact_length: int | None
    artifact_sha256: str | None
    files: list[FileOut]
    inputs: list[TensorOut]
    outputs: list[TensorOut]
    patches: PatchCountsOut
    created_at: datetime
    updated_at: datetime


class OfferOut(Answer):
    """A version that an environment offers, with its rule."""

    version: int
    percent: float
    conditions: dict[str, Any]


class OfferedPatchOut(Answer):
    """A patch to a version that an environment offers, as it stands there."""

    from_version: int | None
    state: PatchState
    code: str | None = Field(description=PATCH_CODES)
    reason: str | None
    encoding: str | None = Field(description="Of the smallest that is made.")
    length: int | None = Field(description="Its bytes.")
    devices: int | None = Field(description="Active ones that hold `from_version`; null when they were not counted.")
    share: float | None = Field(description="Of the environment's active devices, from 0 to 1.")


class OfferedOut(OfferOut):
    """A version that an environment offers now, with the patches to it."""

    full_length: int | None = Field(description="Bytes of the smallest encoding that needs no patch.")
    patches: list[OfferedPatchOut] = Field(description="The most wanted first, those that are not made among them.")


class EnvironmentGroupOut(Answer):
    """An environment as a model sees it: what it offers there, the first that fits a device first."""

    id: str
    name: str
    key: str | None
    releases: list[OfferedOut]
    device_count: int | None
    created_at: datetime
    updated_at: datetime


class PushStatusOut(Answer):
    """What became of a deployment's wish to wake devices up."""

    status: Literal["not_requested", "not_configured"] | PushState
    push_id: str | None = Field(description="Of the push that it began.")


class PushCredentialOut(Answer):
    """What an environment can push with; the secret itself is never shown."""

    service: str
    kind: PushCredentialKind
    facts: dict[str, Any] = Field(description="Key id and team id, topics and servers, or project and client e-mail.")
    expires_at: datetime | None
    expires_soon: bool = Field(description="Within 30 days.")
    actor: str | None
    created_at: datetime


class PushedDeviceOut(Answer):
    """A device that a push was sent to."""

    device_id: str
    outcome: PushOutcome
    reason: str | None = Field(description="The service's word for it.")
    sent_at: datetime


class PushStepsOut(Answer):
    """How many devices came at least so far."""

    checked: int = Field(description="That an edge heard of about the model.")
    downloaded: int = Field(description="That downloaded, verified or activated the version.")
    activated: int = Field(description="That activated the version.")


class PushEffectOut(Answer):
    """What the devices did that a push was accepted for, by the moments at which edges received it."""

    devices: int = Field(description="That it was accepted for so far.")
    counted: int = Field(
        description="Those of them that the figures are about: all, or an even sample of about 100,000."
    )
    margin: float = Field(
        description="By how much a share of `counted` may be off as one of `devices`, 19 times in 20; 0 for all."
    )
    after: PushStepsOut = Field(description="Within an hour after each device was sent to.")
    before: PushStepsOut = Field(description="Within the hour before, for comparison.")
    complete: bool = Field(description="Whether the hour of every device was over when this was asked for.")
    until: datetime | None = Field(
        description="When the last device's hour ends; null while more may be sent, and when none was sent to."
    )
    asked_at: datetime


class PushJobOut(Answer):
    """A push to the devices of an environment."""

    id: str
    environment: str
    version: int
    deployment_id: str | None = Field(description="The deployment that asked for it.")
    apple_sandbox: bool = Field(description="Whether through Apple's development server.")
    state: PushState
    reason: str | None = Field(description="Why it failed, or why it waits.")
    resume_at: datetime | None = Field(description="Until when it waits.")
    targeted: int = Field(description="Devices that it came to so far: the sum of those below.")
    accepted: int
    gone: int = Field(description="Whose token is no longer valid.")
    refused: int
    unknown: int = Field(description="That got no answer.")
    spared: int = Field(description="That were woken a short while ago.")
    reasons: dict[str, int] = Field(description="How many were answered with each of the services' reasons.")
    actor: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    seconds: float | None = Field(description="From the first device to the last.")
    devices_kept: bool = Field(
        description="Whether what became of each device is kept: of an environment's last 20 pushes, as long as events."
    )
    effect: PushEffectOut | None = Field(description="As it was last asked for; null when it was not yet.")


class DeploymentOut(Answer):
    """One deploy or roll-back."""

    id: str
    number: int = Field(description="Counts the deployments of this model in this environment.")
    kind: Literal["deploy", "rollback"]
    environment: str
    version: int
    percent: float
    conditions: dict[str, Any]
    push: PushStatusOut
    offers: list[OfferOut] = Field(description="What the environment offered after it.")
    restores: int | None = Field(description="The number of the newest deploy that a roll-back left in effect.")
    revision: int = Field(description="Of the manifest that it made.")
    actor: str | None
    created_at: datetime


class DeployedOut(Answer):
    """A deployment that was made."""

    success: str = Field(description="Ends with the version's number.")
    deployment: DeploymentOut


class PatchPlaceOut(Answer):
    """What an environment wants of a patch."""

    environment: str
    wanted: bool
    code: str | None = Field(description="Why not.")
    devices: int | None = Field(description="Active ones that hold `from_version`; null when they were not counted.")
    share: float | None = Field(description="Of the environment's active devices, from 0 to 1.")


class PatchOut(Answer):
    """A patch that came into question, from one version to another."""

    id: str
    from_version: int | None
    to_version: int | None
    state: PatchState
    code: str | None = Field(description=PATCH_CODES)
    reason: str | None = Field(description="The same for people, or what keeps failing.")
    encoding: str | None = Field(description="Of the smallest that is made.")
    length: int | None = Field(description="Its bytes; of one that found no room, what it would take.")
    full_length: int | None = Field(description="Of the smallest full encoding of the version it leads to.")
    environments: list[PatchPlaceOut] = Field(description="Where it came into question lately, by name.")
    created_at: datetime
    updated_at: datetime


class AuditOut(Answer):
    """Who did what."""

    id: int
    actor: str
    client: str | None = Field(description="The address it came from, of IPv6 the network; null for the system's own.")
    via: str | None = Field(description="`browser`, or `token` and the token's name.")
    action: str
    target: str
    detail: dict[str, Any]
    created_at: datetime


class VersionShareOut(Answer):
    """A version among the active devices."""

    version: int | None = Field(description="Null for devices that hold no version.")
    devices: int
    share: float = Field(description="Of the active devices, 0 to 1.")


class DayAdoptionOut(Answer):
    """A day with at least one active device."""

    day: date
    active_devices: int
    versions: list[VersionShareOut]


class FailureOut(Answer):
    """How often a version failed with an error, and on how many devices."""

    version: int | None
    error: str
    count: int
    devices: int


class AdoptionOut(Answer):
    """How a model's versions are adopted in an environment. Days are of UTC."""

    model: str
    environment: str
    first_day: date
    last_day: date
    by_day: list[DayAdoptionOut]
    now: list[VersionShareOut] = Field(description="Of the devices that were active in these days.")
    installations: int = Field(description="Devices that ever activated a version.")
    failures: list[FailureOut] = Field(description="The most frequent first.")
    failures_total: int


class SqlAnswer(Answer):
    """The rows of a read-only question."""

    rows: list[dict[str, Any]]
    truncated: bool = Field(description="Whether there were more rows than are shown.")


class MembershipOut(Answer):
    """An organization by name, and the caller's role in it."""

    name: str
    role: RoleName


class MeOut(Answer):
    """Who the caller is."""

    email: str
    organizations: list[MembershipOut]
