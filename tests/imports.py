"""What programs import, beside what a lock installs for them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

# httpx takes them where they are, for its own command and for more encodings; nothing of ours needs them.
OPTIONAL = {"click", "rich", "pygments", "markdown-it-py", "mdurl", "zstandard", "brotli"}
_SCRIPT = """
import importlib.metadata, sys
at_start = set(sys.modules)  # what an environment imports by itself, for packages that are linked into it
{code}
found = importlib.metadata.packages_distributions()
print(*{{found[name.split(".")[0]][0] for name in set(sys.modules) - at_start if name.split(".")[0] in found}})
"""


def imported_by(code: str, root: Path) -> set[str]:
    """Return the packages that a fresh Python has imported after ``code``, but for ours and optional ones."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT.format(code=code)], cwd=root, capture_output=True, text=True, check=True
    )
    return {re.sub(r"[._]", "-", name.lower()) for name in done.stdout.split()} - OPTIONAL - {"skafos"}


def locked_in(requirements: Path) -> set[str]:
    """Return the packages that a locked file of requirements names."""
    return set(re.findall(r"^([\w-]+)==", requirements.read_text(), re.MULTILINE))
