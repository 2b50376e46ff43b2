"""Patches are applied: exact round trips, in whatever way streams are laid out, and nothing but typed errors."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from artifacts.errors import ArtifactError, BaseMismatch, PatchInvalid, PatchTooCostly
from artifacts.files import resumable_files
from artifacts.patch import apply, sources
from artifacts.patch.apply import apply_patch
from artifacts.patch.axes import Axes
from artifacts.patch.elements import ClassCoding, Matrix, MatrixData, Table
from artifacts.patch.format import DeflateParameters, Layout
from artifacts.patch.limits import PatchLimits
from artifacts.patch.matrix import Factors
from artifacts.patch.writer import Levels
from tests.artifacts.patch import plain_decoder
from tests.patches import Made, Recipe, deflated

per_folder = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

# Streams: 0 control, 1 and 2 for bytes, 3 to 5 for elements, 6 and 7 perhaps for lengths and sources.
STREAMS = 8
TABLES = (
    Table(1, "plain", "sub", 0, 3, bytes(256), (ClassCoding(4, 0, (), None, 5),)),
    Table(
        2,
        "float",
        "sub",
        10,
        3,
        bytes(level // 64 for level in range(256)),
        tuple(
            ClassCoding(4, low_bits, (2,) * (low_bits // 8), 5 if low_bits % 8 else None) for low_bits in (0, 3, 8, 13)
        ),
    ),
    Table(4, "float", "xor", 23, 3, bytes(256), (ClassCoding(4, 17, (5, 5), 5, 3),)),
    Table(8, "plain", "none", 0, 3, bytes(256), (ClassCoding(4, 48, (5,) * 6),)),
)

FACTORS = Table(4, "plain", "none", 0, 3, bytes(256), (ClassCoding(4, 3, (), 5),))


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    return Layout(
        block_log=draw(st.integers(12, 14)),
        frame_log=draw(st.integers(12, 14)),
        window_log=draw(st.integers(10, 14)),
        continuous=draw(st.frozensets(st.integers(0, STREAMS - 1), max_size=4)),
        lengths=draw(st.sampled_from([0, 6])),
        sources=draw(st.sampled_from([0, 6, 7])),
    )


def random_recipe(seed: int, layout: Layout, steps: int) -> Recipe:
    """Return a patch of all kinds of operations, at random."""
    randomly = random.Random(seed)
    member = randomly.randbytes(300) + b"again and again " * randomly.randrange(90)
    base = randomly.randbytes(randomly.randrange(1000)) + deflated(member)
    start = len(base) - len(deflated(member))
    base += randomly.randbytes(randomly.randrange(100, 9000))
    recipe = Recipe(base, layout, [(start, len(deflated(member)))], levels=Levels(1, 1, 1))
    for number, table in enumerate(TABLES):
        recipe.table(number, table)
    for _ in range(steps):
        if randomly.randrange(6):
            random_operation(recipe, randomly)
        else:
            parameters = DeflateParameters(randomly.randrange(1, 10), randomly.randrange(1, 10), randomly.randrange(5))
            with recipe.deflate(parameters):
                for _ in range(randomly.randrange(1, 5)):
                    random_operation(recipe, randomly)
    return recipe


def random_operation(recipe: Recipe, randomly: random.Random) -> None:
    length = randomly.choice((1, randomly.randrange(1, 50), randomly.randrange(1, 3000)))
    known = len(recipe.known) + len(recipe.target)
    source = randomly.randrange(known)
    length = min(length, known - source)
    kind = randomly.randrange(6)
    if kind == 0:
        recipe.copy(source, length)
    elif kind == 1:
        recipe.data(randomly.choice((randomly.randbytes(length), bytes(length))), randomly.randrange(3))
    elif kind == 2:
        old = (recipe.known + recipe.target)[source : source + length]
        recipe.add(
            source, bytes((byte + (place % 9 == 0)) % 256 for place, byte in enumerate(old)), randomly.randrange(3)
        )
    else:
        number = randomly.randrange(len(TABLES))
        table = TABLES[number]
        count = max(1, min(length, len(recipe.known) // 2) // table.width)
        if table.has_base:
            source = randomly.randrange(len(recipe.known) - count * table.width)
        recipe.elements(number, table, randomly.randbytes(count * table.width), source if table.has_base else None)


@per_folder
@given(seed=st.integers(0, 2**32), layout=layouts(), steps=st.integers(1, 25))
def test_operations_at_random_make_the_target(tmp_path: Path, seed: int, layout: Layout, steps: int) -> None:
    made = random_recipe(seed, layout, steps).made()
    assert made.apply(tmp_path) == made.target == plain_decoder.decode(made.base, made.patch)
    assert list(tmp_path.glob("*.partial")) == []


def small_patch(layout: Layout) -> Made:
    """Return a patch with every kind of operation and of frame, small enough to damage each byte."""
    randomly = random.Random(1)
    member = b"inflated and deflated, " * 20
    base = randomly.randbytes(64) + deflated(member) + struct.pack("<40e", *(randomly.gauss(0, 1) for _ in range(40)))
    recipe = Recipe(base, layout, [(64, len(deflated(member)))])
    floats = len(base) - 80
    recipe.copy(3, 50)
    recipe.data(randomly.randbytes(9), 1)
    if layout.window_log:
        recipe.call(lambda writer: writer.prefix(2, 0, base))
        recipe.data(base[5:64] + base[-40:], 2)
    recipe.add(10, base[10:40] + b"one", 2)
    recipe.table(1, TABLES[1])
    new = bytearray(base[floats:])
    new[::8] = randomly.randbytes(10)
    matrix = MatrixData(Matrix(5, 8, 2, 5), np.arange(5, dtype=np.uint8), np.arange(8, dtype=np.uint8))
    recipe.elements(1, TABLES[1], bytes(new), floats, matrix)
    recipe.data(bytes(3000), 2)
    recipe.data(b"compressible " * 90, 1)
    with recipe.deflate(DeflateParameters(9)):
        recipe.copy(len(base), len(member) // 2)
        recipe.data(b"something new", 1)
    recipe.table(3, TABLES[3])
    recipe.elements(3, TABLES[3], struct.pack("<6Q", *range(6)))
    recipe.copy(len(recipe.known) + 20, 60)
    return recipe.made()


SMALL = {
    "plain": small_patch(Layout(12, 12)),
    "with a prefix": small_patch(Layout(12, 12, 10, lengths=6, sources=7)),
    "continuous": small_patch(Layout(12, 12, 10, frozenset({1}))),
}


@pytest.mark.parametrize("made", SMALL.values(), ids=SMALL)
def test_a_patch_that_is_cut_anywhere_is_refused(tmp_path: Path, made: Made) -> None:
    base, patch = made.write(tmp_path)
    for length in range(len(made.patch)):
        patch.write_bytes(made.patch[:length])
        with pytest.raises(PatchInvalid):
            apply_made(made, base, patch, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "patch"]


@pytest.mark.parametrize("made", SMALL.values(), ids=SMALL)
def test_a_patch_with_any_byte_flipped_makes_nothing_else(tmp_path: Path, made: Made) -> None:
    base, patch = made.write(tmp_path)
    for place in range(len(made.patch)):
        damaged = bytearray(made.patch)
        damaged[place] ^= 1 << place % 8
        patch.write_bytes(damaged)
        try:
            apply_made(made, base, patch, tmp_path / "out")
        except ArtifactError:
            assert not (tmp_path / "out").exists()
        else:
            # A few bits mean nothing, such as that of a feature that is not used.
            assert (tmp_path / "out").read_bytes() == made.target
            (tmp_path / "out").unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "patch"]


def apply_made(made: Made, base: Path, patch: Path, out: Path, **arguments: object) -> None:
    target = made.header.target
    apply_patch(base, patch, out, length=target.length, sha256=target.sha256, **arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def large() -> Made:
    """Return a patch of some hundred KiB of elements, bytes, copies and a deflated member."""
    randomly = random.Random(1)
    values = [randomly.gauss(0, 1) for _ in range(40_000)]
    old = struct.pack(f"<{len(values)}e", *values)
    new = struct.pack(f"<{len(values)}e", *(value + randomly.gauss(0, 0.01) for value in values))
    recipe = Recipe(old, Layout(12, 12, window_log=12, continuous=frozenset({2})), levels=Levels(1, 1, 1))
    recipe.table(1, TABLES[1])
    recipe.elements(1, TABLES[1], new, 0)
    recipe.data(randomly.randbytes(20_000), 2)
    with recipe.deflate():
        recipe.copy(100, 60_000)
    recipe.copy(len(old) + 1000, 40_000)
    recipe.table(2, FACTORS)
    rows, columns, rank = 160, 250, 2
    ones = np.ones(rank, np.uint8)
    data = MatrixData(
        Matrix(rows, columns, 3, 6, rank, 6, 2, -30, 6),
        np.arange(rows, dtype=np.uint8),
        np.arange(columns, dtype=np.uint8),
        Factors(ones, ones, ones, np.full((rank, rows), 8.0), np.arange(500.0).reshape(rank, columns)),
        np.linspace(0.9, 1.1, rows, dtype=np.float32),
    )
    recipe.elements(1, TABLES[1], new, 0, data, FACTORS)
    return recipe.made()


# ---- what was promised


def test_a_patch_for_another_target_or_base_than_promised_is_refused(tmp_path: Path, large: Made) -> None:
    base, patch = large.write(tmp_path)
    target = large.header.target
    for promised in (
        {"length": target.length + 1, "sha256": target.sha256},
        {"length": target.length, "sha256": "0" * 64},
        {"length": target.length, "sha256": target.sha256, "base_sha256": "0" * 64},
    ):
        with pytest.raises(PatchInvalid, match="promised"):
            apply_patch(base, patch, tmp_path / "out", **promised)  # type: ignore[arg-type]


def test_another_base_is_told_from_a_bad_patch(tmp_path: Path, large: Made) -> None:
    base, patch = large.write(tmp_path)
    for content in (large.base[:-1], large.base + b"?", large.base[:-1] + b"?", b""):
        base.write_bytes(content)
        with pytest.raises(BaseMismatch):
            apply_made(large, base, patch, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "patch"]


def test_what_costs_more_than_allowed_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    member = deflated(bytes(100_000))
    recipe = Recipe(member, members=[(0, len(member))])
    recipe.copy(len(member), 100_000)
    made = recipe.made()
    base, patch = made.write(tmp_path)
    memory = made.header.memory_bytes
    for limits, what, needed in (
        (PatchLimits(max_apply_bytes=memory - 1), "memory", memory),
        (PatchLimits(max_scratch_bytes=99_999), "the disk", 100_000),
    ):
        with pytest.raises(PatchTooCostly, match=what) as caught:
            apply_made(made, base, patch, tmp_path / "out", limits=limits)
        assert (caught.value.needed, caught.value.allowed) == (needed, needed - 1)
    apply_made(
        made, base, patch, tmp_path / "out", limits=PatchLimits(max_apply_bytes=memory, max_scratch_bytes=100_000)
    )


def test_a_target_that_the_disk_cannot_hold_is_refused_before_anything_is_written(
    tmp_path: Path, large: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, patch = large.write(tmp_path)
    full = type("Usage", (), {"free": len(large.target) - 1})
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: full)
    with pytest.raises(OSError, match="No space"):
        apply_made(large, base, patch, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "patch"]


# ---- a base that changes


@pytest.mark.parametrize("change", ["overwritten", "cut"])
def test_a_base_that_changes_while_it_is_read_is_noticed(
    tmp_path: Path, large: Made, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, patch = large.write(tmp_path)
    monkeypatch.setattr(apply, "PROGRESS_BYTES", 4096)

    def interfere(made: int, _total: int) -> None:
        if made > 5000:
            base.write_bytes(b"\0" * (len(large.base) if change == "overwritten" else 100))

    (tmp_path / "out").write_bytes(b"the old version")
    with pytest.raises(BaseMismatch):
        apply_made(large, base, patch, tmp_path / "out", progress=interfere)
    assert (tmp_path / "out").read_bytes() == b"the old version"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out", "patch"]


def test_a_base_that_changes_unseen_by_the_clock_is_noticed_by_the_target_s_hash(
    tmp_path: Path, large: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, patch = large.write(tmp_path)
    # As if a write had left the time of change as it was.
    monkeypatch.setattr(sources.BaseFile, "require_unchanged", lambda _self: None)
    monkeypatch.setattr(apply, "PROGRESS_BYTES", 4096)

    def interfere(made: int, _total: int) -> None:
        if made > 5000:
            base.write_bytes(b"\0" * len(large.base))

    with pytest.raises(BaseMismatch):
        apply_made(large, base, patch, tmp_path / "out", progress=interfere)


# ---- going on after an interruption


class Interruption(BaseException):
    """What is raised instead of ending the process."""


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let checkpoints be written after every few blocks."""
    monkeypatch.setattr(apply, "CHECKPOINT_BYTES", 10_000)
    monkeypatch.setattr(apply, "PROGRESS_BYTES", 1)


