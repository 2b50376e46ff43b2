"""From a form's fields to what a route of the management API takes.

A form knows texts only. What each field has to be stands in the JSON schema of the route's model, and the same model
judges the result, so a form can send nothing that JSON could not.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from functools import cache
from typing import Any

import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web import FileField
from pydantic import BaseModel, ValidationError

from control_plane.api.errors import invalid
from control_plane.api.serve import BODY_SECONDS
from control_plane.errors import Invalid

_MISSING = object()
# What aiohttp raises over a body that is none: of an encoding that there is not, with heads of parts that are none.
_UNREADABLE = (ValueError, LookupError, RuntimeError, HttpProcessingError)


async def read_form(request: web.Request) -> Mapping[str, Any]:
    """Return a form's fields.

    Raises:
        Invalid: it is no form.
        HTTPRequestTimeout: it does not arrive.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS):
            form = await request.post()
        for name, value in form.items():
            _require_text(name)
            if not isinstance(value, FileField):
                _require_text(value)
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    except _UNREADABLE:
        raise Invalid("The form cannot be read.") from None
    return form


def _require_text(value: object) -> None:
    """Refuse what is no text, or none that can be stored.

    Raises:
        ValueError: it is bytes, as a part that says it is a picture, or holds lone surrogates.
    """
    if not isinstance(value, str):
        raise ValueError("no text")
    value.encode()


def text_of(form: Mapping[str, Any], name: str) -> str | None:
    """Return what was typed into a field, or None where there is no such text."""
    value = form.get(name)
    return value if isinstance(value, str) else None


def body_of(form: Mapping[str, Any], model: type[BaseModel]) -> BaseModel:
    """Return a form's fields as a model; fields that the model does not have are the form's own.

    Raises:
        Invalid: they are not what the model takes; it names the field.
    """
    values = {}
    for name, schema in _properties(model).items():
        value = _typed(name, form.get(name), schema)
        if value is not _MISSING:
            values[name] = value
    try:
        return model.model_validate_json(orjson.dumps(values))
    except orjson.JSONEncodeError:  # it reads what is nested deeper than it writes; no route takes either
        raise Invalid("The form cannot be read.") from None
    except ValidationError as error:
        raise invalid(error, "form") from None


@cache
def _properties(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    required = schema.get("required", [])
    return {name: {**shape, "required": name in required} for name, shape in schema.get("properties", {}).items()}


def _typed(name: str, value: Any, schema: Mapping[str, Any]) -> Any:
    if value is None:
        return _MISSING
    if isinstance(value, FileField):
        return base64.b64encode(value.file.read()).decode() if value.filename else _MISSING
    shapes = schema.get("anyOf", [schema])
    kinds = {shape.get("type") for shape in shapes}
    if value == "" and not schema["required"]:
        return None if "null" in kinds else _MISSING
    if "boolean" in kinds and value in ("true", "on", "false"):
        return value != "false"
    if "integer" in kinds and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    if "number" in kinds:
        try:
            return float(value)
        except ValueError:
            raise Invalid(f"{name}: This is not a number.", field=name) from None
    if "object" in kinds:
        try:
            return orjson.loads(value)
        except ValueError:
            raise Invalid(f"{name}: This is not valid JSON.", field=name) from None
    return value
