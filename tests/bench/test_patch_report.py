"""The arithmetic of the benchmark of patches: shares, totals, ratios, goals; and what is kept from run to run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.markdown import replace_section
from bench.patches.measuring import Measured
from bench.patches.pairs import Group, Pair
from bench.patches.peers import PEERS
from bench.patches.report import SECTION, best, goals, render
from bench.patches.results import Kept, Row
from tests.command import ROOT

OURS = "skafos-delta"
COSTS = Measured(0, 1.0, 10_000_000, 0.01, 3_000_000, 2_000_000, ())
XDELTA3 = PEERS[0]


def a_row(
    name: str, *, group: Group = "released", suffix: str = ".onnx", new_bytes: int = 4_000_000, **sizes: int
) -> Row:
    results: dict[str, Measured | str] = {
        tool.replace("_", " "): replace(COSTS, patch_bytes=size) for tool, size in sizes.items()
    }
    if "ours" in results:
        results[OURS] = results.pop("ours")
    return Row(Pair.of(name, group, "of a test", "float32", suffix), 4_000_000, new_bytes, results)


def with_costs(row: Row, **costs: float) -> Row:
    ours = row.measured(OURS)
    assert ours is not None
    return replace(row, results={**row.results, OURS: replace(ours, **costs)})  # type: ignore[arg-type] # a field each


def outcome(rows: list[Row], words: str) -> tuple[str, bool | None]:
    (goal,) = [goal for goal in goals(rows) if words in goal.what]
    return goal.measured, goal.holds


def line(text: str, begin: str) -> str:
    (found,) = [line for line in text.splitlines() if line.startswith(begin)]
    return found


def test_the_best_tool_is_the_one_with_the_smallest_patch() -> None:
    row = a_row("a", xdelta3=300, bsdiff4=200, zipnn=100)
    assert best(row, ("xdelta3", "bsdiff4")) == ("bsdiff4", 200)
    assert best(row, ("xdelta3", "bsdiff4", "zipnn")) == ("zipnn", 100)
    assert best(row, ("full xz",)) is None


def test_a_total_is_compared_with_the_best_tool_of_each_pair() -> None:
    rows = [
        a_row("a", xdelta3=1000, bsdiff4=4000, zipnn=800, ours=600),
        a_row("b", group="finetuned", xdelta3=4000, bsdiff4=1000, zipnn=900, ours=640),
    ]
    assert outcome(rows, "best general tool") == ("0.620 (released: 0.600, fine-tuned: 0.640)", True)
    assert outcome(rows, "best tool of all") == ("0.729 (released: 0.750, fine-tuned: 0.711)", True)


def test_further_pairs_have_a_total_of_their_own_and_count_as_single_ones() -> None:
    rows = [
        a_row("a", xdelta3=1000, ours=600),
        a_row("b", xdelta3=1000, ours=700),
        *(a_row(name, group="further", xdelta3=1000, ours=1100) for name in ("c", "d")),
    ]
    assert outcome(rows, "best general tool") == ("0.650 (released: 0.650)", True)
    assert outcome(rows, "worst pair") == ("+100 bytes (c, xdelta3)", False)
    text = render(rows, {"xdelta3": "1", OURS: "2"}, "")
    assert "| 2 pairs |" in line(text, "| **all** ")
    assert line(text, "| **further ones, not in the total** ").endswith("| 1.100 | 1.100 |")


def test_a_ratio_above_its_goal_does_not_hold() -> None:
    rows = [a_row("a", xdelta3=1000, full_xz=900, ours=730)]
    assert outcome(rows, "best general tool")[1] is False
    assert outcome(rows, "best tool of all") == ("0.811 (released: 0.811)", False)


@pytest.mark.parametrize(("ours", "told", "holds"), [(164, "+64", True), (165, "+65", False), (90, "-10", True)])
def test_no_pair_may_be_more_than_64_bytes_above_the_best_tool(ours: int, told: str, holds: bool) -> None:
    rows = [a_row("fine", xdelta3=9000, ours=10), a_row("bad", xdelta3=5000, full_xz=100, ours=ours)]
    assert outcome(rows, "worst pair") == (f"{told} bytes (bad, full xz)", holds)


def test_patches_without_lzma_are_compared_with_those_that_may_have_some() -> None:
    rows = [a_row("a", ours=1000), a_row("b", ours=100)]
    for row, size in zip(rows, (1010, 109), strict=True):
        row.results["skafos-delta zstd-only"] = replace(COSTS, patch_bytes=size)
    assert outcome(rows, "`zstd-only` against profile `best`, total") == ("+1.73%", True)
    told = "+9.0% (b, +9 B); 1 of 2 are more than 8% above"
    assert outcome(rows, "`zstd-only` against profile `best`, worst") == (told, None)


def test_fine_tunes_and_zips_have_goals_of_their_own() -> None:
    rows = [
        with_costs(a_row("tune", group="finetuned", ours=1), decode_seconds=4 / 61),
        with_costs(a_row("zip", group="finetuned", suffix=".zip", ours=1), decode_seconds=4 / 26),
        with_costs(a_row("released", ours=1), decode_seconds=4.0),
    ]
    assert outcome(rows, "decoding fine-tunes, one core, all") == ("61.0 MB/s", True)
    assert outcome(rows, "decoding zips, one core, all") == ("26.0 MB/s", True)


def test_zips_are_compared_with_what_zlib_alone_takes() -> None:
    row = with_costs(a_row("zip", group="finetuned", suffix=".zip", ours=1, zlib_alone=9), decode_seconds=0.5)
    row.results["zlib alone"] = replace(COSTS, decode_seconds=0.4)
    other = a_row("without", group="finetuned", suffix=".zip", ours=1)
    assert outcome([row, other], "beside zlib alone") == ("8.0 of 10.0 MB/s, 80%", None)


def test_rates_are_judged_by_all_pairs_together_and_tell_the_slowest_one() -> None:
    rows = [
        with_costs(a_row("quick", new_bytes=6_000_000, ours=1), encode_seconds=1.0),
        with_costs(a_row("slow", new_bytes=1_000_000, ours=1), encode_seconds=2.0),
    ]
    assert outcome(rows, "encoding, one core, all") == ("2.3 MB/s", True)
    assert outcome(rows, "encoding, one core, slowest") == ("0.5 MB/s (slow); 1 of 2 are below 2", None)
    rows.append(with_costs(a_row("bad", new_bytes=4_000_000, ours=1), encode_seconds=3.0))
    assert outcome(rows, "encoding, one core, all") == ("1.8 MB/s", False)


def test_memory_is_judged_by_the_worst_pair() -> None:
    rows = [
        a_row("fine", ours=1),
        with_costs(a_row("bad", ours=1), encode_bytes=28_000_000, decode_working_bytes=8_100_000),
    ]
    assert outcome(rows, "from 2 MB on") == ("7.0 times (bad)", False)
    assert outcome(rows, "working memory") == ("8.1 MB (bad)", False)


def test_memory_by_the_file_is_judged_where_files_are_not_small() -> None:
    small = replace(with_costs(a_row("small", ours=1), encode_bytes=9_000_000), old_bytes=500_000, new_bytes=900_000)
    rows = [a_row("large", ours=1), small]
    assert outcome(rows, "from 2 MB on") == ("2.5 times (large)", True)
    assert outcome(rows, "of smaller files") == ("10.0 times (small)", None)


def test_without_our_encoding_nothing_is_judged() -> None:
    assert goals([a_row("a", xdelta3=100)]) == []


def test_tables_tell_shares_totals_and_what_failed() -> None:
    first = a_row("a", xdelta3=2_000_000, zipnn=1_000_000, ours=500_000)
    second = a_row("b", xdelta3=300, ours=400)
    second.results["zipnn"] = "it crashed"
    text = render([first, second], {"xdelta3": "3.0", "zipnn": "0.5", OURS: "of this checkout"}, "preface")
    assert "| 50.00 % | 25.00 % | 12.50 % | 0.250 (-1,500,000 B, xdelta3) | 0.500 (-500,000 B, zipnn) |" in line(
        text, "| a | of a test |"
    )
    assert "| 300 B | failed | 400 B | 1.333 (+100 B, xdelta3) |" in line(text, "| b | of a test |")
    # A tool without a result for each pair has no total.
    assert "| 2 pairs | 8,000,000 | 25.00 % |  | 6.25 % |" in line(text, "| **all** |")
    assert line(text, "| zipnn |").endswith("| 1 of 2 |")
    assert "- b, zipnn: it crashed." in text


def test_a_tool_without_any_result_is_told_without_figures() -> None:
    row = a_row("a", xdelta3=1)
    row.results["zipnn"] = "it crashed"
    assert line(render([row], {"xdelta3": "3.0", "zipnn": "0.5"}, ""), "| zipnn |").endswith("| 0 of 1 |")


def test_the_document_has_a_place_for_the_tables() -> None:
    text = (ROOT / "docs" / "performance.md").read_text()
    assert "\nnew\n" in replace_section(text, SECTION, "new")


def test_results_of_other_tools_are_kept_by_version_and_by_files(tmp_path: Path) -> None:
    path, result = tmp_path / "kept.json", replace(COSTS, patch_bytes=7, setting=("-9", "lzma"))
    Kept(path).keep(XDELTA3, "3.0", "old", "new", result)
    kept = Kept(path)
    assert kept.find(XDELTA3, "3.0", "old", "new") == result
    assert kept.find(XDELTA3, "3.1", "old", "new") is None
    assert kept.find(XDELTA3, "3.0", "old", "another") is None
    assert kept.find(PEERS[1], "3.0", "old", "new") is None


def test_a_failure_is_kept_as_well(tmp_path: Path) -> None:
    Kept(tmp_path / "kept.json").keep(XDELTA3, "3.0", "old", "new", "it crashed")
    assert Kept(tmp_path / "kept.json").find(XDELTA3, "3.0", "old", "new") == "it crashed"


def test_a_fresh_run_begins_with_nothing(tmp_path: Path) -> None:
    Kept(tmp_path / "kept.json").keep(XDELTA3, "3.0", "old", "new", "it crashed")
    assert Kept(tmp_path / "kept.json", fresh=True).find(XDELTA3, "3.0", "old", "new") is None
