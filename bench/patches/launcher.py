"""Run one command and tell what it took: ``python -I -S launcher.py [--watch] COMMAND …`` prints JSON.

A script of its own that imports next to nothing: a program's peak of memory includes what the process held that it was
started from, here 8 MB. With ``--watch`` it looks once a millisecond how much memory the command holds that no file
stands behind, which the kernel keeps no peak of.
"""

from __future__ import annotations

import json
import os
import sys
import time

WATCH_SECONDS = 0.001
# Memory without a file behind it (proc(5)).
ANONYMOUS = "RssAnon:"


def main() -> int:
    """Run the command; return 0 if that was possible, whatever it returned."""
    words = sys.argv[1:]
    watched = words[:1] == ["--watch"]
    command = words[1:] if watched else words
    began = time.monotonic()
    child = os.posix_spawnp(command[0], command, os.environ)
    anonymous = watch(child) if watched else 0
    _, status, used = os.wait4(child, 0)
    took = {
        "code": os.waitstatus_to_exitcode(status),
        "wall_seconds": time.monotonic() - began,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_bytes": used.ru_maxrss * 1024,
        "anonymous_bytes": anonymous,
    }
    # The command's own output comes first: this is the last line.
    print(json.dumps(took), flush=True)
    return 0


def watch(child: int) -> int:
    """Return the most anonymous memory, in bytes, that was seen until the process ``child`` ended."""
    most = 0
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        most = max(most, anonymous_bytes(child))
        time.sleep(WATCH_SECONDS)
    return most


def anonymous_bytes(process: int) -> int:
    """Return how much memory without a file behind it a process holds now; 0 where the kernel does not tell."""
    try:
        with open(f"/proc/{process}/status", encoding="ascii") as status:  # noqa: PTH123 # imports next to nothing
            for line in status:
                if line.startswith(ANONYMOUS):
                    return int(line.split()[1]) * 1024
    except OSError:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
