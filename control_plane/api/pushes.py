"""Waking devices up: credentials of environments, pushes that people begin and hold up, and their history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane import audit, lookup
from control_plane.api.call import Call
from control_plane.api.environments import find_environment, named_environment
from control_plane.api.paging import Keyset, Page, Paging, decode_cursor, encode_cursor, fetch_page
from control_plane.api.schemas import (
    NewPush,
    NewPushCredential,
    PushCredentialOut,
    PushedDeviceOut,
    PushedDevicesQuery,
    PushEffectOut,
    PushesQuery,
    PushJobOut,
    PushStatusOut,
)
from control_plane.api.versions import find_model
from control_plane.errors import Conflict, Invalid, Missing
from control_plane.names import is_id
from control_plane.push import jobs
from control_plane.push.channel import Outcome
from control_plane.push.credentials import CredentialUnusable
from control_plane.push.effect import Effect, effect_of
from control_plane.push.expiry import expires_soon
from control_plane.push.log import Entry, Place, fetch_log, require_log
from control_plane.push.start import begin_push
from control_plane.push.vault import SERVICES, Upload, decode_content
from control_plane.tables import (
    Deployment,
    DevicePush,
    Environment,
    Model,
    PushCredential,
    PushEffect,
    PushJob,
    PushLog,
    User,
)

# A place in a push's log: a block of devices, and the last one shown.
_IN_LOG = Keyset((PushLog.after, DevicePush.device_id))

NOT_CONFIGURED = "The environment has no push credentials: upload a key, a certificate or a service account first."


async def list_credentials(call: Call, query: Paging) -> Page[PushCredentialOut]:
    """List what the environment can push with; secrets are not shown."""
    async with call.database.read() as session:
        _, environment = await find_environment(session, call)
        rows = (
            select(PushCredential, User.email)
            .outerjoin(User, User.id == PushCredential.actor_id)
            .where(PushCredential.environment_id == environment.id)
        )
        page = await fetch_page(session, rows, Keyset((PushCredential.service,)), query)
    return page.map(lambda row: _show_credential(row[0], row[1], call.now))


async def credentials_of(call: Call, environment_ids: Sequence[str]) -> dict[str, list[PushCredentialOut]]:
    """Return what each of these environments, which the caller may see, can push with."""
    shown: dict[str, list[PushCredentialOut]] = {each: [] for each in environment_ids}
    async with call.database.read() as session:
        rows = (
            select(PushCredential, User.email)
            .outerjoin(User, User.id == PushCredential.actor_id)
            .where(PushCredential.environment_id.in_(environment_ids))
            .order_by(PushCredential.service)
        )
        for row, email in (await session.execute(rows)).all():
            shown[row.environment_id].append(_show_credential(row, email, call.now))
    return shown


async def put_credential(call: Call, body: NewPushCredential) -> PushCredentialOut:
    """Store a credential in the place of the one before; what cannot work is refused with the reason."""
    service = _service(call)
    try:
        upload = Upload(body.kind, decode_content(body.content), body.key_id, body.team_id, body.password)
        async with call.database.write() as session:
            application, environment = await find_environment(session, call)
            row = await call.services.vault.store(session, environment, service, upload, call.actor.user_id)
            target = f"{application.name}/{environment.name}"
            detail = {"service": service, "kind": row.kind}
            audit.record(session, call.actor, call.organization.id, "push_credential.store", target, detail)
    except CredentialUnusable as error:
        raise Invalid(str(error), "credential_unusable") from None
    return _show_credential(row, call.caller.email, call.now)


async def delete_credential(call: Call) -> None:
    """Forget a credential; devices of its service are refused from now on."""
    service = _service(call)
    async with call.database.write() as session:
        application, environment = await find_environment(session, call)
        row = await session.get(PushCredential, (environment.id, service))
        if row is None:
            raise Missing("There is no such credential.")
        await session.delete(row)
        target = f"{application.name}/{environment.name}"
        audit.record(session, call.actor, call.organization.id, "push_credential.delete", target, {"service": service})


async def begin(call: Call, body: NewPush) -> PushJobOut:
    """Wake the devices of an environment, so that they fetch what it offers of the model."""
    async with call.database.write() as session:
        application, model = await find_model(session, call)
        environment = await named_environment(session, application, body.environment)
        deployment = await session.scalar(
            select(Deployment)
            .where(Deployment.environment_id == environment.id, Deployment.model_id == model.id)
            .order_by(Deployment.number.desc())
            .limit(1)
        )
        if deployment is None:
            raise Conflict("Nothing of this model was deployed there yet.", "nothing_deployed")
        job = await begin_push(
            session,
            environment,
            model.id,
            deployment.version,
            sandbox=body.apple_sandbox,
            actor_id=call.actor.user_id,
        )
        if job is None:
            raise Conflict(NOT_CONFIGURED, "not_configured")
        target = f"{application.name}/{model.name}/{job.version}"
        detail = {"environment": environment.name, "apple_sandbox": job.sandbox}
        audit.record(session, call.actor, call.organization.id, "push.begin", target, detail)
    call.services.publisher.pushes_due.set()
    return _show(job, environment.name, call.caller.email)


async def list_pushes(call: Call, query: PushesQuery) -> Page[PushJobOut]:
    """List the model's pushes, newest first."""
    async with call.database.read() as session:
        application, model = await find_model(session, call)
        rows = _rows(model)
        if query.environment is not None:
            environment = await lookup.environment(session, application.id, query.environment)
            rows = rows.where(PushJob.environment_id == environment.id)
        page = await fetch_page(session, rows, Keyset((PushJob.created_at, PushJob.id), descending=True), query)
    return page.map(lambda row: _show(*row))


