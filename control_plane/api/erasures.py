"""Erasing a device, or an organization, for privacy: asked for here, carried out by `control_plane.eraser`."""

from __future__ import annotations

from sqlalchemy import select

from control_plane import audit, lookup
from control_plane.api.call import Call
from control_plane.api.organizations import remove_organization
from control_plane.api.schemas import ErasureOut, NewErasure
from control_plane.eraser import delete_device
from control_plane.errors import Invalid, Missing
from control_plane.names import is_id
from control_plane.tables import Erasure, new_id
from telemetry.erasure import WHOLE_ORGANIZATION, device_subject

# So much of a device's hash is in the audit log: enough to tell two requests apart.
_SHOWN_CHARACTERS = 12


async def begin_erasure(call: Call, body: NewErasure) -> ErasureOut:
    """Erase a device of the organization, or the organization itself with all that it holds."""
    if body.device_id is not None:
        return await _erase_device(call, body.device_id)
    return await _erase_organization(call, body.organization or "")


async def show_erasure(call: Call) -> ErasureOut:
    """Show how far an erasure is that the caller asked for. The organization may be gone by then."""
    erasure_id = call.part("erasure")
    query = select(Erasure).where(Erasure.id == erasure_id, Erasure.asked_by == call.caller.user_id)
    if call.caller.organization_id is not None:
        query = query.where(Erasure.organization_id == call.caller.organization_id)
    async with call.database.read() as session:
        found = await session.scalar(query) if is_id(erasure_id) else None
    if found is None:
        raise Missing("You asked for no erasure with this id.")
    return _shown(found)


async def _erase_device(call: Call, device_id: str) -> ErasureOut:
    organization_id = call.organization.id
    subject = device_subject(organization_id, device_id)
    async with call.database.write() as session:
        await delete_device(session, organization_id, device_id)
        erasure = _asked(call, organization_id, subject, device_id)
        session.add(erasure)
        # Not the device's id: the log is kept.
        target = f"device {subject[:_SHOWN_CHARACTERS]}"
        audit.record(session, call.actor, organization_id, "device.erase", target, {"erasure": erasure.id})
    return _shown(erasure)


async def _erase_organization(call: Call, name: str) -> ErasureOut:
    async with call.database.write() as session:
        organization, _ = await lookup.organization(session, call.caller, call.organization.id)
        if name != organization.name:
            raise Invalid("To erase an organization, give its name as it is now.")
        closed = await remove_organization(call, session, organization)
        erasure = _asked(call, organization.id, WHOLE_ORGANIZATION, None)
        session.add(erasure)
        detail = {"erasure": erasure.id}
        audit.record(session, call.actor, organization.id, "organization.erase", organization.name, detail)
    for environment_id in closed:
        await call.services.publisher.announce(environment_id)
    return _shown(erasure)


def _asked(call: Call, organization_id: str, subject: str, device_id: str | None) -> Erasure:
    return Erasure(
        id=new_id(),
        organization_id=organization_id,
        subject=subject,
        device_id=device_id,
        asked_by=call.caller.user_id,
        asked_at=call.now,
    )


def _shown(erasure: Erasure) -> ErasureOut:
    whole = erasure.subject == WHOLE_ORGANIZATION
    return ErasureOut(
        id=erasure.id,
        kind="organization" if whole else "device",
        asked_at=erasure.asked_at,
        finished_at=erasure.finished_at,
    )
