"""The database's tables: the truth of which Redis, the edges and the dashboard show a part.

Ids are random 32-digit hexadecimal strings, so that they can be made before a row is written and tell nothing. Names
are unique within their parent. Times are UTC. Deleting a parent deletes what it holds; the audit log is kept.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

ID_LENGTH = 32
NAME_LENGTH = 100
SHA256_LENGTH = 64
VIA_LENGTH = len("token ") + NAME_LENGTH


def new_id() -> str:
    """Return a fresh id: 32 lower-case hexadecimal digits (a version-4 UUID without dashes)."""
    return uuid.uuid4().hex


def utc_now() -> datetime:
    """Return the present moment in UTC."""
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC. SQLite forgets time zones, so they are put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        """Return the stored moment with UTC as its zone."""
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


# SQLite numbers only INTEGER primary keys by itself.
SerialInteger = BigInteger().with_variant(Integer(), "sqlite")


class Base(DeclarativeBase):
    """Declarative base of every table."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: UtcDateTime, dict[str, Any]: JSON, list[Any]: JSON}


class User(Base):
    """A person who may act: member of organizations, holder of API tokens."""

    __tablename__ = "users"

    id: Mapped[str] = mapped_column(String(ID_LENGTH), primary_key=True, default=new_id)
    email: Mapped[str] = mapped_column(String(254), unique=True)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH), default="")
    password_hash: Mapped[str | None] = mapped_column(String(255), default=None)  # Argon2id; None: none was set yet
    # Whether it was made by an invitation, and nobody has shown since that they read mail at the address.
    unproven: Mapped[bool] = mapped_column(Boolean, default=False)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class WebSession(Base):
    """A browser that somebody is signed in with. Of what its cookie holds, the SHA-256 is kept."""

    __tablename__ = "web_sessions"

    id: Mapped[str] = mapped_column(String(ID_LENGTH), primary_key=True, default=new_id)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    token_hash: Mapped[str] = mapped_column(String(SHA256_LENGTH), unique=True)
    browser: Mapped[str] = mapped_column(String(200))  # what it calls itself
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    seen_at: Mapped[datetime] = mapped_column(default=utc_now)
    expires_at: Mapped[datetime] = mapped_column(index=True)
    # What its next page has to say: that something was done, or why it was not.
    notice: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    # The call that takes back what was done last, for as long as it is offered (`control_plane.dashboard.undoing`).
    undo: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    # Whether the password was right and the second factor is still to be given: nobody is signed in with it yet.
    awaits_code: Mapped[bool] = mapped_column(Boolean, default=False)


class SecondFactor(Base):
    """What a user's app makes its codes of, sealed (`control_plane.sealing`)."""

    __tablename__ = "second_factors"

    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    sealed: Mapped[bytes] = mapped_column(LargeBinary)
    confirmed_at: Mapped[datetime | None] = mapped_column(default=None)  # None: no code of it was given yet
    last_step: Mapped[int] = mapped_column(BigInteger, default=0)  # of the last code that was used


class RecoveryCode(Base):
    """A code that stands in for the app once. Its SHA-256 is kept."""

    __tablename__ = "recovery_codes"

    code_hash: Mapped[str] = mapped_column(String(SHA256_LENGTH), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)


