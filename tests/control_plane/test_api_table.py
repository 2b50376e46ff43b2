"""The route table and what is made of it: the OpenAPI document, its validity, and that handlers fit their lines."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any, get_type_hints

import pytest

from control_plane.api.openapi import document
from control_plane.api.route import Access, Route
from control_plane.api.schemas import Nothing
from control_plane.api.table import ROUTES

DOCUMENT = document(ROUTES)


def name(route: Route) -> str:
    return f"{route.method} {route.path}"


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_no_two_lines_are_the_same_route() -> None:
    assert len({name(route) for route in ROUTES}) == len(ROUTES)


@pytest.mark.parametrize("route", ROUTES, ids=name)
def test_a_handler_takes_exactly_what_its_line_names(route: Route) -> None:
    hints = get_type_hints(route.handler)
    parameters = list(inspect.signature(route.handler).parameters)[1:]
    takes_body = route.body is not None and route.body is not Nothing
    assert parameters == [*(["body"] if takes_body else []), *(["query"] if route.query is not None else [])]
    if takes_body:
        assert hints["body"] is route.body
    if route.query is not None:
        assert hints["query"] is route.query
    if route.answer is None and route.media_type is None:
        assert hints["return"] is type(None)
        assert route.status == 204


@pytest.mark.parametrize("route", ROUTES, ids=name)
def test_roles_are_asked_for_exactly_below_an_organization(route: Route) -> None:
    assert ("org" in route.parameters) == (route.access.role is not None)
    if route.access is Access.VIEWER:
        assert route.method in ("GET", "HEAD"), "viewers only read"


@pytest.mark.parametrize("route", ROUTES, ids=name)
def test_every_line_has_an_operation_with_its_parameters_and_errors(route: Route) -> None:
    operation = DOCUMENT["paths"][route.path][route.method.lower()]
    in_path = [parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"]
    assert in_path == re.findall(r"\{(\w+)\}", route.path)
    assert all(parameter["required"] for parameter in operation["parameters"] if parameter["in"] == "path")
    assert operation["summary"]
    assert operation["description"]
    assert str(route.status) in operation["responses"]
    assert ("requestBody" in operation) == (route.body is not None or route.method == "PUT")
    assert (operation.get("security") == []) == (route.access is Access.PUBLIC)


def responses(method: str, path: str) -> set[int]:
    return {int(status) for status in DOCUMENT["paths"][path][method]["responses"]}


def test_a_deletion_may_meet_what_forbids_it_and_a_token_that_is_gone() -> None:
    for path, operations in DOCUMENT["paths"].items():
        if "delete" in operations and path.endswith("}"):
            assert {204, 404} < responses("delete", path)
        if "delete" in operations and "{org}" in path:
            assert 409 in responses("delete", path)


def test_uploads_and_downloads_tell_of_parts() -> None:
    upload, download = "/v2/uploads/{id}", "/download/v2/organizations/{org}/apps/{app}/models/{model}"
    assert responses("put", upload) == {200, 308, 400, 403, 404, 408, 409, 413, 503}
    assert responses("head", upload) == {200, 400, 403, 404, 409, 503}
    assert responses("get", download) == {200, 206, 400, 401, 403, 404, 416, 503}
    for method, path, header in (("put", upload, "Content-Range"), ("get", download, "Range")):
        parameters = DOCUMENT["paths"][path][method]["parameters"]
        assert header in [parameter["name"] for parameter in parameters if parameter["in"] == "header"]
    assert set(DOCUMENT["paths"][upload]["put"]["responses"]["308"]["headers"]) == {"Range", "Upload-Offset"}


def test_the_document_is_openapi_3_1_and_refers_to_nothing_that_is_not_there() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    schemas = DOCUMENT["components"]["schemas"]
    for reference in references(DOCUMENT):
        prefix, _, schema = reference.rpartition("/")
        assert prefix == "#/components/schemas"
        assert schema in schemas
    operations = [operation for path in DOCUMENT["paths"].values() for operation in path.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