def interrupt_after(length: int, seen: list[int]) -> Callable[[int, int], None]:
    def progress(made: int, _total: int) -> None:
        seen.append(made)
        if made >= length:
            raise Interruption

    return progress


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("part", [0.05, 0.3, 0.45, 0.5, 0.75, 0.99])
def test_an_application_goes_on_where_it_was_interrupted(tmp_path: Path, large: Made, part: float) -> None:
    base, patch = large.write(tmp_path)
    with pytest.raises(Interruption):
        apply_made(
            large,
            base,
            patch,
            tmp_path / "out",
            resumable=True,
            progress=interrupt_after(int(len(large.target) * part), []),
        )
    assert not (tmp_path / "out").exists()
    seen: list[int] = []
    apply_made(large, base, patch, tmp_path / "out", resumable=True, progress=interrupt_after(10**9, seen))
    assert (tmp_path / "out").read_bytes() == large.target
    # A deflated member is made again from its start.
    assert seen[0] > len(large.target) * part - 75_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out", "patch"]


@pytest.mark.usefixtures("often")
def test_elements_in_units_go_on_where_they_were(tmp_path: Path) -> None:
    random = np.random.default_rng(12)
    rows, columns = 60, 500
    halves = random.integers(-2047, 2048, (rows, columns))
    units = random.uniform(0.5, 2, rows).astype(np.float32)
    target = (halves * units.astype(np.float64)[:, None]).astype(np.float32).tobytes()
    recipe = Recipe(b"", Layout(12, 12))
    table = Table(2, "float", "none", 10, 1, bytes(256), (ClassCoding(2, 8, (3,)),), origin=0xD4)
    recipe.table(0, table)
    none = np.empty(0, np.uint8)
    recipe.elements(0, table, target, None, MatrixData(Matrix(rows, columns, units=4), none, none, units=units))
    assert _interruptions(tmp_path, recipe.made()) > 3


