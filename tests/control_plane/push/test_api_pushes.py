"""Pushes over the management API: credentials, a deploy that wakes devices up, history, and holding a push up."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from sqlalchemy import insert, select
from typer.testing import CliRunner

from control_plane.database import Database
from control_plane.tables import Device, PushCredential, utc_now
from skafos.cli.app import app as tree
from tests.control_plane.push.certificates import ACCOUNT_KEY_ID, EMAIL, PROJECT, make_pair, service_account
from tests.control_plane.push.conftest import KEY_ID, TEAM_ID
from tests.control_plane.push.serving import in_thread
from tests.control_plane.running import ORGANIZATION, Api, running_api
from tests.servers.apns import ApnsServer, SigningKey
from tests.servers.fcm import Account, FcmServer

BUNDLE_ID, ROBOT_BUNDLE_ID = "org.example.push", "org.example.robot"
APP = f"/v2/organizations/{ORGANIZATION}/apps/camera"
MODEL = f"{APP}/models/faces"
PROD = f"{APP}/environments/prod/push_credentials"
KEY = ec.generate_private_key(ec.SECP256R1())
DEVICES = 120


@pytest.fixture(scope="module")
def server() -> ApnsServer:
    return ApnsServer(frozenset([BUNDLE_ID, ROBOT_BUNDLE_ID]), {KEY_ID: SigningKey(TEAM_ID, KEY.public_key())})


@pytest.fixture(scope="module")
def google_server(rsa_key: rsa.RSAPrivateKey) -> FcmServer:
    return FcmServer(Account(PROJECT, EMAIL, ACCOUNT_KEY_ID, rsa_key.public_key()))


@pytest.fixture(scope="module")
def pushing(server: ApnsServer, google_server: FcmServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A control plane that pushes through the servers, with an application, a model and devices."""
    folder = tmp_path_factory.mktemp("pushing")
    url = f"sqlite:///{folder / 'test.sqlite3'}"
    with in_thread(folder, server, google_server) as authority:
        settings = {
            "SKAFOS_PUSH_APNS_ADDRESS": f"127.0.0.1:{server.port}",
            "SKAFOS_PUSH_FCM_ADDRESS": f"127.0.0.1:{google_server.port}",
            "SKAFOS_PUSH_AUTHORITIES_FILE": str(authority),
            "SKAFOS_PUSH_INTERVAL_SECONDS": "0",
        }
        with running_api(folder, url, **settings) as api:
            api.post(
                f"/v2/organizations/{ORGANIZATION}/apps", {"name": "camera", "bundle_id": BUNDLE_ID, "platform": "ios"}
            )
            api.post(f"{APP}/models", {"name": "faces"})
            api.upload(MODEL, b"weights", "model.bin")
            environments = {each["name"]: each["id"] for each in api.get(f"{APP}/environments")}
            in_database(api, lambda database: register(database, environments["prod"]))
            yield api


@pytest.fixture(autouse=True)
def behaving(server: ApnsServer, google_server: FcmServer) -> Iterator[None]:
    yield
    server.behaviour = type(server.behaviour)()
    google_server.behaviour = type(google_server.behaviour)()
    server.accepted.clear()
    google_server.accepted.clear()


def in_database(api: Api, work: Callable[[Database], Any]) -> Any:
    async def run() -> Any:
        database = Database(api.database_url)
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(run())


async def register(
    database: Database, environment_id: str, count: int = DEVICES, service: str = "apns", first: int = 0
) -> None:
    rows = [
        {
            "environment_id": environment_id,
            "device_id": f"device-{number:04d}",
            "facts": {},
            "push_token": f"{number:064x}",
            "push_service": service,
            "registered_at": utc_now(),
            "updated_at": utc_now(),
        }
        for number in range(first, first + count)
    ]
    async with database.write() as session:
        await session.execute(insert(Device), rows)


