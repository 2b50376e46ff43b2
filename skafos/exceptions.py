"""What the SDK raises.

`InvalidParamError`, `InvalidTokenError`, `UploadFailedError`, `DownloadFailedError` and `DeployFailedError` have the
names and the meaning that the SDK has had since version 0.3; the others are kinds of the same base, so that
``except SkafosError`` catches everything that this package says on purpose.
"""

from __future__ import annotations


class SkafosError(Exception):
    """Base of all errors of the SDK, the device client and the command: one sentence for a person."""


class InvalidParamError(SkafosError):
    """An argument is missing or wrong, or names an organization, app or model that does not exist."""


class NotFoundError(InvalidParamError):
    """The control plane knows no such thing, or not one that this token may see."""


class InvalidTokenError(SkafosError):
    """The API token is missing, unknown, expired or revoked."""


class ForbiddenError(SkafosError):
    """The token's role in the organization does not allow this."""


class ConflictError(SkafosError):
    """The state of things forbids it now: a taken name, a version that is offered, an upload under way."""


class UnavailableError(SkafosError):
    """The server cannot be reached, or cannot answer now; the same call may work later."""


class InvalidAnswerError(SkafosError):
    """What answered does not speak the management API: is the address right?"""


class UploadFailedError(SkafosError):
    """A model version could not be uploaded."""


class DownloadFailedError(SkafosError):
    """A model version could not be downloaded, or what came is not what was uploaded."""


class DeployFailedError(SkafosError):
    """A model version could not be deployed."""
