"""Applications of an organization."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane import audit, lookup
from control_plane.api.call import Call
from control_plane.api.deletion import close_applications
from control_plane.api.models import add_model, models_with_latest, show_model
from control_plane.api.paging import Keyset, Page, fetch_page
from control_plane.api.schemas import (
    ApplicationChange,
    ApplicationOut,
    ApplicationQuery,
    ApplicationsQuery,
    ModelOut,
    NewApplication,
)
from control_plane.api.unique import unique
from control_plane.errors import Conflict, Invalid
from control_plane.tables import Application, Environment, Model

# The environments that every application has: builds for testing hold the key of one, released builds the other's.
FIRST_ENVIRONMENTS = ("dev", "prod")
# Each has two environments that are signed anew for as long as it exists.
MAX_APPLICATIONS = 1000

_TAKEN = "Another application of this organization already has this name or this bundle ID; both are unique in it."


async def list_applications(call: Call, query: ApplicationsQuery) -> Page[ApplicationOut]:
    """List the organization's applications, with their models if asked for."""
    rows = select(Application).where(Application.organization_id == call.organization.id)
    async with call.database.read() as session:
        page = await fetch_page(session, rows, Keyset((Application.name,)), query)
        applications = [row[0] for row in page.items]
        models = await _models_of(session, applications) if query.with_models else None
    shown = [show_application(item, models[item.id] if models is not None else None) for item in applications]
    return Page(shown, page.next_cursor)


async def create_application(call: Call, body: NewApplication) -> ApplicationOut:
    """Create an application with its environments `dev` and `prod`, each with a key and an empty manifest."""
    async with call.database.write() as session:
        await _refuse_too_many(session, call.organization.id)
        application = Application(
            organization_id=call.organization.id, name=body.name, bundle_id=body.bundle_id, platform=body.platform
        )
        session.add(application)
        async with unique(_TAKEN):
            await session.flush()
        environments = [Environment(application_id=application.id, name=name) for name in FIRST_ENVIRONMENTS]
        session.add_all(environments)
        for environment in environments:
            await call.services.publisher.open_environment(session, environment)
        detail = body.model_dump(exclude={"first_model"})
        audit.record(session, call.actor, call.organization.id, "app.create", body.name, detail)
        if body.first_model is not None:
            await add_model(session, call, application, body.first_model)
    for environment in environments:
        await call.services.publisher.announce(environment.id)
    return show_application(application)


async def show_one_application(call: Call, query: ApplicationQuery) -> ApplicationOut:
    """Show an application, with its models if asked for."""
    async with call.database.read() as session:
        application = await lookup.application(session, call.organization.id, call.part("app"))
        models = (await _models_of(session, [application]))[application.id] if query.with_models else None
    return show_application(application, models)


async def change_application(call: Call, body: ApplicationChange) -> ApplicationOut:
    """Change an application. Edges label events with its name, so its manifests are signed anew for them."""
    changes = body.model_dump(exclude_none=True)
    if not changes:
        raise Invalid("Nothing to change: give a name, a bundle_id or a platform.")
    async with call.database.write() as session:
        application = await lookup.application(session, call.organization.id, call.part("app"))
        detail = {"was": {field: getattr(application, field) for field in changes}, "is": changes}
        for field, value in changes.items():
            setattr(application, field, value)
        async with unique(_TAKEN):
            await session.flush()
        audit.record(session, call.actor, call.organization.id, "app.change", application.name, detail)
        renamed = detail["was"].get("name", application.name) != application.name
        if renamed:
            await call.services.publisher.relabel(session, Application.id == application.id)
    if renamed:
        call.services.publisher.sign_renamed()
    return show_application(application)


async def delete_application(call: Call) -> None:
    """Delete an application with its environments, models and versions; its keys stop working."""
    async with call.database.write() as session:
        application = await lookup.application(session, call.organization.id, call.part("app"))
        closed = await close_applications(session, call.services.publisher, Application.id == application.id)
        await session.delete(application)
        audit.record(session, call.actor, call.organization.id, "app.delete", application.name)
    for environment_id in closed:
        await call.services.publisher.announce(environment_id)


def show_application(application: Application, models: list[ModelOut] | None = None) -> ApplicationOut:
    """Return an application as the API shows it."""
    shown = ApplicationOut.model_validate(application, from_attributes=True)
    return shown if models is None else shown.model_copy(update={"models": models})


async def _models_of(session: AsyncSession, applications: Sequence[Application]) -> dict[str, list[ModelOut]]:
    ids = [application.id for application in applications]
    query = models_with_latest().where(Model.application_id.in_(ids)).order_by(Model.name)
    models: dict[str, list[ModelOut]] = defaultdict(list)
    for model, latest in (await session.execute(query)).all():
        models[model.application_id].append(show_model(model, latest))
    return models


async def _refuse_too_many(session: AsyncSession, organization_id: str) -> None:
    query = select(func.count()).select_from(Application).where(Application.organization_id == organization_id)
    if (await session.scalar(query) or 0) >= MAX_APPLICATIONS:
        raise Conflict(f"An organization has at most {MAX_APPLICATIONS} applications.", "too_many")
