"""Workflow traces: reading, fitting to nodes, lower bounds on their makespans, and scaling.

A trace is a JSON file: ``{"name": …, "tasks": {id: {"deps", "seconds", "cpu", "memory_mb", "gpu"}}}``; other
fields are ignored. Ids start with the type of the function (``align-00012``).
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

#: Shortest duration in seconds. With shorter ones, a scheduler's messages matter more than its decisions.
SHORTEST = 0.005

Nodes = Mapping[str, Mapping[str, float]]

#: Implicit resource: every function takes one of its node's threads.
THREADS = "threads"


@dataclass(frozen=True)
class TraceFunction:
    """One function of a trace: ids of its inputs, duration in seconds, cost."""

    deps: tuple[str, ...]
    seconds: float
    cost: Mapping[str, float]


@dataclass(frozen=True)
class Trace:
    """A workflow: its functions by id, in the order in which they are added to a DAG."""

    name: str
    functions: Mapping[str, TraceFunction]

    def with_seconds(self, seconds: Iterable[float]) -> Trace:
        """Return a copy with other durations, given in the order of the functions."""
        pairs = zip(self.functions.items(), seconds, strict=True)
        return replace(self, functions={id: replace(f, seconds=float(s)) for (id, f), s in pairs})

    def topological_order(self) -> list[str]:
        """Return the ids in topological order.

        Raises
        ------
        ValueError
            An input is missing, or there is a cycle.
        """
        waiting = {id: len(set(f.deps)) for id, f in self.functions.items()}
        dependents: dict[str, list[str]] = {id: [] for id in self.functions}
        for id, f in self.functions.items():
            for dep in set(f.deps):
                if dep not in dependents:
                    raise ValueError(f"trace {self.name!r}: {id!r} needs {dep!r}, which is missing")
                dependents[dep].append(id)
        order = [id for id, inputs in waiting.items() if not inputs]
        for id in order:  # grows during the iteration
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
    """Return the trace that the content of a file describes."""
    functions = {}
    for id, task in content["tasks"].items():
        cost = {"cpu": task["cpu"], "memory": task["memory_mb"], "gpu": task["gpu"]}
        functions[id] = TraceFunction(
            tuple(task["deps"]), task["seconds"], {r: n for r, n in cost.items() if n}
        )
    return Trace(content["name"], functions)


def fit(trace: Trace, nodes: Nodes) -> Trace:
    """Reduce costs so that each function fits on some node.

    GPUs come first, since few nodes have them. Among the nodes with enough GPUs, the other costs are reduced
    to the capacity of the node that preserves most of them.
    """
    most_gpus = max(node.get("gpu", 0) for node in nodes.values())

    def fitted(f: TraceFunction) -> TraceFunction:
        gpu = min(f.cost.get("gpu", 0), most_gpus)
        rest = {r: n for r, n in f.cost.items() if r != "gpu"}
        able = [node for node in nodes.values() if node.get("gpu", 0) >= gpu]
        best = max(able, key=lambda node: math.prod(min(1, node.get(r, 0) / n) for r, n in rest.items()))
        cost = {r: min(n, best.get(r, 0)) for r, n in rest.items()} | {"gpu": gpu}
        return replace(f, cost={r: n for r, n in cost.items() if n})

    return replace(trace, functions={id: fitted(f) for id, f in trace.functions.items()})


def node_threads(node: Mapping[str, float]) -> int:
    """Return the number of threads that ``local_cluster`` gives a node."""
    return int(node.get(THREADS, max(1, int(node.get("cpu", 1)))))


@dataclass(frozen=True)
class _SharedCapacity:
    """Functions (``members``) that share a capacity, and the amount of it that each one uses."""

    label: str
    members: np.ndarray
    use: np.ndarray
    capacity: float

    def bound(self, seconds: np.ndarray, before: np.ndarray, after: np.ndarray) -> float:
        """Return a lower bound in seconds on the makespan of the whole trace.

        For any subset of the members, the makespan is at least the smallest ``before`` of the subset, plus
        its total work over the capacity, plus its smallest ``after``. The bound is the maximum over all
        subsets that are defined by a minimum of ``before`` and a minimum of ``after``.
        """
        by_after = np.argsort(-after[self.members], kind="stable")
        members = self.members[by_after]
        work = self.use[by_after] * seconds[members] / self.capacity
        earliest = np.unique(before[members])
        # One row per value of ``before``; along each row, ``after`` decreases.
        inside = before[members] >= earliest[:, None]
        parts = earliest[:, None] + np.where(inside, work, 0.0).cumsum(axis=1) + after[members]
        return float(parts.max(where=inside, initial=0.0))


class LowerBound:
    """Lower bound on the makespan of a trace on some nodes, for any durations.

    It is the maximum of bounds that hold for every schedule, even one that knows the future: the critical
    path; for each resource, work over capacity, both of all functions on all nodes, and of the functions that
    fit on only some nodes on those nodes; and for each cost, the total duration of the functions that ask for
    at least that much over the number of them that the nodes can hold at once. All but the first include the
    work before and after.

    Raises
    ------
    ValueError
        A function fits on no node; an input is missing; there is a cycle.
    """

    def __init__(self, trace: Trace, nodes: Nodes) -> None:
        index = {id: i for i, id in enumerate(trace.functions)}
        self._order = [index[id] for id in trace.topological_order()]
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
        capacities = [
            *_of_resources([*resources, THREADS], cost, capacity, fits, list(nodes)),
            *_of_costs([*resources, THREADS], cost, capacity),
        ]
        # Many costs are nearly equal: of several capacities of the same functions, only the tightest matters.
        tightest: dict[tuple[bytes, bytes], _SharedCapacity] = {}
        for shared in capacities:
            key = shared.members.tobytes(), (shared.use / shared.use.max()).tobytes()
            rate = shared.capacity / shared.use.max()
            if key not in tightest or rate < tightest[key].capacity / tightest[key].use.max():
                tightest[key] = shared
        self._capacities = list(tightest.values())

    def __call__(self, seconds: np.ndarray | None = None) -> tuple[float, str]:
        """Return the largest bound in seconds, and its label."""
        seconds = self._seconds if seconds is None else seconds
        before, after = np.zeros(len(seconds)), np.zeros(len(seconds))
        for i in self._order:
            before[i] = max((before[d] + seconds[d] for d in self._deps[i]), default=0.0)
        for i in reversed(self._order):
            for d in self._deps[i]:
                after[d] = max(after[d], after[i] + seconds[i])
        best = float((before + seconds + after).max()), "critical path"
        for shared in self._capacities:
            bound = shared.bound(seconds, before, after)
            if bound > best[0] * (1 + 1e-9):
                best = bound, shared.label
        return best


def _of_resources(
    names: Sequence[str], cost: np.ndarray, capacity: np.ndarray, fits: np.ndarray, nodes: Sequence[str]
) -> Iterable[_SharedCapacity]:
    """Yield, per set of nodes and resource, the functions that fit only on these nodes."""
    sets = {tuple(row) for row in fits} | {(True,) * len(nodes)}
    if len(nodes) <= 8:  # unions matter too: functions that fit only on A or only on B share A and B
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
                yield _SharedCapacity(name + place, using, cost[using, r], float(capacity[inside, r].sum()))


def _of_costs(names: Sequence[str], cost: np.ndarray, capacity: np.ndarray) -> Iterable[_SharedCapacity]:
    """Yield, per cost, the functions that ask for at least as much; each of them takes one slot."""
    thresholds = {tuple(row) for row in cost}
    for r in range(len(names)):  # at least so much of one resource alone
        thresholds |= {tuple(n if k == r else 0.0 for k in range(len(names))) for n in set(cost[:, r]) if n}
    for threshold in sorted(thresholds, reverse=True):
        least = np.array(threshold)
        asked = least > 0
        members = np.flatnonzero((cost >= least).all(axis=1))
        slots = float((capacity[:, asked] // least[asked]).min(axis=1).sum())
        label = ", ".join(
            f"{name} {n:g}" for name, n in zip(names, threshold, strict=True) if n and name != THREADS
        )
        yield _SharedCapacity(f"slots for {label or 'any'}", members, np.ones(len(members)), slots)


def lower_bound(trace: Trace, nodes: Nodes) -> tuple[float, str]:
    return LowerBound(trace, nodes)()


def scale(trace: Trace, nodes: Nodes, target: float, shortest: float = SHORTEST) -> Trace:
    """Scale durations so that the lower bound of the trace is ``target`` seconds.

    No function gets less than ``shortest`` seconds. If the bound exceeds the target even with that duration
    for all functions, all of them get it.
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
    while high - low > 1e-9 * high:  # bisect: the bound is monotonic in the factor
        middle = (low + high) / 2
        if bound(scaled(middle))[0] < target:
            low = middle
        else:
            high = middle
    return trace.with_seconds(scaled(high))
