"""Where the benchmark of patches finds and keeps things, all below the checkout."""

from __future__ import annotations

from pathlib import Path

__all__ = ["BENCH_PYTHON", "CORPUS", "ROOT"]

ROOT = Path(__file__).resolve().parents[2]

# Beside the models of the demonstration, and removed with them by `make clean`.
CORPUS = ROOT / ".cache" / "patch-corpus"

# The environment of the benchmarks, which has other tools' libraries and PyTorch.
BENCH_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
