"""The scenario of a seed: nodes, clients, runs, and faults."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from handoff_dask import DAG, Function
from simulated.work import attempt, combine

SHAPES: tuple[Mapping[str, float], ...] = (
    {"cpu": 1, "memory": 1000},
    {"cpu": 2, "memory": 2000},
    {"cpu": 2, "memory": 1000, "gpu": 1},
    {"cpu": 4, "memory": 4000, "gpu": 2},
)
COSTS: tuple[Mapping[str, float], ...] = (
    {},
    {"cpu": 1},
    {"cpu": 2},
    {"cpu": 0.5, "memory": 500},
    {"memory": 900},
    {"gpu": 1},
    {"cpu": 1, "gpu": 0.5},
)


#: Time before any worker or client exists.
BEFORE = -1.0


@dataclass(frozen=True)
class Node:
    """A worker: the times when it joins and dies, in seconds."""

    machine: str
    name: str
    capacity: Mapping[str, float]
    joins: float
    dies: float | None = None
    gracefully: bool = False
    declares: bool = True  # resources to Dask; otherwise the worker does not enforce its capacity

    @property
    def stays(self) -> bool:
        """Whether it exists from start to end."""
        return self.joins == 0 and self.dies is None

    def holds(self, cost: Mapping[str, float]) -> bool:
        """Return whether a cost fits on the idle node."""
        return all(self.capacity.get(name, 0) >= amount for name, amount in cost.items())


@dataclass(frozen=True)
class PlannedFunction:
    """A function."""

    inputs: tuple[int, ...]
    cost: Mapping[str, float]
    failures: int
    seconds: float
    inner: int = 0  # number of functions of a nested DAG that it runs


@dataclass(frozen=True)
class PlannedRun:
    """A run: its functions, client and start time, and how it ends early, if it does."""

    name: str
    client: str
    at: float
    functions: tuple[PlannedFunction, ...]
    options: Mapping[str, Any]
    how: str
    after: float  # seconds until cancellation, timeout or release of the handle, depending on ``how``

    def dag(self) -> DAG:
        """Return the DAG of the run."""
        dag = DAG(self.name)
        for i, f in enumerate(self.functions):
            kwargs = {"i": i, "failures": f.failures, "seconds": f.seconds, "inner": f.inner}
            dag.add_function(
                Function(i, attempt, args=list(f.inputs), extra_kwargs=kwargs, cost=dict(f.cost))
            )
        return dag

    def expected(self) -> dict[int, int]:
        """Return the expected results, evaluated sequentially."""
        values: dict[int, int] = {}
        for i, f in enumerate(self.functions):
            values[i] = combine(i, [values[d] for d in f.inputs])
        return values

    @property
    def fails(self) -> bool:
        """Whether a function fails more often than it is retried."""
        return any(f.failures > self.options["max_retries"] for f in self.functions)


@dataclass
class Scenario:
    """All events of a seed. Times are in virtual seconds.

    Attributes
    ----------
    preload : float or None
        When a preload installs the plugin; :data:`BEFORE` for before anything else; None for never.
    closes, breaks : dict of str to float
        Client → time when it closes, or when its connection breaks.
    """

    nodes: list[Node] = field(default_factory=list)
    clients: dict[str, float] = field(default_factory=dict)
    runs: list[PlannedRun] = field(default_factory=list)
    preload: float | None = None
    closes: dict[str, float] = field(default_factory=dict)
    breaks: dict[str, float] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Describe the scenario, line by line."""
        found = []
        for n in self.nodes:
            capacity = f"{dict(n.capacity)}{'' if n.declares else ', undeclared'}"
            end = "" if n.dies is None else f", {'closes' if n.gracefully else 'dies'} at {n.dies:.3f}"
            found.append(f"  node {n.name} on {n.machine}: {capacity}, joins at {n.joins:.3f}{end}")
        for client, at in self.clients.items():
            ends = [
                f", {what} at {when[client]:.3f}"
                for what, when in (("closes", self.closes), ("its connection breaks", self.breaks))
                if client in when
            ]
            found.append(f"  client {client}, connects at {at:.3f}{''.join(ends)}")
        if self.preload is not None:
            found.append(f"  a preload installs the plugin at {self.preload:.3f}")
        for run in self.runs:
            found.append(
                f"  {run.name} by {run.client} at {run.at:.3f}: {run.how} {run.after:.3f}, {run.options}"
            )
            found += [
                f"    {i}: inputs {list(f.inputs)}, {dict(f.cost)}, {f.failures} failures, {f.seconds:.3f} s"
                + (f", runs a nested DAG of {f.inner}" if f.inner else "")
                for i, f in enumerate(run.functions)
            ]
        return found


