"""Model versions: begun, uploaded, finished, listed, described, deleted."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane import audit, lookup
from control_plane.api.call import Call
from control_plane.api.paging import Keyset, Page, Paging, fetch_page
from control_plane.api.patch_counts import count_patches
from control_plane.api.schemas import (
    ModelVersionChange,
    ModelVersionOut,
    ModelVersionsQuery,
    NewModelVersion,
    PatchCountsOut,
    UploadOut,
)
from control_plane.api.unique import unique
from control_plane.errors import Conflict, Invalid
from control_plane.names import is_zip_name
from control_plane.tables import Application, Environment, Model, ModelVersion, Release

_OFFERED = "The version is offered in {}; deploy another one there first."


async def list_versions(call: Call, query: ModelVersionsQuery) -> Page[ModelVersionOut]:
    """List the model's versions whose upload has finished, in the order of their numbers."""
    return await _list(call, query, descending=False)


async def list_newest_versions(call: Call, query: Paging) -> Page[ModelVersionOut]:
    """List the same, the newest first."""
    return await _list(call, query, descending=True)


async def _list(call: Call, query: Paging, *, descending: bool) -> Page[ModelVersionOut]:
    async with call.database.read() as session:
        _, model = await find_model(session, call)
        rows = select(ModelVersion).where(ModelVersion.model_id == model.id, ModelVersion.version.is_not(None))
        page = await fetch_page(session, rows, Keyset((ModelVersion.version,), descending=descending), query)
        counts = await count_patches(session, [row[0] for row in page.items])
    return page.map(lambda row: show_version(row[0], model, counts[row[0].id]))


async def begin_upload(call: Call, body: NewModelVersion) -> UploadOut:
    """Begin an upload: send the bytes to the address in the answer, then `PATCH` the version with its `filepath`."""
    async with call.database.read() as session:
        _, model = await find_model(session, call)
    begun = await call.services.uploads.begin(call.actor, model.id, body.filename, body.description)
    return UploadOut(
        presigned_url=begun.presigned_url, filepath=begun.filepath, model_version_id=begun.model_version_id
    )


async def show_one_version(call: Call) -> ModelVersionOut:
    """Show a version, by its number or its id."""
    return await show_version_called(call, call.part("version"))


async def show_version_called(call: Call, text: str) -> ModelVersionOut:
    """Show the version of the model in the path that a text names, by its number or its id."""
    async with call.database.read() as session:
        _, model = await find_model(session, call)
        version = await lookup.model_version(session, model.id, text)
        return await _shown(session, version, model)


async def change_version(call: Call, body: ModelVersionChange) -> ModelVersionOut:
    """Finish a version's upload (`filepath`), describe it (`description`), call its file otherwise (`name`), or all."""
    if body.filepath is None and body.name is None and "description" not in body.model_fields_set:
        raise Invalid("Nothing to change: give a filepath to finish an upload, a description, or a name.")
    async with call.database.read() as session:
        _, model = await find_model(session, call)
        version = await lookup.model_version(session, model.id, call.part("version"))
    if body.filepath is not None:
        version = await call.services.uploads.finish(call.actor, version.id, body.filepath)
    if body.name is not None or "description" in body.model_fields_set:
        version = await _describe(call, version.id, body)
    async with call.database.read() as session:
        return await _shown(session, version, model)


async def delete_version(call: Call) -> None:
    """Delete a version that no environment offers. Its number is not used again."""
    async with call.database.write() as session:
        application, model = await find_model(session, call)
        version = await lookup.model_version(session, model.id, call.part("version"))
        await _refuse_if_offered(session, version)
        await session.delete(version)
        async with unique(_OFFERED.format("an environment"), "offered"):  # it was deployed a moment ago
            await session.flush()
        target = f"{application.name}/{model.name}/{version.version or version.id}"
        audit.record(session, call.actor, call.organization.id, "version.delete", target)


async def find_model(session: AsyncSession, call: Call) -> tuple[Application, Model]:
    """Return the application and the model in the path."""
    application = await lookup.application(session, call.organization.id, call.part("app"))
    return application, await lookup.model(session, application.id, call.part("model"))


def show_version(version: ModelVersion, model: Model, patches: PatchCountsOut) -> ModelVersionOut:
    """Return a version as the API shows it. Its name is the uploaded file's, as the published client expects."""
    plain: dict[str, Any] = {field: getattr(version, field, None) for field in ModelVersionOut.model_fields}
    return ModelVersionOut.model_validate(plain | {"name": version.filename, "model": model.name, "patches": patches})


async def _shown(session: AsyncSession, version: ModelVersion, model: Model) -> ModelVersionOut:
    return show_version(version, model, (await count_patches(session, [version]))[version.id])


async def _describe(call: Call, version_id: str, body: ModelVersionChange) -> ModelVersion:
    async with call.database.write() as session:
        _, model = await find_model(session, call)
        version = await lookup.model_version(session, model.id, version_id)
        target = f"{model.name}/{version.version or version.id}"
        if "description" in body.model_fields_set:
            detail = {"was": version.description, "is": body.description}
            version.description = body.description
            audit.record(session, call.actor, call.organization.id, "version.describe", target, detail)
        if body.name is not None:
            _require_same_kind(version, body.name)
            detail = {"was": version.filename, "is": body.name}
            version.filename = body.name
            audit.record(session, call.actor, call.organization.id, "version.rename", target, detail)
    return version


def _require_same_kind(version: ModelVersion, name: str) -> None:
    """Refuse a name under which the bytes would be taken for something else than they are."""
    if version.version is None:
        raise Conflict("The version's upload has not finished; it can be renamed then.", "not_finished")
    if is_zip_name(name) != is_zip_name(version.filename):
        kind = "a zip: its name ends" if is_zip_name(version.filename) else "no zip: its name does not end"
        raise Invalid(f"What was uploaded is {kind} in .zip.", "invalid_filename")


async def _refuse_if_offered(session: AsyncSession, version: ModelVersion) -> None:
    query = (
        select(Environment.name)
        .join(Release, Release.environment_id == Environment.id)
        .where(Release.model_version_id == version.id)
        .order_by(Environment.name)
    )
    names = (await session.scalars(query)).all()
    if names:
        raise Conflict(_OFFERED.format(", ".join(names)), "offered")
