"""A second decoder, written from `docs/patch-format.md` alone: one element at a time, as it would be in Swift.

It checks little, because it is only given good patches. What the two decoders make must be the same.
"""

from __future__ import annotations

import lzma
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from backports.zstd import ZstdDecompressor, ZstdDict

WIDTH_OF_BASE = {1: 2, 2: 2, 3: 4, 4: 8}


@dataclass
class Class:
    low: int
    mask_bits: int
    symbols: int
    mask: int | None
    planes: list[int]
    bits: int | None


@dataclass
class Table:
    width: int
    number: int
    difference: int
    slope: int
    base: int
    shift: int
    offset: int
    zeros: int
    origin: int
    escapes: int
    classes: list[Class]
    lut: list[int]


@dataclass
class Matrix:
    rows: int
    columns: int
    level: int
    row_levels: list[int]
    column_levels: list[int]
    exponent: int = 0
    row_factors: list[list[int]] | None = None
    column_factors: list[list[int]] | None = None
    row_gains: list[float] | None = None
    column_gains: list[float] | None = None
    row_units: list[float] | None = None
    column_units: list[float] | None = None
    sizes: list[int] | None = None
    order: list[int] | None = None

    @property
    def predicts(self) -> bool:
        return bool(self.row_factors or self.row_gains or self.column_gains)

    @property
    def has_units(self) -> bool:
        return bool(self.row_units or self.column_units)

    def source_place(self, place: int) -> int:
        """Return which element of the source the one at a place is coded with."""
        if self.sizes is None or self.order is None:
            return place
        index = {}
        for axis in reversed(range(len(self.sizes))):
            place, index[axis] = divmod(place, self.sizes[axis])
        found = 0
        for axis in self.order:
            found = found * self.sizes[axis] + index[axis]
        return found

    def unit(self, place: int) -> float:
        row, column = divmod(place, self.columns)
        if self.row_units is not None:
            return self.row_units[row]
        assert self.column_units is not None
        return self.column_units[column]


def decode(base: bytes, patch: bytes) -> bytes:
    """Return the target."""
    return Decoder(base, patch).run()


