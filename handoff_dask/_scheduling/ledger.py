"""The ledger: the allocations of functions on nodes, on devices and in the limits of their runs.

Every allocation and every release on behalf of a function happens here. The ledger also records on which
nodes capacity was freed, and allocates prefetched functions as soon as they fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from handoff_dask._model.resources import CPU, GPU, UNIT
from handoff_dask._scheduling.functions import FunctionState, State
from handoff_dask._scheduling.node import Node, Pool
from handoff_dask._scheduling.nodes import Nodes
from handoff_dask._scheduling.runs import Run
from handoff_dask._scheduling.spec import Amounts


class Orphan:
    """The allocation of an orphaned attempt: Dask took its function back, but its thread still runs.

    Attributes
    ----------
    node : Node
    cost : dict
    devices : dict
        Device index → units.
    limits : Pool or None
        The limits of its run.
    limit_cost : dict
    """

    __slots__ = ("cost", "devices", "limit_cost", "limits", "node")

    def __init__(
        self, node: Node, cost: Amounts, devices: Mapping[int, int], limits: Pool | None, limit_cost: Amounts
    ) -> None:
        self.node = node
        self.cost = cost
        self.devices = devices
        self.limits = limits
        self.limit_cost = limit_cost


class Stuck(NamedTuple):
    """A prefetched function that waits behind functions of unknown duration."""

    function: FunctionState
    node: Node


class Ledger:
    """Allocates capacity to functions and releases it.

    Parameters
    ----------
    nodes : Nodes
        The ledger marks every node that it changes in ``nodes.changed``.
    freed : dict of Node to None
        The ledger adds every node on which capacity becomes free.

    Attributes
    ----------
    freed : dict of Node to None
    share_changed : dict of Run to None
        Runs whose dominant share has changed since they were last sorted.
    stuck : dict of FunctionState to None
        Prefetched functions that may wait behind functions of unknown duration.
    """

    def __init__(self, nodes: Nodes, freed: dict[Node, None]) -> None:
        self.freed = freed
        self.share_changed: dict[Run, None] = {}
        self._nodes = nodes
        self.stuck: dict[FunctionState, None] = {}

    def allocate(self, f: FunctionState, node: Node, now: float) -> None:
        """Allocate a function's cost on a node.

        Raises
        ------
        LedgerError
            The cost does not fit.
        """
        f.node = node
        f.placed = now
        self._acquire(f, node)
        self._nodes.changed[node] = None

    def prefetch(self, f: FunctionState, node: Node, now: float) -> None:
        """Record that a function is sent to a node before it fits. It gets its allocation once it fits."""
        f.node = node
        f.placed = now
        node.prefetched[f] = None
        self._nodes.changed[node] = None

    def _acquire(self, f: FunctionState, node: Node) -> None:
        """Allocate the cost on the node and its devices, and the limit cost in the limits of the run."""
        cost, run = f.cost, f.run
        f.allocated = True
        node.acquire(cost)
        if cost.get(CPU, 0) > UNIT:
            node.multicore += 1
        if f.short:
            _add(node.short, cost, 1)
        elif node.prefetched:
            self._find_stuck(node)
        run.share += run.weights[run.spec.kind_of[f.number]]
        self.share_changed[run] = None
        node.running[f] = None
        if GPU in cost:
            f.devices = node.devices.choose(cost[GPU])
            assert f.devices is not None
            node.devices.take(f.devices)
        if run.limits is not None:
            run.limits.acquire(f.limit_cost)

    def release(self, f: FunctionState) -> None:
        """Release the allocation of a placed function, or remove it from the prefetched ones."""
        node = f.node
        assert node is not None
        if f.allocated:
            self._detach(f, node)
            node.release(f.cost)
            if f.cost.get(CPU, 0) > UNIT:
                node.multicore -= 1
            if f.devices:
                node.devices.release(f.devices)
                f.devices = None
            if f.run.limits is not None:
                f.run.limits.release(f.limit_cost)
        else:
            del node.prefetched[f]
        self._freed(node)

    def _detach(self, f: FunctionState, node: Node) -> None:
        """Remove a function from its node's running ones. Its capacity stays in use."""
        run = f.run
        del node.running[f]
        f.allocated = False
        if f.short:
            _add(node.short, f.cost, -1)
        run.share -= run.weights[run.spec.kind_of[f.number]]
        self.share_changed[run] = None

    def orphan(self, f: FunctionState) -> Orphan:
        """Turn a running attempt into an orphan, which holds the allocation until its thread ends."""
        node = f.node
        assert node is not None
        self.mark_long(f)
        self._detach(f, node)
        orphan = Orphan(node, f.cost, f.devices or {}, f.run.limits, f.limit_cost)
        node.orphans[orphan] = None
        f.devices = None
        return orphan

    def release_orphan(self, orphan: Orphan) -> None:
        """Release the allocation of an orphan. Idempotent."""
        node = orphan.node
        if orphan not in node.orphans:
            return
        del node.orphans[orphan]
        node.release(orphan.cost)
        node.multicore -= orphan.cost.get(CPU, 0) > UNIT
        node.devices.release(orphan.devices)
        if orphan.limits is not None:
            orphan.limits.release(orphan.limit_cost)
        self._freed(node)

    def mark_long(self, f: FunctionState) -> None:
        """Note that a function may take long, even if its code is known to be short."""
        if f.short and f.allocated:
            assert f.node is not None
            _add(f.node.short, f.cost, -1)
            self._find_stuck(f.node)
        f.short = False

    def resize(self, node: Node, capacity: Amounts) -> None:
        """Change a node's capacity."""
        node.resize(capacity)
        self._freed(node)
        self._find_stuck(node)

    def set_external(self, node: Node, amounts: Amounts) -> None:
        """Set the amounts that external tasks hold on a node."""
        node.set_external(amounts)
        self._freed(node)
        self._find_stuck(node)

    def _freed(self, node: Node) -> None:
        """Note that a node has more free capacity. Prefetched functions that fit get it first, in order."""
        if node.prefetched:
            for f in list(node.prefetched):
                if not node.fits(f.cost):
                    break
                del node.prefetched[f]
                self._acquire(f, node)
        self.freed[node] = None
        self._nodes.changed[node] = None

    def _find_stuck(self, node: Node) -> None:
        """Note prefetched functions that would not fit even if the node's short functions ended."""
        for f in node.prefetched:
            if not node.fits_after_short(f.cost):
                self.stuck[f] = None

    def take_stuck(self) -> list[Stuck]:
        """Return the prefetched functions that wait behind functions of unknown duration, each only once."""
        stuck, self.stuck = self.stuck, {}
        found = [Stuck(f, f.node) for f in stuck if f.node is not None]
        return [
            s
            for s in found
            if s.function in s.node.prefetched and not s.node.fits_after_short(s.function.cost)
        ]


