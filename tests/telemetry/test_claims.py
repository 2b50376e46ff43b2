"""Claims: a segment is one shipper's, and what a dead one leaves is its heir's, as the same batch."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from telemetry import claims as module
from telemetry.claims import Claim, ClaimLost, Claims, batch_of, free_path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A spool with five segments."""
    for number in range(5):
        path = tmp_path / f"edge-{number % 2}" / f"000{number}-a.ready"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def free(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("*/*.ready") if not batch_of(path))


def shipper(root: Path) -> Claims:
    """A shipper of another host: its death can only be seen by its silence."""
    made = Claims(root)
    made._here = module._Process(os.urandom(8).hex(), 1, "")
    made.sign_on()
    return made


def names(claim: Claim) -> set[str]:
    return {free_path(path).name for path in claim.paths}


def test_what_one_has_taken_no_other_gets(root: Path) -> None:
    found = free(root)
    first, second = shipper(root), shipper(root)

    one = first.take(found[:3])
    other = second.take(found)

    assert len(one.paths) == 3
    assert names(other) == {path.name for path in found[3:]}
    assert not free(root)


def test_of_many_that_want_a_segment_at_once_one_gets_it(tmp_path: Path) -> None:
    (tmp_path / "edge-0").mkdir()
    paths = [tmp_path / "edge-0" / f"{number:04}-a.ready" for number in range(50)]
    for path in paths:
        path.touch()
    shippers = [shipper(tmp_path) for _ in range(8)]

    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda one: one.take(paths), shippers))

    assert sorted(name for claim in taken for name in names(claim)) == [path.name for path in paths]


def test_a_batch_of_a_silent_shipper_is_taken_over_whole_by_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("telemetry.claims.time.monotonic", lambda: now[0])
    silent, second, third = (shipper(root) for _ in range(3))
    batch = silent.take(free(root))

    assert second.inherit() == third.inherit() == []
    now[0] += module.LEASE_SECONDS + 1
    second.beat()
    (heir,) = second.inherit()

    assert (heir.batch, names(heir)) == (batch.batch, names(batch))
    assert third.inherit() == []
    for lost in (silent.check, silent.finish):
        with pytest.raises(ClaimLost):
            lost(batch)
    with pytest.raises(ClaimLost):
        silent.beat()


def test_a_shipper_that_gives_signs_of_life_keeps_what_it_has(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("telemetry.claims.time.monotonic", lambda: now[0])
    slow, other = shipper(root), shipper(root)
    batch = slow.take(free(root))
    for _ in range(4):
        assert other.inherit() == []
        now[0] += module.LEASE_SECONDS * 0.9
        slow.beat()

    slow.check(batch)


def test_a_shipper_that_died_on_this_host_is_seen_at_once(root: Path) -> None:
    take = f"from telemetry.claims import Claims; from pathlib import Path; import os; root = Path({str(root)!r}); "
    take += (
        "claims = Claims(root); claims.sign_on(); claims.take(list(root.glob('*/*.ready'))); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", take], cwd=Path(__file__).parents[2], check=False)
    assert not free(root)

    here = Claims(root)
    here.sign_on()
    (heir,) = here.inherit()

    assert len(heir.paths) == 5


def test_a_shipper_that_signs_off_leaves_its_batches_to_the_next(root: Path) -> None:
    first, second = shipper(root), shipper(root)
    batch = first.take(free(root))
    first.sign_off()

    (heir,) = second.inherit()

    assert heir == batch


def test_a_batch_that_was_inserted_is_only_removed_by_its_heir(root: Path) -> None:
    first, second = shipper(root), shipper(root)
    batch = first.take(free(root))
    first.finish(batch)
    batch.paths[0].unlink()
    first.sign_off()

    (heir,) = second.inherit()
    assert heir.done
    assert len(heir.paths) == 4
    second.check(heir)
    second.finish(heir)
    for path in heir.paths:
        path.unlink()
    second.forget(heir)

    assert second.inherit() == []
    assert not list((root / ".claims").glob("*.batch")) + list((root / ".claims").glob("*.done"))


def test_signs_of_life_of_the_dead_are_swept_away(root: Path) -> None:
    first, second = Claims(root), Claims(root)
    first.sign_on()
    second.sign_on()
    subprocess.run(
        [
            sys.executable,
            "-c",
            f"from telemetry.claims import Claims; from pathlib import Path; Claims(Path({str(root)!r})).sign_on()",
        ],
        cwd=Path(__file__).parents[2],
        check=True,
    )
    first.sign_off()

    assert second.inherit() == []
    assert len(list((root / ".claims").iterdir())) == 1


def test_members_of_a_batch_that_nobody_knows_are_free_again(root: Path) -> None:
    first, second = shipper(root), shipper(root)
    batch = first.take(free(root))
    first.forget(batch)

    assert second.inherit() == []
    assert len(free(root)) == 5
