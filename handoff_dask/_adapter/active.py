"""A run on a scheduler."""

from __future__ import annotations

from typing import Any

from handoff_dask._adapter.archive import error_of
from handoff_dask._adapter.run_progress import Estimate
from handoff_dask._model.runinfo import RunInfo
from handoff_dask._scheduling.functions import NAMES
from handoff_dask._scheduling.runs import Run


class ActiveRun:
    """A run on this scheduler: the core's run, and what Dask knows of it.

    Attributes
    ----------
    run : Run
    client : str
        Id of the client that submitted it.
    submitted, ended : float or None
        Seconds since the epoch.
    keys : list
        Function number → Dask key.
    known : int or None
        Keys that the scheduler has not forgotten yet; None before the graph has arrived.
    errors : dict
        Function number → exception of its final failure, as Dask sends it.
    dropped : bool
        Nobody will ask about it any more.
    broken : str or None
        What went wrong in the plugin.
    release : list
        Keys of results to give up: they were running when the run was cancelled.
    estimate : Estimate
        How long it will go on.
    """

    def __init__(self, run: Run, client: str, submitted: float) -> None:
        self.run = run
        self.client = client
        self.submitted = submitted
        self.ended: float | None = None
        self.keys: list[Any] = [None] * len(run.functions)
        self.known: int | None = None
        self.errors: dict[int, Any] = {}
        self.dropped = False
        self.broken: str | None = None
        self.release: list[Any] = []
        self.estimate = Estimate()

    def info(self, now: float) -> RunInfo:
        """The run in short."""
        run = self.run
        return RunInfo(
            id=run.spec.run_id,
            dag_id=run.spec.dag_id,
            status=run.status.value,
            client=self.client,
            submitted=self.submitted,
            ended=self.ended,
            elapsed=(now if self.ended is None else self.ended) - self.submitted,
            counts={NAMES[state]: n for state, n in run.counts.items() if n},
            priority=run.spec.priority,
            error=error_of(run, self.broken),
        )
