"""The last manifest that was verified, with its entity tag, in one file: the two are never of different moments."""

from __future__ import annotations

from pathlib import Path

from artifacts.files import make_directory, whole_file
from manifests.trust import MAX_MANIFEST_BYTES
from skafos.device.edge import ManifestAnswer

# RFC 9110 sets no bound; the edge's have 34 characters.
MAX_ETAG_LENGTH = 256


class ManifestFile:
    """A manifest on the disk: the entity tag, a line break, the body.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> ManifestAnswer | None:
        """Return what is kept, or None when there is nothing that could be used."""
        try:
            with self._path.open("rb") as file:
                content = file.read(MAX_MANIFEST_BYTES + MAX_ETAG_LENGTH + 1)
            etag, separator, body = content.partition(b"\n")
            return ManifestAnswer(etag.decode("ascii"), body) if etag and separator else None
        except (OSError, ValueError):
            return None

    def write(self, answer: ManifestAnswer) -> None:
        """Keep a manifest that was verified; one without a usable entity tag is not kept."""
        if not (answer.etag.isascii() and answer.etag.isprintable() and 0 < len(answer.etag) <= MAX_ETAG_LENGTH):
            return
        make_directory(self._path.parent)
        with whole_file(self._path) as file:
            file.write(answer.etag.encode("ascii") + b"\n" + answer.body)
