"""What is sent for a resource: bytes and the fields that tell of them (RFC 9110 section 3.2).

The bytes are a blob's, with a few of ours before them where the content coding asks for it. Ranges are of all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edge.blob_directory import OpenBlob
from edge.conditional import Validators
from edge.ranges import ByteRange


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes that follow each other in a representation: those that stand ``before`` the blob, then some of the blob.

    Args:
        before: may be empty.
        blob: open for reading.
        first: place in the blob of the first byte.
        end: one behind the place of the last.
    """

    before: bytes
    blob: OpenBlob
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Representation:
    """One representation of a resource.

    Args:
        validators: what tells it from others.
        fields: of every answer.
        content_fields: of answers with content.
        whole_fields: of answers with the whole content.
        prologue: bytes before those of the blob.
    """

    validators: Validators
    fields: Mapping[str, str]
    content_fields: Mapping[str, str] = field(default_factory=dict)
    whole_fields: Mapping[str, str] = field(default_factory=dict)
    prologue: bytes = b""

    def head(self, status: int) -> dict[str, str]:
        """Return the fields of a 200, 206 or 304, but for those that tell of its type, length, ranges and time."""
        fields = {"ETag": self.validators.etag, **self.fields}
        if status in (200, 206):
            fields |= self.content_fields
        return {**fields, **self.whole_fields} if status == 200 else fields

    def length(self, blob: int) -> int:
        """Return the length in bytes with a blob of that length."""
        return len(self.prologue) + blob

    def stretch(self, blob: OpenBlob, content: ByteRange) -> Stretch:
        """Return the bytes of a range."""
        ahead = len(self.prologue)
        before = self.prologue[content.first : content.last + 1]
        return Stretch(before, blob, max(0, content.first - ahead), max(0, content.last + 1 - ahead))
