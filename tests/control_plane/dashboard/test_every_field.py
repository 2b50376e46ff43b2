"""Every form, every field and every route of the dashboard, hostile texts in all of them: what a page asks for and the
tables here do not know, or the other way round, fails, so that none is forgotten.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from playwright.sync_api import ConsoleMessage
from playwright.sync_api import Page as Tab

from control_plane import dashboard
from control_plane.api.table import APP, ENV, MODEL, ORG, PUSH, VERSION
from control_plane.app import create_app
from control_plane.dashboard.figures import DIMENSIONS
from control_plane.dashboard.table import MODEL as MODEL_PAGE
from control_plane.dashboard.table import ORG as ORG_PAGE
from control_plane.dashboard.table import PAGES
from control_plane.dashboard.table import VERSION as VERSION_PAGE
from control_plane.health import Health
from control_plane.silent_connections import SilentConnections
from tests.command import PATIENCE_SECONDS
from tests.control_plane.dashboard.browsing import Browser, Form, Page
from tests.control_plane.dashboard.conftest import PUBLIC
from tests.control_plane.dashboard.hostile import (
    ELSEWHERE,
    EMAIL,
    EVALUATED,
    NAME,
    SAID,
    TEXT,
    UNSEEN,
    Hostile,
    hostile_organization,
)
from tests.control_plane.dashboard.people import PASSWORD
from tests.flows.running import until
from tests.servers.browser import DROP, playwright_chromium

PROVIDERS_PAGE = httpx.Client(trust_env=False)
TEMPLATES = Path(dashboard.__file__).parent / "templates"
# Elements that pages are made of, those of the picture of a second factor's secret among them.
TAGS = {"svg", "g", "path"}.union(*(re.findall(r"<([a-z][a-z0-9]*)", file.read_text()) for file in TEMPLATES.iterdir()))
# Of every form, and of every one that goes through the door.
TOKEN, DOOR = {"form_token": "hidden"}, {"form": "hidden", "back": "hidden"}
NEXT = {"next": "hidden"}
# The fields of each form, by where it goes.
FORMS: Mapping[str, Mapping[str, str]] = {
    f"GET {ORG_PAGE}/audit": {"actor": "text", "action": "text", "since": "date", "until": "date"},
    f"GET {MODEL_PAGE}/deliveries": {"environment": "select"},
    f"GET {MODEL_PAGE}/monitor": {"environment": "select", "days": "select", "dimension": "hidden"},
    f"GET {VERSION_PAGE}/compare": {"with": "number"},
    "POST /sign-in": NEXT | {"email": "email", "password": "password"},
    "POST /sign-in/code": NEXT | {"code": "text"},
    "POST /sign-out": {},
    "POST /forgotten": {"email": "email"},
    "POST /sign-up": {"email": "email"},
    "POST /links/{link}": {"username": "hidden", "password": "password"},
    "POST /account/second-factor/begin": {"proof": "password"},
    "POST /account/second-factor/confirm": {"code": "text"},
    "POST /account/second-factor/codes": {"proof": "password"},
    "POST /account/second-factor/off": {"proof": "password"},
    "POST /do/put/v2/me/password": {"username": "hidden", "password": "password", "current_password": "password"},
    "POST /do/delete/v2/me/sessions": NEXT,
    "POST /do/delete/v2/me/sessions/{session}": {},
    "POST /do/delete/v2/me/identities/{identity}": {},
    "POST /do/post/v2/tokens": {"name": "text", "organization": "select", "role": "select", "expires_days": "select"},
    "POST /do/delete/v2/tokens/{token}": {},
    "POST /do/post/v2/organizations": NEXT | {"name": "text"},
    f"POST /do/patch{ORG}": NEXT | {"name": "text"},
    f"POST /do/delete{ORG}": NEXT | {"confirm": "text"},
    f"POST /do/post{ORG}/invitations": {"email": "email", "role": "select"},
    f"POST /do/delete{ORG}/invitations/{{invitation}}": {},
    f"POST /do/patch{ORG}/members/{{member}}": {"role": "select"},
    f"POST /do/delete{ORG}/members/{{member}}": {},
    f"POST /do/post{ORG}/apps": NEXT
    | {"name": "hidden text", "bundle_id": "hidden text", "platform": "hidden select", "first_model": "hidden"},
    f"POST /do/patch{APP}": NEXT | {"name": "text", "bundle_id": "text"},
    f"POST /do/delete{APP}": NEXT | {"confirm": "text"},
    f"POST /do/post{APP}/environments": {"name": "text"},
    f"POST /do/patch{ENV}": {"name": "text"},
    f"POST /do/delete{ENV}": NEXT | {"confirm": "text"},
    f"POST /do/post{ENV}/keys": {"overlap_seconds": "select"},
    f"POST /do/delete{ENV}/keys/{{key}}": {"confirm": "text"},
    f"POST /do/put{ENV}/push_credentials/{{service}}": {
        "kind": "hidden select",
        "content": "file",
        "key_id": "text",
        "team_id": "text",
        "password": "password",
    },
    f"POST /do/delete{ENV}/push_credentials/{{service}}": {},
    f"POST /do/post{APP}/models": NEXT | {"name": "text"},
    f"POST /do/patch{MODEL}": NEXT | {"name": "text"},
    f"POST /do/delete{MODEL}": NEXT | {"confirm": "text"},
    f"POST /do/patch{VERSION}": {"description": "text"},
    f"POST /do/delete{VERSION}": NEXT | {"confirm": "text"},
    f"POST /do/post{MODEL}/deploy": NEXT
    | {
        "version": "hidden",
        "environment": "radio",
        "percent": "number",
        "push": "checkbox",
        "apple_sandbox": "checkbox",
        "conditions": "text",
    },
    f"POST /do/post{MODEL}/rollback": {"environment": "hidden"},
    f"POST /do/post{MODEL}/pushes": {"environment": "select"},
    f"POST /do/post{PUSH}/pause": {},
    f"POST /do/post{PUSH}/resume": {},
    f"POST /do/post{PUSH}/cancel": {},
}
# Addresses that show no page of the dashboard, and why they are not looked at as one.
NO_PAGES: Mapping[str, str] = {
    "/status": "it shows nobody's texts",
    "/static": "a file",
    "/assets/{hash}/{name}": "a file",
    "/sign-in/openid": "leads away",
    "/sign-in/openid/callback": "leads on",
    f"{MODEL_PAGE}/live": "says only that something has changed",
    f"{MODEL_PAGE}/monitor/live": "says only that something has changed",
    f"{ORG_PAGE}/audit.csv": "a file",
    f"{MODEL_PAGE}/monitor/{{figure}}.csv": "a file",
    f"{MODEL_PAGE}/monitor/{{figure}}.chart": "a file",
    f"/download{VERSION_PAGE}": "a file",
}
# What a form is filled in with where it is empty.
FILLED = {
    "name": "ordinary",
    "email": "somebody@example.org",
    "bundle_id": "com.example.ordinary",
    "code": "000000",
    "environment": "dev",
}
# Hostile texts that a field takes.
FITTING = {
    "name": f"{NAME}2",
    "first_model": NAME,
    "email": f"another.{EMAIL}",
    "description": TEXT,
    "conditions": json.dumps({"locale": {"any_of": [TEXT]}}),
    "actor": TEXT,
    "action": TEXT[:60],
}


@dataclass(frozen=True)
class Found:
    """A form, and whose browser it is in."""

    browser: Browser
    form: Form
    aim: str

    def send(self, values: Mapping[str, str], files: Any = None, *, follow: bool = True) -> httpx.Response:
        """Send it, filled in where it is empty, with these values."""
        known = FILLED | {"confirm": unquote(self.aim.rpartition("/")[2])}
        filled = {name: known[name] for name in self.form.controls if name in known and not self.form.fields.get(name)}
        data = {**self.form.fields, **filled, **values}
        if self.form.method == "get":
            return self.browser.client.get(self.aim, params=data, follow_redirects=follow)
        return self.browser.client.post(self.aim, data=data, files=files, follow_redirects=follow)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    with hostile_organization(tmp_path_factory.mktemp("hostile")) as furnished:
        yield furnished


def routes() -> list[tuple[str, str]]:
    """Return every method and path that the control plane answers."""
    services: Any = SimpleNamespace(settings=SimpleNamespace(control_max_body_bytes=1))  # all that wiring asks for
    app = create_app(services, Health({}), SilentConnections())
    return [(route.method, route.resource.canonical) for route in app.router.routes() if route.resource is not None]


ROUTES = routes()
PATHS = [page.path for page in PAGES]
PATTERNS = {path: re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path))) for _, path in ROUTES}


def route_of(method: str, address: str) -> str:
    """Return the route that a request goes to."""
    path = address.partition("?")[0]
    return next(f"{method} {known}" for of, known in ROUTES if of == method and PATTERNS[known].fullmatch(path))


def pages(hostile: Hostile) -> list[tuple[Browser, str]]:
    """Return every page, with the browsers of all who see something of their own on it."""
    stranger = Browser(hostile.api)
    return [
        *((hostile.owner, path.format_map(hostile.parts)) for path in PATHS),
        *((hostile.owner, path.format_map(hostile.parts | {"version": "2"})) for path in PATHS if "{version}" in path),
        *((hostile.keen, path) for path in ("/account", "/account/second-factor")),
        (hostile.careful, "/account/second-factor"),
        *((stranger, path) for path in ("/sign-in", "/forgotten", "/sign-up", *hostile.links.values())),
        (hostile.waiting, "/sign-in/code"),
    ]


@pytest.fixture(scope="module")
def forms(hostile: Hostile) -> dict[str, list[Found]]:
    """Return the forms of every page, by where they go; of those that are alike the first."""
    found: dict[str, list[Found]] = defaultdict(list)
    for browser, path in pages(hostile):
        page = browser.get(path)
        begin = page.forms.get("begin") if browser is hostile.keen else None
        shown = [page] if begin is None else [page, Page(browser.send(begin, {"proof": PASSWORD}))]
        for form in (form for each in shown for form in each.forms.values()):
            for aim in form.aims or [form.action]:
                alike = found[route_of(form.method.upper(), aim)]
                if form.controls not in [other.form.controls for other in alike]:
                    alike.append(Found(browser, form, aim))
    return found


def is_here(address: str) -> bool:
    """Say whether a browser stays on this site that follows an address (WHATWG URL)."""
    address = re.sub(r"[\t\r\n]", "", address).lstrip("".join(map(chr, range(0x21)))).replace("\\", "/")
    return not address.startswith("//") and not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", address)


def require_harmless(answer: httpx.Response) -> Page:
    """Return an answer's page, once it is clear that no text in it has become anything but a text."""
    assert answer.status_code < 500, answer.text
    assert answer.headers["Content-Type"].startswith("text/html"), answer.text
    page = Page(answer)
    at = f"{answer.request.method} {answer.request.url.path}: {answer.text}"
    assert page.tags <= TAGS, (page.tags - TAGS, at)
    assert page.handlers == [], at
    assert all(source.startswith("/assets/") for source in page.scripts), at
    assert all(address.startswith(("/", "?", "#")) and is_here(address) for address in page.addresses), at
    assert all(is_here(form.fields.get(name, "/")) for form in page.forms.values() for name in ("back", "next")), at
    assert EVALUATED not in page.text, at
    assert not set(UNSEEN) & set(answer.text), at
    return page


