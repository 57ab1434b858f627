"""Functions that wait for a node, grouped by what they ask for.

All functions of one queue are served by the same nodes and need the same there, so that a decision looks
only at the head of each queue: what waits for one resource never stands in the way of what needs another,
and a decision's cost does not grow with the number of functions that wait.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from enum import Enum
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, NamedTuple

from handoff_dask._scheduling.functions import FunctionState, State
from handoff_dask._scheduling.ledger import Node
from handoff_dask._scheduling.spec import Pins

if TYPE_CHECKING:
    from handoff_dask._scheduling.runs import Run

#: Smaller goes first: priorities of run and function negated, the run's share of the cluster, its number; of
#: the function, rank and number.
Urgency = tuple[float, float, int, int, float, int]

#: The same without the share, which changes all the time.
Standing = tuple[float, float, int, float, int]


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
        Name of the allocator; of one of the user's own, the id of the run.
    run : str
        Id of the run: runs take turns, and its limits block only its own functions.
    limit_cost : tuple of (name, units)
    """

    cost: tuple[tuple[str, int], ...]
    need: tuple[tuple[str, int], ...]
    pins: Pins
    bound: Hashable
    avoid: frozenset[Any]
    strategy: str
    run: str
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
    return QueueKey(
        cost,
        need,
        pins,
        bound,
        f.avoid,
        run.spec.run_id if run.has_allocator else run.spec.strategy,
        run.spec.run_id,
        () if run.limits is None else tuple(f.limit_cost.items()),
    )


class Parked(Enum):
    """What the functions of a queue wait for."""

    #: Room on a node.
    NODES = "nodes"
    #: Limits of their run.
    LIMITS = "limits"
    #: A node that could hold them at all.
    CAPACITY = "capacity"
    #: The allocator of their run.
    ALLOCATOR = "allocator"


class Queue:
    """Functions that wait with one :class:`QueueKey`, the most urgent first.

    Attributes
    ----------
    key : QueueKey
    run : Run
    cost : dict
    need : dict
        The cost itself where no group asks for more.
    restricted : bool
        Whether not every node that has the room will do.
    eligible : dict of Node
        Of a restricted queue: nodes that could hold its functions, by name; valid for ``topology``.
    topology : int
        Version of the set of nodes that ``eligible`` and ``possible`` were made from.
    possible : bool
        Whether any node could hold its functions.
    parked : Parked or None
        What its functions wait for; None when that has to be found out.
    tried : int
        Number of the decision in which it was last looked at in vain.
    shelves, seen
        Where there was room when it last looked for it; kept by the fleet.
    starved_since : float or None
        Since when no node could hold its functions at all.
    """

    __slots__ = (
        "_heap",
        "cost",
        "eligible",
        "key",
        "need",
        "parked",
        "possible",
        "restricted",
        "run",
        "seen",
        "shelves",
        "starved_since",
        "topology",
        "tried",
    )

    def __init__(self, key: QueueKey, run: Run) -> None:
        self.key = key
        self.run = run
        self.cost = dict(key.cost)
        self.need = self.cost if key.need == key.cost else dict(key.need)
        self.restricted = bool(key.pins or key.avoid or key.bound is not None)
        self.eligible: dict[Node, None] = {}
        self.topology = -1
        self.possible = False
        self.parked: Parked | None = None
        self.tried = -1
        self.shelves: list[Any] | None = None
        self.seen = 0
        self.starved_since: float | None = None
        # Priority negated, rank, number, ticket.
        self._heap: list[tuple[float, float, int, int, FunctionState]] = []

    def push(self, f: FunctionState) -> None:
        """Add a function; any older entry of it, here or elsewhere, becomes void."""
        f.ticket += 1
        heappush(self._heap, (-f.kind.priority, f.rank, f.number, f.ticket, f))

    def reorder(self) -> None:
        """Take note that ranks of functions have changed."""
        waiting = [f for *_, ticket, f in self._heap if f.state is State.READY and f.ticket == ticket]
        self._heap = [(-f.kind.priority, f.rank, f.number, f.ticket, f) for f in waiting]
        heapify(self._heap)

    def head(self) -> FunctionState | None:
        """The most urgent function, None when there is none."""
        heap = self._heap
        while heap:
            _, _, _, ticket, f = heap[0]
            if f.state is State.READY and f.ticket == ticket:
                return f
            heappop(heap)
        return None

    @property
    def at_most(self) -> int:
        """How many functions wait at most: void entries are counted too, since finding them takes long."""
        return len(self._heap)

    @property
    def urgency(self) -> Urgency:
        """Of the head: smaller goes first. There must be a head."""
        run = self.run
        priority, rank, number, _, _ = self._heap[0]
        return (-run.spec.priority, priority, run.share, run.sequence, rank, number)

    @property
    def standing(self) -> Standing:
        """Of the head: its urgency but for what its run has. There must be a head."""
        priority, rank, number, _, _ = self._heap[0]
        return (-self.run.spec.priority, priority, self.run.sequence, rank, number)

    def __iter__(self) -> Iterator[FunctionState]:
        for *_, ticket, f in sorted(self._heap):
            if f.state is State.READY and f.ticket == ticket:
                yield f


class QueueHeap:
    """Queues that take part in a decision; the one with the most urgent function comes first."""

    __slots__ = ("_entries", "_pushed")

    def __init__(self) -> None:
        self._entries: list[tuple[Urgency, int, Queue]] = []
        self._pushed = 0

    def push(self, queue: Queue) -> None:
        """Add a queue, if there is anything in it."""
        if queue.head() is not None:
            self._pushed += 1
            heappush(self._entries, (queue.urgency, self._pushed, queue))

    def pop(self) -> Queue | None:
        """Take the first queue away; it has a function. None when there is none left."""
        while self._entries:
            urgency, _, queue = heappop(self._entries)
            if queue.parked is None and queue.head() is not None:
                if queue.urgency == urgency:
                    return queue
                self.push(queue)  # its head was bound, or its run has ended, or has more than it had
        return None

    def __iter__(self) -> Iterator[Queue]:
        return (queue for _, _, queue in self._entries)


def urgency_of(f: FunctionState) -> Urgency:
    """Of a function: smaller goes first."""
    run = f.run
    return (-run.spec.priority, -f.kind.priority, run.share, run.sequence, f.rank, f.number)


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
