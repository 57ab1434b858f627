"""Where a decision looks for ready functions: the order of runs, and freed capacity."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from heapq import heapify, heappop, heapreplace

from handoff_dask._scheduling.functions import State
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.queues import Cost, Queue
from handoff_dask._scheduling.runs import Run
from handoff_dask._scheduling.spec import Amounts

#: The place of a run in the order: its priority negated, the highest priority of the functions concerned
#: negated, its dominant share and its sequence number. Smaller is served first.
RunKey = tuple[float, float, int, int]


def run_key(run: Run, priority: float | None = None) -> RunKey:
    """Return the place of a run in the order.

    Parameters
    ----------
    run : Run
    priority : float, optional
        Of the function that the run would start next. By default the highest that any of its functions has,
        so that the key is a lower bound.
    """
    if priority is None:
        priority = run.top_priority
    return (-run.spec.priority, -priority, run.share, run.sequence)


class RunOrder:
    """Runs with ready functions, sorted by priority and dominant share.

    The run with the smallest dominant share is served first: dominant resource fairness (Ghodsi et al., NSDI
    2011).

    Attributes
    ----------
    moved : dict of Run to None
        Runs whose share has changed since the last :meth:`sort`.
    dirty : dict of Run to None
        Runs that may have a dirty queue.
    least : Cost
        Units of each resource that every function of these runs asks for at least.
    """

    def __init__(self) -> None:
        self.share_changed: dict[Run, None] = {}
        self.dirty: dict[Run, None] = {}
        self._entries: list[tuple[RunKey, Run]] = []
        self._keys: dict[Run, RunKey] = {}
        self.min_cost: Cost = ()
        self._discarded = 0  # runs since ``least`` was exact

    def __iter__(self) -> Iterator[Run]:
        return iter(self._keys)

    def add(self, run: Run) -> None:
        """Add a run. Adding it again changes nothing."""
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
        """Note that a run has no candidate left: it is out of the order, or just has no dirty queue."""
        if not run.counts[State.READY]:
            self.discard(run)
        elif not run.backlog.any_dirty:
            self.dirty.pop(run, None)

    def sort(self) -> None:
        """Move the runs whose share has changed to their new places."""
        entries, keys = self._entries, self._keys
        for run in self.share_changed:
            if run in keys and keys[run] != (key := run_key(run)):
                del entries[bisect_left(entries, (keys[run], run))]
                keys[run] = key
                insort(entries, (key, run))
        self.share_changed.clear()

    def heap(self) -> list[tuple[RunKey, Run]]:
        """Return all runs as a heap."""
        return self._entries.copy()  # sorted, hence a heap

    def dirty_heap(self) -> list[tuple[RunKey, Run]]:
        """Return the runs that may have a dirty queue as a heap."""
        heap = [(run_key(run), run) for run in self.dirty]
        heapify(heap)
        return heap


class Freed:
    """Nodes on which capacity was freed since the last decision.

    Parameters
    ----------
    nodes : iterable of Node
    least : Cost
        Nodes with less free capacity are left out: no function fits there.
    prefetching : bool
        Whether to count what short functions hold as free, since others may be prefetched behind them.

    Attributes
    ----------
    nodes : dict of Node to None
    most : mapping
        Resource → upper bound of the units that any of the nodes has free.
    """

    def __init__(self, nodes: Iterable[Node], min_cost: Cost, prefetching: bool) -> None:
        self.nodes: dict[Node, None] = dict.fromkeys(nodes)
        self.max_free: Amounts = {}
        self._min_cost = min_cost
        self._prefetching = prefetching
        self._loose = True  # whether the upper bound may be too high
        self.tighten()

    def __bool__(self) -> bool:
        return bool(self.nodes)

    def _amounts(self, node: Node) -> Amounts | None:
        """Return the free capacity of a node, None if no function fits into it."""
        amounts: Amounts = node.free
        if self._prefetching and node.short:
            amounts = {name: units + node.short.get(name, 0) for name, units in amounts.items()}
        for name, units in self._min_cost:
            if units > amounts.get(name, 0):
                return None
        return amounts

    def tighten(self) -> None:
        """Make the upper bound exact."""
        if not self._loose:
            return
        self._loose = False
        amounts = [(node, self._amounts(node)) for node in self.nodes]
        useful = {node: free for node, free in amounts if free is not None}
        self.nodes = dict.fromkeys(useful)
        if len(useful) < 2:
            self.max_free = next(iter(useful.values()), {})
            return
        most: dict[str, int] = {}
        for free in useful.values():
            for name, units in free.items():
                if units > most.get(name, 0):
                    most[name] = units
        self.max_free = most

    def consume(self, node: Node) -> None:
        """Note that a function was placed on a node."""
        if node not in self.nodes:
            return
        if self._amounts(node) is None:
            del self.nodes[node]
        self._loose = True
        if len(self.nodes) < 2:
            self.tighten()

    def discard(self, nodes: Iterable[Node]) -> None:
        """Leave nodes out of the rest of the decision."""
        for node in nodes:
            self.nodes.pop(node, None)
        self._loose = True
        self.tighten()


class Candidates:
    """The queues that a decision considers, the one with the most urgent first function first.

    A queue is a candidate if it is dirty or if its cost fits into freed capacity, until it is settled.

    Parameters
    ----------
    order : RunOrder
    freed : Freed
    """

    def __init__(self, order: RunOrder, freed: Freed) -> None:
        self._order = order
        self._freed = freed
        self._settled: list[tuple[Queue, bool]] = []
        # Keys are lower bounds: they are compared with the exact key when their turn comes.
        self._with_clean = bool(freed)
        self._runs = order.heap() if self._with_clean else order.dirty_heap()

    def first(self) -> Queue | None:
        """Return the first candidate, None if there is none."""
        freed, order = self._freed, self._order
        if self._with_clean and not freed:
            self._with_clean = False
            self._runs = order.dirty_heap()
        runs = self._runs
        while runs:
            key, run = runs[0]
            queue = run.backlog.first(run.limits, freed)
            if queue is None:
                heappop(runs)
                order.note_exhausted(run)
                continue
            exact = run_key(run, -queue.heap[0][0])
            if exact != key:
                heapreplace(runs, (exact, run))
                if runs[0][1] is not run:
                    continue
            runs[0] = (run_key(run), run)  # what is placed may make more urgent functions candidates
            return queue
        return None

    def settle(self, queue: Queue, placed: bool) -> None:
        """Leave out a queue whose first function fits nowhere, for the rest of the decision.

        Parameters
        ----------
        queue : Queue
            If its run has a custom allocator, which is asked once in a decision, all queues of the run are
            left out but those that wait for the limits of the run.
        placed : bool
            Whether the allocator has placed something. That is a change for a custom allocator: it is asked
            again in the next decision.
        """
        run = queue.run
        for other in run.backlog.queues.values() if run.allocator.once else (queue,):
            if run.limits is None or run.limits.fits(dict(other.key.limit_cost)):
                run.backlog.settle(other)
                self._settled.append((other, placed))
        self._freed.tighten()

    def close(self) -> None:
        """Let the settled queues take part in the next decision."""
        for queue, placed in self._settled:
            queue.run.backlog.restore(queue)
            if placed:
                queue.run.backlog.mark_dirty(queue)
