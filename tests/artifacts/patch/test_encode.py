"""Patches are made from two files: the real decoder makes the target again, and what is alike costs nearly nothing."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from artifacts.errors import PatchTooCostly
from artifacts.patch.encode import EncodeLimits, EncodeReport, encode_patch
from tests.artifacts.patch.making import patched
from tests.artifacts.patch.plain_decoder import decode
from tests.finetunes import (
    Weights,
    adapted,
    brain,
    halved,
    model,
    normalized,
    quantized,
    safetensors,
    trained,
    zipped,
)
from tests.models import real_models, real_pair

# The header of a patch with its two hashes.
HEADER_BYTES = 90


def _share(folder: Path, old: Weights, new: Weights) -> float:
    target = safetensors(new)
    return patched(folder, safetensors(old), target).encoded.length / len(target)


def _floats(weights: Weights) -> Weights:
    return weights


# What a fine-tune of the small model takes, as a share of it: less than any tool that sees bytes.
@pytest.mark.parametrize(
    ("kind", "change", "most"),
    [
        (_floats, trained, 0.62),
        (halved, trained, 0.48),
        (quantized, trained, 0.36),
        (_floats, adapted, 0.09),
        (_floats, normalized, 0.06),
    ],
)
def test_fine_tunes_take_little(
    tmp_path: Path, kind: Callable[[Weights], Weights], change: Callable[[Weights], Weights], most: float
) -> None:
    assert _share(tmp_path, kind(model()), kind(change(model()))) < most


def test_bfloat16_takes_little(tmp_path: Path) -> None:
    (old, dtypes), (new, _) = brain(model()), brain(trained(model()))
    target = safetensors(new, dtypes)
    assert patched(tmp_path, safetensors(old, dtypes), target).encoded.length < 0.4 * len(target)


def test_an_export_in_other_floats_takes_nearly_nothing(tmp_path: Path) -> None:
    assert _share(tmp_path, model(), halved(model())) < 0.05


def test_a_head_that_was_trained_costs_itself(tmp_path: Path) -> None:
    old = model()
    new = {**old, "head.weight": trained(old)["head.weight"]}
    report = patched(tmp_path, safetensors(old), safetensors(new))
    assert report.encoded.length < HEADER_BYTES + 200 + new["head.weight"].nbytes
    assert [region.name for region in report.regions if region.name] == ["head.weight"]


@pytest.mark.parametrize("deflated", [False, True])
def test_what_is_in_zips_is_seen(tmp_path: Path, deflated: bool) -> None:
    old, new = (
        zipped({"weights.safetensors": safetensors(halved(weights)), "notes.txt": b"as before" * 50}, deflated=deflated)
        for weights in (model(), trained(model()))
    )
    assert patched(tmp_path, old, new).encoded.length < 0.52 * len(new)


def test_tensors_that_two_files_of_an_archive_share_are_sent_once(tmp_path: Path) -> None:
    both = safetensors(trained(model()))
    once = zipped({"one.safetensors": both}, deflated=False)
    twice = zipped({"one.safetensors": both, "other.safetensors": both}, deflated=False)
    old = zipped({"one.safetensors": safetensors(model())}, deflated=False)
    first, second = (patched(tmp_path, old, new).encoded.length for new in (once, twice))
    assert second < first + 1024


def test_a_member_that_is_no_deflated_stream_is_opaque(tmp_path: Path) -> None:
    old, new = (zipped({"w": safetensors(weights)}, deflated=True) for weights in (model(), trained(model())))
    # One bit of the deflated stream's first block header less, and it is no stream: what is left is bytes.
    damaged = new[:31] + bytes([new[31] ^ 7]) + new[32:]
    patched(tmp_path, old, damaged)


@pytest.mark.parametrize(
    ("base", "target"),
    [
        (b"", b""),
        (b"", b"new"),
        (b"old", b""),
        (b"same" * 100, b"same" * 100),
        (b"a" * 5000, b"a" * 4000 + b"b" + b"a" * 999),
        (bytes(range(256)) * 40, bytes(range(255, -1, -1)) * 40),
    ],
)
def test_small_files_are_no_exception(tmp_path: Path, base: bytes, target: bytes) -> None:
    report = patched(tmp_path, base, target)
    assert report.encoded.length < HEADER_BYTES + len(target) + 10
    assert sum(region.length for region in report.regions if not region.how.startswith("deflate")) == len(target)


def test_a_file_that_did_not_change_costs_the_header(tmp_path: Path) -> None:
    content = safetensors(model())
    assert patched(tmp_path, content, content).encoded.length < HEADER_BYTES + 8


def test_a_tiny_edit_costs_little(tmp_path: Path) -> None:
    content = safetensors(model())
    edited = content.replace(b"hidden.bias", b"middle.bias")
    assert patched(tmp_path, content, edited).encoded.length < HEADER_BYTES + 40


def _indexed(entries: int, inserted: int, *, before: bytes = b"") -> bytes:
    """Return a file that begins with offsets of what lies behind them, of which half lies behind what is inserted."""
    generator = np.random.default_rng(7)
    offsets = np.sort(generator.integers(0, 1 << 20, entries)).astype("<u4")
    offsets[entries // 2 :] += np.uint32(inserted)
    # Between the offsets is what does not move.
    rows = np.stack([generator.permutation(offsets), generator.integers(0, 1 << 30, entries).astype("<u4")], axis=1)
    return before + rows.tobytes() + generator.bytes(3)


# Offsets that begin anywhere, and that change by what takes one byte of difference or carries into others.
@pytest.mark.parametrize(("before", "inserted"), [(b"", 8), (b"odd", 300), (b"x", 100_000)])
def test_offsets_that_move_together_are_words(tmp_path: Path, before: bytes, inserted: int) -> None:
    base, target = (_indexed(600, moved, before=before) for moved in (0, inserted))
    report = patched(tmp_path, base, target)
    assert "words" in {region.how for region in report.regions}
    # As bytes they take 295 and more.
    assert report.encoded.length < 230
    assert decode(base, (tmp_path / "patch").read_bytes()) == target


def test_words_may_be_differences_to_what_the_target_has_had_before(tmp_path: Path) -> None:
    target = _indexed(600, 0) + b"-" + _indexed(600, 300)
    report = patched(tmp_path, b"nothing in common", target)
    assert "words" in {region.how for region in report.regions}


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_two_files_make_a_patch(tmp_path: Path, data: st.DataObject) -> None:
    base = data.draw(st.binary(max_size=600))
    pieces = data.draw(st.lists(st.one_of(st.binary(max_size=50), st.just(base), st.just(base[100:])), max_size=4))
    patched(tmp_path, base, b"".join(pieces))


def test_a_second_decoder_understands_what_is_made(tmp_path: Path) -> None:
    for kind in (_floats, halved, quantized):
        for change in (trained, adapted, normalized):
            base, target = safetensors(kind(model())), safetensors(kind(change(model())))
            patched(tmp_path, base, target)
            assert decode(base, (tmp_path / "patch").read_bytes()) == target


@pytest.mark.parametrize("project", ["silero-vad", "magika"])
def test_real_models_take_less_than_their_exponents_tell(tmp_path: Path, project: str) -> None:
    old, new = real_pair(project)
    report = patched(tmp_path, old.read_bytes(), new.read_bytes())
    assert report.encoded.length < 0.83 * new.stat().st_size


def test_real_models_that_share_nothing_make_a_patch(tmp_path: Path) -> None:
    smallest = sorted(real_models(), key=lambda path: path.stat().st_size)[:2]
    patched(tmp_path, smallest[0].read_bytes(), smallest[1].read_bytes())


def test_the_same_files_make_the_same_patch(tmp_path: Path) -> None:
    base, target = safetensors(model()), safetensors(trained(model()))
    first = patched(tmp_path, base, target).encoded.sha256
    assert patched(tmp_path, base, target).encoded.sha256 == first


def test_progress_rises_to_its_total(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(safetensors(model()))
    (tmp_path / "new").write_bytes(safetensors(trained(model())))
    told: list[tuple[int, int]] = []
    encode_patch(tmp_path / "old", tmp_path / "new", tmp_path / "patch", progress=lambda *one: told.append(one))
    assert len({total for _, total in told}) == 1
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1][0] == told[-1][1]
    assert len(told) > 8


def test_a_report_tells_of_every_tensor(tmp_path: Path) -> None:
    report = patched(tmp_path, safetensors(model()), safetensors(trained(model())))
    tensors = {region.name: region for region in report.regions if region.name}
    assert set(tensors) == set(model())
    assert tensors["hidden.weight"].how.startswith("update")
    assert "rank" in tensors["hidden.weight"].how
    assert sum(region.patched for region in report.regions) == pytest.approx(report.encoded.length, rel=0.1)


def test_memory_that_is_not_allowed_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(safetensors(model()))
    with pytest.raises(PatchTooCostly):
        encode_patch(tmp_path / "old", tmp_path / "old", tmp_path / "patch", EncodeLimits(max_bytes=1000))
    assert not (tmp_path / "patch").exists()


def test_after_the_time_that_is_allowed_the_rest_is_done_quickly(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(safetensors(model()))
    (tmp_path / "new").write_bytes(safetensors(trained(model())))
    slow = iter(np.arange(0.0, 1e6, 200.0).tolist())
    limits = EncodeLimits(max_seconds=300)
    report = encode_patch(tmp_path / "old", tmp_path / "new", tmp_path / "patch", limits, clock=lambda: next(slow))
    assert list(report.sizes) == ["tensors"]
    assert not any("rank" in region.how for region in report.regions)
    assert decode((tmp_path / "old").read_bytes(), (tmp_path / "patch").read_bytes()) == (tmp_path / "new").read_bytes()


def test_a_plan_of_too_many_steps_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, target = safetensors(model()), safetensors(trained(model()))
    monkeypatch.setattr("artifacts.patch.work.ALLOWED_UNITS", -len(target) // 16 + 60)
    assert "tensors" not in patched(tmp_path, base, target).sizes


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    content = zipped({"w": safetensors(model())}, deflated=True)
    (tmp_path / "old").write_bytes(content)
    (tmp_path / "out").mkdir()
    encode_patch(tmp_path / "old", tmp_path / "old", tmp_path / "out" / "patch")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["patch"]


@pytest.mark.parametrize("seed", range(6))
def test_small_edits_at_the_ends_of_members_stay_in_them(tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)

    def file(edited: bool) -> bytes:
        texts = [bytes(np.random.default_rng(number).integers(97, 103, 400, np.uint8)) for number in range(4)]
        if edited:
            texts = [b"%d" % generator.integers(99) + text[3:-3] + b"%d" % generator.integers(99) for text in texts]
        return zipped({f"{number}.txt": text for number, text in enumerate(texts)}, deflated=True)

    patched(tmp_path, file(False), file(True))


# ---- deflated members


def _zip_by_another(files: dict[str, bytes]) -> bytes:
    """Return a zip as a deflater writes it that ends a block where zlib does not."""
    streams = {}
    for name, content in files.items():
        deflater = zlib.compressobj(6, zlib.DEFLATED, -15)
        pieces = (content[start : start + 10_000] for start in range(0, len(content), 10_000))
        stream = b"".join(deflater.compress(piece) + deflater.flush(zlib.Z_BLOCK) for piece in pieces)
        streams[name] = content, stream + deflater.flush()
    return _zip_of(streams)


def _zip_of(files: dict[str, tuple[bytes, bytes]]) -> bytes:
    """Return a zip of files, each with its deflated stream (APPNOTE 4.3)."""
    made, directory = b"", b""
    for name, (content, stream) in files.items():
        # Version, flags, deflated, time and date; then what both headers have.
        common = struct.pack("<5H3L2H", 20, 0, 8, 0, 33, zlib.crc32(content), len(stream), len(content), len(name), 0)
        directory += struct.pack("<4sH", b"PK\1\2", 20) + common + struct.pack("<3H2L", 0, 0, 0, 0, len(made))
        directory += name.encode()
        made += b"PK\3\4" + common + name.encode() + stream
    count, size = len(files), len(directory)
    return made + directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, size, len(made), 0)


def _zipped(weights: Weights) -> bytes:
    return zipped({"m": safetensors(weights)}, deflated=True)


def _how(report: EncodeReport) -> list[str]:
    return [region.how for region in report.regions if region.how.startswith("deflate")]


def test_weights_in_a_zip_are_deflated_symbol_by_symbol(tmp_path: Path) -> None:
    old, new = (zipped({"w": safetensors(each)}, deflated=True) for each in (model(), trained(model())))
    bare = patched(tmp_path, safetensors(model()), safetensors(trained(model())))
    report = patched(tmp_path, old, new)
    assert _how(report) == ["deflate by symbols"]
    assert report.encoded.length < bare.encoded.length + 0.012 * len(new) + 300


def test_it_does_not_matter_what_had_deflated_a_zip(tmp_path: Path) -> None:
    files = [{"w": safetensors(each)} for each in (model(), trained(model()))]
    old, new = map(_zip_by_another, files)
    with zipfile.ZipFile(io.BytesIO(new)) as archive:
        assert archive.read("w") == files[1]["w"]
    report = patched(tmp_path, old, new)
    assert _how(report) == ["deflate by symbols"]
    usual = patched(tmp_path, zipped(files[0], deflated=True), zipped(files[1], deflated=True))
    assert report.encoded.length < 1.05 * usual.encoded.length


def test_text_in_a_zip_is_deflated_by_zlib(tmp_path: Path) -> None:
    text = b"".join(b"%d bottles of beer on the wall, %d bottles of beer.\n" % (n, n * n) for n in range(3000))
    report = patched(tmp_path, zipped({"t": text}, deflated=True), zipped({"t": text[500:]}, deflated=True))
    assert _how(report) == ["deflate"]


def test_text_that_zlib_does_not_make_is_deflated_symbol_by_symbol(tmp_path: Path) -> None:
    text = b"".join(b"%d bottles of beer on the wall, %d bottles of beer.\n" % (n, n * n) for n in range(300))
    report = patched(tmp_path, _zip_by_another({"t": text}), _zip_by_another({"t": text[500:]}))
    assert _how(report) == ["deflate by symbols"]


def test_a_little_text_beside_weights_that_zlib_does_not_make_is_opaque(tmp_path: Path) -> None:
    text = b"".join(b"%d bottles of beer on the wall, %d bottles of beer.\n" % (n, n * n) for n in range(30))
    files = [
        {"w": safetensors(weights), "t": text[start:]} for weights, start in ((model(), 0), (trained(model()), 100))
    ]
    report = patched(tmp_path, _zip_by_another(files[0]), _zip_by_another(files[1]))
    assert _how(report) == ["deflate by symbols"]


def test_what_begins_as_in_the_base_is_kept(tmp_path: Path) -> None:
    big = {"w": np.random.default_rng(1).normal(0, 0.05, (512, 512)).astype(np.float32)}
    old, new = ({**big, "z": each["head.weight"]} for each in (model(), trained(model())))
    report = patched(tmp_path, _zipped(old), _zipped(new))
    assert _how(report) == ["deflate by symbols"]
    bare = patched(tmp_path, safetensors(old), safetensors(new))
    # Not what is said of a megabyte of weights, but of their last bytes.
    assert report.encoded.length < bare.encoded.length + 600


def test_a_change_that_is_less_than_what_is_said_of_its_symbols_is_deflated_by_zlib(tmp_path: Path) -> None:
    big = {"w": np.random.default_rng(1).normal(0, 0.05, (512, 512)).astype(np.float32)}
    old, new = ({"a": each["head.weight"], **big} for each in (model(), trained(model())))
    report = patched(tmp_path, _zipped(old), _zipped(new))
    assert _how(report) == ["deflate"]
    bare = patched(tmp_path, safetensors(old), safetensors(new))
    assert report.encoded.length < bare.encoded.length + 300


@pytest.mark.parametrize("empty_blocks", [1, 3])
def test_a_stream_that_begins_with_empty_blocks_may_be_kept(tmp_path: Path, empty_blocks: int) -> None:
    weights = np.random.default_rng(1).normal(0, 0.05, 100_000).astype("<f4")
    for changed in (5000, 60_000):
        streams = []
        for each in (0, 1):
            weights[changed] += each
            raw = safetensors({"w": weights})
            deflater = zlib.compressobj(6, zlib.DEFLATED, -15)
            stream = b"".join(deflater.flush(zlib.Z_FULL_FLUSH) for _ in range(empty_blocks))
            stream = b"\0\0\0\xff\xff" * empty_blocks + stream + deflater.compress(raw) + deflater.flush()
            assert zlib.decompress(stream, -15) == raw
            streams.append(_zip_of({"w": (raw, stream)}))
        report = patched(tmp_path, streams[0], streams[1])
        assert _how(report) == ["deflate by symbols"]


def test_members_of_a_great_number_of_blocks_do_not_spoil_the_others(tmp_path: Path) -> None:
    # Blocks with fixed codes and nothing in them have ten bits; four of them have five bytes.
    empty = sum(2 << 10 * place for place in range(4)).to_bytes(5, "little") * 7500
    zips = []
    for weights, text in ((model(), b"some text"), (trained(model()), b"another text")):
        raw = safetensors(weights)
        stream = empty + zlib.compress(text)[2:-4]
        assert zlib.decompress(stream, -15) == text
        zips.append(_zip_of({"w": (raw, zlib.compress(raw)[2:-4]), "t": (text, stream)}))
    report = patched(tmp_path, zips[0], zips[1])
    assert _how(report) == ["deflate by symbols"]
    assert report.encoded.length < 0.7 * len(zlib.compress(raw))
