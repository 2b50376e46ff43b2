"""Writes `patch/*.json`: run `python -m tests.vectors.make_patches`.

Each file is a base, a target and the patch between them, all in hexadecimal; one has patches that must be refused.
Targets are computed from the definition of each operation, not by the decoder that the vectors test. What zstd makes of
frames differs from version to version, so the bytes are the same again only with the version that each file names.
"""

from __future__ import annotations

import io
import json
import operator
import random
import struct
import zlib
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import backports.zstd
import numpy as np

from artifacts.patch.axes import Axes
from artifacts.patch.elements import ClassCoding, Matrix, MatrixData, Number, Table
from artifacts.patch.format import Codec, DeflateParameters, Layout, Op, frame_head, read_header
from artifacts.patch.lzma_frames import packed as lzma_packed
from artifacts.patch.matrix import Factors
from artifacts.patch.parse_deflate import ReadLimits, parsed
from artifacts.patch.symbols import Beginning
from tests.deflate_streams import DeflateWriter, Token, inflated, random_tokens
from tests.patches import Made, Recipe, deflated
from tests.vectors.bad_patches import BASE, Hand, refused, stored

FOLDER = Path(__file__).parent / "patch"
ZSTD = backports.zstd.zstd_version

# The smallest blocks, so that little content fills several.
SMALL = Layout(12, 12)


def vectors() -> dict[str, Any]:
    """Return the content of every file by its name."""
    good = {f"{name}.json": good_vector(about, make()) for name, (about, make) in GOOD.items()}
    return good | {"refused.json": refused_vectors()}


