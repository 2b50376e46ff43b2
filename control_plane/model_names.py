"""The names that models have had, so that their figures stay apart and whole.

Devices, and so their events, know a version by the model's name and the version's number. Two rules make that enough to
tell whose it is: a model that takes the name of one that was deleted or renamed numbers its versions on from there, and
a model with versions of its own cannot be renamed to a name under which another model has had versions.
"""

from __future__ import annotations

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.errors import Conflict
from control_plane.tables import Model, ModelName
from telemetry import adoption


async def take_name(session: AsyncSession, model: Model) -> None:
    """Record the name of a new model, and let its versions be numbered on from those that had it before.

    Call it once the model is flushed: until then another transaction may still be giving the name up.
    """
    before = select(func.max(ModelName.last_version)).where(
        ModelName.application_id == model.application_id, ModelName.name == model.name
    )
    model.last_version = await session.scalar(before) or 0
    _add(session, model, model.last_version + 1)
    await session.flush()


async def change_name(session: AsyncSession, model: Model, name: str) -> None:
    """Rename a model that the transaction holds, and record it.

    Raises:
        Conflict: another model has had versions under the name.
    """
    of_name = ModelName.application_id == model.application_id, ModelName.name == name
    others = select(func.count()).where(*of_name, ModelName.model_id != model.id, ModelName.last_version.is_not(None))
    if await session.scalar(others):
        raise Conflict(
            f"Another model had versions under the name {name}, and devices may still hold them; "
            "choose another name, or create a new model of this name.",
            "name_used",
        )
    await give_up_name(session, model)
    model.name = name
    own = await session.scalar(select(ModelName).where(*of_name, ModelName.model_id == model.id))
    if own is None:
        _add(session, model, 1)
    else:
        own.last_version = None


async def give_up_name(session: AsyncSession, model: Model) -> None:
    """Record that a model no longer bears its name; a name without versions is forgotten."""
    borne = ModelName.model_id == model.id, ModelName.last_version.is_(None)
    for row in await session.scalars(select(ModelName).where(*borne)):
        if model.last_version < row.first_version:
            await session.execute(delete(ModelName).where(ModelName.id == row.id))
        else:
            row.last_version = model.last_version


async def names_of(session: AsyncSession, model: Model) -> list[adoption.ModelName]:
    """Return the names that a model has had, as questions about its figures take them."""
    rows = (await session.scalars(select(ModelName).where(ModelName.model_id == model.id))).all()
    rows = sorted(rows, key=lambda row: (row.last_version is None, row.last_version or 0), reverse=True)
    shared = select(ModelName.name, func.max(ModelName.first_version)).where(
        ModelName.application_id == model.application_id, ModelName.model_id != model.id
    )
    successors = dict((await session.execute(shared.group_by(ModelName.name))).all())
    return [
        adoption.ModelName(
            row.name,
            row.first_version,
            row.last_version if row.last_version and successors.get(row.name, 0) > row.last_version else None,
            row.created_at.date(),
        )
        for row in rows
    ]


def _add(session: AsyncSession, model: Model, first: int) -> None:
    row = ModelName(application_id=model.application_id, model_id=model.id, name=model.name, first_version=first)
    session.add(row)
