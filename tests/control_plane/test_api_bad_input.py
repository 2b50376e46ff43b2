"""Bad input, for every line of the route table: none can be forgotten, because the cases are made from the table.

Each case starts from a request that would be accepted, and spoils one thing.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update

from control_plane.accounts import Role, authenticate
from control_plane.api.route import Access, Route
from control_plane.api.schemas import ModelVersionChange, Nothing
from control_plane.api.table import ROUTES
from control_plane.database import Database
from control_plane.lookup import memberships
from control_plane.tables import ApiToken, Member, new_id, utc_now
from tests.control_plane.running import ORGANIZATION, Api

MAX_BODY_BYTES = 1 << 20

WITH_TOKEN = [route for route in ROUTES if route.access is not Access.PUBLIC]
WITH_ORGANIZATION = [route for route in ROUTES if route.access.role is not None]
WITH_BODY = [route for route in ROUTES if route.body is not None]

# What would be accepted, by the body's model. Sent with things that are there, none of these changes anything that the
# other cases need; each case spoils it anyway.
BODIES: dict[str, dict[str, Any]] = {
    "NewOrganization": {"name": "One more"},
    "OrganizationChange": {"name": "Renamed"},
    "NewMember": {"email": "new@example.org", "role": "viewer"},
    "MemberChange": {"role": "viewer"},
    "NewInvitation": {"email": "new@example.org", "role": "viewer"},
    "NewPassword": {"password": "some words as one"},
    "NewToken": {"name": "one more", "organization": ORGANIZATION, "role": "viewer", "expires_days": 30},
    "NewApplication": {"name": "one more", "bundle_id": "org.example.more", "platform": "ios"},
    "ApplicationChange": {"name": "renamed"},
    "NewEnvironment": {"name": "staging"},
    "EnvironmentChange": {"name": "renamed"},
    "NewKey": {"overlap_seconds": 60},
    "NewModel": {"name": "one more"},
    "ModelChange": {"name": "renamed"},
    "NewModelVersion": {"filename": "model.zip", "description": "words"},
    "ModelVersionChange": {"description": "words", "name": "model.tflite"},
    "NewDeployment": {"version": 1, "environment": "dev", "percent": 10, "conditions": {}, "push": False},
    "NewRollback": {"environment": "dev"},
    "NewErasure": {"device_id": "nobody"},
    "NewPush": {"environment": "dev"},
    "NewPushCredential": {"kind": "key", "content": "", "key_id": "K", "team_id": "T"},
    "SqlQuestion": {"query": "SELECT 1", "organization": ORGANIZATION},
    "Nothing": {},
}
NAMES = {"name", "email", "bundle_id", "filename", "description", "environment", "organization", "filepath"}


@dataclass(frozen=True)
class Site:
    """A control plane with one of everything, a viewer of it, and somebody else who owns the same things elsewhere."""

    api: Api
    ids: dict[str, str]
    viewer: str
    developer: str
    outsider: str

    def path(self, route: Route, **other: str) -> str:
        """Return a route's path with the ids of things that are there, or others."""
        return re.sub(r"\{(\w+)\}", lambda match: (self.ids | other)[match.group(1)], route.path)

    def send(self, route: Route, body: Any = None, by: str | None = None, **parts: str) -> httpx.Response:
        """Send what the route would accept, or another body, or with other parts in the path."""
        if body is None and route.body is not None:
            body = BODIES[route.body.__name__]
        return self.api.call(route.method, self.path(route, **parts), body, token=by)


