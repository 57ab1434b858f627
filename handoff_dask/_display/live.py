"""A run in a notebook that keeps itself up to date."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from handoff_dask._client.progress import follow_in_background
from handoff_dask._display.html import head_of, run_html
from handoff_dask._display.progress import CellOutput, NotebookProgress, in_notebook, line_of, troubles_of
from handoff_dask._model.progress import Progress

if TYPE_CHECKING:
    from handoff_dask._client.run import Run


def show(run: Run) -> None:
    """Show a run below the cell, and how it goes on until it has ended.

    Raises
    ------
    NotImplementedError
        There is no notebook: IPython then shows it as everything else.
    """
    if not in_notebook():
        raise NotImplementedError
    follow_in_background(run, RunDisplay(run))


class RunDisplay:
    """A run in a place of a notebook. It does not keep the run."""

    def __init__(self, run: Run) -> None:
        self._run = weakref.ref(run)
        self._head = head_of(run)
        self._text = repr(run)
        self._seen: Progress | None = run._last_progress
        self._troubles: list[str] = []
        self._output = CellOutput(self._html(), self._text)

    def _html(self) -> str:
        return run_html(self._head, self._seen, self._troubles)

    def update(self, progress: Progress) -> None:
        """Show it in the same place."""
        self._troubles = [*self._troubles, *troubles_of(progress)][-NotebookProgress.KEPT :]
        self._seen = progress
        self.close()

    def close(self) -> None:
        """Show how the run stands now."""
        run = self._run()
        if run is None:
            self._head += " (no longer watched: its <code>Run</code> is gone)"
        else:
            self._head, self._text = head_of(run), repr(run)
        told = "" if self._seen is None else f" {line_of(self._seen)}"
        self._output.show(self._html(), self._text + told)