@pytest.mark.usefixtures("often")
def test_elements_in_another_order_go_on_where_they_were(tmp_path: Path) -> None:
    axes = Axes((120, 300), (1, 0))
    old = np.random.default_rng(13).integers(0, 1 << 16, axes.count, np.uint16).tobytes()
    recipe = Recipe(old, Layout(12, 12))
    table = Table(2, "plain", "sub", 0, 1, bytes(256), (ClassCoding(2, mask=3),))
    recipe.table(0, table)
    none = np.empty(0, np.uint8)
    data = MatrixData(Matrix(1, axes.count, axes=axes), none, none)
    recipe.elements(0, table, axes.arranged(memoryview(old), 2), 0, data)
    assert _interruptions(tmp_path, recipe.made()) > 3


def _interruptions(folder: Path, made: Made) -> int:
    """Apply a patch, interrupted again and again; return how often it was begun."""
    base, patch = made.write(folder)
    times = 0
    while not (folder / "out").exists():
        times += 1
        with suppress(Interruption):
            apply_made(made, base, patch, folder / "out", resumable=True, progress=interrupt_soon([]))
    assert (folder / "out").read_bytes() == made.target
    return times


@pytest.mark.usefixtures("often")
def test_an_application_can_be_interrupted_again_and_again(tmp_path: Path) -> None:
    made = random_recipe(11, Layout(12, 12, window_log=10, continuous=frozenset({1, 4})), 150).made()
    base, patch = made.write(tmp_path)
    starts = []
    while not (tmp_path / "out").exists():
        seen: list[int] = []
        with suppress(Interruption):
            apply_made(made, base, patch, tmp_path / "out", resumable=True, progress=interrupt_soon(seen))
        starts.append(seen[0])
    assert (tmp_path / "out").read_bytes() == made.target
    assert starts == sorted(starts)
    assert starts == sorted(starts)
    assert len(starts) > 3