@pytest.fixture(scope="module")
def site(api: Api) -> Iterator[Site]:
    org = f"/v2/organizations/{ORGANIZATION}"
    viewer = api.post(f"{org}/members", {"email": "viewer@example.org", "role": "viewer"})
    api.post(f"{org}/members", {"email": "developer@example.org", "role": "developer"})
    app = api.post(f"{org}/apps", {"name": "app", "bundle_id": "org.example.app", "platform": "android"})
    env = api.get(f"{org}/apps/app/environments/dev")
    model = api.post(f"{org}/apps/app/models", {"name": "model"})
    version = api.upload(f"{org}/apps/app/models/model", b"bytes", "model.tflite")
    ids = {
        "org": api.get(org)["id"],
        "member": viewer["id"],
        "invitation": api.post(f"{org}/invitations", {"email": "invited@example.org", "role": "viewer"})["id"],
        "session": new_id(),
        "identity": new_id(),
        "token": api.post("/v2/tokens", {"name": "there"})["id"],
        "app": app["id"],
        "env": env["id"],
        "key": env["keys"][0]["id"],
        "model": model["id"],
        "version": version["id"],
        "id": new_id(),
        "erasure": new_id(),
        "push": new_id(),
        "service": "apns",
    }
    outsider = api.outsider("Elsewhere", "outsider@example.org")
    yield Site(api, ids, api.token_of("viewer@example.org"), api.token_of("developer@example.org"), outsider)
    # After all that was refused, everything is as it was.
    assert [item["id"] for item in api.get(f"{org}/apps?with_models=true")[0]["models"]] == [model["id"]]
    assert api.get(f"{org}/apps/app/environments/dev")["revision"] == env["revision"]
    assert {item["email"]: item["role"] for item in api.get(f"{org}/members")} == {
        "owner@example.org": "owner",
        "viewer@example.org": "viewer",
        "developer@example.org": "developer",
    }


def assert_refused(answer: httpx.Response, status: int, *, has_body: bool = True) -> dict[str, str]:
    """Check that an answer is an error of the one form; return it."""
    assert answer.status_code == status, f"{answer.request.method} {answer.request.url}: {answer.text}"
    if not has_body:
        return {}
    assert answer.headers["Content-Type"].startswith("application/json")
    error: dict[str, str] = answer.json()
    assert set(error) == {"error", "code"}
    assert re.fullmatch("[a-z_]+", error["code"])
    assert "Traceback" not in error["error"]
    return error


def name(route: Route) -> str:
    return f"{route.method} {route.path}"


# --- Who may ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", WITH_TOKEN, ids=name)
def test_without_a_valid_token_every_route_says_so(site: Site, route: Route) -> None:
    body = BODIES[route.body.__name__] if route.body is not None else None
    for token in ("", "sk_", "sk_" + "A" * 43, "sk_" + "\u00e9" * 43):
        headers = {"X-API-TOKEN": token.encode()} if token else {}
        answer = site.api.call(route.method, site.path(route), body, token="", headers=headers)
        assert assert_refused(answer, 401)["code"] == "invalid_token"


@pytest.mark.parametrize("route", WITH_TOKEN, ids=name)
def test_a_revoked_token_opens_nothing(site: Site, route: Route) -> None:
    made = site.api.post("/v2/tokens", {"name": "to revoke"})
    site.api.delete(f"/v2/tokens/{made['id']}")
    assert_refused(site.send(route, by=made["token"]), 401)


@pytest.mark.parametrize("route", WITH_ORGANIZATION, ids=name)
def test_another_organization_looks_exactly_like_one_that_does_not_exist(site: Site, route: Route) -> None:
    theirs = site.send(route, by=site.outsider)
    nobodys = site.send(route, by=site.outsider, org=new_id())
    assert assert_refused(theirs, 404) == assert_refused(nobodys, 404)


@pytest.mark.parametrize("part", ["app", "env", "key", "model", "version", "member", "token"])
def test_a_thing_of_another_organization_cannot_be_reached_through_ones_own(site: Site, part: str) -> None:
    """The organization is the caller's own; the rest of the path is another's."""
    own = site.api.get("/v2/organizations", token=site.outsider)[0]["id"]
    for route in ROUTES:
        if part in route.parameters:
            theirs = site.send(route, by=site.outsider, org=own)
            nobodys = site.send(route, by=site.outsider, org=own, **{part: new_id()})
            assert assert_refused(theirs, 404) == assert_refused(nobodys, 404)


