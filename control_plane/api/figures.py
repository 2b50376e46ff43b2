"""The questions that decide whether a release goes on, one route each: asked of `telemetry.queries`, and told as it is.

Each names a model in an environment; some a version too: the one that was deployed last, unless the caller says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar

from aiohttp import web
from pydantic import BaseModel
from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane import lookup
from control_plane.api import figure_schemas as s
from control_plane.api.call import Call
from control_plane.api.versions import find_model
from control_plane.errors import Invalid, Missing
from control_plane.model_names import names_of
from control_plane.publish import DEPLOY
from control_plane.tables import Deployment, Environment, Model
from control_plane.warehouse import WarehouseGate, telling_of_clickhouse
from telemetry import queries
from telemetry.queries import Days, Subject
from telemetry.warehouse import Warehouse

Out = TypeVar("Out", bound=BaseModel)
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Asked:
    """Whose figures are asked for, and where they are."""

    warehouse: WarehouseGate
    subject: Subject
    environment: Environment
    model: Model

    async def ask(
        self,
        question: Callable[Concatenate[Warehouse, Subject, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Return what telemetry answers to a question about them.

        Raises:
            Unavailable: ClickHouse cannot be asked.
        """
        with telling_of_clickhouse():
            return await question(self.warehouse.get(), self.subject, *args, **kwargs)

    def told(self, kind: type[Out], answer: Any = None, days: Days | None = None, **more: Any) -> Out:
        """Return an answer: whose figures, of which days, and what telemetry says."""
        told: dict[str, Any] = {"model": self.model.name, "environment": self.environment.name, **more}
        if days is not None:
            told |= {"first_day": days.first, "last_day": days.last}
        return kind.model_validate(told | ({} if answer is None else asdict(answer)), from_attributes=True)


@dataclass(frozen=True, slots=True)
class _Released:
    version: int
    at: datetime


# Of a request, by the environment that is asked for.
_FOUND: web.RequestKey[dict[str, asyncio.Task[_Asked]]] = web.RequestKey("figures_found", dict)


async def show_curve(call: Call, query: s.DaysQuery) -> s.CurveOut:
    """Show which share of the active devices held each version, by day."""
    asked, days = await _asked_of_days(call, query)
    curve = await asked.ask(queries.adoption_curve, days)
    return asked.told(s.CurveOut, days=days, by_day=curve)


async def show_hours(call: Call, query: s.HoursQuery) -> s.HoursOut:
    """Show the same by hour since a version was first deployed there, or since a moment that is given."""
    asked, released = await _asked_of_release(call, query, query.since)
    curve = await asked.ask(queries.adoption_curve_by_hour, released.at, call.now, query.hours)
    return asked.told(s.HoursOut, version=released.version, deployed_at=released.at, by_hour=curve)


async def show_devices(call: Call, query: s.DevicesQuery) -> s.DevicesOut:
    """Show how many devices were active on each day, by OS, OS version, device model, app version or locale."""
    asked, days = await _asked_of_days(call, query)
    active = await asked.ask(queries.active_devices, days, query.dimension)
    return asked.told(s.DevicesOut, days=days, dimension=query.dimension, by_day=active)


async def show_installations(call: Call, query: s.FiguresQuery) -> s.InstallationsOut:
    """Show how many devices ever activated a version of the model."""
    asked = await _asked(call, query)
    return asked.told(s.InstallationsOut, await asked.ask(queries.installations))


async def show_mix(call: Call, query: s.DaysQuery) -> s.MixOut:
    """Show which versions the devices hold now that were active in the last days."""
    asked, days = await _asked_of_days(call, query)
    mix = await asked.ask(queries.version_mix, days)
    active = sum(share.devices for share in mix)
    return asked.told(s.MixOut, days=days, active_devices=active, versions=mix)


async def show_funnel(call: Call, query: s.DaysQuery) -> s.FunnelsOut:
    """Show how far devices came on the way to each version: check, download, verify, activate; and where it leaks."""
    asked, days = await _asked_of_days(call, query)
    return asked.told(s.FunnelsOut, days=days, versions=await asked.ask(queries.funnel, days))


async def show_failures(call: Call, query: s.DaysQuery) -> s.FailureRatesOut:
    """Show how often each version failed, with the bounds of the rate (95 %), and why."""
    asked, days = await _asked_of_days(call, query)
    return asked.told(s.FailureRatesOut, days=days, versions=await asked.ask(queries.failure_rates, days))


