"""The parts of the device client, each by itself."""

from __future__ import annotations

import errno
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts.encodings import IDENTITY, SKAFOS_DELTA, ZSTD, ZSTD_PREFIX
from manifests.model import Encoding, Release, Rule
from skafos.device.edge import SLOW_WINDOW_BYTES, SLOW_WINDOW_SECONDS, ManifestAnswer, Pace
from skafos.device.errors import EdgeUnavailable
from skafos.device.events import MAX_BATCH_EVENTS, MAX_FILE_BYTES, MAX_UNWRITTEN_EVENTS, EventQueue
from skafos.device.identity import MAX_FACT_LENGTH, Facts, clean_fact, device_id
from skafos.device.manifest_file import ManifestFile
from skafos.device.obtain import KNOWN_ENCODINGS, full_length, plan
from skafos.device.slots import MAX_FOLDER_NAME, folder_name
from tests.skafos.conftest import MakeDevice
from tests.skafos.failing_disk import unwritable
from tests.skafos.repository import Reply, Repository, refusal

ARTIFACTS = ["a" * 64, "b" * 64, "c" * 64]


def release(encodings: tuple[Encoding, ...]) -> Release:
    return Release("vision", 1, "f" * 64, 1000, 0, Rule("salt"), encodings)


@st.composite
def offered(draw: st.DrawFn) -> tuple[Encoding, ...]:
    names = st.sampled_from([IDENTITY, ZSTD, ZSTD_PREFIX, SKAFOS_DELTA, "unknown"])
    bases = st.one_of(st.none(), st.sampled_from(ARTIFACTS))
    one = st.builds(Encoding, names, st.just("0" * 64), st.integers(1, 100), bases)
    return tuple(draw(st.lists(one, max_size=8)))


@settings(max_examples=100)
@given(offered(), st.sets(st.sampled_from(ARTIFACTS)))
def test_a_plan_has_every_encoding_that_can_be_used_and_the_smallest_first(
    encodings: tuple[Encoding, ...], held: set[str]
) -> None:
    planned = plan(release(encodings), held)
    assert all(e.name in KNOWN_ENCODINGS and (e.base is None or e.base in held) for e in planned)
    assert [e.length for e in planned] == sorted(e.length for e in planned)
    left_out = [e for e in encodings if e not in planned]
    assert all(e.name not in KNOWN_ENCODINGS or e.base not in {None, *held} for e in left_out)
    if full := [e.length for e in planned if e.base is None]:
        assert full_length(release(encodings)) == min(full)


@settings(max_examples=100)
@given(st.text(min_size=1, max_size=200))
def test_a_models_folder_is_one_name_that_leads_nowhere_else(model: str) -> None:
    try:
        name = folder_name(model)
    except UnicodeEncodeError:
        return
    assert Path(name).name == name
    assert len(name) <= MAX_FOLDER_NAME
    assert not name.startswith(".")
    assert name.isascii()


@settings(max_examples=50)
@given(st.lists(st.text(min_size=1, max_size=200), min_size=2, max_size=2, unique=True))
def test_two_models_never_share_a_folder(models: list[str]) -> None:
    try:
        names = {folder_name(model) for model in models}
    except UnicodeEncodeError:
        return
    assert len(names) == 2


# --- identity


def test_a_device_id_is_random_and_stays(tmp_path: Path) -> None:
    first = device_id(tmp_path / "a")
    assert UUID(first).version == 4
    assert device_id(tmp_path / "a") == first
    assert device_id(tmp_path / "b") != first


def test_a_device_id_that_cannot_be_read_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "device-id").write_text("not an id")
    first = device_id(tmp_path)
    assert device_id(tmp_path) == first


def test_facts_are_reported_clean_and_bounded() -> None:
    facts = Facts(os="linux", os_version="6\x00.1\n", device_model="x" * 500, interface="not reported")
    assert facts.reported() == {"os": "linux", "os_version": "6.1", "device_model": "x" * MAX_FACT_LENGTH}
    assert clean_fact("\x00") == ""
    assert facts.of_device("id").interface == "not reported"


# --- pace


def test_an_answer_that_drips_is_too_slow() -> None:
    pace = Pace(now=0.0)
    assert not pace.is_too_slow(1, SLOW_WINDOW_SECONDS - 0.1)
    assert pace.is_too_slow(1, SLOW_WINDOW_SECONDS)


def test_an_answer_that_slows_down_later_is_too_slow_then() -> None:
    pace = Pace(now=0.0)
    assert not pace.is_too_slow(SLOW_WINDOW_BYTES * 50, SLOW_WINDOW_SECONDS)
    assert pace.is_too_slow(SLOW_WINDOW_BYTES * 50 + 10, 2 * SLOW_WINDOW_SECONDS)