@pytest.mark.parametrize("route", [r for r in WITH_ORGANIZATION if r.access is not Access.VIEWER], ids=name)
def test_a_role_that_is_too_low_is_forbidden(site: Site, route: Route) -> None:
    error = assert_refused(site.send(route, by=site.viewer), 403)
    assert error["code"] == "forbidden"
    assert route.access.value in error["error"]


@pytest.mark.parametrize("route", [r for r in WITH_ORGANIZATION if r.access is Access.OWNER], ids=name)
def test_what_owners_do_is_forbidden_to_developers(site: Site, route: Route) -> None:
    assert_refused(site.send(route, by=site.developer), 403)


# --- What a token's scope leaves -------------------------------------------------------------------------------------

SECOND = "The owner's other one"
SCOPES: dict[str, dict[str, Any]] = {
    "a viewer there": {"organization": ORGANIZATION, "role": "viewer"},
    "a developer everywhere": {"role": "developer"},
    "elsewhere": {"organization": SECOND},
    "until next week": {"expires_days": 7},
}


@pytest.fixture(scope="module")
def scoped(site: Site) -> dict[str, str]:
    """Tokens of the owner of two organizations, each with a scope."""
    site.api.post("/v2/organizations", {"name": SECOND})
    return {name: site.api.post("/v2/tokens", {"name": name} | scope)["token"] for name, scope in SCOPES.items()}


def admitted(site: Site, route: Route, token: str) -> tuple[int, str]:
    """Return how a call is refused that no route takes, so that nothing is changed; 400: its caller was let in."""
    answer = site.api.call(route.method, f"{site.path(route)}?nonsense=1", token=token)
    return answer.status_code, answer.json()["code"]


@pytest.mark.parametrize("route", WITH_ORGANIZATION, ids=name)
def test_below_an_organization_a_token_may_what_its_scope_and_its_person_both_may(
    site: Site, scoped: dict[str, str], route: Route
) -> None:
    let_in, refused = (400, "unknown_field"), (403, "scoped_token")
    assert route.access.role is not None
    assert admitted(site, route, scoped["until next week"]) == let_in
    for token, role in (("a viewer there", Role.VIEWER), ("a developer everywhere", Role.DEVELOPER)):
        assert admitted(site, route, scoped[token]) == (let_in if route.access.role <= role else refused)
    assert admitted(site, route, scoped["elsewhere"]) == (404, "not_found")


@pytest.mark.parametrize("route", [route for route in ROUTES if route.access is Access.PERSON], ids=name)
def test_what_is_the_persons_own_is_closed_to_every_scope(site: Site, scoped: dict[str, str], route: Route) -> None:
    for token in scoped.values():
        assert assert_refused(site.send(route, by=token), 403)["code"] == "scoped_token"


