"""Models of an application."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane import audit, lookup
from control_plane.api.call import Call
from control_plane.api.paging import Keyset, Page, Paging, fetch_page
from control_plane.api.schemas import DeleteModelQuery, ModelChange, ModelOut, NewModel
from control_plane.api.unique import unique
from control_plane.errors import Conflict
from control_plane.locks import lock_applications, lock_model, share_application
from control_plane.model_names import change_name, give_up_name, take_name
from control_plane.tables import Application, Environment, Model, ModelVersion, Release

# A manifest names every model that is offered, and every device of the application reads it: at some 700 bytes a
# release, this many take 140 KB.
MAX_MODELS = 200

_TAKEN = "Another model of this application already has this name; models' names are unique in it."


async def list_models(call: Call, query: Paging) -> Page[ModelOut]:
    """List the application's models."""
    async with call.database.read() as session:
        application = await lookup.application(session, call.organization.id, call.part("app"))
        rows = models_with_latest().where(Model.application_id == application.id)
        page = await fetch_page(session, rows, Keyset((Model.name,)), query)
    return page.map(lambda row: show_model(row[0], row[1]))


async def create_model(call: Call, body: NewModel) -> ModelOut:
    """Create a model."""
    async with call.database.write() as session:
        application = await lookup.application(session, call.organization.id, call.part("app"))
        await _refuse_too_many(session, application.id)
        model = await add_model(session, call, application, body.name)
    return show_model(model, None)


async def add_model(session: AsyncSession, call: Call, application: Application, name: str) -> Model:
    """Add a model to an application.

    Raises:
        Conflict: it has one of this name.
    """
    model = Model(application_id=application.id, name=name)
    session.add(model)
    async with unique(_TAKEN):
        await session.flush()
    await take_name(session, model)
    audit.record(session, call.actor, call.organization.id, "model.create", f"{application.name}/{model.name}")
    return model


async def show_one_model(call: Call) -> ModelOut:
    """Show a model."""
    async with call.database.read() as session:
        application = await lookup.application(session, call.organization.id, call.part("app"))
        model = await lookup.model(session, application.id, call.part("model"))
        return await _shown(session, model)


async def change_model(call: Call, body: ModelChange) -> ModelOut:
    """Rename a model. Not while it is offered: devices that hold it know it by its name."""
    async with call.database.write() as session:
        application = await lookup.application(session, call.organization.id, call.part("app"))
        found = await lookup.model(session, application.id, call.part("model"))
        await share_application(session, application.id)  # the name is recorded there, and applications come first
        model = await lock_model(session, found.id)  # so that nobody deploys it under its old name meanwhile
        offered_in = await _environments_offering(session, model.id)
        if offered_in and body.name != model.name:
            raise Conflict(f"The model is offered in {_listed(offered_in)}; it cannot be renamed meanwhile.", "offered")
        detail = {"was": model.name}
        if body.name != model.name:
            async with unique(_TAKEN):
                await change_name(session, model, body.name)
                await session.flush()
        target = f"{application.name}/{model.name}"
        audit.record(session, call.actor, call.organization.id, "model.rename", target, detail)
        return await _shown(session, model)


async def delete_model(call: Call, query: DeleteModelQuery) -> None:
    """Delete a model with its versions. While it is offered, only if `withdraw` says so.

    The environments that offered it are signed without it in the same transaction, so that none ever offers what is
    not there.
    """
    async with call.database.write() as session:
        application = await lookup.application(session, call.organization.id, call.part("app"))
        found = await lookup.model(session, application.id, call.part("model"))
        if query.withdraw:  # any of them may be signed, and environments are locked before models
            await lock_applications(session, Application.id == application.id)
        model = await lock_model(session, found.id)
        offered_in = await _environments_offering(session, model.id)
        if offered_in and not query.withdraw:
            raise Conflict(f"The model is offered in {_listed(offered_in)}; pass withdraw=true to end that.", "offered")
        await give_up_name(session, model)
        await session.delete(model)
        await session.flush()
        for environment_id in offered_in:
            await call.services.publisher.sign(session, environment_id)
        target = f"{application.name}/{model.name}"
        detail = {"withdrawn_from": list(offered_in.values())}
        audit.record(session, call.actor, call.organization.id, "model.delete", target, detail)
    for environment_id in offered_in:
        await call.services.publisher.announce(environment_id)


def models_with_latest() -> Select[Any]:
    """Return the query for models, each with the number of its latest finished version or None."""
    latest = (
        select(func.max(ModelVersion.version))
        .where(ModelVersion.model_id == Model.id)
        .correlate(Model)
        .scalar_subquery()
    )
    return select(Model, latest)


def show_model(model: Model, latest_version: int | None) -> ModelOut:
    """Return a model as the API shows it."""
    return ModelOut(
        id=model.id,
        name=model.name,
        latest_version=latest_version,
        created_at=model.created_at,
        updated_at=model.updated_at,
    )


async def _shown(session: AsyncSession, model: Model) -> ModelOut:
    latest = await session.scalar(select(func.max(ModelVersion.version)).where(ModelVersion.model_id == model.id))
    return show_model(model, latest)


async def _environments_offering(session: AsyncSession, model_id: str) -> dict[str, str]:
    """Return the names of the environments that offer a model, by their ids."""
    query = (
        select(Environment.id, Environment.name)
        .join(Release, Release.environment_id == Environment.id)
        .where(Release.model_id == model_id)
    )
    return {row[0]: row[1] for row in (await session.execute(query)).all()}


def _listed(environments: dict[str, str]) -> str:
    return ", ".join(sorted(environments.values()))


async def _refuse_too_many(session: AsyncSession, application_id: str) -> None:
    query = select(func.count()).select_from(Model).where(Model.application_id == application_id)
    if (await session.scalar(query) or 0) >= MAX_MODELS:
        raise Conflict(f"An application has at most {MAX_MODELS} models.", "too_many")
