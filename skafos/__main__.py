"""``python -m skafos`` is the ``skafos`` command."""

from __future__ import annotations

from skafos.cli import main

if __name__ == "__main__":
    main()
