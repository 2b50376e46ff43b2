"""The bytes of the canonical archive: a tar in which nothing is left to choose.

A canonical archive is a POSIX ustar of regular files, sorted by the UTF-8 bytes of their names, so that the same files
always give the same bytes, in every language that writes it:

- each file is one 512-byte header, its bytes, and zeros up to a multiple of 512;
- mode 0644, user and group 0 without names, modification time 0, device numbers 0, no prefix;
- numbers are octal with leading zeros and a NUL behind; the checksum is six digits, a NUL and a space;
- a name that is not ASCII or longer than 100 bytes has a pax header before it, named ``././@PaxHeader``, type ``x``,
  that holds one ``path`` record; the file's own header then has the name's first 100 bytes, with ``_`` for each
  byte that is not ASCII;
- two blocks of zeros end it, and nothing follows: no padding to tar's record of 10 KiB.

Sources: POSIX.1-2017, pax, sections "ustar Interchange Format" and "pax Header File Format".
"""

from __future__ import annotations

BLOCK_BYTES = 512
END = bytes(2 * BLOCK_BYTES)
# What eleven octal digits hold.
MAX_FILE_BYTES = 8**11 - 1

_NAME_BYTES = 100
_PAX_NAME = b"././@PaxHeader"
_PAX_TYPE = b"x"
_FILE_TYPE = b"0"
_PATH_KEY = b"path"


def header(name: str, length: int) -> bytes:
    """Return all header blocks of one file.

    Args:
        name: safe and in normal form C (`artifacts.names.normal_name`).
        length: in bytes, at most `MAX_FILE_BYTES`.
    """
    raw = name.encode()
    if raw.isascii() and len(raw) <= _NAME_BYTES:
        return _block(raw, length, _FILE_TYPE)
    record = _pax_record(raw)
    short = bytes(byte if byte < 0x80 else ord("_") for byte in raw[:_NAME_BYTES])
    return _block(_PAX_NAME, len(record), _PAX_TYPE) + record + padding(len(record)) + _block(short, length, _FILE_TYPE)


def padding(length: int) -> bytes:
    """Return the zeros that fill the last block of ``length`` bytes."""
    return bytes(-length % BLOCK_BYTES)


def stated_length(block: bytes) -> int | None:
    """Return the length that a header block states, None if it states none."""
    digits = block[124:135]
    return int(digits, 8) if all(0x30 <= digit <= 0x37 for digit in digits) and len(digits) == 11 else None


def is_pax(block: bytes) -> bool:
    """Tell whether a header block opens a pax header."""
    return block[156:157] == _PAX_TYPE


def short_name(block: bytes) -> bytes:
    """Return the name field of a header block."""
    return block[:_NAME_BYTES].rstrip(b"\0")


def pax_path(record: bytes) -> bytes | None:
    """Return the path in a pax header that holds one ``path`` record and nothing else; None for any other."""
    _, _, rest = record.partition(b" ")
    path = rest.removeprefix(_PATH_KEY + b"=").removesuffix(b"\n")
    return path if _pax_record(path) == record else None


def _pax_record(path: bytes) -> bytes:
    """Return ``<length> path=<path>\\n``, where the length counts its own digits."""
    body = b" " + _PATH_KEY + b"=" + path + b"\n"
    digits = len(str(len(body)))
    if len(str(len(body) + digits)) > digits:
        digits += 1
    return str(len(body) + digits).encode() + body


def _block(name: bytes, length: int, kind: bytes) -> bytes:
    before = name.ljust(_NAME_BYTES, b"\0") + b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % length + b"%011o\0" % 0
    after = kind + bytes(100) + b"ustar\00000" + bytes(64) + b"0000000\0" * 2 + bytes(167)
    # The checksum is the sum of the header's bytes, its own field taken as spaces.
    checksum = sum(before) + sum(after) + 8 * ord(" ")
    return before + b"%06o\0 " % checksum + after
