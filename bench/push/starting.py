"""How soon a push begins among a million devices: from the request to the first notification at the push service.

The control plane is the product's, as a process; the push server listens in a thread of this one.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import text

from control_plane.database import Database
from tests.control_plane.push.certificates import BUNDLE_ID
from tests.control_plane.push.conftest import KEY_ID, TEAM_ID
from tests.control_plane.push.serving import in_thread
from tests.control_plane.running import ORGANIZATION, Api, running_api
from tests.servers.apns import ApnsServer, SigningKey

APP: Final = f"/v2/organizations/{ORGANIZATION}/apps/camera"
MODEL: Final = f"{APP}/models/faces"
ROUNDS: Final = 5
PATIENCE_SECONDS: Final = 120.0
LOOK_SECONDS: Final = 0.001

# A million rows through an ORM take minutes; they are not what is measured.
_COLUMNS: Final = (
    "INSERT INTO devices (environment_id, device_id, facts, push_token, push_service, registered_at, updated_at) "
)
_SQLITE: Final = """
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < :count - 1)
"""
_ROWS_SQLITE: Final = """
SELECT :environment, printf('%032x', i), '{}', printf('%064x', i), 'apns', '2026-01-01 00:00:00.000000',
    '2026-01-01 00:00:00.000000' FROM n
"""
_ROWS_POSTGRES: Final = """
SELECT :environment, lpad(to_hex(i), 32, '0'), '{}', lpad(to_hex(i), 64, '0'), 'apns', now(), now()
FROM generate_series(0, :count - 1) AS i
"""


def measure(folder: Path, url: str, devices: int) -> dict[str, list[float]]:
    """Return the seconds from a deploy that pushes, and from a push by itself, to the first notification; of some each.

    Args:
        folder: for the control plane's data.
        url: of an empty database.
        devices: registered in the environment.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    server = ApnsServer(frozenset([BUNDLE_ID]), {KEY_ID: SigningKey(TEAM_ID, key.public_key())}, keep=False)
    with in_thread(folder, server) as authority:
        settings = {
            "SKAFOS_PUSH_APNS_ADDRESS": f"127.0.0.1:{server.port}",
            "SKAFOS_PUSH_AUTHORITIES_FILE": str(authority),
            "SKAFOS_PUSH_INTERVAL_SECONDS": "0",
        }
        with running_api(folder, url, **settings) as api:
            _prepare(api, key)
            environment = next(each["id"] for each in api.get(f"{APP}/environments") if each["name"] == "prod")
            asyncio.run(register_devices(url, environment, devices))
            deploy, send = {"version": 1, "environment": "prod", "push": True}, {"environment": "prod"}
            ways: dict[str, Callable[[], str]] = {
                "deploy": lambda: api.post(f"{MODEL}/deploy", deploy)["deployment"]["push"]["push_id"],
                "send": lambda: api.post(f"{MODEL}/pushes", send)["id"],
            }
            return {way: [_first(api, server, begin) for _ in range(ROUNDS)] for way, begin in ways.items()}


def _prepare(api: Api, key: ec.EllipticCurvePrivateKey) -> None:
    app = {"name": "camera", "bundle_id": BUNDLE_ID, "platform": "ios"}
    api.post(f"/v2/organizations/{ORGANIZATION}/apps", app)
    api.post(f"{APP}/models", {"name": "faces"})
    api.upload(MODEL, b"weights", "model.bin")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    credential: dict[str, Any] = {"kind": "key", "content": base64.b64encode(pem).decode()}
    credential |= {"key_id": KEY_ID, "team_id": TEAM_ID}
    stored = api.call("PUT", f"{APP}/environments/prod/push_credentials/apns", credential)
    assert stored.status_code == 200, stored.text


async def register_devices(url: str, environment_id: str, devices: int) -> None:
    """Register so many devices with an environment, in the database at ``url`` itself."""
    database = Database(url)
    statement = _SQLITE + _COLUMNS + _ROWS_SQLITE if database.is_sqlite else _COLUMNS + _ROWS_POSTGRES
    async with database.write() as session:
        await session.execute(text(statement), {"environment": environment_id, "count": devices})
    if not database.is_sqlite:
        # As it does by itself before long: what is new to it, it plans badly for.
        async with database.write() as session:
            await session.execute(text("ANALYZE devices"))
    await database.close()


def _first(api: Api, server: ApnsServer, begin: Callable[[], str]) -> float:
    """Begin a push, and cancel it once its first notification is there; return how long that took."""
    before, began = server.accepted_count, time.perf_counter()
    push_id = begin()
    while server.accepted_count == before:
        if time.perf_counter() - began > PATIENCE_SECONDS:
            raise SystemExit("no notification came")
        time.sleep(LOOK_SECONDS)
    seconds = time.perf_counter() - began
    api.post(f"{MODEL}/pushes/{push_id}/cancel")
    # What is under way comes to its end.
    while server.accepted_count != before:
        before = server.accepted_count
        time.sleep(1)
    return seconds
