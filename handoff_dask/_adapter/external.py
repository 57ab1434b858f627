"""What Dask's own tasks hold of the resources that workers declare."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from handoff_dask._adapter._dask.workers import recount_resources
from handoff_dask._model.resources import to_units
from handoff_dask._scheduling.state import SchedulingState

if TYPE_CHECKING:
    from distributed import Scheduler


class ExternalTasks:
    """Keeps the core informed of tasks that are none of its functions.

    Dask assigns such tasks without a look at what is free, and their workers make them wait; all that are
    assigned count as held. Threads do not: tasks and functions take turns there as the worker sees fit.

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
        self._held: dict[Hashable, tuple[str, dict[str, int]]] = {}  # task → worker's address, units
        self._totals: dict[str, dict[str, int]] = {}  # address → units
        for ws in scheduler.workers.values():
            for ts in ws.processing:
                self.moved(ts.key)

    def moved(self, key: Hashable) -> None:
        """A task may have begun or ceased to be processed, or gone from one worker to another."""
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
        """Dask has heard whether a worker gives a task to another; if so, there is no transition."""
        before = self._held.get(key)
        self.moved(key)
        now = self._held.get(key)
        if before != now:
            for address, _ in filter(None, (before, now)):
                if (ws := self._scheduler.workers.get(address)) is not None:
                    recount_resources(ws)

    def _holds(self, key: Hashable) -> tuple[str, dict[str, int]] | None:
        """Where a task is processed, and what it takes there."""
        ts = self._scheduler.tasks.get(key)
        if ts is None or ts.processing_on is None or not ts.resource_restrictions:
            return None
        return ts.processing_on.address, {name: to_units(n) for name, n in ts.resource_restrictions.items()}

    def tell(self, address: str) -> None:
        """Let the core know what is held on a worker."""
        ws = self._scheduler.workers.get(address)
        if ws is not None:
            self._state.node_external(ws.name, self._totals.get(address, {}))

    def left(self, address: str) -> None:
        """A worker is gone."""
        self._totals.pop(address, None)
        for key in [key for key, (where, _) in self._held.items() if where == address]:
            del self._held[key]

    def _change(self, address: str, units: dict[str, int], sign: int) -> None:
        totals = self._totals.setdefault(address, {})
        for name, n in units.items():
            totals[name] = totals.get(name, 0) + sign * n
        self.tell(address)
        self._wake()
