"""The PROXY protocol: a proxy says first, in a header of a few bytes, whose connection it passes on.

Both versions of HAProxy's specification (https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt), the text of
version 1 and the bytes of version 2. `HeaderReader` is pure: it is given what has arrived, tells how much of that
belongs to the header and so may be taken from the socket, and in the end whose the connection is. What follows the
header, a request or a TLS handshake, is never touched.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_LINE_BEGIN = b"PROXY "
_HEAD_BYTES = 16
# Section 2.1: the longest line of version 1, its line break included.
MAX_LINE_BYTES = 107
# Version 2, behind its 16 bytes: addresses have at most 216, the rest is fields that a proxy may add (a TLS client's
# certificate name, a connection's id; section 2.2). Common ones take a few hundred.
MAX_REST_BYTES = 2048

_FAMILIES: dict[bytes, type[IPv4Address | IPv6Address]] = {b"TCP4": IPv4Address, b"TCP6": IPv6Address}
_LOCAL, _PROXY = 0x20, 0x21
# Section 2.2: family and transport in one byte. What else there is (UDP, unix sockets) tells no address to us.
_TCP4, _TCP6 = 0x11, 0x21


class BadHeader(Exception):
    """The connection does not begin with a PROXY header."""


class HeaderReader:
    """Reads one header, as it comes in.

    After `done`, ``client`` is the address that the proxy tells, or None when it speaks for itself (a health check,
    version 2's LOCAL) or does not know (version 1's UNKNOWN): then the connection is the proxy's own.
    """

    def __init__(self) -> None:
        self._taken = bytearray()
        self.client: Address | None = None
        self.done = False

    def wanted(self) -> int:
        """Return how many bytes to look at next."""
        length = MAX_LINE_BYTES if self._taken.startswith(b"P") else self._length()
        return length - len(self._taken)

    def offer(self, data: bytes) -> int:
        """Take in what has arrived and return how many bytes of it are the header's; the rest must stay.

        Args:
            data: what follows what was taken before; at most `wanted` bytes, at least one.

        Raises:
            BadHeader: this is no header, or one over the bounds.
        """
        before = len(self._taken)
        seen = bytes(self._taken) + data
        self._taken += data
        if seen.startswith(b"P"):
            self._read_line(seen)
        else:
            self._read_bytes(seen)
        return len(self._taken) - before

    def _read_line(self, seen: bytes) -> None:
        _expect(_LINE_BEGIN, seen)
        end = seen.find(b"\r\n")
        if end >= 0:
            del self._taken[end + 2 :]
            self.client = _of_line(seen[:end])
            self.done = True
        elif len(seen) >= MAX_LINE_BYTES:
            raise BadHeader("the line of its PROXY header is too long")

    def _read_bytes(self, seen: bytes) -> None:
        _expect(SIGNATURE, seen)
        if len(seen) >= _HEAD_BYTES and len(seen) >= (length := self._length()):
            del self._taken[length:]
            self.client = _of_bytes(seen[:length])
            self.done = True

    def _length(self) -> int:
        """Return the length of a version 2 header, as far as is known."""
        if len(self._taken) < _HEAD_BYTES:
            return _HEAD_BYTES
        (rest,) = struct.unpack_from("!H", self._taken, 14)
        if rest > MAX_REST_BYTES:
            raise BadHeader("its PROXY header is too long")
        return _HEAD_BYTES + int(rest)


def _expect(beginning: bytes, seen: bytes) -> None:
    if seen[: len(beginning)] != beginning[: len(seen)]:
        raise BadHeader("it does not begin with a PROXY header")


def _of_line(line: bytes) -> Address | None:
    """``PROXY TCP4 <source> <destination> <port> <port>``, or ``PROXY UNKNOWN`` and whatever (section 2.1)."""
    words = line.split(b" ")
    if words[1] == b"UNKNOWN":
        return None
    family = _FAMILIES.get(words[1])
    if family is None or len(words) != 6 or not all(_is_port(port) for port in words[4:]):
        raise BadHeader("the line of its PROXY header is malformed")
    try:
        source: Address = family(words[2].decode("ascii"))
        family(words[3].decode("ascii"))
    except ValueError:
        raise BadHeader("the line of its PROXY header has no addresses") from None
    return source


def _is_port(word: bytes) -> bool:
    return word.isdigit() and len(word) <= 5 and int(word) <= 65_535


def _of_bytes(header: bytes) -> Address | None:
    """Section 2.2: signature, version and command, family, length, addresses, fields."""
    command, family = header[12], header[13]
    if command == _LOCAL:
        return None
    if command != _PROXY:
        raise BadHeader("its PROXY header has another version or command")
    rest = header[_HEAD_BYTES:]
    if family == _TCP4 and len(rest) >= 12:
        return IPv4Address(rest[:4])
    if family == _TCP6 and len(rest) >= 36:
        return IPv6Address(rest[:16])
    if family in (_TCP4, _TCP6):
        raise BadHeader("its PROXY header is too short for its addresses")
    return None
