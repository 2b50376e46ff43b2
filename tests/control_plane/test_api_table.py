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