def draw_time(rng: random.Random) -> float:
    """Draw the time of an event, most often early, during startup."""
    return rng.choice((0.0, rng.expovariate(20), rng.expovariate(3), rng.uniform(0, 4)))


def draw_scenario(seed: int) -> Scenario:
    """Draw the scenario of a seed."""
    rng = random.Random(f"scenario {seed}")
    # Each seed has only some kinds of faults, because faults of one kind may hide those of another.
    deaths, joins, ends, breaks, fails, early, nested = (
        rng.random() < p for p in (0.4, 0.4, 0.4, 0.3, 0.4, 0.5, 0.2)
    )
    scenario = Scenario()
    for n in range(rng.randint(1, 3)):
        scenario.nodes.append(Node(f"m{n}", f"n{n}", rng.choice(SHAPES), 0.0, declares=rng.random() < 0.5))
    if joins:
        for _ in range(rng.randint(1, 2)):
            n = len(scenario.nodes)
            scenario.nodes.append(Node(f"m{n}", f"n{n}", rng.choice(SHAPES), draw_time(rng)))
    if deaths:
        for k in rng.sample(range(len(scenario.nodes)), rng.randint(1, 2) if len(scenario.nodes) > 2 else 1):
            old = scenario.nodes[k]
            dies = old.joins + draw_time(rng)
            scenario.nodes[k] = replace(old, dies=dies, gracefully=rng.random() < 0.3)
            if rng.random() < 0.5:  # replaced by a node of the same name
                machine = f"m{len(scenario.nodes)}"
                scenario.nodes.append(Node(machine, old.name, old.capacity, dies + 0.3 + draw_time(rng)))
    for n in range(rng.randint(1, 3)):
        scenario.clients[f"c{n}"] = 0.0 if early else draw_time(rng)
    scenario.preload = rng.choice((None, BEFORE, BEFORE, draw_time(rng)))
    for client in scenario.clients:
        if breaks and rng.random() < 0.6:
            scenario.breaks[client] = draw_time(rng)
        elif ends and rng.random() < 0.3:
            scenario.closes[client] = draw_time(rng)
    # A function that runs a nested DAG holds its thread. One thread must stay free for nested functions.
    inside = sum(max(1, int(n.capacity["cpu"])) for n in scenario.nodes if n.stays) - 1 if nested else 0
    names = list(scenario.clients)
    for n in range(rng.randint(1, 4)):
        functions = []
        for i in range(rng.randint(1, 8)):
            inputs = tuple(rng.sample(range(i), rng.randint(0, min(2, i))))
            costs = [c for c in COSTS if any(node.holds(c) for node in scenario.nodes if node.stays)]
            failures = rng.choice((1, 1, 2, 4)) if fails and rng.random() < 0.3 else 0
            seconds = rng.choice((0.0, rng.expovariate(200), rng.expovariate(5), rng.uniform(0, 2)))
            cost, inner = rng.choice(costs or COSTS[:2]), 0
            if inside > 0 and rng.random() < 0.4:
                cost, inner, inside = {}, rng.randint(1, 3), inside - 1
            functions.append(PlannedFunction(inputs, cost, failures, seconds, inner))
        how = rng.choice(
            ("cancel", "timeout", "drop") if ends and rng.random() < 0.6 else ("execute", "submit")
        )
        options: dict[str, Any] = {
            "max_retries": rng.choice((0, 2, 3)),
            "fail_fast": rng.random() < 0.5,
            "keep": rng.choice(("all", "sinks")),
            "wait_for_nodes": rng.choice((0, 5)),
        }
        if rng.random() < 0.2:
            options["max_concurrency"] = rng.randint(1, 3)
        at = 0.0 if early and rng.random() < 0.7 else draw_time(rng)
        scenario.runs.append(
            PlannedRun(f"r{n}", rng.choice(names), at, tuple(functions), options, how, draw_time(rng))
        )
    return scenario
