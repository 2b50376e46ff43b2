"""Patches that an enemy made: each ends in bounded time and memory, in a typed error, with nothing left behind."""

from __future__ import annotations

import os
import random
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from artifacts.errors import ArtifactError, PatchInvalid
from artifacts.patch.apply import apply_patch
from artifacts.patch.definitions import write_table
from artifacts.patch.elements import (
    BaseKind,
    ClassCoding,
    Matrix,
    MatrixData,
    Number,
    Table,
    decode_block,
    encode_block,
)
from artifacts.patch.format import BLOCK_FACTOR, Codec, Layout, Op, frame_head, read_header, read_varint, varint
from artifacts.patch.lzma_frames import packed
from artifacts.patch.matrix import Factors
from artifacts.patch.work import ALLOWED_UNITS
from artifacts.patch.writer import Levels
from tests.artifacts.patch.test_apply import SMALL, TABLES
from tests.patches import Made, Recipe, side
from tests.vectors import make_patches
from tests.vectors.bad_patches import BASE, Hand, refused, stored

# More than the steps that are free allow, one byte each; a patch for more takes proportionally longer.
TARGET = bytes(300 << 10)
# How long patches are made at random; set it to search for longer.
FUZZ_SECONDS = float(os.environ.get("SKAFOS_FUZZ_SECONDS", "2"))


def refuse(folder: Path, patch: bytes, base: bytes = BASE, target: bytes = TARGET) -> ArtifactError:
    (folder / "base").write_bytes(base)
    (folder / "patch").write_bytes(patch)
    promised = side(target)
    with pytest.raises(ArtifactError) as caught:
        apply_patch(folder / "base", folder / "patch", folder / "out", length=promised.length, sha256=promised.sha256)
    assert sorted(path.name for path in folder.iterdir()) == ["base", "patch"]
    return caught.value


def repeated(byte: int, length: int = 4096) -> bytes:
    return frame_head(length, Codec.REPEATED, byte)


