"""The page on which people turn their second factor on and off.

It calls no route of the management API: what guards a password must not be changed by an API token.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import segno
from aiohttp import web
from markupsafe import Markup

from control_plane import audit, web_sessions
from control_plane.api.admission import admit
from control_plane.api.call import Call
from control_plane.api.errors import status_of
from control_plane.api.route import Access
from control_plane.dashboard.cookie import by_session
from control_plane.dashboard.own_form import Fields, own_form
from control_plane.dashboard.page import SIGN_IN, show_error
from control_plane.dashboard.render import render
from control_plane.errors import ControlPlaneError, Invalid, Unauthorized
from control_plane.second_factor import address_of, turn_off
from control_plane.sign_ins import WRONG_CODES, begin_try, code_subjects, end_try
from control_plane.tables import User

PATH: Final = "/account/second-factor"
TEMPLATE: Final = "second-factor.html"

Step = Callable[[Call, Fields], Awaitable[Mapping[str, Any]]]


def add_second_factor(app: web.Application) -> None:
    """Add the forms of the page."""
    steps: dict[str, Step] = {"begin": begin, "confirm": confirm, "codes": renew_codes, "off": turn_it_off}
    for name, step in steps.items():
        app.router.add_post(f"{PATH}/{name}", own_form(_stepping(step), _refuse))


async def show_second_factor(call: Call) -> Mapping[str, Any]:
    """Show whether it is on, and what can be done."""
    factors = call.services.second_factors
    async with call.database.read() as session:
        is_on = await factors.is_on(session, call.caller.user_id)
        left = await factors.recovery_codes_left(session, call.caller.user_id)
    return {"is_on": is_on, "left": left, "secret": None, "codes": None, "refused": None}


async def begin(call: Call, form: Fields) -> Mapping[str, Any]:
    """Show a secret to the user's app."""
    await _prove(call, form)
    async with call.database.write() as session:
        secret = await call.services.second_factors.begin(session, call.caller.user_id)
    return _shown(call, secret)


async def confirm(call: Call, form: Fields) -> Mapping[str, Any]:
    """Turn it on, since the app shows the right code. Other browsers, which signed in without one, are signed out."""
    user_id, email = call.caller.user_id, call.caller.email
    subjects = await _begin_try(call)
    try:
        async with call.database.write() as session:
            codes = await call.services.second_factors.confirm(session, user_id, form.get("code", ""), call.now)
            await end_try(session, subjects)
            await web_sessions.end(session, user_id, all_but=call.caller.session_id)
            await audit.record_of_person(session, call.actor, user_id, "second-factor.on", email)
    except Invalid as error:  # the app has this secret by now, so it is shown again
        async with call.database.read() as session:
            secret = await call.services.second_factors.begun(session, user_id)
        return {**_shown(call, secret), "refused": error.beside_field}
    return {**await show_second_factor(call), "codes": codes}


async def renew_codes(call: Call, form: Fields) -> Mapping[str, Any]:
    """Show new recovery codes in the place of those before."""
    await _prove(call, form)
    user_id = call.caller.user_id
    async with call.database.write() as session:
        if not await call.services.second_factors.is_on(session, user_id):
            raise Invalid("The second factor is off.")
        codes = await call.services.second_factors.renew_recovery_codes(session, user_id)
        await audit.record_of_person(session, call.actor, user_id, "second-factor.codes", call.caller.email)
    return {**await show_second_factor(call), "codes": codes}


async def turn_it_off(call: Call, form: Fields) -> Mapping[str, Any]:
    """Turn it off."""
    await _prove(call, form)
    async with call.database.write() as session:
        if await turn_off(session, call.caller.user_id):
            email = call.caller.email
            await audit.record_of_person(session, call.actor, call.caller.user_id, "second-factor.off", email)
    return await show_second_factor(call)


async def _prove(call: Call, form: Fields) -> None:
    """Have somebody prove that they are who signed in with this browser, by the password or a code.

    Raises:
        Invalid: neither is right.
        TooMany: too many were wrong of late.
    """
    given, user_id = form.get("proof", ""), call.caller.user_id
    async with call.database.read() as session:
        password_hash = (await session.get_one(User, user_id)).password_hash
        is_on = await call.services.second_factors.is_on(session, user_id)
    if password_hash is None and not is_on:
        return  # there is nothing yet that could be asked for
    subjects = await _begin_try(call)
    is_right = await call.services.passwords.matches(password_hash, given)
    async with call.database.write() as session:
        if not is_right and await call.services.second_factors.check(session, user_id, given, call.now) is None:
            raise Invalid("This is neither your password nor a code.", "wrong_password")
        await end_try(session, subjects)


async def _begin_try(call: Call) -> dict[str, int]:
    subjects = code_subjects(call.caller.email, call.client)
    async with call.database.write() as session:
        await begin_try(session, subjects, call.now, WRONG_CODES)
    return subjects


def _shown(call: Call, secret: str) -> Mapping[str, Any]:
    """Return what the page shows of a secret: in words, and as a picture for the app."""
    picture = segno.make(address_of(secret, call.caller.email), error="m")
    svg = picture.svg_inline(scale=5, dark="#000", light="#fff", svgclass="code", lineclass=None)
    return {"is_on": False, "left": 0, "secret": secret, "picture": Markup(svg), "codes": None, "refused": None}  # noqa: S704


def _stepping(step: Step) -> Callable[[web.Request, Fields], Awaitable[web.StreamResponse]]:
    async def work(request: web.Request, form: Fields) -> web.StreamResponse:
        try:
            call = await admit(Access.PERSON, request, by_session)
        except Unauthorized:
            raise web.HTTPSeeOther(SIGN_IN) from None
        try:
            return await render(request, TEMPLATE, await step(call, form), call)
        except ControlPlaneError as error:
            shown = {**await show_second_factor(call), "refused": error.sentence}
            return await render(request, TEMPLATE, shown, call, status_of(error))

    return work


async def _refuse(request: web.Request, form: Fields, error: ControlPlaneError) -> web.StreamResponse:  # noqa: ARG001
    return await show_error(request, error)