def test_every_form_and_every_field_of_it_is_in_the_table(forms: dict[str, list[Found]]) -> None:
    found: dict[str, dict[str, str]] = {}
    for route, alike in forms.items():
        types: dict[str, set[str]] = defaultdict(set)
        for form in (each.form for each in alike):
            for name, kind in form.controls.items():
                types[name].add(kind)
        found[route] = {name: " ".join(sorted(kinds)) for name, kinds in types.items()}
    frames = {route: TOKEN if "/do/" not in route else TOKEN | DOOR for route in FORMS if route.startswith("POST")}
    assert found == {route: {**frames.get(route, {}), **fields} for route, fields in FORMS.items()}


def test_every_page_is_looked_at_and_every_form_leads_to_a_route(hostile: Hostile) -> None:
    looked_at = {route_of("GET", path).removeprefix("GET ") for _, path in pages(hostile)}
    ours = [(method, path) for method, path in ROUTES if not path.startswith(("/v2/", "/download/v2/"))]
    assert {path for method, path in ours if method == "GET"} == looked_at | set(NO_PAGES)
    without_door = {f"POST {path}" for method, path in ours if method == "POST" and not path.startswith("/do/")}
    assert without_door == {route for route in FORMS if route.startswith("POST") and "/do/" not in route}


