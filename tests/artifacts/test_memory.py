"""Large artifacts cost little memory: each step runs in a process of its own, whose peak is compared with its start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artifacts.patch.axes import Axes
from artifacts.patch.elements import ClassCoding, Matrix, MatrixData, Table, encode_block
from artifacts.patch.encode import BYTES_PER_BYTE, FIXED_BYTES
from artifacts.patch.format import MAX_MEMORY_BYTES, DeflateParameters, Header, Layout, Member
from artifacts.patch.writer import Levels, PatchWriter
from artifacts.patch.zstd_prefix import estimate_apply_bytes, estimate_build_bytes
from tests.deflate_streams import DeflateWriter, Token
from tests.finetunes import safetensors, zipped
from tests.models import field, varint
from tests.patches import Recipe, deflated, side

# Three times what any step may grow by, so one that loads the file is seen.
MODEL_BYTES = 192 * 1024 * 1024
MAX_GROWTH_BYTES = 64 * 1024 * 1024

PRELUDE = """
import asyncio, hashlib, sys
from pathlib import Path
from artifacts.archive import ArchiveReader, archive_directory, archive_upload, extract_archive
from artifacts.encodings import decode_full, encode_full
from artifacts.hashing import hash_file
from artifacts.inspect import inspect_archive
from artifacts.patch import apply
from artifacts.patch.encode import encode_patch
from artifacts.patch.zstd_prefix import apply_patch, make_patch
from artifacts.store import open_store

def peak():
    # VmHWM is of this process alone; getrusage would report the parent's peak, which a fork hands down.
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024

