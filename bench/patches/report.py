"""Results become tables: sizes by pair, costs by tool, ours pair by pair, and the goals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.markdown import GOAL_HEAD, table, verdict
from bench.patches.measuring import Measured
from bench.patches.peers import PEERS, ZLIB_ALONE, Family
from bench.patches.results import Row

__all__ = ["SECTION", "Goal", "best", "goals", "render"]

SECTION = "patch figures"

OURS = "skafos-delta"
# The profile for decoders that have no LZMA.
ZSTD_ONLY = "skafos-delta zstd-only"
MB = 1_000_000

FAMILIES: Mapping[str, Family] = {peer.name: peer.family for peer in PEERS}
GENERAL = tuple(name for name, family in FAMILIES.items() if family == "general")
ALL = tuple(FAMILIES)

GENERAL_RATIO_GOAL = 0.65
ALL_RATIO_GOAL = 0.80
EXCESS_BYTES_GOAL = 64
PROFILE_GOAL = 0.08
TUNED_DECODE_GOAL = 60
ZIP_DECODE_GOAL = 25
WORKING_MB_GOAL = 8
ENCODE_RATE_GOAL = 2
ENCODE_MEMORY_GOAL = 6
# Below that, memory is what encoders need whatever the file: tables of zstd, buffers of a block.
LARGE_BYTES = 2 * MB


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal: what was reached, and whether that does; None where there is nothing to judge."""

    what: str
    measured: str
    goal: str
    holds: bool | None


def render(rows: Sequence[Row], versions: Mapping[str, str], preface: str) -> str:
    """Return all tables below a preface."""
    parts = [preface, _goals(rows), _sizes(rows, versions), _tools(rows, versions), _ours(rows), _notes(rows)]
    return "\n\n".join(part for part in parts if part)


def best(row: Row, tools: Iterable[str]) -> tuple[str, int] | None:
    """Return the tool with the smallest patch and that patch's size; None if none made one."""
    sizes = [(name, result.patch_bytes) for name in tools if (result := row.measured(name))]
    return min(sizes, key=lambda pair: pair[1], default=None)


def goals(rows: Sequence[Row]) -> list[Goal]:
    """Return what became of each goal; without our own encoding there is nothing to judge."""
    ours = [row for row in rows if row.measured(OURS)]
    if not ours:
        return []
    return [*_size_goals(ours), *_cost_goals(ours)]


# ---- goals


def _size_goals(rows: Sequence[Row]) -> list[Goal]:
    found = []
    corpus = _corpus(rows)
    for label, tools, limit in (
        ("general tool (xdelta3, bsdiff4, HDiffPatch, zstd)", GENERAL, GENERAL_RATIO_GOAL),
        ("tool of all, zipnn, full zstd and full xz among them", ALL, ALL_RATIO_GOAL),
    ):
        ratio = _ratio(corpus, tools)
        if ratio is None:
            continue
        parts = [
            f"{group}: {part:.3f}"
            for group, name in (("released", "released"), ("fine-tuned", "finetuned"))
            if (part := _ratio([row for row in rows if row.pair.group == name], tools)) is not None
        ]
        found.append(
            Goal(
                f"total of the patches against the best {label} for each pair",
                f"{ratio:.3f} ({', '.join(parts)})",
                f"≤ {limit:.2f}",
                ratio <= limit,
            )
        )
    if worst := _worst_excess(rows):
        row, tool, excess = worst
        measured = f"{excess:+,} bytes ({row.pair.name}, {tool})"
        found.append(
            Goal(
                "worst pair against the best tool for it",
                measured,
                f"≤ +{EXCESS_BYTES_GOAL} bytes",
                excess <= EXCESS_BYTES_GOAL,
            )
        )
    return [*found, *_profile_goals(corpus)]


