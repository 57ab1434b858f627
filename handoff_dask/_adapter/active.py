"""A run on the scheduler: the link between the core's run and Dask's tasks."""

from __future__ import annotations

from typing import Any

from handoff_dask._adapter.archive import error_of
from handoff_dask._adapter.code_counts import CodeCounts
from handoff_dask._adapter.run_progress import Estimate
from handoff_dask._adapter.usage_by_code import UsageByCode
from handoff_dask._model.runinfo import RunInfo
from handoff_dask._scheduling.functions import NAMES
from handoff_dask._scheduling.runs import Run


class ActiveRun:
    """A run on this scheduler: the core's run, and its state in Dask.

    Attributes
    ----------
    run : Run
    client : str
        Id of the client that submitted the run.
    submitted, ended : float or None
        Seconds since the epoch.
    keys : list
        Function number → Dask key.
    task_count : int or None
        Number of tasks that the scheduler has not forgotten yet; None before the graph has arrived.
    errors : dict
        Function number → exception of its final failure, as Dask sends it.
    handle_released : bool
        Whether the client has released its handle to the run, so that no more requests about it will come.
    broken : str or None
        The plugin's own error that ended the run.
    cancelled : str or None
        Why the run was cancelled; None if it was not, or because futures were released.
    to_release : list
        Keys of tasks to release: the run has ended and does not need them.
    estimate : Estimate
        Estimated time left.
    code_counts : CodeCounts
        Functions by code and state.
    usage : UsageByCode or None
        What the attempts asked for and used, as far as anybody has asked.
    """

    def __init__(self, run: Run, client: str, submitted: float) -> None:
        self.run = run
        self.client = client
        self.submitted = submitted
        self.ended: float | None = None
        self.keys: list[Any] = [None] * len(run.functions)
        self.task_count: int | None = None
        self.errors: dict[int, Any] = {}
        self.handle_released = False
        self.broken: str | None = None
        self.cancelled: str | None = None
        self.to_release: list[Any] = []
        self.estimate = Estimate()
        self.code_counts = CodeCounts()
        self.usage: UsageByCode | None = None

    def info(self, now: float) -> RunInfo:
        """Return a summary of the run at ``now``, in seconds since the epoch."""
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
            error=error_of(run, self.broken, self.cancelled),
        )
