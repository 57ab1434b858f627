"""The scheduling core on a virtual clock, with given durations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush

from handoff_dask._scheduling.decisions import Place, Settings
from handoff_dask._scheduling.functions import FunctionState
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.runs import Run
from handoff_dask._scheduling.spec import RunSpec
from handoff_dask._scheduling.state import SchedulingState

#: A simulation has no round trips, so prefetching has no purpose.
SETTINGS = Settings(prefetch_horizon=0.0)


class Simulation:
    """One run on dedicated nodes, from time 0 to its end.

    Parameters
    ----------
    nodes : iterable of Node
    spec : RunSpec
    seconds : sequence of float
        Function number → duration.
    nbytes : int
        Size of each result in bytes.

    Attributes
    ----------
    state : SchedulingState
    run : Run
        It has ended after :meth:`play`, unless it stalled because functions could not be placed.
    now : float
        Time on the virtual clock, in seconds.
    peak_results : int
        Maximum number of results alive at the same time. A result is alive until its last dependent has
        finished; results of sinks are alive until the end.
    """

    def __init__(
        self, nodes: Iterable[Node], spec: RunSpec, seconds: Sequence[float], nbytes: int = 0
    ) -> None:
        self.state = SchedulingState(SETTINGS)
        for node in nodes:
            self.state.node_joined(node, 0.0)
        self.run: Run = self.state.run_added(spec, 0.0)
        self.now = 0.0
        self.peak_results = 0
        self._seconds = seconds
        self._nbytes = nbytes

    def play(self) -> None:
        """Advance the clock from event to event until no event is left."""
        state, functions, seconds = self.state, self.run.functions, self._seconds
        dependents = self.run.spec.dependents
        inputs = self.run.inputs
        missing = [len(needed) for needed in inputs]
        uses = [len(later) for later in dependents]
        for f in functions:
            if not missing[f.number]:
                state.ready(f, 0.0)
        ends: list[tuple[float, int, float, FunctionState]] = []
        placed = alive = 0
        while True:
            now = self.now
            for decision in state.decide(now):
                if type(decision) is Place:
                    f = decision.function
                    placed += 1
                    heappush(ends, (now + seconds[f.number], placed, now, f))
            wake = state.next_wake()
            if wake == -math.inf:
                continue  # the decision has ended a claim, so decide again
            if wake is not None and wake > now and (not ends or wake < ends[0][0]):
                self.now = wake
                continue
            if not ends:
                return
            self.now = now = ends[0][0]
            while ends and ends[0][0] == now:
                _, _, started, f = heappop(ends)
                number = f.number
                state.finished(f, now, started=started, stopped=now, nbytes=self._nbytes)
                alive += 1
                if alive > self.peak_results:
                    self.peak_results = alive
                for n in inputs[number]:
                    uses[n] -= 1
                    alive -= not uses[n]
                for d in dependents[number]:
                    missing[d] -= 1
                    if not missing[d]:
                        state.ready(functions[d], now)
