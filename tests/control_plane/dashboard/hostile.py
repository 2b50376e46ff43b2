"""An organization in which every text is hostile that somebody, a device, a file or an edge chooses, with one of
everything that the dashboard shows, so that every form of it is on some page.
"""

from __future__ import annotations

import asyncio
import base64
import io
import re
import time
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pyotp
from jinja2.utils import htmlsafe_json_dumps
from sqlalchemy import insert, select

from artifacts.patch.build import SkipReason
from control_plane.one_time_links import Purpose
from control_plane.patch_policy import PatchPolicy
from control_plane.tables import Identity, ModelVersion, PatchJob, PushJob, User, utc_now
from manifests.edge_reports import EdgeReport, EdgeReports
from manifests.redis_client import connect_redis
from telemetry.segment import EventLabels
from telemetry.spool import Spool
from tests.control_plane.dashboard.browsing import Browser, Page, link_for
from tests.control_plane.dashboard.conftest import PUBLIC, open_to_all
from tests.control_plane.dashboard.people import PASSWORD, execute, sign_in
from tests.control_plane.push.certificates import make_pair
from tests.control_plane.running import Api, running_api
from tests.models import onnx_model
from tests.servers.openid import Provider, openid_provider
from tests.servers.smtp import mail_server
from tests.small_population import population

SHIPPED_SECONDS = 60.0
# What it comes to when a template reads it.
EVALUATED = str(7 * 191)
# What a name may be: it opens elements and ends attributes of either kind of quotes, but holds no slash.
NAME = "\"'><img src=x onerror=hacked()><script>hacked(){{7*191}}${7*191}$$x$$"
# Any text may be this.
TEXT = f"</script></title></textarea>{NAME}</script><svg/onload=hacked()>"
EMAIL = "\"'><svg/onload=hacked()>{{7*191}}@example.org"
FILE = f"{NAME[:60]}.zip"
# Where an address is expected; a browser drops the tab.
ADDRESS = "java\tscript:hacked()//"
# Where a browser would go for them: elsewhere, or nowhere (WHATWG URL, sections 4.1 and 4.4).
ELSEWHERE = (
    "https://evil.example/",
    "//evil.example/",
    "/\\evil.example/",
    "\\\\evil.example/",
    "https:evil.example",
    "/\t/evil.example",
    "\t//evil.example",
    " //evil.example",
    "/\n/evil.example",
    "///evil.example",
    "javascript:hacked()",
    ADDRESS,
    "data:text/html,<script>hacked()</script>",
    "evil.example",
    "/\x00/evil.example",
    f"/{'x' * 3000}",
)
# Shown as one of these is what cannot be shown, and what turns the order round in which a text reads.
UNSEEN, SHOWN_FOR_UNSEEN = "\x00\x1b\u202e", "\ufffd"
BUNDLE_ID = "com.example.hostile"
# A certificate is for these: of names in it there is not much room.
TOPIC = "topic <img src=x onerror=hacked()>"
# Of a provider that was set up before.
ISSUER = f"https://elsewhere.example/{NAME}"
# Devices' texts have at most 100 characters, of which a chart shows 24.
SAID = {"os_version": f"version {TEXT}"[:100], "device_model": f"model {NAME}", "app_version": f"app {NAME}"}
SAID |= {"os": "o\u202e<svg onload=hacked()>", "locale": "l<svg onload=hacked()>"}


@dataclass(frozen=True)
class Hostile:
    """The organization, and who looks at it.

    Args:
        api: its control plane.
        provider: another one that vouches for people.
        owner: of it, whose address is hostile as well; without a password.
        keen: somebody with a password.
        careful: somebody with a password and a second factor.
        waiting: the same, who has given the right password elsewhere, and no code yet.
        parts: of the paths of pages and routes, all of them ids.
        links: the path of a link of each purpose that was not used.
        told: what stands on some page, as it was sent.
    """

    api: Api
    provider: Provider
    owner: Browser
    keen: Browser
    careful: Browser
    waiting: Browser
    parts: dict[str, str]
    links: dict[str, str]
    told: dict[str, str]


