"""The OpenAPI 3.1 document, made from the route table, so that it says what the server does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import orjson
from aiohttp import web
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

from control_plane.api.call import Call
from control_plane.api.paging import Paging
from control_plane.api.route import Access, Route
from control_plane.api.schemas import ErrorOut

_REF = "#/components/schemas/{model}"
_DESCRIPTION = (
    "Delivers machine-learning models to mobile apps over the air. Names in paths may also be ids. Every error has the "
    "body `{error, code}`. Lists are JSON arrays, a page at a time; the next page's address is in the `Link` header."
)
_ERRORS = {
    "400": "The request can never succeed as it is.",
    "401": "No valid API token.",
    "403": "The caller's role is too low.",
    "404": "There is no such thing among what the caller may see.",
    "408": "The body did not come in time.",
    "409": "The present state of things forbids it.",
    "413": "The body is over the limit.",
    "503": "A part of the service does not answer; see Retry-After.",
}
# Of an answer, by its status.
_HEADERS = {
    "206": {"Content-Range": "Which bytes of how many."},
    "308": {"Range": "The bytes that are there; left out when there is none.", "Upload-Offset": "How many are there."},
    "401": {"WWW-Authenticate": "How to show a token."},
    "416": {"Content-Range": "How long the file is."},
    "503": {"Retry-After": "When to come back, in seconds."},
}
_PARAMETERS = {
    "org": "An organization's name or id.",
    "app": "An application's name or id.",
    "env": "An environment's name or id.",
    "model": "A model's name or id.",
    "version": "A version's number or id.",
    "member": "A user's id or e-mail address.",
    "token": "A token's id.",
    "identity": "A provider's id, as the list has it.",
    "session": "A browser's id.",
    "invitation": "An invitation's id.",
    "erasure": "An erasure's id.",
    "key": "A key's id.",
    "id": "An upload's id.",
    "service": "The push service: apns or fcm.",
    "push": "The push's id.",
}


async def show_document(_call: Call) -> web.Response:
    """Answer with the document."""
    return web.Response(body=_document_bytes(), content_type="application/json")


@cache
def _document_bytes() -> bytes:
    from control_plane.api.table import ROUTES  # the table names this module's handler

    return orjson.dumps(document(ROUTES))


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """Return the OpenAPI document of a route table."""
    references, definitions = _schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, references)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Skafos management API", "version": _release(), "description": _DESCRIPTION},
        "paths": paths,
        "components": {
            "schemas": definitions,
            "securitySchemes": {
                "token": {"type": "apiKey", "in": "header", "name": "X-API-TOKEN"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
        "security": [{"token": []}, {"bearer": []}],
    }


def _release() -> str:
    try:
        return version("skafos")
    except PackageNotFoundError:  # run from a checkout
        return "development"


def _schemas(routes: Sequence[Route]) -> tuple[dict[tuple[Any, str], Any], dict[Any, Any]]:
    """Return a reference for every type that a route takes or gives, and the definitions that they refer to."""
    wanted: dict[tuple[Any, str], JsonSchemaMode] = {(ErrorOut, "out"): "serialization"}
    for route in routes:
        if route.body is not None:
            wanted[route.body, "in"] = "validation"
        if route.answer is not None:
            wanted[route.answer, "out"] = "serialization"
    inputs = [((kind, way), mode, TypeAdapter(kind).core_schema) for (kind, way), mode in wanted.items()]
    references, definitions = GenerateJsonSchema(ref_template=_REF).generate_definitions(inputs)
    return {key: schema for (key, _mode), schema in references.items()}, dict(definitions)


def _operation(route: Route, references: dict[tuple[Any, str], Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": f"{route.handler.__name__}" if route.method != "HEAD" else f"{route.handler.__name__}_head",
        "summary": route.summary,
        "description": (route.handler.__doc__ or "").strip(),
        "tags": [route.tag],
        "x-minimum-role": route.access.value,
        "parameters": [*_path_parameters(route), *_query_parameters(route.query), *_header_parameters(route)],
        "responses": {str(route.status): _success(route, references), **_others(route, references)},
    }
    if route.access is Access.PUBLIC:
        operation["security"] = []
    if route.body is not None:
        content = {"application/json": {"schema": references[route.body, "in"]}}
        operation["requestBody"] = {"required": True, "content": content}
    if route.method == "PUT" and route.media_type:
        operation["requestBody"] = {"required": True, "content": {route.media_type: {}}}
    return operation


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "description": _PARAMETERS[name], "schema": {"type": "string"}}
        for name in route.parameters
    ]


def _query_parameters(model: type[BaseModel] | None) -> list[dict[str, Any]]:
    if model is None:
        return []
    schema = model.model_json_schema()
    required = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _without_title(shape)}
        for name, shape in schema["properties"].items()
    ]


def _header_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "header", "required": False, "description": meaning, "schema": {"type": "string"}}
        for name, meaning in route.headers.items()
    ]


def _without_title(schema: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key != "title"}


def _success(route: Route, references: dict[tuple[Any, str], Any]) -> dict[str, Any]:
    response: dict[str, Any] = {"description": route.summary}
    if route.answer is not None:
        response["content"] = {"application/json": {"schema": references[route.answer, "out"]}}
    elif route.media_type is not None and route.method == "GET":
        response["content"] = {route.media_type: {}}
    if route.query is not None and issubclass(route.query, Paging):
        response["headers"] = {"Link": {"description": "The next page.", "schema": {"type": "string"}}}
    return response


def _others(route: Route, references: dict[tuple[Any, str], Any]) -> dict[str, Any]:
    """Return the answers of a route beside the one that it is called for."""
    return {status: _other(route, status, meaning, references) for status, meaning in sorted(_meanings(route).items())}


def _meanings(route: Route) -> dict[str, str]:
    """Return the statuses that a route may answer with, beside its own, and what they mean."""
    possible = ["400", "503"]
    if route.access is not Access.PUBLIC:
        possible.append("401")
    if route.access is Access.PERSON:
        possible.append("403")
    if route.access.role is not None:
        possible += ["403", "404"]
        possible += ["409"] if route.method not in ("GET", "HEAD") else []
    if route.body is not None:
        possible += ["408", "413"]
    return {status: _ERRORS[status] for status in possible} | {str(key): text for key, text in route.also.items()}


def _other(route: Route, status: str, meaning: str, references: dict[tuple[Any, str], Any]) -> dict[str, Any]:
    response: dict[str, Any] = {"description": meaning}
    if status in _HEADERS:
        response["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in _HEADERS[status].items()
        }
    if status.startswith("4") or status.startswith("5"):
        response["content"] = {"application/json": {"schema": references[ErrorOut, "out"]}}
    elif status == "206":
        response["content"] = {str(route.media_type): {}}
    return response