def test_what_any_token_may_ask_for_keeps_to_its_scope(site: Site, scoped: dict[str, str]) -> None:
    """Each route that names no organization and is open to scopes is here: a new one has to be decided on."""
    there, everywhere, elsewhere = (scoped[name] for name in list(SCOPES)[:3])
    asked = {name(route) for route in ROUTES if route.access is Access.TOKEN}
    me = {token: site.api.get("/v2/me", token=token)["organizations"] for token in scoped.values()}
    assert me[there] == [{"name": ORGANIZATION, "role": "viewer"}]
    assert {(each["name"], each["role"]) for each in me[everywhere]} == {
        (ORGANIZATION, "developer"),
        (SECOND, "developer"),
    }
    assert me[elsewhere] == [{"name": SECOND, "role": "owner"}]
    asked.remove("GET /v2/me")
    listed = {token: site.api.get("/v2/organizations", token=token) for token in scoped.values()}
    for token, organizations in me.items():
        assert [{"name": each["name"], "role": each["role"]} for each in listed[token]] == organizations
    asked.remove("GET /v2/organizations")
    for organization in (ORGANIZATION, site.ids["org"]):
        question = {"query": "SELECT count() FROM events", "organization": organization}
        assert site.api.call("POST", "/v2/sql", question, token=elsewhere).status_code == 404
        assert site.api.call("POST", "/v2/sql", question, token=there).status_code in (200, 503)
    asked.remove("POST /v2/sql")
    second = next(each["id"] for each in listed[elsewhere])
    for organization, tokens in ((site.ids["org"], (there, everywhere)), (second, (elsewhere, everywhere))):
        erasure = site.api.post(f"/v2/organizations/{organization}/erasures", {"device_id": "scoped"})["id"]
        seen = {t for t in scoped.values() if site.api.call("GET", f"/v2/erasures/{erasure}", token=t).is_success}
        assert seen == {*tokens, scoped["until next week"]}
    asked.remove("GET /v2/erasures/{erasure}")
    assert asked == set()


async def test_a_question_to_all_organizations_is_asked_of_the_scope_alone(site: Site, scoped: dict[str, str]) -> None:
    database = Database(site.api.database_url)
    try:
        async with database.read() as session:
            callers = {key: await authenticate(session, text, utc_now()) for key, text in scoped.items()}
            found = {
                key: set((await session.scalars(select(Member.organization_id).where(*memberships(caller)))).all())
                for key, caller in callers.items()
            }
    finally:
        await database.close()
    assert found["a viewer there"] == {site.ids["org"]}
    assert found["elsewhere"] == found["a developer everywhere"] - {site.ids["org"]}
    assert len(found["until next week"]) == 2


def test_a_token_tells_its_scope_and_opens_nothing_past_its_end(site: Site) -> None:
    body = {"name": "ending", "organization": ORGANIZATION, "role": "viewer", "expires_days": 1}
    made = site.api.post("/v2/tokens", body)
    assert (made["organization"], made["role"]) == (ORGANIZATION, "viewer")
    newest = site.api.get(f"/v2/organizations/{ORGANIZATION}/audit?limit=1")[0]
    assert (newest["action"], newest["detail"]) == ("token.create", {"id": made["id"], "role": "viewer"})
    assert site.api.call("GET", "/v2/me", token=made["token"]).status_code == 200

    async def end() -> None:
        database = Database(site.api.database_url)
        try:
            async with database.write() as session:
                past = utc_now() - timedelta(seconds=1)
                await session.execute(update(ApiToken).where(ApiToken.id == made["id"]).values(expires_at=past))
        finally:
            await database.close()

    asyncio.run(end())
    assert_refused(site.api.call("GET", "/v2/me", token=made["token"]), 401)
    assert made["id"] not in [token["id"] for token in site.api.get("/v2/tokens")]
    strange = {"name": "ending", "organization": "Elsewhere"}
    assert_refused(site.api.call("POST", "/v2/tokens", strange), 404)


def test_a_token_for_an_organization_goes_with_it(site: Site) -> None:
    site.api.post("/v2/organizations", {"name": "Passing"})
    made = site.api.post("/v2/tokens", {"name": "passing", "organization": "Passing"})
    site.api.delete("/v2/organizations/Passing")
    assert_refused(site.api.call("GET", "/v2/me", token=made["token"]), 401)


# --- Parts of the path -----------------------------------------------------------------------------------------------

UNKNOWN_PARTS = [
    "no-such-thing",
    new_id(),
    "%00",
    "a%0Ab",
    "%FF%FE",
    "%F0%9F%A7%A0",
    "a%2Fb",
    "%2E%2E",
    "x" * 2000,
    "9" * 30,
]