class Identity(Base):
    """What a provider of OpenID Connect calls a user."""

    __tablename__ = "identities"

    issuer: Mapped[str] = mapped_column(String(255), primary_key=True)
    subject: Mapped[str] = mapped_column(String(255), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class OneTimeLink(Base):
    """A link that signs in once: the first owner, somebody invited, or somebody who forgot the password."""

    __tablename__ = "one_time_links"

    id: Mapped[str] = mapped_column(String(ID_LENGTH), primary_key=True, default=new_id)
    token_hash: Mapped[str] = mapped_column(String(SHA256_LENGTH), unique=True)
    purpose: Mapped[str] = mapped_column(String(16))  # "sign-in", "reset", "invitation", "sign-up"
    email: Mapped[str] = mapped_column(String(254), index=True)
    organization_id: Mapped[str | None] = mapped_column(
        ForeignKey("organizations.id", ondelete="CASCADE"), index=True, default=None
    )
    role: Mapped[str | None] = mapped_column(String(16), default=None)
    actor_id: Mapped[str | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"), default=None)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    expires_at: Mapped[datetime] = mapped_column(index=True)


class SignInFailure(Base):
    """How often a wrong password was given for an account, or from an address, of late. Both are kept as SHA-256."""

    __tablename__ = "sign_in_failures"

    subject_hash: Mapped[str] = mapped_column(String(SHA256_LENGTH), primary_key=True)
    failures: Mapped[int] = mapped_column(Integer)
    last_at: Mapped[datetime] = mapped_column(index=True)


class Organization(Base):
    """Who builds with Skafos: an individual or a team."""

    __tablename__ = "organizations"

    id: Mapped[str] = mapped_column(String(ID_LENGTH), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH), unique=True)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now, onupdate=utc_now)


class Member(Base):
    """A user's role in an organization: owner, developer or viewer."""

    __tablename__ = "members"

    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    role: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class ApiToken(Base):
    """A user's API token. Only its SHA-256 is kept: the token has 256 random bits, so a slow hash adds nothing."""

    __tablename__ = "api_tokens"

    id: Mapped[str] = mapped_column(String(ID_LENGTH), primary_key=True, default=new_id)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH))
    token_hash: Mapped[str] = mapped_column(String(SHA256_LENGTH), unique=True)
    hint: Mapped[str] = mapped_column(String(8))
    # What it may do at most; nothing bounds a token of which all three are None but its person's roles.
    organization_id: Mapped[str | None] = mapped_column(
        ForeignKey("organizations.id", ondelete="CASCADE"), index=True, default=None
    )
    role: Mapped[str | None] = mapped_column(String(16), default=None)
    expires_at: Mapped[datetime | None] = mapped_column(default=None)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    last_used_at: Mapped[datetime | None] = mapped_column(default=None)
    revoked_at: Mapped[datetime | None] = mapped_column(default=None)


class Application(Base):
    """A mobile app, one per bundle ID."""

    __tablename__ = "applications"
    __table_args__ = (
        UniqueConstraint("organization_id", "name"),
        UniqueConstraint("organization_id", "bundle_id"),
    )

    id: Mapped[str] = mapped_column(String(ID_LENGTH), primary_key=True, default=new_id)
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(NAME_LENGTH))
    bundle_id: Mapped[str] = mapped_column(String(155))
    platform: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now, onupdate=utc_now)


