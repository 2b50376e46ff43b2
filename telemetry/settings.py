"""Settings of the stand-alone shipper: read once from the environment (``SKAFOS_*``), frozen, checked together."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from telemetry.shipper import DEFAULT_INTERVAL_SECONDS


class SpoolSettings(BaseSettings):
    """Where the spool is: all that the commands on its dead-letter folder need."""

    model_config = SettingsConfigDict(env_prefix="SKAFOS_", frozen=True, extra="ignore", hide_input_in_errors=True)

    spool_dir: Path = Field(description="Directory that holds the spool directories of the edge workers.")


class ShipperSettings(SpoolSettings):
    """What a shipper can be told."""

    clickhouse_url: str | None = Field(
        None, repr=False, description="Where events go: clickhouse://user:password@host:9000/database."
    )
    data: Path | None = Field(
        None, description="Without a ClickHouse address: the embedded engine keeps its data in `clickhouse` below this."
    )
    shipper_metrics_listen: str = Field("127.0.0.1:8812", description="Host and port of health, readiness and metrics.")
    shipper_interval_seconds: float = Field(
        DEFAULT_INTERVAL_SECONDS, gt=0, le=60, description="Pause between two looks at the spool."
    )
    shipper_drain_seconds: float = Field(
        10, ge=0, description="Time after SIGTERM to ship what waits; the rest stays on the disk."
    )

    @field_validator("clickhouse_url")
    @classmethod
    def _empty_is_none(cls, value: str | None) -> str | None:
        return value or None

    @field_validator("shipper_metrics_listen")
    @classmethod
    def _is_host_and_port(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65_535:
            raise ValueError("an address to listen on is HOST:PORT")
        return value

    @model_validator(mode="after")
    def _has_a_destination(self) -> Self:
        if self.clickhouse_url is None and self.data is None:
            raise ValueError("set SKAFOS_CLICKHOUSE_URL, or SKAFOS_DATA for the embedded ClickHouse")
        return self

    @property
    def embedded_dir(self) -> Path:
        """Where the embedded engine keeps its data; unused with an address."""
        return (self.data or Path()).absolute() / "clickhouse"
