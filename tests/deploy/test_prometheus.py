"""Alert rules and dashboard name metrics and labels that exist, are documented, and say what they are to say."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric

import control_plane.metrics
import edge.metrics
import telemetry.metrics
from control_plane.settings import Settings
from telemetry.settings import ShipperSettings
from tests.components import require
from tests.servers.proxies import DEPLOY, WORKERS

PROMETHEUS = DEPLOY / "prometheus"
DASHBOARD = json.loads((DEPLOY / "grafana" / "skafos.json").read_text())
RULES = (PROMETHEUS / "skafos.rules.yml").read_text()
OPERATING = (DEPLOY.parent / "docs" / "operations.md").read_text()
ALERTS = re.findall(r"^ +- alert: (\w+)$", RULES, re.MULTILINE)
RULE_QUERIES = re.findall(r"^ +expr: (.+)$", RULES, re.MULTILINE)
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
# What Prometheus adds to every series, and a histogram to its buckets.
GIVEN_LABELS = {"job", "instance", "le"}


def known() -> dict[str, set[str]]:
    """Return every metric of the three rooms, as Prometheus names it, with its labels."""
    found: dict[str, set[str]] = {"up": set()}
    for room in (edge.metrics, telemetry.metrics, control_plane.metrics):
        for family, labels in families(room):
            found |= {family.name + suffix: labels for suffix in SUFFIXES[family.type]}
    return found


def families(room: Any) -> Iterator[tuple[Metric, set[str]]]:
    for one in vars(room).values():
        if isinstance(one, MetricWrapperBase):
            yield next(iter(one.describe())), set(one._labelnames)
    if hasattr(room, "CHECKS"):  # collected by itself
        for family in room.CHECKS.collect():
            yield family, set(family._labelnames)


KNOWN = known()


def dashboard_queries() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]


def selections(query: str) -> Iterator[tuple[str, set[str]]]:
    """Yield each metric in a query with the labels that it is chosen by."""
    for name, matchers in re.findall(r"\b(skafos_\w+|up)\b(?:\{([^}]*)\})?", query):
        yield name, set(re.findall(r"(\w+)\s*[=!]~?", matchers))


def test_there_is_a_rule_for_each_alert_and_no_name_twice() -> None:
    assert len(ALERTS) == len(RULE_QUERIES) == len(set(ALERTS)) > 20


@pytest.mark.parametrize("query", [*RULE_QUERIES, *dashboard_queries()])
def test_every_metric_and_label_that_is_asked_for_exists(query: str) -> None:
    chosen = list(selections(query))
    assert chosen, "a query that asks for nothing"
    for name, labels in chosen:
        assert name in KNOWN, f"no metric is called {name}"
        assert labels <= KNOWN[name] | GIVEN_LABELS, f"{name} has no labels {labels - KNOWN[name]}"
    grouped = {label for group in re.findall(r"by \(([^)]*)\)", query) for label in re.findall(r"\w+", group)}
    assert grouped <= GIVEN_LABELS.union(*(KNOWN[name] for name, _ in chosen))


def test_the_test_sees_a_metric_or_label_that_does_not_exist() -> None:
    assert "skafos_edge_events_total" in KNOWN
    assert "skafos_edge_events" not in KNOWN, "Prometheus knows a counter by its name and _total"
    assert list(selections('rate(skafos_x{outcome="a", b!~"c"}[5m])')) == [("skafos_x", {"outcome", "b"})]


def test_values_that_are_chosen_by_are_ones_that_the_code_gives() -> None:
    source = "".join(
        path.read_text()
        for room in ("edge", "telemetry", "control_plane")
        for path in (DEPLOY.parent / room).glob("*.py")
    )
    for query in [*RULE_QUERIES, *dashboard_queries()]:
        for value in re.findall(r'(?:outcome|part|state)!?="(\w+)"', query):
            assert f'"{value}"' in source


def test_a_series_whose_increase_is_asked_for_is_there_before_it_increases() -> None:
    asked = [found for query in RULE_QUERIES for found in re.findall(r"increase\((\w+)\{([^}]*)\}", query)]
    assert asked
    for name, matchers in asked:
        labels = dict(re.findall(r'(\w+)="(\w+)"', matchers))
        assert REGISTRY.get_sample_value(name, labels) is not None


def test_what_a_summary_names_is_a_label_of_its_alert() -> None:
    for expr, summary in zip(RULE_QUERIES, re.findall(r"^ +summary: (.+)$", RULES, re.MULTILINE), strict=True):
        for label in re.findall(r"\$labels\.(\w+)", summary):
            grouped = re.findall(r"by \(([^)]*)\)", expr)
            there = {part.strip() for part in grouped[0].split(",")} if grouped else None
            assert there is None or label in there, f"{label} is summed away in {expr}"


def test_operators_are_told_of_every_alert_with_its_severity() -> None:
    severities = re.findall(r"\{severity: (\w+)\}", RULES)
    listed = re.findall(r"^\| `(Skafos\w+)` \| (\w+) \|", OPERATING, re.MULTILINE)
    assert listed == list(zip(ALERTS, severities, strict=True))


def test_panels_have_places_of_their_own_and_ask_the_chosen_data_source() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, f"{panel['title']} lies over another panel"
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel.get("targets", []))


def test_metrics_are_scraped_where_units_and_defaults_put_them() -> None:
    targets = re.findall(r'"127\.0\.0\.1:(\d+)"', (PROMETHEUS / "prometheus.yml").read_text())
    control = str(Settings.model_fields["control_metrics_listen"].default)
    shipper = str(ShipperSettings.model_fields["shipper_metrics_listen"].default)
    assert targets == [control.rpartition(":")[2], *(port for _, port in WORKERS), shipper.rpartition(":")[2]]


@pytest.mark.parametrize(
    "command",
    [
        ("check", "rules", "skafos.rules.yml"),
        ("check", "config", "prometheus.yml"),
        ("test", "rules", "skafos.rules.test.yml"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_prometheus_takes_the_rules_and_they_say_what_they_should(command: tuple[str, ...]) -> None:
    told = subprocess.run(
        [require("promtool"), *command], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60, check=False
    )
    assert told.returncode == 0, told.stdout + told.stderr
