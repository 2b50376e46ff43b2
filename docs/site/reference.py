"""The API reference as pages: every route and every type, from the OpenAPI document that the product makes itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from control_plane.api.openapi import document
from control_plane.api.table import ROUTES

Json = dict[str, Any]

REST = "More"
# A route belongs to the first of these that its path holds.
GROUPS = (
    ("Adoption", "/adoption"),
    ("Pushes", "/pushes"),
    ("Delivery", "/deploy"),
    ("Delivery", "/rollback"),
    ("Delivery", "/environment_groups"),
    ("Versions", "/model_versions"),
    ("Versions", "/patches"),
    ("Versions", "/uploads"),
    ("Versions", "/download"),
    ("Models", "/models"),
    ("Environments", "/environments"),
    ("Applications", "/apps"),
    ("Account", "/me"),
    ("Account", "/tokens"),
    ("Organizations", "/organizations"),
    (REST, "/"),
)
TYPES = "api-types.md"
ROUTES_HEAD = """# API: every route

{about}

[The page on the API](api.md) says how things go together. This one is made from the document that a running control
plane serves at `/v2/openapi.json`.
"""
TYPES_HEAD = """# API: every type

What [the routes](api-reference.md) take and give, as JSON. Moments are in UTC, lengths in bytes.
"""


def routes_page() -> str:
    """Return the page of all routes."""
    described = document(ROUTES)
    names = [name for name, _ in reversed(GROUPS)]
    sections: dict[str, list[str]] = {name: [] for name in (*names[1:], REST)}
    for path, operations in described["paths"].items():
        group = next(name for name, part in GROUPS if part in path)
        sections[group] += [_route(method, path, operation) for method, operation in operations.items()]
    head = ROUTES_HEAD.format(about=described["info"]["description"])
    return "\n".join([head, *(f"## {name}\n\n" + "\n".join(routes) for name, routes in sections.items())])


def types_page() -> str:
    """Return the page of all types."""
    schemas = document(ROUTES)["components"]["schemas"]
    return "\n".join([TYPES_HEAD, *(_type(name, schema) for name, schema in sorted(schemas.items()))])


def _route(method: str, path: str, operation: Json) -> str:
    lines = [f"### {method.upper()} {path}", "", operation["description"] or operation["summary"], ""]
    lines += [f"For: {_who(operation['x-minimum-role'])}.", ""]
    if operation["parameters"]:
        lines += ["| parameter | in | type | meaning |", "|---|---|---|---|"]
        lines += [_parameter(each) for each in operation["parameters"]] + [""]
    if body := operation.get("requestBody"):
        lines += [f"Body: {_content(body['content'])}.", ""]
    lines += ["| answer | body | meaning |", "|---|---|---|"]
    lines += [
        f"| {status} | {_content(answer.get('content', {})) or '–'} | {_cell(answer['description'])} |"  # noqa: RUF001
        for status, answer in operation["responses"].items()
    ]
    return "\n".join(lines) + "\n"


def _who(role: str) -> str:
    if role == "public":
        return "everybody"
    return "whoever has a token" if role == "token" else f"members, as {role} at least"


def _parameter(parameter: Json) -> str:
    schema = parameter["schema"]
    meaning = parameter.get("description") or schema.get("description", "")
    needed = "" if parameter["required"] or parameter["in"] == "header" else _default(schema)
    return f"| `{parameter['name']}` | {parameter['in']} | {_kind(schema)} | {_cell(meaning)}{needed} |"


def _content(content: Json) -> str:
    return ", ".join(_kind(each["schema"]) if "schema" in each else f"`{media}`" for media, each in content.items())


def _type(name: str, schema: Json) -> str:
    lines = [f"## {name}", ""]
    if text := schema.get("description"):
        lines += [text, ""]
    if properties := schema.get("properties"):
        required = schema.get("required", [])
        lines += ["| field | type | meaning |", "|---|---|---|"]
        lines += [_field(key, shape, key in required) for key, shape in properties.items()]
    elif "enum" in schema or "anyOf" in schema:
        lines += [_kind(schema)]
    return "\n".join(lines) + "\n"


def _field(name: str, schema: Json, required: bool) -> str:
    meaning = _cell(schema.get("description", ""))
    return f"| `{name}` | {_kind(schema)} | {meaning}{'' if required else _default(schema)} |"


def _default(schema: Json) -> str:
    if schema.get("default") is None:
        return " May be left out."
    return f" Default: `{json.dumps(schema['default'])}`."


def _kind(schema: Json) -> str:
    """Return a type in words, with links to named ones."""
    if reference := schema.get("$ref"):
        name = reference.rsplit("/", 1)[-1]
        return f"[{name}]({TYPES}#{name.lower()})"
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(_kind(each) for each in choices)
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(each)}`" for each in schema["enum"])
    kind = str(schema.get("type", "anything"))
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"object of {_kind(values)}" if isinstance(values, dict) and values else "object"
    bounds = [
        f"{words} {schema[key]}"
        for key, words in (
            ("minimum", "from"),
            ("exclusiveMinimum", "above"),
            ("maximum", "to"),
            ("exclusiveMaximum", "below"),
            ("minLength", "at least"),
            ("maxLength", "at most"),
        )
        if key in schema
    ]
    named = "moment" if schema.get("format") == "date-time" else kind
    return f"{named} ({', '.join(bounds)})" if bounds else named


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
