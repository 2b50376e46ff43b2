"""A short headless run of the locust scenarios against an edge: it shows that they work, not how fast anything is."""

from __future__ import annotations

import os
import subprocess

from bench.edge.load import LoadFailed
from bench.edge.measuring import Bench
from bench.edge.servers import ROOT
from bench.edge.site import MODELS

LOCUST = ROOT / ".venv-bench" / "bin" / "locust"
USERS = 20
GRACE_SECONDS = 60
SCENARIOS = ("devices.py", "push_burst.py", "release_day.py")


def why_no_locust() -> str | None:
    """Return why locust cannot run, or None."""
    return None if os.access(LOCUST, os.X_OK) else "locust is not installed; `make bench-edge` does it"


def run_locust(bench: Bench) -> None:
    """Run every scenario for a few seconds; locust ends with an error when a request failed.

    Raises:
        LoadFailed: it did.
    """
    with bench.peer("edge") as server:
        for scenario in SCENARIOS:
            bench.say(f"locust, {scenario} …")
            length = max(5, bench.seconds)
            command = [str(LOCUST), "-f", str(ROOT / "bench" / "locust" / scenario), "--headless", "--only-summary"]
            command += ["--host", server.url, "--environment-key", bench.site.key, "--model", MODELS[0]]
            # More of what is rare, so that every kind of visit is played.
            command += ["--day-seconds", str(length), "--new", "0.1", "--behind", "0.1", "--interrupted", "0.3"]
            command += ["--run-time", f"{length}s", "--users", str(USERS), "--spawn-rate", str(USERS)]
            done = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, timeout=length + GRACE_SECONDS, check=False
            )
            if done.returncode:
                raise LoadFailed(f"{scenario}: {(done.stdout + done.stderr)[-3000:]}")
            bench.say("\n" + (done.stdout + done.stderr)[-6000:])
