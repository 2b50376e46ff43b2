"""What can go wrong in the control plane, split by what the caller does next.

Every error carries a sentence for a person and a word for a program; ``HTTP_STATUS`` is the one table that turns
them into answers. A thing that belongs to another organization is `Missing`, never `Forbidden`: a 403 would tell
that it exists.
"""

from __future__ import annotations


class ControlPlaneError(Exception):
    """Base of all errors that an API caller may see.

    Args:
        sentence: what happened, for a person; never a secret.
        code: one lower-case word or snake_case phrase, stable, for programs.
    """

    default_code = "error"
    # What of the request is wrong, where one field is. Its name stands in front of the sentence.
    field: str | None = None

    def __init__(self, sentence: str, code: str | None = None) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.code = code or self.default_code

    @property
    def beside_field(self) -> str:
        """The sentence as it stands beside the field that it is about: without the field's name."""
        return self.sentence.removeprefix(f"{self.field}: ") if self.field else self.sentence


class Invalid(ControlPlaneError):
    """The request can never succeed as it is: correct it.

    Args:
        sentence: as above.
        code: as above.
        field: what of the request is wrong, where one field is.
    """

    default_code = "invalid"

    def __init__(self, sentence: str, code: str | None = None, field: str | None = None) -> None:
        super().__init__(sentence, code)
        self.field = field


class TooMany(ControlPlaneError):
    """Too often of late; it is possible again after some seconds.

    Args:
        sentence: as above.
        retry_after: seconds.
    """

    default_code = "too_many_tries"

    def __init__(self, sentence: str, retry_after: int) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after


class Unauthorized(ControlPlaneError):
    """No token, or one that is unknown, revoked or expired."""

    default_code = "invalid_token"


class Forbidden(ControlPlaneError):
    """The caller's role in its own organization does not allow this."""

    default_code = "forbidden"


class Missing(ControlPlaneError):
    """No such thing, or not one that the caller may know of."""

    default_code = "not_found"


class Conflict(ControlPlaneError):
    """The state of things forbids it now: a taken name, a release that is offered, an upload under way."""

    default_code = "conflict"


class TooLarge(ControlPlaneError):
    """Over a named limit; the sentence names the limit."""

    default_code = "too_large"


class Unavailable(ControlPlaneError):
    """Something behind us does not answer; trying again later may work."""

    default_code = "unavailable"


HTTP_STATUS: dict[type[ControlPlaneError], int] = {
    Invalid: 400,
    Unauthorized: 401,
    Forbidden: 403,
    Missing: 404,
    Conflict: 409,
    TooLarge: 413,
    TooMany: 429,
    Unavailable: 503,
}
