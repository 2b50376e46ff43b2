"""The format of a spool segment: a file of checksummed records, one record per accepted batch, in groups.

::

    segment = magic "SKSPOOL" · format version (1 byte) · segment id (16 bytes) · CRC-32 of these · group* · anything
    group   = length of its records (4 bytes) · segment id (16 bytes) · record*
    record  = payload length (4 bytes) · CRC-32 of the payload (4 bytes) · payload
    payload = length of the head (4 bytes) · head (JSON: who sent it, and when) · events (JSON array, as accepted)

Numbers are little-endian. A group is what was committed together. It names its segment, since segments are written over
(`telemetry.spare_segments`): behind the last group there may be those of an older segment, and one of them is never
taken for this one's. What a crash leaves of a group that was not committed is torn: it is the last of its segment, and
nobody was told of it. This file holds the format alone; it opens no file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import msgspec

MAGIC: Final = b"SKSPOOL"
FORMAT_VERSION: Final = 2
HEADER: Final = struct.Struct("<7sB16sI")
GROUP: Final = struct.Struct("<I16s")
FRAME: Final = struct.Struct("<II")
HEAD_LENGTH: Final = struct.Struct("<I")
_CHECKSUM: Final = struct.Struct("<I")

MAX_PAYLOAD_BYTES: Final = 8 * 1024 * 1024
"""Larger than any accepted batch (``MAX_BATCH_BYTES``) with its head; a longer length is damage, not a record."""


class UnreadableSegment(Exception):
    """The file is no segment of a format this version reads."""


class EventLabels(msgspec.Struct, frozen=True):
    """What the server knows about the sender of a batch: ids for asking, names for reading."""

    organization_id: str
    organization: str
    application_id: str
    application: str
    environment: str


class _Head(msgspec.Struct, frozen=True):
    labels: EventLabels
    received_ms: int


@dataclass(frozen=True, slots=True)
class Record:
    """One accepted batch.

    Attributes:
        labels: the sender's organization, application and environment.
        received_ms: when the server took it, in milliseconds since 1970 (UTC).
        events: the events as one JSON array.
    """

    labels: EventLabels
    received_ms: int
    events: bytes


@dataclass(frozen=True, slots=True)
class Damage:
    """Why reading stopped before the end. ``torn``: no group follows, so it may be one that was never committed."""

    reason: str
    torn: bool


@dataclass(frozen=True, slots=True)
class SegmentContent:
    """What could be read from a segment.

    Attributes:
        segment_id: 16 bytes, unique to the segment.
        records: the whole records, in order; of a group that is damaged those before the damage.
        length: the offset up to which all groups are whole.
        damage: what is wrong behind ``length``, or None when the file ends there.
    """

    segment_id: bytes
    records: tuple[Record, ...]
    length: int
    damage: Damage | None


_HEADS = msgspec.json.Decoder(_Head)


def encode_header(segment_id: bytes) -> bytes:
    """Return the first bytes of a segment. ``segment_id``: 16 random bytes."""
    start = MAGIC + bytes([FORMAT_VERSION]) + segment_id
    return start + _CHECKSUM.pack(zlib.crc32(start))


def encode_group(segment_id: bytes, length: int) -> bytes:
    """Return what stands before the records that are committed together. ``length``: of all of them, in bytes."""
    return GROUP.pack(length, segment_id)


def encode_segment(segment_id: bytes, records: Iterable[Record]) -> bytes:
    """Return a whole segment whose records were committed together."""
    joined = b"".join(encode_lead(one.labels, one.received_ms, one.events) + one.events for one in records)
    return encode_header(segment_id) + encode_group(segment_id, len(joined)) + joined


def encode_lead(labels: EventLabels, received_ms: int, events: bytes) -> bytes:
    """Return the bytes of a record that stand before its events, so that these need not be copied to be written."""
    head = b"%b%d}" % (_head_start(labels), received_ms)
    start = HEAD_LENGTH.pack(len(head)) + head
    return FRAME.pack(len(start) + len(events), zlib.crc32(events, zlib.crc32(start))) + start


@lru_cache(maxsize=4096)
def _head_start(labels: EventLabels) -> bytes:
    """Return the head of an environment's records, as `_Head` in JSON, up to the time: it is the same for each."""
    return msgspec.json.encode(_Head(labels, 0)).removesuffix(b"0}")


def decode_segment(data: bytes) -> SegmentContent:
    """Read a segment up to its end, or to the first group or record that is not whole.

    Raises:
        UnreadableSegment: the header is missing, foreign, or of a format this version does not know.
    """
    segment_id = _decode_header(data)
    records: list[Record] = []
    offset = HEADER.size
    while offset < len(data):
        end = _read_group(data, offset, segment_id, records)
        if isinstance(end, str):
            torn = data.find(segment_id, offset + GROUP.size) < 0
            return SegmentContent(segment_id, tuple(records), offset, Damage(end, torn))
        offset = end
    return SegmentContent(segment_id, tuple(records), offset, None)


def _decode_header(data: bytes) -> bytes:
    if len(data) < HEADER.size:
        raise UnreadableSegment("the file is shorter than a segment's header")
    magic, version, segment_id, checksum = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise UnreadableSegment("the file is not a spool segment")
    if version != FORMAT_VERSION:
        raise UnreadableSegment(f"the segment has format {version}, this version reads format {FORMAT_VERSION}")
    if checksum != zlib.crc32(data[: HEADER.size - _CHECKSUM.size]):
        # Without it the groups of a segment whose id was damaged would be taken for another's.
        raise UnreadableSegment("the checksum of the segment's header does not match")
    return bytes(segment_id)


def _read_group(data: bytes, offset: int, segment_id: bytes, records: list[Record]) -> int | str:
    """Add the records of the group at ``offset``; return where it ends, or what is wrong with it."""
    if offset + GROUP.size > len(data):
        return f"the group at byte {offset} has no end"
    length, owner = GROUP.unpack_from(data, offset)
    if owner != segment_id:
        return f"at byte {offset} there is no group of this segment"
    place = offset + GROUP.size
    end = int(place + length)
    while place < end:
        payload = _payload_at(data, place, min(end, len(data)))
        if isinstance(payload, str):
            return payload
        try:
            records.append(_decode_payload(payload))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return f"the record at byte {place} cannot be read: {error}"
        place += FRAME.size + len(payload)
    return end


def _payload_at(data: bytes, offset: int, end: int) -> bytes | str:
    """Return the payload of the record at ``offset`` in a group that ends at ``end``, or what is wrong with it."""
    start = offset + FRAME.size
    if start > end:
        return f"the record at byte {offset} has no end"
    length, checksum = FRAME.unpack_from(data, offset)
    if length < HEAD_LENGTH.size:
        return f"the record at byte {offset} is empty"
    if length > MAX_PAYLOAD_BYTES:
        return f"the record at byte {offset} claims {length} bytes"
    if start + length > end:
        return f"the record at byte {offset} has no end"
    payload = data[start : start + length]
    if zlib.crc32(payload) != checksum:
        return f"the checksum of the record at byte {offset} does not match"
    return payload


def _decode_payload(payload: bytes) -> Record:
    (length,) = HEAD_LENGTH.unpack_from(payload)
    start = HEAD_LENGTH.size
    head = _HEADS.decode(payload[start : start + length])
    return Record(head.labels, head.received_ms, payload[start + length :])
