"""How far long work is, on stderr: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from tidegate.core.progress import Progress, Task

# Often enough that nobody thinks it hangs, rarely enough for a CI log.
_SECONDS_BETWEEN_LINES = 10.0


def progress() -> Progress:
    """The progress that suits stderr."""
    return BarProgress() if sys.stderr.isatty() else LineProgress()


class LineProgress:
    """Says when a task begins, and how far it is every ten seconds."""

    @contextmanager
    def task(self, title: str, total: float | None = None) -> Iterator[Task]:
        """Print the title, then a line when something moved and ten seconds have passed."""
        self.note(f"{title} ...")
        yield _LineTask(self, title, total)

    def note(self, text: str) -> None:
        """Print one line."""
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - this is where such lines are printed


class _LineTask:
    def __init__(self, progress: LineProgress, title: str, total: float | None) -> None:
        self._progress, self._title, self._total = progress, title, total
        self._done, self._said = 0.0, time.monotonic()

    def advance(self, amount: float = 1.0, text: str = "") -> None:
        self._done += amount
        if time.monotonic() - self._said < _SECONDS_BETWEEN_LINES:
            return
        self._said = time.monotonic()
        share = f"{100 * self._done / self._total:.0f} % " if self._total else ""
        self._progress.note(f"{self._title}: {share}{text}".rstrip())


class BarProgress:
    """Bars and spinners that vanish when their task is done; a note stays above them."""

    def __init__(self) -> None:
        self._bars: Bars | None = None
        self._open = 0

    @contextmanager
    def task(self, title: str, total: float | None = None) -> Iterator[Task]:
        """Show a bar, or a spinner if `total` is None; tasks may be nested."""
        bars = self._start()
        task_id = bars.add_task(_plain(title), total=total, text="")
        try:
            yield _BarTask(bars, task_id)
        finally:
            bars.remove_task(task_id)
            self._open -= 1
            if self._open == 0:
                bars.stop()
                self._bars = None

    def note(self, text: str) -> None:
        """Print one line above the bars."""
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)  # noqa: T201 - this is where such lines are printed

    def _start(self) -> Bars:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        if self._bars is None:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(24), TimeElapsedColumn())
            self._bars = Progress(
                *columns, TextColumn("{task.fields[text]}"), console=Console(stderr=True), transient=True
            )
            self._bars.start()
        self._open += 1
        return self._bars


class _BarTask:
    def __init__(self, bars: Bars, task_id: TaskID) -> None:
        self._bars, self._id = bars, task_id

    def advance(self, amount: float = 1.0, text: str = "") -> None:
        if text:
            self._bars.update(self._id, text=_plain(text))
        self._bars.advance(self._id, amount)


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
