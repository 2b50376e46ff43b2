"""Organizations and their members, and who the caller is."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane import audit, lookup
from control_plane.accounts import Role
from control_plane.api.call import Call
from control_plane.api.deletion import close_applications
from control_plane.api.paging import Keyset, Page, Paging, fetch_page
from control_plane.api.schemas import (
    MemberChange,
    MemberOut,
    MembershipOut,
    MeOut,
    NewMember,
    NewOrganization,
    OrganizationChange,
    OrganizationOut,
)
from control_plane.api.unique import unique
from control_plane.errors import Conflict
from control_plane.locks import lock_organization
from control_plane.tables import Application, Member, Organization, User

# One user as a member of more would make `/me` and the question which events one may ask for unbounded.
MAX_ORGANIZATIONS_PER_USER = 1000

_NAME_TAKEN = "Another organization already has this name; organizations' names are unique."


async def show_me(call: Call) -> MeOut:
    """Tell who the caller is, and in which organizations."""
    async with call.database.read() as session:
        query = (
            select(Organization.name, Member.role)
            .join(Member, Member.organization_id == Organization.id)
            .where(*lookup.memberships(call.caller))
            .order_by(Organization.name)
            .limit(MAX_ORGANIZATIONS_PER_USER)
        )
        rows = (await session.execute(query)).all()
    memberships = [MembershipOut(name=name, role=call.caller.role_at_most(Role.of(role)).word) for name, role in rows]
    return MeOut(email=call.caller.email, organizations=memberships)


async def list_organizations(call: Call, query: Paging) -> Page[OrganizationOut]:
    """List the organizations that the caller is a member of."""
    rows = (
        select(Organization, Member.role)
        .join(Member, Member.organization_id == Organization.id)
        .where(*lookup.memberships(call.caller))
    )
    async with call.database.read() as session:
        page = await fetch_page(session, rows, Keyset((Organization.name,)), query)
    return page.map(lambda row: show_organization(row[0], call.caller.role_at_most(Role.of(row[1]))))


async def create_organization(call: Call, body: NewOrganization) -> OrganizationOut:
    """Create an organization; the caller becomes its owner."""
    async with call.database.write() as session:
        await _refuse_too_many(session, call.caller.user_id)
        organization = Organization(name=body.name)
        session.add(organization)
        async with unique(_NAME_TAKEN):
            await session.flush()
        session.add(Member(organization_id=organization.id, user_id=call.caller.user_id, role=Role.OWNER.word))
        audit.record(session, call.actor, organization.id, "organization.create", body.name)
    return show_organization(organization, Role.OWNER)


async def show_one_organization(call: Call) -> OrganizationOut:
    """Show the organization in the path."""
    return show_organization(call.organization, call.role)


async def change_organization(call: Call, body: OrganizationChange) -> OrganizationOut:
    """Rename an organization. Edges label events with its name, so its manifests are signed anew for them."""
    async with call.database.write() as session:
        organization, role = await lookup.organization(session, call.caller, call.organization.id)
        detail = {"was": organization.name}
        organization.name = body.name
        async with unique(_NAME_TAKEN):
            await session.flush()
        audit.record(session, call.actor, organization.id, "organization.rename", body.name, detail)
        renamed = detail["was"] != organization.name
        if renamed:
            await call.services.publisher.relabel(session, Application.organization_id == organization.id)
    if renamed:
        call.services.publisher.sign_renamed()
    return show_organization(organization, role)


async def delete_organization(call: Call) -> None:
    """Delete an organization with all that it holds; its keys stop working."""
    async with call.database.write() as session:
        organization, _ = await lookup.organization(session, call.caller, call.organization.id)
        closed = await remove_organization(call, session, organization)
        audit.record(session, call.actor, organization.id, "organization.delete", organization.name)
    for environment_id in closed:
        await call.services.publisher.announce(environment_id)


async def remove_organization(call: Call, session: AsyncSession, organization: Organization) -> list[str]:
    """Delete an organization with all that it holds, within a transaction.

    Returns:
        The ids of its environments, to be announced after the commit.
    """
    await lock_organization(session, organization.id)
    which = Application.organization_id == organization.id
    closed = await close_applications(session, call.services.publisher, which)
    await session.delete(organization)
    return closed


async def list_members(call: Call, query: Paging) -> Page[MemberOut]:
    """List the organization's members."""
    rows = (
        select(Member, User).join(User, User.id == Member.user_id).where(Member.organization_id == call.organization.id)
    )
    async with call.database.read() as session:
        page = await fetch_page(session, rows, Keyset((User.email,)), query)
    return page.map(lambda row: show_member(row[0], row[1]))


