"""Bounds of a run's end: lower bounds of the makespan, and the estimated time left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from handoff_dask._model.graph import path_lengths
from handoff_dask._model.resources import THREADS, UNIT
from handoff_dask._scheduling.functions import FINAL, FunctionState, State
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.nodes import Nodes
from handoff_dask._scheduling.runs import CONCURRENCY, Run

#: Maximum number of costs for which the number of concurrent functions of at least this cost gives a bound.
#: The costs with the longest total duration are used. Each is compared with every class of functions.
_MAX_COSTS = 100

Cost = tuple[tuple[str, int], ...]


def lower_bounds(run: Run, nodes: Sequence[Node], seconds: Sequence[float]) -> dict[str, float]:
    """Return lower bounds of a run's makespan in seconds, by the name of what imposes them.

    The bounds hold for every schedule, and do not depend on where the functions were placed.

    Parameters
    ----------
    run : Run
    nodes : sequence of Node
        Each function fits on at least one of them.
    seconds : sequence of float
        Function number → duration.

    Returns
    -------
    dict of str to float
        ``"critical path"``, a resource, a resource of some nodes, functions of a cost, a limit, or a
        collocation group → bound.

    Notes
    -----
    The bounds of resources, costs and limits have the form ``head + work / capacity + tail``, for a set of
    functions: none of them can start before ``head``, the capacity needs ``work / capacity`` for all of them,
    and at least ``tail`` follows after the last one. The sets are the 1, 2, ... functions with the longest
    critical paths before them, and likewise after them.
    """
    if not run.functions:
        return {}
    classes = _Classes(run, nodes, seconds)
    bounds = {"critical path": classes.longest}

    def found(name: str, bound: float) -> None:
        bounds[name] = max(bound, bounds.get(name, 0.0))  # nodes 1 and "1" have the same text

    everywhere = frozenset(range(len(nodes)))
    for where in dict.fromkeys([everywhere, *(nodes_of for _, nodes_of in classes.keys)]):
        members = [i for i, (_, nodes_of) in enumerate(classes.keys) if nodes_of <= where]
        place = "" if where == everywhere else " of " + "+".join(str(nodes[i].name) for i in sorted(where))
        for name in dict.fromkeys(name for i in members for name, _ in classes.keys[i][0]):
            capacity = sum(nodes[i].capacity.get(name, 0) for i in where)
            units = {i: dict(classes.keys[i][0]).get(name, 0) for i in members}
            found(name + place, classes.bound(units, capacity))
    for cost in classes.longest_costs():
        asked = dict(cost)
        slots = sum(node.slots(asked) for node in nodes)
        units = {i: 1 for i, (other, _) in enumerate(classes.keys) if _at_least(dict(other), asked)}
        text = ", ".join(f"{name} {amount / UNIT:g}" for name, amount in cost if name != THREADS)
        found(f"functions of {text or 'any cost'}", classes.bound(units, slots))
    if run.limits is not None:
        for name, limit in run.limits.capacity.items():
            held = np.array([f.limit_cost.get(name, 0) for f in run.functions], dtype=float)
            text = name if name == CONCURRENCY else f"limit {name}"
            found(text, classes.bound_of(held * classes.seconds, limit))
    for group in run.groups:
        best = min(_group_bound(group.members, seconds, nodes[i]) for i in classes.eligible(group.members[0]))
        found(f"collocated with {group.members[0].id!r}", best)
    return bounds


class _Classes:
    """The functions of a run in classes, each with one cost and one set of eligible nodes."""

    def __init__(self, run: Run, nodes: Sequence[Node], seconds: Sequence[float]) -> None:
        self._nodes = nodes
        self._eligible: dict[int, frozenset[int]] = {}
        dependents = run.spec.dependents or [()] * len(run.functions)
        after = path_lengths(dependents, seconds)
        before = [0.0] * len(run.functions)
        for n, later in enumerate(dependents):
            end = before[n] + seconds[n]
            for d in later:
                before[d] = max(before[d], end)
        self.longest = max(after)
        self.seconds = np.asarray(seconds, dtype=float)
        self._before = np.array(before)
        self._after = np.array(after) - self.seconds
        self._latest_first = np.argsort(-self._before, kind="stable")
        self._longest_after_first = np.argsort(-self._after, kind="stable")
        index: dict[tuple[Cost, frozenset[int]], int] = {}
        sorted_costs: dict[int, Cost] = {}
        class_of = []
        for f in run.functions:
            cost = sorted_costs.get(id(f.cost))
            if cost is None:
                cost = sorted_costs[id(f.cost)] = tuple(sorted(f.cost.items()))
            class_of.append(index.setdefault((cost, self.eligible(f)), len(index)))
        self.keys = list(index)
        self._class_of = np.array(class_of)

    def eligible(self, f: FunctionState) -> frozenset[int]:
        """Return the indices of the eligible nodes of a function, disregarding where its group is bound."""
        source = id(f.kind) if f.group is None else id(f.group)
        found = self._eligible.get(source)
        if found is None:
            need, pins = (f.cost, f.kind.pin_sets) if f.group is None else (f.group.need, f.group.pins)
            could = (i for i, n in enumerate(self._nodes) if n.allowed(pins) and n.holds(need))
            found = self._eligible[source] = frozenset(could)
        return found

    def longest_costs(self) -> list[Cost]:
        """Return the costs with the longest total duration of their functions."""
        total: dict[Cost, float] = {}
        for (cost, _), took in zip(
            self.keys, np.bincount(self._class_of, self.seconds, len(self.keys)), strict=True
        ):
            total[cost] = total.get(cost, 0.0) + float(took)
        return sorted(total, key=lambda cost: -total[cost])[:_MAX_COSTS]

    def bound(self, units: Mapping[int, int], capacity: int) -> float:
        """Return the bound for some classes of functions (class → units that each function takes)."""
        weights = np.zeros(len(self.keys))
        weights[list(units)] = list(units.values())
        return self.bound_of(weights[self._class_of] * self.seconds, capacity)

    def bound_of(self, work: NDArray[np.float64], capacity: int) -> float:
        """Return the bound for all functions with ``work`` (function number → units times seconds)."""
        return max(
            _bound(work, self._before, self._after, self._latest_first, capacity),
            _bound(work, self._after, self._before, self._longest_after_first, capacity),
        )


def _bound(
    work: NDArray[np.float64],
    ahead: NDArray[np.float64],
    behind: NDArray[np.float64],
    order: NDArray[np.intp],
    capacity: int,
) -> float:
    """Return the largest of the bounds for the first 1, 2, ... functions by descending ``ahead``."""
    order = order[work[order] > 0]
    if not order.size:
        return 0.0
    return float(
        np.max(ahead[order] + np.cumsum(work[order]) / capacity + np.minimum.accumulate(behind[order]))
    )


def _at_least(cost: Mapping[str, int], asked: Mapping[str, int]) -> bool:
    return all(cost.get(name, 0) >= units for name, units in asked.items())


def _group_bound(members: Iterable[FunctionState], seconds: Sequence[float], node: Node) -> float:
    """Return the seconds that one node needs at least for all members of a group."""
    used: dict[str, float] = {}
    for f in members:
        for name, units in f.cost.items():
            used[name] = used.get(name, 0.0) + units * seconds[f.number]
    return max(total / node.capacity[name] for name, total in used.items())


# ---------------------------------------------------------------------- time left

#: An overdue function is expected to continue for this fraction of the time that it has run.
_OVERDUE = 0.1


class TimeLeft(NamedTuple):
    """Estimate of the time until a run ends.

    Attributes
    ----------
    seconds : float
        The maximum of the critical path and the time that the nodes, or the run's limits, need for the
        remaining work.
    known : float
        Fraction of the remaining work, from 0 to 1, whose durations were given or learnt from functions of
        the same code.
    """

    seconds: float
    known: float


def time_left(run: Run, nodes: Nodes, now: float) -> TimeLeft | None:
    """Estimate the time until a run ends. None while no duration of an unfinished function is known.

    The estimate assumes that other runs and external tasks keep the capacity that they hold now.
    """
    spec = run.spec
    left = [f for f in run.functions if f.state not in FINAL]
    if not left:
        return TimeLeft(0.0, 1.0)
    known = run.estimates.known()
    if not any(known[f.number] for f in left):
        return None
    expected = run.estimates.latest()
    seconds = [0.0] * len(run.functions)
    by_kind = [0.0] * len(spec.kinds)
    sure = 0.0
    own: dict[str, int] = {}
    for f in left:
        takes = expected[f.number]
        if f.state is State.RUNNING:
            assert f.node is not None
            takes *= run.estimates.factor(f.node)
            ran = now - f.placed
            takes = max(takes - ran, _OVERDUE * ran)
            if f.allocated:
                for name, units in f.cost.items():
                    own[name] = own.get(name, 0) + units
        seconds[f.number] = takes
        by_kind[spec.kind_of[f.number]] += takes
        sure += takes * known[f.number]
    most = max(path_lengths(spec.dependents, seconds, [f.number for f in left])) if spec.dependents else 0.0
    asked: dict[str, float] = {}
    limits: dict[str, float] = {}
    for kind, total in zip(spec.kinds, by_kind, strict=True):
        for name, units in kind.node_cost.items():
            asked[name] = asked.get(name, 0.0) + units * total
        for name, units in kind.limit_cost:
            limits[name] = limits.get(name, 0.0) + units * total
    for name, work in asked.items():
        others = sum(node.used.get(name, 0) for node in nodes.ordered) - own.get(name, 0)
        units = max(nodes.total(name) - others, own.get(name, 0))
        if units:
            most = max(most, work / units)
    limit_of = dict(spec.limits)
    for name, work in limits.items():
        most = max(most, work / there) if (there := limit_of.get(name, 0)) else most
    total = sum(by_kind)
    if spec.max_concurrency:
        most = max(most, total / spec.max_concurrency)
    return TimeLeft(most, sure / total if total else 1.0)
