"""Progress bars: on a terminal, on standard error, and nowhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from skafos.calls import Progress


@contextmanager
def progress_bar(what: str, *, shown: bool = True) -> Iterator[Progress | None]:
    """Give a function that draws how many bytes are done, of how many; None when nobody would see it.

    Args:
        what: the word in front of the bar, such as "Uploading".
        shown: False when the user asked for silence.
    """
    if not (shown and sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def draw(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield draw