@contextmanager
def hostile_organization(folder: Path) -> Iterator[Hostile]:
    """Run a control plane with it while the block lasts."""
    with mail_server() as mailbox, openid_provider() as provider:
        settings = open_to_all(mailbox, provider, NAME[:60]) | {"SKAFOS_SPOOL_DIR": str(folder / "spool")}
        with running_api(folder, f"sqlite:///{folder / 'test.sqlite3'}", **settings) as api:
            yield _furnished(api, provider, folder / "spool")


def _furnished(api: Api, provider: Provider, spool: Path) -> Hostile:
    api.outsider("Tame", EMAIL)
    Browser.of(api, EMAIL)  # another browser of theirs
    owner = Browser(api)
    owner.client.headers["User-Agent"] = TEXT
    owner.use(link_for(api, EMAIL))
    api.owner = owner.call("POST", "/v2/tokens", {"name": NAME}).json()["token"]
    _renamed(owner, "/organizations/Tame/settings", "rename", NAME)
    org = api.get("/v2/organizations")[0]["id"]
    at = f"/v2/organizations/{org}"
    app = api.post(f"{at}/apps", {"name": "Tame", "bundle_id": BUNDLE_ID, "platform": "ios", "first_model": "tame"})
    _renamed(owner, f"/organizations/{org}/apps/{app['id']}/settings", "change", NAME)
    _renamed(owner, f"/organizations/{org}/apps/{app['id']}/models/tame", "rename", NAME)
    at = f"{at}/apps/{app['id']}"
    model = api.get(f"{at}/models")[0]["id"]
    _report(spool, EventLabels(org, NAME, app["id"], NAME, "dev"))
    for seed in (0, 1):
        api.upload(f"{at}/models/{model}", _archive(seed), FILE, f"{TEXT}{seed}")
    api.post(f"{at}/environments", {"name": "beta"})
    _by_hand(api, model, api.get(f"{at}/environments/dev")["id"])
    condition = {"locale": {"any_of": [TEXT]}}
    api.post(
        f"{at}/models/{model}/deploy", {"version": 2, "environment": "dev", "percent": 50, "conditions": condition}
    )
    pair = make_pair(TOPIC, topics=(BUNDLE_ID,))
    certificate = base64.b64encode(pair.certificate_pem + pair.key_pem()).decode()
    api.call("PUT", f"{at}/environments/beta/push_credentials/apns", {"kind": "certificate", "content": certificate})
    asyncio.run(_edge(api))
    api.post(f"/v2/organizations/{org}/members", {"email": f"!{EMAIL}", "role": "viewer"})
    invited = owner.call("POST", f"/v2/organizations/{org}/invitations", {"email": f"invited.{EMAIL}"}).json()
    for name in ("keen", "careful"):
        api.post(f"/v2/organizations/{org}/members", {"email": f"{name}@example.org", "role": "owner"})
    keen, careful = (_with_password(api, f"{name}@example.org") for name in ("keen", "careful"))
    _turn_on(careful)
    waiting = Browser(api)
    sign_in(waiting, "careful@example.org", PASSWORD)
    links = {
        "invitation": invited["url"].removeprefix(PUBLIC),
        "reset": link_for(api, "keen@example.org", Purpose.RESET),
        "sign-up": link_for(api, f"new.{EMAIL}", Purpose.SIGN_UP),
        "sign-in": link_for(api, f"!{EMAIL}"),
    }
    _wait_until_shipped(api)
    parts = {"org": org, "app": app["id"], "model": model, "env": "dev", "version": "1", "service": "apns"}
    parts["push"] = api.get(f"{at}/models/{model}/pushes")[0]["id"]
    told = {
        "a name": NAME,
        "an address": EMAIL,
        "a member": f"!{EMAIL}",
        "who is invited": f"invited.{EMAIL}",
        "a description": f"{TEXT}1",
        "a file": FILE,
        "a file in an archive": _shown(f"{UNSEEN[2]}{NAME}/{NAME}.onnx"),
        "an input": f"in{TEXT}",
        "a condition": str(htmlsafe_json_dumps(condition)),
        "what a browser calls itself": TEXT,
        "a topic": TOPIC,
        "another provider": ISSUER,
        "why there is no patch": f"patch {TEXT}",
        "why a push failed": f"push {TEXT}",
        "an edge": f"{NAME}/{TEXT}",
        "an edge's version": _shown(f"version {UNSEEN}{TEXT}"),
        "a token in the log": f"token {NAME}",
        "why an update failed": _shown(f"error {UNSEEN}{TEXT}"),
        "an encoding": f"encoding {NAME}"[:100],
        **{name: _shown(text) for name, text in SAID.items()},
    }
    return Hostile(api, provider, owner, keen, careful, waiting, parts, links, told)


