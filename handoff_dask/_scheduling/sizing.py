"""Sizing: the amounts for which a function asks, where these depend on what functions use.

An amount of ``"auto"`` is estimated before each first attempt; after an attempt has run out of memory, the
next one asks for more, which a retry policy may also demand for declared amounts.

The estimate for memory is the first allocation that wastes least over the peaks that were seen, if every
attempt that runs out of memory is followed by one with a larger allocation: Tovar et al., "A job sizing
strategy for high-throughput scientific workflows", IEEE TPDS 2018, with any number of steps instead of two.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from handoff_dask._model.resources import MEASURED, MEMORY, THREADS, UNIT, from_units, parse_amounts, to_units
from handoff_dask._model.used import sufficient_cores, sufficient_memory
from handoff_dask._scheduling.estimates import Estimates
from handoff_dask._scheduling.functions import FunctionState, State
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.nodes import Nodes
from handoff_dask._scheduling.queues import Cost
from handoff_dask._scheduling.runs import CONCURRENCY, Run
from handoff_dask._scheduling.spec import Amounts, Pins

#: Maximum number of estimates, and of rooms on nodes, to remember.
_MAX_KNOWN = 10_000

#: Number of peaks from which on they are taken for a sample of all.
_FEW = 10

#: After an attempt has run out of memory, ``"auto"`` asks for at least this many times as much.
_FACTOR = 2.0


class Sizing:
    """Sets the amounts for which functions ask.

    Parameters
    ----------
    nodes : Nodes
    estimates : Estimates
    first : mapping of str to float
        Resource → fraction of the largest node that may run the function, for which it asks while nothing is
        known of its code.
    """

    def __init__(self, nodes: Nodes, estimates: Estimates, first: Mapping[str, float]) -> None:
        self._nodes = nodes
        self._estimates = estimates
        self._first = first
        # (key, resource) → number of measured functions, and the estimate made then in MB or cores.
        self._known: dict[tuple[str, str], tuple[int, float]] = {}
        self._version = -1  # of the nodes for which the following is valid
        self._room: dict[tuple[Cost, Pins], _Room] = {}

    # ------------------------------------------------------------------ before an attempt

    def size(self, f: FunctionState) -> bool:
        """Set the amounts of a function that waits for an attempt. Return whether they have changed.

        After its first attempt, an amount is only lowered to what a node still has.
        """
        room = self._room_for(f)
        amounts = {}
        for name in f.kind.auto:
            most = room.most.get(name, 0)
            units = f.cost[name] if f.attempts else self._estimate(f, name, room)
            amounts[name] = max(1, min(units, most)) if most else units
        if all(f.cost[name] == units for name, units in amounts.items()):
            return False
        _ask(f, amounts)
        return True

    def resize(self, run: Run, kind: int) -> list[FunctionState]:
        """Set the amounts of the ready functions of a kind again, once much more is known than before.

        It is repeated whenever the number of measured functions has doubled, so that its time per function
        grows only with the logarithm of their number.

        Returns
        -------
        list of FunctionState
            The functions whose amounts have changed. They must be queued again.
        """
        measured = self._estimates.measured(run.spec.kinds[kind].code)
        if measured < 2 * run.sized_from.get(kind, 0):
            return []
        run.sized_from[kind] = max(1, measured)
        return self._resized(run, [kind])

    def fit_to_nodes(self, run: Run) -> list[FunctionState]:
        """Set the amounts of all ready functions of a run again, because the nodes have changed.

        Returns
        -------
        list of FunctionState
            As for :meth:`resize`.
        """
        return self._resized(run, [k for k, kind in enumerate(run.spec.kinds) if kind.auto])

    def _resized(self, run: Run, kinds: Collection[int]) -> list[FunctionState]:
        if not any(run.ready_by_kind[k] for k in kinds):
            return []
        kind_of = run.spec.kind_of
        ready = [f for f in run.functions if f.state is State.READY and kind_of[f.number] in kinds]
        return [f for f in ready if self.size(f)]

    def _estimate(self, f: FunctionState, name: str, room: _Room) -> int:
        """Return the units of a resource for which the first attempt of a function asks."""
        own = f.run.estimates.peak(f) if name == MEMORY else None
        amount = sufficient_memory(own) if own is not None else self._of_code(f.kind.code, name, room)
        if amount is None:
            return math.floor(room.most.get(name, 0) * self._first.get(name, 1.0))
        return to_units(amount)

    def _of_code(self, key: str, name: str, room: _Room) -> float | None:
        """Return the estimate for functions of the same code, in MB or cores; None if nothing is known."""
        measured = self._estimates.measured(key)
        known = self._known.get((key, name))
        if known is not None and measured < 2 * known[0]:
            return known[1]
        if name == MEMORY:
            peaks = self._estimates.peaks(key)
            amount = first_amount(peaks, room.spare) if peaks else None
        else:
            amount = sufficient_cores(self._estimates.cores(key))
        if amount is None:
            return None
        if len(self._known) > _MAX_KNOWN:
            self._known.clear()
        self._known[key, name] = max(1, measured), amount
        return amount

    def _room_for(self, f: FunctionState) -> _Room:
        """Return what the nodes that may run a function have for it."""
        if f.group is not None and f.group.node is not None:
            return _Room(f, [f.group.node])
        if self._version != self._nodes.version or len(self._room) > _MAX_KNOWN:
            self._version = self._nodes.version
            self._room.clear()
            self._known.clear()
        pins = f.kind.pin_sets if f.group is None else f.group.pins
        key = tuple(sorted(_fixed(f).items())), pins
        room = self._room.get(key)
        if room is None:
            room = self._room[key] = _Room(f, self._nodes_of(f))
        return room

    def _nodes_of(self, f: FunctionState) -> list[Node]:
        """Return the nodes that may run a function and have enough of what is not estimated."""
        pins, fixed = f.kind.pin_sets if f.group is None else f.group.pins, _fixed(f)
        return [node for node in self._nodes.ordered if node.allowed(pins) and node.holds(fixed)]

    # ------------------------------------------------------------------ after running out of memory

    def can_grow(self, f: FunctionState) -> bool:
        """Return whether any amount for which a function asks may grow after it has run out of memory."""
        return MEMORY in f.kind.auto or any(name in f.cost for name in f.kind.policy.grow)

    def grow(self, f: FunctionState) -> dict[str, int]:
        """Return the amounts for which a function asks next, after it has run out of memory.

        The amounts grow at most to what one of the nodes offers that may run the function: the one that
        offers most of what it would ask for without this bound.

        Returns
        -------
        dict of str to int
            Resource → units. Empty if no amount can grow.
        """
        factors: Mapping[str, float] = f.kind.policy.grow
        wanted = {
            name: math.ceil(f.cost[name] * factor) for name, factor in factors.items() if f.cost.get(name)
        }
        if MEMORY in f.kind.auto:
            asked = f.cost.get(MEMORY, 0)
            larger = [p for p in self._estimates.peaks(f.kind.code) if to_units(sufficient_memory(p)) > asked]
            likely = to_units(sufficient_memory(allocations(larger)[0])) if larger else 0
            wanted[MEMORY] = max(likely, math.ceil(asked * factors.get(MEMORY, _FACTOR)))
        best: dict[str, int] = {}
        most = 0.0
        for node in self._nodes_of(f):
            if node.holds(f.cost):
                offered = {name: min(units, node.capacity[name]) for name, units in wanted.items()}
                share = math.fsum(offered[name] / units for name, units in wanted.items())
                if share > most:
                    most, best = share, offered
        return {name: units for name, units in best.items() if units > f.cost[name]}

    def set_cost(self, f: FunctionState, amounts: Mapping[str, float]) -> None:
        """Set the cost of a function's next attempt, which was computed.

        Raises
        ------
        ValueError
            It is no cost.
        """
        units = parse_amounts(amounts)
        limits = dict(f.run.spec.limits)
        f.cost = {THREADS: UNIT, **{name: n for name, n in units.items() if name not in limits}}
        f.limit_cost = {name: n for name, n in units.items() if name in limits}
        if f.run.spec.max_concurrency is not None:
            f.limit_cost[CONCURRENCY] = UNIT
        f.asked = dict(amounts)
        _widen_group(f)

    def ask(self, f: FunctionState, amounts: Amounts) -> None:
        """Let a function without an allocation ask for other amounts of some resources."""
        if amounts:
            _ask(f, amounts)


class _Room:
    """What nodes have for a function.

    Attributes
    ----------
    most : dict of str to int
        Resource that can be estimated → the most units of it on any of the nodes.
    spare : float
        MB for each function if the largest node is full of functions like it.
    """

    __slots__ = ("most", "spare")

    def __init__(self, f: FunctionState, nodes: Sequence[Node]) -> None:
        fixed = [(name, units) for name, units in _fixed(f).items() if units]
        self.most = {name: max((n.capacity.get(name, 0) for n in nodes), default=0) for name in MEASURED}
        shares = (max(u / n.capacity[name] for name, u in fixed) * n.capacity.get(MEMORY, 0) for n in nodes)
        self.spare = max(shares, default=0.0) / UNIT


def _fixed(f: FunctionState) -> dict[str, int]:
    """Return what a function asks for of the resources that are not estimated."""
    return {name: units for name, units in f.cost.items() if name not in f.kind.auto}


def _ask(f: FunctionState, amounts: Amounts) -> None:
    f.cost = {**f.cost, **amounts}
    asked = dict(f.kind.asked) if f.asked is None else f.asked
    f.asked = {**asked, **{name: from_units(units) for name, units in amounts.items()}}
    _widen_group(f)


def _widen_group(f: FunctionState) -> None:
    """Let a function's group need what the function asks for."""
    if f.group is not None:
        need = f.group.need
        f.group.need = {name: max(need.get(name, 0), f.cost.get(name, 0)) for name in {**need, **f.cost}}