class Environment(Base):
    """A place that versions are deployed to: `dev`, `prod`, or one that was added. One TUF repository each."""

    __tablename__ = "environments"
    __table_args__ = (UniqueConstraint("application_id", "name"),)

    id: Mapped[str] = mapped_column(String(ID_LENGTH), primary_key=True, default=new_id)
    application_id: Mapped[str] = mapped_column(ForeignKey("applications.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(32))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now, onupdate=utc_now)


class EnvironmentKey(Base):
    """A self-certifying key that apps ship. Several may be valid at once while one replaces another."""

    __tablename__ = "environment_keys"

    id: Mapped[str] = mapped_column(String(ID_LENGTH), primary_key=True, default=new_id)
    environment_id: Mapped[str] = mapped_column(ForeignKey("environments.id", ondelete="CASCADE"), index=True)
    key: Mapped[str] = mapped_column(String(128), unique=True)
    first_root: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    expires_at: Mapped[datetime | None] = mapped_column(default=None)
    revoked_at: Mapped[datetime | None] = mapped_column(default=None)
    # Set once the edges have been told that the key is no longer valid.
    withdrawn_at: Mapped[datetime | None] = mapped_column(default=None)


class WithdrawnKey(Base):
    """A key of an environment that was deleted, kept for as long as edges may have to be told again."""

    __tablename__ = "withdrawn_keys"

    key: Mapped[str] = mapped_column(String(128), primary_key=True)
    revision: Mapped[int] = mapped_column(BigInteger)
    withdrawn_at: Mapped[datetime] = mapped_column(default=utc_now)


class Root(Base):
    """One signed version of an environment's TUF root metadata. Never changed, never deleted."""

    __tablename__ = "roots"

    environment_id: Mapped[str] = mapped_column(ForeignKey("environments.id", ondelete="CASCADE"), primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True)
    metadata_bytes: Mapped[bytes] = mapped_column(LargeBinary)
    expires_at: Mapped[datetime]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Manifest(Base):
    """What an environment offers now, signed. `revision` is the TUF timestamp's version."""

    __tablename__ = "manifests"

    environment_id: Mapped[str] = mapped_column(ForeignKey("environments.id", ondelete="CASCADE"), primary_key=True)
    revision: Mapped[int] = mapped_column(BigInteger)
    root: Mapped[int] = mapped_column(Integer)
    timestamp_bytes: Mapped[bytes] = mapped_column(LargeBinary)
    snapshot_bytes: Mapped[bytes] = mapped_column(LargeBinary)
    targets_bytes: Mapped[bytes] = mapped_column(LargeBinary)
    # When the metadata is signed anew, before any of it expires; spread at random, so that not all fall due at once.
    resign_at: Mapped[datetime] = mapped_column(index=True)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now, onupdate=utc_now)


class Model(Base):
    """A component of an application that a machine-learning artifact powers."""

    __tablename__ = "models"
    __table_args__ = (UniqueConstraint("application_id", "name"),)

    id: Mapped[str] = mapped_column(String(ID_LENGTH), primary_key=True, default=new_id)
    application_id: Mapped[str] = mapped_column(ForeignKey("applications.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(NAME_LENGTH))
    # Numbers are never used twice under one name, not even after the version, or the model that had it, was deleted.
    last_version: Mapped[int] = mapped_column(Integer, default=0)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now, onupdate=utc_now)


class ModelName(Base):
    """A name that a model has or had, kept when the model is deleted: devices know versions by name and number.

    Numbers `first_version` to `last_version` under the name are the model's; `last_version` is None while it bears it.
    """

    __tablename__ = "model_names"

    id: Mapped[str] = mapped_column(String(ID_LENGTH), primary_key=True, default=new_id)
    application_id: Mapped[str] = mapped_column(ForeignKey("applications.id", ondelete="CASCADE"), index=True)
    model_id: Mapped[str] = mapped_column(String(ID_LENGTH), index=True)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH))
    first_version: Mapped[int] = mapped_column(Integer)
    last_version: Mapped[int | None] = mapped_column(Integer, default=None)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class ModelVersion(Base):
    """An immutable version of a model. It has a number once its upload has finished."""

    __tablename__ = "model_versions"
    __table_args__ = (UniqueConstraint("model_id", "version"),)

    id: Mapped[str] = mapped_column(String(ID_LENGTH), primary_key=True, default=new_id)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    version: Mapped[int | None] = mapped_column(Integer, default=None)
    state: Mapped[str] = mapped_column(String(16), default="uploading")  # uploading, ready
    filename: Mapped[str] = mapped_column(String(255))
    description: Mapped[str | None] = mapped_column(String(255), default=None)
    filepath: Mapped[str] = mapped_column(String(255))
    upload_sha256: Mapped[str | None] = mapped_column(String(SHA256_LENGTH), default=None)
    upload_length: Mapped[int | None] = mapped_column(BigInteger, default=None)
    artifact_sha256: Mapped[str | None] = mapped_column(String(SHA256_LENGTH), default=None, index=True)
    artifact_length: Mapped[int | None] = mapped_column(BigInteger, default=None)
    format: Mapped[str | None] = mapped_column(String(32), default=None)
    interface: Mapped[str | None] = mapped_column(String(SHA256_LENGTH), default=None)
    files: Mapped[list[Any]] = mapped_column(default=list)  # {name, length, sha256}
    inputs: Mapped[list[Any]] = mapped_column(default=list)  # {name, type, shape}
    outputs: Mapped[list[Any]] = mapped_column(default=list)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now, onupdate=utc_now)


