"""Queues of ready functions that wait for a node.

All functions of a queue are served by the same nodes, so a decision looks only at the first of each queue:
a function that waits for one resource never holds up one that needs another.
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

#: Smaller goes first: priorities of run and function negated; dominant share and number of the run; rank and
#: number of the function. This is the one order in which functions are placed.
SortKey = tuple[float, float, int, int, float, int]

#: Resource and units, sorted.
Cost = tuple[tuple[str, int], ...]

#: An entry of a queue: priority negated, rank and number of a function; its ticket; the function.
Entry = tuple[float, float, int, int, FunctionState]

_NO_NAMES: frozenset[Any] = frozenset()


def sort_key(f: FunctionState) -> SortKey:
    """Of a function: smaller goes first."""
    run = f.run
    return (-run.spec.priority, -f.kind.priority, run.share, run.sequence, f.rank, f.number)


class QueueKey(NamedTuple):
    """What functions of one queue of a run have in common.

    Attributes
    ----------
    cost : Cost
    need : Cost
        What a node must be able to hold: the cost, or the most that a member of the group asks for.
    pins : Pins
    bound : Node or None
        The node of the function's group.
    avoid : frozenset
        Names of nodes on which it failed: they come last.
    limit_cost : Cost
    """

    cost: Cost
    need: Cost
    pins: Pins
    bound: Node | None
    avoid: frozenset[Any]
    limit_cost: Cost

    @classmethod
    def of(cls, f: FunctionState) -> QueueKey:
        """The queue in which a function waits as things stand."""
        group = f.group
        cost = tuple(sorted(f.cost.items()))
        need, bound, pins = cost, None, f.kind.pin_sets
        if group is not None:
            need, pins, bound = tuple(sorted(group.need.items())), group.pins, group.node
        avoid = f.retry.avoid if f.retry is not None else _NO_NAMES
        return cls(cost, need, pins, bound, avoid, tuple(f.limit_cost.items()))


class Queue:
    """Functions of one run that wait with one :class:`QueueKey`, the most urgent first.

    Attributes
    ----------
    key : QueueKey
    run : Run
    cost, need : dict
    clean : bool
    heap : list of Entry
        Some are void.
    group : object
        With which others the backlog looks at it while it is clean.
    listed : Entry or None
        Its entry among the dirty queues of the backlog.
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
        """Add a function; any older entry of it, here or elsewhere, becomes void."""
        f.ticket += 1
        heappush(self.heap, (-f.kind.priority, f.rank, f.number, f.ticket, f))

    def head_entry(self) -> Entry | None:
        """The entry of the most urgent function, None if there is none."""
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
        """The most urgent function, None if there is none."""
        entry = self.head_entry()
        return None if entry is None else entry[4]

    def reorder(self) -> None:
        """Sort again: ranks of functions have changed."""
        waiting = [f for *_, ticket, f in self.heap if f.state is State.READY and f.ticket == ticket]
        self.heap = [(-f.kind.priority, f.rank, f.number, f.ticket, f) for f in waiting]
        heapify(self.heap)

    @property
    def max_length(self) -> int:
        """An upper bound of the functions that wait: void entries count, since finding them takes long."""
        return len(self.heap)

    def __iter__(self) -> Iterator[FunctionState]:
        """The functions, the most urgent first. Only as many are sorted as are asked for."""
        return (entry[4] for entry in self.entries())

    def entries(self) -> Iterator[Entry]:
        """The entries of the functions, the most urgent first."""
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
        self._version = nodes.version
        key = self.key
        self._avoid = key.avoid
        if key.bound is not None:
            here = nodes.by_name.get(key.bound.name) is key.bound and key.bound.holds(self.need)
            nodes.ordered  # noqa: B018 - positions are those of this version
            self._rows = np.array([key.bound.position] if here else [], dtype=np.intp)
            self._avoid = _NO_NAMES
        elif key.pins or key.avoid or self.need is not self.cost:
            self._rows = rows = nodes.holders(self.need, key.pins)
            if key.avoid:
                # Another node must be able to take over. A paused one is no better place: nobody knows for
                # how long it is paused.
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
        """Positions of the nodes that could hold its functions, avoided ones too; None: any with room."""
        if self._version != nodes.version:
            self._refresh(nodes)
        return self._rows

    def avoided(self, nodes: Nodes) -> frozenset[Any]:
        """Names of nodes that its functions must not go to as long as others could hold them."""
        if self._version != nodes.version:
            self._refresh(nodes)
        return self._avoid

    def admits(self, node: Node, nodes: Nodes) -> bool:
        """Whether a node that has room for its cost, now or soon, may run its functions."""
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
        """Whether any node could hold its functions if nothing else ran there."""
        if self._version != nodes.version:
            self._refresh(nodes)
        return self._feasible

    def __repr__(self) -> str:
        return f"<queue of {self.run.spec.run_id}: {dict(self.cost)}, {'clean' if self.clean else 'dirty'}>"
