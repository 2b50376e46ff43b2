"""Counters of the edge, read from its port for operators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from bench.edge.probe import WrongAnswer, ask, request


@dataclass(frozen=True)
class Counter:
    """A counter, with labels that its samples must have."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return it as one would ask Prometheus for it."""
        labels = ",".join(f'{name}="{value}"' for name, value in self.labels.items())
        return f"{self.name}{{{labels}}}" if labels else self.name


def read_counter(address: tuple[str, int], counter: Counter) -> float:
    """Return the sum of a counter's samples; a labelled one has none before it first counts.

    Args:
        address: of the port for operators.
        counter: which one.

    Raises:
        WrongAnswer: there is no such counter.
    """
    text = ask(address, request("GET", "/metrics")).body.decode()
    for family in text_string_to_metric_families(text):
        if counter.name == f"{family.name}_total":
            return sum(one.value for one in family.samples if one.name == counter.name and _has(one.labels, counter))
    raise WrongAnswer(f"there is no counter {counter.name}")


def _has(labels: Mapping[str, str], counter: Counter) -> bool:
    return counter.labels.items() <= labels.items()