def test_a_slow_but_steady_answer_is_fine() -> None:
    pace = Pace(now=0.0)
    for window in range(1, 20):
        assert not pace.is_too_slow(SLOW_WINDOW_BYTES * window, SLOW_WINDOW_SECONDS * window)


# --- the kept manifest


@pytest.mark.parametrize("content", [b"", b"no line break", b"\nno tag", b"\xff\xfe\n{}"])
def test_a_kept_manifest_that_cannot_be_used_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest").write_bytes(content)
    assert ManifestFile(tmp_path / "manifest").read() is None


@pytest.mark.parametrize("etag", ["", "a\nb", "ü", "x" * 300])
def test_a_manifest_with_an_unusable_tag_is_not_kept(tmp_path: Path, etag: str) -> None:
    kept = ManifestFile(tmp_path / "manifest")
    kept.write(ManifestAnswer(etag, b"{}"))
    assert kept.read() is None
    kept.write(ManifestAnswer('"good"', b"{}\n"))
    assert kept.read() == ManifestAnswer('"good"', b"{}\n")


# --- events


@pytest.fixture
def queue(tmp_path: Path) -> Callable[[], EventQueue]:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    return lambda: EventQueue(tmp_path / "events", {"device_id": "d"}, now=lambda: moment)


def test_events_are_bounded_and_the_latest_stay(
    queue: Callable[[], EventQueue], tmp_path: Path, repository: Repository, make_device: MakeDevice
) -> None:
    filled = queue()
    count = 3 * MAX_FILE_BYTES // 500
    for number in range(count):
        filled.add("error", version=number, error="x" * 400)
    assert sum(path.stat().st_size for path in (tmp_path / "events").iterdir()) <= 2 * MAX_FILE_BYTES
    filled.deliver(make_device()._edge)
    told = [event["version"] for event in repository.events]
    assert told == list(range(count - len(told), count))
    assert len(repository.asked("/events")) >= len(told) // MAX_BATCH_EVENTS
    assert list((tmp_path / "events").iterdir()) == []


def test_an_event_torn_by_a_kill_is_dropped_alone(
    queue: Callable[[], EventQueue], tmp_path: Path, repository: Repository, make_device: MakeDevice
) -> None:
    queue().add("check", version=1)
    with (tmp_path / "events" / "pending.ndjson").open("ab") as file:
        file.write(b'\n{"event_id": "half of an ev')
    queue().add("check", version=2)
    queue().deliver(make_device()._edge)
    assert [event["version"] for event in repository.events] == [1, 2]
    assert repository.events[0]["occurred_at"] == "2026-01-02T03:04:05.000+00:00"


def test_events_that_are_refused_for_good_are_forgotten(
    queue: Callable[[], EventQueue], tmp_path: Path, repository: Repository, make_device: MakeDevice
) -> None:
    repository.intercept = lambda request: refusal(400, "invalid_batch")
    queue().add("check")
    queue().deliver(make_device()._edge)
    assert list((tmp_path / "events").iterdir()) == []


def test_large_batches_are_compressed(
    queue: Callable[[], EventQueue], repository: Repository, make_device: MakeDevice
) -> None:
    for number in range(30):
        queue().add("check", version=number)
    queue().deliver(make_device()._edge)
    assert repository.asked("/events")[0].headers["content-encoding"] == "gzip"
    assert len(repository.events) == 30


def test_a_full_disk_keeps_no_event_from_the_edge(
    queue: Callable[[], EventQueue], tmp_path: Path, repository: Repository, make_device: MakeDevice
) -> None:
    filled = queue()
    count = MAX_BATCH_EVENTS + 10
    for number in range(count):
        filled.add("check", version=number)
    device = make_device()
    with unwritable("/events", errno.ENOSPC):
        filled.add("check", version=count)
        filled.deliver(device._edge)
    assert [event["version"] for event in repository.events] == list(range(count + 1))
    assert list((tmp_path / "events").iterdir()) == []


def test_events_that_no_disk_takes_are_bounded_and_written_down_when_there_is_room(
    queue: Callable[[], EventQueue], tmp_path: Path, repository: Repository, make_device: MakeDevice
) -> None:
    filled = queue()
    with unwritable("/events", errno.ENOSPC):
        for number in range(MAX_UNWRITTEN_EVENTS + 1):
            filled.add("check", version=number)
    repository.intercept = lambda request: Reply(503)
    with pytest.raises(EdgeUnavailable):
        filled.deliver(make_device()._edge)
    repository.intercept = lambda request: None
    queue().deliver(make_device()._edge)
    assert [event["version"] for event in repository.events] == list(range(1, MAX_UNWRITTEN_EVENTS + 1))
