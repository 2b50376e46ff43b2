"""The control plane as a process: how it starts, what it says of itself, how it ends, and what it does in outages."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from control_plane.api.table import ROUTES
from control_plane.dashboard.figures import FIGURES
from tests.control_plane.dashboard.browsing import Browser
from tests.control_plane.running import ORGANIZATION, OWNER, Api, running_api
from tests.servers.postgres import PostgresServer, running_postgres

APPS = f"/v2/organizations/{ORGANIZATION}/apps"
QUESTIONS = [route.path.rpartition("/")[2] for route in ROUTES if "/adoption/" in route.path]
WAIT_SECONDS = 30.0


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A control plane that the tests which only look at it share."""
    folder = tmp_path_factory.mktemp("shared")
    with running_api(folder, f"sqlite:///{folder / 'test.sqlite3'}") as api:
        yield api


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Api]:
    """A control plane of the test's own, to be ended and hurt."""
    with running_api(tmp_path, f"sqlite:///{tmp_path / 'test.sqlite3'}") as api:
        yield api


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, for as long as anything may take."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def parts(api: Api) -> dict[str, bool]:
    answered: dict[str, bool] = httpx.get(f"{api.metrics_url}/readyz").json()["parts"]
    return answered


def test_it_tells_that_everything_answers_and_counts_its_requests(shared: Api) -> None:
    api = shared
    assert httpx.get(f"{api.metrics_url}/healthz").json() == {"healthy": True}
    assert parts(api) == {"database": True, "redis": True, "objects": True, "clickhouse": True}
    api.get("/v2/me")
    metrics = httpx.get(f"{api.metrics_url}/metrics").text
    assert 'skafos_control_requests_total{method="GET",route="/v2/me",status="200"} 1.0' in metrics
    assert 'skafos_control_part_up{part="redis"} 1.0' in metrics


def test_the_status_page_is_there_for_everybody_and_shows_nobodys_things(shared: Api) -> None:
    page = shared.call("GET", "/status", token="")
    assert page.status_code == 200
    assert "Everything answers." in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert ORGANIZATION not in page.text
    assert shared.call("GET", "/static/status.css", token="").headers["Content-Type"] == "text/css"


def test_the_openapi_document_is_served_to_everybody(shared: Api) -> None:
    document = shared.get("/v2/openapi.json", token="")
    assert document["openapi"] == "3.1.0"
    assert "/v2/organizations/{org}/apps" in document["paths"]


def test_every_answer_carries_an_id_that_the_log_has(shared: Api) -> None:
    answer = shared.call("GET", "/v2/me", headers={"X-Request-Id": "injected"})
    request_id = answer.headers["X-Request-Id"]
    assert request_id != "injected"
    eventually(lambda: f'"id":"{request_id}"' in shared.log())


def test_the_log_is_one_json_object_a_line(shared: Api) -> None:
    shared.get("/v2/me")
    for line in shared.log().splitlines():
        assert {"event", "level", "timestamp"} <= set(json.loads(line))


def test_it_ends_in_order_when_told_and_continues_where_it_was(own: Api) -> None:
    api = own
    api.post(APPS, {"name": "kept", "bundle_id": "org.example.kept", "platform": "ios"})
    key = api.get(f"{APPS}/kept/environments/prod")["key"]
    made = api.post("/v2/tokens", {"name": "used"})
    api.get("/v2/me", token=made["token"])
    assert api.stop() == 0
    assert '"event":"stopped"' in api.log()
    api.start()
    assert api.get(f"{APPS}/kept/environments/prod")["key"] == key
    assert api.log().count('"event":"database_migrated"') == 1, "the second start had nothing to migrate"
    listed = next(token for token in api.get("/v2/tokens") if token["id"] == made["id"])
    assert listed["last_used_at"] is not None, "what was noted was written down at the end"


def test_it_continues_where_it_was_after_it_was_killed(own: Api) -> None:
    api = own
    api.post(APPS, {"name": "kept", "bundle_id": "org.example.kept", "platform": "ios"})
    process, api.process = api.process, None
    assert process is not None
    process.kill()
    process.wait()
    api.start()
    assert [app["name"] for app in api.get(APPS)] == ["kept"]


def test_its_folders_are_closed_to_other_users(shared: Api) -> None:
    data = shared.folder / "data"
    assert data.stat().st_mode & 0o077 == 0
    for name in ("keys", "upload-secret"):
        assert (data / name).stat().st_mode & 0o077 == 0


def test_without_redis_a_deploy_is_kept_and_delivered_later(own: Api) -> None:
    api = own
    api.post(APPS, {"name": "app", "bundle_id": "org.example.app", "platform": "ios"})
    api.post(f"{APPS}/app/models", {"name": "model"})
    api.upload(f"{APPS}/app/models/model", b"weights", "model.tflite")
    api.redis.stop()
    deployed = api.post(f"{APPS}/app/models/model/deploy", {"version": 1, "environment": "prod"})
    assert deployed["deployment"]["revision"] == 2
    eventually(lambda: parts(api)["redis"] is False)
    ready = httpx.get(f"{api.metrics_url}/readyz")
    assert ready.status_code == 200, "the API answers without Redis"
    api.redis.start()
    eventually(lambda: parts(api)["redis"] is True)
    waiting = "skafos_control_outbox_rows 0.0"
    eventually(lambda: waiting in httpx.get(f"{api.metrics_url}/metrics").text)


