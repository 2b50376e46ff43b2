"""Turning the database's "not unique" into a sentence."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.exc import IntegrityError

from control_plane.errors import Conflict


@asynccontextmanager
async def unique(sentence: str, code: str = "taken") -> AsyncIterator[None]:
    """Let the database decide whether what is flushed in the block is unique: it alone knows of other writers.

    Raises:
        Conflict: with ``sentence``; the transaction can only be rolled back then.
    """
    try:
        yield
    except IntegrityError as error:
        raise Conflict(sentence, code) from error
