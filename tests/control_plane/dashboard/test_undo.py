"""Undo: what a form has done is taken back exactly, once, by who did it, and never over somebody else's change."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, insert, update

from control_plane.api.table import ROUTES
from control_plane.dashboard.outcomes import CONFIRMED
from control_plane.dashboard.undoing import NOT_UNDONE, UNDOABLE
from control_plane.push.jobs import PAUSED, RUNNING
from control_plane.tables import PushJob, PushSlice, new_id, utc_now
from tests.control_plane.dashboard.browsing import Browser, Page
from tests.control_plane.dashboard.conftest import MEMBERS, Office
from tests.control_plane.dashboard.people import in_database
from tests.control_plane.dashboard.test_door import CHANGES

ORG = "/v2/organizations/Undoers"
HOME = "/organizations/Undoers"


@dataclass(frozen=True)
class Things:
    """An organization of which the owner is one, and the developer and the viewer are members of their own role.

    Args:
        office: where they work.
        org: its API address, by id, as are those below it.
        app: an application's.
        model: a model's with two versions.
        page: the model's page.
    """

    office: Office
    org: str
    app: str
    model: str
    page: str

    @property
    def developer(self) -> Browser:
        return self.office.browsers["developer"]

    def offered(self, environment: str) -> list[tuple[int, float, Any]]:
        """Return what an environment offers of the model."""
        groups = {group["name"]: group for group in self.office.api.get(f"{self.model}/environment_groups")}
        releases = groups[environment]["releases"]
        return [(each["version"], each["percent"], each["conditions"]) for each in releases]


@pytest.fixture(scope="module")
def things(office: Office) -> Things:
    api = office.api
    org = f"/v2/organizations/{api.post('/v2/organizations', {'name': 'Undoers'})['id']}"
    for role in ("viewer", "developer"):
        api.post(f"{org}/members", {"email": MEMBERS[role], "role": role})
    new = {"name": "Ours", "bundle_id": "com.example.ours", "platform": "ios", "first_model": "voice"}
    app = f"{org}/apps/{api.post(f'{org}/apps', new)['id']}"
    model = f"{app}/models/{api.get(f'{app}/models')[0]['id']}"
    for content in (b"one", b"two", b"three"):
        api.upload(model, content, "model.bin", "as it came")
    return Things(office, org, app, model, f"{HOME}/apps/Ours/models/voice")


@pytest.fixture
def environment(things: Things) -> Iterator[str]:
    """An environment where nothing was deployed yet."""
    name = f"e{new_id()[:8]}"
    things.office.api.post(f"{things.app}/environments", {"name": name})
    yield name
    things.office.api.delete(f"{things.app}/environments/{name}")


def sent(browser: Browser, at: str, form: str, values: Mapping[str, Any] | None = None) -> Page:
    """Send a form of a page, and return the page that it leads to."""
    return Page(browser.send(browser.get(at).forms[form], values))


def undo(browser: Browser, page: Page) -> Page:
    """Press the button beside a notice."""
    return Page(browser.send(page.forms["undo"]))


# --- The table ----------------------------------------------------------------------------------------------------


def test_every_change_is_taken_back_or_confirmed_by_a_name_or_it_is_said_why_neither() -> None:
    known = [*UNDOABLE, *CONFIRMED, *NOT_UNDONE]
    assert len(known) == len(set(known)), "one of them"
    assert set(known) == {(route.method, route.path) for route in CHANGES}
    assert all(reason.endswith(".") for reason in NOT_UNDONE.values())


def test_the_page_on_the_dashboard_lists_what_cannot_be_undone() -> None:
    listed = re.findall(
        r"^\| ([^|`]+) \| ([^|]+\.) \|$", Path("docs/dashboard.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    summaries = {(route.method, route.path): route.summary for route in ROUTES}
    assert listed == [(summaries[change], reason) for change, reason in NOT_UNDONE.items()]


# --- Fields -------------------------------------------------------------------------------------------------------


def test_a_renamed_organization_gets_its_name_back(things: Things) -> None:
    owner = things.office.owner
    page = sent(owner, f"{HOME}/settings", "rename", {"name": "Re&named"})
    assert "The organization is called Re&named now." in page.text
    page = undo(owner, page)
    assert page.answer.url.path == f"{HOME}/settings", "of the name that it has again"
    assert "Undone: the organization has the name Undoers again." in page.text
    assert things.office.api.get(things.org)["name"] == "Undoers"
    assert "undo" not in page.forms, "what was undone is not undone"
    actions = [entry["action"] for entry in things.office.api.get(f"{things.org}/audit?action=organization.rename")]
    assert actions == ["organization.rename"] * 2, "it is a call as any other"


def test_a_changed_application_is_as_before(things: Things) -> None:
    changed = {"name": "Theirs", "bundle_id": "com.example.theirs"}
    page = sent(things.developer, f"{HOME}/apps/Ours/settings", "change", changed)
    assert page.answer.url.path == f"{HOME}/apps/Theirs/settings"
    page = undo(things.developer, page)
    assert page.answer.url.path == f"{HOME}/apps/Ours/settings"
    assert "Undone: the application has the name Ours and the bundle ID com.example.ours again." in page.text
    app = things.office.api.get(things.app)
    assert (app["name"], app["bundle_id"]) == ("Ours", "com.example.ours")


def test_what_was_not_changed_is_not_offered_to_be_undone(things: Things) -> None:
    page = sent(things.developer, f"{HOME}/apps/Ours/settings", "change")
    assert "The application was changed." in page.text
    assert "undo" not in page.forms


def test_a_renamed_environment_gets_its_name_back(things: Things, environment: str) -> None:
    at = f"{HOME}/apps/Ours/environments"
    page = sent(things.developer, at, f"rename-{environment}", {"name": "gamma"})
    assert "The environment is called gamma now." in page.text
    assert f"has the name {environment} again." in undo(things.developer, page).text
    assert things.office.api.get(f"{things.app}/environments/{environment}")["name"] == environment


def test_a_renamed_model_gets_its_name_back(things: Things) -> None:
    page = sent(things.developer, things.page, "rename", {"name": "sound & speech"})
    assert "The model is called sound & speech now." in page.text
    page = undo(things.developer, page)
    assert page.answer.url.path == things.page
    assert "Undone: the model has the name voice again." in page.text
    assert things.office.api.get(things.model)["name"] == "voice"


def test_a_version_is_described_as_before(things: Things) -> None:
    version = f"{things.model}/model_versions/1"
    page = sent(things.developer, f"{things.page}/versions/1", "describe", {"description": ""})
    page = undo(things.developer, page)
    assert "Undone: version 1 has the description as it came again." in page.text
    before = "two\nlines\tand 'quotes'"
    things.office.api.patch(version, {"description": before})
    undo(things.developer, sent(things.developer, f"{things.page}/versions/1", "describe", {"description": "x"}))
    assert things.office.api.get(version)["description"] == before, "to the byte"
    things.office.api.patch(version, {"description": None})
    page = sent(things.developer, f"{things.page}/versions/1", "describe", {"description": "x"})
    page = undo(things.developer, page)
    assert "Undone: version 1 has no description again." in page.text
    assert things.office.api.get(version)["description"] is None
    form = page.forms["describe"]
    del form.fields["description"]
    page = Page(things.developer.send(form, {"name": "renamed.bin"}))
    assert "has the name model.bin again" in undo(things.developer, page).text


# --- Members ------------------------------------------------------------------------------------------------------


def member(things: Things, name: str, role: str = "developer") -> tuple[str, str]:
    """Add a member; return their address and their id."""
    added = things.office.api.post(f"{things.org}/members", {"email": f"{name}@example.org", "role": role})
    return added["email"], added["id"]


def roles(things: Things) -> dict[str, str]:
    return {each["email"]: each["role"] for each in things.office.api.get(f"{things.org}/members")}


def test_a_member_gets_their_role_back(things: Things) -> None:
    email, user_id = member(things, "promoted")
    page = sent(things.office.owner, f"{HOME}/members", f"role-{user_id}", {"role": "owner"})
    assert roles(things)[email] == "owner"
    assert f"Undone: {email} has the role developer again." in undo(things.office.owner, page).text
    assert roles(things)[email] == "developer"


def test_a_removed_member_is_one_again_with_their_role(things: Things) -> None:
    email, user_id = member(things, "removed")
    page = sent(things.office.owner, f"{HOME}/members", f"remove-{user_id}")
    assert email not in roles(things)
    assert f"Undone: {email} is a member again, with the role developer." in undo(things.office.owner, page).text
    assert roles(things)[email] == "developer"


def test_a_member_whom_somebody_has_added_again_keeps_that_role(things: Things) -> None:
    email, user_id = member(things, "back")
    page = sent(things.office.owner, f"{HOME}/members", f"remove-{user_id}")
    member(things, "back", "viewer")
    assert "Not undone" in undo(things.office.owner, page).text
    assert roles(things)[email] == "viewer"


def test_who_gives_up_the_role_that_it_takes_is_not_offered_to_undo_it(things: Things) -> None:
    _, user_id = member(things, "retiring", "owner")
    retiring = Browser.of(things.office.api, "retiring@example.org")
    page = sent(retiring, f"{HOME}/members", f"role-{user_id}", {"role": "viewer"})
    assert "The member is viewer now." in page.text
    assert "undo" not in page.forms


# --- Pushes -------------------------------------------------------------------------------------------------------


@pytest.fixture
def push(things: Things, environment: str) -> Iterator[str]:
    """The id of a push that runs for as long as another worker says that it does."""
    ids = {each["name"]: each["id"] for each in things.office.api.get(f"{things.app}/environments")}
    job = {"id": new_id(), "environment_id": ids[environment], "model_id": things.model.rpartition("/")[2]}
    job |= {"version": 1, "sandbox": False, "state": RUNNING, "position": None, "started_at": utc_now()}
    in_database(things.office, insert(PushJob).values(**job))
    part = {"job_id": job["id"], "after": "", "last": "z", "worker": "another"}
    alive = utc_now() + timedelta(days=1)
    in_database(things.office, insert(PushSlice).values(**part, alive_at=alive))
    yield str(job["id"])
    in_database(things.office, delete(PushJob).where(PushJob.id == job["id"]))


def state(things: Things, push: str) -> str:
    return str(things.office.api.get(f"{things.model}/pushes/{push}")["state"])


def test_a_push_that_was_paused_goes_on_and_one_that_goes_on_is_paused(things: Things, push: str) -> None:
    at = f"{things.page}/deliveries"
    page = sent(things.developer, at, f"pause-{push}")
    assert state(things, push) == PAUSED
    assert "Undone: the push goes on." in undo(things.developer, page).text
    assert state(things, push) == RUNNING
    sent(things.developer, at, f"pause-{push}")
    page = sent(things.developer, at, f"resume-{push}")
    assert state(things, push) == RUNNING
    assert "Undone: the push is paused again." in undo(things.developer, page).text
    assert state(things, push) == PAUSED
    page = sent(things.developer, at, f"resume-{push}")
    things.office.api.post(f"{things.model}/pushes/{push}/cancel")
    assert "Not undone" in undo(things.developer, page).text


def test_a_push_that_waited_until_a_moment_would_not_wait_again(things: Things, push: str) -> None:
    waits = update(PushJob).where(PushJob.id == push)
    in_database(things.office, waits.values(resume_at=utc_now() + timedelta(hours=1), reason="quiet hours"))
    assert "undo" not in sent(things.developer, f"{things.page}/deliveries", f"pause-{push}").forms


# --- What is offered ----------------------------------------------------------------------------------------------


def offer(things: Things, environment: str, version: int, **rule: Any) -> None:
    """Deploy a version, as somebody else."""
    things.office.api.post(f"{things.model}/deploy", {"version": version, "environment": environment, **rule})


def deployed(things: Things, environment: str, version: int, **rule: str) -> Page:
    """Deploy a version by a form; return the page that it leads to."""
    values = {"environment": environment, **rule}
    return sent(things.developer, f"{things.page}/versions/{version}/deploy", "deploy", values)


def test_the_first_deploy_has_nothing_to_go_back_to(things: Things, environment: str) -> None:
    assert "undo" not in deployed(things, environment, 1).forms


def test_a_deploy_is_taken_back_by_a_roll_back(things: Things, environment: str) -> None:
    offer(things, environment, 1)
    page = deployed(things, environment, 2)
    assert things.offered(environment) == [(2, 100, {})]
    page = undo(things.developer, page)
    assert page.answer.url.path == things.page
    assert f"Undone: {environment} offers what it did before, version 1." in page.text
    assert things.offered(environment) == [(1, 100, {})]
    kinds = [each["kind"] for each in things.office.api.get(f"{things.model}/deployments?environment={environment}")]
    assert kinds == ["rollback", "deploy", "deploy"]


def test_a_step_of_a_rollout_is_taken_back_by_the_step_before(things: Things, environment: str) -> None:
    conditions = {"locale": {"any_of": ["de", "fr"]}}
    offer(things, environment, 1)
    offer(things, environment, 2, percent=33.33, conditions=conditions)
    before = things.offered(environment)
    page = undo(things.developer, deployed(things, environment, 2, percent="50", conditions=json.dumps(conditions)))
    said = f"{environment} offers what it did before, version 2 to 33.33 % under conditions, then version 1."
    assert said in page.text
    assert things.offered(environment) == before


def test_the_step_that_ends_a_rollout_is_not_offered_to_be_undone(things: Things, environment: str) -> None:
    """One call would have to bring two versions back."""
    offer(things, environment, 1)
    offer(things, environment, 2, percent=10)
    assert "undo" not in deployed(things, environment, 2).forms


def test_a_roll_back_is_taken_back_by_a_deploy(things: Things, environment: str) -> None:
    offer(things, environment, 1)
    offer(things, environment, 2, percent=25)
    before = things.offered(environment)
    page = sent(things.developer, things.page, f"roll-back-{environment}")
    assert things.offered(environment) == [(1, 100, {})]
    assert "version 2 to 25 %, then version 1." in undo(things.developer, page).text
    assert things.offered(environment) == before


def test_what_somebody_else_has_deployed_since_stays(things: Things, environment: str) -> None:
    offer(things, environment, 1)
    page = deployed(things, environment, 2)
    offer(things, environment, 3)
    page = undo(things.developer, page)
    assert "Not undone: what you did was changed since." in page.text
    assert things.offered(environment) == [(3, 100, {})]


def test_a_deployment_can_be_bound_to_the_one_that_was_seen_last(things: Things, environment: str) -> None:
    api, body = things.office.api, {"environment": environment}
    api.post(f"{things.model}/deploy", {**body, "version": 1, "after": 0})
    for path, more in (("deploy", {"version": 2}), ("rollback", {})):
        answer = api.call("POST", f"{things.model}/{path}", {**body, **more, "after": 0})
        assert (answer.status_code, answer.json()["code"]) == (409, "changed_since")
    assert api.post(f"{things.model}/deploy", {**body, "version": 2, "after": 1})["deployment"]["number"] == 2


# --- Whose, and how often -----------------------------------------------------------------------------------------


def described(things: Things, text: str) -> Page:
    return sent(things.developer, f"{things.page}/versions/2", "describe", {"description": text})


def description(things: Things) -> Any:
    return things.office.api.get(f"{things.model}/model_versions/2")["description"]


def test_it_is_undone_once(things: Things) -> None:
    page = described(things, "once")
    undo(things.developer, page)
    described(things, "twice")
    assert "This cannot be undone any more" in undo(things.developer, page).text
    assert description(things) == "twice"


def test_what_was_done_before_the_last_thing_is_not_undone(things: Things) -> None:
    page = described(things, "earlier")
    sent(things.developer, f"{HOME}/apps/Ours/settings", "change")
    assert "This cannot be undone any more" in undo(things.developer, page).text
    assert description(things) == "earlier"


def test_a_form_that_is_refused_takes_nothing_away(things: Things) -> None:
    before = description(things)
    page = described(things, "kept for now")
    sent(things.developer, f"{HOME}/apps/Ours/settings", "change", {"bundle_id": "two words"})
    undo(things.developer, page)
    assert description(things) == before


def test_another_change_since_is_not_overwritten(things: Things) -> None:
    page = described(things, "mine")
    things.office.api.patch(f"{things.model}/model_versions/2", {"description": "hers"})
    page = undo(things.developer, page)
    assert "Not undone: what you did was changed since." in page.text
    assert description(things) == "hers"


def test_what_was_deleted_since_is_not_changed_back(things: Things) -> None:
    new = things.office.api.post(f"{things.app}/models", {"name": "for a while"})
    page = sent(things.developer, f"{HOME}/apps/Ours/models/for a while", "rename", {"name": "for longer"})
    things.office.api.delete(f"{things.app}/models/{new['id']}")
    form = page.forms["undo"]
    form.fields["back"] = HOME
    assert "Not undone" in Page(things.developer.send(form)).text


def test_another_browser_of_the_same_person_has_nothing_to_undo(things: Things) -> None:
    before = description(things)
    page = described(things, "here")
    elsewhere = Browser.of(things.office.api, MEMBERS["developer"])
    form = page.forms["undo"]
    stolen = replace(form, fields={**form.fields, "form_token": elsewhere.form_token()})
    assert "This cannot be undone any more" in Page(elsewhere.send(stolen)).text
    assert description(things) == "here"
    undo(things.developer, page)
    assert description(things) == before


def test_who_may_only_look_by_now_undoes_nothing(things: Things) -> None:
    page = described(things, "as a developer")
    members = f"{things.org}/members/{MEMBERS['developer']}"
    things.office.api.patch(members, {"role": "viewer"})
    answer = things.developer.send(page.forms["undo"])
    assert (answer.status_code, description(things)) == (403, "as a developer")
    things.office.api.patch(members, {"role": "developer"})


def test_a_button_works_for_the_call_alone_that_it_was_made_for(things: Things) -> None:
    page = described(things, "for version 2")
    form = page.forms["undo"]
    form.action = f"/do/patch{things.model}/model_versions/1"
    assert "This cannot be undone any more" in Page(things.developer.send(form)).text
    assert description(things) == "for version 2"
    form.fields["undo"] = ""
    assert "This cannot be undone any more" in Page(things.developer.send(form)).text


def test_what_a_script_does_is_not_said_and_not_undone(things: Things) -> None:
    page = described(things, "by a form")
    answer = things.developer.call("PATCH", f"{things.model}/model_versions/3", {"description": "by a script"})
    assert answer.status_code == 200
    undo(things.developer, page)
    assert things.office.api.get(f"{things.model}/model_versions/3")["description"] == "by a script"


# --- What asks for a name -----------------------------------------------------------------------------------------


def test_a_version_and_a_key_are_given_up_by_typing_a_name(things: Things, environment: str) -> None:
    version = things.office.api.upload(things.model, b"doomed", "model.bin")["version"]
    at = f"{things.page}/versions/{version}"
    assert f"Type the name, {version}" in sent(things.developer, at, "delete", {"confirm": "voice"}).text
    page = sent(things.developer, at, "delete", {"confirm": str(version)})
    assert f"Version {version} is deleted." in page.text
    assert "undo" not in page.forms
    keys = f"{things.app}/environments/{environment}/keys"
    (old,) = things.office.api.get(keys)
    things.office.api.post(keys, {"overlap_seconds": 3600})
    at = f"{HOME}/apps/Ours/environments"
    sent(things.office.owner, at, f"revoke-{old['id']}", {"confirm": "prod"})
    assert len(things.office.api.get(keys)) == 2
    sent(things.office.owner, at, f"revoke-{old['id']}", {"confirm": environment})
    assert len(things.office.api.get(keys)) == 1
