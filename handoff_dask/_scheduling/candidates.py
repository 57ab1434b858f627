"""Candidates: the queues that a decision considers, the most urgent first.

A queue is a candidate if its run's limits allow its head, and it is dirty or its cost fits into freed
capacity. This module owns the order of the runs and the freed capacity; the order within a run and the search
for its candidates are in :mod:`~handoff_dask._scheduling.backlog`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from heapq import heapify, heappop, heapreplace

from handoff_dask._scheduling.functions import State
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.queues import Cost, Queue
from handoff_dask._scheduling.runs import Run
from handoff_dask._scheduling.spec import Amounts

#: The position of a run in the order: its priority negated, the priority of a function negated, its dominant
#: share, and its sequence number. The smallest key goes first.
RunKey = tuple[int | float, int | float, int, int]


def run_key(run: Run, priority: int | float | None = None) -> RunKey:
    """Return the position of a run in the order.

    Parameters
    ----------
    run : Run
    priority : int or float, optional
        Priority of the function that the run would place next. The default is the highest priority of any of
        its functions, which makes the key a lower bound.
    """
    if priority is None:
        priority = run.top_priority
    return (-run.spec.priority, -priority, run.share, run.sequence)


class RunOrder:
    """The runs with ready functions, sorted by priority and then by dominant share.

    Among runs of equal priority, the run with the smallest dominant share goes first: dominant resource
    fairness (Ghodsi et al., NSDI 2011).

    Attributes
    ----------
    share_changed : dict of Run to None
        Runs whose share has changed since the last :meth:`sort`.
    dirty : dict of Run to None
        Runs that may have a dirty queue.
    min_cost : Cost
        Resource → units that every function of these runs asks for at least. A lower bound: it may be too
        low for a while after runs were discarded.
    """

    def __init__(self) -> None:
        self.share_changed: dict[Run, None] = {}
        self.dirty: dict[Run, None] = {}
        self._entries: list[tuple[RunKey, Run]] = []
        self._keys: dict[Run, RunKey] = {}
        self.min_cost: Cost = ()
        self._discarded = 0  # runs discarded since ``min_cost`` was exact

    def __iter__(self) -> Iterator[Run]:
        return iter(self._keys)

    def add(self, run: Run) -> None:
        """Add a run if it is absent."""
        if run not in self._keys:
            key = self._keys[run] = run_key(run)
            insort(self._entries, (key, run))
            run.backlog.on_dirty = lambda: self.dirty.setdefault(run)
            if run.backlog.any_dirty:
                self.dirty[run] = None
            self._set_min_cost(
                [self.min_cost, run.backlog.min_cost] if len(self._keys) > 1 else [run.backlog.min_cost]
            )

    def discard(self, run: Run) -> None:
        """Remove a run if it is present."""
        self.dirty.pop(run, None)
        self.share_changed.pop(run, None)
        if run in self._keys:
            del self._entries[bisect_left(self._entries, (self._keys.pop(run), run))]
            self._discarded += 1
            if self._discarded > len(self._keys):
                self._discarded = 0
                self._set_min_cost([other.backlog.min_cost for other in self._keys])

    def _set_min_cost(self, costs: Sequence[Cost]) -> None:
        amounts = [dict(cost) for cost in costs]
        names = set.intersection(*map(set, amounts)) if amounts else ()
        self.min_cost = tuple((name, min(cost[name] for cost in amounts)) for name in names)

    def note_exhausted(self, run: Run) -> None:
        """Note that a run has no candidate left in this decision.

        A run without ready functions leaves the order. A run without dirty queues is no longer visited for
        their sake.
        """
        if not run.counts[State.READY]:
            self.discard(run)
        elif not run.backlog.any_dirty:
            self.dirty.pop(run, None)

    def sort(self) -> None:
        """Move the runs whose share has changed to their new positions."""
        entries, keys = self._entries, self._keys
        if len(entries) < 2:
            return  # a single run is in order; its key is updated before there are two
        for run in self.share_changed:
            if run in keys and keys[run] != (key := run_key(run)):
                del entries[bisect_left(entries, (keys[run], run))]
                keys[run] = key
                insort(entries, (key, run))
        self.share_changed.clear()

    def heap(self) -> list[tuple[RunKey, Run]]:
        """Return all runs as a heap."""
        return self._entries.copy()  # a sorted list is a heap

    def dirty_heap(self) -> list[tuple[RunKey, Run]]:
        """Return the runs that may have a dirty queue, as a heap."""
        heap = [(run_key(run), run) for run in self.dirty]
        heapify(heap)
        return heap


class Freed:
    """The freed nodes: nodes on which capacity was freed since the last decision.

    A clean queue can only be served by one of these. A node counts as freed when an allocation on it ends,
    when it joins, pauses, resumes or changes its capacity, when external tasks change what they hold, and
    when a claim may no longer block the functions that it blocked there.

    Attributes
    ----------
    nodes : dict of Node to None
        Between decisions, the nodes freed since the last one. During a decision, those where a function may
        still fit.
    max_free : mapping
        Resource → upper bound of the free units on any of these nodes. A cost that exceeds it fits on none of
        them; a cost within it may still fit on none, since the maxima may come from different nodes.
    """

    __slots__ = ("_loose", "_min_cost", "_prefetching", "max_free", "nodes")

    def __init__(self) -> None:
        self.nodes: dict[Node, None] = {}
        self.max_free: Amounts = {}
        self._min_cost: Cost = ()
        self._prefetching = False
        self._loose = False  # whether ``max_free`` may be higher than necessary

    def begin(self, min_cost: Cost, prefetching: bool) -> None:
        """Begin a decision.

        Parameters
        ----------
        min_cost : Cost
            Leave out nodes with less free capacity, since no function fits there.
        prefetching : bool
            Whether to count the allocations of short functions as free, because other functions may be
            prefetched behind them.
        """
        self._min_cost = min_cost
        self._prefetching = prefetching
        self._loose = True
        self.tighten()

    def _amounts(self, node: Node) -> Amounts | None:
        """Return the free capacity of a node, None if no function fits there."""
        amounts: Amounts = node.free
        if self._prefetching and node.short:
            amounts = {name: units + node.short.get(name, 0) for name, units in amounts.items()}
        for name, units in self._min_cost:
            if units > amounts.get(name, 0):
                return None
        return amounts if node.accepting else None

    def tighten(self) -> None:
        """Recompute ``max_free``, and leave out nodes on which no function fits any more."""
        if not self._loose:
            return
        self._loose = False
        useful = []
        for node in list(self.nodes):
            amounts = self._amounts(node)
            if amounts is None:
                del self.nodes[node]
            else:
                useful.append(amounts)
        if len(useful) < 2:
            self.max_free = useful[0] if useful else {}
            return
        most: dict[str, int] = {}
        for amounts in useful:
            for name, units in amounts.items():
                if units > most.get(name, 0):
                    most[name] = units
        self.max_free = most

    def consume(self, node: Node) -> None:
        """Note that a placed function has taken capacity of a node.

        With several nodes the bound stays as it is until the next :meth:`tighten`, which visits all nodes.
        """
        if node not in self.nodes:
            return
        amounts = self._amounts(node)
        if amounts is None:
            del self.nodes[node]
        self._loose = True
        if len(self.nodes) == 1:
            self.tighten()

    def discard(self, nodes: Iterable[Node]) -> None:
        """Ignore nodes for the rest of the decision."""
        for node in nodes:
            self.nodes.pop(node, None)
        self._loose = True
        self.tighten()


class Candidates:
    """The candidates of one decision.

    A queue is a candidate if

    * it has not been settled in this decision,
    * its run's limits allow its head, and
    * it is dirty, or its cost is within ``freed.max_free``. If only one node can serve it, that node must be
      freed, too.

    This condition is necessary for a placement, not sufficient: the allocator may still find no node.

    Parameters
    ----------
    order : RunOrder
        Sorted.
    freed : Freed
    """

    __slots__ = ("_freed", "_order", "_runs", "_settled", "_with_clean")

    def __init__(self, order: RunOrder, freed: Freed) -> None:
        self._order = order
        self._freed = freed
        self._settled: list[tuple[Queue, bool]] = []
        self._with_clean = bool(freed.nodes)  # whether clean queues can be candidates
        # A heap of runs by lower bounds of their keys. The exact key is computed for the run at the top.
        self._runs = order.heap() if self._with_clean else order.dirty_heap()

    def first(self) -> Queue | None:
        """Return the candidate with the most urgent head, None if no candidate is left."""
        freed, order = self._freed, self._order
        if self._with_clean and not freed.nodes:
            self._with_clean = False  # freed capacity is used up: only dirty queues are left
            self._runs = order.dirty_heap()
        runs = self._runs
        while runs:
            key, run = runs[0]
            queue = run.backlog.first(run.limits, freed)
            if queue is None:
                heappop(runs)
                order.note_exhausted(run)
                continue
            if len(runs) == 1:
                return queue
            exact = run_key(run, -queue.heap[0][0])
            if exact != key:
                heapreplace(runs, (exact, run))
                if runs[0][1] is not run:
                    continue
            # Return to the lower bound: after the placement, a more urgent head may be a candidate. The bound
            # remains valid, because a run's share only grows within a decision.
            runs[0] = (run_key(run) if exact[1] > -run.top_priority else exact, run)
            return queue
        return None

    def settle(self, queue: Queue, placed: bool) -> None:
        """Mark a queue clean, and stop considering it in this decision.

        A custom allocator is asked once per decision. Then all queues of its run are settled, except queues
        that wait for the run's limits.

        Parameters
        ----------
        queue : Queue
        placed : bool
            Whether the allocator has placed anything. A custom allocator that has is asked again in the next
            decision, since its view of the nodes has changed.
        """
        run = queue.run
        for other in run.backlog.queues.values() if run.allocator.once else (queue,):
            if run.limits is None or run.limits.fits(dict(other.key.limit_cost)):
                run.backlog.settle(other)
                self._settled.append((other, placed))
        self._freed.tighten()

    def close(self) -> None:
        """End the decision: make the settled queues available to the next one."""
        for queue, placed in self._settled:
            queue.run.backlog.restore(queue)
            if placed:
                queue.run.backlog.mark_dirty(queue)
