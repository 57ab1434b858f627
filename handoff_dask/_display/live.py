"""The live repr of a run in a notebook."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from handoff_dask._client.progress import follow_in_background
from handoff_dask._display.html import run_heading, run_html
from handoff_dask._display.progress import (
    CellOutput,
    NotebookProgress,
    failure_lines,
    in_notebook,
    progress_line,
)
from handoff_dask._model.progress import Progress

if TYPE_CHECKING:
    from handoff_dask._client.run import Run


def show(run: Run) -> None:
    """Display a run below the current cell, and update the display until the run has ended.

    Raises
    ------
    NotImplementedError
        This is not a notebook. IPython then falls back to the other reprs.
    """
    if not in_notebook():
        raise NotImplementedError
    follow_in_background(run, RunDisplay(run))


class RunDisplay:
    """The output of a run in a notebook. It holds a weak reference to the run only."""

    def __init__(self, run: Run) -> None:
        self._run = weakref.ref(run)
        self._heading = run_heading(run)
        self._text = repr(run)
        self._progress: Progress | None = run._last_progress
        self._failures: list[str] = []
        self._output = CellOutput(self._html(), self._text)

    def _html(self) -> str:
        return run_html(self._heading, self._progress, self._failures)

    def update(self, progress: Progress) -> None:
        """Replace the output with the current progress."""
        self._failures = [*self._failures, *failure_lines(progress)][-NotebookProgress.MAX_FAILURES :]
        self._progress = progress
        self.close()

    def close(self) -> None:
        """Show the current status of the run."""
        run = self._run()
        if run is None:
            self._heading += " (no longer updated: the <code>Run</code> object is gone)"
        else:
            self._heading, self._text = run_heading(run), repr(run)
        progress = "" if self._progress is None else f" {progress_line(self._progress)}"
        self._output.show(self._html(), self._text + progress)
