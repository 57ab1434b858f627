"""Resources held by external tasks: Dask's own tasks on the same workers."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from handoff_dask._adapter._dask.workers import recount_resources
from handoff_dask._model.resources import to_units
from handoff_dask._scheduling.state import SchedulingState

if TYPE_CHECKING:
    from distributed import Scheduler


class ExternalTasks:
    """Tells the core how much of each node's resources external tasks hold.

    Dask assigns tasks to workers without checking free capacity, and a worker queues the tasks that do not
    fit. Every assigned task therefore counts as holding its resources. Threads are the exception: the worker
    itself interleaves tasks and functions on its threads.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    state : SchedulingState
    wake : callable
        Called when there may be something to decide.
    """

    def __init__(self, scheduler: Scheduler, state: SchedulingState, wake: Callable[[], None]) -> None:
        self._scheduler = scheduler
        self._state = state
        self._wake = wake
        self._held: dict[Hashable, tuple[str, dict[str, int]]] = {}  # key → worker's address, units
        self._totals: dict[str, dict[str, int]] = {}  # worker's address → units
        for ws in scheduler.workers.values():
            for ts in ws.processing:
                self.update(ts.key)

    def update(self, key: Hashable) -> None:
        """Account for a task that may have started or stopped processing, or changed its worker."""
        before, now = self._held.get(key), self._holds(key)
        if before == now:
            return
        if before is not None:
            del self._held[key]
            self._change(*before, -1)
        if now is not None:
            self._held[key] = now
            self._change(*now, 1)

    def stolen(self, key: Hashable, **message: Any) -> None:
        """Account for a task that work stealing may have moved, which causes no transition."""
        before = self._held.get(key)
        self.update(key)
        now = self._held.get(key)
        if before != now:
            for address, _ in filter(None, (before, now)):
                if (ws := self._scheduler.workers.get(address)) is not None:
                    recount_resources(ws)

    def _holds(self, key: Hashable) -> tuple[str, dict[str, int]] | None:
        """Return the address of the worker that processes a task, and the units the task holds there."""
        ts = self._scheduler.tasks.get(key)
        if ts is None or ts.processing_on is None or not ts.resource_restrictions:
            return None
        return ts.processing_on.address, {name: to_units(n) for name, n in ts.resource_restrictions.items()}

    def report(self, address: str) -> None:
        """Tell the core how much external tasks hold on a worker."""
        ws = self._scheduler.workers.get(address)
        if ws is not None:
            self._state.node_external(ws.name, self._totals.get(address, {}))

    def left(self, address: str) -> None:
        """Forget a worker that has left."""
        self._totals.pop(address, None)
        for key in [key for key, (where, _) in self._held.items() if where == address]:
            del self._held[key]

    def _change(self, address: str, units: dict[str, int], sign: int) -> None:
        totals = self._totals.setdefault(address, {})
        for name, n in units.items():
            totals[name] = totals.get(name, 0) + sign * n
        self.report(address)
        self._wake()
