"""Where things lie in a zip, for what `zipfile` does not tell: how long its directory is, and where a file starts.

Source: PKWARE's APPNOTE.TXT 6.3.10; the section is named where a rule comes from it.
"""

from __future__ import annotations

import struct
import zipfile

from artifacts.source import Source

# The end-of-directory record and its 64-bit kin (APPNOTE 4.3.14 to 4.3.16).
_END = struct.Struct("<4s4H2LH")
_END_SIGNATURE = b"PK\x05\x06"
_END_64_LOCATOR = struct.Struct("<4sLQL")
_END_64_LOCATOR_SIGNATURE = b"PK\x06\x07"
_END_64 = struct.Struct("<4sQ2H2L4Q")
_END_64_SIGNATURE = b"PK\x06\x06"
_LOCAL = struct.Struct("<4s5H3L2H")
_LOCAL_SIGNATURE = b"PK\x03\x04"
_MAX_COMMENT_BYTES = 65535


def directory_bytes(source: Source) -> int | None:
    """Return how long the directory says it is, in bytes; None if there is none.

    `zipfile` loads all of it into memory, so this is asked first. Where the 32-bit record and the 64-bit one differ,
    it is the larger.
    """
    end = _end_record(source)
    return None if end is None else max(_directory_sizes(source, end))


def local_header_bytes(source: Source, offset: int) -> int:
    """Return the length of the header before a file's bytes (APPNOTE 4.3.7), which starts at ``offset``.

    Raises:
        BadZipFile: there is none.
    """
    source.seek(offset)
    fields = _LOCAL.unpack(source.read(_LOCAL.size))
    if fields[0] != _LOCAL_SIGNATURE:
        raise zipfile.BadZipFile("no local header where the directory says")
    return _LOCAL.size + int(fields[9]) + int(fields[10])


def _end_record(source: Source) -> int | None:
    """Return where the end-of-directory record starts, found as `zipfile` finds it."""
    length = source.seek(0, 2)
    tail_start = max(0, length - _END.size - _MAX_COMMENT_BYTES)
    source.seek(tail_start)
    tail = source.read(_END.size + _MAX_COMMENT_BYTES)
    if tail[-_END.size :][:4] == _END_SIGNATURE and tail[-2:] == b"\0\0" and len(tail) >= _END.size:
        return length - _END.size
    found = tail.rfind(_END_SIGNATURE)
    return None if found < 0 or len(tail) - found < _END.size else tail_start + found


def _directory_sizes(source: Source, end: int) -> tuple[int, int]:
    """Return the directory's size by the 32-bit record and by the 64-bit one, whichever of them `zipfile` believes."""
    source.seek(end)
    size = _END.unpack(source.read(_END.size))[5]
    before = end - _END_64_LOCATOR.size - _END_64.size
    if before < 0:
        return size, 0
    source.seek(before)
    record = _END_64.unpack(source.read(_END_64.size))
    locator = _END_64_LOCATOR.unpack(source.read(_END_64_LOCATOR.size))
    if record[0] != _END_64_SIGNATURE or locator[0] != _END_64_LOCATOR_SIGNATURE:
        return size, 0
    return (0 if size == 0xFFFFFFFF else size), record[8]
