"""Inviting people into an organization, by a link that makes them a member when they use it."""

from __future__ import annotations

from sqlalchemy import ColumnElement, func, select

from control_plane import audit, mails
from control_plane.accounts import Role
from control_plane.api.call import Call
from control_plane.api.paging import Keyset, Page, Paging, fetch_page
from control_plane.api.schemas import InvitationOut, NewInvitation, NewInvitationOut
from control_plane.errors import Conflict, Missing, TooMany
from control_plane.names import is_id
from control_plane.one_time_links import Purpose, make_link
from control_plane.sign_ins import begin_try, invitation_subjects
from control_plane.tables import Member, OneTimeLink, User

# Open at once; more are made by a script and not by a team.
MAX_INVITATIONS = 200


async def invite(call: Call, body: NewInvitation) -> NewInvitationOut:
    """Invite somebody. The link works for a week. It is shown this once, and mailed to them if mail is set up."""
    async with call.database.write() as session:
        members = select(Member.user_id).join(User, User.id == Member.user_id)
        if await session.scalar(
            members.where(Member.organization_id == call.organization.id, User.email == body.email)
        ):
            raise Conflict("This person is already a member.")
        count = select(func.count()).where(*_open(call))
        if (await session.scalar(count) or 0) >= MAX_INVITATIONS:
            raise Conflict(f"At most {MAX_INVITATIONS} invitations are open at once; take some back.", "too_many")
        made = await make_link(
            session,
            Purpose.INVITATION,
            body.email,
            call.now,
            organization_id=call.organization.id,
            role=Role.of(body.role),
            actor_id=call.caller.user_id,
        )
        audit.record(session, call.actor, call.organization.id, "member.invite", body.email, {"role": body.role})
    url = f"{call.address}{made.path}"
    mailed = await _mail(call, body, url)
    return NewInvitationOut(**_show(made.row, call.caller.email).model_dump(), url=url, mailed=mailed)


async def _mail(call: Call, body: NewInvitation, url: str) -> bool:
    """Mail an invitation that is there already, so that no mail server can lose it; return whether that was done."""
    if not call.services.mailer.is_set_up:
        return False
    try:
        async with call.database.write() as session:
            await begin_try(session, invitation_subjects(body.email, call.caller.user_id), call.now)
    except TooMany:
        return False
    mail = mails.invitation(body.email, call.organization.name, body.role, call.caller.email, url)
    return await call.services.mailer.send(mail)


async def list_invitations(call: Call, query: Paging) -> Page[InvitationOut]:
    """List the invitations that are open."""
    rows = select(OneTimeLink, User.email).outerjoin(User, User.id == OneTimeLink.actor_id).where(*_open(call))
    async with call.database.read() as session:
        page = await fetch_page(session, rows, Keyset((OneTimeLink.created_at, OneTimeLink.id), descending=True), query)
    return page.map(lambda row: _show(row[0], row[1]))


async def take_back(call: Call) -> None:
    """Take an invitation back; its link works no more."""
    invitation_id = call.part("invitation")
    async with call.database.write() as session:
        row = await session.get(OneTimeLink, invitation_id) if is_id(invitation_id) else None
        if row is None or row.organization_id != call.organization.id:
            raise Missing("There is no open invitation of this id.")
        await session.delete(row)
        audit.record(session, call.actor, call.organization.id, "member.uninvite", row.email)


def _open(call: Call) -> tuple[ColumnElement[bool], ...]:
    purpose = OneTimeLink.purpose == Purpose.INVITATION
    return OneTimeLink.organization_id == call.organization.id, purpose, OneTimeLink.expires_at > call.now


def _show(row: OneTimeLink, email: str | None) -> InvitationOut:
    return InvitationOut(
        id=row.id,
        email=row.email,
        role=Role.of(row.role or Role.VIEWER.word).word,
        actor=email,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )
