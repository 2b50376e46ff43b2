"""A request's id: made here, told to the caller, and on every line that is logged about the request."""

from __future__ import annotations

import secrets

from aiohttp import web

HEADER = "X-Request-Id"
_KEY: web.RequestKey[str] = web.RequestKey("request_id", str)


def give_request_id(request: web.Request) -> str:
    """Give a request its id. One that the caller sends is not taken: it would let callers write into our logs."""
    request[_KEY] = secrets.token_hex(8)
    return request[_KEY]


def request_id_of(request: web.Request) -> str:
    """Return a request's id."""
    return request[_KEY]
