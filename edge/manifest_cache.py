"""What every environment offers now, in memory: rendered when it arrives, looked up by key without any I/O.

A revision never goes back, so the order in which notices, polls and the snapshot bring publications does not matter.
Who must act on a change (the snapshot on disk) asks to be told.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from edge import metrics
from edge.conditional import Validators, parse_entity_tags
from edge.errors import EdgeError, Missing, Unavailable
from manifests.store import Labels, Publication

# As TUF's own clients bound their metadata files, and the publisher its manifests; more is not a manifest.
MAX_DOCUMENT_BYTES = 2 * 1024 * 1024

Listener = Callable[[str], None]


class Unsound(ValueError):
    """A publication that must not be served; the message says why."""


@dataclass(frozen=True, slots=True)
class Document:
    """Bytes as they are sent, with what tells them from other states of the same resource."""

    body: bytes
    validators: Validators


@dataclass(frozen=True, slots=True)
class Environment:
    """An environment as it is served under one key.

    Args:
        publication: as the publisher wrote it.
        manifest: the one JSON body that devices check.
        files: the metadata in TUF's layout, by file name.
    """

    publication: Publication
    manifest: Document
    files: Mapping[str, Document]

    @property
    def revision(self) -> int:
        """Revision of the manifest."""
        return self.publication.revision

    @property
    def labels(self) -> Labels:
        """Whose environment it is."""
        return self.publication.labels


def render(publication: Publication, before: Environment | None) -> Environment:
    """Return the environment to serve for a publication.

    The files that the publication before had and this one has not are kept for one generation: a client of TUF's
    layout that has just read the old timestamp still finds the snapshot that it names.

    Raises:
        Unsound: the publication must not be served.
    """
    tags = parse_entity_tags(publication.etag)
    if tags is None or len(tags) != 1 or tags[0].weak:
        raise Unsound("the entity tag is not one strong tag")
    if publication.revision < 1:
        raise Unsound("the revision is not positive")
    if not 0 < len(publication.body) <= MAX_DOCUMENT_BYTES:
        raise Unsound("the manifest is empty or too large")
    fresh = {name: _document(name, body) for name, body in publication.files.items()}
    older = {} if before is None else {name: before.files[name] for name in before.publication.files}
    manifest = Document(publication.body, Validators(publication.etag))
    return Environment(publication, manifest, MappingProxyType(older | fresh))


def _document(name: str, body: bytes) -> Document:
    if len(body) > MAX_DOCUMENT_BYTES:
        raise Unsound(f"{name} is too large")
    return Document(body, Validators(f'"{hashlib.sha256(body).hexdigest()}"'))


def unknown_key() -> Missing:
    """Return the error of a request with a key that no environment has."""
    return Missing("No environment has this key.", "unknown_key")


class ManifestCache:
    """The environments of this worker, by key."""

    def __init__(self) -> None:
        self._environments: dict[str, Environment] = {}
        self._listeners: list[Listener] = []
        self._complete = False

    def __len__(self) -> int:
        return len(self._environments)

    @property
    def can_serve(self) -> bool:
        """Whether there is anything to answer with, from the store or, after a restart, from the snapshot."""
        return self._complete or bool(self._environments)

    def complete(self) -> None:
        """Tell that all there is has been taken over once, so that a key that is not here is not valid.

        Until then it may have been published since the snapshot was written, or not yet have been read.
        """
        self._complete = True

    def on_change(self, listener: Listener) -> None:
        """Have ``listener`` called with each key whose environment changed or went."""
        self._listeners.append(listener)

    def get(self, key: str) -> Environment | None:
        """Return the environment of ``key``, or None."""
        return self._environments.get(key)

    def require(self, key: str) -> Environment:
        """Return the environment of ``key``.

        Raises:
            Missing: no environment has this key, or no longer.
            Unavailable: this worker has just started and does not know yet.
        """
        environment = self._environments.get(key)
        if environment is None:
            raise self._unknown()
        return environment

    def is_nobodys(self, key: str) -> bool:
        """Tell whether it is certain that no environment has this key."""
        return self._complete and key not in self._environments

    def _unknown(self) -> EdgeError:
        if not self._complete:
            return Unavailable("This edge has just started and does not know all environments yet.", "starting")
        return unknown_key()

    def revision(self, key: str) -> int:
        """Return the revision that is served under ``key``; 0 when none is."""
        environment = self._environments.get(key)
        return environment.revision if environment else 0

    def take(self, publication: Publication) -> bool:
        """Serve a publication from now on, unless this revision or a newer one is served already.

        Returns:
            Whether anything changed.

        Raises:
            Unsound: the publication must not be served; what was served before is kept.
        """
        before = self._environments.get(publication.key)
        if before is not None and before.revision >= publication.revision:
            return False
        self._environments[publication.key] = render(publication, before)
        self._changed(publication.key)
        return True

    def withdraw(self, key: str) -> None:
        """Serve ``key`` no longer."""
        if self._environments.pop(key, None) is not None:
            self._changed(key)

    def _changed(self, key: str) -> None:
        metrics.ENVIRONMENTS.set(len(self._environments))
        for listener in self._listeners:
            listener(key)
