"""One tool on one pair: its patch made, applied, compared and measured, each in a process of its own."""

from __future__ import annotations

import filecmp
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.patches.peers import Call, Peer, Setting
from bench.patches.places import ROOT

__all__ = ["Failed", "Measured", "measure"]

LAUNCHER = Path(__file__).with_name("launcher.py")

# Twice what the slowest tool takes for the largest pair on a core that others use as well.
CALL_SECONDS = 600
# A program that runs for less than that long would be measured by the clock's grain; the quickest of some runs counts.
DECODE_RUNS = 3
# Characters of what a program that failed said last.
_COMPLAINT = 500


class Failed(Exception):
    """A tool did not make a patch, or not one that it could apply."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one tool needed for one pair.

    Attributes:
        patch_bytes: size of the patch.
        encode_seconds: CPU time of making it, with the best setting alone.
        encode_bytes: peak of memory while doing so.
        decode_seconds: CPU time of applying it, the least of three runs.
        decode_bytes: peak of memory while doing so, mapped files included.
        decode_working_bytes: the part of it that no file stands behind; 0 where it was not watched.
        setting: the best of the tool's settings.
    """

    patch_bytes: int
    encode_seconds: float
    encode_bytes: int
    decode_seconds: float
    decode_bytes: int
    decode_working_bytes: int
    setting: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Took:
    seconds: float
    peak_bytes: int
    working_bytes: int


def measure(peer: Peer, old: Path, new: Path) -> Measured:
    """Let ``peer`` make a patch from ``old`` to ``new`` with each of its settings, and apply the smallest.

    Raises:
        Failed: it makes none, or the result differs from ``new``.
    """
    with tempfile.TemporaryDirectory(prefix="skafos-patches-") as name:
        folder = Path(name)
        setting, patch, encoded = _smallest(peer, old, new, folder)
        result = folder / "result"
        runs = [_run(peer.decode(setting, old, patch, result), watched=peer.family == "ours")]
        if not filecmp.cmp(result, new, shallow=False):
            raise Failed(f"{peer.name} made another file")
        if not peer.decode(setting, old, patch, result).reports:
            runs += [_run(peer.decode(setting, old, patch, result)) for _ in range(DECODE_RUNS - 1)]
        return Measured(
            patch.stat().st_size,
            encoded.seconds,
            encoded.peak_bytes,
            min(run.seconds for run in runs),
            max(run.peak_bytes for run in runs),
            runs[0].working_bytes,
            setting,
        )


def _smallest(peer: Peer, old: Path, new: Path, folder: Path) -> tuple[Setting, Path, _Took]:
    best: tuple[Setting, Path, _Took] | None = None
    problems = []
    for number, setting in enumerate(_settings(peer, old, new)):
        patch = folder / f"patch-{number}"
        try:
            took = _run(peer.encode(setting, old, new, patch))
        except Failed as problem:
            problems.append(f"{problem}")
            continue
        if best is None or patch.stat().st_size < best[1].stat().st_size:
            best = setting, patch, took
    if best is None:
        raise Failed("; ".join(problems))
    return best


def _settings(peer: Peer, old: Path, new: Path) -> Sequence[Setting]:
    try:
        return peer.settings(old, new)
    except subprocess.SubprocessError as problem:
        raise Failed(f"{peer.name}: {problem}") from problem


def _run(call: Call, *, watched: bool = False) -> _Took:
    command = [sys.executable, "-I", "-S", str(LAUNCHER), *(["--watch"] if watched else []), *call.command]
    output, complaint = _finished(command)
    *lines, last = output.splitlines()
    took = json.loads(last)
    if took["code"] != 0:
        raise Failed(f"{call.command[0]} ended with {took['code']}: {complaint.strip()[-_COMPLAINT:]}")
    if not call.reports:
        return _Took(took["cpu_seconds"], took["peak_bytes"], 0)
    told = json.loads(lines[-1])
    working = max(0, took["anonymous_bytes"] - int(told["anonymous_before_bytes"])) if watched else 0
    return _Took(told["cpu_seconds"], int(told["peak_bytes"]), working)


def _finished(command: Sequence[str]) -> tuple[str, str]:
    """Return what the launcher printed; one that hangs is ended together with what it started."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as launcher:
        try:
            output, complaint = launcher.communicate(timeout=CALL_SECONDS)
        except subprocess.TimeoutExpired as problem:
            raise Failed(f"no end after {CALL_SECONDS} s") from problem
        finally:
            if launcher.poll() is None:
                os.killpg(launcher.pid, signal.SIGKILL)
    if launcher.returncode != 0:
        raise Failed(f"it could not be started: {complaint.strip()[-_COMPLAINT:]}")
    return output, complaint
