"""The one thing that can go wrong while a model is looked at."""

from __future__ import annotations


class MalformedModel(Exception):
    """The file is not what its name says, is damaged, or goes over a bound. Inspection then tells less."""