class ArtifactEncoding(Base):
    """A blob from which a device can make an artifact: whole, compressed, or as a patch of another artifact."""

    __tablename__ = "artifact_encodings"
    __table_args__ = (UniqueConstraint("artifact_sha256", "name", "base_sha256"),)

    id: Mapped[str] = mapped_column(String(ID_LENGTH), primary_key=True, default=new_id)
    artifact_sha256: Mapped[str] = mapped_column(String(SHA256_LENGTH), index=True)
    name: Mapped[str] = mapped_column(String(32))  # identity, zstd, or the name of an encoding of patches
    blob_sha256: Mapped[str] = mapped_column(String(SHA256_LENGTH))
    length: Mapped[int] = mapped_column(BigInteger)
    # "" for an encoding that needs no base: NULLs would not be unique.
    base_sha256: Mapped[str] = mapped_column(String(SHA256_LENGTH), default="")
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class PatchJob(Base):
    """A patch that came into question: from which version to which, how it went, and why it is not there if it is not.

    Whether it is wanted, and by which environment, is in `PatchWish`.
    """

    __tablename__ = "patch_jobs"
    __table_args__ = (UniqueConstraint("base_sha256", "target_sha256"),)

    id: Mapped[str] = mapped_column(String(ID_LENGTH), primary_key=True, default=new_id)
    base_sha256: Mapped[str] = mapped_column(String(SHA256_LENGTH))
    target_sha256: Mapped[str] = mapped_column(String(SHA256_LENGTH), index=True)
    state: Mapped[str] = mapped_column(String(16), default="pending", index=True)  # … running, built, skipped, failed
    # Why it was skipped, in a word (`artifacts.patch.build.SkipReason`, `control_plane.patch_wishes.Unwanted`), and for
    # people.
    code: Mapped[str | None] = mapped_column(String(32), default=None)
    reason: Mapped[str | None] = mapped_column(String(255), default=None)
    length: Mapped[int | None] = mapped_column(BigInteger, default=None)
    # The encodings whose outcome is known: a pair is tried again when there is a new one.
    tried: Mapped[list[Any]] = mapped_column(default=list)
    # How often it was begun and failed by its own fault, the one under way included.
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    # How often it failed by whatever cause: the pause until `retry_at` grows with it.
    failures: Mapped[int] = mapped_column(Integer, default=0)
    retry_at: Mapped[datetime | None] = mapped_column(default=None)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now, onupdate=utc_now)


class PatchWish(Base):
    """A patch that an environment lists once it is made, or why it does not want it (any more)."""

    __tablename__ = "patch_wishes"
    __table_args__ = (Index("patch_wishes_by_pair", "target_sha256", "base_sha256"),)

    environment_id: Mapped[str] = mapped_column(ForeignKey("environments.id", ondelete="CASCADE"), primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), primary_key=True, index=True)
    target_sha256: Mapped[str] = mapped_column(String(SHA256_LENGTH), primary_key=True)
    base_sha256: Mapped[str] = mapped_column(String(SHA256_LENGTH), primary_key=True)
    # Its place among those to the same target, the most wanted first.
    rank: Mapped[int] = mapped_column(Integer)
    # Active devices that hold the base, and their share of all active ones; None when that was not known.
    devices: Mapped[int | None] = mapped_column(BigInteger, default=None)
    share: Mapped[float | None] = mapped_column(default=None)
    # None when it is wanted, else `control_plane.patch_wishes.Unwanted`.
    unwanted: Mapped[str | None] = mapped_column(String(32), default=None)
    # Since when it is wanted, or not for this reason.
    since: Mapped[datetime] = mapped_column(default=utc_now)


