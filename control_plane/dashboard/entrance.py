"""Coming in and going out: signing in with a password or a link that works once, then a code, and signing out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from aiohttp import web
from sqlalchemy import select

from control_plane import audit, one_time_links, web_sessions
from control_plane.api.admission import SERVICES, admit
from control_plane.api.route import Access
from control_plane.dashboard.addresses import local
from control_plane.dashboard.coming_in import CODE, Begun, begin, go_on
from control_plane.dashboard.cookie import by_session, read_cookie
from control_plane.dashboard.own_form import Fields, acting, client, own_form, refused, typed_email
from control_plane.dashboard.page import SIGN_IN, show_error
from control_plane.dashboard.render import render
from control_plane.errors import Conflict, ControlPlaneError, Forbidden, Invalid, Unauthorized
from control_plane.one_time_links import Purpose
from control_plane.passwords import check_password
from control_plane.second_factor import WRONG
from control_plane.sign_ins import WRONG_CODES, begin_try, code_subjects, end_try, forget_account, subjects_of
from control_plane.tables import User, utc_now

FOR_NEWCOMERS = (Purpose.INVITATION, Purpose.SIGN_UP)
_WRONG = "E-mail address and password do not belong together."


def add_entrance(app: web.Application) -> None:
    """Add the pages for whoever is not signed in yet."""
    app.router.add_get(SIGN_IN, show_sign_in)
    app.router.add_post(SIGN_IN, own_form(sign_in, _refuse))
    app.router.add_get(CODE, show_code)
    app.router.add_post(CODE, own_form(give_code, _refuse_code))
    app.router.add_post("/sign-out", own_form(sign_out, _refuse))
    app.router.add_get(f"{one_time_links.PATH}/{{link}}", show_link)
    app.router.add_post(f"{one_time_links.PATH}/{{link}}", own_form(use_link, _refuse_link))


async def show_sign_in(request: web.Request) -> web.StreamResponse:
    """Show the page to sign in on, or go on if that is done."""
    following = local(request.query.get("next"))
    try:
        await admit(Access.TOKEN, request, by_session)
    except Unauthorized:
        return await render(request, "sign-in.html", shown_on_sign_in(request, following))
    raise web.HTTPSeeOther(following)


def shown_on_sign_in(request: web.Request, following: str, email: str = "") -> Mapping[str, Any]:
    """Return what the page to sign in on shows."""
    services = request.app[SERVICES]
    return {
        "following": following,
        "email": email,
        "mails": services.mailer.is_set_up,
        "sign_up": services.settings.sign_up == "open",
        "openid": None if services.openid is None else services.openid.settings.name,
    }


async def _refuse(request: web.Request, form: Fields, error: ControlPlaneError) -> web.StreamResponse:
    shown = shown_on_sign_in(request, local(form.get("next")), form.get("email", ""))
    return await refused(request, "sign-in.html", error, shown)


async def sign_in(request: web.Request, form: Fields) -> web.StreamResponse:
    """Sign somebody in who knows the password. What is wrong, the address or the password, is not told."""
    services = request.app[SERVICES]
    email, password = typed_email(form), form.get("password", "")
    subjects = subjects_of(email, client(request))
    now = utc_now()
    async with services.database.write() as session:
        await begin_try(session, subjects, now)
    async with services.database.read() as session:
        user = await session.scalar(select(User).where(User.email == email))
    if not await services.passwords.matches(None if user is None else user.password_hash, password) or user is None:
        raise Invalid(_WRONG, "wrong_password")
    async with services.database.write() as session:
        await end_try(session, subjects)
        begun = await begin(request, session, user, now)
        if not begun.awaits_code:
            await audit.record_of_person(session, acting(request, user), user.id, "sign-in", user.email)
    return go_on(request, begun, local(form.get("next")))


async def show_code(request: web.Request) -> web.StreamResponse:
    """Show the form for the second factor, or go back if none is awaited."""
    cookie, following = read_cookie(request), local(request.query.get("next"))
    async with request.app[SERVICES].database.read() as session:
        user = None if cookie is None else await web_sessions.who_waits(session, cookie, utc_now())
    if user is None:
        raise web.HTTPSeeOther(f"{SIGN_IN}?next={quote(following, safe='')}")
    return await render(request, "code.html", {"following": following})


async def give_code(request: web.Request, form: Fields) -> web.StreamResponse:
    """Sign somebody in who knows the password and has the app, or a recovery code."""
    services, now, following = request.app[SERVICES], utc_now(), local(form.get("next"))
    cookie = read_cookie(request) or ""
    async with services.database.read() as session:
        user = await web_sessions.who_waits(session, cookie, now)
    if user is None:
        raise web.HTTPSeeOther(f"{SIGN_IN}?next={quote(following, safe='')}")
    subjects = code_subjects(user.email, client(request))
    async with services.database.write() as session:
        await begin_try(session, subjects, now, WRONG_CODES)
    async with services.database.write() as session:
        by = await services.second_factors.check(session, user.id, form.get("code", ""), now)
        if by is None or not await web_sessions.end_waiting(session, cookie, now):
            raise Invalid(WRONG, "wrong_code")
        await end_try(session, subjects)
        fresh = await web_sessions.begin(session, user, request.headers.get("User-Agent", ""), now)
        await audit.record_of_person(session, acting(request, user), user.id, "sign-in", user.email, {"code": by})
    return go_on(request, Begun(fresh), following)


async def _refuse_code(request: web.Request, form: Fields, error: ControlPlaneError) -> web.StreamResponse:
    return await refused(request, "code.html", error, {"following": local(form.get("next"))})


async def sign_out(request: web.Request, form: Fields) -> web.StreamResponse:  # noqa: ARG001
    """Sign the browser out."""
    try:
        call = await admit(Access.TOKEN, request, by_session)
    except Unauthorized:
        raise web.HTTPSeeOther(SIGN_IN) from None
    async with call.database.write() as session:
        await web_sessions.end(session, call.caller.user_id, only=call.caller.session_id)
    return go_on(request, Begun(web_sessions.new_token()), SIGN_IN)


async def show_link(request: web.Request) -> web.StreamResponse:
    """Show what a link is for; it is used by a button."""
    return await _show_link(request)


async def _refuse_link(request: web.Request, form: Fields, error: ControlPlaneError) -> web.StreamResponse:  # noqa: ARG001
    return await _show_link(request, error)


async def _show_link(request: web.Request, error: ControlPlaneError | None = None) -> web.StreamResponse:
    """Return the page of a link, with why it could not be used as it was."""
    try:
        async with request.app[SERVICES].database.read() as session:
            row, organization = await one_time_links.look_at_link(session, request.match_info["link"], utc_now())
            known = await session.scalar(select(User.id).where(User.email == row.email))
    except ControlPlaneError as gone:
        return await show_error(request, gone)
    shown: dict[str, Any] = {
        "link": row,
        "organization_name": None if organization is None else organization.name,
        "needs_password": _needs_password(row.purpose, known),
    }
    if error is None:
        return await render(request, "link.html", shown)
    return await refused(request, "link.html", error, shown)


async def use_link(request: web.Request, form: Fields) -> web.StreamResponse:
    """Use a link: sign its user in, with a password that they set if they are new or forgot it.

    An invitation goes through the hands of whoever made it, so it opens no account that is there already: its user
    has to be signed in.
    """
    services = request.app[SERVICES]
    token, now = request.match_info["link"], utc_now()
    async with services.database.read() as session:
        row, _ = await one_time_links.look_at_link(session, token, now)
        known = await session.scalar(select(User.id).where(User.email == row.email))
    if row.purpose == Purpose.INVITATION and known is not None:
        return await _join(request, token, row.email)
    if row.purpose == Purpose.SIGN_UP and known is not None:
        raise Conflict("You have an account by now: sign in with it.")
    fresh = None
    if _needs_password(row.purpose, known):
        fresh = await services.passwords.hash(check_password(form.get("password", ""), row.email))
    async with services.database.write() as session:
        row, user, is_new = await one_time_links.use_link(session, token, now)
        if row.purpose in FOR_NEWCOMERS and not is_new:
            raise Conflict("Somebody of this address came in a moment ago; try again.")
        if fresh is not None:
            user.password_hash = fresh
            await forget_account(session, user.email)
            await web_sessions.end(session, user.id)
        begun = await begin(request, session, user, now)
        await audit.record_of_person(session, acting(request, user), user.id, f"link.{row.purpose}", user.email)
    return go_on(request, begun, "/")


async def _join(request: web.Request, token: str, email: str) -> web.StreamResponse:
    """Make who is signed in a member, if the invitation is theirs."""
    try:
        call = await admit(Access.TOKEN, request, by_session)
    except Unauthorized:
        raise web.HTTPSeeOther(f"{SIGN_IN}?next={quote(request.path, safe='')}") from None
    if call.caller.email != email:
        raise Forbidden(f"The invitation is for {email}, and you are signed in as {call.caller.email}: sign out first.")
    async with call.database.write() as session:
        row, user, _ = await one_time_links.use_link(session, token, call.now)
        await audit.record_of_person(session, call.actor, user.id, f"link.{row.purpose}", user.email)
    raise web.HTTPSeeOther("/")


def _needs_password(purpose: str, known: str | None) -> bool:
    """Say whether a password is set with a link, for a user of this id or for a new one."""
    return purpose == Purpose.RESET or (purpose in FOR_NEWCOMERS and known is None)