def _shown(text: str) -> str:
    return "".join(SHOWN_FOR_UNSEEN if each in UNSEEN else each for each in text)


def _renamed(owner: Browser, page: str, form: str, name: str) -> None:
    answer = owner.send(owner.get(page).forms[form], {"name": name})
    assert answer.status_code == 200, answer.text


def _archive(seed: int) -> bytes:
    """Return a zip whose names are hostile, of a model whose input is."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(
            f"{UNSEEN[2]}{NAME}/{NAME}.onnx", onnx_model(inputs={f"in{TEXT}": (TEXT, 4)}, weights=4, seed=seed)
        )
        archive.writestr(f"{NAME}/{seed}", b"")
    return content.getvalue()


def _by_hand(api: Api, model: str, environment: str) -> None:
    """Put there what else somebody's words are told of: a provider, pushes that wait or failed, no patch."""
    url, later = api.database_url, utc_now() + timedelta(days=1)
    for state in ("pending", "paused", "failed"):
        job = {"environment_id": environment, "model_id": model, "version": 2, "sandbox": True, "state": state}
        execute(url, insert(PushJob).values(**job, reason=f"push {TEXT}", resume_at=later))
    owner = select(User.id).where(User.email == EMAIL).scalar_subquery()
    execute(url, insert(Identity).values(issuer=ISSUER, subject=NAME, user_id=owner, created_at=utc_now()))
    versions = select(ModelVersion.artifact_sha256).where(ModelVersion.model_id == model).order_by(ModelVersion.version)
    old, new = (row.artifact_sha256 for row in execute(url, versions))
    # Of which every encoding was tried, so it is left as it is.
    hopeless = {"state": "skipped", "code": SkipReason.NOT_EXACT, "tried": list(PatchPolicy().encodings)}
    execute(url, insert(PatchJob).values(base_sha256=old, target_sha256=new, **hopeless, reason=f"patch {TEXT}"))


async def _edge(api: Api) -> None:
    client: Any = connect_redis(api.redis.url)
    await EdgeReports(client).report(EdgeReport(NAME, TEXT, f"version {UNSEEN}{TEXT}", 1_700_000_000.0, 5))
    await client.aclose()


def _report(spool: Path, labels: EventLabels) -> None:
    """Have devices report, one of which says what it likes."""
    told = population(NAME)
    failure = next(event for event in told if event["type"] == "error")
    download = next(event for event in told if event["type"] == "download")
    told += [
        {**told[0], "event_id": str(uuid.uuid4()), "device_id": "d-9", **SAID},
        {**failure, "event_id": str(uuid.uuid4()), "error": f"error {UNSEEN}{TEXT}"},
        {**download, "event_id": str(uuid.uuid4()), "encoding": f"encoding {NAME}"[:100]},
    ]

    async def write() -> None:
        async with Spool(spool / "0") as writer:
            await writer.append(labels, msgspec.json.encode(told), datetime.now(UTC))

    asyncio.run(write())


def _wait_until_shipped(api: Api) -> None:
    deadline = time.monotonic() + SHIPPED_SECONDS
    while not re.search(r"skafos_shipper_events_total [1-9]", httpx.get(f"{api.metrics_url}/metrics").text):
        assert time.monotonic() < deadline, api.log()
        time.sleep(0.05)


def _with_password(api: Api, email: str) -> Browser:
    browser = Browser.of(api, email)
    page = Page(browser.send(browser.get("/account").forms["password"], {"password": PASSWORD}))
    assert "Your password is set." in page.text
    return browser


def _turn_on(browser: Browser) -> None:
    page = Page(browser.send(browser.get("/account/second-factor").forms["begin"], {"proof": PASSWORD}))
    (secret,) = re.findall(r"\b[A-Z2-7]{32}\b", page.text)
    browser.send(page.forms["confirm"], {"code": pyotp.TOTP(secret).now()})