def written(content: Any) -> str:
    """Return a file's text."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def good_vector(about: str, made: Made) -> dict[str, Any]:
    return {
        "about": about,
        "zstd": ZSTD,
        "base": made.base.hex(),
        "target": made.target.hex(),
        "patch": made.patch.hex(),
    }


def refused_vectors() -> dict[str, Any]:
    return {
        "about": "Patches that must be refused, each with an error and without a target. They are for `base`.",
        "zstd": ZSTD,
        "base": BASE.hex(),
        "refused": [{"why": why, "patch": patch.hex()} for why, patch in refused()],
    }


# ---- plain operations


def example() -> Made:
    recipe = Recipe(b"The quick brown fox jumps over the lazy dog.")
    recipe.copy(0, 16)
    recipe.data(b"cat")
    recipe.copy(19, 25)
    return recipe.made()


def empty() -> Made:
    return Recipe(b"").made()


def sources() -> Made:
    """Copies go back and forth, reach over the border between base and target, and repeat what was made."""
    recipe = Recipe(bytes(range(64)))
    recipe.copy(40, 24)
    recipe.copy(0, 8)
    recipe.copy(60, 12)
    recipe.copy(64, 44)
    recipe.copy(64 + 44, 40)
    return recipe.made()


def additions() -> Made:
    base = bytes(range(256)) * 4
    recipe = Recipe(base)
    recipe.add(0, bytes((byte + 3 * (place % 7 == 0)) % 256 for place, byte in enumerate(base[:600])), 1)
    recipe.add(700, bytes((byte + 200) % 256 for byte in base[700:1000]), 1)
    return recipe.made()


def apart() -> Made:
    """Lengths and sources have streams of their own."""
    randomly = random.Random(1)
    recipe = Recipe(randomly.randbytes(2000), Layout(lengths=1, sources=2))
    for _ in range(40):
        recipe.copy(randomly.randrange(1900), randomly.randrange(1, 99))
        recipe.data(randomly.randbytes(randomly.randrange(1, 4)), 3)
    return recipe.made()


# ---- frames


def frames() -> Made:
    """One stream of frames that are stored, one byte repeated, and compressed, and operations across their borders."""
    recipe = Recipe(b"", SMALL)
    content = random.Random(2).randbytes(4096) + b"\0" * 8192 + b"compressible " * 500
    for start in range(0, len(content), 3000):
        recipe.data(content[start : start + 3000], 1)
    return recipe.made()


def by_lzma() -> Made:
    """Frames by LZMA, beside others in the same streams, one of them with more than 64 KiB."""
    randomly = random.Random(18)
    words = [f"layer_{number}/weights " for number in range(300)]
    numbers = b"".join(struct.pack("<I", 4000 * number + randomly.randrange(9)) for number in range(900))
    recipe = Recipe(bytes(5000), Layout(12, 17), lzma=(0, 1, 2))
    recipe.data(" ".join(randomly.choices(words, k=900)).encode(), 1)
    recipe.add(0, numbers, 2)
    # More than the 64 KiB that 16 bits count.
    recipe.data(numbers * 20, 1)
    recipe.call(lambda writer: writer.cut(1))
    recipe.data(b"stored", 1)
    for _ in range(400):
        recipe.copy(randomly.randrange(40) * 100, 1 + randomly.randrange(40))
    return recipe.made()


def lzma_properties() -> Made:
    """Frames by LZMA with all kinds of properties."""
    properties = [(lc, lp, pb) for lc, lp in ((0, 0), (3, 0), (4, 0), (1, 3), (2, 1), (0, 4)) for pb in (0, 2, 4)]
    pieces = [(f"lc {lc}, lp {lp}, pb {pb}: ".encode() * 9) for lc, lp, pb in properties]
    target = b"".join(pieces)
    payloads = [lzma_packed(piece, [each]) for piece, each in zip(pieces, properties, strict=True)]
    frames = [
        frame_head(len(piece), Codec.LZMA, len(payload)) + payload
        for piece, payload in zip(pieces, payloads, strict=True)
    ]
    hand = Hand(target, features=4, target_length=len(target), streams=2)
    patch = hand.patch(frames=stored(Op.DATA | 1 << 3, len(target)) + b"".join(frames))
    return Made(BASE, target, patch, read_header(io.BytesIO(patch)))


def prefix() -> Made:
    """A frame that refers to a piece of the base, and one that refers to what is made of the target."""
    base = random.Random(3).randbytes(2000)
    recipe = Recipe(base, Layout(12, 12, window_log=10))
    recipe.call(lambda writer: writer.prefix(1, 500, base[500:1400]))
    recipe.data(base[1000:1200] + b"between" + base[600:900], 1)
    made = recipe.target
    recipe.call(lambda writer: writer.prefix(1, 2000 + 10, made[10:410]))
    recipe.data(made[200:400] + b"and" + made[20:180], 1)
    return recipe.made()


def continuous() -> Made:
    """A stream of several frames that share a window, beside one whose frames stand alone."""
    randomly = random.Random(4)
    content = randomly.randbytes(1500)
    recipe = Recipe(b"", Layout(12, 12, window_log=14, continuous=frozenset({2})))
    for _ in range(8):
        recipe.data(content, 2)
        recipe.data(randomly.randbytes(20), 1)
    return recipe.made()


# ---- members


def members() -> Made:
    """A member of the base that is inflated, and one within it."""
    inner = b"in the innermost member " * 4
    outer = b"before " + deflated(inner) + b" behind " * 9
    base = b"PK" + deflated(outer) + b"KP"
    address = len(base) + len(b"before ")
    recipe = Recipe(base, members=[(2, len(base) - 4), (address, len(deflated(inner)))])
    recipe.copy(len(base) + len(outer), len(inner))
    recipe.copy(len(base) - 5, 12)
    recipe.copy(len(base) + len(outer) - 12, 20)
    return recipe.made()


def deflate() -> Made:
    """Members of the target that zlib deflates with all kinds of parameters, between plain bytes."""
    words = b"deflate and inflate, inflate and deflate; " * 30
    recipe = Recipe(b"head" + deflated(words) + b"tail", members=[(4, len(deflated(words)))])
    start = len(recipe.base)
    recipe.copy(0, 4)
    for parameters in (
        DeflateParameters(),
        DeflateParameters(level=1, memory_level=9),
        DeflateParameters(level=9, strategy=1),
        DeflateParameters(level=4, strategy=2, window_log=9),
        DeflateParameters(memory_level=1, strategy=3),
        DeflateParameters(strategy=4),
    ):
        with recipe.deflate(parameters):
            recipe.copy(start, 500)
            recipe.data(b" here is something new ", 1)
            recipe.add(start + 520, words[20:420].upper(), 2)
        recipe.copy(start - 4, 4)
    return recipe.made()


def symbols() -> Made:
    """Members that are deflated symbol by symbol: blocks of all kinds, long ones, and code lengths that are spelled."""
    randomly = random.Random(22)
    writer = DeflateWriter()
    parts = [
        random_tokens(randomly, 150, 0),
        random_tokens(randomly, 60, 40_000, 3),
        random_tokens(randomly, 40, 50_000),
    ]
    repeated: list[Token] = [7, *[(258, 1)] * 150, 8]
    raw = [inflated(parts[0]), inflated(repeated), b"a stored block"]
    writer.own(parts[0])
    # More than a segment can hold, so it goes on in another one.
    writer.fixed(repeated)
    writer.stored(raw[2])
    writer.stored(b"")
    known = b"".join(raw)
    far: list[Token] = [(258, 32_768), (3, 4097), (3, 4096), *b"abcXabcYabcZ", (3, 8), (3, 19)]
    parts[1] = [token for token in parts[1] if isinstance(token, int) or token[1] < len(known)] + far
    raw.append(inflated(parts[1], known))
    # Lengths that begin with a run where each could stand for itself, and the other way round.
    runs = [(8, 0), *[(16, 3)] * 36, *[(8, 0)] * 9, *[(9, 0)] * 2, (16, 0), *[(9, 0)] * 55, (4, 0), (4, 0)]
    writer.own(parts[1], symbols=[*runs, *[(5, 0)] * 25, (16, 0)])
    known += raw[-1]
    parts[2] = [token for token in parts[2] if isinstance(token, int) or token[1] < len(known)]
    raw.append(inflated(parts[2], known))
    writer.own(parts[2], last=True)
    recipe = Recipe(b"base of a few bytes", SMALL)
    recipe.data(b"head")
    with recipe.by_symbols(writer.done(), 3):
        for number, part in enumerate(raw):
            recipe.data(part, 1 + number % 2)
    recipe.copy(0, 4)
    with recipe.by_symbols(deflated(b"Only what zlib makes of a few words, and a few words more."), 3):
        recipe.data(b"Only what zlib makes of a few words, and a few words more.", 1)
    return recipe.made()


def kept() -> Made:
    """A member that is deflated symbol by symbol, and begins as one of the base does: within a byte, and at its end."""
    randomly = random.Random(23)
    before, first, second = (random_tokens(randomly, 400, place) for place in (0, 3000, 3000))
    streams = []
    for tokens in (first, second):
        writer = DeflateWriter()
        writer.own(before)
        writer.fixed(before)
        writer.own(tokens, last=True)
        streams.append(writer.done())
    known = inflated(before) + inflated(before, inflated(before))
    old, new = (zlib.decompress(stream, -15) for stream in streams)
    blocks = list(parsed(memoryview(streams[1]), memoryview(new), ReadLimits(len(new), 1)))
    assert blocks[2].start == len(known)
    base = b"PK" + streams[0] + b"KP"
    recipe = Recipe(base, SMALL, members=[(2, len(streams[0]))])
    recipe.copy(0, 2)
    for block in blocks[1:3]:
        with recipe.by_symbols(streams[1], 3, Beginning(block.start, block.bit, 2)):
            recipe.copy(len(base), len(known))
            recipe.data(new[len(known) :], 1)
    assert old[: len(known)] == known
    return recipe.made()


# ---- elements


def one_class(low_bits: int = 0, *, sparse: bool = False) -> tuple[ClassCoding, ...]:
    planes = tuple(range(3, 3 + low_bits // 8))
    return (ClassCoding(1, low_bits, planes, 10 if low_bits % 8 else None, 11 if sparse else None),)


def trained(code: str, count: int, seed: int) -> tuple[bytes, bytes]:
    """Return floats, and the same ones after some training."""
    randomly = random.Random(seed)
    old = [randomly.gauss(0, 1) for _ in range(count)]
    new = [value + randomly.gauss(0, 0.01) for value in old]
    # What is no number, both zeros, and the largest ones.
    odd = [float("inf"), float("-inf"), float("nan"), 0.0, -0.0, 65504.0, -65504.0, 2.0**-14]
    old[:8], new[:8] = odd, odd[1:] + odd[:1]
    return struct.pack(f"<{count}{code}", *old), struct.pack(f"<{count}{code}", *new)


def floats(code: str, number: str, difference: str, seed: int) -> Callable[[], Made]:
    """Return what makes a tensor with a table of three classes by exponent, in several blocks."""

    def make() -> Made:
        width = struct.calcsize(code)
        old, new = trained(code, 6000 // width + 5, seed)
        # The exponent's low 8 bits stand above the mantissa.
        mantissa = {2: 10, 4: 23, 8: 52}[width]
        middle, offset = {2: (15, 0), 4: (127, 0), 8: (23, 1000)}[width]
        if number == "plain":
            middle, offset = 15, 0
        lut = bytes(0 if level < middle - 2 else 1 if level < middle + 1 else 2 for level in range(256))
        spare = 8 * width - 12
        classes = (
            ClassCoding(1, spare, tuple(range(4, 4 + spare // 8)), 11 if spare % 8 else None),
            ClassCoding(2, 3, (), 12),
            ClassCoding(3),
        )
        table = Table(width, number, difference, mantissa, 13, lut, classes, offset=offset)  # type: ignore[arg-type]
        recipe = Recipe(b"?" + old, SMALL)
        recipe.table(5, table)
        recipe.elements(5, table, new, 1)
        return recipe.made()

    return make


def quantized() -> Made:
    """Integers of one byte of which most stay as they are, by the base's value, with masks of 1, 2 and 4 bits."""
    randomly = random.Random(6)
    old = bytes(randomly.choice((0, 0, 0, 1, 2, 255, 254, 128, 127)) for _ in range(5000))
    new = bytes((each + (randomly.randrange(10) == 0) * randomly.choice((1, -1, 2, 90))) % 256 for each in old)
    lut = bytes(1 if level == 0 else 0 for level in range(256))
    table = Table(1, "plain", "sub", 0, 5, lut, (ClassCoding(1, 0, (), None, 2), ClassCoding(3, 2, (), 4, 2, 2)))
    wide = Table(1, "plain", "sub", 0, 5, lut, (ClassCoding(1, 0, (), None, 2, 4), ClassCoding(3)))
    recipe = Recipe(old, SMALL)
    recipe.table(0, table)
    recipe.elements(0, table, new, 0)
    recipe.table(1, wide)
    recipe.elements(1, wide, new, 0)
    return recipe.made()


