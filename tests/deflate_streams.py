"""Deflated streams that no common deflater writes, block by block and bit by bit (RFC 1951)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

Token = int | tuple[int, int]

# Complete codes: every symbol has one, and no bits are left over.
LITERALS = [8] * 226 + [9] * 60
DISTANCES = [4] * 2 + [5] * 28
RUNS = [4] * 13 + [5] * 6

_FIXED = [8] * 144 + [9] * 112 + [7] * 24 + [8] * 8
_ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
_LENGTH_EXTRA = (*(0,) * 8, *(1,) * 4, *(2,) * 4, *(3,) * 4, *(4,) * 4, *(5,) * 4, 0)
_DISTANCE_EXTRA = (0, 0, *(bits for bits in range(14) for _ in range(2)))


class DeflateWriter:
    """Writes a stream. The last block is marked by the caller."""

    def __init__(self) -> None:
        self._bits: list[int] = []

    def stored(self, content: bytes, *, last: bool = False) -> None:
        """Write a stored block."""
        self._number(last, 3)
        self._bits += [0] * (-len(self._bits) % 8)
        self._number(len(content), 16)
        self._number(len(content) ^ 0xFFFF, 16)
        self._number(int.from_bytes(content, "little"), 8 * len(content))

    def fixed(self, tokens: Iterable[Token], *, last: bool = False) -> None:
        """Write a block with fixed codes."""
        self._number(last | 2, 3)
        self._tokens(tokens, _FIXED, [5] * 32)

    def own(
        self,
        tokens: Iterable[Token],
        literals: Sequence[int] = LITERALS,
        distances: Sequence[int] = DISTANCES,
        symbols: Sequence[tuple[int, int]] | None = None,
        *,
        last: bool = False,
    ) -> None:
        """Write a block with codes of its own.

        Args:
            tokens: literals, and matches with their length and distance.
            literals: lengths of the codes for literals and lengths.
            distances: those for distances.
            symbols: what writes these lengths, each with what its run adds; by default each length stands for itself.
            last: whether the stream ends.
        """
        self._number(last | 4, 3)
        self._number(len(literals) - 257, 5)
        self._number(len(distances) - 1, 5)
        self._number(len(RUNS) - 4, 4)
        for symbol in _ORDER:
            self._number(RUNS[symbol], 3)
        for symbol, more in symbols or [(length, 0) for length in [*literals, *distances]]:
            self._code(symbol, RUNS)
            self._number(more, {16: 2, 17: 3, 18: 7}.get(symbol, 0))
        self._tokens(tokens, literals, distances)

    def done(self) -> bytes:
        """Return the stream."""
        padded = self._bits + [0] * (-len(self._bits) % 8)
        octets = (padded[place : place + 8] for place in range(0, len(padded), 8))
        return bytes(sum(bit << place for place, bit in enumerate(octet)) for octet in octets)

    def _tokens(self, tokens: Iterable[Token], literals: Sequence[int], distances: Sequence[int]) -> None:
        for token in tokens:
            if isinstance(token, int):
                self._code(token, literals)
                continue
            length, distance = token
            symbol, more, bits = (28, 0, 0) if length == 258 else _symbol(length - 3, _LENGTH_EXTRA)
            self._code(257 + symbol, literals)
            self._number(more, bits)
            symbol, more, bits = _symbol(distance - 1, _DISTANCE_EXTRA)
            self._code(symbol, distances)
            self._number(more, bits)
        self._code(256, literals)

    def _number(self, value: int, bits: int) -> None:
        self._bits += [value >> place & 1 for place in range(bits)]

    def _code(self, symbol: int, lengths: Sequence[int]) -> None:
        """Write the canonical code of a symbol (section 3.2.2), its highest bit first."""
        own = lengths[symbol]
        before = (each for place, each in enumerate(lengths) if each and (each, place) < (own, symbol))
        # Each code before it in the order of the codes takes its share of all that fits into so many bits.
        value = sum(1 << 15 - each for each in before) >> 15 - own
        self._bits += [value >> place & 1 for place in reversed(range(own))]


def _symbol(value: int, extras: Sequence[int]) -> tuple[int, int, int]:
    """Return a symbol, the value of its extra bits, and how many these are."""
    for symbol, bits in enumerate(extras):
        if value < 1 << bits:
            return symbol, value, bits
        value -= 1 << bits
    raise ValueError("there is no such symbol")


def inflated(tokens: Iterable[Token], before: bytes = b"") -> bytes:
    """Return what tokens stand for, behind what the stream has had."""
    made = bytearray(before)
    for token in tokens:
        if isinstance(token, int):
            made.append(token)
        else:
            length, distance = token
            for _ in range(length):
                made.append(made[-distance])
    return bytes(made[len(before) :])


def random_tokens(randomly: random.Random, count: int, made: int, one_in: int = 8, letters: int = 256) -> list[Token]:
    """Return tokens; about one in so many is a match.

    Args:
        randomly: where they come from.
        count: how many.
        made: how many bytes the stream has had before them.
        one_in: see above.
        letters: of how many different bytes literals are.
    """
    tokens: list[Token] = []
    for _ in range(count):
        if made and randomly.randrange(one_in) == 0:
            length = randomly.choice((3, 3, 3, 4, 10, 257, 258, randomly.randint(3, 258)))
            distance = randomly.choice(
                (1, randomly.randint(1, min(made, 300)), randomly.randint(1, min(made, 1 << 15)))
            )
            tokens.append((length, distance))
            made += length
        else:
            tokens.append(randomly.randrange(letters))
            made += 1
    return tokens