folder = Path(sys.argv[1])
store = open_store((folder / "objects").as_uri())
before = peak()
"""

STEPS = {
    "archive a zip": "archive_upload(folder / 'model.zip', 'model.zip', folder / 'out')",
    "archive a bare file": "archive_upload(folder / 'model.onnx', 'model.onnx', folder / 'out')",
    "inspect": "assert [tensor.name for tensor in inspect_archive(folder / 'archive').inputs] == ['x']",
    "extract": "extract_archive(folder / 'archive', folder / 'extracted')",
    "archive a folder": "archive_directory(folder / 'root', folder / 'out')",
    "encode": "encode_full(folder / 'archive', folder / 'out')",
    "decode": (
        "sha256, length = hash_file(folder / 'archive')\n"
        "decode_full(folder / 'encoded', folder / 'out', length=length, sha256=sha256)"
    ),
    "store and fetch": (
        "sha256, length = hash_file(folder / 'archive')\n"
        "asyncio.run(store.put_file(sha256, folder / 'archive'))\n"
        "asyncio.run(store.fetch_to(sha256, folder / 'out'))"
    ),
}


def growth(folder: Path, step: str) -> int:
    script = f"{PRELUDE}\n{step}\nprint(peak() - before)"
    result = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, check=True)
    return int(result.stdout)


def write_large_onnx(path: Path) -> None:
    """Write an ONNX model with an input ``x`` and one weight that is nearly all of it."""
    block = os.urandom(1024 * 1024)
    head = field(8, "w") + varint(9 << 3 | 2) + varint(MODEL_BYTES)
    weight = varint(5 << 3 | 2) + varint(len(head) + MODEL_BYTES) + head
    value = field(11, field(1, "x"))
    with path.open("wb") as model:
        model.write(field(1, 8) + varint(7 << 3 | 2) + varint(len(weight) + MODEL_BYTES + len(value)) + weight)
        for _ in range(MODEL_BYTES // len(block)):
            model.write(block)
        model.write(value)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one large model in every form that a step starts from."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "root").mkdir()
    write_large_onnx(folder / "root" / "model.onnx")
    (folder / "model.onnx").hardlink_to(folder / "root" / "model.onnx")
    growth(
        folder,
        "import zipfile\n"
        "zipfile.ZipFile(folder / 'model.zip', 'w', zipfile.ZIP_STORED).write(folder / 'model.onnx', 'model.onnx')\n"
        "archive_directory(folder / 'root', folder / 'archive')\n"
        "encode_full(folder / 'archive', folder / 'encoded', 1)",
    )
    return folder


@pytest.mark.parametrize("step", STEPS)
def test_a_step_does_not_grow_with_the_model(large: Path, step: str) -> None:
    assert growth(large, STEPS[step]) < MAX_GROWTH_BYTES


def test_patches_keep_to_their_estimates(large: Path) -> None:
    """The estimates are what the limits go by, so they must not be too small; a third above is not too large."""
    length = (large / "archive").stat().st_size
    make = "make_patch(folder / 'archive', folder / 'archive', folder / 'patch')"
    built = growth(large, make)
    applied = growth(
        large,
        "sha256, length = hash_file(folder / 'archive')\n"
        "apply_patch(folder / 'archive', folder / 'patch', folder / 'out', length=length, sha256=sha256)",
    )
    assert estimate_build_bytes(length, length) * 2 / 3 < built < estimate_build_bytes(length, length)
    assert estimate_apply_bytes(length, length) * 2 / 3 < applied < estimate_apply_bytes(length, length)


# Tensors of this length, which is many times what decoding may take.
TENSOR_BYTES = 64 * 1024 * 1024


def write_patch(folder: Path) -> Header:
    """Write a base and a patch of all that takes memory: tensors, deflated members, prefixes and continuous streams."""
    layout = Layout(window_log=19, continuous=frozenset({20}))
    values = np.random.default_rng(1).normal(0, 1, layout.block_bytes // 2)
    old, new = (each.astype("<f2").tobytes() for each in (values, values * 1.001))
    classes = tuple(ClassCoding(number, 3, (), 16, 17) for number in range(16))
    table = Table(2, "float", "sub", 10, 18, bytes(level % 16 for level in range(256)), classes)
    blocks = TENSOR_BYTES // len(old)
    member, inflated = deflated(old * 16), old * 16
    base = old * blocks + member
    target = new * blocks + member + old * 8 + old[:30_000]
    writer = PatchWriter(
        side(base), side(target), layout, (Member(TENSOR_BYTES, len(member), len(inflated)),), levels=Levels(1, 1, 1)
    )
    writer.table(0, table)
    parts = encode_block(table, new, old)
    writer.tensor(0, table, 0, TENSOR_BYTES // 2, (parts for _ in range(blocks)))
    writer.deflate(DeflateParameters(), len(inflated), len(member))
    writer.copy(len(base), len(inflated))
    writer.data(20, old * 8)
    writer.prefix(0, 0, (old * 4)[: layout.window_bytes])
    writer.data(0, old[:30_000])
    (folder / "base").write_bytes(base)
    with (folder / "patch").open("wb") as sink:
        return writer.finish(sink)


def test_a_patch_is_decoded_in_the_memory_that_its_header_says(tmp_path: Path) -> None:
    header = write_patch(tmp_path)
    grown = growth(
        tmp_path,
        f"apply.apply_patch(folder / 'base', folder / 'patch', folder / 'out', "
        f"length={header.target.length}, sha256={header.target.sha256!r})",
    )
    assert grown < header.memory_bytes <= MAX_MEMORY_BYTES < TENSOR_BYTES / 4


# Matrices that take most beside their block: elements of one byte with a base in another order, and floats in units.
@pytest.mark.parametrize("kind", ["axes", "units"])
def test_what_matrices_say_is_decoded_in_the_memory_that_its_header_says(tmp_path: Path, kind: str) -> None:
    random, none = np.random.default_rng(4), np.empty(0, np.uint8)
    recipe = Recipe(random.bytes(TENSOR_BYTES // 16) if kind == "axes" else b"", Layout(18, 16))
    if kind == "axes":
        axes = Axes((2048, 2048), (1, 0))
        table = Table(1, "plain", "sub", 0, 1, bytes(256), (ClassCoding(2, mask=3),))
        data = MatrixData(Matrix(1, axes.count, axes=axes), none, none)
        source, target = 0, axes.arranged(memoryview(recipe.base), 1)
    else:
        units = random.uniform(0.5, 2, 1 << 14).astype(np.float32)
        halves = random.integers(-2047, 2048, (len(units), 64))
        table = Table(2, "float", "none", 10, 1, bytes(256), (ClassCoding(2, 8, (3,)),), origin=0xD4)
        data = MatrixData(Matrix(len(halves), 64, units=4), none, none, units=units)
        source, target = None, (halves * units.astype(np.float64)[:, None]).astype(np.float32).tobytes()
    recipe.table(0, table)
    recipe.elements(0, table, target, source, data)
    made = recipe.made()
    made.write(tmp_path)
    header = made.header
    grown = growth(
        tmp_path,
        f"apply.apply_patch(folder / 'base', folder / 'patch', folder / 'out', "
        f"length={header.target.length}, sha256={header.target.sha256!r})",
    )
    assert grown < header.memory_bytes


# Beside Python and its modules, whose code was read before: little enough is counted here for that to matter.
MEASURED_APPLY = """
import sys
from pathlib import Path
from artifacts.patch.apply import apply_patch
from bench.patches.libraries import measured

