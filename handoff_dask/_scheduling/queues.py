"""Ready functions that wait for a node: one queue for each run and cost, and the backlog of a run.

All functions of a queue are served by the same nodes, so a decision looks only at the first of each queue:
a function that waits for one resource never holds up one that needs another.

A queue is *clean* while it is known that no node has room for its first function, except perhaps nodes on
which capacity was freed since; otherwise it is *dirty*.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from handoff_dask._scheduling.functions import AT_ONCE, FunctionState, State
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.spec import Amounts, Pins

if TYPE_CHECKING:
    from handoff_dask._scheduling.nodes import Nodes, Rows
    from handoff_dask._scheduling.runs import Run

#: Smaller goes first: priorities of run and function negated; dominant share and number of the run; rank and
#: number of the function. This is the one order in which functions are placed.
SortKey = tuple[float, float, int, int, float, int]

#: An entry of a queue: priority negated, rank and number of a function; its ticket; the function.
Entry = tuple[float, float, int, int, FunctionState]

#: Costs below one node of the tree in which a run's costs are kept.
_FANOUT = 8

_NOBODY: frozenset[Any] = frozenset()


def sort_key(f: FunctionState) -> SortKey:
    """Of a function: smaller goes first."""
    run = f.run
    return (-run.spec.priority, -f.kind.priority, run.share, run.sequence, f.rank, f.number)


class QueueKey(NamedTuple):
    """What functions of one queue of a run have in common.

    Attributes
    ----------
    cost : tuple of (resource, units)
    need : tuple of (resource, units)
        What a node must be able to hold: the cost, or the most that a member of the group asks for.
    pins : Pins
    bound : Node or None
        The node of the function's group.
    avoid : frozenset
        Names of nodes on which it failed: they come last.
    limit_cost : tuple of (name, units)
    """

    cost: tuple[tuple[str, int], ...]
    need: tuple[tuple[str, int], ...]
    pins: Pins
    bound: Node | None
    avoid: frozenset[Any]
    limit_cost: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, f: FunctionState) -> QueueKey:
        """The queue in which a function waits as things stand."""
        group = f.group
        cost = tuple(sorted(f.cost.items()))
        need, bound, pins = cost, None, f.kind.pin_sets
        if group is not None:
            need, pins, bound = tuple(sorted(group.need.items())), group.pins, group.node
        avoid = f.retry.avoid if f.retry is not None else _NOBODY
        return cls(cost, need, pins, bound, avoid, tuple(f.limit_cost.items()))


class Queue:
    """Functions of one run that wait with one :class:`QueueKey`, the most urgent first.

    Attributes
    ----------
    key : QueueKey
    run : Run
    cost, need, limit_cost : dict
    clean : bool
    heap : list of Entry
        Some are void.
    listed : Entry or None
        Its entry among the dirty queues of the backlog.
    """

    __slots__ = (
        "_avoid",
        "_possible",
        "_rows",
        "_version",
        "clean",
        "cost",
        "heap",
        "key",
        "leaf",
        "limit_cost",
        "listed",
        "need",
        "run",
    )

    def __init__(self, key: QueueKey, run: Run, leaf: _Leaf) -> None:
        self.key = key
        self.run = run
        self.leaf = leaf
        self.cost = dict(key.cost)
        self.need = self.cost if key.need == key.cost else dict(key.need)
        self.limit_cost = dict(key.limit_cost)
        self.clean = False
        self.listed: Entry | None = None
        self.heap: list[Entry] = []
        self._version = -1
        self._possible = False
        self._rows: Rows | None = None
        self._avoid = _NOBODY

    # ------------------------------------------------------------------ functions

    def push(self, f: FunctionState) -> None:
        """Add a function; any older entry of it, here or elsewhere, becomes void."""
        f.ticket += 1
        heappush(self.heap, (-f.kind.priority, f.rank, f.number, f.ticket, f))

    def first(self) -> Entry | None:
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
        entry = self.first()
        return None if entry is None else entry[4]

    def reorder(self) -> None:
        """Sort again: ranks of functions have changed."""
        waiting = [f for *_, ticket, f in self.heap if f.state is State.READY and f.ticket == ticket]
        self.heap = [(-f.kind.priority, f.rank, f.number, f.ticket, f) for f in waiting]
        heapify(self.heap)

    @property
    def at_most(self) -> int:
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

    def _look_up(self, nodes: Nodes) -> None:
        self._version = nodes.version
        key = self.key
        self._avoid = key.avoid
        if key.bound is not None:
            here = nodes.by_name.get(key.bound.name) is key.bound and key.bound.holds(self.need)
            nodes.ordered  # noqa: B018 - positions are those of this version
            self._rows = np.array([key.bound.position] if here else [], dtype=np.intp)
            self._avoid = _NOBODY
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
                    self._avoid = _NOBODY
        else:
            self._rows = None
        self._possible = nodes.can_hold(self.need) if self._rows is None else bool(self._rows.size)

    def rows(self, nodes: Nodes) -> Rows | None:
        """Positions of the nodes that could hold its functions, avoided ones too; None: any with room."""
        if self._version != nodes.version:
            self._look_up(nodes)
        return self._rows

    def avoided(self, nodes: Nodes) -> frozenset[Any]:
        """Names of nodes that its functions must not go to as long as others could hold them."""
        if self._version != nodes.version:
            self._look_up(nodes)
        return self._avoid

    def admits(self, node: Node, nodes: Nodes) -> bool:
        """Whether a node is one of those that could hold its functions."""
        if self.rows(nodes) is None:
            return node.holds(self.need)
        key = self.key
        if key.avoid and node.name in self._avoid:
            return False
        if key.bound is not None:
            return node is key.bound and node.holds(self.need)
        if key.pins and not node.allowed(key.pins):
            return False
        return node.holds(self.need)

    def is_possible(self, nodes: Nodes) -> bool:
        """Whether any node could hold its functions if nothing else ran there."""
        if self._version != nodes.version:
            self._look_up(nodes)
        return self._possible

    def __repr__(self) -> str:
        return f"<queue of {self.run.spec.run_id}: {dict(self.cost)}, {'clean' if self.clean else 'dirty'}>"


class _Leaf:
    """The clean queues of one cost. An entry may be void: this is checked only of the one that is chosen."""

    __slots__ = ("cost", "parent", "queues")

    def __init__(self, cost: tuple[tuple[str, int], ...]) -> None:
        self.cost = cost
        self.queues: dict[Queue, None] = {}
        self.parent: _Branch | None = None

    def touch(self) -> None:
        """Note that the first function of one of its queues has changed."""
        if self.parent is not None:
            self.parent.touch()

    def first(self) -> tuple[Entry, Queue] | None:
        """The most urgent entry of its queues, and where it is."""
        best: tuple[Entry, Queue] | None = None
        for queue in self.queues:
            heap = queue.heap
            if heap and (best is None or heap[0] < best[0]):
                best = heap[0], queue
        return best


class _Branch:
    """Costs that are alike: the least and the most of each resource that any of them asks for.

    Attributes
    ----------
    low, high : tuple of (resource, units)
    """

    __slots__ = ("_best", "_known", "children", "high", "low", "parent")

    def __init__(self, leaves: Sequence[_Leaf]) -> None:
        self.parent: _Branch | None = None
        self._best: tuple[Entry, Queue] | None = None
        self._known = False
        self.children: list[_Branch | _Leaf] = []
        names = dict.fromkeys(name for leaf in leaves for name, _ in leaf.cost)
        costs = [dict(leaf.cost) for leaf in leaves]
        low = {name: min(cost.get(name, 0) for cost in costs) for name in names}
        high = {name: max(cost.get(name, 0) for cost in costs) for name in names}
        self.low = tuple((name, units) for name, units in low.items() if units)
        self.high = tuple(high.items())
        if len(leaves) <= _FANOUT:
            self.children = list(leaves)
        else:
            # Split where the costs differ most, relative to the largest.
            widest = max(names, key=lambda name: (high[name] - low[name]) / max(1, high[name]))
            leaves = sorted(leaves, key=lambda leaf: dict(leaf.cost).get(widest, 0))
            step = -(-len(leaves) // _FANOUT)
            parts = [leaves[at : at + step] for at in range(0, len(leaves), step)]
            self.children = [part[0] if len(part) == 1 else _Branch(part) for part in parts]
        for child in self.children:
            child.parent = self

    def first(self) -> tuple[Entry, Queue] | None:
        """The most urgent entry of all queues below."""
        if not self._known:
            self._known = True
            self._best = None
            for child in self.children:
                best = child.first()
                if best is not None and (self._best is None or best[0] < self._best[0]):
                    self._best = best
        return self._best

    def touch(self) -> None:
        """Note that the first function of a queue below has changed."""
        branch: _Branch | None = self
        while branch is not None and branch._known:
            branch._known = False
            branch = branch.parent


def _fits(cost: tuple[tuple[str, int], ...], room: Amounts) -> bool:
    for name, units in cost:  # noqa: SIM110 - a generator takes longer than what it looks at
        if units > room.get(name, 0):
            return False
    return True


class Backlog:
    """The queues of a run.

    Dirty queues are on heaps, one for each limit cost. Clean queues are in a tree over the costs that the
    functions of the run have: what fits into freed capacity is found without a look at each.

    Parameters
    ----------
    costs : collection of tuple
        All costs that functions of the run have, each sorted.

    Attributes
    ----------
    queues : dict of QueueKey to Queue
        Those with functions, and some without.
    usual : dict of int to Queue
        By ``id`` of the kind: queues of functions that have no group and never failed.
    """

    __slots__ = ("_costs", "_dirty", "_pushed", "_tree", "queues", "usual")

    def __init__(self, costs: Collection[tuple[tuple[str, int], ...]]) -> None:
        self.queues: dict[QueueKey, Queue] = {}
        self.usual: dict[int, Queue] = {}
        self._costs = {cost: _Leaf(cost) for cost in costs}
        self._tree = _Branch(list(self._costs.values()))
        self._dirty: dict[tuple[tuple[str, int], ...], list[tuple[Entry, int, Queue]]] = {}
        self._pushed = 0

    def queue_of(self, f: FunctionState) -> Queue:
        """The queue in which a function waits, or would."""
        usual = f.group is None and f.retry is AT_ONCE
        queue = self.usual.get(id(f.kind)) if usual else None
        if queue is None:
            key = QueueKey.of(f)
            queue = self.queues.get(key)
            if queue is None:
                queue = self.queues[key] = Queue(key, f.run, self._costs[key.cost])
            if usual:
                self.usual[id(f.kind)] = queue
        return queue

    def push(self, f: FunctionState) -> Queue:
        """Add a ready function."""
        queue = self.queue_of(f)
        if queue.clean and queue.first() is None:
            self.soil(queue)  # nobody has compared it with what was freed while it was empty
        queue.push(f)
        if queue.head is f:
            if queue.clean:
                queue.leaf.touch()
            else:
                self.soil(queue)
        return queue

    def soil(self, queue: Queue) -> None:
        """Make a queue dirty, or note that a dirty queue has another first function."""
        if queue.clean:
            self.set_aside(queue)
            queue.clean = False
        entry = queue.first()
        if entry is not None and queue.listed is not entry:
            queue.listed = entry
            self._pushed += 1
            heappush(self._dirty.setdefault(queue.key.limit_cost, []), (entry, self._pushed, queue))

    def set_aside(self, queue: Queue) -> None:
        """Note that no node has room for a queue's first function, and leave it out until :meth:`clean`."""
        queue.clean = True
        queue.listed = None
        if queue.leaf.queues.pop(queue, self) is None:
            queue.leaf.touch()

    def clean(self, queue: Queue) -> None:
        """Let a queue that was set aside take part again."""
        if queue.clean:
            queue.leaf.queues[queue] = None
            queue.leaf.touch()

    def took(self, queue: Queue) -> None:
        """Note that the first function of a queue was placed."""
        if queue.first() is None:
            if queue.clean:
                self.soil(queue)
            if queue.key.avoid or queue.key.bound is not None:
                self.queues.pop(queue.key, None)  # there may be any number of these
        elif queue.clean:
            queue.leaf.touch()
        else:
            self.soil(queue)

    def first_dirty(self, limits: Amounts | None) -> tuple[Entry, Queue] | None:
        """The most urgent entry of dirty queues whose limit costs are free."""
        best: tuple[Entry, Queue] | None = None
        for limit_cost, heap in self._dirty.items():
            if not heap:
                continue
            if limits is not None and not _fits(limit_cost, limits):
                continue
            while heap:
                entry, _, queue = heap[0]
                if not queue.clean and queue.first() is entry:
                    if best is None or entry < best[0]:
                        best = entry, queue
                    break
                heappop(heap)
                if queue.listed is entry:
                    queue.listed = None
                    if not queue.clean:
                        self.soil(queue)  # its first function was withdrawn or cancelled
        return best

    def first_clean(self, room: Amounts) -> tuple[Entry, Queue] | None:
        """The most urgent entry of clean queues whose cost fits into ``room``."""
        while True:
            found = _search(self._tree, room, None)
            if found is None or found[1].first() is found[0]:
                return found
            found[1].leaf.touch()  # its first function was withdrawn or cancelled

    def most_urgent(self) -> tuple[Entry, Queue] | None:
        """The most urgent entry of all clean queues."""
        best = self._tree.first()
        while best is not None and best[1].first() is not best[0]:
            best[1].leaf.touch()
            best = self._tree.first()
        return best

    def clear(self) -> None:
        """Forget all queues."""
        for queue in self.queues.values():
            if queue.clean:
                self.set_aside(queue)
        self.queues.clear()
        self.usual.clear()
        self._dirty.clear()

    def heads(self, most: int) -> Iterator[tuple[Entry, Queue]]:
        """The first entries of so many queues, in no order."""
        for queue in islice(self.queues.values(), most):
            entry = queue.first()
            if entry is not None:
                yield entry, queue

    def reorder(self) -> None:
        """Sort again: ranks of functions have changed."""
        for queue in self.queues.values():
            queue.reorder()
            if queue.clean:
                queue.leaf.touch()
            else:
                self.soil(queue)


def _search(branch: _Branch, room: Amounts, best: tuple[Entry, Queue] | None) -> tuple[Entry, Queue] | None:
    """The most urgent entry below a branch whose cost fits into ``room``, if it comes before ``best``."""
    for child in branch.children:
        if isinstance(child, _Leaf):
            found = child.first() if child.queues else None
            if found is not None and (best is None or found[0] < best[0]) and _fits(child.cost, room):
                best = found
        elif _fits(child.low, room):
            found = child.first()
            if found is not None and (best is None or found[0] < best[0]):
                best = found if _fits(child.high, room) else _search(child, room, best)
    return best
