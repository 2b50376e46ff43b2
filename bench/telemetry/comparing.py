"""Every question, asked of a warehouse and held against the truth: what differs, by how much, and how long it took."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from time import perf_counter
from typing import Final

from bench.telemetry import expected, rows
from bench.telemetry.deployments import Deployment
from bench.telemetry.truth import Truth
from telemetry import queries
from telemetry.queries import Days, ModelName, Subject
from telemetry.warehouse import Warehouse

DEVICES_TOLERANCE: Final = 0.01
"""The goal for unique devices; everything that is counted otherwise is exact."""
PERCENTILE_TOLERANCE: Final = 0.02
"""Of a percentile's own value, beside what ``expected.RANK_TOLERANCE`` allows; rollups keep digests."""
EXACT: Final = 1e-9
_STUCK_LIMIT: Final = 100
STUCK_AFTER: Final = timedelta(hours=24)
STUCK_DAYS: Final = 14
HOURS: Final = 72
_OF_DAYS: Final = ("adoption_curve", "version_mix", "funnel", "failure_rates", "download_times", "bytes_sent")

# What tells the items of a list apart; the first of these groups that all fields of are there.
_KEYS: Final = (
    ("device_id",),
    ("day",),
    ("hour",),
    ("version",),
    ("value",),
    ("step", "error"),
    ("step",),
    ("error",),
    ("encoding",),
    ("share",),
)
_PERCENTILES: Final = ("p50_ms", "p95_ms")
_NOT_COMPARED: Final = ("low", "high", "deployed_at")
"""Bounds of confidence follow from the counts, by a formula that has its own tests; the other is what was asked."""


@dataclass(frozen=True)
class Question:
    """One question with its arguments.

    Args:
        name: of the function in ``telemetry.queries``.
        about: its arguments, in words.
        ask: asks a warehouse.
        answer: from the truth, what the answer must be.
    """

    name: str
    about: str
    ask: Callable[[Warehouse], Awaitable[object]]
    answer: Callable[[Truth], object]


@dataclass(frozen=True)
class Difference:
    """A figure that is not what it must be. ``told`` or ``true`` is None where there is no such figure."""

    path: str
    told: object
    true: object


@dataclass(frozen=True)
class Compared:
    """A question's answer beside the truth.

    Args:
        figures: that were compared.
        differences: beyond the tolerance.
        worst_devices, worst_percentile: the largest deviations within or beyond it, as shares.
    """

    question: Question
    figures: int
    differences: tuple[Difference, ...]
    worst_devices: float
    worst_percentile: float


def subject_of(truth: Truth) -> Subject:
    """Return whose figures are asked for."""
    labels = truth.population.settings.labels
    return Subject(
        labels.organization_id, labels.application_id, labels.environment, (ModelName(rows.MODELS[rows.SUBJECT]),)
    )


