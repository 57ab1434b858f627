"""Queues of ready functions.

All functions of a queue have the same cost and the same eligible nodes, so a decision considers only the head
of each queue, its most urgent function. Functions with other costs wait in other queues: there is no
head-of-line blocking.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from handoff_dask._scheduling.functions import FunctionState, State
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.spec import Pins

if TYPE_CHECKING:
    from handoff_dask._scheduling.nodes import Nodes, Rows
    from handoff_dask._scheduling.runs import Run

#: The urgency of a function, the smallest key first: priority of the run and of the function, both negated;
#: dominant share and sequence number of the run; rank and number of the function. Everything that compares
#: functions of different runs uses this order.
SortKey = tuple[int | float, int | float, int, int, float, int]

#: Resource and units, sorted.
Cost = tuple[tuple[str, int], ...]

#: An entry of a queue: negated priority, rank and number of a function; its ticket; the function. An entry is
#: void if the function is no longer ready, or has a newer ticket.
Entry = tuple[Any, ...]

_NO_NAMES: frozenset[Any] = frozenset()


def sort_key(f: FunctionState) -> SortKey:
    """Return the urgency of a function, the smallest key first."""
    run = f.run
    return (-run.spec.priority, -f.kind.priority, run.share, run.sequence, f.rank, f.number)


class QueueKey(NamedTuple):
    """The properties that all functions of a queue share.

    Attributes
    ----------
    cost : Cost
    need : Cost
        The capacity that makes a node eligible: the cost, or for a collocation group the most that any member
        asks for of each resource.
    pins : Pins
        Pins of the function, or of all members of its group.
    bound : Node or None
        The node to which the function's group is bound.
    avoid : frozenset
        Names of nodes on which the function failed. They are used only if no other eligible node is left.
    limit_cost : Cost
        Cost in terms of the run's limits.
    """

    cost: Cost
    need: Cost
    pins: Pins
    bound: Node | None
    avoid: frozenset[Any]
    limit_cost: Cost

    @classmethod
    def of(cls, f: FunctionState) -> QueueKey:
        """Return the key for the current state of a function and its group."""
        group = f.group
        cost = tuple(sorted(f.cost.items()))
        need, bound, pins = cost, None, f.kind.pin_sets
        if group is not None:
            need, pins, bound = tuple(sorted(group.need.items())), group.pins, group.node
        avoid = f.retry.avoid if f.retry is not None else _NO_NAMES
        return cls(cost, need, pins, bound, avoid, tuple(f.limit_cost.items()))


class Queue:
    """The ready functions of one run that share a :class:`QueueKey`, the most urgent first.

    Attributes
    ----------
    key : QueueKey
    run : Run
    cost, need : dict
        The amounts of the key.
    clean : bool
        Whether only freed nodes can serve the head; see :mod:`~handoff_dask._scheduling.backlog`.
    heap : list of Entry
        Void entries included.
    bucket : object
        Where the backlog keeps the queue while it is clean.
    dirty_entry : Entry or None
        The entry with which the queue is on a heap of dirty queues.
    """

    __slots__ = (
        "_avoid",
        "_feasible",
        "_rows",
        "_version",
        "bucket",
        "clean",
        "cost",
        "dirty_entry",
        "heap",
        "key",
        "need",
        "run",
    )

    def __init__(self, key: QueueKey, run: Run) -> None:
        self.key = key
        self.run = run
        self.bucket: Any = None
        self.cost = dict(key.cost)
        self.need = self.cost if key.need == key.cost else dict(key.need)
        self.clean = False
        self.dirty_entry: Entry | None = None
        self.heap: list[Entry] = []
        self._version = -1
        self._feasible = False
        self._rows: Rows | None = None
        self._avoid = _NO_NAMES

    # ------------------------------------------------------------------ functions

    def push(self, f: FunctionState) -> None:
        """Add a function. This voids its older entries, here and in other queues."""
        f.ticket += 1
        heappush(self.heap, (-f.kind.priority, f.rank, f.number, f.ticket, f))

    def head_entry(self) -> Entry | None:
        """Return the entry of the most urgent function, None if the queue is empty.

        Void entries before it are removed.
        """
        heap = self.heap
        while heap:
            entry = heap[0]
            f = entry[4]
            if f.state is State.READY and f.ticket == entry[3]:
                return entry
            heappop(heap)
        return None

    @property
    def head(self) -> FunctionState | None:
        """The most urgent function, None if the queue is empty."""
        entry = self.head_entry()
        return None if entry is None else entry[4]

    def reorder(self) -> None:
        """Sort the queue again, after the ranks of functions have changed."""
        waiting = [f for *_, ticket, f in self.heap if f.state is State.READY and f.ticket == ticket]
        self.heap = [(-f.kind.priority, f.rank, f.number, f.ticket, f) for f in waiting]
        heapify(self.heap)

    @property
    def max_length(self) -> int:
        """An upper bound of the queue's length. Void entries count too: finding them would need a scan."""
        return len(self.heap)

    def __iter__(self) -> Iterator[FunctionState]:
        """Iterate over the functions, the most urgent first. Sorting is lazy."""
        return (entry[4] for entry in self.entries())

    def entries(self) -> Iterator[Entry]:
        """Iterate over the valid entries, the most urgent first. Sorting is lazy."""
        heap = self.heap
        frontier = [(heap[0], 0)] if heap else []
        while frontier:
            entry, at = heappop(frontier)
            f = entry[4]
            if f.state is State.READY and f.ticket == entry[3]:
                yield entry
            for child in range(2 * at + 1, min(2 * at + 3, len(heap))):
                heappush(frontier, (heap[child], child))

    # ------------------------------------------------------------------ nodes

    def _refresh(self, nodes: Nodes) -> None:
        """Compute the eligible nodes, and the nodes to avoid, for the current version of the nodes."""
        self._version = nodes.version
        key = self.key
        self._avoid = key.avoid
        if key.bound is not None:
            here = nodes.by_name.get(key.bound.name) is key.bound and key.bound.holds(self.need)
            nodes.ordered  # noqa: B018 - brings the positions of the nodes up to date
            self._rows = np.array([key.bound.position] if here else [], dtype=np.intp)
            self._avoid = _NO_NAMES
        elif key.pins or key.avoid or self.need is not self.cost:
            self._rows = rows = nodes.holders(self.need, key.pins)
            if key.avoid:
                # Nodes are avoided only while another eligible node accepts functions. A paused node does not
                # count, since it may stay paused indefinitely.
                named = [nodes.by_name.get(name) for name in key.avoid]
                avoided = {n for n in named if n is not None}
                ordered = nodes.ordered
                others = (row for row in rows.tolist() if ordered[row] not in avoided)
                if not any(ordered[row].accepting for row in others):
                    self._avoid = _NO_NAMES
        else:
            self._rows = None
        self._feasible = nodes.can_hold(self.need) if self._rows is None else bool(self._rows.size)

    def rows(self, nodes: Nodes) -> Rows | None:
        """Return the positions of the eligible nodes, including avoided ones.

        Returns
        -------
        array of int or None
            None if every node whose capacity covers the cost is eligible.
        """
        if self._version != nodes.version:
            self._refresh(nodes)
        return self._rows

    def avoided(self, nodes: Nodes) -> frozenset[Any]:
        """Return the names of the nodes that functions of this queue must avoid for now."""
        if self._version != nodes.version:
            self._refresh(nodes)
        return self._avoid

    def admits(self, node: Node, nodes: Nodes) -> bool:
        """Return whether a node, on which the cost fits or will fit, is eligible and not avoided."""
        if self.rows(nodes) is None:
            return True
        key = self.key
        if key.avoid and node.name in self._avoid:
            return False
        if key.bound is not None:
            return node is key.bound and node.holds(self.need)
        if key.pins and not node.allowed(key.pins):
            return False
        return node.holds(self.need)

    def is_feasible(self, nodes: Nodes) -> bool:
        """Return whether any node is eligible: whether one could hold the functions if it were idle."""
        if self._version != nodes.version:
            self._refresh(nodes)
        return self._feasible

    def __repr__(self) -> str:
        return f"<queue of {self.run.spec.run_id}: {dict(self.cost)}, {'clean' if self.clean else 'dirty'}>"