def check_ledger(nodes: Iterable[Node], runs: Iterable[Run]) -> None:
    """Raise AssertionError unless running functions, orphans and external tasks hold all capacity in use.

    The numbers of ready functions are checked too.
    """
    nodes = list(nodes)
    for node in nodes:
        for f in node.running:
            assert f.state is State.RUNNING, f
            assert f.node is node, f
            assert f.allocated, f
        for f in node.prefetched:
            assert f.state is State.RUNNING, f
            assert not f.allocated, f
        costs = [f.cost for f in node.running] + [orphan.cost for orphan in node.orphans]
        assert _total([node.external, *costs]) == _positive(node.used), node
        assert _total(f.cost for f in node.running if f.short) == _positive(node.short), node
        assert node.multicore == sum(cost.get(CPU, 0) > UNIT for cost in costs), node
    running = [f for node in nodes for f in node.running]
    for run in runs:
        ready = [0] * len(run.spec.kinds)
        for f in run.functions:
            ready[run.spec.kind_of[f.number]] += f.state is State.READY
            assert not any(a.outcome == "finished" and a.error is not None for a in f.attempts), f
        assert run.ready_by_kind == ready, run
        assert run.share == sum(run.weights[f.run.spec.kind_of[f.number]] for f in running if f.run is run)
        if run.limits is not None:
            costs = [f.limit_cost for f in running if f.run is run]
            costs += [o.limit_cost for node in nodes for o in node.orphans if o.limits is run.limits]
            assert _total(costs) == _positive(run.limits.used), run


def _total(costs: Iterable[Amounts]) -> dict[str, int]:
    total: dict[str, int] = {}
    for cost in costs:
        _add(total, cost, 1)
    return _positive(total)


def _positive(amounts: Amounts) -> dict[str, int]:
    return {name: units for name, units in amounts.items() if units}


def _add(amounts: dict[str, int], cost: Amounts, sign: int) -> None:
    """Add a cost to amounts, times ``sign``, and remove resources whose amount becomes 0."""
    for name, units in cost.items():
        total = amounts.get(name, 0) + sign * units
        if total:
            amounts[name] = total
        else:
            amounts.pop(name, None)
