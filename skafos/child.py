"""Starts a program that ends when its parent does: ``python child.py PARENT_PID PROGRAM ARGUMENT…``.

Linux sends a process the signal it asked for when its parent dies, however the parent dies (``prctl(2)``,
PR_SET_PDEATHSIG), and keeps the wish over ``execve``. Asking here, in a process of its own, needs no code between
``fork`` and ``exec`` in the parent, which would not be safe beside threads. On other systems the program is simply
started: there an orderly stop still ends it, ``kill -9`` of the parent does not.

This file imports nothing but the standard library, so that it starts in a few milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Ask for SIGKILL at the parent's death; end at once when the parent (process id) is gone already."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    # The parent may have died before the wish was made; then somebody else has adopted this process.
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606  the supervisor's own argument list, no shell