def test_what_is_stored_is_shown_as_the_text_that_it_is(hostile: Hostile) -> None:
    shown = [require_harmless(browser.client.get(path)).text for browser, path in pages(hostile)]
    monitor = f"{MODEL_PAGE}/monitor?environment=dev&dimension=".format_map(hostile.parts)
    shown += [require_harmless(hostile.owner.client.get(f"{monitor}{dimension}")).text for dimension in DIMENSIONS]
    told = {what: " ".join(text.split()) for what, text in hostile.told.items()}
    assert [what for what, text in told.items() if not any(text in page for page in shown)] == []


def test_no_field_lets_a_text_come_to_life(forms: dict[str, list[Found]]) -> None:
    for route, alike in forms.items():
        for found in alike:
            for name, kind in found.form.controls.items():
                if name in TOKEN | DOOR | NEXT:
                    continue  # below
                if kind == "file":
                    require_harmless(found.send({}, {name: (NAME, TEXT.encode())}))
                    continue
                texts = [f"{UNSEEN}{TEXT}"]
                if kind == "password":
                    texts = [2 * TEXT]  # too long to become one
                elif name in FITTING and "/patch/" not in route:  # names were changed to such before
                    texts.append(FITTING[name])
                for text in texts:
                    require_harmless(found.send({name: text}))


