"""Waking devices up, each operation described once; `skafos.client` runs them.

``org``, ``app``, ``model`` and ``env`` are names or ids; errors are as in `skafos.operations`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Literal

from skafos.calls import Call, Steps, ask, decode
from skafos.operations import Json, delete, listing, next_page, of_app, of_model
from skafos.records import PushCredential, PushedDevice, PushedDevices, PushEffect, PushJob


def list_push_credentials(org: str, app: str, env: str) -> Steps[list[PushCredential]]:
    """List what an environment can push with; secrets are not shown."""
    return listing(PushCredential, of_app(org, app, "environments", env, "push_credentials"))


def set_push_credential(
    org: str,
    app: str,
    env: str,
    service: str,
    content: bytes,
    *,
    kind: Literal["key", "certificate", "account"],
    key_id: str = "",
    team_id: str = "",
    password: str | None = None,
) -> Steps[PushCredential]:
    """Give an environment a credential to push with, in the place of the one before.

    Args:
        service: which is pushed through: Apple's "apns" or Google's "fcm".
        content: of the file that Apple gave, a .p8, .p12 or PEM, or of the JSON file of a Google service account.
        kind: for "apns" a key (.p8) for all apps of a team, or a certificate of this app; for "fcm" an account.
        key_id, team_id: of a key, as Apple shows them.
        password: of a certificate's file.
    """
    body: Json = {"kind": kind, "content": base64.b64encode(content).decode()}
    body |= {name: value for name, value in (("key_id", key_id), ("team_id", team_id)) if value}
    if password is not None:
        body["password"] = password
    url = of_app(org, app, "environments", env, "push_credentials", service)
    return ask(Call("PUT", url, json=body), PushCredential)


def delete_push_credential(org: str, app: str, env: str, service: str) -> Steps[None]:
    """Have an environment forget a credential."""
    return delete(of_app(org, app, "environments", env, "push_credentials", service))


def send_push(org: str, app: str, model: str, *, environment: str, apple_sandbox: bool | None = None) -> Steps[PushJob]:
    """Wake an environment's devices, so that they fetch what it offers of the model.

    Args:
        apple_sandbox: through Apple's development server; by default in the environment ``dev`` only.
    """
    body: Json = {"environment": environment}
    if apple_sandbox is not None:
        body["apple_sandbox"] = apple_sandbox
    return ask(Call("POST", of_model(org, app, model, "pushes"), json=body), PushJob)


def list_pushes(org: str, app: str, model: str, *, environment: str | None = None) -> Steps[list[PushJob]]:
    """List a model's pushes, newest first."""
    query = {"environment": environment} if environment else None
    return listing(PushJob, of_model(org, app, model, "pushes"), query)


def get_push(org: str, app: str, model: str, push_id: str) -> Steps[PushJob]:
    """Return a push with what became of it so far."""
    return ask(Call("GET", of_model(org, app, model, "pushes", push_id)), PushJob)


def list_pushed_devices(
    org: str,
    app: str,
    model: str,
    push_id: str,
    *,
    outcome: str | None = None,
    page: Mapping[str, str] | None = None,
) -> Steps[PushedDevices]:
    """Return a page of the devices that a push was sent to, with what became of each: there may be millions of them.

    Args:
        outcome: only of this one: "accepted", "gone", "refused" or "unknown".
        page: the `next` of the page before; None for the first.
    """
    query = {} if outcome is None else {"outcome": outcome}
    url = of_model(org, app, model, "pushes", push_id, "devices")
    answer = yield Call("GET", url, query=query if page is None else page)
    return PushedDevices(devices=decode(answer, list[PushedDevice]), next=next_page(answer))


def push_effect(org: str, app: str, model: str, push_id: str) -> Steps[PushEffect]:
    """Return what devices did within an hour after a push, and before.

    Raises:
        UnavailableError: ClickHouse cannot be asked; that is not the same as "they did nothing".
    """
    return ask(Call("GET", of_model(org, app, model, "pushes", push_id, "effect")), PushEffect)


def pause_push(org: str, app: str, model: str, push_id: str) -> Steps[PushJob]:
    """Have a push send no more for now."""
    return _change(org, app, model, push_id, "pause")


def resume_push(org: str, app: str, model: str, push_id: str) -> Steps[PushJob]:
    """Go on with a push that was paused."""
    return _change(org, app, model, push_id, "resume")


def cancel_push(org: str, app: str, model: str, push_id: str) -> Steps[PushJob]:
    """End a push; devices that were not sent to look by themselves."""
    return _change(org, app, model, push_id, "cancel")


def _change(org: str, app: str, model: str, push_id: str, word: str) -> Steps[PushJob]:
    return ask(Call("POST", of_model(org, app, model, "pushes", push_id, word), json={}), PushJob)
