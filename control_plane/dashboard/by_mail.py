"""What begins with an e-mail address and goes on with a link in a mail: another password, or an account.

The page answers the same, and as quickly, whether or not there is an account: all that depends on it is done when the
answer is out.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any

from aiohttp import web
from sqlalchemy import select

from control_plane import audit, mails
from control_plane.actor import BROWSER, NOT_SIGNED_IN, Actor
from control_plane.api.admission import SERVICES
from control_plane.dashboard.own_form import Fields, client, own_form, refused, typed_email
from control_plane.dashboard.page import SIGN_IN
from control_plane.dashboard.render import render
from control_plane.errors import ControlPlaneError, Missing
from control_plane.mail import Mail
from control_plane.one_time_links import Purpose, make_link
from control_plane.sign_ins import MANY_MAILS, begin_try, mail_subjects
from control_plane.tables import User, utc_now

FORGOTTEN = "/forgotten"
SIGN_UP = "/sign-up"


def add_by_mail(app: web.Application) -> None:
    """Add the pages that send a mail to whoever is not signed in."""
    app.router.add_get(FORGOTTEN, show_forgotten)
    app.router.add_post(FORGOTTEN, own_form(send_reset, _refuse))
    app.router.add_get(SIGN_UP, show_sign_up)
    app.router.add_post(SIGN_UP, own_form(send_sign_up, _refuse))


async def show_forgotten(request: web.Request) -> web.StreamResponse:
    """Show the form for who forgot the password."""
    return await render(request, "by-mail.html", _shown(request))


async def show_sign_up(request: web.Request) -> web.StreamResponse:
    """Show the form for who has no account yet."""
    return await render(request, "by-mail.html", _shown(request))


async def send_reset(request: web.Request, form: Fields) -> web.StreamResponse:
    """Have a link mailed with which another password is set, if there is an account."""
    email = await _counted(request, form)
    services, actor = request.app[SERVICES], Actor(None, NOT_SIGNED_IN, client(request) or None, BROWSER)
    services.mailer.later(partial(_reset, request, email, actor, utc_now()))
    return await render(request, "by-mail.html", _shown(request, asked_by=email))


async def send_sign_up(request: web.Request, form: Fields) -> web.StreamResponse:
    """Have a link mailed that makes an account, or word that there is one."""
    services = request.app[SERVICES]
    if services.settings.sign_up != "open":
        raise Missing("Accounts are made by invitation here: ask somebody who owns an organization.")
    email = await _counted(request, form)
    services.mailer.later(partial(_sign_up, request, email, utc_now()))
    return await render(request, "by-mail.html", _shown(request, asked_by=email))


async def _sign_up(request: web.Request, email: str, now: datetime) -> Mail:
    public = _public(request)
    async with request.app[SERVICES].database.write() as session:
        if await session.scalar(select(User.id).where(User.email == email)) is not None:
            return mails.signed_up_before(email, f"{public}{SIGN_IN}", f"{public}{FORGOTTEN}")
        made = await make_link(session, Purpose.SIGN_UP, email, now)
    return mails.sign_up(email, f"{public}{made.path}")


async def _reset(request: web.Request, email: str, actor: Actor, now: datetime) -> Mail | None:
    services = request.app[SERVICES]
    async with services.database.write() as session:
        user = await session.scalar(select(User).where(User.email == email))
        if user is None:
            return None
        made = await make_link(session, Purpose.RESET, email, now)
        await audit.record_of_person(session, actor, user.id, "link.mail", email)
    return mails.reset(email, f"{_public(request)}{made.path}")


async def _counted(request: web.Request, form: Fields) -> str:
    """Return the address of a form, once it is counted.

    Raises:
        Invalid: it is no e-mail address.
        Missing: no mail is set up.
        TooMany: too many were asked for, for it or from where this request comes from.
    """
    services = request.app[SERVICES]
    if not services.mailer.is_set_up:
        raise Missing("No mails are sent from here; ask whoever operates this Skafos.")
    email = typed_email(form)
    async with services.database.write() as session:
        await begin_try(session, mail_subjects(email, client(request)), utc_now(), MANY_MAILS)
    return email


async def _refuse(request: web.Request, form: Fields, error: ControlPlaneError) -> web.StreamResponse:
    return await refused(request, "by-mail.html", error, _shown(request, email=form.get("email", "")))


def _shown(request: web.Request, email: str = "", asked_by: str | None = None) -> Mapping[str, Any]:
    """Return what the page shows: the form, with what was typed, or who asked with it."""
    services, signs_up = request.app[SERVICES], request.path == SIGN_UP
    possible = services.settings.sign_up == "open" if signs_up else services.mailer.is_set_up
    return {"signs_up": signs_up, "possible": possible, "email": email, "asked_by": asked_by}


def _public(request: web.Request) -> str:
    """Return where links in mails lead: never to what the request calls its host, which anybody can choose."""
    public = request.app[SERVICES].settings.control_public_url
    assert public is not None, "settings with a mail server have it"
    return public.rstrip("/")