folder = Path(sys.argv[1])
print(int(measured(lambda: {}, 1)["peak_bytes"]))
"""


def member(kind: str) -> tuple[bytes, bytes]:
    """Return bytes and how they are deflated: in segments of many bytes or of few, with many matches or long ones."""
    random = np.random.default_rng(6)
    if kind == "weights":
        raw = random.normal(0, 0.05, 1 << 20).astype(np.float32).tobytes()
        return raw, deflated(raw)
    if kind == "words":
        raw = random.integers(97, 101, 1 << 18, np.uint8).tobytes()
        return raw, deflated(raw)
    if kind == "zeros":
        return bytes(1 << 22), deflated(bytes(1 << 22))
    if kind == "short blocks":
        raw = random.integers(97, 105, 1 << 18, np.uint8).tobytes()
        return raw, deflated(raw, DeflateParameters(memory_level=1, strategy=2))
    writer = DeflateWriter()
    if kind == "equal bytes":
        # One match for which a whole batch of the same bytes is looked at.
        tokens: list[Token] = [*[0] * 32_000, (3, 1), *[0] * 700]
        for number in range(6):
            writer.fixed(tokens, last=number == 5)
        return bytes(6 * 32_703), writer.done()
    for _ in range(3000):
        writer.fixed([])
    writer.fixed([1], last=True)
    return b"\1", writer.done()


@pytest.mark.parametrize("kind", ["weights", "words", "zeros", "short blocks", "equal bytes", "empty blocks"])
def test_members_by_symbols_are_decoded_in_the_memory_that_is_said_of_them(tmp_path: Path, kind: str) -> None:
    raw, stream = member(kind)
    # With the smallest blocks and frames hardly any other memory is counted.
    recipe = Recipe(raw, Layout(12, 12), levels=Levels(1, 1, 1))
    with recipe.by_symbols(stream):
        recipe.copy(0, len(raw))
    made = recipe.made()
    made.write(tmp_path)
    header = made.header
    assert header.memory_bytes < 3 << 20
    call = f"apply_patch(folder / 'base', folder / 'patch', folder / 'out', length={header.target.length}"
    result = subprocess.run(
        [sys.executable, "-c", MEASURED_APPLY.format(f"{call}, sha256={header.target.sha256!r})"), str(tmp_path)],
        capture_output=True,
        check=True,
    )
    assert int(result.stdout) < header.memory_bytes


def tuned(
    shapes: dict[str, tuple[int, int]], dtype: type[np.floating[Any]], rank: int, large: float
) -> tuple[bytes, bytes]:
    """Return a file of tensors, and what an update of some factors and noise makes of it; ``large``: the factors."""
    generator = np.random.default_rng(1)
    old = {name: generator.normal(0, 0.05, shape).astype(dtype) for name, shape in shapes.items()}
    new = {}
    for name, values in old.items():
        left, right = (
            generator.normal(0, large, (values.shape[0], rank)),
            generator.normal(0, 1, (rank, values.shape[1])),
        )
        new[name] = (values + left @ right + generator.normal(0, 1e-4, values.shape)).astype(dtype)
    return safetensors(old), safetensors(new)


def fine_tuned() -> tuple[bytes, bytes]:
    """Return files of many small tensors and a large one."""
    shapes = {f"layer.{number}": (96, 96) for number in range(32)} | {"embedding": (1024, 512)}
    return tuned(shapes, np.float32, 8, 1e-4)


def zipped_fine_tuned() -> tuple[bytes, bytes]:
    """Return the same two files in zips."""
    old, new = (zipped({"model.safetensors": content}, deflated=True) for content in fine_tuned())
    return old, new


def edited() -> tuple[bytes, bytes]:
    """Return a file that no parser knows, and what a thousand short edits make of it."""
    generator = np.random.default_rng(2)
    old = generator.integers(97, 123, 1 << 20, np.uint8)
    new = old.copy()
    for start in generator.integers(0, len(new) - 16, 1000).tolist():
        new[start : start + 12] = generator.integers(97, 123, 12, np.uint8)
    return old.tobytes(), new.tobytes()


def edited_everywhere() -> tuple[bytes, bytes]:
    """Return a file that no parser knows, and one of which every sixteenth byte is another."""
    old = np.random.default_rng(3).integers(97, 123, 1 << 24, np.uint8)
    new = old.copy()
    new[::16] -= 80
    return old.tobytes(), new.tobytes()


def in_units() -> tuple[bytes, bytes]:
    """Return a file of halves times a number for each row, and what training and other numbers make of it."""
    generator = np.random.default_rng(4)
    halves = generator.normal(0, 0.05, (512, 2048)).astype(np.float16)
    moved = (halves + generator.normal(0, 1e-3, halves.shape)).astype(np.float16)
    files = []
    for values in (halves, moved):
        units = generator.uniform(0.5, 2, (len(values), 1)).astype(np.float32)
        files.append(safetensors({"weights": values.astype(np.float32) * units}))
    return files[0], files[1]


def many_tensors() -> tuple[bytes, bytes]:
    """Return a file of a great number of tensors, and what a little training makes of it."""
    generator = np.random.default_rng(5)
    old = {f"layer.{number}": generator.normal(0, 0.05, 1000).astype(np.float32) for number in range(1000)}
    new = {name: (values + generator.normal(0, 1e-4, 1000)).astype(np.float32) for name, values in old.items()}
    return safetensors(old), safetensors(new)


# What making a patch takes whatever the length of the files, where edits are not many and small.
USUAL_BYTES = 48 * 1024 * 1024


@pytest.mark.parametrize(
    ("make", "inflated_bytes", "fixed_bytes"),
    [
        (fine_tuned, 4 << 20, USUAL_BYTES),
        (zipped_fine_tuned, 8 << 20, USUAL_BYTES),
        (in_units, 5 << 20, USUAL_BYTES),
        (many_tensors, 5 << 20, USUAL_BYTES),
        (edited, 1 << 20, USUAL_BYTES),
        (edited_everywhere, 1 << 24, FIXED_BYTES),
    ],
)
def test_a_patch_is_made_in_the_memory_that_is_said_of_it(
    tmp_path: Path, make: Callable[[], tuple[bytes, bytes]], inflated_bytes: int, fixed_bytes: int
) -> None:
    for name, content in zip(("old", "new"), make(), strict=True):
        (tmp_path / name).write_bytes(content)
        assert len(content) <= inflated_bytes
    grown = growth(tmp_path, "encode_patch(folder / 'old', folder / 'new', folder / 'patch')")
    # Both files are mapped, with what is inflated of them.
    assert grown < fixed_bytes + (BYTES_PER_BYTE + 2) * inflated_bytes


def half_precision() -> tuple[bytes, bytes]:
    """Return files of halves, which most models for phones are."""
    shapes = {"embedding": (1024, 768)} | {f"layer.{number}": (128, 128) for number in range(24)}
    return tuned(shapes, np.float16, 24, 1e-3)


def zipped_half_precision() -> tuple[bytes, bytes]:
    """Return the same two files in zips."""
    old, new = (zipped({"model.safetensors": content}, deflated=True) for content in half_precision())
    return old, new


# As the benchmark measures it: beside Python and its modules, whose code was read before.
MEASURED = """
import sys
from pathlib import Path
from artifacts.patch.encode import encode_patch
from bench.patches.libraries import measured