class PatchPlan(Base):
    """What was last heard of the devices of a model in an environment, and when its patches are looked at again."""

    __tablename__ = "patch_plans"

    environment_id: Mapped[str] = mapped_column(ForeignKey("environments.id", ondelete="CASCADE"), primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), primary_key=True, index=True)
    look_at: Mapped[datetime] = mapped_column(index=True)
    deployed_at: Mapped[datetime | None] = mapped_column(default=None)
    # The last answer of telemetry: when it was asked, how many devices are active, and how many hold which version.
    asked_at: Mapped[datetime | None] = mapped_column(default=None)
    active_devices: Mapped[int] = mapped_column(BigInteger, default=0)
    held: Mapped[list[Any]] = mapped_column(default=list)  # [version, devices]


class Release(Base):
    """A version offered in an environment now, with its rules. `position` 0 is asked first."""

    __tablename__ = "releases"
    __table_args__ = (UniqueConstraint("environment_id", "model_version_id"),)

    id: Mapped[str] = mapped_column(String(ID_LENGTH), primary_key=True, default=new_id)
    environment_id: Mapped[str] = mapped_column(ForeignKey("environments.id", ondelete="CASCADE"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), index=True)
    model_version_id: Mapped[str] = mapped_column(ForeignKey("model_versions.id"), index=True)
    position: Mapped[int] = mapped_column(Integer)
    buckets: Mapped[int] = mapped_column(Integer)  # of 10,000
    conditions: Mapped[dict[str, Any]] = mapped_column(default=dict)