def test_what_clickhouse_or_the_guard_says_of_a_question_is_a_text(hostile: Hostile) -> None:
    for query in (TEXT, f"SELECT '{TEXT}' AS \"{NAME}\" FROM events WHERE nothing", f"SELECT * FROM `{NAME}`"):
        asked = {"query": query, "form_token": hostile.owner.form_token()}
        page = require_harmless(hostile.owner.client.post("/do/post/v2/sql", data=asked))
        assert page.answer.status_code == 200


def test_what_another_provider_says_of_somebody_is_a_text(hostile: Hostile) -> None:
    email, browser = f"elsewhere.{EMAIL}", Browser(hostile.api)
    for subject, status in (("one", 200), ("to whom the address was given since", 409)):
        told = {"sub": f"{subject} {NAME}", "email": email, "email_verified": True, "name": TEXT}
        hostile.provider.claims = told
        away = browser.client.get("/sign-in/openid", follow_redirects=False).headers["Location"]
        back = PROVIDERS_PAGE.get(away).headers["Location"].removeprefix(PUBLIC)
        page = require_harmless(browser.client.get(back))
        assert page.answer.status_code == status
        assert email in page.text
    for name in ("code", "state", "error", "error_description", "iss"):
        require_harmless(browser.client.get("/sign-in/openid/callback", params={name: TEXT}))


# What is written while nobody asks for anything, as patches are made and offered, or tells when somebody was here.
BEHIND = {"outbox", "manifests", "patch_jobs", "patch_plans", "patch_wishes", "artifact_encodings", "push_effects"}
BEHIND |= {"api_tokens.last_used_at", "web_sessions.seen_at", "web_sessions.expires_at"}