async def show_one_push(call: Call) -> PushJobOut:
    """Show a push with what became of it so far."""
    async with call.database.read() as session:
        _, model = await find_model(session, call)
        return _show(*await _find(session, call, model))


async def list_pushed_devices(call: Call, query: PushedDevicesQuery) -> Page[PushedDeviceOut]:
    """List the devices that a push was sent to so far, with what became of each. Spared ones are not among them."""
    place = None if query.cursor is None else Place(*decode_cursor(query.cursor, _IN_LOG))
    outcome = None if query.outcome is None else Outcome(query.outcome)
    async with call.database.read() as session:
        _, model = await find_model(session, call)
        job = (await _find(session, call, model))[0]
        require_log(job)
        entries, end = await fetch_log(session, job.id, outcome, place, query.limit)
    shown = [_show_entry(entry) for entry in entries]
    return Page(shown, None if end is None else encode_cursor((end.after, end.device_id)))


async def show_effect(call: Call) -> PushEffectOut:
    """Show how many of the devices that a push was accepted for checked in, downloaded and activated its version."""
    async with call.database.read() as session:
        _, model = await find_model(session, call)
        job = (await _find(session, call, model))[0]
    return _show_effect(await call.services.push_effects.get(job.id, call.now))


async def pause(call: Call) -> PushJobOut:
    """Send no more for now."""
    return await _change(call, jobs.PAUSED, "paused")


async def resume(call: Call) -> PushJobOut:
    """Go on with a push that was paused."""
    return await _change(call, jobs.RUNNING, "resumed")


async def cancel(call: Call) -> PushJobOut:
    """End a push; devices that were not sent to look by themselves."""
    return await _change(call, jobs.CANCELLED, "cancelled")


async def _change(call: Call, to: str, word: str) -> PushJobOut:
    async with call.database.write() as session:
        application, model = await find_model(session, call)
        job, environment, email, effect = await _find(session, call, model)
        if not await jobs.change_state(session, job.id, to, call.now):
            raise Conflict(f"The push is {job.state} and cannot be {word}.", "not_now")
        await session.refresh(job)
        target = f"{application.name}/{model.name}/{job.version}"
        audit.record(session, call.actor, call.organization.id, f"push.{word}", target, {"environment": environment})
    call.services.publisher.pushes_due.set()
    return _show(job, environment, email, effect)


def _rows(model: Model) -> Any:
    return (
        select(PushJob, Environment.name, User.email, PushEffect)
        .join(Environment, Environment.id == PushJob.environment_id)
        .outerjoin(User, User.id == PushJob.actor_id)
        .outerjoin(PushEffect, PushEffect.job_id == PushJob.id)
        .where(PushJob.model_id == model.id)
    )


async def _find(session: AsyncSession, call: Call, model: Model) -> tuple[PushJob, str, str | None, PushEffect | None]:
    push = call.part("push")
    row = (await session.execute(_rows(model).where(PushJob.id == push))).one_or_none() if is_id(push) else None
    if row is None:
        raise Missing("There is no such push.")
    return row[0], row[1], row[2], row[3]


def _service(call: Call) -> str:
    service = call.part("service")
    if service not in SERVICES:
        raise Missing("There is no such push service.")
    return service


def show_status(asked: bool, job: PushJob | None) -> PushStatusOut:
    """Return what became of a deployment's wish to wake devices up."""
    if job is None:
        return PushStatusOut(status="not_configured" if asked else "not_requested", push_id=None)
    return PushStatusOut.model_validate({"status": job.state, "push_id": job.id})


def _show_credential(row: PushCredential, email: str | None, now: datetime) -> PushCredentialOut:
    return PushCredentialOut.model_validate(
        {
            "service": row.service,
            "kind": row.kind,
            "facts": row.facts,
            "expires_at": row.expires_at,
            "expires_soon": expires_soon(row.expires_at, now),
            "actor": email,
            "created_at": row.created_at,
        }
    )


def _show(job: PushJob, environment: str, email: str | None, effect: PushEffect | None = None) -> PushJobOut:
    counts = ("targeted", "accepted", "gone", "refused", "unknown", "spared")
    return PushJobOut.model_validate(
        {name: getattr(job, name) for name in (*counts, "id", "version", "state", "reason", "reasons")}
        | {name: getattr(job, name) for name in ("resume_at", "created_at", "started_at", "finished_at")}
        | {"environment": environment, "apple_sandbox": job.sandbox, "actor": email}
        | {"deployment_id": job.deployment_id, "seconds": _seconds(job)}
        | {"devices_kept": job.log_forgotten_at is None}
        | {"effect": None if effect is None else _show_effect(effect_of(effect))}
    )


def _show_entry(entry: Entry) -> PushedDeviceOut:
    return PushedDeviceOut.model_validate(
        {
            "device_id": entry.device_id,
            "outcome": entry.outcome.value,
            "reason": entry.reason or None,
            "sent_at": entry.sent_at,
        }
    )


def _show_effect(effect: Effect) -> PushEffectOut:
    counts = {name: getattr(effect, name) for name in ("devices", "counted", "margin", "complete", "until", "asked_at")}
    return PushEffectOut.model_validate(counts | asdict(effect.woken))


def _seconds(job: PushJob) -> float | None:
    if job.started_at is None or job.finished_at is None:
        return None
    return (job.finished_at - job.started_at).total_seconds()