def all_questions(truth: Truth) -> list[Question]:
    """Return every question, over windows of several lengths."""
    settings, now = truth.population.settings, truth.now
    last = settings.first_day + timedelta(days=settings.days - 1)
    ahead = [Days(max(settings.first_day, last - timedelta(days=days - 1)), last) for days in (settings.days, 7)]
    past = Days(settings.first_day + timedelta(days=1), settings.first_day + timedelta(days=settings.days // 2))
    subject = subject_of(truth)
    asked = [question for days in (*ahead, past) for question in _of_days(subject, days)]
    asked.append(Question("installations", "ever", lambda w: queries.installations(w, subject), expected.installations))
    for deployment in truth.population.deployments[1:]:
        asked += _of_version(subject, deployment, now)
    return asked


def _of_days(subject: Subject, days: Days) -> Iterator[Question]:
    about, window = f"{days.first:%m-%d} to {days.last:%m-%d}", (days.first, days.last)

    def of(name: str) -> Question:
        ask, answer = getattr(queries, name), getattr(expected, name)
        return Question(name, about, lambda w: ask(w, subject, days), lambda truth: answer(truth, *window))

    def by(dimension: queries.Dimension) -> Question:
        return Question(
            "active_devices",
            f"{dimension}, {about}",
            lambda w: queries.active_devices(w, subject, days, dimension),
            lambda truth: expected.active_devices(truth, *window, dimension),
        )

    yield from map(of, _OF_DAYS)
    yield from map(by, queries.DIMENSIONS)


def _of_version(subject: Subject, deployment: Deployment, now: datetime) -> Iterator[Question]:
    deployed_at = datetime.fromtimestamp(deployment.at, UTC)
    about, version = f"version {deployment.version}", deployment.version
    before, active_since = int((now - STUCK_AFTER).timestamp()), queries.last_days(STUCK_DAYS, now).first
    heard = int(datetime.combine(active_since, time(), UTC).timestamp())
    yield Question(
        "adoption_curve_by_hour",
        f"{about}, {HOURS} hours",
        lambda w: queries.adoption_curve_by_hour(w, subject, deployed_at, now, HOURS),
        lambda truth: expected.adoption_curve_by_hour(truth, deployed_at, HOURS),
    )
    yield Question(
        "time_to_adopt",
        about,
        lambda w: queries.time_to_adopt(w, subject, version, deployed_at, now),
        lambda truth: expected.time_to_adopt(truth, deployment),
    )
    yield Question(
        "stuck_devices",
        about,
        lambda w: queries.stuck_devices(w, subject, version, now, STUCK_AFTER, STUCK_DAYS, _STUCK_LIMIT),
        lambda truth: expected.stuck_devices(truth, version, before, heard, _STUCK_LIMIT),
    )


async def compare(warehouse: Warehouse, truth: Truth, question: Question) -> Compared:
    """Ask one question and hold its answer against the truth."""
    told = dict(figures(await question.ask(warehouse)))
    true = dict(figures(question.answer(truth)))
    differences, worst = [], {"devices": 0.0, "percentile": 0.0}
    for path in sorted(told.keys() | true.keys()):
        kind, tolerance = _tolerance(path)
        away = deviation(told.get(path), true.get(path))
        if kind:
            worst[kind] = max(worst[kind], away)
        if away > tolerance:
            differences.append(Difference(path, told.get(path), true.get(path)))
    return Compared(question, len(true), tuple(differences), worst["devices"], worst["percentile"])


async def timed(warehouse: Warehouse, question: Question, times: int) -> list[float]:
    """Ask a question once to warm up and then so many times; return the seconds that each took."""
    await question.ask(warehouse)
    taken = []
    for _ in range(times):
        began = perf_counter()
        await question.ask(warehouse)
        taken.append(perf_counter() - began)
    return taken


def figures(answer: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield the figures of an answer by their paths; items of a list are named for what tells them apart."""
    if dataclasses.is_dataclass(answer) and not isinstance(answer, type | expected.Percentile):
        answer = {one.name: getattr(answer, one.name) for one in dataclasses.fields(answer)}
    if isinstance(answer, Mapping):
        for name, value in answer.items():
            if name not in _NOT_COMPARED:
                yield from figures(value, f"{path}.{name}" if path else name)
    elif isinstance(answer, list | tuple):
        for item in answer:
            yield from figures(item, f"{path}[{_key(item)}]")
    else:
        yield path, answer


def deviation(told: object, true: object) -> float:
    """Return how far a figure is off, as a share of the true one; anything but equal is infinitely far for texts."""
    if told == true:
        return 0.0
    if isinstance(true, expected.Percentile):
        return true.deviation(told) if isinstance(told, int | float) else float("inf")
    if isinstance(told, int | float) and isinstance(true, int | float) and true:
        return abs(told - true) / abs(true)
    return float("inf")


def _tolerance(path: str) -> tuple[str | None, float]:
    name = path.rpartition(".")[2]
    if name in _PERCENTILES:
        return "percentile", PERCENTILE_TOLERANCE
    if name == "devices" or name.endswith("_devices") or name in ("share", "rate", "lost"):
        return "devices", DEVICES_TOLERANCE
    return None, EXACT


def _key(item: object) -> str:
    def value(name: str) -> object:
        return item[name] if isinstance(item, Mapping) else getattr(item, name, None)

    names = set(item) if isinstance(item, Mapping) else {one.name for one in dataclasses.fields(item)}  # type: ignore[arg-type]
    for group in _KEYS:
        if names.issuperset(group):
            return " ".join(_text(value(name)) for name in group)
    raise ValueError(f"nothing tells items with {sorted(names)} apart")


def _text(value: object) -> str:
    return value.isoformat() if isinstance(value, date | datetime) else str(value)
