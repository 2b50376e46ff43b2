"""A device checks for an update: flow 2, on the edge's side.

Find the environment of the key, compare what the device has with what there is, and answer 304 or the signed manifest.
All of it happens in memory; an unknown key costs a lookup. Ordinary checks do not come here: ``edge/lane.py`` answers
them, with the same fields. What the device does with the manifest is in
``docs/protocol.md``.
"""

from __future__ import annotations

import re

from aiohttp import web

from edge import metrics
from edge.conditional import Verdict, evaluate
from edge.errors import Invalid, Missing, PreconditionFailed
from edge.manifest_cache import Document, ManifestCache
from edge.prepared import fields_of

# A file whose name carries its version never changes.
IMMUTABLE = "public, max-age=31536000, immutable"

_ROOT_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_NUMBERED = re.compile(r"[1-9][0-9]*\.(root|snapshot|targets)\.json")


def fresh_for(max_age: int, stale: int) -> str:
    """Return the ``Cache-Control`` of what changes.

    Args:
        max_age: seconds for which a cache may answer without asking us.
        stale: seconds for which it may go on when we fail (RFC 5861 section 4). Signed metadata carries its own
            expiry, which the device checks, so an old answer cannot deceive it.
    """
    return f"public, max-age={max_age}, stale-if-error={stale}"


class Checks:
    """The routes that serve signed metadata.

    Args:
        cache: what every environment offers.
        changing: ``Cache-Control`` of what changes, see `fresh_for`.
    """

    def __init__(self, cache: ManifestCache, changing: str) -> None:
        self._cache = cache
        self._changing = changing

    async def manifest(self, request: web.Request) -> web.StreamResponse:
        """``GET /v2/environments/{key}/manifest``."""
        try:
            environment = self._cache.require(request.match_info["key"])
        except Missing:
            metrics.CHECKS.of(metrics.NOBODY, 404).count += 1
            raise
        response = answer(request, environment.manifest, self._changing)
        metrics.CHECKS.of(environment.labels, response.status).count += 1
        return response

    async def root(self, request: web.Request) -> web.StreamResponse:
        """``GET /v2/environments/{key}/root/{number}.json``."""
        environment = self._cache.require(request.match_info["key"])
        number = request.match_info["number"]
        if not _ROOT_NUMBER.fullmatch(number):
            raise Invalid("A root is named by its number, from 1 on.", "invalid_root_number")
        return answer(request, _file(environment.files.get(f"{number}.root.json")), IMMUTABLE)

    async def tuf_metadata(self, request: web.Request) -> web.StreamResponse:
        """``GET /v2/environments/{key}/tuf/metadata/{file}``: the same metadata in TUF's own layout."""
        environment = self._cache.require(request.match_info["key"])
        name = request.match_info["file"]
        return answer(
            request, _file(environment.files.get(name)), IMMUTABLE if _NUMBERED.fullmatch(name) else self._changing
        )


def _file(document: Document | None) -> Document:
    if document is None:
        raise Missing("There is no such metadata file.")
    return document


def answer(request: web.Request, document: Document, cache_control: str) -> web.Response:
    """Return the document, or say that the client has it already (RFC 9110 section 13).

    Raises:
        PreconditionFailed: the client asked for another state of it only.
    """
    verdict = evaluate(request.headers, document.validators)
    if verdict is Verdict.FAILED:
        raise PreconditionFailed("The document is not in the state that the request asks for.")
    modified = verdict is not Verdict.NOT_MODIFIED
    fields = fields_of(document, cache_control, modified=modified)
    if not modified:
        return web.Response(status=304, headers=fields)
    return web.Response(body=document.body, headers=fields)