def test_a_clickhouse_that_cannot_be_reached_is_unavailable_and_never_an_empty_answer(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        clickhouse = f"clickhouse://default@127.0.0.1:{closed.getsockname()[1]}/default"
        # Bound and not listening: connections are refused.
        with_clickhouse = {"SKAFOS_CLICKHOUSE_URL": clickhouse}
        with running_api(tmp_path, f"sqlite:///{tmp_path / 'test.sqlite3'}", **with_clickhouse) as api:
            api.post(APPS, {"name": "app", "bundle_id": "org.example.app", "platform": "ios"})
            api.post(f"{APPS}/app/models", {"name": "model"})
            api.upload(f"{APPS}/app/models/model", b"weights", "model.tflite")
            api.post(f"{APPS}/app/models/model/deploy", {"version": 1, "environment": "prod"})
            for answer in (
                api.call("GET", f"{APPS}/app/models/model/adoption"),
                *(api.call("GET", f"{APPS}/app/models/model/adoption/{each}") for each in QUESTIONS),
                api.call("POST", "/v2/sql", {"query": "SELECT count() FROM events"}),
            ):
                assert (answer.status_code, answer.json()["code"]) == (503, "clickhouse")
                assert int(answer.headers["Retry-After"]) > 0
            assert "Something does not answer." in api.call("GET", "/status").text
            _assert_that_every_section_says_so(Browser.of(api, OWNER))
            assert b"chdb" not in Path(f"/proc/{api.process.pid if api.process else 0}/maps").read_bytes()


def _assert_that_every_section_says_so(browser: Browser) -> None:
    monitor = "/organizations/Acme/apps/app/models/model/monitor"
    page = browser.get(monitor)
    assert page.answer.text.count('data-state="away"') == len(FIGURES)
    assert page.text.count("ClickHouse cannot be reached") == len(FIGURES)
    assert "No data" not in page.text
    assert "<option selected>prod</option>" in page.answer.text, "what the database knows is there"
    assert not any("bokeh" in source for source in page.scripts)
    assert "ClickHouse cannot be reached" in browser.get(f"{monitor}/curve.csv", 503).text


def test_a_file_that_the_object_store_has_lost_is_missing(shared: Api) -> None:
    api = shared
    api.post(APPS, {"name": "app", "bundle_id": "org.example.app", "platform": "ios"})
    api.post(f"{APPS}/app/models", {"name": "model"})
    version = api.upload(f"{APPS}/app/models/model", b"weights", "model.tflite")
    path = "/download" + f"{APPS}/app/models/model"
    assert api.call("GET", path).content == b"weights"
    sha256 = version["upload_sha256"]
    (api.folder / "data" / "objects" / "blobs" / sha256[:2] / sha256).unlink()
    assert api.call("GET", path).status_code == 404


def test_a_database_that_is_away_is_unavailable_and_comes_back(tmp_path: Path) -> None:
    with running_postgres() as postgres, running_api(tmp_path, postgres.new_database()) as api:
        api.get("/v2/me")
        postgres.stop()
        answer = api.call("GET", "/v2/me")
        assert (answer.status_code, answer.json()["code"]) == (503, "database")
        assert httpx.get(f"{api.metrics_url}/readyz").status_code == 503
        postgres.start()
        eventually(lambda: api.call("GET", "/v2/me").status_code == 200)


def test_two_control_planes_that_start_at_once_migrate_one_database_once(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    url = postgres_server.new_database()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with running_api(tmp_path / "a", url) as first, running_api(tmp_path / "b", url) as second:
        assert first.get("/v2/organizations") == second.get("/v2/organizations", token=first.owner)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CONTROL_LISTEN", "nowhere"),
        ("CONTROL_LISTEN", "127.0.0.1:99999"),
        ("DATABASE_URL", "mysql://user:hunter2@host/db"),
        ("CONTROL_PUBLIC_URL", "ftp://example.org"),
        ("MAX_UPLOAD_BYTES", "0"),
        ("MAX_UNPACKED_BYTES", "1"),
        ("PATCH_WORKERS", "many"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_a_line_without_their_value(
    tmp_path: Path, name: str, value: str
) -> None:
    from tests.servers.redis import RedisServer

    never_started = RedisServer(Path("/nonexistent"), tmp_path)
    api = Api(tmp_path, f"sqlite:///{tmp_path / 'x'}", never_started, {f"SKAFOS_{name}": value})
    refused = api.command("bootstrap", "--organization", "A", "--email", "a@b.c")
    assert refused.returncode == 2
    assert name in refused.stderr
    assert "hunter2" not in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_port_that_is_taken_is_told_in_a_line(shared: Api, tmp_path: Path) -> None:
    taken = shared.url.removeprefix("http://")
    second = Api(tmp_path, shared.database_url, shared.redis, {"SKAFOS_CONTROL_LISTEN": taken})
    refused = second.command()
    assert refused.returncode == 1
    assert "Address already in use" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_database_of_a_later_release_is_refused(own: Api) -> None:
    import sqlite3

    own.stop()
    with sqlite3.connect(own.folder / "test.sqlite3") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    refused = own.command()
    assert refused.returncode == 1
    assert "newer than this release" in refused.stderr


def test_at_rest_it_is_small(shared: Api) -> None:
    """The whole of Skafos has 700 MB at rest, for this process with ClickHouse inside and for the edges."""
    assert shared.process is not None
    pages = int(Path(f"/proc/{shared.process.pid}/statm").read_text().split()[1])
    resident = pages * os.sysconf("SC_PAGE_SIZE") // 2**20
    print(f"\ncontrol plane with ClickHouse embedded: {resident} MiB resident")
    assert resident < 450