def key_pem() -> bytes:
    return KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def credential(content: bytes, kind: str = "key", **more: Any) -> dict[str, Any]:
    ids = {"key_id": KEY_ID, "team_id": TEAM_ID} if kind == "key" else {}
    return {"kind": kind, "content": base64.b64encode(content).decode(), **ids, **more}


def store(api: Api) -> Any:
    answer = api.call("PUT", f"{PROD}/apns", credential(key_pem()))
    assert answer.status_code == 200, answer.text
    return answer.json()


def ended(api: Api, push_id: str, model: str = MODEL) -> Any:
    deadline = time.monotonic() + 30
    while (push := api.get(f"{model}/pushes/{push_id}"))["state"] not in ("finished", "failed", "cancelled"):
        assert time.monotonic() < deadline, push
        time.sleep(0.05)
    return push


def test_without_a_credential_nothing_is_pushed_and_that_is_said(pushing: Api) -> None:
    done = pushing.post(f"{MODEL}/deploy", {"version": 1, "environment": "prod", "push": True})
    assert done["deployment"]["push"] == {"status": "not_configured", "push_id": None}
    answer = pushing.call("POST", f"{MODEL}/pushes", {"environment": "prod"})
    assert (answer.status_code, answer.json()["code"]) == (409, "not_configured")
    assert pushing.get(PROD) == []


def test_a_credential_is_stored_shown_without_its_secret_and_forgotten(pushing: Api) -> None:
    shown = store(pushing)
    assert (shown["service"], shown["kind"]) == ("apns", "key")
    assert shown["facts"] == {"key_id": KEY_ID, "team_id": TEAM_ID}
    assert (shown["expires_at"], shown["expires_soon"]) == (None, False)
    assert pushing.get(PROD) == [shown]

    async def sealed(database: Database) -> list[bytes]:
        async with database.read() as session:
            return list(await session.scalars(select(PushCredential.sealed)))

    (stored,) = in_database(pushing, sealed)
    secret = key_pem().splitlines()[1]
    assert secret not in stored
    assert secret.decode() not in pushing.log()
    pushing.delete(f"{PROD}/apns")
    assert pushing.get(PROD) == []
    assert pushing.call("DELETE", f"{PROD}/apns").status_code == 404
    assert pushing.call("PUT", f"{PROD}/pigeon", credential(key_pem())).status_code == 404


def test_a_certificate_tells_when_it_ends(pushing: Api) -> None:
    pair = make_pair(topic=BUNDLE_ID, ends=timedelta(days=20))
    answer = pushing.call("PUT", f"{PROD}/apns", credential(pair.p12("secret"), "certificate", password="secret"))
    assert answer.status_code == 200, answer.text
    assert answer.json()["facts"] == {"topics": [BUNDLE_ID], "sandbox": True, "production": True}
    assert answer.json()["expires_soon"] is True


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (credential(b"nonsense"), "cannot be read"),
        (credential(key_pem(), key_id="short"), "key id"),
        (credential(make_pair().p12("secret"), "certificate", password="wrong"), "password is wrong"),
        (credential(make_pair(topic="org.other").p12("a"), "certificate", password="a"), "is for org.other"),
        ({"kind": "key", "content": "%%%"}, "base64"),
    ],
)
def test_what_cannot_work_is_refused_with_a_sentence(pushing: Api, body: dict[str, Any], sentence: str) -> None:
    answer = pushing.call("PUT", f"{PROD}/apns", body)
    assert (answer.status_code, answer.json()["code"]) == (400, "credential_unusable")
    assert sentence in answer.json()["error"]


