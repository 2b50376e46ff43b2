"""CPU seconds: of a server with all its processes and threads, and of the whole machine."""

from __future__ import annotations

import psutil  # type: ignore[import-untyped]


def tree_seconds(pid: int) -> float:
    """Return the CPU seconds that the process ``pid`` and its living descendants have used, in user and kernel mode.

    The kernel tells hundredths of a second: 1 % of a run that keeps a core busy for one second.
    """
    root = psutil.Process(pid)
    total = 0.0
    for process in [root, *root.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def machine_seconds() -> float:
    """Return the CPU seconds that all cores have been busy since the start, interrupts included.

    Time that a hypervisor gave to somebody else (steal) is not work of ours.
    """
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)