folder = Path(sys.argv[1])
print(int(measured(lambda: encode_patch(folder / "old", folder / "new", folder / "patch"), 1)["peak_bytes"]))
"""


@pytest.mark.parametrize("make", [fine_tuned, half_precision, zipped_half_precision])
def test_a_patch_of_a_tuned_model_is_made_in_six_times_its_length(
    tmp_path: Path, make: Callable[[], tuple[bytes, bytes]]
) -> None:
    for name, content in zip(("old", "new"), make(), strict=True):
        (tmp_path / name).write_bytes(content)
    result = subprocess.run([sys.executable, "-c", MEASURED, str(tmp_path)], capture_output=True, check=True)
    assert int(result.stdout) < 6 * max((tmp_path / name).stat().st_size for name in ("old", "new"))


def test_what_the_allocator_keeps_is_given_back() -> None:
    script = """
import ctypes
import numpy as np
from artifacts.patch.allocator import give_back, keep_pieces
from bench.patches.launcher import anonymous_bytes
import os

keep_pieces(1 << 20)
pieces = [np.ones(1 << 16) for _ in range(64)]
del pieces[:-1]
before = anonymous_bytes(os.getpid())
give_back()
has_glibc = hasattr(ctypes.CDLL(None), "malloc_trim")
print(before - anonymous_bytes(os.getpid()) if has_glibc else 1 << 30)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert int(result.stdout) > 24 << 20
