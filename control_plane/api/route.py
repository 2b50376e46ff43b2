"""What one route of the management API is: a line of the table in `control_plane.api.table`.

aiohttp's routes, the check of tokens and roles, the validation of what comes in and the OpenAPI document are all made
from these lines, so none of them can differ from another.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from pydantic import BaseModel

from control_plane.accounts import Role

_PARAMETER = re.compile(r"\{(\w+)\}")


def for_router(path: str) -> str:
    """Return a path of a table as aiohttp takes it, whose own parameters hold no braces; names may."""
    return _PARAMETER.sub(r"{\1:[^/]+}", path)


class Access(Enum):
    """Who may call a route."""

    PUBLIC = "public"  # anybody: the document itself, and uploads, whose address is signed
    TOKEN = "token"  # noqa: S105 - whoever shows a valid token; what is answered keeps to the token's scope
    PERSON = "person"  # the person's own: a token with a scope or an end may not
    VIEWER = "viewer"  # members of the organization in the path, from this role upwards
    DEVELOPER = "developer"
    OWNER = "owner"

    @property
    def role(self) -> Role | None:
        """The least role, for the routes below an organization."""
        return None if self in (Access.PUBLIC, Access.TOKEN, Access.PERSON) else Role.of(self.value)


@dataclass(frozen=True, slots=True)
class Route:
    """A line of the route table.

    Args:
        method: the HTTP method. GET answers HEAD as well.
        path: with parameters in braces; `{org}` is the organization whose members may call it.
        handler: called with the `Call` and, if the line names them, `body` and `query`.
        access: who may call it.
        summary: one line for the OpenAPI document.
        body: what the JSON body must be, or None when none is read.
        query: what may stand behind the question mark, or None when nothing may.
        answer: the type of the JSON answer, or None when there is none (204) or it is no JSON.
        status: of a successful answer.
        media_type: of an answer that is no JSON.
        headers: of a request, which the handler reads; what each says.
        also: statuses that the rest of the line does not tell (`openapi` derives what every route of a kind may
            answer), and what each means here.
    """

    method: str
    path: str
    handler: Callable[..., Awaitable[Any]]
    access: Access
    summary: str
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    answer: Any = None
    status: int = 200
    media_type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    also: Mapping[int, str] = field(default_factory=dict)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the path's parameters."""
        return tuple(_PARAMETER.findall(self.path))

    @property
    def tag(self) -> str:
        """The heading that the OpenAPI document lists it under: the last fixed part of its path."""
        fixed = [part for part in self.path.split("/") if part and not part.startswith("{")]
        return fixed[-1].partition(".")[0]