def interrupt_soon(seen: list[int]) -> Callable[[int, int], None]:
    """Return a callback that lets enough blocks pass for a checkpoint."""

    def progress(made: int, total: int) -> None:
        seen.append(made)
        if made - seen[0] > 15_000 and made < total:
            raise Interruption

    return progress


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("damage", ["target", "target cut", "target gone", "journal", "journal cut", "journal gone"])
def test_what_was_left_behind_and_is_damaged_is_not_used(tmp_path: Path, large: Made, damage: str) -> None:
    base, patch = large.write(tmp_path)
    with pytest.raises(Interruption):
        apply_made(large, base, patch, tmp_path / "out", resumable=True, progress=interrupt_after(50_000, []))
    partial, journal = resumable_files(tmp_path / "out")
    what = partial if damage.startswith("target") else journal
    content = bytearray(what.read_bytes())
    if damage.endswith("gone"):
        what.unlink()
    elif damage.endswith("cut"):
        what.write_bytes(content[:100])
    else:
        content[len(content) // 2] ^= 1
        what.write_bytes(content)
    seen: list[int] = []
    apply_made(large, base, patch, tmp_path / "out", resumable=True, progress=interrupt_after(10**9, seen))
    assert (tmp_path / "out").read_bytes() == large.target
    assert seen[0] <= 4096
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out", "patch"]


@pytest.mark.usefixtures("often")
def test_another_patch_does_not_go_on_from_what_was_left_behind(tmp_path: Path, large: Made) -> None:
    base, patch = large.write(tmp_path)
    with pytest.raises(Interruption):
        apply_made(large, base, patch, tmp_path / "out", resumable=True, progress=interrupt_after(50_000, []))
    other = random_recipe(3, Layout(12, 12), 10).made()
    base, patch = other.write(tmp_path)
    apply_made(other, base, patch, tmp_path / "out", resumable=True)
    assert (tmp_path / "out").read_bytes() == other.target


@pytest.mark.usefixtures("often")
def test_a_failure_leaves_nothing_to_go_on_from(tmp_path: Path, large: Made) -> None:
    base, patch = large.write(tmp_path)
    patch.write_bytes(large.patch[:-10])
    with pytest.raises(PatchInvalid):
        apply_made(large, base, patch, tmp_path / "out", resumable=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "patch"]


def test_progress_is_told_up_to_the_whole(tmp_path: Path, large: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    base, patch = large.write(tmp_path)
    monkeypatch.setattr(apply, "PROGRESS_BYTES", 10_000)
    told: list[tuple[int, int]] = []
    apply_made(large, base, patch, tmp_path / "out", progress=lambda made, total: told.append((made, total)))
    assert told == sorted(told)
    assert told[-1] == (len(large.target), len(large.target))
    assert len(told) > 5