def stored(hostile: Hostile) -> dict[str, list[Any]]:
    """Return what the database holds, by table."""
    file = hostile.api.database_url.removeprefix("sqlite:///")
    connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    held = {}
    for table in {*tables} - BEHIND:
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        kept = ", ".join(column for column in columns if f"{table}.{column}" not in BEHIND)
        held[table] = sorted(connection.execute(f"SELECT {kept} FROM {table}"), key=repr)
    connection.close()
    return held


def path_of(hostile: Hostile, path: str) -> str:
    """Return a path of a route, to things that are there where it can be so."""
    known = hostile.parts | {"figure": "curve", "link": hostile.links["reset"].rpartition("/")[2]}
    return path.format_map(dict.fromkeys(re.findall(r"\{(\w+)\}", path), "nothing") | known)


def test_every_post_refuses_what_another_site_could_send(hostile: Hostile) -> None:
    mine, others = hostile.owner.form_token(), hostile.keen.form_token()
    foreign: list[tuple[str, dict[str, str]]] = [
        ("", {}),
        (others, {}),
        (mine, {"Sec-Fetch-Site": "cross-site"}),
        (mine, {"Origin": "https://evil.example"}),
    ]
    before, wrong = stored(hostile), []
    for path in (path for method, path in ROUTES if method == "POST" and not path.startswith("/v2/")):
        at = path_of(hostile, path)
        for token, headers in foreign:
            answers = [hostile.owner.client.post(at, data={"form_token": token}, headers=headers)]
            if path.startswith("/do/"):  # scripts show it in a header
                answers.append(hostile.owner.client.post(at, json={}, headers={**headers, "X-Form-Token": token}))
            wrong += [(path, token, headers) for answer in answers if answer.status_code != 403]
    assert wrong == []
    assert stored(hostile) == before


def test_the_cookie_alone_opens_nothing_of_the_management_api(hostile: Hostile) -> None:
    needs_token = [(method, path) for method, path in ROUTES if path.startswith(("/v2/", "/download/v2/"))]
    public = ("/v2/uploads/{id}", "/v2/openapi.json")
    for method, path in needs_token:
        if path not in public:
            assert hostile.owner.client.request(method, path_of(hostile, path)).status_code == 401, (method, path)


def test_looking_changes_nothing_and_leads_nowhere_else(hostile: Hostile) -> None:
    stranger = Browser(hostile.api)
    hostile.owner.get("/account")  # what was to be said once is said
    before = stored(hostile)
    for at, path in enumerate(path for method, path in ROUTES if method == "GET"):
        address, elsewhere = path_of(hostile, path), ELSEWHERE[at % len(ELSEWHERE)]
        if path.startswith(("/v2/", "/download/v2/")):
            assert hostile.api.call("GET", address).status_code < 500
            continue
        asked: list[dict[str, str]] = [{}]
        asked += [dict.fromkeys(("next", "back", "redirect", "url"), aim) for aim in ("//evil.example/", elsewhere)]
        for client in (hostile.owner.client, stranger.client):
            for query in asked:
                with client.stream("GET", address, params=query, follow_redirects=False) as answer:
                    assert answer.status_code < 500, address
                    led_to = answer.headers.get("Location", "/")
                    assert is_here(led_to) or path == "/sign-in/openid", (address, query, led_to)
                    if answer.headers.get("Content-Type", "").startswith("text/html"):
                        answer.read()
                        require_harmless(answer)
    assert stored(hostile) == before


# What all hostile texts call, if they come to be more than texts.
TRAP = "window.hacked = () => { throw new Error('hacked'); };"


def watched(tab: Tab, heard: list[str]) -> None:
    """Have a tab tell of all that must not happen in it."""

    def hear(message: ConsoleMessage) -> None:
        if message.type == "error" and "the server responded with a status of" not in message.text:
            heard.append(f"{tab.url}: {message.text}")

    tab.on("console", hear)
    tab.on("dialog", lambda dialog: heard.append(f"{tab.url}: {dialog.message}"))
    tab.on("pageerror", lambda error: heard.append(f"{tab.url}: {error}"))
    # A picture of a hostile text is looked for beside the page.
    tab.on("request", lambda asked: heard.append(asked.url) if asked.url.endswith("/x") else None)


