"""How many devices one core carries: arithmetic from measured costs and from what devices do in a day."""

from __future__ import annotations

from dataclasses import dataclass

from bench.edge.figures import Spread
from bench.edge.measuring import Throughput
from bench.edge.report import OURS, Results
from bench.markdown import table

SECONDS_PER_DAY = 86_400
MICROSECONDS = 1e6
# A core is planned half busy: then waiting is short, and one of two machines may fail.
UTILIZATION = 0.5
# The busiest hour of a day has about two and a half times the mean: people charge and use phones at the same hours.
PEAK_FACTOR = 2.5


@dataclass(frozen=True)
class Costs:
    """Measured CPU microseconds of the edge's core: per request, and per million bytes sent."""

    not_modified: float
    manifest: float
    events: float
    registration: float
    megabyte: float


@dataclass(frozen=True)
class Habits:
    """What a device does in a day, on average.

    Args:
        checks: manifest requests.
        found_new: share of the checks that find another manifest.
        updates: model updates.
        update_megabytes: millions of bytes that an update downloads.
        batches: posted batches of events.
        registrations: registrations.
    """

    checks: float
    found_new: float
    updates: float
    update_megabytes: float
    batches: float
    registrations: float


EXAMPLES = (
    ("calm: 4 checks a day, a 0.5 MB patch each month", Habits(4, 0.01, 1 / 30, 0.5, 1, 0.01)),
    ("usual: 24 checks a day, a 2 MB patch each week", Habits(24, 0.01, 1 / 7, 2, 2, 0.02)),
    ("eager: a check each quarter of an hour, a 20 MB model each day", Habits(96, 0.02, 1, 20, 8, 0.05)),
)


def microseconds_per_day(costs: Costs, habits: Habits) -> float:
    """Return the CPU microseconds that one device costs in a day."""
    checks = habits.checks * ((1 - habits.found_new) * costs.not_modified + habits.found_new * costs.manifest)
    downloads = habits.updates * habits.update_megabytes * costs.megabyte
    return checks + downloads + habits.batches * costs.events + habits.registrations * costs.registration


def devices_per_core(costs: Costs, habits: Habits) -> float:
    """Return how many devices one core carries through the busiest hour, half busy."""
    busy = SECONDS_PER_DAY * MICROSECONDS * UTILIZATION / PEAK_FACTOR
    return busy / microseconds_per_day(costs, habits)


def peak_megabits(habits: Habits, devices: float) -> float:
    """Return the megabits per second that so many devices download in the busiest hour."""
    return devices * habits.updates * habits.update_megabytes * 8 / SECONDS_PER_DAY * PEAK_FACTOR


def costs_of(results: Results) -> Costs | None:
    """Return the edge's costs, or None when a case that is needed was not measured."""
    found = {one.case.name: one for one in results.throughput}
    names = ("304-64", "200", "events", "register", "range-64")
    if not all(name in found and found[name].samples.get(OURS) for name in names):
        return None
    return Costs(*(_cost(found[name]) for name in names))


def _cost(result: Throughput) -> float:
    return Spread.of([one.cost for one in result.samples[OURS]]).median


def render_capacity(results: Results) -> str:
    """Return the costs and the examples as Markdown."""
    costs = costs_of(results)
    if costs is None:
        return "The last run did not measure everything that is needed here."
    told = [
        ("*c₃₀₄*: a check that finds nothing new", f"{costs.not_modified:.1f}"),
        ("*c₂₀₀*: a check that finds another manifest, 2 KB", f"{costs.manifest:.1f}"),
        ("*cₑ*: a batch of 20 events", f"{costs.events:.0f}"),
        ("*cᵣ*: a registration", f"{costs.registration:.0f}"),
        ("*c_MB*: a million bytes of a download, kernel and receiver included", f"{costs.megabyte:.0f}"),
    ]
    head = ("devices", "CPU of one a day", "devices that one core carries", "checks per second then", "download then")
    examples = table(head, [_example(costs, title, habits) for title, habits in EXAMPLES])
    return table(("cost on the edge's core", "CPU µs"), told) + "\n\n" + examples


def _example(costs: Costs, title: str, habits: Habits) -> tuple[str, ...]:
    devices = devices_per_core(costs, habits)
    checks = devices * habits.checks / SECONDS_PER_DAY * PEAK_FACTOR
    day = microseconds_per_day(costs, habits) / 1000
    megabits = peak_megabits(habits, devices)
    return title, f"{day:.2f} ms", f"{devices:,.0f}", f"{checks:,.0f}", f"{megabits:,.0f} Mbit/s"
