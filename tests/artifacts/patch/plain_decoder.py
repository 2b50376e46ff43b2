"""A second decoder, written from `docs/patch-format.md` alone: one element at a time, as it would be in Swift.

It checks little, because it is only given good patches. What the two decoders make must be the same.
"""

from __future__ import annotations

import lzma
import math
import struct
import zlib
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

    def make(self, length: int, *, deflated: bool) -> bytes:
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
                self.deflate()
            elif code == 7:
                self.matrix = self.read_matrix()
            else:
                made = self.operation(code, parameter)
                if deflated:
                    raw += made
                else:
                    self.made += made
        return raw

    def deflate(self) -> None:
        raw, deflated = self.numbers(self.lengths), self.numbers(self.lengths)
        parameters = self.numbers(0)
        level, memory, strategy, window = (parameters >> shift & 15 for shift in (0, 4, 8, 12))
        zipper = zlib.compressobj(level, zlib.DEFLATED, -window, memory, strategy)
        content = zipper.compress(self.make(raw, deflated=True)) + zipper.flush()
        assert len(content) == deflated
        self.made += content

    def operation(self, code: int, parameter: int) -> bytes:
        count = self.numbers(self.lengths)
        if code == 1:
            return self.take(parameter, count)
        if code == 4:
            return self.elements(self.tables[parameter], count, None)
        width = 1
        if code == 3:
            table = self.tables[parameter]
            width = WIDTH_OF_BASE.get(table.base, table.width)
        address = self.source_end + signed(self.numbers(self.sources))
        self.source_end = address + count * width
        source = self.read(address, count * width)
        if code == 0:
            return source
        if code == 3:
            return self.elements(table, count, source)
        return bytes((one + other) % 256 for one, other in zip(source, self.take(parameter, count), strict=True))

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

    def elements(self, table: Table, count: int, source: bytes | None) -> bytes:
        matrix, self.matrix = self.matrix, None
        made = b""
        made_width = 4 if matrix is not None and matrix.has_units else table.width
        step = self.block // max(2, made_width, WIDTH_OF_BASE.get(table.base, 0))
        for start in range(0, count, step):
            made += self.elements_of_block(table, start, min(step, count - start), source, matrix)
        return made

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
        content = self.elements(table, len(levels) * count, None)
        found = [
            unsign(int.from_bytes(content[place : place + table.width], "little"))
            for place in range(0, len(content), table.width)
        ]
        return [found[place * count : (place + 1) * count] for place in range(len(levels))]


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