def test_a_deploy_wakes_every_device_once_and_the_history_tells(pushing: Api, server: ApnsServer) -> None:
    store(pushing)
    pushing.post(f"{APP}/models", {"name": "other"})
    done = pushing.post(f"{MODEL}/deploy", {"version": 1, "environment": "prod", "push": True})
    push_id = done["deployment"]["push"]["push_id"]
    push = ended(pushing, push_id)
    assert (push["state"], push["targeted"], push["accepted"]) == ("finished", DEVICES, DEVICES)
    assert (push["environment"], push["version"], push["apple_sandbox"]) == ("prod", 1, False)
    assert push["actor"] == "owner@example.org"
    assert push["seconds"] >= 0
    assert sorted(int(each.device_token, 16) for each in server.accepted) == list(range(DEVICES))
    assert pushing.get(f"{MODEL}/pushes?environment=prod")[0] == push
    assert pushing.get(f"{MODEL}/pushes?environment=dev") == []
    assert pushing.get(f"{APP}/models/other/pushes") == []
    shown = pushing.get(f"{MODEL}/deployments")[0]
    assert shown["push"] == {"status": "finished", "push_id": push_id}


def test_what_became_of_each_device_and_what_they_did_then_is_told(pushing: Api, server: ApnsServer) -> None:
    store(pushing)
    server.behaviour.refuse = {f"{number:064x}": "BadDeviceToken" for number in (7, 99)}
    push_id = ended(pushing, pushing.post(f"{MODEL}/pushes", {"environment": "prod"})["id"])["id"]
    path = f"{MODEL}/pushes/{push_id}"
    devices, query = [], "?limit=50"
    while query:
        answer = pushing.call("GET", f"{path}/devices{query}")
        devices += answer.json()
        target = answer.links.get("next", {}).get("url", "")
        query = target[target.index("?") :] if target else ""
    assert [each["device_id"] for each in devices] == [f"device-{number:04d}" for number in range(DEVICES)]
    refused = pushing.get(f"{path}/devices?outcome=refused")
    assert refused == [devices[7], devices[99]]
    assert (refused[0]["outcome"], refused[0]["reason"]) == ("refused", "BadDeviceToken")
    assert (devices[0]["outcome"], devices[0]["reason"]) == ("accepted", None)
    assert pushing.call("GET", f"{path}/devices?outcome=lost").status_code == 400
    assert pushing.call("GET", f"{path}/devices?cursor=nonsense").status_code == 400
    listed = pushing.get(f"{APP}/environments/prod/devices")
    assert listed[7]["last_push"] == {"push_id": push_id} | {
        name: refused[0][name] for name in ("outcome", "reason", "sent_at")
    }

    deadline = time.monotonic() + 30
    while (answer := pushing.call("GET", f"{path}/effect")).status_code == 503:
        assert answer.json()["code"] == "clickhouse"
        assert time.monotonic() < deadline, "ClickHouse is not there"
        time.sleep(0.05)
    effect = answer.json()
    nothing = {"checked": 0, "downloaded": 0, "activated": 0}
    assert (effect["devices"], effect["counted"], effect["margin"]) == (DEVICES - 2, DEVICES - 2, 0)
    assert (effect["complete"], effect["after"], effect["before"]) == (False, nothing, nothing)
    assert effect["until"] > effect["asked_at"]
    assert pushing.get(path)["effect"] == effect
    assert pushing.get(f"{MODEL}/pushes")[0]["effect"] == effect

    rows = command(pushing, "devices", push_id, "--csv").splitlines()
    assert rows[0] == "device_id,outcome,reason,sent_at"
    assert rows[8] == f"device-0007,refused,BadDeviceToken,{refused[0]['sent_at']}"
    assert len(rows) == 1 + DEVICES
    assert len(command(pushing, "devices", push_id, "--outcome", "refused").splitlines()) == 3
    told = command(pushing, "effect", push_id)
    assert f"Accepted for {DEVICES - 2} devices\nTheir hour is not over until {effect['until']}; so far:" in told
    assert "activated       0      0.0 %  0       0.0 %" in told


def command(api: Api, *arguments: str) -> str:
    """Return what `skafos push` prints."""
    names = {"SKAFOS_ORG_NAME": ORGANIZATION, "SKAFOS_APP_NAME": "camera", "SKAFOS_MODEL_NAME": "faces"}
    settings = {"SKAFOS_URL": api.url, "SKAFOS_API_TOKEN": api.owner, **names}
    done = CliRunner().invoke(tree, ["push", *arguments], env=settings)
    assert done.exit_code == 0, done.output
    return str(done.stdout)


