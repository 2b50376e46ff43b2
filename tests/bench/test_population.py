"""The arithmetic behind the locust scenarios: who visits when, and what a manifest offers."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.locust.load import Plan, behind_at, regular, users_at, woken
from bench.locust.population import (
    NoOffer,
    Shares,
    Visit,
    check_events,
    draw_visit,
    offer_of,
    update_events,
)
from manifests.trust import render_body
from telemetry.events import decode_batch, decode_events
from tests.manifests.builders import Repository, release

PLAN = Plan(users=100, day=600, interval=150, release=200, pushed=0.5, window=10)


def manifest(*versions: int, model: str = "digits") -> bytes:
    return render_body(Repository([release(model, version) for version in versions]).manifest, 1)


def test_the_newest_release_is_offered_by_patch_to_devices_that_hold_a_model_and_in_full_to_others() -> None:
    offer = offer_of(manifest(1, 3, 2))
    assert (offer.model, offer.version, offer.first_root) == ("digits", 3, 1)
    assert offer.download(holds_a_model=True).encoding == "zstd-prefix"
    assert offer.download(holds_a_model=False).encoding == "identity"


def test_without_a_patch_everybody_takes_the_full_model() -> None:
    offer = replace(offer_of(manifest(1)), patch=None)
    assert offer.download(holds_a_model=True) == offer.full


def test_a_model_that_is_not_offered_is_told() -> None:
    with pytest.raises(NoOffer, match="faces"):
        offer_of(manifest(1), "faces")
    with pytest.raises(NoOffer):
        offer_of(manifest())


def test_what_devices_report_is_what_the_edge_accepts() -> None:
    offer = offer_of(manifest(2))
    told = [
        *update_events("device-1", offer, offer.full),
        *update_events("device-1", offer, offer.download(holds_a_model=True)),
        *check_events("device-1", "digits", 2, 20),
    ]
    batch = decode_batch(json.dumps(told).encode(), "application/json")
    assert batch.refused_count == 0
    events = decode_events(batch.raw)
    assert len(events) == batch.count == 26
    assert {event.type for event in events} == {"download", "verify", "activate", "check"}


def test_visits_are_drawn_by_their_shares() -> None:
    chance = random.Random(1)
    drawn = [draw_visit(chance, behind=0.2, new=0.1) for _ in range(20_000)]
    assert drawn.count(Visit.NEW) / len(drawn) == pytest.approx(0.1, abs=0.02)
    assert drawn.count(Visit.BEHIND) / len(drawn) == pytest.approx(0.18, abs=0.02)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_is_between_nothing_and_all(share: float) -> None:
    with pytest.raises(ValueError, match="behind"):
        Shares(behind=share)


def test_a_day_has_as_many_visits_as_its_mean_says() -> None:
    moments = [PLAN.day * n / 1000 for n in range(1000)]
    assert sum(regular(PLAN, moment) for moment in moments) / 1000 == pytest.approx(PLAN.users)


def test_the_push_brings_its_share_of_all_devices_within_its_window() -> None:
    devices = PLAN.users * PLAN.interval
    assert woken(PLAN, 205) * PLAN.window == pytest.approx(PLAN.pushed * devices)
    assert woken(PLAN, 199.9) == woken(PLAN, 210) == 0


def test_before_the_release_a_usual_share_is_behind_and_right_after_it_everybody() -> None:
    assert behind_at(PLAN, 199, usual=0.01) == 0.01
    assert behind_at(PLAN, 200, usual=0.01) == pytest.approx(1)


def test_after_the_push_those_that_it_reached_are_not_behind_any_more() -> None:
    assert behind_at(PLAN, 210, usual=0.01) == pytest.approx(0.5, abs=0.05)


def test_at_the_end_of_the_day_the_usual_share_is_behind_again() -> None:
    assert behind_at(replace(PLAN, interval=20), 600, usual=0.01) == 0.01


@given(st.floats(0, 600), st.floats(0, 1), st.floats(0, 1))
def test_there_is_always_a_user_and_a_share_is_a_share(moment: float, pushed: float, usual: float) -> None:
    plan = replace(PLAN, pushed=pushed)
    assert users_at(plan, moment) >= 1
    assert 0 <= behind_at(plan, moment, usual) <= 1 + 1e-9


def test_a_day_without_length_is_refused() -> None:
    with pytest.raises(ValueError, match="above zero"):
        replace(PLAN, day=0)
