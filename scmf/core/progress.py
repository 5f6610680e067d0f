"""Progress bars on stderr, one place for all of them: stacked when they nest, silent where nobody looks.

Where stderr is no terminal a bar is one line, written when it ends; `show` (``--quiet``) turns bars off. Of several
processes only the first shows any. Lives here: bars. Messages are records of `logging`
(``logging.getLogger("scmf…")``); the command line prints them above the bars (`scmf.cli.output`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from scmf.core.printable import printable
from scmf.core.redact import hide_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_decided = True
_lock = threading.Lock()
_display: tuple[Progress, int] | None = None
"""The bars that are on the screen, and how many."""


def show(decision: bool) -> None:
    """Show bars (the default), or show none."""
    global _decided
    _decided = decision


def shown() -> bool:
    """Whether a bar that starts now is seen."""
    if os.environ.get("RANK", "0") != "0":
        return False
    return _decided


def console() -> Console:
    """The console of the bars, or a new one on stderr: what prints through it does not break the bars."""
    from rich.console import Console

    current = _display
    return Console(stderr=True) if current is None else current[0].console


def quiet_transformers() -> None:
    """No progress bars of transformers for files of a few megabytes, no tables."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def hub_bar() -> type:
    """The class of bars for downloads from the Hub: its own, or one that shows nothing."""
    from huggingface_hub.utils.tqdm import tqdm

    class Quiet(tqdm):  # type: ignore[type-arg, misc]
        """The Hub's own progress bar, switched off."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

    return tqdm if shown() else Quiet


class Bar:
    """One bar; made by `bar`. Its methods may be called from any thread."""

    def __init__(self, title: str, progress: Progress | None = None, task: Any = None) -> None:
        self.title, self._progress, self._task = title, progress, task

    def advance(self, by: int = 1, note: str = "") -> None:
        """Go on by so many units; ``note`` stands behind the bar."""
        if self._progress is not None:
            self._progress.update(self._task, advance=by, note=printable(note))

    def move_to(self, done: int, note: str = "") -> None:
        """Set how much is done in all."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done, note=printable(note))


@contextmanager
def bar(title: str, total: int | None, *, unit: str = "", done: int = 0) -> Iterator[Bar]:
    """Show a bar while the block runs.

    Parameters
    ----------
    title
        What is being done.
    total
        Units in all; None when it is not known.
    unit
        Name of a unit, for example ``cells``; ``B`` shows bytes with their rate.
    done
        Units that were done before, by an interrupted run.

    Yields
    ------
    Bar
        To move; it does nothing where no bar is shown.
    """
    if not shown():
        yield Bar(title)
        return
    progress = _enter()
    title = printable(hide_text(title))
    task = progress.add_task(title, total=total, completed=done, unit=unit, note="")
    try:
        yield Bar(title, progress, task)
    finally:
        _leave()


def _enter() -> Progress:
    global _display
    with _lock:
        if _display is None:
            progress = _bars()
            progress.start()
            _display = (progress, 0)
        _display = (_display[0], _display[1] + 1)
        return _display[0]


def _leave() -> None:
    global _display
    with _lock:
        assert _display is not None
        progress, count = _display
        _display = (progress, count - 1) if count > 1 else None
        if count == 1:
            progress.stop()


def _bars() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )

    class Amount(ProgressColumn):
        """Units or bytes."""

        _bytes, _units = DownloadColumn(), MofNCompleteColumn()

        def render(self, task: Task) -> Any:
            if task.fields["unit"] == "B":
                return self._bytes.render(task)
            text = self._units.render(task)
            return text.append(f" {task.fields['unit']}") if task.fields["unit"] else text

    title = TextColumn("{task.description}", markup=False)
    note = TextColumn("{task.fields[note]}", markup=False)
    return Progress(title, BarColumn(), Amount(), TimeRemainingColumn(), note, console=Console(stderr=True))
