"""Forms of pages for whoever is not signed in yet, and of what is the person's own: they call no route of the API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from aiohttp import web

from control_plane.actor import BROWSER, Actor
from control_plane.api.admission import SERVICES
from control_plane.api.errors import status_of
from control_plane.client_address import client_of
from control_plane.dashboard.cookie import FORM_TOKEN_FIELD, require_own_form
from control_plane.dashboard.form_body import read_form
from control_plane.dashboard.render import render
from control_plane.errors import ControlPlaneError, Invalid
from control_plane.names import check_email
from control_plane.tables import User

Fields: TypeAlias = Mapping[str, str]
Work: TypeAlias = Callable[[web.Request, Fields], Awaitable[web.StreamResponse]]
# Returns the page of a form that was refused, with why.
Refusal: TypeAlias = Callable[[web.Request, Fields, ControlPlaneError], Awaitable[web.StreamResponse]]


def own_form(work: Work, refuse: Refusal) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return the handler of a form: it must be one of ours, and what is wrong with it is shown on its page."""

    async def handle(request: web.Request) -> web.StreamResponse:
        form: Fields = {}
        try:
            form = {name: value for name, value in (await read_form(request)).items() if isinstance(value, str)}
            require_own_form(request, form.get(FORM_TOKEN_FIELD))
            return await work(request, form)
        except ControlPlaneError as error:
            return await refuse(request, form, error)

    return handle


async def refused(
    request: web.Request, template: str, error: ControlPlaneError, shown: Mapping[str, Any]
) -> web.StreamResponse:
    """Return a page with what is wrong with its form."""
    return await render(request, template, {**shown, "refused": error.beside_field}, status=status_of(error))


def typed_email(form: Fields) -> str:
    """Return the e-mail address of a form, as addresses are kept.

    Raises:
        Invalid: it is none.
    """
    try:
        return check_email(form.get("email", "").strip())
    except ValueError:
        raise Invalid("email: This is not an e-mail address.", field="email") from None


def client(request: web.Request) -> str:
    """Return the address that a request comes from."""
    return client_of(request, request.app[SERVICES].settings.control_trusted_proxies)


def acting(request: web.Request, user: User) -> Actor:
    """Return who acts, as the audit log names them, by a form of a browser."""
    return Actor(user.id, user.email, client(request) or None, BROWSER)
