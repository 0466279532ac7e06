"""Live progress on stderr; silent when that is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from scanner.sandbox import Progress as Figures
from scanner.sandbox import Silent


class _Figures(ProgressColumn):
    """Files, bytes and rate so far."""

    def render(self, task: Task) -> Text:
        elapsed = task.elapsed or 0
        size = task.fields.get("size", 0)
        rate = f"{decimal(int(size / elapsed))}/s" if elapsed > 0.5 else "-"
        return Text(f"{task.fields.get('files', 0):,} files  {decimal(size)}  {rate}")


class ProgressLine(Silent):
    """A `Listener` that draws one line."""

    def __init__(self, bar: Progress, words: str) -> None:
        self._bar = bar
        self._task = bar.add_task(words, total=None, files=0, size=0)

    def progress(self, progress: Figures) -> None:
        self._bar.update(
            self._task, total=progress.all or None, completed=progress.done, files=progress.files, size=progress.size
        )


@contextmanager
def progress_on_stderr(words: str) -> Iterator[Silent]:
    """A listener that shows progress while the block runs."""
    console = Console(stderr=True)
    if not sys.stderr.isatty():
        yield Silent()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(24),
        _Figures(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, refresh_per_second=5) as bar:
        yield ProgressLine(bar, words)
