"""Organizations, members and tokens over the management API, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import csv
import io
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from sqlalchemy import insert

from control_plane.database import Database
from control_plane.tables import AuditEntry
from tests.control_plane.running import ORGANIZATION, OWNER, Api

ACME = f"/v2/organizations/{ORGANIZATION}"


def add_member(api: Api, email: str, role: str) -> str:
    """Add a member and return a token of theirs."""
    api.post(f"{ACME}/members", {"email": email, "role": role})
    return api.token_of(email)


def test_me_names_the_caller_and_their_organizations(api: Api) -> None:
    me = api.get("/v2/me")
    assert me["email"] == OWNER
    assert {"name": ORGANIZATION, "role": "owner"} in me["organizations"]


def test_a_bearer_token_is_as_good_as_the_header(api: Api) -> None:
    answer = api.call("GET", "/v2/me", token="", headers={"Authorization": f"Bearer {api.owner}"})
    assert answer.json()["email"] == OWNER


def test_an_organization_is_created_renamed_and_deleted(api: Api) -> None:
    created = api.post("/v2/organizations", {"name": "Second"})
    assert created["role"] == "owner"
    assert created["display_name"] == "Second"
    renamed = api.patch(f"/v2/organizations/{created['id']}", {"name": "Zweite"})
    assert renamed["name"] == "Zweite"
    assert renamed["updated_at"] > created["updated_at"]
    assert "Zweite" in [item["name"] for item in api.get("/v2/organizations")]
    api.delete("/v2/organizations/Zweite")
    assert api.call("GET", f"/v2/organizations/{created['id']}").status_code == 404


def test_an_organization_with_everything_in_it_can_be_deleted(api: Api) -> None:
    org = f"/v2/organizations/{api.post('/v2/organizations', {'name': 'Short-lived'})['name']}"
    api.post(f"{org}/apps", {"name": "a", "bundle_id": "a.b", "platform": "ios"})
    api.post(f"{org}/apps/a/models", {"name": "m"})
    api.upload(f"{org}/apps/a/models/m", b"model", "m.bin")
    api.post(f"{org}/apps/a/models/m/deploy", {"version": 1, "environment": "prod"})
    api.delete(org)
    assert api.call("GET", org).status_code == 404


@pytest.mark.parametrize("name", [ORGANIZATION, "Acme"])
def test_a_name_that_is_taken_is_a_conflict_that_says_so(api: Api, name: str) -> None:
    answer = api.call("POST", "/v2/organizations", {"name": name})
    assert answer.status_code == 409
    assert answer.json()["code"] == "taken"
    assert "unique" in answer.json()["error"]


def test_names_are_equal_in_whatever_form_their_characters_come(api: Api) -> None:
    composed, decomposed = "Zo\u00eb", "Zoe\u0308"
    created = api.post("/v2/organizations", {"name": decomposed})
    assert created["name"] == composed
    assert api.get(f"/v2/organizations/{decomposed}")["id"] == created["id"]
    assert api.call("POST", "/v2/organizations", {"name": composed}).status_code == 409


@pytest.mark.parametrize("name", ["{org}", "a}b{c", "100 % #1?", ".hidden", "a+b&c=d;e", "'\"<>|\\"])
def test_things_are_reached_by_their_names_whatever_those_hold(api: Api, name: str) -> None:
    created = api.post("/v2/organizations", {"name": name})
    assert api.get(f"/v2/organizations/{quote(name, safe='')}")["id"] == created["id"]


def test_a_member_is_added_changed_and_removed(api: Api) -> None:
    added = api.post(f"{ACME}/members", {"email": "New@Example.org", "role": "viewer"})
    assert added["email"] == "new@example.org"
    assert api.call("POST", f"{ACME}/members", {"email": "new@example.org", "role": "owner"}).status_code == 409
    assert api.patch(f"{ACME}/members/new@example.org", {"role": "developer"})["role"] == "developer"
    assert added["id"] in [member["id"] for member in api.get(f"{ACME}/members")]
    api.delete(f"{ACME}/members/{added['id']}")
    assert api.call("DELETE", f"{ACME}/members/{added['id']}").status_code == 404


def test_the_last_owner_can_neither_leave_nor_step_down(api: Api) -> None:
    for answer in (
        api.call("DELETE", f"{ACME}/members/{OWNER}"),
        api.call("PATCH", f"{ACME}/members/{OWNER}", {"role": "viewer"}),
    ):
        assert answer.status_code == 409
        assert answer.json()["code"] == "last_owner"


def test_a_member_who_is_removed_sees_nothing_any_more(api: Api) -> None:
    token = add_member(api, "leaver@example.org", "developer")
    assert api.call("GET", ACME, token=token).status_code == 200
    api.delete(f"{ACME}/members/leaver@example.org")
    assert api.call("GET", ACME, token=token).status_code == 404
    assert api.get("/v2/organizations", token=token) == []


def test_a_token_is_shown_once_listed_without_its_text_and_revoked(api: Api) -> None:
    made = api.post("/v2/tokens", {"name": "laptop"})
    assert made["token"].startswith("sk_")
    assert len(made["token"]) == 46
    assert made["token"].startswith(made["hint"])
    listed = next(token for token in api.get("/v2/tokens") if token["id"] == made["id"])
    assert "token" not in listed
    assert api.call("GET", "/v2/me", token=made["token"]).status_code == 200
    api.delete(f"/v2/tokens/{made['id']}")
    assert api.call("GET", "/v2/me", token=made["token"]).status_code == 401
    assert api.call("DELETE", f"/v2/tokens/{made['id']}").status_code == 404


def test_the_last_use_of_a_token_is_told(api: Api) -> None:
    made = api.post("/v2/tokens", {"name": "used"})
    assert made["last_used_at"] is None
    api.get("/v2/me", token=made["token"])
    listed = next(token for token in api.get("/v2/tokens") if token["id"] == made["id"])
    assert listed["last_used_at"] >= made["created_at"]


def test_a_token_of_somebody_else_does_not_exist_for_me(api: Api) -> None:
    other = add_member(api, "other@example.org", "owner")
    theirs = api.post("/v2/tokens", {"name": "theirs"}, token=other)
    assert api.call("DELETE", f"/v2/tokens/{theirs['id']}").status_code == 404
    assert theirs["id"] not in [token["id"] for token in api.get("/v2/tokens")]
    api.delete(f"{ACME}/members/other@example.org")


def test_the_audit_log_tells_who_did_what(api: Api) -> None:
    api.post(f"{ACME}/members", {"email": "audited@example.org", "role": "viewer"})
    newest = api.get(f"{ACME}/audit?limit=1")[0]
    assert newest["actor"] == OWNER
    assert newest["action"] == "member.add"
    assert newest["target"] == "audited@example.org"
    assert newest["detail"] == {"role": "viewer"}


def test_the_audit_log_tells_from_where_and_the_systems_own_comes_from_nowhere(api: Api) -> None:
    made = api.post("/v2/tokens", {"name": "=laptop"})
    api.post(f"{ACME}/members", {"email": "from@example.org", "role": "viewer"}, token=made["token"])
    newest = api.get(f"{ACME}/audit?limit=1")[0]
    assert (newest["client"], newest["via"]) == ("127.0.0.1", "token =laptop")
    api.token_of("from@example.org")
    newest = api.get(f"{ACME}/audit?limit=1")[0]
    assert (newest["actor"], newest["client"], newest["via"]) == ("system", None, None)


def test_the_audit_log_is_asked_for_who_what_and_when(api: Api) -> None:
    def asked(**query: str) -> list[Any]:
        return list(api.get(f"{ACME}/audit?{urlencode(query)}"))

    entries = asked()
    assert {entry["actor"] for entry in asked(actor="System")} == {"system"}
    assert {entry["action"].partition(".")[0] for entry in asked(action="member.")} == {"member"}
    assert asked(action="m_mber.") == asked(actor="nobody@example.org") == [], "_ stands for no other letter"
    middle = entries[len(entries) // 2]
    later, earlier = asked(since=middle["created_at"]), asked(until=middle["created_at"])
    assert middle["id"] in {entry["id"] for entry in later}
    assert [*later, *earlier] == entries
    for wrong in ("since=yesterday", "since=2026-01-31T00:00:00", "actor=%00", f"action={'x' * 65}"):
        assert api.call("GET", f"{ACME}/audit?{wrong}").status_code == 400


def test_the_audit_log_is_saved_as_csv_whole_and_without_formulas(api: Api) -> None:
    for n in range(3):
        api.delete(f"/v2/tokens/{api.post('/v2/tokens', {'name': f'=1+{n}'})['id']}")
    answer = api.call("GET", f"{ACME}/audit.csv?action=token.")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    head, *rows = csv.reader(io.StringIO(answer.text))
    assert head == ["created_at", "actor", "client", "via", "action", "target", "detail"]
    entries = api.get(f"{ACME}/audit?action=token.")
    assert [row[4] for row in rows] == [entry["action"] for entry in entries]
    assert [row[5] for row in rows[:6:2]] == ["'=1+2", "'=1+1", "'=1+0"]
    assert api.call("HEAD", f"{ACME}/audit.csv").content == b""
    organization = api.get(ACME)["id"]
    many = [{"organization_id": organization, "actor": "many", "action": "a", "target": str(n)} for n in range(1001)]

    async def store() -> None:
        database = Database(api.database_url)
        try:
            async with database.write() as session:
                await session.execute(insert(AuditEntry), many)
        finally:
            await database.close()

    asyncio.run(store())
    _, *rows = csv.reader(io.StringIO(api.call("GET", f"{ACME}/audit.csv?actor=many").text))
    assert [row[5] for row in rows] == [str(n) for n in reversed(range(1001))], "a page of the API has a thousand"


def test_every_organization_of_a_person_is_told_of_their_tokens_and_no_other_is(api: Api) -> None:
    colleague = add_member(api, "tokens@example.org", "developer")
    issued = api.get(f"{ACME}/audit?limit=1")[0]
    assert (issued["action"], issued["actor"], issued["target"]) == ("token.issue", "system", "tokens@example.org")
    theirs = f"/v2/organizations/{api.post('/v2/organizations', {'name': 'Theirs'}, token=colleague)['id']}"
    made = api.post("/v2/tokens", {"name": "build machine"}, token=colleague)
    api.delete(f"/v2/tokens/{made['id']}", token=colleague)
    stranger = api.outsider("Strangers", "stranger@example.org")
    for org, token in ((ACME, api.owner), (theirs, colleague)):
        newest, before = api.get(f"{org}/audit?limit=2", token=token)
        assert [newest["action"], before["action"]] == ["token.revoke", "token.create"]
        for entry in (newest, before):
            assert (entry["actor"], entry["target"]) == ("tokens@example.org", "build machine")
            assert entry["detail"] == {"id": made["id"]}
            assert made["token"] not in str(entry)
    assert [entry["action"] for entry in api.get("/v2/organizations/Strangers/audit", token=stranger)] == ["bootstrap"]
    api.delete(f"{ACME}/members/tokens@example.org")


def test_bootstrap_keeps_what_is_there_and_makes_one_more_token(api: Api) -> None:
    again = api.command("bootstrap", "--organization", ORGANIZATION, "--email", OWNER)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith('{"organization": "Acme", "api_token": "sk_')
    assert [item["name"] for item in api.get("/v2/organizations")].count(ORGANIZATION) == 1


def test_a_token_is_issued_to_members_only(api: Api) -> None:
    add_member(api, "colleague@example.org", "viewer")
    issued = api.command("token", "--email", "colleague@example.org")
    assert '"api_token": "sk_' in issued.stdout
    refused = api.command("token", "--email", "nobody@example.org")
    assert refused.returncode == 1
    assert "There is no user nobody@example.org" in refused.stderr
