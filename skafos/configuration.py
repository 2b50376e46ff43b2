"""Where the SDK and the command find the server, the token and the names: arguments first, then the environment."""

from __future__ import annotations

import os

from skafos.exceptions import InvalidParamError, InvalidTokenError

URL_VARIABLE = "SKAFOS_URL"
TOKEN_VARIABLE = "SKAFOS_API_TOKEN"  # noqa: S105 - the name of a variable
ORGANIZATION_VARIABLE = "SKAFOS_ORG_NAME"
APP_VARIABLE = "SKAFOS_APP_NAME"
MODEL_VARIABLE = "SKAFOS_MODEL_NAME"

# Where `skafos up` listens by default.
DEFAULT_URL = "http://127.0.0.1:8800"


def resolve_url(url: str | None = None) -> str:
    """Return the control plane's address, without a slash at its end: the argument, ``SKAFOS_URL`` or the default.

    Raises:
        InvalidParamError: it is no http or https address.
    """
    found = (url or os.environ.get(URL_VARIABLE) or DEFAULT_URL).rstrip("/")
    if not found.startswith(("http://", "https://")):
        raise InvalidParamError(f"The address of Skafos must start with http:// or https://, not {found!r}.")
    return found


def resolve_token(token: str | None = None) -> str:
    """Return the API token: the argument or ``SKAFOS_API_TOKEN``.

    Raises:
        InvalidTokenError: there is none, or it cannot be sent in a header.
    """
    found = token or os.environ.get(TOKEN_VARIABLE)
    if not found:
        raise InvalidTokenError("Missing Skafos API Token")
    if not found.isascii() or not found.isprintable():
        raise InvalidTokenError("Invalid Skafos API Token")
    return found


def resolve_name(kind: str, variable: str, name: str | None = None) -> str:
    """Return a name: the argument or the environment variable ``variable``.

    Args:
        kind: what is named, for the message: "Organization", "App", "Model".

    Raises:
        InvalidParamError: there is none.
    """
    found = name or os.environ.get(variable)
    if not found:
        raise InvalidParamError(f"Missing Skafos {kind} Name")
    return found