async def add_member(call: Call, body: NewMember) -> MemberOut:
    """Add a member by e-mail address. Somebody new to Skafos gets a token from whoever operates it."""
    async with call.database.write() as session:
        user = await _user_with(session, body.email)
        await _refuse_too_many(session, user.id)
        member = Member(organization_id=call.organization.id, user_id=user.id, role=body.role)
        session.add(member)
        async with unique("This person is already a member."):
            await session.flush()
        audit.record(session, call.actor, call.organization.id, "member.add", user.email, {"role": body.role})
    return show_member(member, user)


async def change_member(call: Call, body: MemberChange) -> MemberOut:
    """Give a member another role. The last owner stays one."""
    async with call.database.write() as session:
        member, user = await lookup.member(session, call.organization.id, call.part("member"))
        if body.role != Role.OWNER.word:
            await _refuse_to_lose_last_owner(session, member)
        detail = {"was": member.role, "role": body.role}
        member.role = body.role
        audit.record(session, call.actor, call.organization.id, "member.change", user.email, detail)
    return show_member(member, user)


async def remove_member(call: Call) -> None:
    """Remove a member. The last owner stays."""
    async with call.database.write() as session:
        member, user = await lookup.member(session, call.organization.id, call.part("member"))
        await _refuse_to_lose_last_owner(session, member)
        await session.delete(member)
        audit.record(session, call.actor, call.organization.id, "member.remove", user.email)


def show_organization(organization: Organization, role: Role) -> OrganizationOut:
    """Return an organization as the API shows it. The published client reads `display_name`."""
    return OrganizationOut(
        id=organization.id,
        name=organization.name,
        display_name=organization.name,
        role=role.word,
        created_at=organization.created_at,
        updated_at=organization.updated_at,
    )


def show_member(member: Member, user: User) -> MemberOut:
    """Return a member as the API shows it."""
    return MemberOut(
        id=user.id, email=user.email, name=user.name, role=Role.of(member.role).word, created_at=member.created_at
    )


async def _user_with(session: AsyncSession, email: str) -> User:
    user = await session.scalar(select(User).where(User.email == email))
    if user is None:
        user = User(email=email)
        session.add(user)
        async with unique("This person was added a moment ago; try again."):
            await session.flush()
    return user


async def _refuse_too_many(session: AsyncSession, user_id: str) -> None:
    count = await session.scalar(select(func.count()).select_from(Member).where(Member.user_id == user_id))
    if (count or 0) >= MAX_ORGANIZATIONS_PER_USER:
        raise Conflict(f"One person is a member of at most {MAX_ORGANIZATIONS_PER_USER} organizations.", "too_many")


async def _refuse_to_lose_last_owner(session: AsyncSession, member: Member) -> None:
    """Raise `Conflict` if no other owner would be left. The rows are locked, so that two owners cannot both go."""
    owners = select(Member.user_id).where(
        Member.organization_id == member.organization_id, Member.role == Role.OWNER.word
    )
    if set((await session.scalars(owners.with_for_update())).all()) == {member.user_id}:
        raise Conflict("An organization keeps at least one owner.", "last_owner")
