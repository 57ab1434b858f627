"""How soon a run could end at best: bounds that no schedule beats."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from handoff_dask._model.resources import THREADS, UNIT
from handoff_dask._scheduling.functions import FunctionState
from handoff_dask._scheduling.ledger import Node
from handoff_dask._scheduling.order import path_lengths
from handoff_dask._scheduling.queues import eligible_nodes, queue_key
from handoff_dask._scheduling.runs import CONCURRENCY, Run

#: Costs that are looked at one by one: how many functions of at least such a cost run at once. Those with
#: most work, since each is compared with every kind.
_COSTS = 100


def lower_bounds(run: Run, nodes: Sequence[Node], seconds: Sequence[float]) -> dict[str, float]:
    """Bounds of a run's makespan by what they come from, in seconds.

    Parameters
    ----------
    run : Run
    nodes : sequence of Node
        Every function fits on one of them.
    seconds : sequence of float
        Function number → duration.

    Notes
    -----
    Every bound but the critical path says: these functions have so much work together, of which so much
    is done at once at most; before the first of them something else has to run, and after the last, too.
    """
    if not run.functions:
        return {}
    classes = _Classes(run, nodes, seconds)
    bounds = {"critical path": classes.longest}
    everything = [*classes.by_cost]
    eligible = {nodes_of for _, nodes_of in everything} | {frozenset(range(len(nodes)))}
    for where in eligible:
        members = [key for key in everything if key[1] <= where]
        place = (
            "" if len(where) == len(nodes) else " of " + "+".join(str(nodes[i].name) for i in sorted(where))
        )
        for name in dict.fromkeys(name for cost, _ in members for name, _ in cost):
            capacity = sum(nodes[i].capacity.get(name, 0) for i in where)
            bounds[name + place] = classes.bound(members, name, capacity)
    costs = {cost: 0.0 for cost, _ in everything}
    for key in everything:
        costs[key[0]] += classes.by_cost[key].seconds
    for cost in sorted(costs, key=lambda cost: -costs[cost])[:_COSTS]:
        slots = sum(min(node.capacity.get(name, 0) // units for name, units in cost) for node in nodes)
        asked = dict(cost)
        members = [key for key in everything if _at_least(dict(key[0]), asked)]
        text = ", ".join(f"{name} {units / UNIT:g}" for name, units in cost if name != THREADS)
        bounds[f"functions of {text or 'any cost'}"] = classes.bound(members, None, slots)
    bounds |= _limit_bounds(run, seconds)
    for group in run.groups:
        best = min(_alone(group.members, seconds, nodes[i]) for i in classes.eligible(group.members[0]))
        name = f"collocated with {group.members[0].id!r}"
        bounds[name] = max(best, bounds.get(name, 0.0))
    return bounds


class _Work:
    """Functions of one cost that the same nodes can hold."""

    __slots__ = ("after", "before", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.before = math.inf
        self.after = math.inf


Cost = tuple[tuple[str, int], ...]


class _Classes:
    """The functions of a run by cost and by the nodes that can hold them."""

    def __init__(self, run: Run, nodes: Sequence[Node], seconds: Sequence[float]) -> None:
        self._nodes = nodes
        self._index = {node.name: i for i, node in enumerate(nodes)}
        self._eligible: dict[int, frozenset[int]] = {}
        dependents = run.spec.dependents or [()] * len(run.functions)
        after = path_lengths(dependents, seconds)
        before = [0.0] * len(run.functions)
        for n, later in enumerate(dependents):
            end = before[n] + seconds[n]
            for d in later:
                before[d] = max(before[d], end)
        self.longest = max(after)
        self.by_cost: dict[tuple[Cost, frozenset[int]], _Work] = {}
        sorted_costs: dict[int, Cost] = {}
        for f, took in zip(run.functions, seconds, strict=True):
            cost = sorted_costs.get(id(f.cost))
            if cost is None:
                cost = sorted_costs[id(f.cost)] = tuple(sorted(f.cost.items()))
            work = self.by_cost.setdefault((cost, self.eligible(f)), _Work())
            work.seconds += took
            work.before = min(work.before, before[f.number])
            work.after = min(work.after, after[f.number] - took)

    def eligible(self, f: FunctionState) -> frozenset[int]:
        """Indices of the nodes that could hold a function."""
        source = id(f.kind) if f.group is None else id(f.group)
        found = self._eligible.get(source)
        if found is None:
            found = frozenset(self._index[n.name] for n in eligible_nodes(queue_key(f), self._nodes))
            self._eligible[source] = found
        return found

    def bound(self, members: Iterable[tuple[Cost, frozenset[int]]], name: str | None, capacity: int) -> float:
        """Work of these functions over what can be done at once; without a resource, each counts as one."""
        total, before, after = 0.0, math.inf, math.inf
        for key in members:
            work = self.by_cost[key]
            units = 1 if name is None else dict(key[0]).get(name, 0)
            if units and work.seconds:
                total += units * work.seconds
                before, after = min(before, work.before), min(after, work.after)
        return before + total / capacity + after if total else 0.0


def _at_least(cost: Mapping[str, int], asked: Mapping[str, int]) -> bool:
    return all(cost.get(name, 0) >= units for name, units in asked.items())


def _limit_bounds(run: Run, seconds: Sequence[float]) -> dict[str, float]:
    if run.limits is None:
        return {}
    used: dict[str, float] = {}
    for f, took in zip(run.functions, seconds, strict=True):
        for name, units in f.limit_cost.items():
            used[name] = used.get(name, 0.0) + units * took
    named = ((name if name == CONCURRENCY else f"limit {name}", name) for name in used)
    return {text: used[name] / run.limits.capacity[name] for text, name in named}


def _alone(members: Iterable[FunctionState], seconds: Sequence[float], node: Node) -> float:
    """Seconds that one node needs for all of them at least."""
    used: dict[str, float] = {}
    for f in members:
        for name, units in f.cost.items():
            used[name] = used.get(name, 0.0) + units * seconds[f.number]
    return max(total / node.capacity[name] for name, total in used.items())
