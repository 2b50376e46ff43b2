"""What was seen beside floods, as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from bench.edge.figures import ratio_in_rounds
from bench.edge.flooding import Beside, Flooding, Turn
from bench.edge.floods import CONNECTIONS, RATE
from bench.edge.report import BASELINE
from bench.markdown import table

COLUMNS = (
    *("flood", "peer", "its requests per second", "50 %", "99 %", "99.9 %", "99 % of nginx's", "sent late (99 %)"),
    *("wrong answers", "memory", "core busy", "counted"),
)


def render_floods(results: Sequence[Flooding], preface: str) -> str:
    """Return the table below a preface that says when and where; nothing when there are no results."""
    if not results:
        return ""
    about = f"{preface} {RATE:,} checks per second over {CONNECTIONS} connections: alone → beside the flood (ratio)."
    rows = [_row(result, peer, rounds) for result in results for peer, rounds in result.rounds.items() if rounds]
    missing = sorted({f"- Left out: {peer}, {why}." for one in results for peer, why in one.missing.items()})
    return "\n\n".join(part for part in (about, table(COLUMNS, rows), "\n".join(missing)) if part)


def _row(result: Flooding, peer: str, rounds: Sequence[Beside]) -> list[str]:
    wrong = sum(one.wrong for one in rounds)
    quiet, flooded = [one.quiet for one in rounds], [one.flooded for one in rounds]
    late = [f"{_median(turns, lambda turn: turn.seen.latencies.late_p99):,.0f}" for turns in (quiet, flooded)]
    busy = [f"{_median(turns, lambda turn: turn.busy):.0%}" for turns in (quiet, flooded)]
    return [
        *(result.flood.title, peer, f"{_median(flooded, _flood_rate):,.0f}"),
        *(_change(rounds, percentile) for percentile in (_p50, _p99, _p999)),
        _of_baseline(result, peer),
        " → ".join(late) + " µs",
        f"**{wrong}**" if wrong else "0",
        f"{max(turn.grown for turn in flooded) / 1e6:+,.1f} MB",
        " → ".join(busy),
        _counted(result, flooded),
    ]


def _median(turns: Sequence[Turn], value: Callable[[Turn], float]) -> float:
    return statistics.median(map(value, turns))


def _p50(turn: Turn) -> float:
    return turn.seen.latencies.median


def _p99(turn: Turn) -> float:
    return turn.seen.latencies.p99


def _p999(turn: Turn) -> float:
    return turn.seen.latencies.p999


def _flood_rate(turn: Turn) -> float:
    return turn.seen.flood.requests / turn.seconds if turn.seen.flood else 0.0


def _change(rounds: Sequence[Beside], value: Callable[[Turn], float]) -> str:
    quiet, flooded = [value(one.quiet) for one in rounds], [value(one.flooded) for one in rounds]
    ratio = ratio_in_rounds(flooded, quiet).median
    return f"{statistics.median(quiet):,.0f} → {statistics.median(flooded):,.0f} µs ({ratio:.1f})"


def _of_baseline(result: Flooding, peer: str) -> str:
    theirs = result.rounds.get(BASELINE)
    if peer == BASELINE or not theirs:
        return ""
    pairs = list(zip(result.rounds[peer], theirs, strict=False))
    ratio = ratio_in_rounds([_p99(ours.flooded) for ours, _ in pairs], [_p99(other.flooded) for _, other in pairs])
    return f"{ratio.median:.2f} ({ratio.least:.2f} to {ratio.greatest:.2f})"


def _counted(result: Flooding, flooded: Sequence[Turn]) -> str:
    counted = [turn.counted for turn in flooded if turn.counted is not None]
    return f"`{result.flood.counter}` + {statistics.median(counted):,.0f}" if counted else ""
