"""The format of a spool segment: a file of checksummed records, one record per accepted batch.

::

    segment = magic "SKSPOOL" · format version (1 byte) · segment id (16 bytes) · record*
    record  = payload length (4 bytes) · CRC-32 of the payload (4 bytes) · payload
    payload = length of the head (4 bytes) · head (JSON: who sent it, and when) · events (JSON array, as accepted)

Numbers are little-endian. A segment is only ever appended to, so what a crash can leave behind is a torn last record:
reading stops there, and what stood before it is whole. This file holds the format alone; it opens no file.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import msgspec

MAGIC: Final = b"SKSPOOL"
FORMAT_VERSION: Final = 1
HEADER: Final = struct.Struct("<7sB16s")
FRAME: Final = struct.Struct("<II")
HEAD_LENGTH: Final = struct.Struct("<I")

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
    """Why reading stopped before the end. ``torn``: the record was never finished, as a crash leaves it."""

    reason: str
    torn: bool


@dataclass(frozen=True, slots=True)
class SegmentContent:
    """What could be read from a segment.

    Attributes:
        segment_id: 16 bytes, unique to the segment.
        records: the whole records, in order.
        length: the offset up to which the segment is whole.
        damage: what is wrong behind ``length``, or None when nothing is.
    """

    segment_id: bytes
    records: tuple[Record, ...]
    length: int
    damage: Damage | None


_HEADS = msgspec.json.Decoder(_Head)


def encode_header(segment_id: bytes) -> bytes:
    """Return the first bytes of a segment. ``segment_id``: 16 random bytes."""
    return HEADER.pack(MAGIC, FORMAT_VERSION, segment_id)


def encode_record(record: Record) -> bytes:
    """Return the bytes of one record, frame and all."""
    return encode_lead(record.labels, record.received_ms, record.events) + record.events


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
    """Read a segment up to its end or to the first record that is not whole.

    Raises:
        UnreadableSegment: the header is missing, foreign, or of a format this version does not know.
    """
    segment_id = _decode_header(data)
    records: list[Record] = []
    offset = HEADER.size
    while offset < len(data):
        payload = _payload_at(data, offset)
        if isinstance(payload, Damage):
            return SegmentContent(segment_id, tuple(records), offset, payload)
        try:
            records.append(_decode_payload(payload))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            damage = Damage(f"the record at byte {offset} cannot be read: {error}", torn=False)
            return SegmentContent(segment_id, tuple(records), offset, damage)
        offset += FRAME.size + len(payload)
    return SegmentContent(segment_id, tuple(records), offset, None)


def _decode_header(data: bytes) -> bytes:
    if len(data) < HEADER.size:
        raise UnreadableSegment("the file is shorter than a segment's header")
    magic, version, segment_id = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise UnreadableSegment("the file is not a spool segment")
    if version != FORMAT_VERSION:
        raise UnreadableSegment(f"the segment has format {version}, this version reads format {FORMAT_VERSION}")
    return bytes(segment_id)


def _payload_at(data: bytes, offset: int) -> bytes | Damage:
    """Return the payload of the record at ``offset``, or what is wrong with it."""
    start = offset + FRAME.size
    if start > len(data):
        return Damage(f"the record at byte {offset} has no end", torn=True)
    length, checksum = FRAME.unpack_from(data, offset)
    if length < HEAD_LENGTH.size:
        # A file that grew before its bytes were written reads as zeros after a power cut.
        return Damage(f"the record at byte {offset} is empty", torn=True)
    if length > MAX_PAYLOAD_BYTES:
        return Damage(f"the record at byte {offset} claims {length} bytes", torn=False)
    if start + length > len(data):
        return Damage(f"the record at byte {offset} has no end", torn=True)
    payload = data[start : start + length]
    if zlib.crc32(payload) != checksum:
        return Damage(f"the checksum of the record at byte {offset} does not match", torn=False)
    return payload


def _decode_payload(payload: bytes) -> Record:
    (length,) = HEAD_LENGTH.unpack_from(payload)
    start = HEAD_LENGTH.size
    head = _HEADS.decode(payload[start : start + length])
    return Record(head.labels, head.received_ms, payload[start + length :])