def _profile_goals(rows: Sequence[Row]) -> list[Goal]:
    """Return by how much patches without LZMA are larger: all together, which the goal is for, and the worst one."""
    sizes = [
        (theirs.patch_bytes, ours.patch_bytes, row.pair.name)
        for row in rows
        if (ours := row.measured(OURS)) and (theirs := row.measured(ZSTD_ONLY))
    ]
    if not sizes:
        return []
    more = sum(other for other, _, _ in sizes) / sum(usual for _, usual, _ in sizes) - 1
    worst, other, usual, name = max((other / usual - 1, other, usual, name) for other, usual, name in sizes)
    above = sum(other > usual * (1 + PROFILE_GOAL) for other, usual, _ in sizes)
    told = (
        f"+{worst:.1%} ({name}, {other - usual:+,} B); {above} of {len(sizes)} are more than {PROFILE_GOAL:.0%} above"
    )
    what = "profile `zstd-only` against profile `best`"
    return [
        Goal(f"{what}, total of the patches", f"+{more:.2%}", f"≤ +{PROFILE_GOAL:.0%}", more <= PROFILE_GOAL),
        Goal(f"{what}, worst pair", told, "", None),
    ]


def _corpus(rows: Sequence[Row]) -> list[Row]:
    """Return the pairs that totals are told of: all but the further ones."""
    return [row for row in rows if row.pair.group != "further"]


def _ratio(rows: Sequence[Row], tools: Sequence[str]) -> float | None:
    """Return our total by that of the smallest patch of ``tools`` for each pair; None if no pair has both."""
    mine = theirs = 0
    for row in rows:
        result, other = row.measured(OURS), best(row, tools)
        if result and other:
            mine, theirs = mine + result.patch_bytes, theirs + other[1]
    return mine / theirs if theirs else None


def _worst_excess(rows: Sequence[Row]) -> tuple[Row, str, int] | None:
    excesses = [
        (row, other[0], result.patch_bytes - other[1])
        for row in rows
        if (result := row.measured(OURS)) and (other := best(row, ALL))
    ]
    return max(excesses, key=lambda one: one[2], default=None)


def _cost_goals(rows: Sequence[Row]) -> list[Goal]:
    zips = [row for row in rows if row.pair.new.endswith(".zip")]
    tuned = [row for row in rows if row.pair.group == "finetuned" and row not in zips]
    large = [row for row in rows if max(row.old_bytes, row.new_bytes) >= LARGE_BYTES]
    small = [row for row in rows if row not in large]
    memory = "encoding, peak of memory by the larger file, highest"
    return [
        *_rates("decoding fine-tunes, one core", tuned, _decode_seconds, TUNED_DECODE_GOAL),
        *_rates("decoding zips, one core", zips, _decode_seconds, ZIP_DECODE_GOAL),
        *_beside_zlib(zips),
        *_highest(
            "decoding, working memory beside the mapped base, highest", rows, _working_memory, WORKING_MB_GOAL, "MB"
        ),
        *_rates("encoding, one core", rows, _encode_seconds, ENCODE_RATE_GOAL),
        *_highest(
            f"{memory} of files from {LARGE_BYTES // MB} MB on", large, _memory_ratio, ENCODE_MEMORY_GOAL, "times"
        ),
        *_highest(f"{memory} of smaller files", small, _memory_ratio, None, "times"),
    ]


Figure = Callable[[Row, Measured], float]


def _decode_seconds(_row: Row, one: Measured) -> float:
    return max(one.decode_seconds, 1e-6)


def _encode_seconds(_row: Row, one: Measured) -> float:
    return max(one.encode_seconds, 1e-6)


def _decode_rate(row: Row, one: Measured) -> float:
    return row.new_bytes / MB / _decode_seconds(row, one)


def _encode_rate(row: Row, one: Measured) -> float:
    return row.new_bytes / MB / _encode_seconds(row, one)


def _working_memory(_row: Row, one: Measured) -> float:
    return one.decode_working_bytes / MB