def planes() -> Made:
    """Elements without a base, of every width, plain and float; a table is defined anew for each."""
    randomly = random.Random(7)
    recipe = Recipe(b"", SMALL)
    for code, number, low_bits, zeros, origin in (
        ("B", "plain", 3, 0, 0),
        ("H", "plain", 8, 4, 0),
        ("e", "float", 8, 0, 0x78),
        ("e", "float", 3, 5, 0x80),
        ("H", "brain", 8, 0, 0x7D),
        ("I", "plain", 5, 0, 0),
        ("f", "float", 24, 0, 0x7C),
        ("Q", "plain", 60, 0, 0),
        ("d", "float", 56, 0, 0),
    ):
        width = struct.calcsize(code)
        if number == "plain":
            content = struct.pack(f"<400{code}", *(randomly.randrange(60) >> zeros << zeros for _ in range(400)))
        else:
            content = packed(code, [randomly.gauss(0, 0.1) for _ in range(400)])
        table = Table(
            width,
            number,  # type: ignore[arg-type]
            "none",
            0,
            2,
            bytes(256),
            one_class(low_bits, sparse=code == "I"),
            zeros=zeros,
            origin=origin,
        )
        recipe.table(63, table)
        recipe.elements(63, table, blanked(content, width, zeros))
    return recipe.made()


