"""The door of forms and scripts to the management API: whose they must be, what they may do, and where they lead."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from control_plane.api.route import Access, Route
from control_plane.api.table import ROUTES
from control_plane.dashboard.outcomes import sentence_of
from tests.control_plane.dashboard.browsing import Browser, Page
from tests.control_plane.dashboard.conftest import APP, MEMBERS, MODEL, ORG, Office

CHANGES = [route for route in ROUTES if route.method not in ("GET", "HEAD") and route.access is not Access.PUBLIC]
PARTS = {"org": "Acme", "app": "Photos", "model": "faces", "env": "dev", "version": "1", "service": "apns"}
RANKS = {"outsider": 0, "viewer": 1, "developer": 2, "owner": 3}
PAGE = "/organizations/Acme/apps/Photos"


def name(route: Route) -> str:
    return f"{route.method} {route.path}"


def path_of(route: Route, **parts: str) -> str:
    """Return a path of the route, to things that are there where it can be so, and to none of the others."""
    return route.path.format_map(dict.fromkeys(route.parameters, "nothing") | PARTS | parts)


def is_allowed(route: Route, role: str) -> bool:
    return route.access.role is not None and RANKS[role] >= route.access.role.value


def can_be_refused(route: Route, role: str) -> bool:
    """Say whether a call can be made that ends in a refusal in any case, so that nothing is really deleted."""
    return not is_allowed(route, role) or (route.body is not None and bool(route.body.model_fields))


TRIES = [
    (route, role)
    for route in CHANGES
    for role in RANKS
    if route.access.role is not None and can_be_refused(route, role)
]


@pytest.mark.parametrize(("route", "role"), TRIES, ids=lambda each: each if isinstance(each, str) else name(each))
def test_each_role_may_change_what_the_table_says_and_nothing_else(office: Office, route: Route, role: str) -> None:
    # A body that no route takes: who is let in hears what is wrong with it, and nothing is changed.
    answer = office.browsers[role].call(route.method, path_of(route), {"no such field": True})
    expected = {"outsider": 404}.get(role, 400 if is_allowed(route, role) else 403)
    assert answer.status_code == expected, answer.text


@pytest.mark.parametrize("route", CHANGES, ids=name)
def test_nobody_changes_anything_without_having_signed_in(office: Office, route: Route) -> None:
    stranger = Browser(office.api)
    token = next(iter(stranger.get("/sign-in").forms.values())).fields["form_token"]
    headers = {"X-Form-Token": token, "Content-Type": "application/json"}
    answer = stranger.client.post(f"/do/{route.method.lower()}{path_of(route)}", json={}, headers=headers)
    assert answer.status_code == 401
    form = stranger.client.post(
        f"/do/{route.method.lower()}{path_of(route)}", data={"form_token": token}, follow_redirects=False
    )
    assert (form.status_code, form.headers["Location"]) == (303, "/sign-in")


@pytest.mark.parametrize("route", CHANGES, ids=name)
def test_there_is_a_sentence_for_what_each_has_done(route: Route) -> None:
    fields: dict[str, Any] = dict.fromkeys(route.body.model_fields, "x") if route.body else {}
    assert sentence_of(route, None, dict.fromkeys(route.parameters, "x") | fields)


def apps(office: Office) -> set[str]:
    return {application["name"] for application in office.api.get(f"{ORG}/apps")}


NEW = {"name": "Forged", "bundle_id": "com.example.forged", "platform": "ios"}


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Form-Token": ""},
        {"X-Form-Token": "0" * 64},
        {"X-Form-Token": "\u00e9".encode("latin-1").decode("latin-1")},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
    ids=str,
)
def test_a_request_that_another_site_could_make_is_refused(office: Office, headers: dict[str, str]) -> None:
    shown = {"X-Form-Token": office.owner.form_token(), "Content-Type": "application/json", **headers}
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in shown.items()]
    answer = office.owner.client.post(f"/do/post{ORG}/apps", json=NEW, headers=encoded)
    assert answer.status_code == 403
    assert answer.json()["code"] in ("foreign_form", "stale_form")
    assert "Forged" not in apps(office)


def test_the_form_token_of_another_browser_is_of_no_use(office: Office) -> None:
    token = office.browsers["viewer"].form_token()
    answer = office.owner.client.post(f"/do/post{ORG}/apps", data={**NEW, "form_token": token})
    assert answer.status_code == 403
    assert "Load it again" in Page(answer).text, "a person reads it"
    assert "Forged" not in apps(office)


PARTS_TOLD = b"--x\r\nContent-Disposition: form-data; name=form_token\r\n"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/x-www-form-urlencoded; charset=nothing", b"form_token=a"),
        ("application/x-www-form-urlencoded; charset=utf-7", b"form_token=+2AA-"),
        ("application/x-www-form-urlencoded", b"form_token=\xff"),
        ("multipart/form-data", b""),
        ("multipart/form-data; boundary=x", PARTS_TOLD + b"no head\r\n\r\na\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", PARTS_TOLD + b"Content-Type: image/png\r\n\r\na\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", PARTS_TOLD + b"Content-Transfer-Encoding: x\r\n\r\na\r\n--x--\r\n"),
    ],
)
@pytest.mark.parametrize("path", ["/sign-in", f"/do/post{ORG}/apps"])
def test_a_form_that_cannot_be_read_is_refused(office: Office, path: str, kind: str, body: bytes) -> None:
    answer = office.owner.client.post(path, content=body, headers={"Content-Type": kind})
    assert answer.status_code == 400
    assert "The form cannot be read." in answer.text


def test_a_form_that_is_refused_comes_back_with_what_was_typed_and_the_complaint_beside_its_field(
    office: Office,
) -> None:
    form = office.owner.get("/organizations/Acme/new-app").forms["app"]
    typed = {"name": '<b>"Birds"', "bundle_id": "not a bundle id", "platform": "android"}
    page = Page(office.owner.send(form, typed))
    assert page.answer.url.path == "/organizations/Acme/new-app"
    assert page.forms["app"].fields["name"] == typed["name"]
    assert page.forms["app"].fields["bundle_id"] == typed["bundle_id"]
    assert 'aria-describedby="app-bundle_id-complaint"' in page.answer.text
    assert "<b>" not in page.answer.text
    again = office.owner.get("/organizations/Acme/new-app")
    assert again.forms["app"].fields["name"] == "", "it is said once"


def test_a_form_that_is_accepted_leads_on_and_says_what_was_done(office: Office) -> None:
    form = office.owner.get("/organizations/Acme/new-app").forms["app"]
    named = {"name": "Birds & bees ?", "bundle_id": "com.example.birds", "platform": "android"}
    page = Page(office.owner.send(form, named))
    assert page.answer.url.path == "/organizations/Acme/apps/Birds & bees ?"
    assert "The application Birds & bees ? is there" in page.text


def test_what_has_a_name_is_deleted_only_when_the_name_is_typed(office: Office) -> None:
    office.api.post(f"{ORG}/apps", {"name": "Doomed", "bundle_id": "com.example.doomed", "platform": "ios"})
    form = office.owner.get("/organizations/Acme/apps/Doomed/settings").forms["delete"]
    page = Page(office.owner.send(form, {"confirm": "doomed"}))
    assert "Type the name, Doomed" in page.text
    assert "Doomed" in apps(office)
    page = Page(office.owner.send(form, {"confirm": "Doomed"}))
    assert page.answer.url.path == "/organizations/Acme"
    assert "Doomed" not in apps(office)


def test_what_a_viewer_may_not_do_is_neither_offered_nor_done(office: Office) -> None:
    viewer = office.browsers["viewer"]
    for page in (
        "/organizations/Acme",
        PAGE,
        f"{PAGE}/models/faces",
        f"{PAGE}/environments",
        f"{PAGE}/models/faces/deliveries",
    ):
        assert [form for form in viewer.get(page).forms if form.startswith(("/do", "app", "model", "push"))] == []
    viewer.get("/organizations/Acme/new-app", 403)
    form = office.browsers["developer"].get(PAGE).forms["model"]
    form.fields["form_token"] = viewer.form_token()
    answer = viewer.send(form, {"name": "forbidden"})
    assert answer.status_code == 403
    assert "forbidden" not in {model["name"] for model in office.api.get(f"{APP}/models")}


def test_passwords_and_credentials_are_never_kept_in_what_was_typed(office: Office) -> None:
    viewer = office.browsers["viewer"]
    form = viewer.get("/account").forms["password"]
    page = Page(viewer.send(form, {"password": "tooshort9"}))
    assert "A password has 10 to 200 characters" in page.text
    assert "tooshort9" not in page.answer.text
    form = office.owner.get(f"{PAGE}/environments").forms["push-dev"]
    files = {"content": ("key.p8", b"not a key at all")}
    answer = office.owner.send(form, {"kind": "certificate", "password": "hunter2hunter2"}, files=files)
    assert answer.status_code == 200
    assert "hunter2hunter2" not in answer.text
    assert "hunter2hunter2" not in office.api.log()


def test_a_token_is_shown_once_and_works(office: Office) -> None:
    form = office.browsers["developer"].get("/account").forms["token"]
    asked = {"name": "builds", "organization": "Acme", "role": "viewer", "expires_days": "30"}
    page = Page(office.browsers["developer"].send(form, asked))
    token = next(word for word in page.text.split() if word.startswith("sk_"))
    assert office.api.get("/v2/me", token=token)["email"] == MEMBERS["developer"]
    account = office.browsers["developer"].get("/account")
    assert "viewer in Acme" in account.text
    assert token not in account.answer.text


def test_a_deployment_by_form_is_one_by_the_api(office: Office) -> None:
    developer = office.browsers["developer"]
    form = developer.get(f"{PAGE}/models/faces/versions/1/deploy").forms["deploy"]
    page = Page(
        developer.send(form, {"environment": "dev", "percent": "25", "conditions": '{"os": {"any_of": ["ios"]}}'})
    )
    assert "Deployed faces in dev: version 1." in page.text, page.text
    (deployment,) = office.api.get(f"{MODEL}/deployments?environment=dev")
    assert (deployment["version"], deployment["percent"]) == (1, 25.0)
    assert deployment["actor"] == MEMBERS["developer"]
    page = Page(developer.send(form, {"environment": "dev", "percent": "much"}))
    assert "This is not a number." in page.text
    page = Page(developer.send(form, {"environment": "dev", "percent": "5", "conditions": "{"}))
    assert "This is not valid JSON." in page.text
    deep = '{"locale":' * 300 + "1" + "}" * 300
    page = Page(developer.send(form, {"environment": "dev", "percent": "5", "conditions": deep}))
    assert "The form cannot be read." in page.text
    assert len(office.api.get(f"{MODEL}/deployments?environment=dev")) == 1


def test_a_script_gets_the_answers_of_the_api(office: Office) -> None:
    answer = office.owner.call("POST", f"{APP}/environments", {"name": "canary"})
    assert (answer.status_code, answer.json()["name"]) == (201, "canary")
    answer = office.owner.call("POST", f"{APP}/environments", {"name": "canary"})
    assert (answer.status_code, answer.json()["code"]) == (409, "taken")
    assert office.owner.call("DELETE", f"{APP}/environments/{quote('canary')}").status_code == 204
