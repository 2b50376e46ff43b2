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
# TCP has 16 bits for it (RFC 9293, section 3.1).
MAX_PORT = 0xFFFF


def resolve_url(url: str | None = None) -> str:
    """Return the control plane's address, without a slash at its end: the argument, ``SKAFOS_URL`` or the default.

    Raises:
        InvalidParamError: it is no http or https address.
    """
    return check_address(url or os.environ.get(URL_VARIABLE) or DEFAULT_URL, f"The address of Skafos ({URL_VARIABLE})")


def check_address(address: str, what: str) -> str:
    """Return a server's address, to which paths are appended, without a slash at its end.

    It is looked at before anything is sent, because a wrong one fails deep in the HTTP client, in many ways. The
    address itself is not shown: it may hold a password.

    Args:
        address: such as ``https://skafos.example.org``.
        what: whose address it is, as the sentence of the error begins.

    Raises:
        InvalidParamError: it has another scheme than http and https, or no host, or a query, or cannot be an address.
    """
    import httpx

    if not address.startswith(("http://", "https://")):
        raise InvalidParamError(f"{what} must start with http:// or https://.")
    try:
        parsed = httpx.URL(address)
        # What the name system is asked for: parts of 1 to 63 characters (RFC 1035, section 2.3.4).
        parsed.raw_host.decode("ascii").encode("idna")
    except (httpx.InvalidURL, UnicodeError) as error:
        raise InvalidParamError(f"{what} is no address: {str(error).rstrip('.')}.") from None
    if not parsed.host or not 0 <= (parsed.port or 0) <= MAX_PORT:
        raise InvalidParamError(f"{what} is no address: it needs a host, and a port of at most {MAX_PORT} if any.")
    if parsed.query or parsed.fragment:
        raise InvalidParamError(f"{what} is no address: it has a query (?) or a fragment (#).")
    return address.rstrip("/")


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
