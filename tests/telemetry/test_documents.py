"""docs/telemetry.md says what the code does: fields, columns, settings and metrics are compared."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
from prometheus_client import Counter, Gauge, Histogram

from telemetry import metrics
from telemetry.adoption import MAX_DAYS, MAX_FAILURES
from telemetry.cardinality import LIMITS
from telemetry.columns import MAX_ERROR_KEPT
from telemetry.events import EVENT_TYPES, MAX_BATCH_BYTES, MAX_ERROR_CHARS, MAX_EVENTS_PER_BATCH, Event
from telemetry.settings import ShipperSettings
from telemetry.sql_guard import EVENT_COLUMNS, MAX_SQL_CHARS
from telemetry.warehouse import DEFAULT_LIMITS, MAX_WAITING_QUESTIONS

TEXT = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text("utf-8")


def first_cells(heading: str) -> list[str]:
    """The names in the first cells of the first table under a heading."""
    section = TEXT.split(f"## {heading}\n", 1)[1]
    table = section[section.index("|---") :].split("\n\n", 1)[0]
    return [name for line in table.splitlines()[1:] for name in re.findall(r"`([^`]+)`", line.split("|")[1])]


def test_every_field_of_an_event_is_described() -> None:
    assert sorted(first_cells("Events")) == sorted(field.name for field in msgspec.structs.fields(Event))
    assert all(f"`{kind}`" in TEXT for kind in EVENT_TYPES)


def test_every_column_of_the_view_is_described() -> None:
    assert sorted(first_cells("The view `events`")) == sorted(EVENT_COLUMNS)


def test_every_setting_is_described_with_its_default() -> None:
    assert first_cells("The shipper as a process") == [
        f"SKAFOS_{name.upper()}" for name in ShipperSettings.model_fields
    ]
    for name, field in ShipperSettings.model_fields.items():
        line = next(line for line in TEXT.splitlines() if line.startswith(f"| `SKAFOS_{name.upper()}`"))
        default = line.split("|")[2].strip(" `")
        assert default == ("" if field.is_required() or field.default is None else str(field.default))


def test_every_metric_is_described() -> None:
    collectors = [one for one in vars(metrics).values() if isinstance(one, Counter | Gauge | Histogram)]
    names = [family.name for one in collectors for family in one.describe()]

    described = {name.removesuffix("_total") for name in first_cells("Metrics")}
    assert described == set(names)


def test_the_bounds_of_free_texts_are_written_down() -> None:
    told = TEXT.split("An organization has so many", 1)[1].split(". What comes beyond", 1)[0]
    listed = {
        name: int(number.replace(",", ""))
        for number, names in re.findall(r"([\d,]*\d) of ((?:`\w+`(?:,\s| and )?)+)", told)
        for name in re.findall(r"`(\w+)`", names)
    }
    assert listed == LIMITS


def test_the_bounds_that_are_written_down_are_those_of_the_code() -> None:
    limits = DEFAULT_LIMITS
    for words in (
        f"{MAX_EVENTS_PER_BATCH:,} events and {MAX_BATCH_BYTES >> 20} MiB",
        f"{MAX_ERROR_CHARS:,} characters are accepted, the first {MAX_ERROR_KEPT} are stored",
        f"{MAX_SQL_CHARS:,} characters",
        f"{limits.result_bytes >> 20} MiB of result, {limits.memory_bytes >> 20} MiB of memory",
        f"At most {MAX_WAITING_QUESTIONS} wait",
        f"at most {MAX_DAYS}",
        f"the {MAX_FAILURES} most frequent",
    ):
        assert words in TEXT