def blanked(content: bytes, width: int, zeros: int) -> bytes:
    """Return elements whose lowest bits are zero."""
    numbers = (int.from_bytes(content[start : start + width], "little") for start in range(0, len(content), width))
    return b"".join((number >> zeros << zeros).to_bytes(width, "little") for number in numbers)


def conversions() -> Made:
    """Floats whose base has another width, converted first; the exponent has an offset, low bits are zero."""
    randomly = random.Random(17)
    old = [randomly.gauss(0, 1) for _ in range(700)]
    new = [value + randomly.gauss(0, 1e-3) for value in old]
    old[:7] = [float("inf"), float("-inf"), float("nan"), 0.0, -0.0, 65519.0, 65520.0]
    base = b"".join(packed(code, old) for code in ("d", "f", "H"))
    recipe = Recipe(base, SMALL)
    for number, (code, kind, source, zeros) in enumerate(
        [
            ("e", "double", 0, 0),
            ("H", "single", 5600, 0),
            ("e", "brain", 8400, 3),
            ("f", "double", 0, 13),
            ("d", "single", 5600, 20),
        ]
    ):
        width = struct.calcsize(code)
        mantissa, offset = {"e": (10, 5), "H": (7, 100), "f": (23, 100), "d": (52, 1000)}[code]
        classes = (ClassCoding(1, 4, (), 5), ClassCoding(2, 11, (4,), 6) if width > 2 else ClassCoding(2))
        table = Table(
            width,
            "brain" if code == "H" else "float",
            "sub",
            mantissa,
            3,
            bytes(level > 22 for level in range(256)),
            classes,
            zeros=zeros,
            offset=offset,
            base=kind,  # type: ignore[arg-type]
        )
        recipe.table(number, table)
        recipe.elements(number, table, blanked(packed(code, new), width, zeros), source)
    return recipe.made()


