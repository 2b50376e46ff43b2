"""Results as Markdown, and into a document between two marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bench.edge.cases import IDLE_BYTES_GOAL, P99_RATIO_GOAL, PUBLISH_P99_MS_GOAL, DownloadCase
from bench.edge.figures import Sample, Spread, percentile, ratio_in_rounds
from bench.edge.flooding import Flooding
from bench.edge.idle import Idle
from bench.edge.measuring import AtRate, Throughput
from bench.markdown import GOAL_HEAD, table, verdict

BASELINE = "nginx"
OURS = "edge"
# From here on the generator may have been the limit, and a server may be faster than is told.
BUSY_LOAD = 0.95


@dataclass
class Results:
    """Everything that one run measured; what was not asked for stays empty."""

    throughput: list[Throughput] = field(default_factory=list)
    latency: dict[str, list[AtRate]] = field(default_factory=dict)
    memory: dict[str, Idle] = field(default_factory=dict)
    publish: list[float] = field(default_factory=list)
    floods: list[Flooding] = field(default_factory=list)
    lua: tuple[list[Sample], list[Sample]] | None = None
    left_out: list[str] = field(default_factory=list)


def render(results: Results, preface: str) -> str:
    """Return all tables below a preface that says when, where and how long."""
    parts = [preface, throughput_table(results.throughput), _latency(results.latency), _single(results)]
    notes = [f"- Left out: {text}." for text in results.left_out]
    return "\n\n".join(part for part in (*parts, "\n".join(notes)) if part)


def throughput_table(results: Sequence[Throughput]) -> str:
    """Return the table of rates by case and peer; nothing when there are no results."""
    head = (
        "case",
        "peer",
        "per second",
        "spread",
        "CPU",
        "of nginx: rate",
        "of nginx: CPU",
        "generator busy",
        "goal",
        "",
    )
    return table(
        head,
        [_row(result, peer, samples) for result in results for peer, samples in result.samples.items() if samples],
    )


def _row(result: Throughput, peer: str, samples: Sequence[Sample]) -> list[str]:
    large = isinstance(result.case, DownloadCase)
    rate, cost = Spread.of([one.rate for one in samples]), Spread.of([one.cost for one in samples])
    load = Spread.of([one.load for one in samples]).median
    ratios = ratios_of(result, peer)
    told = [f"{one.median:.2f} ({one.least:.2f} to {one.greatest:.2f})" if one else "" for one in ratios]
    goal, holds = _goal(result, peer, rate.median)
    busy = f"{load:.0%}" + (" (the limit)" if load >= BUSY_LOAD else "")
    if isinstance(result.case, DownloadCase):
        busy = "shared core"
    elif result.case.polled:
        # The generator never sleeps; what tells that it was not the limit is that the server did not either.
        busy = f"polls; server {rate.median * cost.median / 1e6:.0%}"
    return [
        *(result.case.title, peer, _amount(rate.median, large)),
        f"{_amount(rate.least, large)} to {_amount(rate.greatest, large)}",
        f"{cost.median:,.0f} µs/MB" if large else f"{cost.median:.1f} µs",
        *(*told, busy, goal, verdict(holds)),
    ]


def _amount(rate: float, large: bool) -> str:
    return f"{rate / 1e6:,.0f} MB" if large else f"{rate:,.0f}"


def ratios_of(result: Throughput, peer: str) -> tuple[Spread | None, Spread | None]:
    """Return a peer's rate and CPU as shares of nginx's in the same rounds, where nginx took part."""
    theirs, ours = result.samples.get(BASELINE), result.samples[peer]
    if not theirs or peer == BASELINE:
        return None, None
    rounds = min(len(ours), len(theirs))
    return (
        ratio_in_rounds([one.rate for one in ours[:rounds]], [one.rate for one in theirs[:rounds]]),
        ratio_in_rounds([one.cost for one in ours[:rounds]], [one.cost for one in theirs[:rounds]]),
    )


def _goal(result: Throughput, peer: str, rate: float) -> tuple[str, bool | None]:
    goal = result.case.goal
    if peer != OURS:
        return "", None
    rate_ratio, cost_ratio = ratios_of(result, peer)
    checks = []
    if goal.rate is not None:
        checks.append((f"≥ {goal.rate:,.0f}", rate >= goal.rate))
    if goal.rate_ratio is not None and rate_ratio:
        checks.append((f"rate ≥ {goal.rate_ratio:.2f}", rate_ratio.median >= goal.rate_ratio))
    if goal.cost_ratio is not None and cost_ratio:
        checks.append((f"CPU ≤ {goal.cost_ratio:.2f}", cost_ratio.median <= goal.cost_ratio))
    if not checks:
        return "", None
    return ", ".join(text for text, _ in checks), all(holds for _, holds in checks)


def _latency(results: Mapping[str, Sequence[AtRate]]) -> str:
    head = ("304 at half of capacity, open loop", "requests per second", "median", "99 %", "99.9 %", "sent late (99 %)")
    rows = []
    for peer, rounds in results.items():
        seen = [one.latencies for one in rounds]
        middle, p99, p999, late = (
            Spread.of([getattr(one, name) for one in seen]) for name in ("median", "p99", "p999", "late_p99")
        )
        rate = Spread.of([one.rate for one in seen]).median
        ratio, goal, holds = _latency_ratio(results, peer)
        seen_times = (_micro(one) for one in (middle, p99, p999, late))
        rows.append([peer, f"{rate:,.0f}", *seen_times, ratio, goal, verdict(holds)])
    return table((*head, "99 % of nginx's", "goal", ""), rows)


def _latency_ratio(results: Mapping[str, Sequence[AtRate]], peer: str) -> tuple[str, str, bool | None]:
    theirs, ours = results.get(BASELINE, ()), results[peer]
    if peer == BASELINE or not theirs:
        return "", "", None
    pairs = list(zip(ours, theirs, strict=False))
    ratio = ratio_in_rounds([one.latencies.p99 for one, _ in pairs], [other.latencies.p99 for _, other in pairs])
    told = f"{ratio.median:.2f} ({ratio.least:.2f} to {ratio.greatest:.2f})"
    return told, f"≤ {P99_RATIO_GOAL}", ratio.median <= P99_RATIO_GOAL


def _micro(spread: Spread) -> str:
    return f"{spread.median:,.0f} µs ({spread.least:,.0f} to {spread.greatest:,.0f})"


def _single(results: Results) -> str:
    return table(GOAL_HEAD, [*_memory(results.memory), *_publish(results.publish), *_lua(results.lua)])


def _memory(results: Mapping[str, Idle]) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    for peer, idle in results.items():
        goal = f"≤ {IDLE_BYTES_GOAL / 1024:.1f} KiB" if peer == OURS else ""
        holds = idle.unique <= IDLE_BYTES_GOAL if peer == OURS else None
        measured = f"{idle.unique / 1024:.2f} KiB (resident: {idle.resident / 1024:.2f})"
        what = f"memory of one of {idle.connections:,} idle connections, {peer}"
        rows.append((what, measured, goal, verdict(holds)))
    return rows


def _publish(times: Sequence[float]) -> list[Sequence[str]]:
    if not times:
        return []
    ordered = sorted(times)
    p99 = percentile(ordered, 0.99)
    measured = f"{p99:.1f} ms (median {percentile(ordered, 0.5):.1f}, slowest {ordered[-1]:.1f})"
    what = f"publish to the last of 4 workers, 99 % of {len(ordered)}"
    goal = f"≤ {PUBLISH_P99_MS_GOAL:.0f} ms"
    return [(what, measured, goal, verdict(p99 <= PUBLISH_P99_MS_GOAL))]


def _lua(results: tuple[Sequence[Sample], Sequence[Sample]] | None) -> list[Sequence[str]]:
    if results is None:
        return []
    plain, scripted = (Spread.of([one.load / one.rate * 1e6 for one in samples]).median for samples in results)
    measured = f"{plain:.1f} and {scripted:.1f} µs"
    return [("wrk's own CPU per request: constant, and handed out by Lua", measured, "", "")]