def test_a_push_is_begun_by_a_person_and_held_up(pushing: Api, server: ApnsServer) -> None:
    store(pushing)
    server.behaviour.delay = 3.0
    push = pushing.post(f"{MODEL}/pushes", {"environment": "prod", "apple_sandbox": False})
    path = f"{MODEL}/pushes/{push['id']}"
    assert pushing.post(f"{path}/pause")["state"] == "paused"
    answer = pushing.call("POST", f"{path}/pause", {})
    assert (answer.status_code, answer.json()["code"]) == (409, "not_now")
    assert pushing.post(f"{path}/resume")["state"] in ("pending", "running")
    assert pushing.post(f"{path}/cancel")["state"] == "cancelled"
    assert pushing.call("POST", f"{path}/resume", {}).status_code == 409
    actions = [entry["action"] for entry in pushing.get(f"/v2/organizations/{ORGANIZATION}/audit")]
    assert {"push.begin", "push.paused", "push.resumed", "push.cancelled", "push_credential.store"} <= set(actions)


def test_a_refused_key_fails_the_push_with_what_to_do(pushing: Api, server: ApnsServer) -> None:
    store(pushing)
    server.behaviour.failures = ["InvalidProviderToken"] * DEVICES
    push = ended(pushing, pushing.post(f"{MODEL}/pushes", {"environment": "prod"})["id"])
    assert push["state"] == "failed"
    assert "key id and team id" in push["reason"]


def test_who_may_only_look_can_neither_push_nor_see_secrets(pushing: Api) -> None:
    pushing.post(f"/v2/organizations/{ORGANIZATION}/members", {"email": "viewer@example.org", "role": "viewer"})
    viewer = pushing.token_of("viewer@example.org")
    assert pushing.call("GET", PROD, token=viewer).status_code == 200
    assert pushing.call("PUT", f"{PROD}/apns", credential(key_pem()), token=viewer).status_code == 403
    assert pushing.call("POST", f"{MODEL}/pushes", {"environment": "prod"}, token=viewer).status_code == 403


def test_nothing_deployed_nothing_pushed(pushing: Api) -> None:
    store(pushing)
    pushing.post(f"{APP}/models", {"name": "new"})
    answer = pushing.call("POST", f"{APP}/models/new/pushes", {"environment": "prod"})
    assert (answer.status_code, answer.json()["code"]) == (409, "nothing_deployed")
    answer = pushing.call("POST", f"{MODEL}/pushes", {"environment": "nowhere"})
    assert answer.status_code == 400
    assert pushing.call("GET", f"{MODEL}/pushes/{'0' * 32}").status_code == 404


def test_what_is_sealed_is_sealed_anew_by_command(pushing: Api, tmp_path: Path) -> None:
    store(pushing)
    done = pushing.command("rotate-master-key")
    assert done.returncode == 0, done.stderr
    assert '"renewed": 1' in done.stdout
    push = ended(pushing, pushing.post(f"{MODEL}/pushes", {"environment": "prod"})["id"])
    assert (push["state"], push["accepted"]) == ("finished", DEVICES)


def test_a_service_account_is_stored_shown_without_its_secret_and_forgotten(
    pushing: Api, rsa_key: rsa.RSAPrivateKey
) -> None:
    path = f"{APP}/environments/dev/push_credentials"
    answer = pushing.call("PUT", f"{path}/fcm", credential(service_account(rsa_key), "account"))
    assert answer.status_code == 200, answer.text
    shown = answer.json()
    assert (shown["service"], shown["kind"], shown["expires_at"]) == ("fcm", "account", None)
    assert shown["facts"] == {"project": PROJECT, "client_email": EMAIL, "key_id": ACCOUNT_KEY_ID}
    assert pushing.get(path) == [shown]

    async def sealed(database: Database) -> bytes:
        async with database.read() as session:
            (stored,) = await session.scalars(select(PushCredential.sealed).where(PushCredential.service == "fcm"))
            return stored

    secret = service_account(rsa_key)[200:240]
    assert secret not in in_database(pushing, sealed)
    assert secret.decode() not in pushing.log()
    pushing.delete(f"{path}/fcm")
    assert pushing.get(path) == []