@pytest.mark.parametrize("part", UNKNOWN_PARTS, ids=range(len(UNKNOWN_PARTS)))
def test_whatever_stands_in_a_path_and_names_nothing_is_missing(site: Site, part: str) -> None:
    for route in WITH_TOKEN:
        for parameter in route.parameters:
            assert_refused(site.send(route, **{parameter: part}), 404)


def test_bytes_in_a_path_that_are_no_utf_8_are_refused(site: Site) -> None:
    host, port = site.api.url.removeprefix("http://").split(":")
    for path in (b"/v2/organizations/\xff\xfe", b"/v2/\xc3(", b"/\x80?limit=\xff"):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            request = b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nX-API-TOKEN: " + site.api.owner.encode()
            connection.sendall(request + b"\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.split(b" ", 2)[1] in (b"400", b"404"), answer


# --- Bodies ----------------------------------------------------------------------------------------------------------


def accepted(route: Route) -> dict[str, Any]:
    assert route.body is not None
    return BODIES[route.body.__name__]


NOT_JSON = (
    b"{",
    b"nonsense",
    b'{"name": "a",}',
    b"\xff\xfe{}",  # the mark of UTF-16
    b'{"name": "\xff"}',
    b'{"name": "\\ud800"}',  # a lone surrogate
    b"[" * 50_000,
)


@pytest.mark.parametrize("route", WITH_BODY, ids=name)
def test_a_body_that_is_no_json_in_utf_8_is_refused(site: Site, route: Route) -> None:
    for raw in NOT_JSON:
        answer = site.api.call(route.method, site.path(route), content=raw)
        assert assert_refused(answer, 400)["code"] == "invalid_json"


@pytest.mark.parametrize("route", WITH_BODY, ids=name)
def test_a_body_that_is_no_object_is_refused(site: Site, route: Route) -> None:
    bodies: tuple[Any, ...] = ([], "text", 7, [{}], True)
    for body in bodies:
        assert_refused(site.send(route, body), 400)


@pytest.mark.parametrize("route", WITH_BODY, ids=name)
def test_an_unknown_field_is_refused_and_named(site: Site, route: Route) -> None:
    error = assert_refused(site.send(route, accepted(route) | {"surprise": 1}), 400)
    assert error["code"] == "unknown_field"
    assert "surprise" in error["error"]


@pytest.mark.parametrize("route", WITH_BODY, ids=name)
def test_a_missing_field_is_refused_and_named(site: Site, route: Route) -> None:
    assert route.body is not None
    for field, info in route.body.model_fields.items():
        if info.is_required():
            body = {key: value for key, value in accepted(route).items() if key != field}
            assert field in assert_refused(site.send(route, body), 400)["error"]


@pytest.mark.parametrize("route", [r for r in WITH_BODY if r.body is not Nothing], ids=name)
def test_a_value_of_another_type_is_refused_and_its_field_named(site: Site, route: Route) -> None:
    for field, value in accepted(route).items():
        for wrong in ({}, [], [value], {"a": 1}, 1.5, "7", True, -1, 10**30):
            if isinstance(wrong, type(value)) and not (isinstance(value, int) and wrong in (True, -1, 10**30)):
                continue
            if field == "percent" and wrong == 1.5:
                continue
            if field == "push" and wrong is True:
                continue
            error = assert_refused(site.send(route, accepted(route) | {field: wrong}), 400)
            assert field in error["error"], (field, wrong, error)


NOT_NAMES = [
    "",
    "x" * 101,
    "x" * 100_000,
    "a\u0000b",
    "a\nb",
    "\u2028",
    "\u202eevil",
    "a/b",
    ".",
    "..",
    " a",
    "a ",
    "\u00a0a",
    "0" * 32,
    "A" * 32,
]


# A version's name is a file's, which may be longer and may look like an id.
NAMING = [
    r for r in WITH_BODY if r.body is not None and "name" in r.body.model_fields and r.body is not ModelVersionChange
]


@pytest.mark.parametrize("route", NAMING, ids=name)
def test_what_cannot_be_a_name_is_refused(site: Site, route: Route) -> None:
    for wrong in NOT_NAMES:
        error = assert_refused(site.send(route, accepted(route) | {"name": wrong}), 400)
        assert error["error"].startswith("name: ")


@pytest.mark.parametrize("route", WITH_BODY, ids=name)
def test_control_characters_and_over_long_texts_are_refused_in_every_text(site: Site, route: Route) -> None:
    for field in NAMES & set(accepted(route)):
        for wrong in ("a\u0000b", "\u001b[31m", "x" * 10_000):
            answer = site.send(route, accepted(route) | {field: wrong})
            assert_refused(answer, 404 if field == "organization" and len(wrong) < 400 else 400)


def test_what_cannot_be_an_address_a_bundle_or_an_environment_is_refused(site: Site) -> None:
    org = f"/v2/organizations/{ORGANIZATION}"
    for email in ("", "a", "a@", "@b", "a@b@c", "a b@c.d", "a@" + "b" * 300, "a@b\n"):
        assert_refused(site.api.call("POST", f"{org}/members", {"email": email, "role": "viewer"}), 400)
    for bundle_id in ("", "a b", "a..b", ".a", "a/b", "\u00e9.a", "a." * 100 + "b"):
        body = {"name": "n", "bundle_id": bundle_id, "platform": "ios"}
        assert_refused(site.api.call("POST", f"{org}/apps", body), 400)
    for environment in ("", "A", "9a", "a_b", "-a", "a" * 32, "\u00e9"):
        assert_refused(site.api.call("POST", f"{org}/apps/app/environments", {"name": environment}), 400)


def test_a_file_name_that_no_device_could_unpack_is_refused_before_the_bytes_are_sent(site: Site) -> None:
    versions = f"/v2/organizations/{ORGANIZATION}/apps/app/models/model/model_versions"
    for filename in ("", ".", "..", "a/b", "a\\b", "C:m.tflite", "\u6f22" * 86, "e\u0301" * 127 + "xx"):
        error = assert_refused(site.api.call("POST", versions, {"filename": filename}), 400)
        assert error["error"].startswith("filename: "), filename


def test_what_cannot_be_deployed_is_refused_as_the_published_client_expects(site: Site) -> None:
    deploy = f"/v2/organizations/{ORGANIZATION}/apps/app/models/model/deploy"
    good = {"version": 1, "environment": "dev"}
    for spoiled in (
        {"version": 99},
        {"version": 0},
        {"version": -1},
        {"version": 2**31},
        {"version": "newest"},
        {"version": "1"},
        {"version": None},
        {"environment": "nowhere"},
        {"environment": "a\u0000b"},
        {"environment": ""},
        {"percent": 0},
        {"percent": 100.1},
        {"percent": -3},
        {"percent": 1e-9},
        {"conditions": {"no_such_fact": {"min": "1"}}},
        {"conditions": {"os_version": {"least": "1"}}},
        {"conditions": {"os_version": {"min": 15}}},
        {"conditions": {"os_version": "15"}},
    ):
        answer = site.api.call("POST", deploy, good | spoiled)
        assert assert_refused(answer, 400)["error"], spoiled
    raw = b'{"version": 1, "environment": "dev", "percent": NaN}'
    assert_refused(site.api.call("POST", deploy, content=raw), 400)


@pytest.mark.parametrize("route", WITH_BODY, ids=name)
def test_a_body_over_the_limit_is_too_large(site: Site, route: Route) -> None:
    big = b'{"name": "' + b"x" * MAX_BODY_BYTES + b'"}'
    assert assert_refused(site.api.call(route.method, site.path(route), content=big), 413)["code"] == "too_large"


def test_a_body_over_the_limit_that_does_not_tell_its_length_is_too_large(site: Site) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 65536

    assert_refused(site.api.call("POST", "/v2/tokens", content=endless()), 413)


# --- Queries ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ROUTES, ids=name)
def test_an_unknown_field_in_a_query_is_refused_and_named(site: Site, route: Route) -> None:
    for query in ("surprise=1", "surprise", "surprise=1&surprise=2"):
        answer = site.api.call(
            route.method, f"{site.path(route)}?{query}", BODIES.get(getattr(route.body, "__name__", ""))
        )
        error = assert_refused(answer, 400, has_body=route.method != "HEAD")
        assert route.method == "HEAD" or "surprise" in error["error"] or "expires" in error["error"]


@pytest.mark.parametrize("route", [r for r in ROUTES if r.access is not Access.PUBLIC], ids=name)
def test_a_query_with_unknown_repeated_or_wrong_fields_is_refused(site: Site, route: Route) -> None:
    wrong = ["surprise=1", "%FF=1", "a%00=1"]
    for field, info in (route.query.model_fields if route.query is not None else {}).items():
        wrong.append(f"{field}=1&{field}=1")
        if info.annotation in (int, bool, int | None):
            wrong += [f"{field}={value}" for value in ("", "x", "1.5", "-1", "9" * 30, "%FF", "%00")]
    if route.query is not None and "cursor" in route.query.model_fields:
        wrong += [f"cursor={value}" for value in ("", "x", "%00", "bnVsbA", "W10", "WzFd" * 3, "W1tdXQ", "x" * 2000)]
    for query in wrong:
        answer = site.api.call(route.method, f"{site.path(route)}?{query}", None)
        assert_refused(answer, 400)


def test_an_upload_address_that_was_forged_or_has_expired_is_refused(site: Site) -> None:
    model = f"/v2/organizations/{ORGANIZATION}/apps/app/models/model"
    begun = site.api.post(f"{model}/model_versions", {"filename": "model.zip"})
    path, _, query = begun["presigned_url"].removeprefix(site.api.url).partition("?")
    expires, signature = (pair.split("=")[1] for pair in query.split("&"))
    for forged in (
        f"expires={expires}&signature={'0' * 64}",
        f"expires={int(expires) + 1}&signature={signature}",
        f"expires=1&signature={signature}",
        f"expires=%00&signature={signature}",
        f"expires={expires}&signature=%FF",
    ):
        assert_refused(site.api.call("PUT", f"{path}?{forged}", content=b"x"), 403)
    for missing in ("", f"?expires={expires}", f"?signature={signature}", f"?{query}&more=1"):
        assert_refused(site.api.call("PUT", f"{path}{missing}", content=b"x"), 400)
    assert_refused(site.api.call("PUT", f"/v2/uploads/{new_id()}?{query}", content=b"x"), 403)
    site.api.delete(f"{model}/model_versions/{begun['model_version_id']}")


# --- Addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/v2", "/v2/", "/v2/nothing", "/v3/me", "/v2/organizations/", "/download/v2", "/static/../app.py"]
)
def test_an_address_without_anything_is_missing_in_json(site: Site, path: str) -> None:
    assert_refused(site.api.call("GET", path), 404)


def test_a_method_that_an_address_does_not_take_is_told_in_json(site: Site) -> None:
    for path, methods in {route.path: {r.method for r in ROUTES if r.path == route.path} for route in ROUTES}.items():
        concrete = re.sub(r"\{(\w+)\}", lambda match: site.ids[match.group(1)], path)
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE"} - methods:
            answer = site.api.call(method, concrete)
            assert assert_refused(answer, 405)["code"] == "method_not_allowed"
            assert set(answer.headers["Allow"].split(",")) >= methods


def test_nothing_that_is_secret_was_logged(site: Site) -> None:
    """Runs last in this module: the log holds all of the above."""
    log = site.api.log()
    assert '"event":"request"' in log
    for secret in (site.api.owner, site.viewer, site.outsider, "signature=", "X-API-TOKEN"):
        assert secret not in log
    assert "request_failed" not in log, "nothing above was unforeseen"
