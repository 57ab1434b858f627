"""The backlog of a run: its queues, and the search for the most urgent one that may be served.

A queue is *clean* if no node can serve its head, except possibly nodes on which capacity was freed since it
became clean. Otherwise it is *dirty*: any node may be able to serve it. So a decision compares clean queues
with freed nodes, and dirty queues with all nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from handoff_dask._scheduling.functions import FIRST_TRY, FunctionState
from handoff_dask._scheduling.node import Node, Pool
from handoff_dask._scheduling.queues import Cost, Entry, Queue, QueueKey
from handoff_dask._scheduling.spec import Amounts

if TYPE_CHECKING:
    from handoff_dask._scheduling.candidates import Freed

#: Maximum number of children of a branch in the tree over a run's costs.
_FANOUT = 8

#: The first entry of a queue, and the queue. The entry may be void: callers compare it with the queue's
#: :meth:`~Queue.head_entry`.
Head = tuple[Any, ...]


class _Bucket:
    """Clean queues that the search visits together."""

    __slots__ = ("queues",)

    def __init__(self) -> None:
        self.queues: dict[Queue, None] = {}

    def invalidate(self) -> None:
        """Discard cached heads, because the head of one of the queues has changed."""


class _Leaf(_Bucket):
    """The clean queues of one cost that more than one node may serve."""

    __slots__ = ("cost", "head", "parent", "valid")

    def __init__(self, cost: Cost) -> None:
        super().__init__()
        self.cost = cost
        self.parent: _Branch | None = None
        self.head: Head | None = None
        self.valid = False

    def invalidate(self) -> None:
        self.valid = False
        if self.parent is not None:
            self.parent.invalidate()

    def first(self) -> Head | None:
        """Return the most urgent head of the queues, and cache it until :meth:`invalidate`."""
        self.valid = True
        best: Head | None = None
        for queue in self.queues:
            heap = queue.heap
            if heap and (best is None or heap[0] < best[0]):
                best = heap[0], queue
        self.head = best
        return best


class _Branch:
    """A bounding box of similar costs, with the most urgent head below it.

    The tree is a k-d tree over static costs, whose heads change (Bentley, CACM 1975).

    Attributes
    ----------
    head : Head or None
        The most urgent head below, if ``valid``.
    low, high : tuple of (resource, units)
        The smallest and the largest amount of each resource in any cost below. Free capacity below ``low``
        fits none of them, free capacity of at least ``high`` fits all.
    """

    __slots__ = ("children", "head", "high", "low", "parent", "valid")

    def __init__(self, leaves: Sequence[_Leaf]) -> None:
        self.parent: _Branch | None = None
        self.head: Head | None = None
        self.valid = False
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
            # Split by the resource in which the costs differ most, relative to its largest amount.
            widest = max(names, key=lambda name: (high[name] - low[name]) / max(1, high[name]))
            leaves = sorted(leaves, key=lambda leaf: dict(leaf.cost).get(widest, 0))
            step = -(-len(leaves) // _FANOUT)
            parts = [leaves[at : at + step] for at in range(0, len(leaves), step)]
            self.children = [part[0] if len(part) == 1 else _Branch(part) for part in parts]
        for child in self.children:
            child.parent = self

    def first(self) -> Head | None:
        """Return the most urgent head of all queues below, and cache it until :meth:`invalidate`."""
        if not self.valid:
            self.valid = True
            best: Head | None = None
            for child in self.children:
                found = child.head if child.valid else child.first()
                if found is not None and (best is None or found[0] < best[0]):
                    best = found
            self.head = best
        return self.head

    def invalidate(self) -> None:
        """Discard the cached heads of this branch and its ancestors."""
        branch: _Branch | None = self  # if a branch has no cached head, its ancestors have none either
        while branch is not None and branch.valid:
            branch.valid = False
            branch = branch.parent


def _fits(cost: Cost, free: Amounts) -> bool:
    """Return whether a cost fits into free capacity."""
    for name, units in cost:  # noqa: SIM110 - a generator costs more than the comparisons
        if units > free.get(name, 0):
            return False
    return True


class Backlog:
    """The queues of a run.

    Each queue is in one of three places:

    * A dirty queue is on a heap, one heap per limit cost, so that queues that wait for limits are skipped
      together.
    * A clean queue is in a bucket: the leaf of its cost, in a tree over all costs of the run, or, if a pin or
      a bound group leaves it a single node, the bucket of that node.
    * A settled queue is clean too, but in no bucket: the rest of the decision ignores it.

    Parameters
    ----------
    costs : collection of Cost
        All costs of the run's functions.

    Attributes
    ----------
    queues : dict of QueueKey to Queue
        All queues with functions, and some empty ones.
    on_dirty : callable
        Called when the backlog gets a dirty queue.
    """

    __slots__ = ("_by_kind", "_by_node", "_dirty", "_leaves", "_pushes", "_tree", "on_dirty", "queues")

    def __init__(self, costs: Collection[Cost]) -> None:
        self.queues: dict[QueueKey, Queue] = {}
        self.on_dirty: Callable[[], object] = lambda: None
        # Queues of functions without a group and without a failure, by the identity of their kind.
        self._by_kind: dict[int, Queue] = {}
        self._dirty: dict[Cost, list[tuple[Entry, int, Queue]]] = {}
        self._pushes = 0
        self._leaves = {cost: _Leaf(cost) for cost in costs}
        self._tree = _Branch(list(self._leaves.values()))
        # Queues that a single node may serve, by this node or by the only name that their pin allows.
        self._by_node: dict[Node | str, _Bucket] = {}

    # ------------------------------------------------------------------ functions

    def queue_of(self, f: FunctionState) -> Queue:
        """Return the queue to which a function belongs, creating it if necessary."""
        plain = f.group is None and f.retry is FIRST_TRY and f.asked is None
        queue = self._by_kind.get(id(f.kind)) if plain else None
        if queue is None:
            key = QueueKey.of(f)
            queue = self.queues.get(key)
            if queue is None:
                queue = self.queues[key] = Queue(key, f.run)
                queue.bucket = self._bucket_for(key)
            if plain:
                self._by_kind[id(f.kind)] = queue
        return queue

    def _bucket_for(self, key: QueueKey) -> _Bucket:
        """Return the bucket in which a queue with this key lies while it is clean."""
        where: Node | str | None = key.bound
        if where is None and key.pins:
            fewest = min(key.pins, key=len)
            where = next(iter(fewest)) if len(fewest) == 1 else None
        if where is None:
            if key.cost not in self._leaves:  # it has grown after a failure, which is rare
                self._leaves[key.cost] = _Leaf(key.cost)
                self._tree = _Branch(list(self._leaves.values()))
            return self._leaves[key.cost]
        return self._by_node.setdefault(where, _Bucket())

    def push(self, f: FunctionState) -> Queue:
        """Add a ready function and return its queue."""
        queue = self.queue_of(f)
        before = queue.head_entry()
        queue.push(f)
        if queue.heap[0] is not before:
            if queue.clean and before is not None:
                queue.bucket.invalidate()
            else:
                self.mark_dirty(queue)  # an empty queue is not compared with freed nodes
        return queue

    def advance(self, queue: Queue) -> None:
        """Note that one of a queue's functions was placed, usually the head."""
        if queue.head_entry() is None:
            if queue.clean:
                self.mark_dirty(queue)
            if queue.key.avoid or queue.key.bound is not None:
                self.queues.pop(queue.key, None)  # their number is unbounded, unlike that of kinds
        elif queue.clean:
            queue.bucket.invalidate()
        else:
            self.mark_dirty(queue)

    def reorder(self) -> None:
        """Sort all queues again, after the ranks of functions have changed."""
        for queue in self.queues.values():
            queue.reorder()
            if queue.clean:
                queue.bucket.invalidate()
            else:
                self.mark_dirty(queue)

    def clear(self) -> None:
        """Remove all queues."""
        for queue in self.queues.values():
            _leave_bucket(queue)
        self.queues.clear()
        self._by_kind.clear()
        self._dirty.clear()
        self._by_node.clear()

    # ------------------------------------------------------------------ clean and dirty

    def mark_dirty(self, queue: Queue) -> None:
        """Mark a queue dirty. Call it again if the head of a dirty queue has changed."""
        if queue.clean:
            _leave_bucket(queue)
            queue.clean = False
        entry = queue.head_entry()
        if entry is not None and queue.dirty_entry is not entry:
            queue.dirty_entry = entry
            self._pushes += 1
            self.on_dirty()
            heappush(self._dirty.setdefault(queue.key.limit_cost, []), (entry, self._pushes, queue))

    def mark_all_dirty(self) -> None:
        """Mark all queues dirty."""
        for queue in self.queues.values():
            self.mark_dirty(queue)

    def settle(self, queue: Queue) -> None:
        """Mark a queue clean, and keep it out of the search until :meth:`restore`."""
        _leave_bucket(queue)
        queue.clean = True
        queue.dirty_entry = None

    def restore(self, queue: Queue) -> None:
        """Put a settled queue into its bucket, unless it has become dirty since."""
        if queue.clean:
            queue.bucket.queues[queue] = None
            queue.bucket.invalidate()

    @property
    def min_cost(self) -> Cost:
        """Resource → units that every function of the run asks for at least."""
        return self._tree.low

    @property
    def any_dirty(self) -> bool:
        """Whether there may be a dirty queue."""
        return any(self._dirty.values())

    def first(self, limits: Pool | None, freed: Freed) -> Queue | None:
        """Return the candidate with the most urgent head, None if there is none.

        Parameters
        ----------
        limits : Pool, optional
            The limits of the run.
        freed : Freed

        Returns
        -------
        Queue or None
            The limits allow its head. The queue is dirty, or its cost fits into freed capacity.
        """
        best = self._first_dirty(limits)
        while freed.nodes:
            found = _search(self._tree, freed.max_free, best)
            if self._by_node:
                found = self._first_on_one_node(freed, found)
            if found is None or found is best:
                break
            entry: Entry = found[0]
            queue: Queue = found[1]
            if queue.head_entry() is not entry:
                queue.bucket.invalidate()  # the head was withdrawn or cancelled
            elif limits is not None and not limits.fits(entry[4].limit_cost):
                # Once the limits allow it, nodes that were freed meanwhile no longer count as freed.
                self.mark_dirty(queue)
            else:
                return queue
        return None if best is None else best[1]

    def _first_dirty(self, limits: Pool | None) -> Head | None:
        """Return the most urgent head of the dirty queues that the limits allow."""
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
                        self.mark_dirty(queue)  # the head was withdrawn or cancelled
        return best

    def _first_on_one_node(self, freed: Freed, best: Head | None) -> Head | None:
        """Return the most urgent head of clean queues that a single, freed node may serve, or ``best``."""
        for node in freed.nodes:
            names: tuple[Node | str, ...] = (node, *node.aliases)
            for where in names:
                bucket = self._by_node.get(where)
                for queue in bucket.queues if bucket is not None else ():
                    heap = queue.heap
                    if heap and (best is None or heap[0] < best[0]) and _fits(queue.key.cost, freed.max_free):
                        best = heap[0], queue
        return best

    def most_urgent(self) -> Head | None:
        """Return the most urgent head of all clean queues, None if there is none."""
        while True:
            best = self._tree.first()
            for bucket in self._by_node.values():
                for queue in bucket.queues:
                    entry = queue.head_entry()
                    if entry is not None and (best is None or entry < best[0]):
                        best = entry, queue
            if best is None or best[1].head_entry() is best[0]:
                return best
            best[1].bucket.invalidate()


def _leave_bucket(queue: Queue) -> None:
    """Take a queue out of its bucket, if it is there: dirty and settled queues are not."""
    if queue in queue.bucket.queues:
        del queue.bucket.queues[queue]
        queue.bucket.invalidate()


def _search(branch: _Branch, free: Amounts, best: Head | None) -> Head | None:
    """Return the most urgent of ``best`` and the heads below a branch whose costs fit into ``free``."""
    for child in branch.children:
        found = child.head if child.valid else child.first()
        if found is not None and (best is None or found[0] < best[0]):
            if isinstance(child, _Leaf):
                if _fits(child.cost, free):
                    best = found
            elif _fits(child.low, free):
                best = found if _fits(child.high, free) else _search(child, free, best)
    return best