def test_operations_that_make_a_byte_each_end_early(tmp_path: Path) -> None:
    """Fifteen bytes of frames hold thousands of operations."""
    hand = Hand(TARGET, target_length=len(TARGET), streams=3, lengths=1, sources=2)
    # A copy of one byte from where the last one began, again and again.
    block = (repeated(Op.COPY), repeated(1), repeated(1))
    frames = b"".join((*block[:2], stored(0), block[2], *block * (len(TARGET) // 4096)))
    assert "too many steps" in str(refuse(tmp_path, hand.patch(frames=frames)))
    assert len(TARGET) > ALLOWED_UNITS + len(TARGET) // 16


def test_tables_that_nothing_uses_end_early(tmp_path: Path) -> None:
    table = b"".join(map(varint, (Op.TABLE, 1 << 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 256)))
    content = table * 300
    frame = frame_head(len(content), Codec.STORED) + content
    hand = Hand(TARGET, target_length=len(TARGET))
    assert "too many steps" in str(refuse(tmp_path, hand.patch(frames=frame * 80)))


def test_frames_of_a_byte_end_early(tmp_path: Path) -> None:
    hand = Hand(TARGET, target_length=len(TARGET), streams=2)
    frames = stored(Op.DATA | 1 << 3, len(TARGET)) + repeated(0, 1) * 100_000
    assert "too many steps" in str(refuse(tmp_path, hand.patch(frames=frames)))


def test_prefixes_that_are_read_for_nothing_end_early(tmp_path: Path) -> None:
    base = random.Random(1).randbytes(1 << 20)
    recipe = Recipe(base, Layout(12, 12, window_log=20), levels=Levels(1, 1, 1))
    for _ in range(1400):
        recipe.call(lambda writer: writer.prefix(1, 0, base))
        recipe.data(base[1000:1020], 1)
    with pytest.raises(PatchInvalid, match="too many steps"):
        recipe.made()


def test_numbers_at_their_bounds_are_refused(tmp_path: Path) -> None:
    """Sums of addresses and lengths that overflow 63 or 64 bits elsewhere."""
    top = (1 << 63) - 1
    for numbers in (
        (Op.COPY, top, 0),
        (Op.COPY, 1, top),
        (Op.COPY, 1, top - 1),
        (Op.COPY, 1, 0, Op.COPY, 1, top),
        (Op.ADD, top, top),
        (Op.DATA, top),
        (Op.DATA | top >> 3 << 3, 1),
        (top, 1),
    ):
        refuse(tmp_path, Hand(TARGET, target_length=len(TARGET)).patch(*numbers))


def test_a_header_is_read_in_bounded_memory() -> None:
    """Whatever a header claims, and however much of it there is."""
    claims = [patch for _, patch in refused()]
    claims.append(Hand(base_length=1 << 40, members=((0, 1 << 30, 1 << 39),) * 4096).header())
    tracemalloc.start()
    try:
        for patch in claims:
            try:
                read_header(BytesIO(patch))
            except PatchInvalid:
                continue
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 << 20


@pytest.mark.parametrize("low_bits", [0, 7])
@pytest.mark.parametrize(
    ("width", "number", "kind"),
    [(1, "plain", "same"), (2, "plain", "same"), (2, "brain", "half"), (4, "float", "double"), (8, "float", "same")],
)
def test_blocks_of_the_worst_kind_take_the_memory_that_is_counted(
    width: int, number: Number, kind: BaseKind, low_bits: int
) -> None:
    """Elements of which each escapes, with a mask of several bits, of a matrix with all that a matrix can have."""
    randomly = np.random.default_rng(1)
    codings = tuple(ClassCoding(0, low_bits, (), 0 if low_bits else None, 0, 4) for _ in range(16))
    table = Table(width, number, "sub", 0, 0, bytes(level % 16 for level in range(256)), codings, base=kind)
    block = Layout().block_bytes
    count = table.per_block(block)
    base, target = bytes(count * table.base_width), randomly.bytes(count * width)
    rows, columns = 3, count // 2
    levels = np.zeros(rows, np.uint8), np.zeros(columns, np.uint8)
    small = np.zeros(2, np.uint8)
    factors = Factors(small, small, small, np.ones((2, rows)), np.ones((2, columns)))
    matrix = Matrix(rows, columns, scales=0, rank=2, exponent=-10, gains=0)
    data = MatrixData(matrix, *levels, factors, np.ones(rows, np.float32))
    parts = iter(encode_block(table, target, base, data))
    tracemalloc.start()
    try:
        assert decode_block(table, count, base, lambda _stream, _length: next(parts)[1], data) == target
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak + len(base) < BLOCK_FACTOR * block


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["damaged", "invented"])
def test_patches_at_random_end_in_an_error_or_in_the_target(tmp_path: Path, kind: str) -> None:
    """Each seed gives the same patch again."""
    known = [*SMALL.values(), *(make() for _, make in make_patches.GOOD.values())]
    end = time.monotonic() + FUZZ_SECONDS
    cases = 0
    while time.monotonic() < end:
        made = damaged(known, cases) if kind == "damaged" else invented(cases)
        base, patch = made.write(tmp_path)
        try:
            target = read_header(BytesIO(made.patch)).target if kind == "invented" else made.header.target
            apply_patch(base, patch, tmp_path / "out", length=target.length, sha256=target.sha256)
        except ArtifactError:
            assert not (tmp_path / "out").exists()
        else:
            assert (tmp_path / "out").read_bytes() == made.target
            (tmp_path / "out").unlink()
        cases += 1
    assert cases > 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "patch"]


def damaged(known: list[Made], seed: int) -> Made:
    """Return one of some patches with bytes changed, removed, repeated, put in, or taken from another."""
    randomly = random.Random(seed)
    made, other = randomly.choice(known), randomly.choice(known)
    patch = bytearray(made.patch)
    for _ in range(randomly.choice((1, 1, 2, 5))):
        # The hashes are worth little to change: half of the changes are behind them.
        start = (
            randomly.randrange(len(patch))
            if randomly.randrange(2)
            else min(len(patch) - 1, 79 + randomly.randrange(60))
        )
        length = randomly.choice((1, 1, 2, 4, 30))
        kind = randomly.randrange(5)
        if kind == 0:
            patch[start] ^= 1 << randomly.randrange(8)
        elif kind == 1:
            patch[start : start + length] = randomly.randbytes(length)
        elif kind == 2 and len(patch) > 100:
            del patch[start : start + length]
        elif kind == 3:
            patch[start:start] = patch[start : start + length]
        else:
            patch[start : start + length] = other.patch[start : start + length]
    return Made(made.base, made.target, bytes(patch), made.header)


def invented(seed: int) -> Made:
    """Return a patch with a header that is right and operations at random, with numbers that are likely to fit."""
    randomly = random.Random(seed)
    table = (Op.TABLE, *read_numbers(write_table(randomly.choice(TABLES))))
    pieces: list[Callable[[], tuple[int, ...]]] = [
        lambda: (Op.COPY, small(randomly), small(randomly)),
        lambda: (Op.DATA, 3, 1, 2, 3),
        lambda: (Op.ADD, 2, small(randomly), 1, 2),
        lambda: table,
        lambda: (Op.TENSOR, small(randomly), small(randomly), *randomly.randbytes(9)),
        lambda: (Op.PLANES, small(randomly), *randomly.randbytes(9)),
        lambda: (
            Op.MATRIX,
            small(randomly),
            small(randomly),
            small(randomly),
            randomly.choice((0, 1, randomly.randrange(32))),
            randomly.randrange(3),
            *(small(randomly) for _ in range(randomly.randrange(8))),
        ),
        lambda: (Op.DEFLATE, small(randomly), small(randomly), 6 | 8 << 4 | 15 << 12),
        lambda: (randomly.randrange(600), small(randomly)),
    ]
    numbers = [number for _ in range(randomly.randrange(1, 12)) for number in randomly.choice(pieces)()]
    members = ((0, 5, 5),) if randomly.randrange(9) == 0 else ()
    features, streams = randomly.choice((0, 1, 4, 0x10, 0x11)), randomly.choice((1, 7))
    hand = Hand(target=BASE[:20], features=features, streams=streams, members=members)
    frames = stored(*numbers)
    if hand.streams > 1:
        some = (repeated(0, 9), repeated(255, 9), stored(*range(9)), by_lzma(randomly))
        frames += b"".join(randomly.choice(some) for _ in range(9))
    return Made(BASE, BASE[:20], hand.patch(frames=frames), SMALL["plain"].header)


def by_lzma(randomly: random.Random) -> bytes:
    """Return a frame with a payload that is right, or has bytes at random at its end."""
    payload = packed(bytes(range(9)) * 20)
    kept = randomly.choice((len(payload), 1, 6))
    payload = payload[:kept] + randomly.randbytes(randomly.choice((0, 0, 5)))
    return frame_head(randomly.choice((180, 180, 9, 4096)), Codec.LZMA, len(payload)) + payload


def small(randomly: random.Random) -> int:
    return randomly.choice((0, 1, 2, 3, 5, 8, 20, 21, 40, 200, 1 << 20, 1 << 62))


def read_numbers(definition: bytes) -> list[int]:
    octets = iter(definition)
    numbers = []
    with suppress(StopIteration):
        while True:
            numbers.append(read_varint(octets.__next__))
    return numbers
