"""Functions that wait for a node, grouped by what they ask for.

All functions of one queue are served by the same nodes and need the same there, so that a decision looks
only at the head of each queue: what waits for one resource never stands in the way of what needs another,
and a decision's cost does not grow with the number of functions that wait.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from heapq import heappop, heappush
from typing import Any, NamedTuple

from handoff_dask._scheduling.functions import FunctionState, State
from handoff_dask._scheduling.ledger import Node
from handoff_dask._scheduling.spec import Pins

#: Smaller goes first: priorities of run and function negated, number of the run, rank, number.
Urgency = tuple[float, float, int, float, int]


class QueueKey(NamedTuple):
    """What functions of one queue have in common.

    Attributes
    ----------
    cost : tuple of (resource, units)
    need : tuple of (resource, units)
        What a node must be able to hold: the cost, or the most that a member of the group asks.
    pins : Pins
    bound : hashable
        Name of the node that the function's group is on, ``None`` when it has no group or place yet.
    avoid : frozenset
        Nodes to avoid when others will do.
    strategy : str
    run : str or None
        Id of the run when it has limits of its own, which block only its own functions.
    limit_cost : tuple of (name, units)
    """

    cost: tuple[tuple[str, int], ...]
    need: tuple[tuple[str, int], ...]
    pins: Pins
    bound: Hashable
    avoid: frozenset[Any]
    strategy: str
    run: str | None
    limit_cost: tuple[tuple[str, int], ...]


def queue_key(f: FunctionState) -> QueueKey:
    """The queue in which ``f`` waits as things stand."""
    run, group = f.run, f.group
    cost = tuple(sorted(f.cost.items()))
    need, bound, pins = cost, None, f.kind.pin_sets
    if group is not None:
        need, pins = tuple(sorted(group.need.items())), group.pins
        if group.node is not None:
            bound = group.node.name
    limited = run.limits is not None
    return QueueKey(
        cost,
        need,
        pins,
        bound,
        f.avoid,
        run.spec.strategy,
        run.spec.run_id if limited else None,
        tuple(f.limit_cost.items()) if limited else (),
    )


class Queue:
    """Functions that wait with one :class:`QueueKey`, the most urgent first.

    Attributes
    ----------
    key : QueueKey
    cost : dict
    eligible : list of Node
        Nodes that could hold its functions, by name; valid for ``topology``.
    topology : int
        Version of the set of nodes that ``eligible`` was made from.
    blocked : int
        Version of the ledger at which nothing of this queue fitted.
    starved_since : float or None
        Since when no node could hold its functions at all.
    """

    __slots__ = ("_heap", "blocked", "cost", "eligible", "key", "starved_since", "topology")

    def __init__(self, key: QueueKey) -> None:
        self.key = key
        self.cost = dict(key.cost)
        self.eligible: list[Node] = []
        self.topology = -1
        self.blocked = -1
        self.starved_since: float | None = None
        self._heap: list[tuple[Urgency, int, FunctionState]] = []

    def push(self, f: FunctionState) -> None:
        """Add a function; any older entry of it, here or elsewhere, becomes void."""
        f.ticket += 1
        run = f.run
        urgency = (-run.spec.priority, -f.kind.priority, run.sequence, f.rank, f.number)
        heappush(self._heap, (urgency, f.ticket, f))

    def reorder(self) -> None:
        """Take note that ranks of functions have changed."""
        waiting = list(self)
        self._heap.clear()
        for f in waiting:
            self.push(f)

    def head(self) -> FunctionState | None:
        """The most urgent function, None when there is none."""
        heap = self._heap
        while heap:
            _, ticket, f = heap[0]
            if f.state is State.READY and f.ticket == ticket:
                return f
            heappop(heap)
        return None

    @property
    def urgency(self) -> Urgency:
        """Of the head: smaller goes first. There must be a head."""
        return self._heap[0][0]

    def __iter__(self) -> Iterator[FunctionState]:
        for _, ticket, f in sorted(self._heap):
            if f.state is State.READY and f.ticket == ticket:
                yield f


def eligible_nodes(key: QueueKey, nodes: Iterable[Node]) -> list[Node]:
    """Nodes that could hold functions of this key if nothing else ran there, in the order given."""
    need = dict(key.need)
    if key.bound is not None:
        return [n for n in nodes if n.name == key.bound and n.holds(need)]
    found = [n for n in nodes if n.allowed(key.pins) and n.holds(need)]
    if key.avoid:
        # One that is paused is no better place: nobody knows for how long.
        others = [n for n in found if n.accepting and n.name not in key.avoid]
        return others or found
    return found
