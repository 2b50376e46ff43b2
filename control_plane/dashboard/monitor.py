"""The page Monitor of a model: how its versions are taken up, by whom, and how updates go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import quote

from aiohttp import web

from control_plane.api.call import Call
from control_plane.api.figure_schemas import DevicesQuery, FiguresQuery
from control_plane.api.figures import last_arrival
from control_plane.api.schemas import EnvironmentGroupOut
from control_plane.api.serve import read_query
from control_plane.dashboard.charts import draw
from control_plane.dashboard.figures import DIMENSIONS, FIGURES, SHEETS, Figure
from control_plane.dashboard.model import frame_of
from control_plane.dashboard.render import POLICY as STRICT_POLICY
from control_plane.dashboard.render import put_headers
from control_plane.dashboard.sheets import Sheet
from control_plane.errors import ControlPlaneError, Invalid, Missing, Unavailable
from control_plane.warehouse import telling_of_clickhouse

# Bokeh's script writes rules of its own into <style> elements within each chart, some of them anew whenever a chart
# changes its size, so there is neither a hash nor a nonce for them. Scripts stay those of our own files, and styles can
# load nothing but our own files and inline pictures; attributes with styles stay forbidden.
POLICY: Final = f"{STRICT_POLICY}; style-src-elem 'self' 'unsafe-inline'"
RANGES: Final = (7, 30, 90, 365)
# ClickHouse answers the questions of a page within a second or so; nobody waits for a page much longer than this.
ANSWER_SECONDS: Final = 15.0

# Some 50 ms a chart, and a second with the first since the start, which imports Bokeh. All of it is Python's, so
# several threads would draw no faster, and the API would wait for each of them.
_PEN: Final = ThreadPoolExecutor(1, thread_name_prefix="charts")
_TOO_SLOW: Final = "ClickHouse takes too long to answer; try again in a moment, or ask for fewer days."


@dataclass(frozen=True, slots=True)
class Section:
    """A figure on the page.

    Args:
        name: the figure's, in addresses.
        title: its heading.
        state: whether there is data, there is none, or it could not be asked for.
        sentence: what the data say, what to do to have some, or why it could not be asked for.
        tables: each with its heading and where to save it.
        chart: where the JSON is that it is drawn from.
    """

    name: str
    title: str
    state: Literal["data", "nothing", "away"]
    sentence: str
    tables: list[tuple[str, str, Sheet]]
    chart: str | None = None


async def show_monitor(call: Call) -> Mapping[str, Any]:
    """Show all figures of the model in an environment, over the last days."""
    query = _query(call, DevicesQuery)
    frame = await frame_of(call)
    groups: list[EnvironmentGroupOut] = frame["groups"]
    names = [group.name for group in groups]
    if "environment" not in query.model_fields_set and names and query.environment not in names:
        query = query.model_copy(update={"environment": names[0]})
    answers = await _ask(call, query) if names else {}
    sections = [_section(name, answer, query) for name, answer in answers.items()]
    return {
        **frame,
        "query": query,
        "ranges": sorted({*RANGES, query.days}),
        "dimensions": DIMENSIONS,
        "sections": sections,
        "offers": any(group.releases for group in groups if query.environment in (group.name, group.id)),
    }


async def look(call: Call) -> str | None:
    """Return what is different whenever devices have reported more, or None while that cannot be asked."""
    told = await _in_time(last_arrival(call, _query(call, FiguresQuery)))
    return None if isinstance(told, ControlPlaneError) else str(told)


async def save_figure(call: Call) -> web.StreamResponse:
    """Answer with a figure as CSV."""
    name = call.part("figure")
    if name not in SHEETS:
        raise Missing("There is no such figure.")
    figure, sheet = SHEETS[name]
    query = _query(call, figure.query)
    answer = await figure.ask(call, query)
    filename = f"{answer.model}-{answer.environment}-{name}.csv"
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(filename, safe='')}"}
    file = web.Response(text=sheet(answer).csv(), content_type="text/csv", charset="utf-8", headers=headers)
    put_headers(file)
    return file


async def draw_figure(call: Call) -> web.StreamResponse:
    """Answer with what a figure's chart is drawn from: apart from the page, which need not wait for it."""
    figure = FIGURES.get(call.part("figure"))
    if figure is None:
        raise Missing("There is no such figure.")
    answer = await figure.ask(call, _query(call, figure.query))
    if not _has_data(figure, answer):
        raise Missing(figure.nothing)
    drawn = await asyncio.get_running_loop().run_in_executor(_PEN, draw, figure.chart(answer))
    file = web.Response(body=drawn, content_type="application/json")
    put_headers(file)
    return file


def _query(call: Call, kind: type[Any]) -> Any:
    query = read_query(call.request, kind)
    assert isinstance(query, kind)
    return query


async def _ask(call: Call, query: DevicesQuery) -> dict[str, Any]:
    """Return each figure's answer, or the error that there is in its place.

    Whether ClickHouse answers at all is asked first: while it is away, the figures need not find out one by one.

    Raises:
        Missing: there is no such environment.
    """
    away = await _in_time(_reach(call))
    if away is not None:
        return dict.fromkeys(FIGURES, away)
    answers = await asyncio.gather(*(_answer(figure, call, query) for figure in FIGURES.values()))
    return dict(zip(FIGURES, answers, strict=True))


async def _reach(call: Call) -> None:
    """Ask ClickHouse for nothing."""
    with telling_of_clickhouse():
        await call.services.warehouse.ping()


async def _answer(figure: Figure, call: Call, query: DevicesQuery) -> Any:
    asked = figure.query(**{name: getattr(query, name) for name in figure.query.model_fields})
    return await _in_time(figure.ask(call, asked))


async def _in_time(asking: Awaitable[Any]) -> Any:
    """Return what is answered, or the error that there is in its place."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await asking
    except TimeoutError:
        return Unavailable(_TOO_SLOW, "clickhouse")
    except (Unavailable, Invalid) as error:
        return error


def _has_data(figure: Figure, answer: Any) -> bool:
    if isinstance(answer, ControlPlaneError):
        return False
    _, sheet = next(iter(figure.sheets.values()))
    return bool(sheet(answer).rows)


def _section(name: str, answer: Any, query: DevicesQuery) -> Section:
    figure = FIGURES[name]
    if isinstance(answer, ControlPlaneError):
        return Section(name, figure.title, "away", answer.sentence, [])
    if not _has_data(figure, answer):
        return Section(name, figure.title, "nothing", figure.nothing, [])
    tables: list[tuple[str, str, Sheet]] = []
    for file, (caption, sheet) in figure.sheets.items():
        shown = figure.table if figure.table is not None and not tables else sheet
        tables.append((caption, _file_address(file, query), shown(answer)))
    return Section(name, figure.title, "data", figure.says(answer), tables, f"{name}.chart?{_asked(figure, query)}")


def _file_address(file: str, query: FiguresQuery) -> str:
    figure, _ = SHEETS[file]
    return f"{file}.csv?{_asked(figure, query)}"


def _asked(figure: Figure, query: FiguresQuery) -> str:
    return "&".join(f"{name}={quote(str(getattr(query, name)), safe='')}" for name in figure.query.model_fields)
