"""Every error as the same JSON: a sentence for a person, a word for a program.

aiohttp's own errors (no such route, a method that is not allowed, a body that is too large) are put in the same form.
What we did not foresee is logged with the request's id, which the answer carries, and tells nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import ValidationError
from sqlalchemy.exc import IntegrityError

from control_plane.api.request_id import request_id_of
from control_plane.errors import HTTP_STATUS, ControlPlaneError, Invalid, TooMany, Unavailable

# When to come back after a part of us did not answer: most outages that a restart ends are over by then.
RETRY_AFTER_SECONDS = 5
# Of a field's name that we do not know, as much as helps to find it.
_SHOWN_NAME = 60

_WORDS = {
    400: ("bad_request", "The request cannot be understood."),
    404: ("not_found", "There is nothing at this address."),
    405: ("method_not_allowed", "The address does not take this method."),
    408: ("timeout", "The request's body took too long."),
    413: ("too_large", "The request's body is over the limit."),
    416: ("range_not_satisfiable", "The range begins behind the end of the file."),
    417: ("expectation_failed", "The Expect header asks for something unknown."),
}

_log = structlog.get_logger(__name__)


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever a handler raises into an answer."""
    try:
        return await handler(request)
    except ControlPlaneError as error:
        return _answer_ours(error)
    except web.HTTPException as error:
        return _answer_aiohttps(error)
    except IntegrityError:
        _log.warning("changed_meanwhile", request_id=request_id_of(request))
        return error_response(409, "What this is about was changed or deleted meanwhile; look again.", "conflict")
    except ConnectionResetError:
        raise  # the client has gone: there is nobody to answer
    except Exception:
        _log.exception("request_failed", request_id=request_id_of(request), method=request.method)
        return error_response(500, "Something went wrong on our side; it was logged.", "internal")


def error_response(status: int, sentence: str, code: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return the answer that tells of an error."""
    body = orjson.dumps({"error": sentence, "code": code})
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


def invalid(error: ValidationError, what: str) -> Invalid:
    """Return the first thing that is wrong with a request, named by its field.

    Args:
        error: what pydantic found.
        what: "body" or "query", for a mistake that has no field.
    """
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = str(first["loc"][0])[:_SHOWN_NAME] if first["loc"] else ""  # no body nests what we look into
    if first["type"] == "extra_forbidden":
        return Invalid(f"{field!a}: this field is not known here.", "unknown_field", field)
    if first["type"] == "json_invalid":
        return Invalid("The body is not valid JSON in UTF-8.", "invalid_json")
    message = first["msg"].removeprefix("Value error, ")
    return Invalid(f"{field or what}: {message}.", field=field or None)


def status_of(error: ControlPlaneError) -> int:
    """Return the HTTP status that tells of an error."""
    return next(HTTP_STATUS[kind] for kind in type(error).__mro__ if kind in HTTP_STATUS)


def _answer_ours(error: ControlPlaneError) -> web.Response:
    headers = {}
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if isinstance(error, TooMany):
        headers["Retry-After"] = str(error.retry_after)
    status = status_of(error)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return error_response(status, error.sentence, error.code, headers)


def _answer_aiohttps(error: web.HTTPException) -> web.StreamResponse:
    if error.status < 400:
        return error
    code, sentence = _WORDS.get(error.status, ("error", error.reason))
    kept = {name: value for name in ("Allow", "Content-Range") if (value := error.headers.get(name))}
    return error_response(error.status, sentence, code, kept)
