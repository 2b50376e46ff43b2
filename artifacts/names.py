"""Names of files inside an artifact: what is allowed, and when two names would meet on some device's file system.

A name is a relative path with ``/`` between its parts, in Unicode normal form C. The rules are the strictest of the
file systems that an artifact may be unpacked on: case-insensitive and normalizing ones (APFS), ones that reserve the
backslash and drive letters (Windows).
"""

from __future__ import annotations

import re
import unicodedata

# Longest name in bytes of UTF-8. iOS allows 1,024 for a whole path, and the app's own folder takes a part of it.
MAX_NAME_BYTES = 512
# Longest part between two slashes: what ext4 and APFS allow.
MAX_PART_BYTES = 255

_DRIVE = re.compile(r"[A-Za-z]:")
# Control characters, lone surrogates, and the two separators that break a line in a log.
_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})


class UnsafeName(ValueError):
    """A name that must not be unpacked; the text says why, and shows the name with escapes.

    Args:
        sentence: what is wrong with it.
        code: a stable word: ``unsafe_name``, ``name_too_long`` or ``duplicate_name``.
    """

    def __init__(self, sentence: str, code: str = "unsafe_name") -> None:
        super().__init__(sentence)
        self.code = code


def shown(name: str) -> str:
    """Return the name as it may appear in a message or a log: escaped, and cut at 80 characters."""
    return ascii(name if len(name) <= 80 else name[:77] + "...")


def normal_name(name: str) -> str:
    """Return ``name`` in normal form C if it is safe to unpack.

    Raises:
        UnsafeName: it is not.
    """
    if any(unicodedata.category(character) in _FORBIDDEN_CATEGORIES for character in name):
        raise UnsafeName(f"the name {shown(name)} holds a control character")
    if "\\" in name:
        raise UnsafeName(f"the name {shown(name)} holds a backslash")
    if name.startswith("/") or _DRIVE.match(name):
        raise UnsafeName(f"the name {shown(name)} is an absolute path")
    normal = unicodedata.normalize("NFC", name)
    _require_plain_parts(normal)
    return normal


def _require_plain_parts(name: str) -> None:
    for part in name.split("/"):
        if part in ("", ".", ".."):
            raise UnsafeName(f"the name {shown(name)} has an empty, '.' or '..' part")
        if len(part.encode()) > MAX_PART_BYTES:
            raise UnsafeName(f"a part of the name {shown(name)} is longer than {MAX_PART_BYTES} bytes", "name_too_long")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise UnsafeName(f"the name {shown(name)} is longer than {MAX_NAME_BYTES} bytes", "name_too_long")


class NameSet:
    """The names of one artifact, none of which may meet another on a file system that ignores case.

    Two files may not share a name, a file may not be another's folder, and a folder has one spelling.
    """

    def __init__(self) -> None:
        # Folded path → how it was spelt and whether it is a file.
        self._taken: dict[str, tuple[str, bool]] = {}

    def add(self, name: str) -> None:
        """Take a name that `normal_name` returned.

        Raises:
            UnsafeName: it meets one that was taken before.
        """
        parts = name.split("/")
        for depth in range(1, len(parts)):
            self._take("/".join(parts[:depth]), is_file=False)
        self._take(name, is_file=True)

    def _take(self, path: str, *, is_file: bool) -> None:
        folded = unicodedata.normalize("NFC", path.casefold())
        earlier = self._taken.get(folded)
        if earlier is None:
            self._taken[folded] = (path, is_file)
        elif is_file or earlier != (path, False):
            raise UnsafeName(f"the names {shown(earlier[0])} and {shown(path)} meet on a device", "duplicate_name")