def test_nothing_hostile_runs_in_a_browser(hostile: Hostile) -> None:
    """The browser heeds no policy here: it is for the day on which the pages are not enough."""
    heard: list[str] = []
    cookie = hostile.owner.client.cookies["skafos"]
    with playwright_chromium() as chromium:
        context = chromium.new_context(bypass_csp=True)
        context.set_default_timeout(PATIENCE_SECONDS * 1000)
        context.add_init_script(TRAP)
        context.add_cookies([{"name": "skafos", "value": cookie, "url": hostile.api.url}])
        followed, tab = context.new_page(), context.new_page()
        for each in (followed, tab):
            watched(each, heard)
        model = f"{hostile.api.url}{MODEL_PAGE}".format_map(hostile.parts)

        version = f"{MODEL}/model_versions/2".format_map(hostile.parts)
        with followed.expect_event("response", lambda answer: answer.url.endswith("/live")):
            followed.goto(model)
        hostile.api.patch(version, {"description": f"live {TEXT}"})

        for path in PATHS:
            tab.goto(f"{hostile.api.url}{path}".format_map(hostile.parts | {"version": "2"}))
            assert heard == []
        tab.goto(f"{model}/monitor?environment=dev&dimension=locale")
        tab.locator("#devices").scroll_into_view_if_needed()
        tab.locator("#devices .bk-label", has_text=SAID["locale"]).wait_for()
        tooltip, across = tab.locator(".bk-tooltip-row-label", has_text=SAID["locale"]), count(100)

        def is_told() -> bool:  # not before the chart is drawn
            tab.locator("#devices .bk-events").first.hover(position={"x": next(across) % 500, "y": 100})
            return tooltip.count() > 0

        until(is_told, "what the chart tells at the pointer")
        # The first is refused, with a sentence that names it.
        for name, place, said in ((f"C:{NAME}", "[role=status]", "is an absolute path"), (f"{NAME}.bin", "dd", NAME)):
            tab.goto(model)
            tab.evaluate(DROP, [[name, "weights"]])
            tab.locator(place, has_text=said).first.wait_for()
        followed.locator("#versions .hint", has_text=f"live {TEXT}").wait_for()
    assert heard == []


# Whose forms lead back and not on: a model that is offered is not deleted, and who is signed out is told nothing more.
NOT_DONE = {f"POST /do/delete{MODEL}", "POST /do/delete/v2/me/sessions"}
SIGN_OUTS = ("POST /sign-out", "POST /do/delete/v2/me/sessions")


def test_no_form_leads_elsewhere_whatever_it_was_told(forms: dict[str, list[Found]]) -> None:
    """The last of these tests: it sends every form as it is, so that in the end nothing is left."""

    def deepest_first(route: str) -> tuple[bool, bool, int, str]:
        return route in SIGN_OUTS, "/delete/" in route, -route.count("/"), route

    for at, route in enumerate(sorted(forms, key=deepest_first)):
        found = forms[route][0]
        elsewhere = ELSEWHERE[at % len(ELSEWHERE)]
        told = {"next": elsewhere, "back": elsewhere, "form": TEXT}
        if "/do/post" in route:  # for something that is not there yet
            told |= {"name": "last", "bundle_id": "com.example.last"}
        answer = found.send(told, follow=False)
        if answer.is_redirect:
            location = answer.headers["Location"]
            assert is_here(location), (route, elsewhere, location)
            assert location == "/" or "/do/" not in route, (route, elsewhere, location)
            page = require_harmless(found.browser.client.get(location))
            if "next" in FORMS[route] and "/do/" in route:
                assert ('class="notice done"' in page.answer.text) == (route not in NOT_DONE), (route, page.text)
        else:
            require_harmless(answer)
