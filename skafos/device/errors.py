"""What can go wrong on a device, split by what it does next.

`EdgeUnavailable`: try again later, the held version serves. `ManifestRejected`, `ArtifactRejected`: what came cannot be
trusted; it was thrown away. `UnknownKey`: the app's configuration is wrong. `DirectoryBusy`: another process updates.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from skafos.exceptions import SkafosError


class DeviceError(SkafosError):
    """Base of what the device client raises on purpose. `code` is one stable word for programs and events."""

    code = "failed"


class EdgeUnavailable(DeviceError):
    """The edge does not answer, or not now.

    Args:
        sentence: what happened.
        retry_after: seconds that the edge asked to wait, if it did.
    """

    code = "unavailable"

    def __init__(self, sentence: str, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after


class UnknownKey(DeviceError):
    """The edge knows no such environment key: it is mistyped, or was revoked."""

    code = "unknown_key"


class ManifestRejected(DeviceError):
    """What came as the manifest is not to be trusted: not signed as it must be, older than what was seen, expired."""

    code = "manifest_rejected"


class ArtifactRejected(DeviceError):
    """No encoding of the chosen version gave the bytes that the manifest names."""

    code = "artifact_rejected"


class BlobUnusable(DeviceError):
    """One blob is missing or not what it must be; another encoding may do."""

    code = "blob_unusable"


class VersionDamaged(DeviceError):
    """The files of the version in use are not what was activated. It is reported, never raised: another one serves."""

    code = "version_damaged"


class NoSpace(DeviceError):
    """The disk has no room for the new version beside the one in use."""

    code = "no_space"


class DiskFailed(DeviceError):
    """The disk does not do what it must: read-only, no permission, failing."""

    code = "disk_failed"


class DirectoryBusy(DeviceError):
    """Another process or thread is updating in this directory."""

    code = "busy"


class NoModel(DeviceError):
    """No version of the model is on the device, nor bundled with the app."""

    code = "no_model"


def disk_error(error: OSError) -> DeviceError:
    """Return what a failure of the file system means to the caller."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"The disk is full{where}.")
    return DiskFailed(f"The disk fails: {error.strerror or error}{where}.")


@contextmanager
def disk_errors() -> Iterator[None]:
    """Raise a failure of the file system in the block as `NoSpace` or `DiskFailed`."""
    try:
        yield
    except OSError as error:
        raise disk_error(error) from error
