"""The whole path again on the engines of production: PostgreSQL, Redis and ClickHouse from Debian, objects on S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from artifacts.patch.build import ENCODERS
from tests.flows.roles import Roles, running_roles
from tests.flows.running import until
from tests.flows.whole_path import EVENTS_SECONDS, Journey, Releases, travel
from tests.servers.clickhouse import ClickHouseServer, clickhouse_server
from tests.servers.postgres import PostgresServer, running_postgres
from tests.servers.redis import RedisServer, redis_of_system, running_redis
from tests.servers.s3 import S3Server, running_s3


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """PostgreSQL."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """Redis over TCP."""
    with running_redis(redis_of_system(), tcp=True) as server:
        yield server


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    """ClickHouse 18.16."""
    with clickhouse_server(tmp_path_factory.mktemp("clickhouse")) as server:
        yield server


@pytest.fixture(scope="module")
def objects() -> Iterator[S3Server]:
    """An object store that speaks S3."""
    with running_s3() as server:
        yield server


@pytest.fixture(scope="module")
def production(
    postgres: PostgresServer,
    redis: RedisServer,
    clickhouse: ClickHouseServer,
    objects: S3Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Roles]:
    """All roles as processes of their own, on all four engines."""
    engines = {
        "SKAFOS_DATABASE_URL": postgres.new_database(),
        "SKAFOS_REDIS_URL": redis.url,
        "SKAFOS_CLICKHOUSE_URL": clickhouse.url,
        "SKAFOS_OBJECTS_URL": objects.url,
        **objects.environment,
    }
    with running_roles(tmp_path_factory.mktemp("roles"), engines) as skafos:
        yield skafos


def test_the_whole_path_on_the_engines_of_production(production: Roles, tmp_path: Path, silero: Releases) -> None:
    travel(production, "Production", tmp_path / "device", silero)


def test_an_upload_goes_straight_to_the_object_store(production: Roles, objects: S3Server) -> None:
    with production.client() as client:
        client.create_app(production.organization, "Direct", bundle_id="org.example.direct", platform="ios")
        client.create_model(production.organization, "Direct", "model")
    answer = httpx.post(
        f"{production.connection['control_url']}/v2/organizations/example/apps/Direct/models/model/model_versions",
        headers={"X-API-TOKEN": production.connection["api_token"]},
        json={"filename": "model.zip"},
    )
    assert answer.json()["presigned_url"].startswith(objects.endpoint)


def test_devices_notice_nothing_while_the_control_plane_is_stopped(
    production: Roles, tmp_path: Path, silero: Releases
) -> None:
    journey = Journey(production, "Stopped", tmp_path / "device")
    first, second = silero
    journey.begin()
    journey.upload_and_deploy(first, version=1)
    journey.sync()
    journey.upload_and_deploy(second, version=2)
    journey.wait_for_patch()
    key = journey.key()

    production.control_plane.stop()
    assert not production.control_plane_answers()
    for device, encodings in ((journey.device, tuple(ENCODERS)), (tmp_path / "installed-meanwhile", ("zstd",))):
        updated = journey.sync(device, key)
        assert (updated["status"], updated["version"], updated["encoding"] in encodings) == ("updated", 2, True)
        assert journey.sync(device, key)["status"] == "current"
    assert journey.holds(second)

    production.control_plane.start()
    until(production.control_plane_answers, "the control plane to answer again")
    devices = [{"version": 2, "devices": 2, "share": 1.0}]
    until(lambda: journey.adoption()["now"] == devices, "what devices reported meanwhile", EVENTS_SECONDS)
    journey.run("deploy", "1", "--env", "prod")
    until(lambda: journey.sync()["version"] == 1, "a deploy to reach the device again")
