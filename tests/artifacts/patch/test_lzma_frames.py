"""Frames by LZMA: what is packed comes back, and only where it saves something."""

from __future__ import annotations

import random
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts.errors import PatchInvalid
from artifacts.patch.encode import encode_patch
from artifacts.patch.format import FEATURE_LZMA, MAX_MEMORY_BYTES, read_header
from artifacts.patch.lzma_frames import MAX_PAYLOAD_BYTES, packed, unpacked
from tests.artifacts.patch.plain_decoder import decode
from tests.patches import Recipe

LINES = "".join(f"layer_{number}/kernel, {random.Random(number).gauss(0, 1):.3f}\n" for number in range(400)).encode()


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=1, max_size=600), st.integers(1, 40))
def test_what_is_packed_comes_back(piece: bytes, times: int) -> None:
    content = piece * times
    payload = packed(content)
    if len(payload) <= MAX_PAYLOAD_BYTES:
        assert unpacked(payload, len(content)) == content


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=200), st.integers(1, 1 << 18))
def test_any_payload_gives_what_its_frame_says_or_is_refused(payload: bytes, length: int) -> None:
    with suppress(PatchInvalid):
        assert len(unpacked(payload, length)) == length


def test_a_frame_of_the_longest_kind_is_packed() -> None:
    content = (LINES * 20)[: 1 << 18]
    assert unpacked(packed(content), len(content)) == content


@pytest.mark.parametrize("content", [random.Random(1).randbytes(70_000), b"x", b"no"])
def test_what_lzma_does_not_make_shorter_is_written_otherwise(content: bytes) -> None:
    recipe = Recipe(b"", lzma=(0,))
    recipe.data(content)
    assert not recipe.made().header.features & FEATURE_LZMA


def test_only_streams_that_may_be_are_by_lzma() -> None:
    lengths = []
    for allowed in ((), (0,), (1,)):
        recipe = Recipe(b"", lzma=allowed)
        recipe.data(LINES, 1)
        made = recipe.made()
        assert bool(made.header.features & FEATURE_LZMA) == (allowed == (1,))
        assert decode(made.base, made.patch) == LINES
        lengths.append(len(made.patch))
    assert lengths[0] == lengths[1] > 1.05 * lengths[2]


def test_a_patch_of_the_profile_zstd_only_has_no_lzma_and_is_little_longer(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(LINES * 3)
    new.write_bytes(LINES + LINES.swapcase()[::-1] + LINES)
    patches = []
    for zstd_only in (False, True):
        encode_patch(old, new, tmp_path / "patch", zstd_only=zstd_only)
        patches.append((tmp_path / "patch").read_bytes())
        header = read_header(BytesIO(patches[-1]))
        assert bool(header.features & FEATURE_LZMA) != zstd_only
        assert header.memory_bytes <= MAX_MEMORY_BYTES
        assert decode(old.read_bytes(), patches[-1]) == new.read_bytes()
    assert len(patches[0]) < len(patches[1]) < 1.25 * len(patches[0])
