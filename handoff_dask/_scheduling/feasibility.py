"""Feasibility: functions that no node could hold, or that exceed their run's limits.

Shortfalls report them before a run starts. When nodes leave later, functions without an eligible node wait
for one until the node timeout.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from handoff_dask._model.records import Shortfall
from handoff_dask._scheduling.decisions import Infeasible
from handoff_dask._scheduling.functions import FunctionState
from handoff_dask._scheduling.nodes import Nodes
from handoff_dask._scheduling.queues import Queue
from handoff_dask._scheduling.runs import Run
from handoff_dask._scheduling.shortfalls import after_waiting, limit_shortfall, shortfall_of
from handoff_dask._scheduling.spec import Pins

#: A cost, sorted by resource.
Need = tuple[tuple[str, int], ...]


def find_shortfalls(run: Run, nodes: Nodes) -> tuple[Shortfall, ...]:
    """Return a shortfall for each distinct need in a run that no node could hold, even if it were idle."""
    found = []
    for (need, pins), functions in _by_need(run.functions).items():
        amounts = dict(need)
        if not pins and nodes.can_hold(amounts):
            continue  # the common case, without a comparison with each node
        shortfall = shortfall_of(functions, amounts, pins, nodes.ordered)
        if shortfall is not None:
            found.append(shortfall)
    return tuple(found)


def find_limit_shortfalls(run: Run) -> tuple[Shortfall, ...]:
    """Return a shortfall for each limit cost in a run that exceeds the run's limits."""
    if run.limits is None:
        return ()
    found = []
    by_kind: dict[int, list[FunctionState]] = {}
    for f in run.functions:
        by_kind.setdefault(id(f.limit_cost), []).append(f)
    for functions in by_kind.values():
        cost = functions[0].limit_cost
        if not run.limits.holds(cost):
            found.append(limit_shortfall(functions, cost, run.limits.capacity))
    return tuple(found)


def _by_need(functions: Iterable[FunctionState]) -> dict[tuple[Need, Pins], list[FunctionState]]:
    needs: dict[tuple[Need, Pins], list[FunctionState]] = {}
    known: dict[int, tuple[Need, Pins]] = {}  # by identity of the kind or the group, which are few
    for f in functions:
        source = f.group if f.group is not None else f.kind
        key = known.get(id(source))
        if key is None:
            amounts, pins = (f.cost, f.kind.pin_sets) if f.group is None else (f.group.need, f.group.pins)
            key = known[id(source)] = (tuple(sorted(amounts.items())), pins)
        needs.setdefault(key, []).append(f)
    return needs


class InfeasibleQueues:
    """Queues without an eligible node.

    Parameters
    ----------
    nodes : Nodes
    timeout : float
        Seconds that a function waits for an eligible node.

    Attributes
    ----------
    timeout : float
    since : dict of Queue to (float or None)
        Queue → when it was found to have no eligible node, None before the next :meth:`expire`.
    due : float or None
        When the next queue reaches the timeout. Seconds.
    """

    def __init__(self, nodes: Nodes, timeout: float) -> None:
        self.due: float | None = None
        self._nodes = nodes
        self.timeout = timeout
        self.since: dict[Queue, float | None] = {}

    def add(self, queue: Queue) -> None:
        """Add a queue. Its timeout starts at the next :meth:`expire`."""
        self.since.setdefault(queue, None)

    def forget(self, run: Run) -> None:
        """Remove the queues of a run."""
        waiting = [queue for queue in run.backlog.queues.values() if queue in self.since]
        for queue in waiting:
            del self.since[queue]
        if waiting:  # nothing must wake for their sake
            others = (since for queue, since in self.since.items() if queue.key.bound is None)
            self.due = min((since + self.timeout for since in others if since is not None), default=None)

    def bound_queues(self) -> list[Queue]:
        """Return the queues of groups whose node has become too small for them."""
        return [queue for queue in self.since if queue.key.bound is not None]

    def expire(self, now: float) -> Iterator[Infeasible]:
        """Yield the functions that have reached the timeout, and remove queues that are empty or feasible."""
        self.due = None
        for queue, since in list(self.since.items()):
            if queue.head is None or queue.is_feasible(self._nodes):
                del self.since[queue]
                continue
            if queue.key.bound is not None:
                continue  # other members of the group still run on the node that has shrunk
            if since is None:
                since = self.since[queue] = now
            due = since + self.timeout
            if now >= due:
                del self.since[queue]  # its functions fail; later ones add it again
                yield self._infeasible(queue)
            elif self.due is None or due < self.due:
                self.due = due

    def _infeasible(self, queue: Queue) -> Infeasible:
        functions = list(queue)
        shortfall = shortfall_of(functions, queue.need, queue.key.pins, self._nodes.ordered, started=True)
        assert shortfall is not None
        lost = max(sum(a.outcome == "lost" for a in f.attempts) for f in functions)
        return Infeasible(tuple(functions), after_waiting(shortfall, self.timeout, lost))