class Decoder:
    """Sections 2, 4, 5 and 6."""

    def __init__(self, base: bytes, patch: bytes) -> None:
        self.patch = patch
        self.place = 6
        assert patch[:5] == b"\x93SKP\x01"
        base_length, self.length, sizes, self.window_log, streams, continuous, self.lengths, self.sources, members = (
            self.number() for _ in range(9)
        )
        assert base_length == len(base)
        self.block = 1 << 12 + sizes % 8
        self.space = base
        end = 0
        for _ in range(members):
            address, deflated, inflated = end + signed(self.number()), self.number(), self.number()
            end = address + deflated
            content = zlib.decompress(self.space[address:end], -15)
            assert len(content) == inflated
            self.space += content
        self.place += 16 + 32
        self.queues = [b""] * streams
        self.flows: list[Any] = [ZstdDecompressor() if continuous >> stream & 1 else None for stream in range(streams)]
        self.begun = [False] * streams
        self.tables: dict[int, Table] = {}
        self.source_end = 0
        self.made = b""
        self.readable = len(self.space)
        self.matrix: Matrix | None = None

    def run(self) -> bytes:
        self.make(self.length, deflated=False)
        assert self.place == len(self.patch)
        assert not any(self.queues)
        return self.made

    # ---- bytes

    def number(self) -> int:
        value = shift = 0
        while True:
            byte = self.patch[self.place]
            self.place += 1
            value |= byte % 128 << shift
            shift += 7
            if byte < 128:
                return value

    def frame(self, stream: int) -> None:
        length, second = self.number(), self.number()
        codec, detail = second % 4, second // 4
        if codec == 2:
            self.queues[stream] += bytes([detail]) * length
            return
        prefix = None
        if codec == 3:
            address = self.number()
            prefix = ZstdDict(self.read(address, self.number()), is_raw=True).as_prefix
        by_lzma = codec == 0 and detail > 0
        if codec == 0 and not by_lzma:
            detail = length
        payload = self.patch[self.place : self.place + detail]
        self.place += detail
        if by_lzma:
            sizes = struct.pack(">HH", (length - 1) % 65536, detail - 1)
            chunk = bytes([0xE0 + (length - 1) // 65536]) + sizes + payload[:1] + b"\0" + payload[1:] + b"\0"
            content = lzma.decompress(chunk, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 18}])
        elif codec == 0:
            content = payload
        elif self.flows[stream] is not None:
            if not self.begun[stream]:
                payload = bytes.fromhex("28b52ffd00") + bytes([8 * (self.window_log - 10)]) + payload
                self.begun[stream] = True
            content = self.flows[stream].decompress(payload)
        else:
            start = bytes.fromhex("28b52ffda0" if codec == 1 else "28b52ffd8058") + length.to_bytes(4, "little")
            content = ZstdDecompressor(zstd_dict=prefix).decompress(start + payload)
        assert len(content) == length
        self.queues[stream] += content

    def take(self, stream: int, length: int) -> bytes:
        while len(self.queues[stream]) < length:
            self.frame(stream)
        content, self.queues[stream] = self.queues[stream][:length], self.queues[stream][length:]
        return content

    def numbers(self, stream: int) -> int:
        value = shift = 0
        while True:
            byte = self.take(stream, 1)[0]
            value |= byte % 128 << shift
            shift += 7
            if byte < 128:
                return value

    def read(self, address: int, length: int) -> bytes:
        assert address + length <= self.readable
        return (self.space + self.made)[address : address + length]

    # ---- operations

    def make(self, length: int, *, deflated: bool, after: Callable[[bytes], None] | None = None) -> bytes:
        """Run operations that make so many bytes: of the target, or of a member that is deflated."""
        raw = b""
        while len(raw if deflated else self.made) < length:
            if not deflated:
                self.readable = len(self.space) + len(self.made)
            first = self.numbers(0)
            code, parameter = first % 8, first // 8
            if code == 5:
                self.tables[parameter] = self.table()
            elif code == 6:
                self.deflate(parameter)
            elif code == 7:
                self.matrix = self.read_matrix()
            else:
                made = b""
                for piece in self.operation(code, parameter):
                    made += piece
                    if after is not None:
                        after(raw + made)
                if deflated:
                    raw += made
                else:
                    self.made += made
        return raw

    def deflate(self, how: int) -> None:
        raw, deflated = self.numbers(self.lengths), self.numbers(self.lengths)
        if how == 1:
            member = BySymbols(self)
            self.make(raw, deflated=True, after=member.go_on)
            content = member.content()
            assert len(content) == deflated
            self.made += content
            return
        parameters = self.numbers(0)
        level, memory, strategy, window = (parameters >> shift & 15 for shift in (0, 4, 8, 12))
        zipper = zlib.compressobj(level, zlib.DEFLATED, -window, memory, strategy)
        content = zipper.compress(self.make(raw, deflated=True)) + zipper.flush()
        assert len(content) == deflated
        self.made += content

    def operation(self, code: int, parameter: int) -> Iterator[bytes]:
        """Yield what an operation makes, piece by piece."""
        count = self.numbers(self.lengths)
        pieces = [min(self.block, count - start) for start in range(0, count, self.block)]
        if code == 1:
            yield from (self.take(parameter, piece) for piece in pieces)
            return
        if code == 4:
            yield from self.elements(self.tables[parameter], count, None)
            return
        width = 1
        if code == 3:
            table = self.tables[parameter]
            width = WIDTH_OF_BASE.get(table.base, table.width)
        address = self.source_end + signed(self.numbers(self.sources))
        self.source_end = address + count * width
        source = self.read(address, count * width)
        if code == 3:
            yield from self.elements(table, count, source)
            return
        for piece in pieces:
            part, source = source[:piece], source[piece:]
            if code == 2:
                part = bytes((one + other) % 256 for one, other in zip(part, self.take(parameter, piece), strict=True))
            yield part

    # ---- elements (section 7)

    def table(self) -> Table:
        kind, shift, offset, zeros, origin, escapes, classes = (self.numbers(0) for _ in range(7))
        each = []
        for _ in range(classes):
            first = self.numbers(0)
            low, mask_bits = first % 128, (0, 1, 2, 4)[first // 128]
            symbols = self.numbers(0)
            mask = self.numbers(0) if mask_bits else None
            planes = [self.numbers(0) for _ in range(low // 8)]
            each.append(Class(low, mask_bits, symbols, mask, planes, self.numbers(0) if low % 8 else None))
        lut: list[int] = []
        while len(lut) < 256:
            number = self.numbers(0)
            lut += [number] * self.numbers(0)
        slope = (1, 0, -1, -2)[kind >> 6 & 3]
        return Table(
            1 << kind % 4,
            kind >> 2 & 3,
            kind >> 4 & 3,
            slope,
            kind >> 8,
            shift,
            offset,
            zeros,
            origin,
            escapes,
            each,
            lut,
        )

    def elements(self, table: Table, count: int, source: bytes | None) -> Iterator[bytes]:
        matrix, self.matrix = self.matrix, None
        made_width = 4 if matrix is not None and matrix.has_units else table.width
        step = self.block // max(2, made_width, WIDTH_OF_BASE.get(table.base, 0))
        for start in range(0, count, step):
            yield self.elements_of_block(table, start, min(step, count - start), source, matrix)

    def elements_of_block(
        self, table: Table, start: int, count: int, source: bytes | None, matrix: Matrix | None
    ) -> bytes:
        known: list[int] = [0] * count
        if source is not None:
            width = WIDTH_OF_BASE.get(table.base, table.width)
            read = list(range(start, start + count))
            if matrix is not None:
                read = [matrix.source_place(place) for place in read]
            known = [int.from_bytes(source[place * width : (place + 1) * width], "little") for place in read]
            if matrix is not None and matrix.has_units:
                known = [predicted_half(matrix, start + place, each) for place, each in enumerate(known)]
            elif table.base:
                known = [converted(table, each) for each in known]
        fractions: list[float] | None = None
        if source is not None and matrix is not None and matrix.predicts and not matrix.has_units:
            if table.number:
                known = [predicted(table, matrix, start + place, each) for place, each in enumerate(known)]
            else:
                values = [predicted_whole(table, matrix, start + place, each) for place, each in enumerate(known)]
                known = [round(value) % (1 << 8 * table.width) for value in values]
                fractions = [value - round(value) for value in values]
        classes = []
        for place in range(count):
            context = 0 if source is None else context_of(table, known[place])
            if fractions is not None:
                context = min(15, int(32 * abs(fractions[place])))
            classes.append(table.lut[level(table, matrix, start + place, context)])
        if len(table.classes) == 1:
            classes = [0] * count
        written = [0] * count
        for number, each in enumerate(table.classes):
            places = [place for place in range(count) if classes[place] == number]
            if places:
                for place, z in zip(places, self.of_class(table, each, len(places)), strict=True):
                    written[place] = z
        turned = [fraction > 0 for fraction in fractions or [0.0] * count]
        made = [element(table, z, k, is_turned) for z, k, is_turned in zip(written, known, turned, strict=True)]
        width = table.width
        if matrix is not None and matrix.has_units:
            width = 4
            made = [in_units(matrix, start + place, each) for place, each in enumerate(made)]
        return b"".join(each.to_bytes(width, "little") for each in made)

    def of_class(self, table: Table, each: Class, count: int) -> list[int]:
        if each.mask is not None:
            most = (1 << each.mask_bits) - 1
            mask = bits(self.take(each.mask, -(-count * each.mask_bits // 8)), each.mask_bits, count)
            rest = iter(self.dense(table, each, mask.count(most)))
            return [(next(rest) + most) % (1 << 8 * table.width) if small == most else small for small in mask]
        return self.dense(table, each, count)

    def dense(self, table: Table, each: Class, count: int) -> list[int]:
        high = list(self.take(each.symbols, count))
        for place, symbol in enumerate(high):
            if symbol == 255:
                high[place] = int.from_bytes(self.take(table.escapes, table.width), "little")
        found = [h << each.low for h in high]
        for number, stream in enumerate(each.planes):
            found = [z | byte << 8 * number for z, byte in zip(found, self.take(stream, count), strict=True)]
        if each.bits is not None:
            width = each.low % 8
            packed = bits(self.take(each.bits, -(-count * width // 8)), width, count)
            found = [z | low << 8 * len(each.planes) for z, low in zip(found, packed, strict=True)]
        return [z % (1 << 8 * table.width) for z in found]

    # ---- matrices (section 8)

    def read_matrix(self) -> Matrix:
        rows, columns, of_all, flags, rank = (self.numbers(0) for _ in range(5))
        scales = self.numbers(0) if flags & 1 else None
        gains = self.numbers(0) if flags & 2 else None
        units = self.numbers(0) if flags & 8 else None
        sizes = order = None
        if flags & 16:
            dimensions = self.numbers(0)
            sizes, order = ([self.numbers(0) for _ in range(dimensions)] for _ in range(2))
        components, number, exponent = (
            (self.numbers(0), self.numbers(0), signed(self.numbers(0))) if rank else (0, 0, 0)
        )
        levels = list(self.take(scales, rows + columns)) if scales is not None else [0] * (rows + columns)
        matrix = Matrix(rows, columns, of_all, levels[:rows], levels[rows:], exponent)
        matrix.sizes, matrix.order = sizes, order
        count = columns if flags & 4 else rows
        if gains is not None:
            found = self.singles(gains, count)
            matrix.row_gains, matrix.column_gains = (None, found) if flags & 4 else (found, None)
        if units is not None:
            found = self.singles(units, count)
            matrix.row_units, matrix.column_units = (None, found) if flags & 4 else (found, None)
        if rank:
            said = list(self.take(components, 3 * rank))
            shifts, of_rows, of_columns = said[:rank], said[rank : 2 * rank], said[2 * rank :]
            matrix.row_factors = [
                [factor << shift for factor in factors]
                for shift, factors in zip(shifts, self.factors(number, rows, of_rows), strict=True)
            ]
            matrix.column_factors = self.factors(number, columns, of_columns)
        return matrix

    def singles(self, stream: int, count: int) -> list[float]:
        content = self.take(stream, 4 * count)
        return [value_of(4, False, int.from_bytes(content[place::count], "little")) for place in range(count)]

    def factors(self, number: int, count: int, levels: list[int]) -> list[list[int]]:
        table = self.tables[number]
        self.matrix = Matrix(len(levels), count, 0, levels, [0] * count)
        content = b"".join(self.elements(table, len(levels) * count, None))
        found = [
            unsign(int.from_bytes(content[place : place + table.width], "little"))
            for place in range(0, len(content), table.width)
        ]
        return [found[place * count : (place + 1) * count] for place in range(len(levels))]


class BySymbols:
    """A deflated member, symbol by symbol (section 9)."""

    LENGTH_EXTRA = (*(0,) * 8, *(1,) * 4, *(2,) * 4, *(3,) * 4, *(4,) * 4, *(5,) * 4, 0)
    DISTANCE_EXTRA = (0, 0, *(bits for bits in range(14) for _ in range(2)))
    ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.first, self.start = decoder.numbers(0), decoder.numbers(0)
        self.bits: list[int] = []
        if self.start:
            count, address = decoder.numbers(0), decoder.numbers(0)
            kept = decoder.read(address, -(-count // 8))
            self.put(int.from_bytes(kept, "little") % (1 << count), count)
        self.is_last = self.ends = False
        self.codes: tuple[dict[int, tuple[int, int]], dict[int, tuple[int, int]]] = ({}, {})
        self.read_segment()

    def number(self) -> int:
        return self.decoder.numbers(self.first)

    def take(self, stream: int, count: int) -> bytes:
        return self.decoder.take(self.first + stream, count)

    def put(self, value: int, count: int) -> None:
        self.bits += [value >> place & 1 for place in range(count)]

    def put_code(self, code: tuple[int, int]) -> None:
        """Write a Huffman code, which begins with its highest bit."""
        value, count = code
        self.bits += [value >> place & 1 for place in reversed(range(count))]

    def content(self) -> bytes:
        assert self.ends
        assert self.is_last
        self.bits += [0] * (-len(self.bits) % 8)
        return sum(bit << place for place, bit in enumerate(self.bits)).to_bytes(len(self.bits) // 8, "little")

    def go_on(self, raw: bytes) -> None:
        while not (self.is_last and self.ends) and len(raw) >= self.start + self.length:
            self.write(raw)

    def read_segment(self) -> None:
        head, self.length = self.number(), self.number()
        self.kind, self.ends_block = head % 4, head >> 3
        if self.kind:
            self.last_block = head >> 2 & 1
        if self.kind == 1:
            return
        count = self.number()
        if self.kind == 3:
            packed = self.number()
            spelled, self.hlit, self.hdist, self.hclen = packed & 1, packed >> 1 & 31, packed >> 6 & 31, packed >> 11
            symbols = self.number() if spelled else 0
        self.gaps = self.take(1, count)
        matches = sum(gap != 255 for gap in self.gaps)
        self.match_lengths = [length + 3 for length in self.take(2, matches)]
        self.ranks = self.take(3, matches)
        far = self.take(4, 2 * self.ranks.count(255))
        self.far = [low + 256 * high + 1 for low, high in zip(far[: len(far) // 2], far[len(far) // 2 :], strict=True)]
        if self.kind == 3:
            packed_differences = self.take(5, (self.hlit + self.hdist + 259) // 2)
            self.differences = [half for byte in packed_differences for half in (byte % 16, byte // 16)]
            self.runs = self.take(5, self.hclen + 4)
            self.spelled: list[tuple[int, int]] | None = None
            if spelled:
                written = self.take(5, symbols)
                self.spelled = [(symbol, self.take(5, 1)[0] if symbol > 15 else 0) for symbol in written]

    def write(self, raw: bytes) -> None:
        """Write a segment, and read the next one."""
        part = raw[self.start : self.start + self.length]
        if self.kind:
            self.put(self.last_block | self.kind - 1 << 1, 3)
        if self.kind == 1:
            self.bits += [0] * (-len(self.bits) % 8)
            self.put(len(part), 16)
            self.put(len(part) ^ 0xFFFF, 16)
            self.put(int.from_bytes(part, "little"), 8 * len(part))
        else:
            symbols = list(self.symbols(raw))
            if self.kind == 2:
                self.codes = (
                    canonical([8] * 144 + [9] * 112 + [7] * 24 + [8] * 8),
                    canonical([5] * 32),
                )
            if self.kind == 3:
                self.own_codes(symbols)
            for symbol in symbols:
                if isinstance(symbol, int):
                    self.put_code(self.codes[0].get(symbol, (0, 0)))
                else:
                    self.put_match(*symbol)
            if self.ends_block:
                self.put_code(self.codes[0].get(256, (0, 0)))
        self.start += self.length
        self.is_last, self.ends = bool(self.last_block), bool(self.ends_block)
        if not (self.is_last and self.ends):
            self.read_segment()

    def symbols(self, raw: bytes) -> Iterator[int | tuple[int, int]]:
        """Yield literals, and matches with their length and distance."""
        place, end = self.start, self.start + self.length
        lengths, ranks, far = iter(self.match_lengths), iter(self.ranks), iter(self.far)
        for gap in self.gaps:
            yield from raw[place : place + gap]
            place += gap
            if gap == 255:
                continue
            length, rank = next(lengths), next(ranks)
            near = [away for away in range(1, min(4096, place) + 1) if raw[place - away :][:3] == raw[place:][:3]]
            yield length, next(far) if rank == 255 else near[rank]
            place += length
        yield from raw[place:end]

    def put_match(self, length: int, distance: int) -> None:
        for value, least, extras, codes, first in (
            (length, 3, self.LENGTH_EXTRA, self.codes[0], 257),
            (distance, 1, self.DISTANCE_EXTRA, self.codes[1], 0),
        ):
            symbol, base = symbol_of(value, least, extras)
            self.put_code(codes.get(first + symbol, (0, 0)))
            self.put(value - base, extras[symbol])

    def own_codes(self, symbols: list[int | tuple[int, int]]) -> None:
        literals, distances = [0] * 286, [0] * 30
        literals[256] = 1
        for each in symbols:
            if isinstance(each, int):
                literals[each] += 1
            else:
                literals[257 + symbol_of(each[0], 3, self.LENGTH_EXTRA)[0]] += 1
                distances[symbol_of(each[1], 1, self.DISTANCE_EXTRA)[0]] += 1
        differences = iter(self.differences)
        sides = []
        for counts, codes in ((literals, self.hlit + 257), (distances, self.hdist + 1)):
            total = sum(counts)
            expected = [
                1 + sum(f * f << 2 * k + 1 < total * total for k in range(1, 15)) if f else 0 for f in counts[:codes]
            ]
            sides.append([(one + next(differences)) % 16 for one in expected])
        self.codes = canonical(sides[0]), canonical(sides[1])
        for value, count in ((self.hlit, 5), (self.hdist, 5), (self.hclen, 4), *((length, 3) for length in self.runs)):
            self.put(value, count)
        of_runs = [0] * 19
        for symbol, length in zip(self.ORDER, self.runs, strict=False):
            of_runs[symbol] = length
        codes_of_runs = canonical(of_runs)
        usual = [*usual_symbols(sides[0]), *usual_symbols(sides[1])]
        for symbol, more in usual if self.spelled is None else self.spelled:
            self.put_code(codes_of_runs.get(symbol, (0, 0)))
            self.put(more, {16: 2, 17: 3, 18: 7}.get(symbol, 0))


def symbol_of(value: int, least: int, extras: tuple[int, ...]) -> tuple[int, int]:
    """Return the symbol of a length or a distance, and the least that it stands for."""
    if least == 3 and value == 258:
        return 28, 258
    for symbol, extra in enumerate(extras):
        if value < least + (1 << extra):
            return symbol, least
        least += 1 << extra
    raise AssertionError(value)


def canonical(lengths: list[int]) -> dict[int, tuple[int, int]]:
    """Return the code of each symbol, with its length (RFC 1951, 3.2.2)."""
    code, codes = 0, {}
    for length in range(1, 16):
        code <<= 1
        for symbol, own in enumerate(lengths):
            if own == length:
                codes[symbol] = code, length
                code += 1
    return codes


def usual_symbols(lengths: list[int]) -> Iterator[tuple[int, int]]:
    while lengths:
        value = lengths[0]
        run = next((place for place, each in enumerate(lengths) if each != value), len(lengths))
        lengths = lengths[run:]
        if value:
            yield value, 0
            run -= 1
        longest = 6 if value else 138
        while run >= 3:
            taken = min(run, longest)
            symbol, least = (16, 3) if value else (18, 11) if taken >= 11 else (17, 3)
            yield symbol, taken - least
            run -= taken
        yield from [(value, 0)] * run


def signed(number: int) -> int:
    return number // 2 if number % 2 == 0 else -(number + 1) // 2


def unsign(z: int) -> int:
    return z >> 1 if z % 2 == 0 else ~(z >> 1)


def bits(content: bytes, width: int, count: int) -> list[int]:
    """Return numbers of so many bits, the highest first."""
    whole = int.from_bytes(content, "big")
    total = 8 * len(content)
    return [whole >> total - (place + 1) * width & (1 << width) - 1 for place in range(count)]


def context_of(table: Table, known: int) -> int:
    if table.number == 0:
        return (known >> table.shift) % 256
    return min(255, max(0, (known % (1 << 8 * table.width - 1) >> table.shift) - table.offset))


def level(table: Table, matrix: Matrix | None, place: int, context: int) -> int:
    found = context * table.slope
    if matrix is not None:
        row, column = divmod(place, matrix.columns)
        found += matrix.level + matrix.row_levels[row] + matrix.column_levels[column]
    return min(255, max(0, found))


def element(table: Table, z: int, k: int, is_turned: bool) -> int:
    size = 1 << 8 * table.width
    top = size >> 1

    def blank(value: int) -> int:
        return value >> table.zeros << table.zeros

    def order(value: int) -> int:
        if table.number == 0:
            return value
        return ~value % size if value & top else value | top

    def unorder(value: int) -> int:
        if table.number == 0:
            return value
        return value ^ top if value & top else ~value % size

    if table.difference == 2:
        return z ^ k
    if table.difference == 1:
        difference = unsign(z) << table.zeros
        return blank(unorder((blank(order(k)) + (-difference if is_turned else difference)) % size))
    if table.number == 0:
        return (z << table.zeros) % size
    origin = table.origin << 8 * table.width - 8 >> table.zeros
    value = (origin - 1 - z) % size
    return (value >> 1 << table.zeros) % top | (top if value % 2 else 0)


# ---- floats


def value_of(width: int, brain: bool, bits_of_it: int) -> float:
    if brain:
        return float(struct.unpack("<f", (bits_of_it << 16).to_bytes(4, "little"))[0])
    return float(struct.unpack({2: "<e", 4: "<f", 8: "<d"}[width], bits_of_it.to_bytes(width, "little"))[0])


def rounded(width: int, brain: bool, value: float) -> int:
    if width == 8:
        return int.from_bytes(struct.pack("<d", value), "little")
    single = packed("<f", value)
    if width == 4:
        return int.from_bytes(single, "little")
    if brain:
        b = int.from_bytes(single, "little")
        return b + 0x7FFF + (b >> 16 & 1) >> 16
    return int.from_bytes(packed("<e", struct.unpack("<f", single)[0]), "little")


def packed(code: str, value: float) -> bytes:
    """Round to the nearest float; Python refuses those that become infinite."""
    try:
        return struct.pack(code, value)
    except OverflowError:
        return struct.pack(code, math.copysign(math.inf, value))


def converted(table: Table, bits_of_it: int) -> int:
    value = value_of(WIDTH_OF_BASE[table.base], table.base == 2, bits_of_it)
    return rounded(table.width, table.number == 2, value if math.isfinite(value) else 0.0)


def predicted(table: Table, matrix: Matrix, place: int, bits_of_it: int) -> int:
    value = value_of(table.width, table.number == 2, bits_of_it)
    if not math.isfinite(value) or not matrix.predicts:
        return bits_of_it
    return rounded(table.width, table.number == 2, prediction(matrix, place, value))


def predicted_half(matrix: Matrix, place: int, bits_of_it: int) -> int:
    value = value_of(4, False, bits_of_it)
    return rounded(2, False, prediction(matrix, place, value if math.isfinite(value) else 0.0))


def in_units(matrix: Matrix, place: int, bits_of_it: int) -> int:
    value = value_of(2, False, bits_of_it)
    assert math.isfinite(value)
    return rounded(4, False, value * matrix.unit(place))


def predicted_whole(table: Table, matrix: Matrix, place: int, bits_of_it: int) -> float:
    size = 1 << 8 * table.width
    return prediction(matrix, place, float(bits_of_it - size if bits_of_it >= size >> 1 else bits_of_it))


def prediction(matrix: Matrix, place: int, value: float) -> float:
    row, column = divmod(place, matrix.columns)
    if matrix.row_gains is not None:
        value *= matrix.row_gains[row]
    if matrix.column_gains is not None:
        value *= matrix.column_gains[column]
    if matrix.row_factors is not None and matrix.column_factors is not None:
        products = (
            of_rows[row] * of_columns[column]
            for of_rows, of_columns in zip(matrix.row_factors, matrix.column_factors, strict=True)
        )
        value += math.ldexp(float(sum(products)), matrix.exponent)
    return value
