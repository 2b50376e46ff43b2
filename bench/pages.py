"""``python -m bench.pages``: how long the dashboard's pages take, and what they weigh, in an organization of some size.

1,000 models and 10,000 versions in 20 applications; one application has 400 of the models, one model 1,000 of the
versions, each version three files; devices are registered, and some report for 30 days, of which the charts tell. Every
page is asked for by a browser that is signed in, over a connection that stays, so that what is measured is the server's
time and little else. Ends with 0 also when a goal does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from sqlalchemy import insert, select, text

from bench.edge.machine import circumstances
from bench.markdown import table, verdict, write_section
from bench.push.starting import register_devices
from control_plane.dashboard.figures import FIGURES
from control_plane.dashboard.table import MODEL, PAGES
from control_plane.database import Database
from control_plane.tables import (
    Application,
    AuditEntry,
    Base,
    Deployment,
    Environment,
    Model,
    ModelName,
    ModelVersion,
    Organization,
    Release,
    new_id,
    utc_now,
)
from telemetry.segment import EventLabels, Record, encode_segment
from tests.control_plane.dashboard.browsing import Browser
from tests.control_plane.running import ORGANIZATION, OWNER, Api, running_api
from tests.servers.postgres import running_postgres

MODELS: Final = 1_000
VERSIONS: Final = 10_000
APPLICATIONS: Final = 20
DEVICES: Final = 200_000
AUDIT_ENTRIES: Final = 50_000
REPORTING: Final = 300
"""Devices that report each day; how long questions take with millions of events is `make bench-questions`."""
REPORTED_DAYS: Final = 30
PATIENCE_SECONDS: Final = 60.0
LARGE_APPLICATION_SHARE: Final = 0.4
LARGE_MODEL_SHARE: Final = 0.1
ROUNDS: Final = 15
GOAL_MS: Final = 200
GOAL_BYTES: Final = 500_000
# Rows of one INSERT: SQLite takes 32,766 values in a statement (SQLITE_MAX_VARIABLE_NUMBER).
_ROWS_AT_ONCE: Final = 500


@dataclass(frozen=True)
class Measured:
    """A page: its path in the table, milliseconds of each look at it, and its bytes."""

    path: str
    milliseconds: Sequence[float]
    length: int


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print and write; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.pages", description=__doc__)
    parser.add_argument("--models", type=int, default=MODELS, metavar="N")
    parser.add_argument("--versions", type=int, default=VERSIONS, metavar="N")
    parser.add_argument("--devices", type=int, default=DEVICES, metavar="N", help="of the largest environment")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="of the documents")
    options = parser.parse_args(words)
    tables = [f"{circumstances(Path.cwd())} {ROUNDS} looks at each page."]
    for name in ("SQLite", "PostgreSQL"):
        with tempfile.TemporaryDirectory() as folder, _database(name, Path(folder)) as url:
            measured = measure(Path(folder), url, options.models, options.versions, options.devices)
        tables.append(render(name, measured))
        print(tables[-1], flush=True)
    if options.write is not None:
        write_section(options.write / "performance.md", "page figures", "\n\n".join(tables))
    return 0


@contextmanager
def _database(name: str, folder: Path) -> Iterator[str]:
    if name == "SQLite":
        yield f"sqlite:///{folder / 'bench.sqlite3'}"
    else:
        with running_postgres() as server:
            yield server.new_database()


def measure(folder: Path, url: str, models: int, versions: int, devices: int) -> list[Measured]:
    """Fill a database and look at every page of an organization that large."""
    with running_api(folder, url, SKAFOS_SPOOL_DIR=str(folder / "spool")) as api:
        asyncio.run(_fill(api, models, versions, devices))
        browser = Browser.of(api, OWNER)
        parts = {"org": ORGANIZATION, "app": "app-0", "model": "model-0", "version": str(_of_large_model(versions))}
        _report(api, folder / "spool", _of_large_model(versions))
        charts = [f"{MODEL}/monitor/{name}.chart" for name in FIGURES]
        return [_look(browser, path, parts) for path in [*(page.path for page in PAGES if page.path != "/"), *charts]]


def _report(api: Api, spool_dir: Path, newest: int) -> None:
    """Have devices report that they took up the last versions one by one, and wait until that can be asked for."""
    application = api.get(f"/v2/organizations/{ORGANIZATION}/apps/app-0")
    organization = api.get(f"/v2/organizations/{ORGANIZATION}")
    labels = EventLabels(organization["id"], ORGANIZATION, application["id"], "app-0", "prod")
    records: list[Record] = []
    now = utc_now()
    for day in range(REPORTED_DAYS):
        at = now - timedelta(days=REPORTED_DAYS - 1 - day)
        for device in range(REPORTING):
            events = [
                _event(device, newest - REPORTED_DAYS + day, at, kind) for kind in ("check", "download", "activate")
            ]
            body = json.dumps(events).encode()
            records.append(Record(labels, int(at.timestamp() * 1000), body))
    folder = spool_dir / "bench"
    folder.mkdir(parents=True)
    whole = folder / f"{time.time_ns():020d}-bench"
    whole.write_bytes(encode_segment(bytes(16), records))
    whole.rename(whole.with_suffix(".ready"))
    adoption = f"/v2/organizations/{ORGANIZATION}/apps/app-0/models/model-0/adoption?environment=prod"
    deadline = time.monotonic() + PATIENCE_SECONDS
    while api.get(adoption)["installations"] < REPORTING:
        assert time.monotonic() < deadline, "the events did not arrive"
        time.sleep(0.5)


def _event(device: int, version: int, at: datetime, kind: str) -> dict[str, Any]:
    """Return an event of a device that holds a version, or takes it up."""
    return {
        "event_id": str(uuid4()),
        "type": kind,
        "occurred_at": at.isoformat(),
        "device_id": f"device-{device}",
        "model": "model-0",
        "version": version,
        "from_version": version - 1,
        "bytes": 1_000_000 if kind == "download" else None,
        "full_bytes": 3_000_000 if kind == "download" else None,
        "duration_ms": 1_000 + device if kind == "download" else None,
        "encoding": "skafos-delta" if kind == "download" else None,
        "os": "iOS",
        "os_version": f"{15 + device % 4}.{device % 7}",
        "device_model": f"iPhone{10 + device % 9},{1 + device % 4}",
        "app_version": f"2.{device % 5}",
        "locale": "de-AT",
    }


def _of_large_model(versions: int) -> int:
    return max(2, int(versions * LARGE_MODEL_SHARE))


def _look(browser: Browser, path: str, parts: dict[str, str]) -> Measured:
    """Look at a page again and again; the first look, when nothing is compiled yet, is not counted."""
    address = path.format_map(parts)
    length = len(browser.get(address).answer.content)
    taken = []
    for _ in range(ROUNDS):
        before = time.perf_counter()
        answer = browser.client.get(address)
        taken.append((time.perf_counter() - before) * 1000)
        assert answer.status_code == 200, answer.text
    return Measured(path, taken, length)


async def _fill(api: Api, models: int, versions: int, devices: int) -> None:
    """Write the rows themselves: a thousand uploads are not what is measured."""
    for number in range(APPLICATIONS):
        body = {"name": f"app-{number}", "bundle_id": f"com.example.app{number}", "platform": "ios"}
        await asyncio.to_thread(api.post, f"/v2/organizations/{ORGANIZATION}/apps", body)
    database = Database(api.database_url)
    try:
        async with database.write() as session:
            named = select(Organization.id).where(Organization.name == ORGANIZATION)
            organization_id = await session.scalar(named)
            ours = select(Application.id).where(Application.organization_id == organization_id)
            application_ids = (await session.scalars(ours.order_by(Application.name))).all()
            found = (await session.execute(select(Environment.application_id, Environment.name, Environment.id))).all()
            environments: dict[str, dict[str, str]] = {}
            for application_id, name, environment_id in found:
                environments.setdefault(application_id, {})[name] = environment_id
            now = utc_now()
            entries = [
                {
                    "organization_id": organization_id,
                    "actor": OWNER,
                    "action": "version.deploy",
                    "target": f"app-0/model-0/{number}",
                    "detail": {"environment": "prod", "percent": 100.0},
                    "created_at": now - timedelta(minutes=number),
                }
                for number in range(AUDIT_ENTRIES)
            ]
            rows = _rows(application_ids, environments, models, versions)
            rows[AuditEntry] = entries
            for table, values in rows.items():
                for first in range(0, len(values), _ROWS_AT_ONCE):
                    await session.execute(insert(table), values[first : first + _ROWS_AT_ONCE])
        await register_devices(api.database_url, environments[application_ids[0]]["prod"], devices)
        async with database.write() as session:
            await session.execute(text("ANALYZE"))
    finally:
        await database.close()


def _rows(
    application_ids: Sequence[str], environments: dict[str, dict[str, str]], models: int, versions: int
) -> dict[type[Base], list[dict[str, Any]]]:
    """Return the rows of models, versions, and what is offered: the newest in dev, the one before it in prod."""
    rows: dict[type[Base], list[dict[str, Any]]] = {
        table: [] for table in (Model, ModelName, ModelVersion, Release, Deployment)
    }
    large = int(models * LARGE_APPLICATION_SHARE)
    each = (versions - _of_large_model(versions)) // max(1, models - 1)
    now = utc_now()
    for number in range(models):
        application_id = application_ids[0 if number < large else 1 + number % (len(application_ids) - 1)]
        model_id, count = new_id(), _of_large_model(versions) if number == 0 else each
        rows[Model].append(
            {"id": model_id, "application_id": application_id, "name": f"model-{number}", "last_version": count}
        )
        rows[ModelName].append(
            {"application_id": application_id, "model_id": model_id, "name": f"model-{number}", "first_version": 1}
        )
        ids = [new_id() for _ in range(count)]
        rows[ModelVersion] += [_version(model_id, ids[place], place + 1) for place in range(count)]
        for name, environment_id in environments[application_id].items():
            offered = count if name == "dev" else max(1, count - 1)
            rows[Release].append(
                {
                    "environment_id": environment_id,
                    "model_id": model_id,
                    "model_version_id": ids[offered - 1],
                    "position": 0,
                    "buckets": 10_000,
                    "conditions": {},
                }
            )
            rows[Deployment] += [
                {
                    "environment_id": environment_id,
                    "model_id": model_id,
                    "number": place,
                    "kind": "deploy",
                    "version": place,
                    "percent": 100.0,
                    "conditions": {},
                    "offers": [{"version": place, "interface": None, "buckets": 10_000, "conditions": {}}],
                    "revision": place,
                    "created_at": now - timedelta(hours=count - place),
                }
                for place in range(1, offered + 1)
            ]
    return rows


def _version(model_id: str, version_id: str, number: int) -> dict[str, Any]:
    digest = hashlib.sha256(f"{model_id} {number}".encode()).hexdigest()
    files = [{"name": name, "length": 1_000_000, "sha256": digest} for name in ("model.onnx", "labels.txt", "LICENSE")]
    return {
        "id": version_id,
        "model_id": model_id,
        "version": number,
        "state": "ready",
        "filename": "model.zip",
        "filepath": f"{model_id}/{number}/model.zip",
        "upload_sha256": digest,
        "upload_length": 3_000_000,
        "artifact_sha256": digest,
        "artifact_length": 3_000_000,
        "format": "onnx",
        "interface": digest,
        "files": files,
        "inputs": [{"name": "image", "type": "float32", "shape": [1, 3, 224, 224]}],
        "outputs": [{"name": "class", "type": "float32", "shape": [1, 1000]}],
    }


def render(name: str, measured: Sequence[Measured]) -> str:
    """Return a table of one database's figures, the slowest page first."""
    rows = []
    for page in sorted(measured, key=lambda page: -statistics.median(page.milliseconds)):
        median, slowest = statistics.median(page.milliseconds), max(page.milliseconds)
        holds = slowest <= GOAL_MS and page.length <= GOAL_BYTES
        rows.append((f"`{page.path}`", f"{median:.1f} ms", f"{slowest:.1f} ms", f"{page.length:,}", verdict(holds)))
    goal = f"≤ {GOAL_MS} ms, ≤ {GOAL_BYTES // 1000} KB"
    return table((f"page, {name}", "median", f"slowest of {ROUNDS}", "bytes", goal), rows)


if __name__ == "__main__":
    raise SystemExit(main())
