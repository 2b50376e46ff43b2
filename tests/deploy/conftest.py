"""A site with a Redis of its own for each test."""

from tests.edge.conftest import site

__all__ = ["site"]