def _memory_ratio(row: Row, one: Measured) -> float:
    return one.encode_bytes / max(row.old_bytes, row.new_bytes)


def _figures(rows: Sequence[Row], figure: Figure) -> list[tuple[float, str]]:
    return [(figure(row, one), row.pair.name) for row in rows if (one := row.measured(OURS))]


def _rates(what: str, rows: Sequence[Row], seconds: Figure, limit: float) -> list[Goal]:
    """Return what is reached of all pairs together, which the goal is for, and of the slowest and how many are slow."""
    done = [(row, seconds(row, one)) for row in rows if (one := row.measured(OURS))]
    if not done:
        return []
    together = _together(done)
    rates = sorted((row.new_bytes / MB / took, row.pair.name) for row, took in done)
    below = sum(rate < limit for rate, _ in rates)
    slowest = f"{rates[0][0]:,.1f} MB/s ({rates[0][1]}); {below} of {len(rates)} are below {limit}"
    return [
        Goal(f"{what}, all pairs together", f"{together:,.1f} MB/s", f"≥ {limit} MB/s", together >= limit),
        Goal(f"{what}, slowest pair", slowest, "", None),
    ]


def _together(done: Sequence[tuple[Row, float]]) -> float:
    """Return the rate of several pairs together, each with the seconds that it took, in MB/s."""
    return sum(row.new_bytes for row, _ in done) / MB / sum(took for _, took in done)


def _beside_zlib(rows: Sequence[Row]) -> list[Goal]:
    """Return how quickly zips are decoded beside what zlib alone takes of it, which is the same for every decoder."""
    done = [(row, one, zlib) for row in rows if (one := row.measured(OURS)) and (zlib := row.measured(ZLIB_ALONE.name))]
    if not done:
        return []
    bound = _together([(row, _decode_seconds(row, zlib)) for row, _, zlib in done])
    rate = _together([(row, _decode_seconds(row, one)) for row, one, _ in done])
    what = "decoding zips, beside zlib alone (inflating the base's members, deflating the target's)"
    return [Goal(what, f"{rate:,.1f} of {bound:,.1f} MB/s, {rate / bound:.0%}", "", None)]


def _highest(what: str, rows: Sequence[Row], figure: Figure, limit: float | None, unit: str) -> list[Goal]:
    if not (figures := _figures(rows, figure)):
        return []
    value, name = max(figures)
    measured = f"{value:,.1f} {unit} ({name})"
    return [
        Goal(what, measured, "", None) if limit is None else Goal(what, measured, f"≤ {limit} {unit}", value <= limit)
    ]


def _goals(rows: Sequence[Row]) -> str:
    return table(GOAL_HEAD, [(one.what, one.measured, one.goal, verdict(one.holds)) for one in goals(rows)])


# ---- tables


def _sizes(rows: Sequence[Row], versions: Mapping[str, str]) -> str:
    tools = [name for name in (*ALL, "zstd-prefix", OURS) if name in versions]
    head = ["pair", "what", "new file", *tools, "of the best general tool", "of the best of all"]
    lines = []
    for row in rows:
        cells = [row.pair.name, row.pair.kind, f"{row.new_bytes:,}", *(_share(row, tool) for tool in tools)]
        lines.append([*cells, _beside(row, GENERAL), _beside(row, ALL)])
    by_group = {
        group: [row for row in rows if row.pair.group == group] for group in ("released", "finetuned", "further")
    }
    for label, chosen in (
        ("all released", by_group["released"]),
        ("all fine-tuned", by_group["finetuned"]),
        ("all", _corpus(rows)),
        ("further ones, not in the total", by_group["further"]),
    ):
        if len(chosen) > 1:
            lines.append(_total(label, chosen, tools))
    return table(head, lines, len(head) - 2)


def _share(row: Row, tool: str) -> str:
    result = row.measured(tool)
    if result is None:
        return "failed" if tool in row.results else ""
    return _told_share(result.patch_bytes, row.new_bytes)