def escapes() -> Made:
    """Differences of all sizes, of which most do not fit into a symbol, with and without bits beside them."""
    randomly = random.Random(8)
    old = randomly.randbytes(8 * 40)
    new = bytes(randomly.randrange(256) if randomly.randrange(2) else each for each in old)
    recipe = Recipe(old)
    for number, (width, low_bits, difference) in enumerate(
        [(1, 0, "sub"), (1, 7, "xor"), (2, 5, "sub"), (4, 0, "xor"), (4, 17, "sub"), (8, 0, "sub"), (8, 63, "xor")]
    ):
        table = Table(width, "plain", difference, 0, 2, bytes(256), one_class(low_bits, sparse=True))  # type: ignore[arg-type]
        recipe.table(number, table)
        recipe.elements(number, table, new, 0)
    return recipe.made()


def scales() -> Made:
    """Levels of rows and columns decide the class, with each of the slopes."""
    randomly = random.Random(9)
    rows, columns = 30, 50
    old, new = trained("e", rows * columns, 10)
    recipe = Recipe(old, SMALL)
    for number, slope in enumerate((1, 0, -1, -2)):
        lut = bytes(min(3, level // 8) for level in range(256))
        classes = tuple(ClassCoding(each, each, (), 5 if each else None) for each in range(1, 5))
        table = Table(2, "float", "sub", 10, 6, lut, classes, slope)  # type: ignore[arg-type]
        of_rows, of_columns = (
            np.array([randomly.randrange(40) for _ in range(side)], np.uint8) for side in (rows, columns)
        )
        recipe.table(number, table)
        recipe.elements(number, table, new, 0, MatrixData(Matrix(rows, columns, 3, 7), of_rows, of_columns))
        # One level for all of them.
        plain = MatrixData(Matrix(rows, columns, 20), of_rows[:0], of_columns[:0])
        recipe.elements(number, table, new, 0, plain)
    return recipe.made()


def ranks() -> Made:
    """Products of factors predict updates of floats of every width; one matrix has levels too."""
    randomly = random.Random(11)
    rows, columns, rank = 25, 45, 2
    left, right = (
        [[randomly.randrange(-900, 900) for _ in range(rank)] for _ in range(side)] for side in (rows, columns)
    )
    # The rows' factors of the second component are multiples of 4, and its level chooses another class.
    left = [[first, second * 4] for first, second in left]
    shifts, of_components = np.array([0, 2], np.uint8), np.array([1, 9], np.uint8)
    lut = bytes(level > 4 for level in range(256))
    factors = Table(2, "plain", "none", 0, 3, lut, (ClassCoding(4, 5, (), 5), ClassCoding(10, 3, (), 5)))
    kinds, contents = (("e", False), ("f", False), ("d", False), ("H", True)), []
    for code, _ in kinds:
        values = [randomly.gauss(0, 1) for _ in range(rows * columns)]
        values[:3] = [float("inf"), float("nan"), 6e4]
        updates = [sum(map(operator.mul, row, column)) * 2.0**-24 for row in left for column in right]
        trained = [value + update + randomly.gauss(0, 1e-4) for value, update in zip(values, updates, strict=True)]
        contents.append((packed(code, values), packed(code, trained)))
    recipe = Recipe(b"".join(old for old, _ in contents), SMALL)
    recipe.table(0, factors)
    source = 0
    for number, ((code, brain), (old, new)) in enumerate(zip(kinds, contents, strict=True), 1):
        low_bits = max(0, 8 * struct.calcsize(code) - 20)
        coding = ClassCoding(1, low_bits, (6,) * (low_bits // 8), 7 if low_bits % 8 else None)
        table = Table(struct.calcsize(code), "brain" if brain else "float", "sub", 0, 2, bytes(256), (coding,))
        data = MatrixData(
            Matrix(rows, columns, 0, 8 if brain else None, rank, 9, 0, -24),
            np.full(rows * brain, 2, np.uint8),
            np.full(columns * brain, 2, np.uint8),
            Factors(
                shifts, of_components, of_components[::-1], np.array(left, np.float64).T, np.array(right, np.float64).T
            ),
        )
        recipe.table(number, table)
        recipe.elements(number, table, new, source, data, factors)
        source += len(old)
    return recipe.made()


def gains() -> Made:
    """Gains of rows or of columns multiply the base, without factors and with them."""
    randomly = random.Random(18)
    rows, columns = 40, 60
    old = [randomly.gauss(0, 1) for _ in range(rows * columns)]
    old[:2] = [float("-inf"), float("nan")]
    recipe = Recipe(b"".join(packed(code, old) for code in ("f", "H", "d")), SMALL)
    of_factors = Table(1, "plain", "none", 0, 3, bytes(256), (ClassCoding(1, 2, (), 4),))
    recipe.table(0, of_factors)
    source = 0
    for number, (code, by_columns, rank) in enumerate((("f", False, 0), ("H", True, 0), ("d", True, 1)), 1):
        width = struct.calcsize(code)
        of_each = [randomly.uniform(0.5, 2) for _ in range(columns if by_columns else rows)]
        chosen = [of_each[place % columns if by_columns else place // columns] for place in range(len(old))]
        new = packed(code, [value * gain for value, gain in zip(old, chosen, strict=True)])
        coding = ClassCoding(1, 8 * width - 12, (2,) * (width - 2), 4) if width > 2 else ClassCoding(1)
        number_kind: Number = "brain" if code == "H" else "float"
        table = Table(width, number_kind, "sub", 0, 3, bytes(256), (coding,))
        small = np.ones(rank, np.uint8)
        factors = Factors(small, small, small, np.full((rank, rows), 6.0), np.full((rank, columns), -3.0))
        matrix = Matrix(rows, columns, 0, None, rank, 5, 0, -30, 6, by_columns)
        none = np.empty(0, np.uint8)
        data = MatrixData(matrix, none, none, factors if rank else None, np.array(of_each, np.float32))
        recipe.table(number, table)
        recipe.elements(number, table, new, source, data, of_factors if rank else None)
        source += len(new)
    return recipe.made()


def units() -> Made:
    """Floats of 4 bytes that are floats of 2 bytes times units of rows or columns: without a base, and with one."""
    randomly = random.Random(19)
    rows, columns = 40, 30
    halves = [randomly.randrange(-2047, 2048) for _ in range(rows * columns)]
    moved = [half + randomly.randrange(-3, 4) for half in halves]
    before, after = ([singles(randomly.uniform(0.5, 2)) for _ in range(rows)] for _ in range(2))
    across = [singles(randomly.uniform(0.5, 2)) for _ in range(columns)]
    known = [half * before[place // columns] for place, half in enumerate(halves)]
    known[:2] = [float("nan"), float("-inf")]
    old = packed("f", known)
    of_rows = packed("f", [half * after[place // columns] for place, half in enumerate(moved)])
    of_columns = packed("f", [half * across[place % columns] for place, half in enumerate(moved)])
    recipe = Recipe(old, SMALL)
    coding = (ClassCoding(1, 6, (), 4), ClassCoding(2, 3, (), 4))
    fresh = Table(2, "float", "none", 10, 3, bytes(256), coding[:1], origin=0xD4)
    tuned = Table(2, "float", "sub", 10, 3, bytes(level > 9 for level in range(256)), coding, base="single")
    of_factors = Table(1, "plain", "none", 0, 3, bytes(256), (ClassCoding(1, 2, (), 4),))
    for number, table in enumerate((fresh, tuned, of_factors)):
        recipe.table(number, table)
    none = np.empty(0, np.uint8)

    def matrix(by_columns: bool, gains: list[float] | None, rank: int) -> MatrixData:
        small = np.ones(rank, np.uint8)
        factors = Factors(small, small, small, np.full((rank, rows), 6.0), np.full((rank, columns), -3.0))
        of_it = Matrix(rows, columns, 3, None, rank, 5, 2, -6, 6 if gains else None, by_columns, 7)
        single = None if gains is None else np.array(gains, np.float32)
        of_each = np.array(across if by_columns else after, np.float32)
        return MatrixData(of_it, none, none, factors if rank else None, single, of_each)

    recipe.elements(0, fresh, of_columns, None, matrix(True, None, 0))
    recipe.elements(1, tuned, of_rows, 0, matrix(False, None, 0))
    recipe.elements(1, tuned, of_rows, 0, matrix(False, [1 / unit for unit in before], 0))
    recipe.elements(1, tuned, of_rows, 0, matrix(False, [1 / unit for unit in before], 1), of_factors)
    return recipe.made()


def axes() -> Made:
    """A base with its dimensions in another order: a transpose, and channels first instead of last, with levels."""
    randomly = random.Random(20)
    wide, narrow = (8, 3, 5, 4), (40, 12)
    old, new = trained("f", prod(wide), 21)
    recipe = Recipe(old, SMALL)
    table = Table(4, "float", "sub", 23, 3, bytes(level % 2 for level in range(256)), one_class(10) * 2)
    recipe.table(0, table)
    for sizes, order in ((narrow, (1, 0)), (wide, (0, 3, 1, 2)), (wide, (2, 0, 1, 3))):
        rows = sizes[0]
        of_rows, of_columns = (
            np.array([randomly.randrange(40) for _ in range(side)], np.uint8) for side in (rows, prod(wide) // rows)
        )
        matrix = Matrix(rows, prod(wide) // rows, 3, 7, axes=Axes(sizes, order))
        target = Axes(sizes, order).arranged(memoryview(new), 4)
        recipe.elements(0, table, target, 0, MatrixData(matrix, of_rows, of_columns))
    # A row is its own transpose; and there are no levels.
    matrix, none = Matrix(1, prod(wide), axes=Axes((1, prod(wide)), (1, 0))), np.empty(0, np.uint8)
    recipe.elements(0, table, new, 0, MatrixData(matrix, none, none))
    return recipe.made()


def singles(value: float) -> float:
    """Return the nearest float of 4 bytes."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def packed(code: str, values: list[float]) -> bytes:
    """Return floats; bfloat16 for the code of unsigned 16 bits."""
    if code == "H":
        return b"".join(struct.pack("<f", value)[2:] for value in values)
    return struct.pack(f"<{len(values)}{code}", *values)


def _by_name(*makes: Callable[[], Made]) -> dict[str, tuple[str, Callable[[], Made]]]:
    return {make.__name__: (make.__doc__ or "", make) for make in makes}


GOOD: dict[str, tuple[str, Callable[[], Made]]] = {
    "example": ("COPY, DATA, COPY: the worked example of the format's description.", example),
    "empty": ("An empty file from an empty file: a header alone.", empty),
    **_by_name(sources),
    "additions": ("ADD with few and with large differences.", additions),
    **_by_name(apart, frames, by_lzma, lzma_properties, prefix, continuous, members, deflate, symbols, kept),
    "float16": ("TENSOR of float16 by exponent.", floats("e", "float", "sub", 12)),
    "float32": ("TENSOR of float32 by exponent.", floats("f", "float", "sub", 13)),
    "float64": ("TENSOR of float64 by exponent.", floats("d", "float", "sub", 14)),
    "float32-xor": ("TENSOR of float32 as exclusive or.", floats("f", "float", "xor", 15)),
    "float16-plain": ("TENSOR of float16 as if they were integers.", floats("e", "plain", "sub", 16)),
    **_by_name(quantized, planes, conversions, escapes, scales, gains, ranks, units, axes),
}


def main() -> None:
    """Write every file."""
    FOLDER.mkdir(exist_ok=True)
    for name, content in vectors().items():
        (FOLDER / name).write_text(written(content))


if __name__ == "__main__":
    main()