@pytest.mark.parametrize(
    ("service", "kind", "changes", "sentence"),
    [
        ("apns", "account", {}, "A service account is for fcm"),
        ("fcm", "key", {}, "A service account is for fcm"),
        ("fcm", "account", {"type": "authorized_user"}, "no service account"),
        ("fcm", "account", {"project_id": ""}, "no project_id"),
        ("fcm", "account", {"private_key": "nonsense"}, "private_key of the service account cannot be read"),
        ("fcm", "account", {"token_uri": "https://127.0.0.1:8800/token"}, "token_uri"),
    ],
)
def test_a_service_account_that_cannot_work_is_refused_with_a_sentence(
    pushing: Api, rsa_key: rsa.RSAPrivateKey, service: str, kind: str, changes: dict[str, str], sentence: str
) -> None:
    answer = pushing.call("PUT", f"{PROD}/{service}", credential(service_account(rsa_key, **changes), kind))
    assert (answer.status_code, answer.json()["code"]) == (400, "credential_unusable")
    assert sentence in answer.json()["error"]


def test_a_push_goes_to_the_devices_of_both_services(
    pushing: Api, server: ApnsServer, google_server: FcmServer, rsa_key: rsa.RSAPrivateKey
) -> None:
    app = f"/v2/organizations/{ORGANIZATION}/apps/robot"
    body = {"name": "robot", "bundle_id": ROBOT_BUNDLE_ID, "platform": "ios"}
    pushing.post(f"/v2/organizations/{ORGANIZATION}/apps", body)
    pushing.post(f"{app}/models", {"name": "arms"})
    pushing.upload(f"{app}/models/arms", b"weights", "model.bin")
    (prod,) = [each["id"] for each in pushing.get(f"{app}/environments") if each["name"] == "prod"]
    in_database(pushing, lambda database: register(database, prod, 20))
    in_database(pushing, lambda database: register(database, prod, 30, "fcm", first=20))
    credentials = f"{app}/environments/prod/push_credentials"
    pushing.call("PUT", f"{credentials}/apns", credential(key_pem()))

    def push() -> Any:
        begun = pushing.post(f"{app}/models/arms/deploy", {"version": 1, "environment": "prod", "push": True})
        return ended(pushing, begun["deployment"]["push"]["push_id"], f"{app}/models/arms")

    # What there is no credential for is counted, not passed over.
    alone = push()
    assert (alone["state"], alone["targeted"], alone["accepted"], alone["refused"]) == ("finished", 50, 20, 30)
    assert alone["reasons"] == {"NoCredential": 30}
    assert google_server.accepted == []

    pushing.call("PUT", f"{credentials}/fcm", credential(service_account(rsa_key), "account"))
    google_server.behaviour.refuse = {f"{20:064x}": "UNREGISTERED", f"{21:064x}": "SENDER_ID_MISMATCH"}
    server.accepted.clear()
    both = push()
    assert (both["state"], both["targeted"], both["accepted"], both["gone"]) == ("finished", 50, 48, 1)
    assert both["reasons"] == {"UNREGISTERED": 1, "SENDER_ID_MISMATCH": 1}
    assert sorted(int(each.device_token, 16) for each in server.accepted) == list(range(20))
    assert sorted(int(each.device_token, 16) for each in google_server.accepted) == list(range(22, 50))
    assert {each.message["data"]["skafos_version"] for each in google_server.accepted} == {"1"}
    assert pushing.get(f"{app}/models/arms/pushes")[0] == both
    # The token that is gone was taken away.
    assert push()["targeted"] == 49
