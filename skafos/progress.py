"""What long work shows of itself: on a terminal, on standard error, and nowhere else.

A step that counts bytes has a bar; one of which nothing is known, such as a server's at its end, says what it is and
since when. So something moves on the screen for as long as the work goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from skafos.calls import Progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar


class ProgressDisplay:
    """Shows nothing: nobody would see it, or the user asked for silence."""

    def bytes(self, what: str, *, before: str | None = None, then: str | None = None) -> Progress | None:  # noqa: ARG002 - for those who show it
        """Begin a step that counts bytes, in the place of the step before.

        Args:
            what: what is done, such as "Uploading".
            before: what goes on until the first bytes are done, if it has a name of its own.
            then: what goes on when all bytes are done, until the next step or `stop`.

        Returns:
            A function to tell how many bytes are done, of how many; None when nothing is shown.
        """
        return None

    def remark(self, what: str) -> None:
        """Begin a step of which only the time is known, in the place of the step before."""

    def stop(self) -> None:
        """Show nothing until the next step begins."""


class _TerminalDisplay(ProgressDisplay):
    """Draws on a terminal; what is done disappears from it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._drawn: Bar | None = None

    def bytes(self, what: str, *, before: str | None = None, then: str | None = None) -> Progress:
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        bar = Bar(*columns, console=self._console, transient=True)
        task = bar.add_task(what, total=None)
        if before is None:
            self._draw(bar)
        else:
            self.remark(before)

        def told(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)
            if then is not None and done >= total:
                self.remark(then)
            elif self._drawn is not bar:
                # The first bytes, or a part that has to be sent again.
                self._draw(bar)

        return told

    def remark(self, what: str) -> None:
        from rich.progress import Progress as Bar
        from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

        bar = Bar(SpinnerColumn(), TextColumn(what), TimeElapsedColumn(), console=self._console, transient=True)
        bar.add_task(what, total=None)
        self._draw(bar)

    def stop(self) -> None:
        if self._drawn is not None:
            self._drawn.stop()
            self._drawn = None

    def _draw(self, bar: Bar) -> None:
        self.stop()
        self._drawn = bar
        bar.start()


@contextmanager
def progress_display(*, shown: bool = True) -> Iterator[ProgressDisplay]:
    """Give a display for the steps of long work.

    Args:
        shown: False when the user asked for silence.
    """
    if not (shown and sys.stderr.isatty()):
        yield ProgressDisplay()
        return
    from rich.console import Console

    display = _TerminalDisplay(Console(stderr=True))
    try:
        yield display
    finally:
        display.stop()
