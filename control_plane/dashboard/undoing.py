"""Taking back what a form of the dashboard has just done, by the call of the management API that is its inverse.

For each route that has one, a line of `UNDOABLE` says what is read before it runs and which call restores that. The
call waits in the session of the browser until the button beside the notice is pressed. Then the door makes it as any
other: the caller's role is looked at anew, and the audit log has an entry. It is offered once, to the browser that sent
the form, and only where it restores exactly what was there; it is refused if what the form left has changed since.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol
from urllib.parse import quote

import orjson
from pydantic import BaseModel
from sqlalchemy import func, select

from control_plane import lookup, web_sessions
from control_plane.api.applications import show_one_application
from control_plane.api.call import Call
from control_plane.api.environments import show_one_environment
from control_plane.api.models import show_one_model
from control_plane.api.organizations import show_member, show_one_organization
from control_plane.api.pushes import show_one_push
from control_plane.api.route import Access, Route
from control_plane.api.schemas import ApplicationOut, ApplicationQuery, DeploymentOut, MemberOut, PushJobOut
from control_plane.api.table import APP, ENV, MODEL, ORG, PUSH, ROUTES, VERSION
from control_plane.api.versions import find_model, show_one_version
from control_plane.errors import Conflict, ControlPlaneError, Missing
from control_plane.offers import Offer
from control_plane.publish import DEPLOY
from control_plane.push.jobs import ACTIVE, PAUSED
from control_plane.roll_back import Step
from control_plane.tables import Deployment, new_id
from control_plane.way_back import Stand, way_back
from manifests.model import BUCKETS

API_PREFIX: Final = "/v2"
_ROUTES: Final = {(route.method, route.path): route for route in ROUTES}
_GONE: Final = "This cannot be undone any more: it was undone, or you have done something else since."
_CHANGED: Final = "Not undone: what you did was changed since. Look at what is there now."


@dataclass(frozen=True, slots=True)
class Undo:
    """A call of the management API that takes another one back.

    Args:
        path: of a route; its method is the line's.
        body: of the call.
        left: what the call that it takes back has left, which must still be there.
        says: what is restored, once it is.
    """

    path: str
    body: Mapping[str, Any]
    left: Any
    says: str


@dataclass(frozen=True, slots=True)
class Done:
    """A call that was made.

    Args:
        call: it.
        known: what the line had looked at before.
        body: of the call.
        answer: of the route's handler.
    """

    call: Call
    known: Any
    body: BaseModel | None
    answer: Any


@dataclass(frozen=True, slots=True)
class Inverse:
    """A call that is about to take another one back, and its body."""

    call: Call
    body: Mapping[str, Any]


class Undoable(Protocol):
    """How what a route does is taken back."""

    @property
    def method(self) -> str:
        """The method of the inverse route."""

    async def look(self, call: Call) -> Any:
        """Return what has to be known from before the route runs."""

    async def undo(self, done: Done) -> Undo | None:
        """Return the call that restores what was there before, or None if none restores exactly that."""

    async def left(self, inverse: Inverse) -> Any:
        """Return what is there now, to be compared with `Undo.left`."""


@dataclass(frozen=True, slots=True)
class _Fields:
    """Fields of a thing that were changed get back the values from before.

    Args:
        path: of the route that changes the thing, which restores it as well.
        what: the thing, in words; in braces what the answer says of it.
        show: returns it.
        fields: that can be changed, each with what people call it.
    """

    path: str
    what: str
    show: Callable[[Call], Awaitable[BaseModel]]
    fields: Mapping[str, str]
    method: str = "PATCH"

    async def look(self, call: Call) -> Mapping[str, Any]:
        return self._of(await self.show(call))

    async def undo(self, done: Done) -> Undo | None:
        assert done.body is not None, "what changes a thing has a body"
        if not done.body.model_fields_set <= self.fields.keys():
            return None  # it did something else as well, as finish an upload
        is_now = self._of(done.answer)
        was = {name: value for name, value in done.known.items() if value != is_now[name]}
        if not was:
            return None
        words = [
            f"the {self.fields[name]} {value}" if value else f"no {self.fields[name]}" for name, value in was.items()
        ]
        says = f"Undone: {self.what.format_map(done.answer.model_dump())} has {' and '.join(words)} again."
        return Undo(self.path, was, {name: is_now[name] for name in was}, says)

    async def left(self, inverse: Inverse) -> Mapping[str, Any]:
        present = self._of(await self.show(inverse.call))
        return {name: present[name] for name in inverse.body}

    def _of(self, shown: BaseModel) -> dict[str, Any]:
        return {name: getattr(shown, name) for name in self.fields}


@dataclass(frozen=True, slots=True)
class _Removal:
    """A member who was removed is added again, with their role."""

    method: str = "POST"

    async def look(self, call: Call) -> MemberOut:
        return await _show_member(call)

    async def undo(self, done: Done) -> Undo:
        email, role = done.known.email, done.known.role
        says = f"Undone: {email} is a member again, with the role {role}."
        return Undo(f"{ORG}/members", {"email": email, "role": role}, None, says)

    async def left(self, inverse: Inverse) -> str | None:
        organization_id = inverse.call.organization.id
        try:
            async with inverse.call.database.read() as session:
                member, _ = await lookup.member(session, organization_id, inverse.body["email"])
        except Missing:
            return None
        return member.role


@dataclass(frozen=True, slots=True)
class _Push:
    """A push that was paused goes on, or the other way round.

    Args:
        to: what the inverse is called.
        was: what the push has to have been.
        says: what is restored.
    """

    to: str
    was: str
    says: str
    method: str = "POST"

    async def look(self, call: Call) -> PushJobOut:
        return await show_one_push(call)

    async def undo(self, done: Done) -> Undo | None:
        # What a push waits for is forgotten when it is paused.
        if _going(done.known) != self.was or done.known.resume_at is not None:
            return None
        return Undo(f"{PUSH}/{self.to}", {}, _going(done.answer), self.says)

    async def left(self, inverse: Inverse) -> str:
        return _going(await show_one_push(inverse.call))


_ON: Final = "on"


def _going(push: PushJobOut) -> str:
    """Return a push's state; which of its devices come next is the workers' own."""
    return _ON if push.state in ACTIVE else push.state


@dataclass(frozen=True, slots=True)
class _Deployment:
    """What a model offers in an environment becomes what it was before the last deploy or roll-back."""

    method: str = "POST"

    async def look(self, call: Call) -> None:
        """Nothing: the history has it, in the one order in which things happened."""

    async def undo(self, done: Done) -> Undo | None:
        deployment: DeploymentOut = done.answer.deployment
        environment_id, history = await _history(done.call, deployment.id)
        if history[-1].step.number != deployment.number:
            return None
        way = way_back(history)
        if way is None:
            return None
        path, asked = f"{MODEL}/rollback", {"environment": environment_id, "after": deployment.number}
        if isinstance(way, Offer):
            rule = {"percent": way.buckets * 100 / BUCKETS, "conditions": dict(way.conditions)}
            path, asked = f"{MODEL}/deploy", {**asked, "version": way.version, **rule}
        offered = ", then ".join(map(_say_offer, history[-2].offers))
        says = f"Undone: {deployment.environment} offers what it did before, {offered}."
        return Undo(path, asked, deployment.number, says)

    async def left(self, inverse: Inverse) -> int | None:
        async with inverse.call.database.read() as session:
            application, model = await find_model(session, inverse.call)
            environment = await lookup.environment(session, application.id, inverse.body["environment"])
            place = Deployment.environment_id == environment.id, Deployment.model_id == model.id
            return await session.scalar(select(func.max(Deployment.number)).where(*place))


async def _history(call: Call, deployment_id: str) -> tuple[str, list[Stand]]:
    """Return the id of a deployment's environment, and every deployment of its model there.

    Raises:
        Missing: the model or the environment was deleted.
    """
    async with call.database.read() as session:
        this = await session.get(Deployment, deployment_id)
        if this is None:
            raise Missing("There is no such deployment.")
        place = Deployment.environment_id == this.environment_id, Deployment.model_id == this.model_id
        rows = select(Deployment.number, Deployment.kind, Deployment.offers).where(*place).order_by(Deployment.number)
        found = (await session.execute(rows)).all()
    stands = []
    for number, kind, left in found:
        offers = tuple(Offer(**offer) for offer in left)
        stands.append(Stand(Step(number, offers[0] if kind == DEPLOY else None), offers))
    return this.environment_id, stands


def _say_offer(offer: Offer) -> str:
    share = "" if offer.buckets == BUCKETS else f" to {offer.buckets * 100 / BUCKETS:g} %"
    return f"version {offer.version}{share}{' under conditions' if offer.conditions else ''}"


async def _show_application(call: Call) -> ApplicationOut:
    return await show_one_application(call, ApplicationQuery(with_models=False))


async def _show_member(call: Call) -> MemberOut:
    async with call.database.read() as session:
        return show_member(*await lookup.member(session, call.organization.id, call.part("member")))


_MEMBER: Final = f"{ORG}/members/{{member}}"
_NAME: Final = {"name": "name"}

# What is taken back by one call, by method and path.
UNDOABLE: Final[Mapping[tuple[str, str], Undoable]] = {
    ("PATCH", ORG): _Fields(ORG, "the organization", show_one_organization, _NAME),
    ("PATCH", _MEMBER): _Fields(_MEMBER, "{email}", _show_member, {"role": "role"}),
    ("DELETE", _MEMBER): _Removal(),
    ("PATCH", APP): _Fields(
        APP, "the application", _show_application, {"name": "name", "bundle_id": "bundle ID", "platform": "platform"}
    ),
    ("PATCH", ENV): _Fields(ENV, "the environment", show_one_environment, _NAME),
    ("PATCH", MODEL): _Fields(MODEL, "the model", show_one_model, _NAME),
    ("PATCH", VERSION): _Fields(
        VERSION, "version {version}", show_one_version, {"name": "name", "description": "description"}
    ),
    ("POST", f"{PUSH}/pause"): _Push("resume", _ON, "Undone: the push goes on."),
    ("POST", f"{PUSH}/resume"): _Push("pause", PAUSED, "Undone: the push is paused again."),
    ("POST", f"{MODEL}/deploy"): _Deployment(),
    ("POST", f"{MODEL}/rollback"): _Deployment(),
}

_DELETED_BY_NAME: Final = "What was made is deleted where it stands, by its name."
# Why the others are not; what is deleted by its name (`control_plane.dashboard.outcomes.CONFIRMED`) apart.
NOT_UNDONE: Final[Mapping[tuple[str, str], str]] = {
    ("PUT", "/v2/me/password"): "The password from before is not kept.",
    ("DELETE", "/v2/me/sessions"): "Who was signed out signs in again.",
    ("DELETE", "/v2/me/sessions/{session}"): "Who was signed out signs in again.",
    ("DELETE", "/v2/me/identities/{identity}"): "Signing in at the provider links it again.",
    ("POST", "/v2/organizations"): _DELETED_BY_NAME,
    ("POST", f"{ORG}/members"): "Somebody new has an account from then on, which removing the member leaves.",
    ("POST", f"{ORG}/invitations"): "It is taken back in the list of open invitations, while nobody has used it.",
    ("DELETE", f"{ORG}/invitations/{{invitation}}"): "Its link was shown once and is not kept; make another.",
    ("POST", f"{ORG}/erasures"): "What is erased has to be gone.",
    ("POST", "/v2/tokens"): "It is revoked in the list of tokens; what it has done until then stays done.",
    ("DELETE", "/v2/tokens/{token}"): "Whoever has got hold of a token must not get it back.",
    ("POST", f"{ORG}/apps"): _DELETED_BY_NAME,
    ("POST", f"{APP}/environments"): _DELETED_BY_NAME,
    ("POST", f"{ENV}/keys"): "The keys before have got an end, which nothing takes away again.",
    ("POST", f"{ENV}/root/rotate"): "Devices follow a chain of roots, which only grows.",
    ("POST", f"{ENV}/online-key/rotate"): "Devices follow a chain of roots, which only grows.",
    ("PUT", f"{ENV}/push_credentials/{{service}}"): "The credential from before is not kept.",
    ("DELETE", f"{ENV}/push_credentials/{{service}}"): "The credential is not kept; it can be uploaded again.",
    ("POST", f"{APP}/models"): _DELETED_BY_NAME,
    ("POST", f"{MODEL}/model_versions"): "An upload that does not go on is forgotten by itself.",
    ("POST", f"{MODEL}/pushes"): "Devices that were woken are awake; the others are spared by cancelling the push.",
    ("POST", f"{PUSH}/cancel"): "A push that has ended does not begin again; another one can be sent.",
    ("POST", "/v2/sql"): "It only reads.",
}


@dataclass(frozen=True, slots=True)
class Known:
    """What is known from before a route runs.

    Args:
        line: of `UNDOABLE`.
        parts: of the route's path, by ids: names may be what it changes.
        seen: what the line has to know.
    """

    line: Undoable
    parts: Mapping[str, str]
    seen: Any


async def look(route: Route, call: Call) -> Known | None:
    """Return what taking a call back has to know, before it is made; None for what is not taken back."""
    line = UNDOABLE.get((route.method, route.path))
    return None if line is None else Known(line, await _parts(call), await line.look(call))


async def offer(
    route: Route, call: Call, known: Known | None, body: BaseModel | None, answer: Any, following: str
) -> Mapping[str, Any] | None:
    """Return what the session keeps to take a call back that was made, and what its notice needs for the button.

    Args:
        route: that was called.
        call: the call.
        known: from before.
        body: of the call.
        answer: of the route's handler.
        following: the page to show when it is taken back.

    Returns:
        None if it cannot be taken back, or not by this caller any more.
    """
    if known is None:
        return None
    with suppress(ControlPlaneError):  # the call was made and stays made
        undo = await known.line.undo(Done(call, known.seen, body, answer))
        if undo is None:
            return None
        inverse = _ROUTES[known.line.method, undo.path]
        if not await _may(call, inverse.access):
            return None
        parts = {name: known.parts[name] for name in inverse.parameters}
        kept = {"id": new_id(), "of": [route.method, route.path], "method": inverse.method, "parts": parts}
        return {**kept, **asdict(undo), "following": following}
    return None


def button(undo: Mapping[str, Any]) -> Mapping[str, str]:
    """Return what the notice needs for the button: no more than where its form goes, and what is kept by which id."""
    path = undo["path"].format_map({name: quote(part, safe="") for name, part in undo["parts"].items()})
    path = path.removeprefix(API_PREFIX)
    return {"id": undo["id"], "method": undo["method"].lower(), "path": path, "next": undo["following"]}


@dataclass(frozen=True, slots=True)
class Taken:
    """A call that takes another one back, and may be made now.

    Args:
        body: of the call.
        says: what is restored, once it is.
    """

    body: BaseModel | None
    says: str


async def take(route: Route, call: Call, undo_id: str) -> Taken:
    """Return what was offered, once.

    Args:
        route: that is called.
        call: of somebody who may call it.
        undo_id: what the button holds.

    Raises:
        Conflict: it is not offered any more, or what it would take back has changed since.
    """
    kept = None
    if call.caller.session_id is not None:
        async with call.database.write() as session:
            kept = await web_sessions.take_undo(session, call.caller.session_id, undo_id)
    here = (route.method, route.path, dict(call.request.match_info))
    if kept is None or (kept["method"], kept["path"], kept["parts"]) != here:
        raise Conflict(_GONE, "undo_gone")
    method, path = kept["of"]
    try:
        left = await UNDOABLE[method, path].left(Inverse(call, kept["body"]))
    except Missing:
        raise Conflict(_CHANGED, "changed_since") from None
    if left != kept["left"]:
        raise Conflict(_CHANGED, "changed_since")
    body = None if route.body is None else route.body.model_validate_json(orjson.dumps(kept["body"]))
    return Taken(body, kept["says"])


async def _parts(call: Call) -> dict[str, str]:
    """Return the parts of the call's path, by ids.

    Raises:
        Missing: there is no such thing.
    """
    parts = {**call.request.match_info, "org": call.organization.id}
    async with call.database.read() as session:
        if "member" in parts:
            _, user = await lookup.member(session, call.organization.id, parts["member"])
            parts["member"] = user.id
        if "app" not in parts:
            return parts
        application = await lookup.application(session, call.organization.id, parts["app"])
        parts["app"] = application.id
        if "env" in parts:
            parts["env"] = (await lookup.environment(session, application.id, parts["env"])).id
        if "model" in parts:
            model = await lookup.model(session, application.id, parts["model"])
            parts["model"] = model.id
            if "version" in parts:
                parts["version"] = (await lookup.model_version(session, model.id, parts["version"])).id
    return parts


async def _may(call: Call, access: Access) -> bool:
    """Say whether the caller has a role still, which they may just have changed."""
    async with call.database.read() as session:
        _, role = await lookup.organization(session, call.caller, call.organization.id)
    return access.role is not None and role >= access.role
