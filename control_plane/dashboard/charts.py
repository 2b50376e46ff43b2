"""Charts: what one shows, as plain data, and how Bokeh draws it.

Bokeh's Python describes a chart as JSON, and Bokeh's script draws it in the browser. The Python part is imported with
the first chart: it takes some 30 MB and a second, and nobody may ever look at one.

Colours of lines and bars are told apart from a white card and from a dark one (contrast of at least 3 to 1, WCAG 2.2,
1.4.11). All others are the page's own: `static/dashboard.css` gives them to Bokeh as `--bk-…`, for light and dark.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from functools import cache
from math import nan
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from control_plane.loaded import leave_alone_what_is_loaded
from control_plane.names import without_control_characters

if TYPE_CHECKING:
    from bokeh.models import GlyphRenderer
    from bokeh.plotting import figure as Figure  # noqa: N812 - it is a class

# Of a chart and of each line of its legend, in CSS pixels.
HEIGHT: Final = 300
LEGEND_LINE: Final = 24
# Of what a legend shows of a name: names come from devices, with up to 100 characters.
MAX_LABEL: Final = 24
COLORS: Final = ("#3b78c9", "#c9622a", "#2f8f5b", "#b0509f", "#8a7a1f", "#cf4a55", "#5f7fa0", "#8a68c9")
# Of categories, as long as their names stand level beside one another on a phone.
MAX_LEVEL_LABELS: Final = 4
# With the colours, as many lines as differ.
DASHES: Final = ("solid", "dashed")


@dataclass(frozen=True, slots=True)
class Axis:
    """What numbers are.

    Args:
        label: of the axis.
        format: of the numbers, as Bokeh's `NumeralTickFormatter` has them.
    """

    label: str
    format: str = "0,0"


DEVICES: Final = Axis("Devices")


@dataclass(frozen=True, slots=True)
class Lines:
    """A line for each series over days; there is a gap where a value is None."""

    days: Sequence[date]
    series: Sequence[tuple[str, Sequence[float | None]]]
    axis: Axis


@dataclass(frozen=True, slots=True)
class Bars:
    """A bar for each series in each category.

    Args:
        categories: all different.
        series: a name, and a value for each category.
        axis: what the values are.
        bounds: for each category how low and how high the value of the only series may be, or none.
    """

    categories: Sequence[str]
    series: Sequence[tuple[str, Sequence[float]]]
    axis: Axis
    bounds: Sequence[tuple[float, float]] = ()


Chart: TypeAlias = Lines | Bars


def draw(chart: Chart) -> bytes:
    """Return the JSON from which Bokeh's script draws a chart.

    It blocks for the import, then for some 50 ms.
    """
    item = _item(_lines(chart) if isinstance(chart, Lines) else _bars(chart))
    _leave_bokeh_alone()
    # In the order that it comes in: what is referred to comes before what refers to it.
    return json.dumps(item).encode()


@cache
def _leave_bokeh_alone() -> None:
    """Have the collector pass over the library, which the first chart has loaded."""
    leave_alone_what_is_loaded()


def label_of(name: str) -> str:
    """Return a name as a legend shows it: in one short line."""
    line = without_control_characters(" ".join(name.split()))
    return line if len(line) <= MAX_LABEL else f"{line[: MAX_LABEL - 1]}…"


def _item(plot: Figure) -> dict[str, Any]:
    """Return what `bokeh.embed.json_item` does, which looks at every model four times on the way."""
    from bokeh import __version__
    from bokeh.document import Document

    document = Document()
    document.add_root(plot)
    return {"target_id": None, "root_id": plot.id, "doc": document.to_json(deferred=False), "version": __version__}


def _lines(chart: Lines) -> Figure:
    from bokeh.models import ColumnDataSource, DatetimeTickFormatter, HoverTool, Line, Scatter

    plot = _plot(chart.axis, x_axis_type="datetime")
    plot.xaxis.formatter = DatetimeTickFormatter(days="%b %d", months="%b %Y", years="%Y")
    columns: dict[str, Any] = {"day": [_milliseconds(day) for day in chart.days], "zero": [0] * len(chart.days)}
    columns |= {f"s{at}": _numbers(values) for at, (_, values) in enumerate(chart.series)}
    source = ColumnDataSource(columns)
    shown = []
    for at, (name, values) in enumerate(chart.series):
        color, dash = COLORS[at % len(COLORS)], DASHES[at // len(COLORS) % len(DASHES)]
        line = Line(x="day", y=f"s{at}", line_width=2, line_color=color, line_dash=dash)
        drawn = [plot.add_glyph(source, line)]
        if _has_lone_day(values):  # which no line leads to
            dots = Scatter(x="day", y=f"s{at}", size=6, line_color=color, fill_color=color)
            drawn.append(plot.add_glyph(source, dots))
        shown.append((name, drawn))
    # What tells of a whole day must not be hidden with one of the lines.
    base = plot.add_glyph(source, Line(x="day", y="zero", line_alpha=0))
    # Names are texts here and never templates, so nothing that a device says is read as one.
    told = [(label_of(name), f"@s{at}{{{chart.axis.format}}}") for at, (name, _) in enumerate(chart.series)]
    day = HoverTool(
        renderers=[base],
        mode="vline",
        tooltips=[("Day", "@day{%F}"), *told],
        formatters={"@day": "datetime"},
    )
    plot.add_tools(day)
    _add_legend(plot, shown)
    return plot


def _bars(chart: Bars) -> Figure:
    from bokeh.models import ColumnDataSource, HoverTool, TeeHead, VBar, Whisker
    from bokeh.transform import dodge

    plot = _plot(chart.axis, x_range=list(chart.categories))
    columns: dict[str, Any] = {"category": list(chart.categories)}
    columns |= {f"s{at}": list(values) for at, (_, values) in enumerate(chart.series)}
    told = [(label_of(name), f"@s{at}{{{chart.axis.format}}}") for at, (name, _) in enumerate(chart.series)]
    if chart.bounds:
        columns |= {"low": [low for low, _ in chart.bounds], "high": [high for _, high in chart.bounds]}
        told.append(("95 % sure", f"@low{{{chart.axis.format}}} to @high{{{chart.axis.format}}}"))
    source = ColumnDataSource(columns)
    width = 0.8 / len(chart.series)
    shown = []
    for at, (name, _) in enumerate(chart.series):
        place = dodge("category", (at - (len(chart.series) - 1) / 2) * width, range=plot.x_range)
        color = COLORS[at % len(COLORS)]
        bar = VBar(x=place, top=f"s{at}", width=0.9 * min(width, 0.5), line_color=color, fill_color=color)
        bar.fill_alpha = 0.4 if chart.bounds else 1.0  # bounds are seen on a pale bar
        shown.append((name, [plot.add_glyph(source, bar)]))
    if chart.bounds:
        stroke = {"line_color": COLORS[1], "line_width": 2}
        heads = {"upper_head": TeeHead(size=12, **stroke), "lower_head": TeeHead(size=12, **stroke)}
        bounds = Whisker(source=source, base="category", lower="low", upper="high", level="overlay", **stroke, **heads)
        plot.add_layout(bounds)
        plot.y_range.end = 1.05 * max(high for _, high in chart.bounds)
    plot.add_tools(HoverTool(tooltips=[("", "@category"), *told]))
    plot.xgrid.visible = False
    # Many versions in a narrow window.
    plot.xaxis.major_label_orientation = 0.6 if len(chart.categories) > MAX_LEVEL_LABELS else "horizontal"
    if len(shown) > 1:
        _add_legend(plot, shown)
    return plot


def _plot(axis: Axis, **more: Any) -> Figure:
    """Return an empty plot, as wide as there is room; its tools wait until they are chosen, so that fingers scroll."""
    from bokeh.models import NumeralTickFormatter
    from bokeh.plotting import figure

    plot = figure(
        height=HEIGHT,
        sizing_mode="stretch_width",
        tools="xbox_zoom,reset",
        active_drag=None,
        toolbar_location="above",
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        **more,
    )
    plot.toolbar.logo = None
    plot.y_range.start = 0
    plot.yaxis.axis_label = axis.label
    plot.yaxis.formatter = NumeralTickFormatter(format=axis.format)
    return plot


def _add_legend(plot: Figure, shown: Sequence[tuple[str, list[GlyphRenderer]]]) -> None:
    from bokeh.core.properties import value
    from bokeh.models import Legend, LegendItem

    labels = [label_of(name) for name, _ in shown]
    # On a phone some 40 characters fit.
    columns = max(1, min(4, 40 // (max(map(len, labels)) + 4)))
    items = [
        LegendItem(label=value(label), renderers=renderers) for label, (_, renderers) in zip(labels, shown, strict=True)
    ]
    legend = Legend(items=items, click_policy="hide", ncols=columns, border_line_color=None, background_fill_color=None)
    legend.location, legend.spacing = "top_left", 12
    # Bokeh looks for the page's colour of these before they are part of the page, and finds none.
    legend.stylesheets = [".bk-label { color: var(--ink) !important; }"]
    plot.add_layout(legend, "below")
    plot.height = HEIGHT + LEGEND_LINE * -(-len(items) // columns)


def _milliseconds(day: date) -> int:
    return int(datetime.combine(day, time(), UTC).timestamp()) * 1000


def _numbers(values: Sequence[float | None]) -> list[float]:
    """Return numbers as Bokeh's script takes them, no longer than a screen shows."""
    return [nan if value is None else round(value, 4) for value in values]


def _has_lone_day(values: Sequence[float | None]) -> bool:
    around = (None, *values, None)
    return any(
        before is None and here is not None and after is None
        for before, here, after in zip(around, around[1:], around[2:], strict=False)
    )