class Deployment(Base):
    """One deploy or roll-back, for ever. `offers` is the list of releases that it left, newest first."""

    __tablename__ = "deployments"
    __table_args__ = (Index("deployments_by_model", "environment_id", "model_id", "number"),)

    id: Mapped[str] = mapped_column(String(ID_LENGTH), primary_key=True, default=new_id)
    environment_id: Mapped[str] = mapped_column(ForeignKey("environments.id", ondelete="CASCADE"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    # Counts the deployments of one model in one environment: 1, 2, 3…
    number: Mapped[int] = mapped_column(Integer)
    kind: Mapped[str] = mapped_column(String(16))  # deploy, rollback
    version: Mapped[int] = mapped_column(Integer)
    percent: Mapped[float] = mapped_column()
    conditions: Mapped[dict[str, Any]] = mapped_column(default=dict)
    push: Mapped[bool] = mapped_column(Boolean, default=False)
    offers: Mapped[list[Any]] = mapped_column(default=list)  # {version, interface, buckets, conditions}
    # The number of the newest deploy that a roll-back left standing.
    restores: Mapped[int | None] = mapped_column(Integer, default=None)
    revision: Mapped[int] = mapped_column(BigInteger)
    actor_id: Mapped[str | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Device(Base):
    """An installation that registered itself, with the facts it told and its push token."""

    __tablename__ = "devices"

    environment_id: Mapped[str] = mapped_column(ForeignKey("environments.id", ondelete="CASCADE"), primary_key=True)
    device_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    facts: Mapped[dict[str, Any]] = mapped_column(default=dict)
    push_token: Mapped[str | None] = mapped_column(String(512), default=None)
    push_service: Mapped[str | None] = mapped_column(String(16), default=None)
    registered_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)
    # Set when a push service said that the token is no longer valid, and the token was taken away.
    push_retired_at: Mapped[datetime | None] = mapped_column(default=None)


class PushCredential(Base):
    """What an environment has been given by Apple or Google to push with. One for each service."""

    __tablename__ = "push_credentials"

    environment_id: Mapped[str] = mapped_column(ForeignKey("environments.id", ondelete="CASCADE"), primary_key=True)
    service: Mapped[str] = mapped_column(String(16), primary_key=True)  # apns, fcm
    kind: Mapped[str] = mapped_column(String(16))  # key, certificate, account
    # The secret itself (`control_plane.sealing`), and what may be shown of it: ids, topics.
    sealed: Mapped[bytes] = mapped_column(LargeBinary)
    facts: Mapped[dict[str, Any]] = mapped_column(default=dict)
    expires_at: Mapped[datetime | None] = mapped_column(default=None)
    actor_id: Mapped[str | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class PushJob(Base):
    """One push to the devices of an environment, kept as its history."""

    __tablename__ = "push_jobs"
    __table_args__ = (Index("push_jobs_by_environment", "environment_id", "created_at"),)

    id: Mapped[str] = mapped_column(String(ID_LENGTH), primary_key=True, default=new_id)
    environment_id: Mapped[str] = mapped_column(ForeignKey("environments.id", ondelete="CASCADE"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), index=True)
    version: Mapped[int] = mapped_column(Integer)
    deployment_id: Mapped[str | None] = mapped_column(ForeignKey("deployments.id", ondelete="SET NULL"))
    sandbox: Mapped[bool] = mapped_column(Boolean)  # Apple's development server
    # pending, running, paused, finished, cancelled, failed
    state: Mapped[str] = mapped_column(String(16), index=True)
    reason: Mapped[str | None] = mapped_column(String(255), default=None)
    # Devices up to this one, in the order of their ids, are in slices; None when all are.
    position: Mapped[str | None] = mapped_column(String(64), default="")
    resume_at: Mapped[datetime | None] = mapped_column(default=None)
    targeted: Mapped[int] = mapped_column(Integer, default=0)
    accepted: Mapped[int] = mapped_column(Integer, default=0)
    gone: Mapped[int] = mapped_column(Integer, default=0)
    refused: Mapped[int] = mapped_column(Integer, default=0)
    unknown: Mapped[int] = mapped_column(Integer, default=0)
    # Not sent to, because the device was woken a short while ago.
    spared: Mapped[int] = mapped_column(Integer, default=0)
    reasons: Mapped[dict[str, Any]] = mapped_column(default=dict)  # how many were answered with each
    actor_id: Mapped[str | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    claimed_at: Mapped[datetime | None] = mapped_column(default=None)  # the last time that a worker took a slice
    started_at: Mapped[datetime | None] = mapped_column(default=None)
    finished_at: Mapped[datetime | None] = mapped_column(default=None)
    # Set when what became of each device (`PushLog`) is not kept any more.
    log_forgotten_at: Mapped[datetime | None] = mapped_column(default=None)


class PushSlice(Base):
    """A part of a job's devices that one worker sends to. Deleted when it is done."""

    __tablename__ = "push_slices"

    job_id: Mapped[str] = mapped_column(ForeignKey("push_jobs.id", ondelete="CASCADE"), primary_key=True)
    # Devices behind the first id, up to the last one.
    after: Mapped[str] = mapped_column(String(64), primary_key=True)
    last: Mapped[str] = mapped_column(String(64))
    worker: Mapped[str | None] = mapped_column(String(64), default=None)
    alive_at: Mapped[datetime] = mapped_column(default=utc_now)


class DevicePush(Base):
    """The last push to a device, and what became of it."""

    __tablename__ = "device_pushes"

    environment_id: Mapped[str] = mapped_column(String(ID_LENGTH), primary_key=True)
    device_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("push_jobs.id", ondelete="CASCADE"), index=True)
    outcome: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(String(64), default="")
    sent_at: Mapped[datetime] = mapped_column(default=utc_now)


class PushLog(Base):
    """What became of the devices of one slice of a push: a block of them, packed (`control_plane.push.log`)."""

    __tablename__ = "push_logs"

    job_id: Mapped[str] = mapped_column(ForeignKey("push_jobs.id", ondelete="CASCADE"), primary_key=True)
    # Devices behind the first id, up to the last one.
    after: Mapped[str] = mapped_column(String(64), primary_key=True)
    last: Mapped[str] = mapped_column(String(64))
    # How many devices have each outcome, so that blocks without one need not be unpacked.
    accepted: Mapped[int] = mapped_column(Integer)
    gone: Mapped[int] = mapped_column(Integer)
    refused: Mapped[int] = mapped_column(Integer)
    unknown: Mapped[int] = mapped_column(Integer)
    last_sent_at: Mapped[datetime] = mapped_column()
    packed: Mapped[bytes] = mapped_column(LargeBinary)


class PushEffect(Base):
    """What the devices did that a push was accepted for, as telemetry answered last (`control_plane.push.effect`)."""

    __tablename__ = "push_effects"

    job_id: Mapped[str] = mapped_column(ForeignKey("push_jobs.id", ondelete="CASCADE"), primary_key=True)
    # Accepted, and of them those that the figures are about.
    devices: Mapped[int] = mapped_column(Integer)
    counted: Mapped[int] = mapped_column(Integer)
    # Within the hour after they were sent to, and within the hour before.
    checked: Mapped[int] = mapped_column(Integer)
    downloaded: Mapped[int] = mapped_column(Integer)
    activated: Mapped[int] = mapped_column(Integer)
    checked_before: Mapped[int] = mapped_column(Integer)
    downloaded_before: Mapped[int] = mapped_column(Integer)
    activated_before: Mapped[int] = mapped_column(Integer)
    # When the last device's hour ends; None while more may be sent, and when none was sent to.
    until: Mapped[datetime | None] = mapped_column(default=None)
    asked_at: Mapped[datetime] = mapped_column()
    # None when the figures are final.
    ask_again_at: Mapped[datetime | None] = mapped_column(default=None, index=True)


class Erasure(Base):
    """A device or an organization that was erased. It outlives both, and keeps a hash of a device in the end."""

    __tablename__ = "erasures"

    id: Mapped[str] = mapped_column(String(ID_LENGTH), primary_key=True, default=new_id)
    organization_id: Mapped[str] = mapped_column(String(ID_LENGTH), index=True)
    # Empty for the whole organization, else `telemetry.erasure.device_subject`.
    subject: Mapped[str] = mapped_column(String(SHA256_LENGTH))
    # Needed to find the device's rows; gone once they were looked for a second time.
    device_id: Mapped[str | None] = mapped_column(String(64), default=None)
    asked_by: Mapped[str] = mapped_column(String(ID_LENGTH))
    asked_at: Mapped[datetime] = mapped_column(default=utc_now)
    finished_at: Mapped[datetime | None] = mapped_column(default=None)
    checked_at: Mapped[datetime | None] = mapped_column(default=None)


class AuditEntry(Base):
    """Who changed what, when, from where. Kept when the thing itself is deleted."""

    __tablename__ = "audit_log"

    id: Mapped[int] = mapped_column(SerialInteger, primary_key=True, autoincrement=True)
    organization_id: Mapped[str | None] = mapped_column(String(ID_LENGTH), index=True)
    actor_id: Mapped[str | None] = mapped_column(String(ID_LENGTH))
    actor: Mapped[str] = mapped_column(String(254))  # the e-mail address at the time
    client: Mapped[str | None] = mapped_column(String(64), default=None)  # the address, of IPv6 the network
    via: Mapped[str | None] = mapped_column(String(VIA_LENGTH), default=None)  # "browser", or "token" and its name
    action: Mapped[str] = mapped_column(String(64))  # "model.create", "version.deploy"
    target: Mapped[str] = mapped_column(String(512))  # "app/model/3"
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class OutboxRow(Base):
    """A manifest that Redis has yet to be told of, written in the transaction that made it. Deleted when done."""

    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(SerialInteger, primary_key=True, autoincrement=True)
    environment_id: Mapped[str] = mapped_column(String(ID_LENGTH), index=True)
    revision: Mapped[int] = mapped_column(BigInteger)
    # Keys that are no longer valid; their environment may be gone by the time Redis is told.
    withdrawn_keys: Mapped[list[Any]] = mapped_column(default=list)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
