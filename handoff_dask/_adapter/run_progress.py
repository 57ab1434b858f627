"""How far a run is, for those who watch it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distributed.metrics import monotonic, time

from handoff_dask._model.resources import from_units
from handoff_dask._scheduling.bounds import TimeLeft, time_left
from handoff_dask._scheduling.functions import FINAL, NAMES, State

if TYPE_CHECKING:
    from handoff_dask._adapter.active import ActiveRun
    from handoff_dask._scheduling.state import SchedulingState

#: Most nodes and attempts in one answer.
MOST_NODES, MOST_TROUBLES = 12, 10

#: States of functions that have failed, or whose run has ended: there is no other attempt.
NEVER = FINAL - {State.FINISHED}

#: Share of the scheduler's time that estimates may take.
SHARE = 0.01


class Estimate:
    """How long a run will go on: worked out anew when that does not take much of the scheduler's time."""

    def __init__(self) -> None:
        self._left: TimeLeft | None = None
        self._made = 0.0
        self._due = 0.0

    def at(self, active: ActiveRun, state: SchedulingState) -> TimeLeft | None:
        """The estimate now."""
        begin = monotonic()
        if begin >= self._due:
            placement = state.placement
            self._left = time_left(active.run, placement.nodes, placement.estimates, time())
            self._made = monotonic()
            self._due = self._made + (self._made - begin) / SHARE
        elif self._left is not None:
            return TimeLeft(max(0.0, self._left.seconds - (begin - self._made)), self._left.known)
        return self._left


def progress(active: ActiveRun, state: SchedulingState, seen: int) -> dict[str, Any]:
    """What :class:`Progress` is made of, after somebody has seen so many attempts that came to nothing."""
    run = active.run
    nodes = [] if run.ended else state.placement.nodes.ordered  # what they do then is no longer of interest
    loads = [(sum(f.run is run for f in node.running), node) for node in nodes]
    busiest = sorted(loads, key=lambda load: -load[0])[:MOST_NODES]
    busiest.sort(key=lambda load: load[1].position)  # each stays in its place
    resources = {name for kind in run.spec.kinds for name, _ in kind.cost}
    new = run.failed_attempts[seen:]
    shown = new[-MOST_TROUBLES:]
    troubles = []
    for f, number in shown:
        a = f.attempts[number - 1]
        error = None if a.error is None else a.error[:500]
        final = f.state in NEVER and number == len(f.attempts)  # those before it were retried
        troubles.append((f.number, number, a.node, a.outcome, error, final))
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
        "more_nodes": max(0, len(nodes) - MOST_NODES),
        "tries": len(run.failed_attempts),
        "troubles": troubles,
        "more_troubles": len(new) - len(shown),
        "waiting": run.waiting(time()),
        "remaining": None if run.ended else active.estimate.at(active, state),
    }
