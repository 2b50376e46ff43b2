"""The control plane's settings, read once from `SKAFOS_*` variables of the environment.

`docs/operations.md` has the table of them, which a test compares with this file.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from artifacts.archive import UploadLimits
from artifacts.patch.build import ENCODERS, PatchLimits
from control_plane.client_address import Network, parse_networks
from control_plane.mail import Mailer, parse_sender, parse_server
from control_plane.openid import OPENID_CALLBACK, OpenIdProvider, ProviderSettings, check_issuer
from control_plane.patch_policy import (
    BUILD_SECONDS,
    LOOK_SECONDS,
    MAX_PER_TARGET,
    MIN_DEVICE_SHARE,
    TOTAL_SHARE,
    PatchPolicy,
)
from control_plane.preparing import FULL_ENCODINGS
from control_plane.push.quiet_hours import QuietHours
from control_plane.push.servers import Servers
from control_plane.push.worker import PushPolicy
from manifests.model import MAX_ENCODINGS
from telemetry.cluster import check_name
from telemetry.retention import DEFAULT_KEEP_DAYS, MAX_KEEP_DAYS

_MIB = 1024 * 1024
_DATABASES = ("sqlite", "postgresql", "postgres")


def split_listen(text: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`; an IPv6 host stands in brackets, port 0 is any free one.

    Raises:
        ValueError: it is neither.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is not HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _absolute_sqlite(url: str) -> str:
    """Return a database's URL with SQLite's file made absolute: the working directory changes when ClickHouse runs."""
    scheme, separator, path = url.partition(":///")
    if separator and scheme.split("+")[0] == "sqlite" and path:
        return f"{scheme}:///{Path(path).absolute()}"
    return url


def _checked_encodings(text: str) -> str:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in ENCODERS:
            raise ValueError(f"{name!r} is not an encoding of patches; there is {', '.join(ENCODERS)}")
    return ",".join(dict.fromkeys(names))


def _read_by(parse: Callable[[str], object]) -> AfterValidator:
    """Return the check of a text that can be parsed; it stays a text."""

    def check(text: str) -> str:
        parse(text)
        return text

    return AfterValidator(check)


Listen = Annotated[str, _read_by(split_listen)]
# The embedded ClickHouse changes the working directory, so relative paths are made absolute while it is the user's.
Folder = Annotated[Path, AfterValidator(Path.absolute)]
DatabaseUrl = Annotated[str, AfterValidator(_absolute_sqlite)]
SmtpUrl = Annotated[str, _read_by(parse_server)]
Issuer = Annotated[str, AfterValidator(check_issuer)]
Sender = Annotated[str, _read_by(parse_sender)]
EncodingNames = Annotated[str, AfterValidator(_checked_encodings)]


class Settings(BaseSettings):
    """Where everything is and what the limits are."""

    model_config = SettingsConfigDict(env_prefix="SKAFOS_", frozen=True, extra="ignore")

    control_listen: Listen = Field(
        default="127.0.0.1:8800", description="Where the management API and the dashboard listen."
    )
    control_metrics_listen: Listen = Field(default="127.0.0.1:8810", description="Where health and metrics listen.")
    control_public_url: str | None = Field(
        default=None,
        description="The address that clients use, when a proxy stands in front. Upload addresses begin with it.",
    )
    control_trusted_proxies: Annotated[tuple[Network, ...], NoDecode] = Field(
        default=(), description="Networks of proxies, with commas between, whose `X-Forwarded-For` is believed."
    )
    edge_public_url: str | None = Field(
        default=None, description="The address at which devices reach the edges; the dashboard shows it in code."
    )
    data: Folder = Field(
        default=Path("skafos-data"),
        validate_default=True,
        description="The folder for whatever has no place of its own below.",
    )
    database_url: DatabaseUrl | None = Field(
        default=None, description="sqlite:///file or postgresql://…; by default SQLite in the data folder."
    )
    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0",
        description="redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://.",
    )
    objects_url: str | None = Field(
        default=None, description="file:///folder, s3://, gs:// or az://; by default a local folder."
    )
    keys_dir: Folder | None = Field(
        default=None, description="The folder of the signing keys; by default in the data folder."
    )
    signing_keys: Literal["file", "pool"] = Field(
        default="file", description="file: keys are made there. pool: keys of a KMS or an HSM are taken from its pool."
    )
    clickhouse_url: str | None = Field(
        default=None,
        description="clickhouse://user:password@host:9000/database; by default embedded, in the data folder.",
    )
    clickhouse_cluster: str | None = Field(
        default=None,
        description="The name of the cluster that the server is part of; by default it stands alone.",
    )
    events_keep_days: int = Field(
        default=DEFAULT_KEEP_DAYS, ge=1, le=MAX_KEEP_DAYS, description="How long events are kept in ClickHouse."
    )
    spool_dir: Folder | None = Field(
        default=None, description="A folder of event spools that this process ships to ClickHouse."
    )
    control_ready_file: Folder | None = Field(default=None, description="Written, as JSON, once everything answers.")
    control_max_body_bytes: int = Field(
        default=_MIB, ge=1024, description="Of a request's body; uploads have their own limit."
    )
    max_upload_bytes: int = Field(default=UploadLimits().max_upload_bytes, ge=1, description="Of one upload.")
    max_unpacked_bytes: int = Field(
        default=UploadLimits().max_unpacked_bytes, ge=1, description="Of all files of an upload together."
    )
    max_files: int = Field(default=UploadLimits().max_files, ge=1, description="Of one upload.")
    patch_memory_bytes: int = Field(
        default=1024 * _MIB, ge=64 * _MIB, description="What making one patch may take; larger pairs get no patch."
    )
    patch_seconds: int = Field(
        default=BUILD_SECONDS, ge=10, description="What making one patch in one encoding may take."
    )
    patch_workers: int = Field(default=1, ge=1, le=64, description="Patches that are made at once.")
    patch_encodings: EncodingNames = Field(
        default=",".join(ENCODERS),
        description="Encodings in which patches are made, the preferred one first.",
    )
    patch_offer: Literal["smallest", "each"] = Field(
        default="each",
        description="each: a patch in every encoding that is worth it, for devices and browsers that know only some. "
        "smallest: one patch for a pair of versions.",
    )
    patch_max_per_target: int = Field(
        default=MAX_PER_TARGET, ge=0, description="Patches that lead to one version and that an environment lists."
    )
    patch_total_share: float = Field(
        default=TOTAL_SHARE,
        gt=0,
        allow_inf_nan=False,
        description="Bytes of all wanted patches to one artifact, as a multiple of its full encoding.",
    )
    patch_min_device_share: float = Field(
        default=MIN_DEVICE_SHARE,
        ge=0,
        le=1,
        description="Of an environment's active devices; a version that fewer hold gets no patch.",
    )
    patch_look_seconds: int = Field(
        default=LOOK_SECONDS,
        ge=10,
        description="Between two looks at which versions devices hold, while a rollout is under way.",
    )
    push_per_second: float = Field(
        default=1_000, gt=0, allow_inf_nan=False, description="Devices that one control plane wakes in a second."
    )
    push_interval_seconds: int = Field(
        default=1_200, ge=0, description="No device is woken twice within it; Apple allows two or three an hour."
    )
    push_expires_seconds: int = Field(
        default=86_400, ge=0, description="After which a push that could not be delivered is dropped."
    )
    push_quiet_hours: str | None = Field(
        default=None, description="HH:MM-HH:MM, in which nobody is woken; a push goes on after it."
    )
    push_quiet_zone: str = Field(default="UTC", description="The time zone of the quiet hours, as Europe/Vienna.")
    push_apns_address: Listen | None = Field(
        default=None, description="HOST:PORT that stands in for Apple's servers, such as a relay."
    )
    push_fcm_address: Listen | None = Field(
        default=None,
        description="HOST:PORT that stands in for Google's messages and access tokens (Firebase Cloud Messaging).",
    )
    push_authorities_file: Folder | None = Field(
        default=None, description="PEM file of authorities that are trusted there beside the system's."
    )
    smtp_url: SmtpUrl | None = Field(
        default=None,
        description="smtp://user:password@host:587 (STARTTLS, but to this machine or with `?tls=off`) or smtps://…; "
        "by default no mails are sent.",
    )
    mail_from: Sender | None = Field(
        default=None, description="Whom mails come from: skafos@example.org, or Skafos <skafos@example.org>."
    )
    oidc_issuer: Issuer | None = Field(
        default=None,
        description="The provider of OpenID Connect where people may sign in, as https://accounts.example.org.",
    )
    oidc_client_id: str | None = Field(default=None, min_length=1, description="What it calls this Skafos.")
    oidc_client_secret: str | None = Field(default=None, min_length=1, description="How it knows this Skafos.")
    oidc_name: str = Field(default="OpenID Connect", min_length=1, max_length=60, description="What people call it.")
    oidc_sign_up: bool = Field(
        default=True, description="Whether whoever signs in there for the first time gets an account."
    )
    sign_up: Literal["closed", "open"] = Field(
        default="closed", description="open: whoever can read mail at an address may make an account."
    )
    sql_max_rows: int = Field(default=10_000, ge=1, le=1_000_000, description="Of an answer to a question in SQL.")
    sql_max_seconds: int = Field(default=30, ge=1, le=600, description="For a question in SQL.")

    @field_validator("control_trusted_proxies", mode="before")
    @classmethod
    def _are_networks(cls, value: object) -> object:
        return parse_networks(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        if self.database_url is not None and urlsplit(self.database_url).scheme.split("+")[0] not in _DATABASES:
            raise ValueError("SKAFOS_DATABASE_URL must begin with sqlite: or postgresql:")
        if self.control_public_url is not None and urlsplit(self.control_public_url).scheme not in ("http", "https"):
            raise ValueError("SKAFOS_CONTROL_PUBLIC_URL must begin with http:// or https://")
        if self.clickhouse_cluster is not None:
            if self.clickhouse_url is None:
                raise ValueError("SKAFOS_CLICKHOUSE_CLUSTER needs SKAFOS_CLICKHOUSE_URL, a server of the cluster")
            check_name(self.clickhouse_cluster)
        if self.max_unpacked_bytes < self.max_upload_bytes:
            raise ValueError("SKAFOS_MAX_UNPACKED_BYTES is less than SKAFOS_MAX_UPLOAD_BYTES")
        if (self.smtp_url is None) != (self.mail_from is None):
            raise ValueError("SKAFOS_SMTP_URL and SKAFOS_MAIL_FROM need each other")
        openid = (self.oidc_issuer, self.oidc_client_id, self.oidc_client_secret)
        if any(openid) and not all((*openid, self.control_public_url)):
            names = "SKAFOS_OIDC_ISSUER, SKAFOS_OIDC_CLIENT_ID and SKAFOS_OIDC_CLIENT_SECRET"
            raise ValueError(f"{names} need each other, and SKAFOS_CONTROL_PUBLIC_URL, where people come back to")
        if self.sign_up == "open" and self.smtp_url is None:
            raise ValueError("SKAFOS_SIGN_UP=open needs SKAFOS_SMTP_URL: an address has to be proven")
        if self.smtp_url is not None and self.control_public_url is None:
            # What a request says of its host is anybody's to choose, and would be where a stranger's mail leads.
            raise ValueError("SKAFOS_SMTP_URL needs SKAFOS_CONTROL_PUBLIC_URL, where the links in mails lead")
        self.push_policy  # noqa: B018 - quiet hours are read
        if self.patch_max_per_target * self.patch_policy.for_each_pair > MAX_ENCODINGS - FULL_ENCODINGS:
            raise ValueError("SKAFOS_PATCH_MAX_PER_TARGET patches in so many encodings are more than a manifest lists")
        return self

    @property
    def database(self) -> str:
        """The database's URL."""
        return self.database_url or f"sqlite:///{self.data / 'control_plane.sqlite3'}"

    @property
    def objects(self) -> str:
        """The object store's URL."""
        return self.objects_url or (self.data / "objects").as_uri()

    @property
    def keys(self) -> Path:
        """The folder of the signing keys."""
        return self.keys_dir or self.data / "keys"

    @property
    def staging_dir(self) -> Path:
        """The folder of uploads under way."""
        return self.data / "staging"

    @property
    def patch_dir(self) -> Path:
        """The folder of patches under way."""
        return self.data / "patches"

    @property
    def upload_secret_file(self) -> Path:
        """The file with the secret that signs upload addresses."""
        return self.data / "upload-secret"

    @property
    def master_keys_file(self) -> Path:
        """The file of the keys that push credentials are sealed with."""
        return self.data / "master-keys"

    @property
    def push_policy(self) -> PushPolicy:
        """How devices are woken."""
        quiet = self.push_quiet_hours and QuietHours.parse(self.push_quiet_hours, self.push_quiet_zone)
        return PushPolicy(
            per_second=self.push_per_second,
            interval=timedelta(seconds=self.push_interval_seconds),
            expires=timedelta(seconds=self.push_expires_seconds),
            quiet_hours=quiet or None,
        )

    @property
    def push_servers(self) -> Servers:
        """Where push services are."""
        apns = None if self.push_apns_address is None else split_listen(self.push_apns_address)
        fcm = None if self.push_fcm_address is None else split_listen(self.push_fcm_address)
        return Servers(apns, fcm, self.push_authorities_file)

    @property
    def clickhouse_dir(self) -> Path:
        """The folder of the embedded ClickHouse."""
        return self.data / "clickhouse"

    def mailer(self) -> Mailer:
        """Return what sends mails, if it is set up."""
        if self.smtp_url is None or self.mail_from is None:
            return Mailer()
        return Mailer(parse_server(self.smtp_url), parse_sender(self.mail_from))

    def openid_provider(self) -> OpenIdProvider | None:
        """Return what asks who somebody is elsewhere, if it is set up."""
        if self.oidc_issuer is None or self.oidc_client_id is None or self.oidc_client_secret is None:
            return None
        redirect = f"{(self.control_public_url or '').rstrip('/')}{OPENID_CALLBACK}"
        return OpenIdProvider(
            ProviderSettings(self.oidc_issuer, self.oidc_client_id, self.oidc_client_secret, self.oidc_name, redirect)
        )

    @property
    def patch_policy(self) -> PatchPolicy:
        """What bounds the patches."""
        return PatchPolicy(
            max_per_target=self.patch_max_per_target,
            total_share=self.patch_total_share,
            min_device_share=self.patch_min_device_share,
            encodings=tuple(self.patch_encodings.split(",")),
            every_encoding=self.patch_offer == "each",
        )

    @property
    def patch_limits(self) -> PatchLimits:
        """What making a patch may take."""
        # At half of the time an encoder stops trying, and finishes in the other half.
        return PatchLimits(max_build_bytes=self.patch_memory_bytes, max_build_seconds=self.patch_seconds / 2)

    @property
    def upload_limits(self) -> UploadLimits:
        """What an upload may be."""
        return UploadLimits(
            max_upload_bytes=self.max_upload_bytes,
            max_unpacked_bytes=self.max_unpacked_bytes,
            max_files=self.max_files,
        )