def _told_share(size: int, whole: int) -> str:
    """Return a share in per cent, or bytes where that would be nothing."""
    return f"{100 * size / whole:.2f} %" if size * 1000 >= whole else f"{size:,} B"


def _beside(row: Row, tools: Sequence[str]) -> str:
    result, other = row.measured(OURS), best(row, tools)
    if result is None or other is None:
        return ""
    return f"{result.patch_bytes / other[1]:.3f} ({result.patch_bytes - other[1]:+,} B, {other[0]})"


def _total(label: str, rows: Sequence[Row], tools: Sequence[str]) -> list[str]:
    whole = sum(row.new_bytes for row in rows)
    cells = [f"**{label}**", f"{len(rows)} pairs", f"{whole:,}"]
    for tool in tools:
        results = [row.measured(tool) for row in rows]
        sizes = [result.patch_bytes for result in results if result]
        # A tool that failed somewhere has no total to compare.
        cells.append(_told_share(sum(sizes), whole) if len(sizes) == len(rows) else "")
    for group in (GENERAL, ALL):
        ratio = _ratio(rows, group)
        cells.append("" if ratio is None else f"{ratio:.3f}")
    return cells


def _tools(rows: Sequence[Row], versions: Mapping[str, str]) -> str:
    head = [
        "tool",
        "version",
        "encode, all pairs",
        "encode",
        "slowest",
        "peak",
        "by file",
        "decode",
        "slowest",
        "peak",
        "exact",
    ]
    return table(head, [_tool(name, version, rows) for name, version in versions.items()], len(head) - 2)


def _tool(name: str, version: str, rows: Sequence[Row]) -> list[str]:
    done = [(row, one) for row in rows if (one := row.measured(name))]
    if not done:
        return [name, version, *[""] * 8, f"0 of {len(rows)}"]
    whole = sum(row.new_bytes for row, _ in done) / MB
    encoding, decoding = sum(one.encode_seconds for _, one in done), sum(one.decode_seconds for _, one in done)
    return [
        *(name, version, f"{encoding:,.0f} s"),
        f"{whole / max(encoding, 1e-6):,.1f} MB/s",
        f"{min(_encode_rate(row, one) for row, one in done):,.1f} MB/s",
        f"{max(one.encode_bytes for _, one in done) / MB:,.0f} MB",
        f"{max(_memory_ratio(row, one) for row, one in done):,.1f} times",
        f"{whole / max(decoding, 1e-6):,.0f} MB/s",
        f"{min(_decode_rate(row, one) for row, one in done):,.0f} MB/s",
        f"{max(one.decode_bytes for _, one in done) / MB:,.0f} MB",
        f"{len(done)} of {len(rows)}",
    ]


def _ours(rows: Sequence[Row]) -> str:
    done = [(row, one) for row in rows if (one := row.measured(OURS))]
    head = [f"{OURS}, pair", "patch", "encode", "rate", "peak", "by file", "decode", "peak", "working memory", "exact"]
    lines = [
        [
            *(row.pair.name, f"{one.patch_bytes:,}", f"{one.encode_seconds:.2f} s"),
            f"{_encode_rate(row, one):,.1f} MB/s",
            f"{one.encode_bytes / MB:,.0f} MB",
            f"{_memory_ratio(row, one):.1f} times",
            f"{_decode_rate(row, one):,.0f} MB/s",
            f"{one.decode_bytes / MB:,.1f} MB",
            f"{one.decode_working_bytes / MB:,.1f} MB",
            "yes",
        ]
        for row, one in done
    ]
    return table(head, lines, len(head) - 1)


def _notes(rows: Sequence[Row]) -> str:
    return "\n".join(
        f"- {row.pair.name}, {tool}: {result.splitlines()[-1] if result else 'failed'}."
        for row in rows
        for tool, result in row.results.items()
        if isinstance(result, str)
    )