async def show_download_times(call: Call, query: s.DaysQuery) -> s.DownloadTimesOut:
    """Show how long downloads took, at the median and at the 95th percentile, of each version."""
    asked, days = await _asked_of_days(call, query)
    return asked.told(s.DownloadTimesOut, await asked.ask(queries.download_times, days), days)


async def show_bytes(call: Call, query: s.DaysQuery) -> s.BytesSentOut:
    """Show how many bytes downloads took, by day and by encoding, and how many patches saved."""
    asked, days = await _asked_of_days(call, query)
    return asked.told(s.BytesSentOut, await asked.ask(queries.bytes_sent, days), days)


async def show_time_to_adopt(call: Call, query: s.ReleaseQuery) -> s.TimeToAdoptOut:
    """Show how long a version took from its first deploy, or a moment that is given, to most of the active devices."""
    asked, released = await _asked_of_release(call, query, query.since)
    adopted = await asked.ask(queries.time_to_adopt, released.version, released.at, call.now)
    return asked.told(s.TimeToAdoptOut, adopted)


async def show_stuck(call: Call, query: s.StuckQuery) -> s.StuckOut:
    """Show which devices tried a version, did not get it and are still heard of; since when, and why."""
    # When the version was deployed does not matter here.
    asked, released = await _asked_of_release(call, query, call.now)
    after = timedelta(hours=query.hours)
    stuck = await asked.ask(
        queries.stuck_devices, released.version, call.now, after=after, days=query.days, limit=query.limit
    )
    return asked.told(s.StuckOut, stuck)


async def _asked(call: Call, query: s.FiguresQuery) -> _Asked:
    """Find whose figures are asked for.

    Raises:
        Missing: there is no such model or environment among what the caller may see.
    """
    # A page asks for several figures, all at once, of the same model.
    found = call.request.setdefault(_FOUND, {})
    if query.environment not in found:
        found[query.environment] = asyncio.create_task(_look_up(call, query), name="find what figures are asked of")
    return await asyncio.shield(found[query.environment])


async def _look_up(call: Call, query: s.FiguresQuery) -> _Asked:
    async with call.database.read() as session:
        return await _find(session, call, query)


async def _asked_of_days(call: Call, query: s.DaysQuery) -> tuple[_Asked, Days]:
    """Find whose figures are asked for, and of which days. Raises as `_asked` does."""
    return await _asked(call, query), queries.last_days(query.days, call.now)


async def _asked_of_release(call: Call, query: s.VersionQuery, since: datetime | None) -> tuple[_Asked, _Released]:
    """Find whose figures are asked for, which version, and from when on.

    Raises:
        Missing: there is no such thing, or the version was never deployed there.
        Invalid: ``since`` lies in the future.
    """
    if since is not None and since > call.now:
        raise Invalid("since lies in the future.", "since_in_future")
    async with call.database.read() as session:
        asked = await _find(session, call, query)
        version = query.version
        if version is None:
            version = await _newest_version(session, asked)
        if since is None:
            since = await _first_deploy(session, asked, version)
    return asked, _Released(version, since)


async def _find(session: AsyncSession, call: Call, query: s.FiguresQuery) -> _Asked:
    application, model = await find_model(session, call)
    environment = await lookup.environment(session, application.id, query.environment)
    subject = Subject(call.organization.id, application.id, environment.name, await names_of(session, model))
    return _Asked(call.services.warehouse, subject, environment, model)


async def _newest_version(session: AsyncSession, asked: _Asked) -> int:
    newest = _deploys(asked).order_by(Deployment.number.desc()).limit(1)
    deployment = await session.scalar(newest)
    if deployment is None:
        raise Missing(f"No version of the model was deployed to {asked.environment.name} yet.", "never_deployed")
    return deployment.version


async def _first_deploy(session: AsyncSession, asked: _Asked, version: int) -> datetime:
    first = _deploys(asked).where(Deployment.version == version).order_by(Deployment.number).limit(1)
    deployment = await session.scalar(first)
    if deployment is None:
        raise Missing(f"Version {version} was never deployed to {asked.environment.name}.", "never_deployed")
    return deployment.created_at


def _deploys(asked: _Asked) -> Select[Deployment]:
    return select(Deployment).where(
        Deployment.environment_id == asked.environment.id,
        Deployment.model_id == asked.model.id,
        Deployment.kind == DEPLOY,
    )
