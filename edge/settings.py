"""Settings of an edge worker: read once from the environment (``SKAFOS_*``), frozen, checked together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from edge.clients import Network, parse_networks
from telemetry.spool import Durability

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


class EdgeSettings(BaseSettings):
    """What an edge worker can be told. Several workers of one machine differ in ``edge_name`` and metrics port."""

    model_config = SettingsConfigDict(env_prefix="SKAFOS_", frozen=True, extra="ignore", hide_input_in_errors=True)

    edge_listen: str = Field(
        default="127.0.0.1:8801", description="Host and port of the device API; port 0 picks a free one."
    )
    edge_metrics_listen: str = Field(
        default="127.0.0.1:8811", description="Host and port of health, readiness and metrics."
    )
    edge_name: str = Field(
        default="0",
        pattern=r"^[A-Za-z0-9_.-]{1,64}$",
        description="Name of this worker, unique among those that share a disk.",
    )
    edge_data: Path = Field(description="Directory for cached blobs and the manifest snapshot; one below it a worker.")
    spool_dir: Path = Field(description="Directory where accepted events wait to be shipped.")
    redis_url: str = Field(repr=False, description="Where manifests come from and registrations go.")
    objects_url: str = Field(repr=False, description="Where blobs come from.")
    edge_ready_file: Path | None = Field(
        default=None, description="Written once serving: JSON with pid, listen and metrics."
    )

    edge_tls_certificate: Path | None = Field(
        default=None, description="PEM file of a certificate and its chain: the device API then speaks TLS."
    )
    edge_tls_key: Path | None = Field(default=None, description="PEM file of the certificate's private key.")
    # Two round trips; a phone in a bad network may take a second for each.
    edge_handshake_seconds: float = Field(
        default=10, gt=0, description="Time for a PROXY header, and again for a TLS handshake."
    )
    edge_trusted_proxies: Annotated[tuple[Network, ...], NoDecode] = Field(
        default=(), description="Networks of proxies, with commas between, whose word about clients is believed."
    )
    edge_proxy_protocol: bool = Field(
        default=False, description="Connections from trusted proxies begin with a PROXY header, version 1 or 2."
    )
    edge_log_refusals: bool = Field(
        default=False, description="Log refused requests with their clients' addresses, 60 lines a minute at most."
    )

    # Disks lose a bit in years; a week reads a cache of 10 GiB at 18 KB a second on average.
    blob_scrub_seconds: float = Field(
        default=7 * 86_400, gt=0, description="Time after which a cached blob is hashed again."
    )
    # A sixth of a small server's disk. Must exceed the largest artifact (2 GiB by default), or it cannot be served.
    blob_cache_bytes: int = Field(
        default=10 * GIB, ge=1, description="Bound of the blob cache of this worker, in bytes."
    )
    # Disk and network of one machine are busy with a handful of large copies; more only slow each other down.
    blob_fills: int = Field(default=8, ge=1, le=256, description="Blobs fetched from the object store at once.")
    blob_fill_timeout_seconds: float = Field(default=600, gt=0, description="Longest fetch of one blob, in seconds.")
    # Below the 60 s after which common proxies give up on an answer.
    blob_wait_seconds: float = Field(
        default=50, gt=0, description="Longest wait of a request for the next bytes of a blob that is being fetched."
    )

    manifest_max_age_seconds: int = Field(default=30, ge=0, le=86_400, description="Freshness of a manifest in caches.")
    # As long as TUF's own timestamp lives: a cache may bridge an outage of the edge, and devices check expiry.
    manifest_stale_seconds: int = Field(
        default=7 * 86_400, ge=0, description="How long caches may answer when we cannot."
    )
    manifest_poll_seconds: float = Field(
        default=5, gt=0, description="Interval of the slow poll that backs up notices."
    )

    # A batch of 1,000 events is about 350 KB of JSON.
    edge_max_body_bytes: int = Field(
        default=2 * MIB, ge=1, description="Bound of a request body, as sent and once unpacked."
    )
    # 200 batches of the largest size are 400 MB; ordinary ones are a few KB.
    edge_max_posts: int = Field(default=200, ge=1, description="Request bodies read and stored at once; more get 429.")
    edge_max_connections: int = Field(default=10_000, ge=1, description="Open connections; more are refused with 503.")
    edge_body_seconds: float = Field(default=30, gt=0, description="Time for a request body to arrive.")
    edge_keepalive_seconds: float = Field(default=75, gt=0, description="Idle time after which a connection is closed.")
    edge_stall_seconds: float = Field(
        default=60, gt=0, description="Time for a client to take the next 256 KiB of an answer."
    )
    edge_shutdown_seconds: float = Field(default=20, gt=0, description="Time for requests in flight after SIGTERM.")
    redis_timeout_seconds: float = Field(default=2, gt=0, description="Longest wait for Redis within a request.")
    spool_max_bytes: int = Field(
        default=4 * GIB, ge=1, description="Bound of this worker's event spool; when full, 503."
    )
    spool_durability: Durability = Field(
        default="fsync",
        description="What 202 promises for events: `fsync`, on the disk; `os`, lost by a power cut, not by a kill.",
    )

    @field_validator("edge_listen", "edge_metrics_listen")
    @classmethod
    def _is_address(cls, value: str) -> str:
        parse_address(value)
        return value

    @field_validator("edge_trusted_proxies", mode="before")
    @classmethod
    def _are_networks(cls, value: object) -> object:
        return parse_networks(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _no_contradiction(self) -> Self:
        if self.edge_listen == self.edge_metrics_listen and parse_address(self.edge_listen)[1] != 0:
            raise ValueError(
                "EDGE_LISTEN and EDGE_METRICS_LISTEN are the same address; metrics need a port of their own"
            )
        if self.blob_wait_seconds > self.blob_fill_timeout_seconds:
            raise ValueError(
                "BLOB_WAIT_SECONDS is longer than BLOB_FILL_TIMEOUT_SECONDS, so nobody could wait that long"
            )
        if (self.edge_tls_certificate is None) != (self.edge_tls_key is None):
            raise ValueError("EDGE_TLS_CERTIFICATE and EDGE_TLS_KEY belong together; one of them is not set")
        if self.edge_proxy_protocol and not self.edge_trusted_proxies:
            raise ValueError("EDGE_PROXY_PROTOCOL is on, but EDGE_TRUSTED_PROXIES names nobody who may use it")
        return self

    @property
    def worker(self) -> str:
        """Name of this worker in directories and as a spool's writer."""
        return f"edge-{self.edge_name}"

    @property
    def directory(self) -> Path:
        """The worker's own directory below ``edge_data``."""
        return self.edge_data / self.worker


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of ``host:port`` or ``[v6]:port``.

    Raises:
        ValueError: it is neither.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"{text!r} is not HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def read_settings() -> EdgeSettings:
    """Return the settings that the environment holds.

    Raises:
        pydantic.ValidationError: one is missing, wrong, or contradicts another.
    """
    return EdgeSettings()  # type: ignore[call-arg] # the fields come from the environment