def first_amount(peaks: Sequence[float], spare: float = 0.0) -> float:
    """Return for how many MB functions should ask at first, given the peaks of others like them.

    To ask for less than ``spare`` saves nothing: if only such functions run, their cores are used up first.
    The first to end may well be the smallest, so few peaks count with a margin.
    """
    if len(peaks) < _FEW:
        return max(spare, sufficient_memory(max(peaks) * (1 + 1 / math.sqrt(len(peaks)))))
    small = [peak for peak in peaks if sufficient_memory(peak) <= spare]
    large = [peak for peak in peaks if sufficient_memory(peak) > spare]
    first = allocations([spare] * len(small) + large)[0]
    return spare if small and first == spare else sufficient_memory(first)


def allocations(peaks: Sequence[float]) -> list[float]:
    """Return the chain of allocations that wastes least: the first one, and the next after each failure.

    The waste is measured in memory times attempts. An attempt whose peak exceeds its allocation is expected
    to hold it as long as one that succeeds.

    Parameters
    ----------
    peaks : sequence of float
        What functions have used; not empty.

    Returns
    -------
    list of float
        Some of the peaks, ascending; the last is the largest.
    """
    ordered = sorted(peaks)
    n = len(ordered)
    # best[i]: the least total allocation for the functions i, i + 1, ... if those before are done with.
    best = [0.0] * (n + 1)
    step = [n] * (n + 1)
    for i in range(n - 1, -1, -1):
        best[i] = math.inf
        for j in range(i, n):  # allocate ordered[j]: the functions after j fail, and continue from j + 1
            total = ordered[j] * (n - i) + best[j + 1]
            if total < best[i]:
                best[i], step[i] = total, j
    chain = []
    i = 0
    while i < n:
        chain.append(ordered[step[i]])
        i = step[i] + 1
    return chain
