"""Compression Dictionary Transport (RFC 9842): a browser that holds a version gets the next one as a patch of it.

    GET …/versions/1/artifact            →  200, Use-As-Dictionary: match="…/versions/*/artifact"
    GET …/versions/2/artifact            →  200, Content-Encoding: dcz
    Available-Dictionary: :<SHA-256>:

A body in ``dcz`` is 40 bytes that name the dictionary, then Zstandard made with it as a raw prefix (section 5). A blob
of the encoding ``zstd-prefix`` is just that, so the 40 bytes are put before it and nothing is compressed here. The hash
of the dictionary is the patch's base in the manifest.

Section 9.3.3 has servers think twice about requests across origins, since the length of an answer can betray what is in
it. Here nothing depends on who asks: content, dictionaries and lengths are those that the manifest tells everybody.
"""

from __future__ import annotations

import asyncio
import binascii
import io
import re
from collections.abc import Sequence
from contextlib import ExitStack
from urllib.parse import quote

from artifacts.errors import EncodingInvalid
from artifacts.frames import MAX_HEADER_BYTES, read_header
from artifacts.patch.zstd_prefix import ZSTD_PREFIX
from edge.blob_cache import BlobCache
from edge.blob_directory import OpenBlob
from edge.conditional import Headers, names_tag
from edge.errors import EdgeError
from edge.memory import BoundedMemory
from manifests.model import Encoding, Release

DCZ = "dcz"
# The coding depends on both, and caches must know (section 6.2).
VARY = "accept-encoding, available-dictionary"

# Section 5: a skippable frame of 32 bytes, which hold the dictionary's hash.
_MAGIC = bytes.fromhex("5e2a4d1820000000")

# Section 5: what every client that accepts `dcz` can decode. The window must be below 8 MB or, when that is more, below
# 1.25 times the dictionary's length, and never reach 128 MB. MB as in RFC 8878, where windows come from.
WINDOW_OF_ALL = 8 * 1024 * 1024
LARGEST_WINDOW = 128 * 1024 * 1024

# Whoever waits for a patch may then wait for the whole artifact (`SKAFOS_BLOB_WAIT_SECONDS`, 50), and proxies give up
# after 65.
PATCH_SECONDS = 10.0
# Lengths of dictionaries that are remembered, some 500 KB: they are asked for with every large patch.
MAX_LENGTHS = 4096

_ELEMENT = re.compile(r"[ \t]*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)[ \t]*(?:;[ \t]*[qQ]=([01](?:\.[0-9]{0,3})?)[ \t]*)?")
# A structured field of one byte sequence (RFC 9651 section 3.3.5), as long as a SHA-256 is.
_HASH = re.compile(r"[ \t]*:([A-Za-z0-9+/]{43}=):[ \t]*")


def accepts_dcz(values: Sequence[str]) -> bool:
    """Say whether ``Accept-Encoding`` names ``dcz`` with another weight than 0 (RFC 9110 section 12.5.3).

    ``*`` does not stand for it: only who has a dictionary can decode it, and who has one names it (section 6.1).
    """
    for element in ",".join(values).split(","):
        found = _ELEMENT.fullmatch(element)
        if found and found[1].lower() == DCZ:
            return float(found[2] or "1") > 0
    return False


def available_dictionary(values: Sequence[str]) -> str | None:
    """Return the hash that ``Available-Dictionary`` tells, in hex; None when it is not exactly one SHA-256."""
    found = _HASH.fullmatch(values[0]) if len(values) == 1 else None
    return binascii.a2b_base64(found[1]).hex() if found else None


def wanted_patch(headers: Headers, release: Release) -> Encoding | None:
    """Return the patch that a request for a version may be answered with; None when it is to get the artifact itself.

    A client that has the artifact, or asks for a part of it, means the artifact: only with ``If-Range`` and the tag of
    the very answer in ``dcz`` does a range mean a part of that.
    """
    dictionary = available_dictionary(headers.getall("Available-Dictionary", ()))
    if dictionary is None or not accepts_dcz(headers.getall("Accept-Encoding", ())):
        return None
    held = f'"{release.artifact}"'
    if names_tag(headers.getall("If-None-Match", ()), held, weakly=True) or names_tag(
        headers.getall("If-Match", ()), held, weakly=False
    ):
        return None
    patches = (each for each in release.encodings if each.name == ZSTD_PREFIX and each.base == dictionary)
    patch = min(patches, key=lambda each: each.length, default=None)
    if patch is None or (headers.get("Range") is not None and headers.get("If-Range") != dcz_etag(patch)):
        return None
    return patch


def dcz_etag(patch: Encoding) -> str:
    """Return the entity tag of an artifact in ``dcz``: it names both parts of the body, frame and dictionary."""
    return f'"dcz-{patch.blob}-{patch.base}"'


def prologue(patch: Encoding) -> bytes:
    """Return the 40 bytes that stand before the frame."""
    return _MAGIC + bytes.fromhex(patch.base or "")


def use_as_dictionary(key: str, release: Release) -> str:
    """Return the field that has a client keep a version as a dictionary for the model's other versions (section 2.1).

    The pattern holds only what is literal in a URL pattern, and one wildcard.
    """
    return f'match="/v2/environments/{quote(key, safe="")}/models/{quote(release.model, safe="")}/versions/*/artifact"'


def is_decodable(window: int, dictionary: int) -> bool:
    """Say whether every client that accepts ``dcz`` can decode a frame (section 5).

    Args:
        window: that the frame asks for, in bytes.
        dictionary: its length, in bytes.
    """
    if window < WINDOW_OF_ALL:
        return True
    # Chromium's first releases allowed the dictionary's length, rounded up to a power of two, and failed beyond it.
    rounded_up = 1 << (dictionary - 1).bit_length()
    return window < LARGEST_WINDOW and 4 * window < 5 * dictionary and window <= rounded_up


class Patches:
    """The patches that can be sent as ``dcz``.

    Args:
        blobs: where they are.
    """

    def __init__(self, blobs: BlobCache) -> None:
        self._blobs = blobs
        self._lengths: BoundedMemory[int] = BoundedMemory(MAX_LENGTHS, 64)

    async def open(self, release: Release, patch: Encoding) -> OpenBlob | None:
        """Return a patch open for reading; None when it cannot be had now, or not every client could decode it."""
        try:
            async with asyncio.timeout(PATCH_SECONDS):
                with ExitStack() as stack:
                    blob = stack.enter_context(await self._blobs.open(patch.blob))
                    if not await self._is_decodable(blob, release, patch.base or ""):
                        return None
                    stack.pop_all()
                    return blob
        except (EdgeError, EncodingInvalid, TimeoutError):
            return None

    async def _is_decodable(self, blob: OpenBlob, release: Release, base: str) -> bool:
        count = min(MAX_HEADER_BYTES, blob.length)
        await blob.ready(count - 1, blob.length)
        header = read_header(io.BytesIO(await asyncio.to_thread(blob.read, 0, count)))
        if header.content != release.length:
            return False
        return header.window < WINDOW_OF_ALL or is_decodable(header.window, await self._length(base))

    async def _length(self, base: str) -> int:
        length = self._lengths.get(base.encode())
        if length is None:
            length = await self._blobs.length(base)
            self._lengths.add(base.encode(), length)
        return length
