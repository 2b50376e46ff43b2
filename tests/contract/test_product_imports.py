"""What the product imports is there where only the product is installed, without what tests and checks need."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("manifests", "artifacts", "telemetry", "edge", "control_plane", "skafos")
LOCKED = set(re.findall(r"^([a-z0-9][a-z0-9.-]*)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
DISTRIBUTIONS = packages_distributions()


def imported(package: str) -> Iterator[tuple[str, str]]:
    """Yield the packages of others that a package's files import, and in which file."""
    for file in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            for top in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - set(PACKAGES):
                yield top, str(file.relative_to(ROOT))


@pytest.mark.parametrize("package", PACKAGES)
def test_what_the_product_imports_is_locked_for_the_product(package: str) -> None:
    missing = {
        (top, file)
        for top, file in imported(package)
        if not {re.sub(r"[-_.]+", "-", name).lower() for name in DISTRIBUTIONS.get(top, ())} & LOCKED
    }
    assert missing == set()
