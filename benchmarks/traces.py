"""Workflow traces: reading them, fitting them to nodes, how soon they can end, scaling them.

A trace is a JSON file: ``{"name": …, "tasks": {id: {"deps", "seconds", "cpu", "memory_mb", "gpu"}}}``; other
fields are left alone. Ids begin with the type of the function (``align-00012``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

#: Below this a scheduler is measured on its messages, not on its decisions.
SHORTEST = 0.005

Nodes = Mapping[str, Mapping[str, float]]

#: Every function takes one of its node's threads, besides what it asks for.
THREADS = "threads"


@dataclass(frozen=True)
class Traced:
    """One function of a trace: ids of its inputs, seconds it takes, resource → amount it asks for."""

    deps: tuple[str, ...]
    seconds: float
    cost: Mapping[str, float]


@dataclass(frozen=True)
class Trace:
    """A workflow: its functions by id, in the order in which they are to be added."""

    name: str
    functions: Mapping[str, Traced]

    def with_seconds(self, seconds: Iterable[float]) -> Trace:
        """The same with other durations, in the order of the functions."""
        pairs = zip(self.functions.items(), seconds, strict=True)
        return replace(self, functions={id: replace(f, seconds=float(s)) for (id, f), s in pairs})

    def topological(self) -> list[str]:
        """The ids in an order in which inputs come first.

        Raises
        ------
        ValueError
            An input is missing, or functions wait for each other in a circle.
        """
        waiting = {id: len(set(f.deps)) for id, f in self.functions.items()}
        dependents: dict[str, list[str]] = {id: [] for id in self.functions}
        for id, f in self.functions.items():
            for dep in set(f.deps):
                if dep not in dependents:
                    raise ValueError(f"trace {self.name!r}: {id!r} needs {dep!r}, which is missing")
                dependents[dep].append(id)
        order = [id for id, inputs in waiting.items() if not inputs]
        for id in order:  # grows meanwhile
            for dependent in dependents[id]:
                waiting[dependent] -= 1
                if not waiting[dependent]:
                    order.append(dependent)
        if len(order) < len(self.functions):
            raise ValueError(f"trace {self.name!r} has a cycle")
        return order


def load_trace(path: Path) -> Trace:
    return trace_of(json.loads(path.read_text()))


def trace_of(content: Mapping[str, Any]) -> Trace:
    """The trace that a file of this content describes."""
    functions = {}
    for id, task in content["tasks"].items():
        cost = {"cpu": task["cpu"], "memory": task["memory_mb"], "gpu": task["gpu"]}
        functions[id] = Traced(tuple(task["deps"]), task["seconds"], {r: n for r, n in cost.items() if n})
    return Trace(content["name"], functions)


def fit(trace: Trace, nodes: Nodes) -> Trace:
    """The trace with demands cut down so that each function fits on some node.

    GPUs first, since few nodes have one; of the nodes that have enough of them, the one that leaves most of
    the remaining demand says what remains.
    """
    most_gpus = max(node.get("gpu", 0) for node in nodes.values())

    def fitted(f: Traced) -> Traced:
        gpu = min(f.cost.get("gpu", 0), most_gpus)
        rest = {r: n for r, n in f.cost.items() if r != "gpu"}
        able = [node for node in nodes.values() if node.get("gpu", 0) >= gpu]
        best = max(able, key=lambda node: math.prod(min(1, node.get(r, 0) / n) for r, n in rest.items()))
        cost = {r: min(n, best.get(r, 0)) for r, n in rest.items()} | {"gpu": gpu}
        return replace(f, cost={r: n for r, n in cost.items() if n})

    return replace(trace, functions={id: fitted(f) for id, f in trace.functions.items()})


def node_threads(node: Mapping[str, float]) -> int:
    """Threads that ``local_cluster`` gives a node."""
    return int(node.get(THREADS, max(1, int(node.get("cpu", 1)))))


@dataclass(frozen=True)
class _Crowd:
    """Functions that share a capacity: of their use per second only so much is possible at once."""

    label: str
    members: np.ndarray
    use: np.ndarray
    capacity: float

    def bound(self, seconds: np.ndarray, before: np.ndarray, after: np.ndarray) -> float:
        """Seconds until the whole trace has ended, at least.

        Of any part of the crowd: nothing of it starts before the earliest of its ``before``; then its work
        has to be done; and after the last of it, at least the least of its ``after`` follows. Tried are all
        parts with ``before`` of at least something and ``after`` of at least something.
        """
        by_after = np.argsort(-after[self.members], kind="stable")
        members = self.members[by_after]
        work = self.use[by_after] * seconds[members] / self.capacity
        earliest = np.unique(before[members])
        # A row for each value of ``before``, along it ever smaller values of ``after``.
        inside = before[members] >= earliest[:, None]
        parts = earliest[:, None] + np.where(inside, work, 0.0).cumsum(axis=1) + after[members]
        return float(parts.max(where=inside, initial=0.0))


class LowerBound:
    """How soon a trace can end on some nodes at best, for any durations.

    Only bounds that hold for every schedule, one that knows the future included: the critical path; for each
    resource the work over the capacity, of all functions and of those that only some nodes can hold over the
    capacity of those nodes; and for each demand the functions that ask for at least that, of which a node
    holds so many at once. All but the first with what has to run before and after.

    Raises
    ------
    ValueError
        A function fits on no node; an input is missing; there is a cycle.
    """

    def __init__(self, trace: Trace, nodes: Nodes) -> None:
        index = {id: i for i, id in enumerate(trace.functions)}
        self._order = [index[id] for id in trace.topological()]
        self._seconds = np.array([f.seconds for f in trace.functions.values()])
        self._deps = [[index[dep] for dep in f.deps] for f in trace.functions.values()]
        resources = sorted({r for f in trace.functions.values() for r in f.cost})
        asked = [[f.cost.get(r, 0) for r in resources] + [1] for f in trace.functions.values()]
        offered = [[node.get(r, 0) for r in resources] + [node_threads(node)] for node in nodes.values()]
        cost, capacity = np.array(asked, float), np.array(offered, float)
        fits = (cost[:, None, :] <= capacity[None]).all(axis=2)
        if not fits.any(axis=1).all():
            misfit = list(trace.functions)[int(np.flatnonzero(~fits.any(axis=1))[0])]
            raise ValueError(f"trace {trace.name!r}: {misfit!r} fits on no node")
        crowds = [
            *_of_resources([*resources, THREADS], cost, capacity, fits, list(nodes)),
            *_of_demands([*resources, THREADS], cost, capacity),
        ]
        # Many demands differ by next to nothing: of crowds of the same functions the tightest says it all.
        tightest: dict[tuple[bytes, bytes], _Crowd] = {}
        for crowd in crowds:
            key = crowd.members.tobytes(), (crowd.use / crowd.use.max()).tobytes()
            rate = crowd.capacity / crowd.use.max()
            if key not in tightest or rate < tightest[key].capacity / tightest[key].use.max():
                tightest[key] = crowd
        self._crowds = list(tightest.values())

    def __call__(self, seconds: np.ndarray | None = None) -> tuple[float, str]:
        """The largest of the bounds, in seconds, and what it comes from."""
        seconds = self._seconds if seconds is None else seconds
        before, after = np.zeros(len(seconds)), np.zeros(len(seconds))
        for i in self._order:
            before[i] = max((before[d] + seconds[d] for d in self._deps[i]), default=0.0)
        for i in reversed(self._order):
            for d in self._deps[i]:
                after[d] = max(after[d], after[i] + seconds[i])
        best = float((before + seconds + after).max()), "critical path"
        for crowd in self._crowds:
            bound = crowd.bound(seconds, before, after)
            if bound > best[0] * (1 + 1e-9):
                best = bound, crowd.label
        return best


def _of_resources(
    names: Sequence[str], cost: np.ndarray, capacity: np.ndarray, fits: np.ndarray, nodes: Sequence[str]
) -> Iterable[_Crowd]:
    """For each set of nodes that some functions cannot leave, and each resource: these functions."""
    sets = {tuple(row) for row in fits} | {(True,) * len(nodes)}
    if len(nodes) <= 8:  # unions matter, too: what fits on A or B only has A and B
        eligible = list(sets)
        for n in range(2, len(eligible) + 1):
            sets |= {tuple(map(any, zip(*some, strict=True))) for some in combinations(eligible, n)}
    for where in sorted(sets, reverse=True):
        inside = np.array(where)
        members = np.flatnonzero(~fits[:, ~inside].any(axis=1))
        place = "" if inside.all() else " of " + "+".join(n for n, w in zip(nodes, where, strict=True) if w)
        for r, name in enumerate(names):
            using = members[cost[members, r] > 0]
            if len(using):
                yield _Crowd(name + place, using, cost[using, r], float(capacity[inside, r].sum()))


def _of_demands(names: Sequence[str], cost: np.ndarray, capacity: np.ndarray) -> Iterable[_Crowd]:
    """For each demand: the functions that ask for at least as much, which take a slot each."""
    demands = {tuple(row) for row in cost}
    for r in range(len(names)):  # at least so much of one resource, whatever else
        demands |= {tuple(n if k == r else 0.0 for k in range(len(names))) for n in set(cost[:, r]) if n}
    for demand in sorted(demands, reverse=True):
        least = np.array(demand)
        asked = least > 0
        members = np.flatnonzero((cost >= least).all(axis=1))
        slots = float((capacity[:, asked] // least[asked]).min(axis=1).sum())
        label = ", ".join(
            f"{name} {n:g}" for name, n in zip(names, demand, strict=True) if n and name != THREADS
        )
        yield _Crowd(f"slots for {label or 'any'}", members, np.ones(len(members)), slots)


def lower_bound(trace: Trace, nodes: Nodes) -> tuple[float, str]:
    return LowerBound(trace, nodes)()


def scale(trace: Trace, nodes: Nodes, target: float, shortest: float = SHORTEST) -> Trace:
    """The trace with durations scaled so that its lower bound is ``target`` seconds.

    No function gets less than ``shortest`` seconds: when that alone takes the bound above the target, all get
    just that.
    """
    bound = LowerBound(trace, nodes)
    seconds = np.array([f.seconds for f in trace.functions.values()], float)

    def scaled(factor: float) -> np.ndarray:
        return np.maximum(shortest, seconds * factor)

    low, high = 0.0, target / max(bound()[0], 1e-9)
    while bound(scaled(high))[0] < target and seconds.any():
        low, high = high, 2 * high
    if bound(scaled(0.0))[0] >= target:
        return trace.with_seconds(scaled(0.0))
    while high - low > 1e-9 * high:  # the bound never falls when all durations grow
        middle = (low + high) / 2
        if bound(scaled(middle))[0] < target:
            low = middle
        else:
            high = middle
    return trace.with_seconds(scaled(high))
