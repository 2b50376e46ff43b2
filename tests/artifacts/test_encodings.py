"""Encodings and patches: exact round trips, and nothing but typed errors from hostile blobs."""

from __future__ import annotations

import concurrent.futures
import hashlib
import multiprocessing
import os
import random
import re
import subprocess
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from artifacts.archive import archive_upload
from artifacts.encoded import Encoded
from artifacts.encodings import (
    IDENTITY,
    SKAFOS_DELTA,
    ZSTD,
    ZSTD_PREFIX,
    BaseMismatch,
    EncodingInvalid,
    PatchInvalid,
    decode,
    decode_full,
    encode_full,
)
from artifacts.frames import FrameHeader, read_header
from artifacts.hashing import hash_file
from artifacts.patch import build
from artifacts.patch.build import Built, Skipped, SkipReason, best, build_patch
from artifacts.patch.zstd_prefix import (
    PatchLimits,
    PatchTooCostly,
    apply_patch,
    estimate_apply_bytes,
    estimate_build_bytes,
    make_patch,
)
from tests.components import require
from tests.models import real_pair
from tests.patches import simple_patch

per_folder = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def file_of(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def edited(base: bytes, seed: int) -> bytes:
    """Change a file as a new version does: some bytes here and there, something moved in, something taken out."""
    randomly = random.Random(seed)
    target = bytearray(base)
    for _ in range(randomly.randrange(20)):
        position = randomly.randrange(len(target) + 1)
        target[position : position + randomly.randrange(30)] = randomly.randbytes(randomly.randrange(30))
    return bytes(target)


@per_folder
@given(
    content=st.binary(max_size=5000),
    repeat=st.integers(0, 200),
    level=st.sampled_from([1, 10, 19]),
    threads=st.integers(0, 1),
)
def test_a_full_encoding_decodes_to_the_artifact(
    tmp_path: Path, content: bytes, repeat: int, level: int, threads: int
) -> None:
    artifact = file_of(tmp_path, "artifact", content * repeat)
    encoded = encode_full(artifact, tmp_path / "blob", level, threads)
    assert (encoded.name, encoded.base) == (ZSTD, None)
    assert (encoded.sha256, encoded.length) == hash_file(tmp_path / "blob")
    decode_full(tmp_path / "blob", tmp_path / "out", length=len(content) * repeat, sha256=sha256_of(content * repeat))
    assert (tmp_path / "out").read_bytes() == content * repeat


@per_folder
@given(base=st.binary(max_size=5000), seed=st.integers(0, 2**32), other=st.booleans())
def test_a_patch_makes_the_target_from_the_base(tmp_path: Path, base: bytes, seed: int, other: bool) -> None:
    target = random.Random(seed).randbytes(3000) if other else edited(base, seed)
    old, new = file_of(tmp_path, "old", base), file_of(tmp_path, "new", target)
    encoded = make_patch(old, new, tmp_path / "patch")
    assert (encoded.name, encoded.base) == (ZSTD_PREFIX, sha256_of(base))
    assert (encoded.sha256, encoded.length) == hash_file(tmp_path / "patch")
    apply_patch(
        old, encoded.path, tmp_path / "out", length=len(target), sha256=sha256_of(target), base_sha256=encoded.base
    )
    assert (tmp_path / "out").read_bytes() == target


def test_debian_s_zstd_decodes_both(tmp_path: Path) -> None:
    program = require("zstd")
    base = random.Random(1).randbytes(20_000_000)
    target = edited(base[:10_000_000], 2) + b"moved" + base[:12_000_000]
    old, new = file_of(tmp_path, "old", base), file_of(tmp_path, "new", target)
    encode_full(new, tmp_path / "full.zst")
    make_patch(old, new, tmp_path / "patch.zst")
    subprocess.run([program, "-q", "-d", tmp_path / "full.zst", "-o", tmp_path / "full"], check=True)
    subprocess.run(
        [program, "-q", "-d", f"--patch-from={old}", tmp_path / "patch.zst", "-o", tmp_path / "patched"], check=True
    )
    assert (tmp_path / "full").read_bytes() == target
    assert (tmp_path / "patched").read_bytes() == target
    assert (tmp_path / "patch.zst").stat().st_size < 10_000


@pytest.mark.parametrize(
    ("base_length", "target_length"),
    [
        *((0, 0), (0, 100), (7, 100), (8, 0), (100, 1)),  # a base shorter than 8 bytes is no prefix
        *((300, 255), (300, 256), (300, 65_791), (70_000, 65_792)),  # where the frame's content size grows
        (5_000, 8 * 1024 * 1024 + 1),  # a window that decoders do not allow by themselves
        (9_000_000, 9_000_000),
        (17_000_000, 1_000_000),  # by the quick level, with sizes of our own for its tables
        (1_000_000, 17_000_000),
    ],
)
def test_debian_s_zstd_alone_makes_the_target_from_base_and_patch(
    tmp_path: Path, base_length: int, target_length: int
) -> None:
    program = require("zstd")
    base = random.Random(1).randbytes(base_length)
    # What is beyond the base's length repeats itself, so that some patches refer to the base and to the target.
    target = edited((base or b"nothing") * (target_length // max(1, base_length) + 1), 2)[:target_length]
    old, new = file_of(tmp_path, "old", base), file_of(tmp_path, "new", target)
    encoded = make_patch(old, new, tmp_path / "patch")
    # No option, no setting and no suffix helps, and there is nothing to warn of.
    command: list[str | Path] = [program, "-d", f"--patch-from={old}", encoded.path, "-o", tmp_path / "out"]
    done = subprocess.run(command, env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr.lower()
    assert (tmp_path / "out").read_bytes() == target
    told = subprocess.run([program, "-lv", encoded.path], env={}, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"Frames: (\d+)|(Skippable.*)", told) == [("1", "")]
    assert re.findall(r"DictID: (\d+)", told) == ["0"]
    assert re.findall(r"Decompressed Size: .*\((\d+) B\)", told) == [str(len(target))]
    assert re.findall(r"Check: XXH64", told)
    with encoded.path.open("rb") as opened:
        assert read_header(opened) == FrameHeader(len(target), len(target)), "no larger window than is needed"


def test_debian_s_zstd_refuses_a_patch_for_another_base(tmp_path: Path) -> None:
    base = random.Random(1).randbytes(300_000)
    old, new = file_of(tmp_path, "old", base), file_of(tmp_path, "new", edited(base, 3))
    other = file_of(tmp_path, "other", random.Random(2).randbytes(300_000))
    make_patch(old, new, tmp_path / "patch")
    done = subprocess.run(
        [require("zstd"), "-q", "-d", f"--patch-from={other}", tmp_path / "patch", "-o", tmp_path / "out"],
        capture_output=True,
        check=False,
    )
    assert done.returncode != 0


def test_a_patch_that_debian_s_zstd_made_is_applied(tmp_path: Path) -> None:
    base = random.Random(1).randbytes(300_000)
    old, new = file_of(tmp_path, "old", base), file_of(tmp_path, "new", edited(base, 3))
    subprocess.run([require("zstd"), "-q", f"--patch-from={old}", new, "-o", tmp_path / "patch"], check=True)
    sha256, length = hash_file(new)
    apply_patch(old, tmp_path / "patch", tmp_path / "out", length=length, sha256=sha256)
    assert (tmp_path / "out").read_bytes() == new.read_bytes()


@pytest.mark.parametrize("project", ["silero-vad", "magika"])
def test_releases_of_real_models_are_patched_exactly(tmp_path: Path, project: str) -> None:
    old, new = real_pair(project)
    archive_upload(old, old.name, tmp_path / "old")
    info = archive_upload(new, new.name, tmp_path / "new")
    encoded = make_patch(tmp_path / "old", tmp_path / "new", tmp_path / "patch")
    decode(
        ZSTD_PREFIX,
        encoded.path,
        tmp_path / "out",
        length=info.length,
        sha256=info.sha256,
        base=tmp_path / "old",
        base_sha256=encoded.base,
    )
    assert (tmp_path / "out").read_bytes() == (tmp_path / "new").read_bytes()


def test_a_real_model_of_which_a_part_was_trained_again_gets_a_patch(tmp_path: Path) -> None:
    old, _ = real_pair("silero-vad")
    content = bytearray(old.read_bytes())
    # The last fifth of the weights, as if the head had been trained alone.
    part = len(content) // 5
    content[-part - 1000 : -1000] = random.Random(1).randbytes(part)
    new = file_of(tmp_path, "new.onnx", bytes(content))
    archive_upload(old, "silero_vad.onnx", tmp_path / "old")
    archive_upload(new, "silero_vad.onnx", tmp_path / "new")
    full = encode_full(tmp_path / "new", tmp_path / "full")
    built = build_patch(tmp_path / "old", tmp_path / "new", tmp_path / "patch", full_length=full.length)
    assert isinstance(built, Built)
    assert built.encoded.length < full.length * 0.3


@pytest.mark.parametrize("start", [0, 17_000_000, 39_000_000])
def test_content_is_found_wherever_it_lies_in_a_long_base(tmp_path: Path, start: int) -> None:
    """zstd's own sizes lose it: the start of a base that is much longer than the target is forgotten."""
    base = random.Random(1).randbytes(40_000_000)
    target = base[start : start + 1_000_000]
    made = make_patch(file_of(tmp_path, "old", base), file_of(tmp_path, "new", target), tmp_path / "patch")
    assert made.length < 1000


def test_a_patch_that_knows_tensors_is_decoded(tmp_path: Path) -> None:
    base = random.Random(1).randbytes(10_000)
    target = base[:4000] + b"new" + base[5000:]
    old, patch = file_of(tmp_path, "old", base), file_of(tmp_path, "patch", simple_patch(base, target))
    arguments = {"length": len(target), "sha256": sha256_of(target), "base": old}
    decode(SKAFOS_DELTA, patch, tmp_path / "out", base_sha256=sha256_of(base), **arguments)  # type: ignore[arg-type]
    assert (tmp_path / "out").read_bytes() == target
    with pytest.raises(PatchInvalid):
        decode(SKAFOS_DELTA, patch, tmp_path / "none", base_sha256=sha256_of(target), **arguments)  # type: ignore[arg-type]
    with pytest.raises(PatchTooCostly):
        decode(SKAFOS_DELTA, patch, tmp_path / "none", limits=PatchLimits(max_apply_bytes=1000), **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "none").exists()


def test_identity_is_copied_and_compared(tmp_path: Path) -> None:
    blob = file_of(tmp_path, "blob", b"content")
    decode(IDENTITY, blob, tmp_path / "out", length=7, sha256=sha256_of(b"content"))
    assert (tmp_path / "out").read_bytes() == b"content"
    for length, sha256 in ((8, sha256_of(b"content")), (7, sha256_of(b"other"))):
        with pytest.raises(EncodingInvalid):
            decode(IDENTITY, blob, tmp_path / "other", length=length, sha256=sha256)
    assert not (tmp_path / "other").exists()


def test_an_unknown_encoding_and_a_patch_without_its_base_are_errors(tmp_path: Path) -> None:
    blob = file_of(tmp_path, "blob", b"content")
    for name in ("tensors-2", ZSTD_PREFIX, SKAFOS_DELTA, ""):
        with pytest.raises(EncodingInvalid, match="unknown, or lacks"):
            decode(name, blob, tmp_path / "out", length=7, sha256=sha256_of(b"content"))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path, bytes]:
    """Return an old file, a patch, and the bytes that it makes."""
    base = random.Random(5).randbytes(6000)
    target = edited(base, 6) + b"\0" * 5000
    old = file_of(tmp_path, "old", base)
    make_patch(old, file_of(tmp_path, "new", target), tmp_path / "patch")
    return old, tmp_path / "patch", target


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_blob_raises_and_leaves_nothing(
    tmp_path: Path, pair: tuple[Path, Path, bytes], data: st.DataObject
) -> None:
    old, patch, target = pair
    encode_full(tmp_path / "new", tmp_path / "full")
    for name, whole in ((ZSTD_PREFIX, patch.read_bytes()), (ZSTD, (tmp_path / "full").read_bytes())):
        damaged = bytearray(whole)
        if data.draw(st.booleans()):
            del damaged[data.draw(st.integers(0, len(damaged) - 1)) :]
        else:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        blob = file_of(tmp_path, "damaged", bytes(damaged))
        try:
            decode(name, blob, tmp_path / "out", length=len(target), sha256=sha256_of(target), base=old)
        except EncodingInvalid:
            assert not (tmp_path / "out").exists()
        else:
            # Some bits of a frame mean nothing; what came out has the right hash all the same.
            assert (tmp_path / "out").read_bytes() == target
            (tmp_path / "out").unlink()
        assert list(tmp_path.glob("*.partial")) == []


@per_folder
@given(content=st.binary(max_size=300))
def test_garbage_behind_a_good_magic_raises(tmp_path: Path, content: bytes) -> None:
    old = file_of(tmp_path, "old", b"base" * 100)
    blob = file_of(tmp_path, "blob", b"\x28\xb5\x2f\xfd" + content)
    for name in (ZSTD, ZSTD_PREFIX):
        with pytest.raises(EncodingInvalid):
            decode(name, blob, tmp_path / "out", length=100, sha256=sha256_of(b""), base=old)


def frame_of(content: bytes, **parameters: int) -> bytes:
    return zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(3, **parameters)
    ).compress(content)


def test_a_frame_that_asks_for_a_large_window_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    # Hand-made: no single segment, a window of 2^31 bytes, a content size of 100, one empty last block.
    hostile = b"\x28\xb5\x2f\xfd" + bytes([0b01000000, (31 - 10) << 3]) + (100 - 0).to_bytes(2, "little") + b"\x01\0\0"
    assert zstandard.get_frame_parameters(hostile).window_size == 2**31
    blob, old = file_of(tmp_path, "blob", hostile), file_of(tmp_path, "old", b"12345678")
    content = int.from_bytes(hostile[6:8], "little") + 256
    for name in (ZSTD, ZSTD_PREFIX):
        with pytest.raises(EncodingInvalid, match="window"):
            decode(name, blob, tmp_path / "out", length=content, sha256=sha256_of(b""), base=old)


def test_a_frame_that_states_no_or_another_length_is_refused(tmp_path: Path) -> None:
    content = b"content" * 100
    for parameters, length in (
        ({"write_content_size": False}, len(content)),
        ({"write_content_size": True}, len(content) + 1),
    ):
        blob = file_of(tmp_path, "blob", frame_of(content, **parameters))
        with pytest.raises(EncodingInvalid, match="says it holds"):
            decode_full(blob, tmp_path / "out", length=length, sha256=sha256_of(content))


def test_a_frame_that_holds_more_than_it_says_writes_no_more(tmp_path: Path) -> None:
    content = b"\0" * 5_000_000
    frame = bytearray(frame_of(content, write_content_size=True, write_checksum=False))
    # The content size is the last field of the header: claim a thousand bytes.
    size = zstandard.frame_header_size(bytes(frame))
    frame[size - 4 : size] = (1000).to_bytes(4, "little")
    blob = file_of(tmp_path, "blob", bytes(frame))
    with pytest.raises(EncodingInvalid):
        decode_full(blob, tmp_path / "out", length=1000, sha256=sha256_of(content[:1000]))
    assert not (tmp_path / "out").exists()


def test_bytes_behind_the_frame_are_refused(tmp_path: Path) -> None:
    content = b"content" * 100
    for behind in (b"x", frame_of(content), b"\x50\x2a\x4d\x18\x04\0\0\0skip"):
        blob = file_of(tmp_path, "blob", frame_of(content) + behind)
        with pytest.raises(EncodingInvalid):
            decode_full(blob, tmp_path / "out", length=len(content), sha256=sha256_of(content))


def test_a_frame_with_a_dictionary_or_a_skippable_one_is_refused(tmp_path: Path) -> None:
    dictionary = zstandard.train_dictionary(4096, [os.urandom(64) + b"common" * 20 for _ in range(500)])
    named = zstandard.ZstdCompressor(dict_data=dictionary).compress(b"common" * 50)
    for frame in (named, b"\x50\x2a\x4d\x18\x04\0\0\0skip"):
        blob = file_of(tmp_path, "blob", frame)
        with pytest.raises(EncodingInvalid):
            decode_full(blob, tmp_path / "out", length=300, sha256=sha256_of(b"common" * 50))


@per_folder
@given(
    content=st.binary(max_size=100),
    repeat=st.integers(0, 5000),
    window=st.integers(10, 24),
    checksum=st.booleans(),
    size=st.booleans(),
)
def test_the_frame_header_is_read_as_zstd_reads_it(
    tmp_path: Path, content: bytes, repeat: int, window: int, checksum: bool, size: bool
) -> None:
    frame = frame_of(content * repeat, window_log=window, write_checksum=checksum, write_content_size=size)
    expected = zstandard.get_frame_parameters(frame)
    with file_of(tmp_path, "frame", frame).open("rb") as opened:
        header = read_header(opened)
    assert header.window == expected.window_size
    assert header.content == (expected.content_size if size else None)


def test_the_wrong_base_is_told_from_a_bad_patch(tmp_path: Path, pair: tuple[Path, Path, bytes]) -> None:
    old, patch, target = pair
    other = file_of(tmp_path, "other", random.Random(99).randbytes(6000))
    arguments = {"length": len(target), "sha256": sha256_of(target)}
    with pytest.raises(BaseMismatch):
        apply_patch(other, patch, tmp_path / "out", base_sha256=sha256_of(old.read_bytes()), **arguments)  # type: ignore[arg-type]
    with pytest.raises(PatchInvalid):
        apply_patch(other, patch, tmp_path / "out", **arguments)  # type: ignore[arg-type]
    with pytest.raises(PatchInvalid):
        apply_patch(old, patch, tmp_path / "out", length=len(target), sha256=sha256_of(b"another file"))
    assert not (tmp_path / "out").exists()


def test_what_costs_too_much_memory_is_neither_made_nor_applied(tmp_path: Path, pair: tuple[Path, Path, bytes]) -> None:
    old, patch, target = pair
    new = tmp_path / "new"
    needed = estimate_build_bytes(old.stat().st_size, new.stat().st_size)
    for limits in (PatchLimits(max_build_bytes=needed - 1), PatchLimits(max_apply_bytes=1000)):
        with pytest.raises(PatchTooCostly):
            make_patch(old, new, tmp_path / "none", limits)
        skipped = build_patch(old, new, tmp_path / "none", limits, full_length=10**9)
        assert isinstance(skipped, Skipped)
        assert skipped.reason is SkipReason.TOO_COSTLY
    with pytest.raises(PatchTooCostly) as caught:
        apply_patch(
            old, patch, tmp_path / "none", length=len(target), sha256="0" * 64, limits=PatchLimits(max_apply_bytes=1000)
        )
    assert caught.value.needed > caught.value.allowed == 1000
    assert not (tmp_path / "none").exists()


@given(base=st.integers(0, 2**34), target=st.integers(0, 2**34))
def test_estimates_cover_both_files(base: int, target: int) -> None:
    assert estimate_apply_bytes(base, target) >= base + target
    assert estimate_build_bytes(base, target) >= estimate_apply_bytes(base, target)


def test_a_patch_that_saves_less_than_a_tenth_is_skipped(tmp_path: Path) -> None:
    base = random.Random(1).randbytes(100_000)
    old, new = (
        file_of(tmp_path, "old", base),
        file_of(tmp_path, "new", base[:50_000] + random.Random(2).randbytes(50_000)),
    )
    made = make_patch(old, new, tmp_path / "patch")
    enough, short = made.length * 10 // 9 + 1, made.length * 10 // 9 - 1
    assert isinstance(build_patch(old, new, tmp_path / "patch", full_length=enough), Built)
    skipped = build_patch(old, new, tmp_path / "patch", full_length=short)
    assert isinstance(skipped, Skipped)
    assert skipped.reason is SkipReason.NOT_SMALLER
    assert not (tmp_path / "patch").exists()


def test_patches_are_built_in_spawned_processes(tmp_path: Path) -> None:
    base = random.Random(1).randbytes(100_000)
    old, new = file_of(tmp_path, "old", base), file_of(tmp_path, "new", edited(base, 4))
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        built = pool.submit(build_patch, old, new, tmp_path / "patch", None, full_length=100_000).result(timeout=120)
        tight = PatchLimits(max_build_bytes=1)
        skipped = pool.submit(build_patch, old, new, tmp_path / "none", tight, full_length=100_000).result(timeout=120)
        with pytest.raises(PatchTooCostly):
            pool.submit(make_patch, old, new, tmp_path / "none", tight).result(timeout=120)
    assert isinstance(built, Built)
    assert isinstance(skipped, Skipped)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old", "patch"]


def test_of_several_encodings_the_smallest_is_offered_and_of_equal_ones_the_preferred() -> None:
    def built(name: str, length: int) -> Built:
        return Built(Encoded(name, "0" * 64, length, "1" * 64, Path(name)))

    skipped = Skipped(SkipReason.TOO_COSTLY, "memory")
    assert best([skipped, built("large", 10), built("first", 9), built("second", 9)]) == built("first", 9)


def test_when_no_encoding_does_the_one_that_came_furthest_says_why() -> None:
    costly, long, wrong = (Skipped(reason, reason) for reason in SkipReason)
    assert best([costly, long]) is long
    assert best([wrong, costly, long]) is wrong
    assert best([costly]) is costly


def test_a_patch_that_does_not_make_the_target_is_never_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = random.Random(1).randbytes(10_000)
    old, new = file_of(tmp_path, "old", base), file_of(tmp_path, "new", edited(base, 4))
    other = file_of(tmp_path, "other", edited(base, 7))

    def faulty(base: Path, _: Path, out: Path, limits: PatchLimits | None) -> Encoded:
        return make_patch(base, other, out, limits)

    monkeypatch.setattr(build, "ENCODERS", {ZSTD_PREFIX: faulty})
    skipped = build_patch(old, new, tmp_path / "patch", full_length=10_000)
    assert isinstance(skipped, Skipped)
    assert skipped.reason is SkipReason.NOT_EXACT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old", "other"]
