"""Results become tables; tables go between the marks of a document."""

from __future__ import annotations

import pytest

from bench.edge.capacity import EXAMPLES, Costs, Habits, costs_of, devices_per_core, peak_megabits, render_capacity
from bench.edge.cases import DOWNLOAD_CASES, RATE_CASES
from bench.edge.figures import Sample
from bench.edge.idle import Idle
from bench.edge.measuring import AtRate, Throughput
from bench.edge.openloop import Latencies
from bench.edge.report import Results, render
from bench.markdown import replace_section
from tests.bench.conftest import row
from tests.command import ROOT

PARITY = next(case for case in RATE_CASES if case.name == "304-64")
EVENTS = next(case for case in RATE_CASES if case.name == "events")
WHOLE = DOWNLOAD_CASES[0]


def rounds(rate: float, cost: float, load: float = 0.5) -> list[Sample]:
    return [Sample(rate * factor, cost, load) for factor in (0.9, 1.0, 1.1)]


def test_a_row_tells_median_spread_cost_and_the_share_of_nginx() -> None:
    result = Throughput(PARITY, {"nginx": rounds(100_000, 8.0), "edge": rounds(110_000, 7.0)}, {})
    ours = row(render(Results(throughput=[result]), "preface"), "| edge |")
    assert "| 110,000 | 99,000 to 121,000 | 7.0 µs | 1.10 (1.10 to 1.10) | 0.88 (0.88 to 0.88) | 50% |" in ours
    assert ours.endswith("| rate ≥ 1.00, CPU ≤ 1.00 | holds |")


def test_a_goal_that_one_of_two_figures_misses_does_not_hold() -> None:
    result = Throughput(PARITY, {"nginx": rounds(100_000, 8.0), "edge": rounds(110_000, 9.0)}, {})
    assert row(render(Results(throughput=[result]), ""), "| edge |").endswith("**does not hold** |")


def test_nginx_and_other_peers_are_held_to_nothing() -> None:
    result = Throughput(PARITY, {"nginx": rounds(100_000, 8.0), "aiohttp": rounds(20_000, 39.0)}, {})
    assert row(render(Results(throughput=[result]), ""), "| aiohttp |").endswith("|  |  |")


def test_a_generator_that_was_the_limit_is_told() -> None:
    result = Throughput(PARITY, {"nginx": rounds(100_000, 8.0, load=0.98)}, {})
    assert "98% (the limit)" in row(render(Results(throughput=[result]), ""), "| nginx |")


def test_a_case_of_the_edge_alone_has_an_absolute_goal_and_no_ratio() -> None:
    result = Throughput(EVENTS, {"edge": rounds(19_000, 50.0)}, {})
    ours = row(render(Results(throughput=[result]), ""), "| edge |")
    assert "| 50.0 µs |  |  |" in ours
    assert ours.endswith("| ≥ 20,000 | **does not hold** |")


def test_downloads_are_told_in_megabytes() -> None:
    result = Throughput(WHOLE, {"nginx": rounds(4e9, 250.0), "edge": rounds(3.9e9, 260.0)}, {})
    ours = row(render(Results(throughput=[result]), ""), "| edge |")
    assert "| 3,900 MB | 3,510 MB to 4,290 MB | 260 µs/MB |" in ours
    assert ours.endswith("holds |")


def latency(p99: float) -> AtRate:
    return AtRate(100_000, Latencies(50_000, 40, p99, 2 * p99, 3, 150_000))


def test_latencies_are_compared_round_by_round() -> None:
    results = Results(latency={"nginx": [latency(100), latency(300)], "edge": [latency(140), latency(450)]})
    ours = row(render(results, ""), "| edge |")
    assert "| 50,000 | 40 µs (40 to 40) | 295 µs (140 to 450) |" in ours
    assert ours.endswith("| 1.45 (1.40 to 1.50) | ≤ 1.5 | holds |")


def test_memory_and_publishing_are_held_to_their_goals() -> None:
    results = Results(memory={"nginx": Idle(10_000, 518, 530), "edge": Idle(10_000, 9_600, 9_700)}, publish=[5.0] * 99)
    results.publish.append(80.0)
    text = render(results, "")
    assert row(text, "idle connections, edge").endswith("| 9.38 KiB (resident: 9.47) | ≤ 1.5 KiB | **does not hold** |")
    assert row(text, "last of 4 workers").endswith("| 5.0 ms (median 5.0, slowest 80.0) | ≤ 20 ms | holds |")


def test_what_lua_costs_the_generator_is_told_per_request() -> None:
    results = Results(lua=(rounds(100_000, 8.0, 0.5), rounds(100_000, 8.0, 0.6)))
    assert "5.0 and 6.0 µs" in render(results, "")


def test_what_was_left_out_is_told() -> None:
    assert "- Left out: 304 over TLS, edge: no TLS." in render(Results(left_out=["304 over TLS, edge: no TLS"]), "")


def test_only_the_section_between_the_marks_is_replaced() -> None:
    old = "before\n<!-- edge figures: begin -->\nold\n<!-- edge figures: end -->\nafter\n"
    new = replace_section(old, "edge figures", r"new \1")
    assert new == "before\n<!-- edge figures: begin -->\nnew \\1\n<!-- edge figures: end -->\nafter\n"


@pytest.mark.parametrize(
    "text", ["", "<!-- x: end --> <!-- x: begin -->", "<!-- x: begin --> <!-- x: begin --> <!-- x: end -->"]
)
def test_a_document_without_one_pair_of_marks_is_left_alone(text: str) -> None:
    with pytest.raises(ValueError, match="no section"):
        replace_section(text, "x", "new")


def test_the_documents_have_their_marks() -> None:
    sections = [
        ("performance.md", "edge figures"),
        ("performance.md", "flood figures"),
        ("capacity.md", "capacity figures"),
    ]
    for name, section in sections:
        assert "new" in replace_section((ROOT / "docs" / name).read_text(), section, "new")


COSTS = Costs(not_modified=10, manifest=20, events=100, registration=200, megabyte=300)


def test_devices_of_a_core_follow_from_what_one_costs() -> None:
    # 100 checks at 10.1 µs, 2 MB at 300 µs, a batch: 1,710 µs a day of 86,400 s, half busy, peak 2.5.
    habits = Habits(100, 0.01, 0.5, 4, 1, 0)
    assert devices_per_core(COSTS, habits) == pytest.approx(86_400e6 * 0.5 / 2.5 / 1_710)


def test_devices_that_do_twice_as_much_are_half_as_many() -> None:
    once, twice = Habits(10, 0.1, 1, 2, 3, 4), Habits(20, 0.1, 2, 2, 6, 8)
    assert devices_per_core(COSTS, twice) == pytest.approx(devices_per_core(COSTS, once) / 2)


def test_downloads_of_the_busiest_hour_in_megabits() -> None:
    assert peak_megabits(Habits(1, 0, 1, 10, 0, 0), devices=86_400) == pytest.approx(200)


def test_capacity_is_told_only_when_every_cost_was_measured() -> None:
    names = ("304-64", "200", "events", "register", "range-64")
    found = [case for case in (*RATE_CASES, *DOWNLOAD_CASES) if case.name in names]
    results = Results(throughput=[Throughput(case, {"edge": rounds(1000, 10.0)}, {}) for case in found])
    assert costs_of(results) == Costs(10, 10, 10, 10, 10)
    assert all(title in render_capacity(results) for title, _ in EXAMPLES)
    results.throughput.pop()
    assert costs_of(results) is None
