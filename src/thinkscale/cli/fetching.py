"""The progress bar of a model being fetched; nothing is drawn where there is nothing to fetch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn


@contextmanager
def fetching(console: Console, name: str = "model") -> Iterator[Callable[[int, int | None], None]]:
    """Yields a callback (bytes done, bytes in all or `None`) that draws from its first call on."""
    bar = Progress(
        TextColumn(f"fetching {name}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=console,
        transient=True,
    )
    task = bar.add_task("", total=None)
    drawn = False

    def progress(done: int, total: int | None) -> None:
        nonlocal drawn
        if not drawn:
            drawn = True
            bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield progress
    finally:
        if drawn:
            bar.stop()
