"""The pairs of the corpus: a model and the one that replaces it, as two files each, and the index that names them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from bench.patches.places import CORPUS

__all__ = ["Group", "Pair", "keep", "read_index", "write_index"]

INDEX = "index.json"

Group = Literal["released", "finetuned", "further"]


@dataclass(frozen=True, slots=True)
class Pair:
    """An update of the corpus.

    Attributes:
        name: also the name of its folder.
        group: where it comes from: a released package, or our own training; further ones do not count in totals.
        kind: what sort of file it is and what changed, in a few words.
        numbers: the type of most numbers in it, as peers that know numbers want to be told.
        old: file that devices have, relative to the corpus.
        new: file that they should have, relative to the corpus.
    """

    name: str
    group: Group
    kind: str
    numbers: str
    old: str
    new: str

    @classmethod
    def of(cls, name: str, group: Group, kind: str, numbers: str, suffix: str) -> Pair:
        """Return a pair whose files have ``suffix`` and stand where all pairs' files do."""
        return cls(name, group, kind, numbers, f"{name}/old{suffix}", f"{name}/new{suffix}")

    def files(self, corpus: Path = CORPUS) -> tuple[Path, Path]:
        """Return the old and the new file."""
        return corpus / self.old, corpus / self.new

    def is_there(self, corpus: Path = CORPUS) -> bool:
        """Tell whether both files exist; each appeared whole."""
        return all(path.is_file() for path in self.files(corpus))


def keep(source: Path, path: Path) -> None:
    """Let ``path`` be the same file as ``source``, or a copy where a link is not possible; it appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:
        shutil.copyfile(source, part)
    part.replace(path)


def write_index(pairs: Iterable[Pair], corpus: Path = CORPUS) -> Path:
    """Write the index of those ``pairs`` whose files exist, and return its path."""
    corpus.mkdir(parents=True, exist_ok=True)
    part = corpus / f".{INDEX}.part"
    there = [asdict(pair) for pair in pairs if pair.is_there(corpus)]
    part.write_text(json.dumps(there, indent=1) + "\n")
    return part.replace(corpus / INDEX)


def read_index(corpus: Path = CORPUS) -> list[Pair]:
    """Return the pairs of the index.

    Raises:
        FileNotFoundError: the corpus was not made.
    """
    return [Pair(**entry) for entry in json.loads((corpus / INDEX).read_text())]
