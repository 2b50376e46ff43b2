"""The corpus of the benchmark: ``python -m bench.patches.corpus`` makes what is missing and writes its index."""

from __future__ import annotations

import sys

from bench.corpus import CorpusError
from bench.patches.finetunes import TrainingFailed, make_finetuned
from bench.patches.further import make_further
from bench.patches.pairs import write_index
from bench.patches.places import CORPUS
from bench.patches.released import make_released


def main() -> int:
    """Make everything; return the exit code."""
    try:
        released = [*make_released(), *make_further()]
        write_index(released)
        write_index([*released, *make_finetuned()])
    except (CorpusError, TrainingFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"the pairs are in {CORPUS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
