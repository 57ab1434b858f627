"""The backlog of a run: all its queues, and which of them may fit into capacity that was freed.

A queue is *clean* while it is known that no node has room for its first function, except perhaps nodes on
which capacity was freed since; otherwise it is *dirty*.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from handoff_dask._scheduling.functions import FIRST_TRY, FunctionState
from handoff_dask._scheduling.node import Node, Pool
from handoff_dask._scheduling.queues import Cost, Entry, Queue, QueueKey
from handoff_dask._scheduling.spec import Amounts

if TYPE_CHECKING:
    from handoff_dask._scheduling.candidates import Freed

#: Costs below one node of the tree in which a run's costs are kept.
_FANOUT = 8

#: The most urgent entry of some queues, and where it is. It may be void until it was checked.
Head = tuple[Entry, Queue]


class _Bucket:
    """Clean queues that are looked at together."""

    __slots__ = ("queues",)

    def __init__(self) -> None:
        self.queues: dict[Queue, None] = {}

    def invalidate(self) -> None:
        """Note that the first function of one of its queues has changed."""


class _Leaf(_Bucket):
    """The clean queues of one cost that any node may serve."""

    __slots__ = ("cost", "parent")

    def __init__(self, cost: Cost) -> None:
        super().__init__()
        self.cost = cost
        self.parent: _Branch | None = None

    def invalidate(self) -> None:
        if self.parent is not None:
            self.parent.invalidate()

    def first(self) -> Head | None:
        """The most urgent entry of its queues, and where it is."""
        best: Head | None = None
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

    __slots__ = ("_best", "_valid", "children", "high", "low", "parent")

    def __init__(self, leaves: Sequence[_Leaf]) -> None:
        self.parent: _Branch | None = None
        self._best: Head | None = None
        self._valid = False
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

    def first(self) -> Head | None:
        """The most urgent entry of all queues below."""
        if not self._valid:
            self._valid = True
            self._best = None
            for child in self.children:
                best = child.first()
                if best is not None and (self._best is None or best[0] < self._best[0]):
                    self._best = best
        return self._best

    def invalidate(self) -> None:
        """Note that the first function of a queue below has changed."""
        branch: _Branch | None = self
        while branch is not None and branch._valid:
            branch._valid = False
            branch = branch.parent


def _fits(cost: Cost, room: Amounts) -> bool:
    for name, units in cost:  # noqa: SIM110 - a generator takes longer than what it looks at
        if units > room.get(name, 0):
            return False
    return True


class Backlog:
    """The queues of a run.

    Dirty queues are on heaps, one for each limit cost. Clean queues are in a tree over the costs that the
    functions of the run have: what fits into freed capacity is found without a look at each. Those that few
    nodes may serve, for a pin or since their group is bound to a node, are listed with these.

    Parameters
    ----------
    costs : collection of Cost
        All costs that functions of the run have.

    Attributes
    ----------
    queues : dict of QueueKey to Queue
        Those with functions, and some without.
    on_dirty : callable
        Called when a queue becomes dirty.
    """

    __slots__ = ("_by_kind", "_by_node", "_dirty", "_leaves", "_pushes", "_tree", "on_dirty", "queues")

    def __init__(self, costs: Collection[Cost]) -> None:
        self.queues: dict[QueueKey, Queue] = {}
        self.on_dirty: Callable[[], object] = lambda: None
        self._by_kind: dict[int, Queue] = {}  # by id of the kind: of functions without a group or a failure
        self._dirty: dict[Cost, list[tuple[Entry, int, Queue]]] = {}
        self._pushes = 0
        self._leaves = {cost: _Leaf(cost) for cost in costs}
        self._tree = _Branch(list(self._leaves.values()))
        self._by_node: dict[Node | str, _Bucket] = {}  # by the node, or by the one name that its pin allows

    # ------------------------------------------------------------------ functions

    def queue_of(self, f: FunctionState) -> Queue:
        """The queue in which a function waits, or would."""
        usual = f.group is None and f.retry is FIRST_TRY
        queue = self._by_kind.get(id(f.kind)) if usual else None
        if queue is None:
            key = QueueKey.of(f)
            queue = self.queues.get(key)
            if queue is None:
                queue = self.queues[key] = Queue(key, f.run)
                queue.bucket = self._bucket_for(key)
            if usual:
                self._by_kind[id(f.kind)] = queue
        return queue

    def _bucket_for(self, key: QueueKey) -> _Bucket:
        """With which others a queue is looked at."""
        where: Node | str | None = key.bound
        if where is None and key.pins:
            fewest = min(key.pins, key=len)
            where = next(iter(fewest)) if len(fewest) == 1 else None
        if where is None:
            return self._leaves[key.cost]
        return self._by_node.setdefault(where, _Bucket())

    def push(self, f: FunctionState) -> Queue:
        """Add a ready function."""
        queue = self.queue_of(f)
        before = queue.head_entry()
        queue.push(f)
        if before is None:
            self.mark_dirty(queue)  # while it was empty, it was not compared with freed capacity
        elif queue.heap[0] is not before:
            if queue.clean:
                queue.bucket.invalidate()
            else:
                self.mark_dirty(queue)
        return queue

    def advance(self, queue: Queue) -> None:
        """Note that the first function of a queue was placed."""
        if queue.head_entry() is None:
            if queue.clean:
                self.mark_dirty(queue)
            if queue.key.avoid or queue.key.bound is not None:
                self.queues.pop(queue.key, None)  # there may be any number of these
        elif queue.clean:
            queue.bucket.invalidate()
        else:
            self.mark_dirty(queue)

    def reorder(self) -> None:
        """Sort again: ranks of functions have changed."""
        for queue in self.queues.values():
            queue.reorder()
            if queue.clean:
                queue.bucket.invalidate()
            else:
                self.mark_dirty(queue)

    def clear(self) -> None:
        """Forget all queues."""
        for queue in self.queues.values():
            queue.bucket.queues.pop(queue, None)
            queue.bucket.invalidate()
        self.queues.clear()
        self._by_kind.clear()
        self._dirty.clear()
        self._by_node.clear()

    # ------------------------------------------------------------------ clean and dirty

    def mark_dirty(self, queue: Queue) -> None:
        """Make a queue dirty, or note that a dirty queue has another first function."""
        if queue.clean:
            self.settle(queue)
            queue.clean = False
        entry = queue.head_entry()
        if entry is not None and queue.dirty_entry is not entry:
            queue.dirty_entry = entry
            self._pushes += 1
            self.on_dirty()
            heappush(self._dirty.setdefault(queue.key.limit_cost, []), (entry, self._pushes, queue))

    def mark_all_dirty(self) -> None:
        """Make all queues dirty."""
        for queue in self.queues.values():
            self.mark_dirty(queue)

    def settle(self, queue: Queue) -> None:
        """Note that no node has room for a queue's first function, and leave it out until :meth:`clean`."""
        queue.clean = True
        queue.dirty_entry = None
        if queue.bucket.queues.pop(queue, self) is None:
            queue.bucket.invalidate()

    def restore(self, queue: Queue) -> None:
        """Let a queue that was set aside take part again."""
        if queue.clean:
            queue.bucket.queues[queue] = None
            queue.bucket.invalidate()

    @property
    def min_cost(self) -> Cost:
        """The least that any function of the run asks for of each resource."""
        return self._tree.low

    @property
    def any_dirty(self) -> bool:
        """Whether there may be a dirty queue."""
        return any(self._dirty.values())

    def first(self, limits: Pool | None, freed: Freed) -> Queue | None:
        """Return the queue of the most urgent candidate: a function that may fit.

        The queue is dirty, or its cost fits into freed capacity.

        Parameters
        ----------
        limits : Pool, optional
            Those of the run.
        freed : Freed
        """
        best = self._first_dirty(limits)
        while freed:
            found = _search(self._tree, freed.max_free, best)
            if self._by_node:
                found = self._first_on_one_node(freed, found)
            if found is None or found is best:
                break
            entry, queue = found
            if queue.head_entry() is not entry:
                queue.bucket.invalidate()  # its first function was withdrawn or cancelled
            elif limits is not None and not limits.fits(entry[4].limit_cost):
                self.mark_dirty(queue)  # it waits for the limits now, then for any node
            else:
                return queue
        return None if best is None else best[1]

    def _first_dirty(self, limits: Pool | None) -> Head | None:
        best: Head | None = None
        for limit_cost, heap in self._dirty.items():
            if not heap or (limits is not None and not _fits(limit_cost, limits.free)):
                continue
            while heap:
                entry, _, queue = heap[0]
                if not queue.clean and queue.head_entry() is entry:
                    if best is None or entry < best[0]:
                        best = entry, queue
                    break
                heappop(heap)
                if queue.dirty_entry is entry:
                    queue.dirty_entry = None
                    if not queue.clean:
                        self.mark_dirty(queue)  # its first function was withdrawn or cancelled
        return best

    def _first_on_one_node(self, freed: Freed, best: Head | None) -> Head | None:
        """The most urgent entry of clean queues that one node alone may serve, if it precedes ``best``."""
        for node in freed.nodes:
            names: tuple[Node | str, ...] = (node, *node.aliases)
            for where in names:
                group = self._by_node.get(where)
                for queue in group.queues if group is not None else ():
                    heap = queue.heap
                    if heap and (best is None or heap[0] < best[0]) and _fits(queue.key.cost, freed.max_free):
                        best = heap[0], queue
        return best

    def most_urgent(self) -> Head | None:
        """The most urgent entry of all clean queues."""
        while True:
            best = self._tree.first()
            for group in self._by_node.values():
                for queue in group.queues:
                    entry = queue.head_entry()
                    if entry is not None and (best is None or entry < best[0]):
                        best = entry, queue
            if best is None or best[1].head_entry() is best[0]:
                return best
            best[1].bucket.invalidate()


def _search(branch: _Branch, room: Amounts, best: Head | None) -> Head | None:
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
