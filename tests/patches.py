"""Patches for tests, made operation by operation: what each operation makes is computed here, not by the decoder."""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from artifacts.patch.apply import apply_patch
from artifacts.patch.elements import MatrixData, Table, encode_block, encode_matrix
from artifacts.patch.format import DeflateParameters, Header, Layout, Member, Side
from artifacts.patch.parse_deflate import ReadLimits, parsed
from artifacts.patch.segments import segments_of
from artifacts.patch.symbols import Beginning
from artifacts.patch.writer import Levels, PatchWriter

Call = Callable[[PatchWriter], None]


def side(content: bytes) -> Side:
    """Return what a header says of a file."""
    return Side(len(content), hashlib.sha256(content).hexdigest())


def deflated(content: bytes, parameters: DeflateParameters | None = None) -> bytes:
    """Deflate bytes as a member of a zip."""
    chosen = parameters or DeflateParameters()
    zipper = zlib.compressobj(chosen.level, zlib.DEFLATED, -chosen.window_log, chosen.memory_level, chosen.strategy)
    return zipper.compress(content) + zipper.flush()


# Other ones would write the golden vectors in another way, and not better.
LEVELS = Levels(1, 19, 19)


@dataclass(frozen=True)
class Made:
    """A patch and the files at its ends."""

    base: bytes
    target: bytes
    patch: bytes
    header: Header

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write base and patch into a folder, and return their paths."""
        (folder / "base").write_bytes(self.base)
        (folder / "patch").write_bytes(self.patch)
        return folder / "base", folder / "patch"

    def apply(self, folder: Path) -> bytes:
        """Apply the patch in a folder, and return what it makes."""
        base, patch = self.write(folder)
        apply_patch(base, patch, folder / "out", length=self.header.target.length, sha256=self.header.target.sha256)
        content = (folder / "out").read_bytes()
        (folder / "out").unlink()
        return content


def simple_patch(base: bytes, target: bytes, layout: Layout | None = None) -> bytes:
    """Return a patch of what two files have in common at their starts and ends."""
    shorter = min(len(base), len(target))
    start = next((place for place in range(shorter) if base[place] != target[place]), shorter)
    left = shorter - start
    end = next((place for place in range(left) if base[-1 - place] != target[-1 - place]), left)
    recipe = Recipe(base, layout)
    if start:
        recipe.copy(0, start)
    if middle := target[start : len(target) - end]:
        recipe.data(middle)
    if end:
        recipe.copy(len(base) - end, end)
    assert recipe.target == target
    return recipe.made().patch


class Recipe:
    """Operations, and the target that they make.

    Args:
        base: the file that the patch leads from.
        layout: of the patch.
        members: deflated parts of the base, as (address, deflated length).
        levels: as of the writer; by default those that the golden vectors were made with.
        lzma: likewise.
    """

    def __init__(
        self,
        base: bytes,
        layout: Layout | None = None,
        members: Sequence[tuple[int, int]] = (),
        levels: Levels = LEVELS,
        lzma: Sequence[int] = (),
    ) -> None:
        self.base = base
        self.layout = layout or Layout()
        self.levels, self.lzma = levels, lzma
        self.known = base
        self.members: list[Member] = []
        for address, length in members:
            inflated = zlib.decompress(self.known[address : address + length], -15)
            self.members.append(Member(address, length, len(inflated)))
            self.known += inflated
        self.target = b""
        self._raw: bytes | None = None
        self._calls: list[Call] = []

    # ---- operations

    def copy(self, source: int, length: int) -> None:
        """Make bytes that are the same as those at an address."""
        self._make(self._at(source, length), lambda writer: writer.copy(source, length))

    def data(self, content: bytes, stream: int = 0) -> None:
        """Make bytes that are new."""
        self._make(content, lambda writer: writer.data(stream, content))

    def add(self, source: int, content: bytes, stream: int = 0) -> None:
        """Make bytes by their difference to those at an address."""
        old = self._at(source, len(content))
        difference = bytes((new - each) % 256 for new, each in zip(content, old, strict=True))
        self._make(content, lambda writer: writer.add(source, stream, difference))

    def table(self, number: int, table: Table) -> None:
        """Define a table."""
        self._calls.append(lambda writer: writer.table(number, table))

    def elements(
        self,
        number: int,
        table: Table,
        content: bytes,
        source: int | None = None,
        matrix: MatrixData | None = None,
        factors: Table | None = None,
    ) -> None:
        """Make elements, with a base if there is a source."""
        width = table.made_width(matrix.matrix if matrix else None)
        count = len(content) // width
        old = None if source is None else self._at(source, count * table.base_width)
        if old is not None and matrix is not None and matrix.matrix.axes is not None:
            old = matrix.matrix.axes.arranged(memoryview(old), table.base_width)
        block = self.layout.block_bytes
        step = table.per_block(block, matrix.matrix if matrix else None)
        blocks = []
        for start in range(0, count, step):
            known = None if old is None else old[start * table.base_width : (start + step) * table.base_width]
            part = content[start * width : (start + step) * width]
            blocks.append(encode_block(table, part, known, matrix, start))

        def call(writer: PatchWriter) -> None:
            if matrix is not None:
                writer.matrix(matrix.matrix, encode_matrix(matrix, factors, block))
            if source is None:
                writer.planes(number, table, count, blocks)
            else:
                writer.tensor(number, table, source, count, blocks)

        self._make(content, call)

    @contextmanager
    def deflate(self, parameters: DeflateParameters | None = None) -> Iterator[None]:
        """Deflate what the operations of the block make."""
        chosen = parameters or DeflateParameters()
        place = len(self._calls)
        self._raw = b""
        yield
        raw, self._raw = self._raw, None
        made = deflated(raw, chosen)
        self.target += made
        self._calls.insert(place, lambda writer: writer.deflate(chosen, len(raw), len(made)))

    @contextmanager
    def by_symbols(self, stream: bytes, first: int = 3, kept: Beginning | None = None) -> Iterator[None]:
        """Deflate what the operations of the block make into a stream, symbol by symbol.

        Args:
            stream: the deflated stream.
            first: the first of the streams for its segments.
            kept: how the stream begins, if it does so in the base too: whole blocks.
        """
        place = len(self._calls)
        self._raw = b""
        yield
        raw, self._raw = memoryview(self._raw), None
        assert zlib.decompress(stream, -15) == raw
        begin = kept.bits if kept is not None else 0
        blocks = [
            block
            for block in parsed(memoryview(stream), raw, ReadLimits(len(raw), 1, len(stream)))
            if block.bit >= begin
        ]
        said = [segment for block in blocks for segment in segments_of(block, raw)]
        self.target += stream
        self._calls.insert(place, lambda writer: writer.deflate_by_symbols(first, len(raw), len(stream), said, kept))
        self._calls.append(PatchWriter.end_deflate)

    def call(self, call: Call) -> None:
        """Call another method of the writer at this place."""
        self._calls.append(call)

    # ---- what comes of it

    def made(self) -> Made:
        """Write the patch."""
        sides = side(self.base), side(self.target)
        writer = PatchWriter(*sides, self.layout, tuple(self.members), self.levels, self.lzma)
        for call in self._calls:
            call(writer)
        out = io.BytesIO()
        header = writer.finish(out)
        return Made(self.base, self.target, out.getvalue(), header)

    def _at(self, source: int, length: int) -> bytes:
        content = (self.known + self.target)[source : source + length]
        assert len(content) == length
        return content

    def _make(self, content: bytes, call: Call) -> None:
        self._calls.append(call)
        if self._raw is None:
            self.target += content
        else:
            self._raw += content
