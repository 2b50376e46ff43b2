"""A client of Compression Dictionary Transport, written from RFC 9842 alone; nothing of Skafos is in it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urljoin, urlsplit

import zstandard

MIB = 1024 * 1024


class Response(Protocol):
    """A whole answer, with its body as it came."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def body(self) -> bytes: ...


@dataclass(frozen=True)
class Dictionary:
    """A response that is kept: its content, and which URLs it is for."""

    url: str
    match: str
    content: bytes

    @property
    def hash(self) -> bytes:
        return hashlib.sha256(self.content).digest()

    def is_for(self, url: str) -> bool:
        """Section 2.2.2, for patterns of literals and wildcards: the origin is the same, and the path matches."""
        pattern, asked = urlsplit(urljoin(self.url, self.match)), urlsplit(url)
        path = ".*".join(map(re.escape, pattern.path.split("*")))
        same_origin = (pattern.scheme, pattern.netloc) == (asked.scheme, asked.netloc)
        return same_origin and re.fullmatch(path, asked.path) is not None


@dataclass(frozen=True)
class Got:
    """A response: its content, its coding, and the bytes that it took."""

    response: Response
    content: bytes
    coding: str
    sent_bytes: int


@dataclass
class Client:
    """Fetches URLs, and keeps and uses dictionaries.

    Args:
        fetch: asks with a GET; leaves the body as it is.
    """

    fetch: Callable[[str, Mapping[str, str]], Awaitable[Response]]
    dictionaries: list[Dictionary] = field(default_factory=list)  # the one fetched last comes last

    async def get(self, url: str) -> Got:
        dictionary = self._best(url)
        headers = {"Accept-Encoding": "gzip, br, zstd"}
        if dictionary is not None:  # section 6.1: only then are the dictionary's codings accepted
            available = f":{base64.b64encode(dictionary.hash).decode()}:"
            headers = {"Accept-Encoding": "gzip, br, zstd, dcb, dcz", "Available-Dictionary": available}
        response = await self.fetch(url, headers)
        coding = response.headers.get("Content-Encoding", "identity")
        content = response.body
        if coding == "dcz":
            assert dictionary is not None
            varies = {name.strip().lower() for name in response.headers["Vary"].split(",")}
            assert {"accept-encoding", "available-dictionary"} <= varies
            content = decode_dcz(response.body, dictionary)
        else:
            assert coding == "identity"
        self._keep(url, response, content)
        return Got(response, content, coding, len(response.body))

    def _best(self, url: str) -> Dictionary | None:
        """Section 2.2.3: the longest pattern, then the one fetched last."""
        fitting = [each for each in self.dictionaries if each.is_for(url)]
        return max(reversed(fitting), key=lambda each: len(each.match), default=None)

    def _keep(self, url: str, response: Response, content: bytes) -> None:
        """Sections 2.1 and 2.2.1: what is fresh and says that it is a dictionary."""
        told = re.search(r'(?:^|[ ,])match="([^"\\]*)"', response.headers.get("Use-As-Dictionary", ""))
        age = re.search(r"max-age=(\d+)", response.headers.get("Cache-Control", ""))
        if response.status == 200 and told and age and int(age[1]) > 0:
            assert not re.search(r"[(){}:\\]", told[1]), "no groups, and nothing else that a URL pattern interprets"
            self.dictionaries.append(Dictionary(url, told[1], content))


def decode_dcz(body: bytes, dictionary: Dictionary) -> bytes:
    """Section 5: 40 bytes, of which the last 32 are the dictionary's hash, then Zstandard with a bounded window."""
    assert body[:8] == b"\x5e\x2a\x4d\x18\x20\x00\x00\x00"
    assert body[8:40] == dictionary.hash
    frame = zstandard.get_frame_parameters(body[40:])
    assert frame.window_size < max(8 * MIB, min(128 * MIB, len(dictionary.content) * 5 / 4))
    assert frame.dict_id == 0
    raw = zstandard.ZstdCompressionDict(dictionary.content, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    decompressor = zstandard.ZstdDecompressor(dict_data=raw, max_window_size=128 * MIB).decompressobj()
    content = decompressor.decompress(body[40:])
    assert decompressor.eof
    assert not decompressor.unused_data
    return content
