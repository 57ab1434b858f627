"""Progress of a run, as reported to clients that follow it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distributed.metrics import monotonic, time

from handoff_dask._model.resources import from_units
from handoff_dask._scheduling.bounds import TimeLeft, time_left
from handoff_dask._scheduling.functions import FINAL, NAMES, State

if TYPE_CHECKING:
    from handoff_dask._adapter.active import ActiveRun
    from handoff_dask._scheduling.state import SchedulingState

#: Maximum number of nodes, and of failed or lost attempts, in one report.
MAX_NODES, MAX_TROUBLES = 12, 10

#: Final states without a result: no further attempt follows.
UNSUCCESSFUL = FINAL - {State.FINISHED}

#: Share of the scheduler's time that estimates may take.
SHARE = 0.01


class Estimate:
    """Estimated time left of a run, recomputed no more often than :data:`SHARE` allows."""

    def __init__(self) -> None:
        self._left: TimeLeft | None = None
        self._made = 0.0
        self._due = 0.0

    def at(self, active: ActiveRun, state: SchedulingState) -> TimeLeft | None:
        """Return the estimate now: a new one if it is due, otherwise the last one less the time since."""
        begin = monotonic()
        if begin >= self._due:
            self._left = time_left(active.run, state.placement.nodes, time())
            self._made = monotonic()
            self._due = self._made + (self._made - begin) / SHARE
        return self.last

    @property
    def last(self) -> TimeLeft | None:
        """The last estimate less the time since; None if there is none."""
        if self._left is None:
            return None
        return TimeLeft(max(0.0, self._left.seconds - (monotonic() - self._made)), self._left.known)


def progress(active: ActiveRun, state: SchedulingState, seen: int) -> dict[str, Any]:
    """Return the fields of :class:`Progress`, with failed and lost attempts only after the first ``seen``."""
    run = active.run
    nodes = [] if run.ended else state.placement.nodes.ordered
    loads = [(sum(f.run is run for f in node.running), node) for node in nodes]
    busiest = sorted(loads, key=lambda load: -load[0])[:MAX_NODES]
    busiest.sort(key=lambda load: load[1].position)  # a node keeps its place from one report to the next
    resources = {name for kind in run.spec.kinds for name, _ in kind.cost}
    new = run.failed_attempts[seen:]
    shown = new[-MAX_TROUBLES:]
    failed_attempts = []
    for f, number in shown:
        a = f.attempts[number - 1]
        error = None if a.error is None else a.error[:500]
        final = f.state in UNSUCCESSFUL and number == len(f.attempts)  # earlier attempts were retried
        failed_attempts.append((f.number, number, a.node, a.outcome, error, final))
    return {
        "counts": {NAMES[s]: n for s, n in run.counts.items()},
        "nodes": [
            (
                node.name,
                running,
                {r: from_units(node.used.get(r, 0)) for r in node.capacity if r in resources},
                {r: from_units(n) for r, n in node.capacity.items() if n and r in resources},
            )
            for running, node in busiest
        ],
        "more_nodes": max(0, len(nodes) - MAX_NODES),
        "failed_total": len(run.failed_attempts),
        "lost_total": run.lost_attempts,
        "failed_attempts": failed_attempts,
        "more_failed_attempts": len(new) - len(shown),
        "waiting": run.waiting(time()),
        "eta": None if run.ended else active.estimate.at(active, state),
    }
