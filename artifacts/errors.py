"""What can go wrong with bytes, split by what the caller does next.

Missing, invalid and unavailable are different errors, and each carries the name of what it is about.
"""

from __future__ import annotations


class ArtifactError(Exception):
    """Base of every error that this package raises on purpose."""


class InvalidUpload(ArtifactError):
    """An upload that we refuse: it can never succeed as it is.

    Args:
        sentence: what is wrong with it, for the person who uploaded; never longer than a few lines.
        code: a stable snake_case word for programs, for example ``unsafe_name``.
    """

    def __init__(self, sentence: str, code: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.code = code


class InvalidArchive(ArtifactError):
    """Bytes that are not an archive in canonical form, or a directory that has none."""


class BlobMissing(ArtifactError):
    """The store answered, and has no such object.

    Args:
        name: the hash or the upload's id that was asked for.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"the object store holds nothing named {name}")
        self.name = name


class BlobCorrupt(ArtifactError):
    """The bytes under a hash are not the bytes of that hash.

    Args:
        sha256: the hash that was asked for.
    """

    def __init__(self, sha256: str) -> None:
        super().__init__(f"the bytes of blob {sha256} do not have that hash")
        self.sha256 = sha256


class StoreUnavailable(ArtifactError):
    """The object store does not answer, or refuses us: trying again later may work."""


class EncodingInvalid(ArtifactError):
    """A blob does not decode to the artifact it was said to hold."""


class PatchInvalid(EncodingInvalid):
    """A patch is damaged, hostile, or made for another pair of files."""


class BaseMismatch(EncodingInvalid):
    """The file at hand is not the one that the patch was made from."""


class PatchTooCostly(ArtifactError):
    """Making or applying the patch would take more than allowed.

    Args:
        needed: the estimate, in bytes.
        allowed: the limit that it is over, in bytes.
        what: they are bytes of: memory, or the disk.
    """

    def __init__(self, needed: int, allowed: int, what: str = "memory") -> None:
        super().__init__(f"the patch needs about {needed} bytes of {what}, {allowed} are allowed")
        self.needed = needed
        self.allowed = allowed
        self.what = what

    def __reduce__(self) -> tuple[type[PatchTooCostly], tuple[int, int, str]]:
        # Raised in worker processes: unpickling calls the class with what is given here.
        return PatchTooCostly, (self.needed, self.allowed, self.what)
