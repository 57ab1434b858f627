"""CPU time of the scheduling core, alone on a virtual clock, where it may grow with what it should not.

    python benchmarks/core.py [--rows NAME...] [--against CHECKOUT] [--repeats 1] [--functions 1000000]
        [--shrink 1] [--json FILE] [--markdown]

Each row runs in a process of its own and prints microseconds of CPU time per function (per failed attempt,
per node that joins) and, where there is one, the makespan in seconds of the virtual clock. ``--rows`` takes
beginnings of names. With ``--against`` each row runs alternately in that checkout (before) and in this one
(after), with this script in both. ``--repeats``: the least of so many. ``--shrink`` divides all sizes.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import json
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from common import CHECKOUT, Table, in_checkout, machine_line

import handoff_dask as handoff
from handoff_dask import DAG, Function, RetryPolicy


def named(name: str, *modules: str) -> Any:
    """Import a name from the first of these modules that has it: they differ between checkouts."""
    for module in modules:
        try:
            return getattr(import_module(f"handoff_dask.{module}"), name)
        except (ModuleNotFoundError, AttributeError):
            continue
    raise ImportError(f"no {name} in {', '.join(modules)}")


UNIT = named("UNIT", "_model.resources", "_model.amounts")
Kind = named("Kind", "_scheduling.spec")
RunSpec = named("RunSpec", "_scheduling.spec")
Node = named("Node", "_scheduling.nodes", "_scheduling.ledger", "_scheduling.node")
Simulation = named("Simulation", "_scheduling.simulation", "_scheduling.simulate")
SchedulingState = named("SchedulingState", "_scheduling.state")
lower_dag = named("lower_dag", "_scheduling.lower", "_scheduling.lowering")

#: (cores, MB) of functions of the usual kinds.
COSTS = ((1, 500), (2, 4000), (4, 1000), (1, 8000))


@dataclass(frozen=True)
class Measured:
    """CPU time per thing in microseconds, and the makespan in virtual seconds if there is one."""

    micros: float
    makespan: float | None = None


# What the rows are made of


def make_spec(functions: int, nodes: int, distinct: int = 0) -> Any:
    """Layers about twice as wide as the nodes can run at once; ``distinct`` costs instead of the usual."""
    draw = random.Random(1)
    costs = [(1, 500 + i) for i in range(distinct)] if distinct else COSTS
    kinds = [kind(cpu=c, memory=m, code=f"{c} {m}") for c, m in costs]
    width = min(functions, 20 * nodes)
    dependents: list[list[int]] = [[] for _ in range(functions)]
    for i in range(functions - width):
        dependents[i].append(i + width)
        if i % 3 == 0 and i + width + 1 < functions:
            dependents[i].append(i + width + 1)
    kind_of = [draw.randrange(len(kinds)) for _ in range(functions)]
    return RunSpec("run", "dag", range(functions), kinds, kind_of, dependents=dependents)


def make_nodes(count: int) -> list[Any]:
    """Nodes of 16 cores, every fourth with a GPU."""
    capacity = {"cpu": 16 * UNIT, "memory": 64_000 * UNIT, "threads": 16 * UNIT}
    return [Node(f"n{i:05}", {**capacity, **({"gpu": UNIT} if i % 4 == 0 else {})}) for i in range(count)]


def kind(code: str = "code", **options: Any) -> Any:
    """A kind of functions; options that it does not have itself are amounts of resources."""
    own = {name: options.pop(name) for name in ("pins", "policy", "limit_cost") if name in options}
    return Kind(cost=tuple((r, n * UNIT) for r, n in options.items()), code=code, **own)


def flat(kinds: Sequence[Any], functions: int, run_id: str = "run", **options: Any) -> Any:
    """A run of functions that do not depend on each other, of these kinds in turn."""
    kind_of = [i % len(kinds) for i in range(functions)]
    return RunSpec(run_id, "dag", range(functions), kinds, kind_of, dependents=[[]] * functions, **options)


def drawn(functions: int) -> list[float]:
    """Seconds for each function."""
    draw = random.Random(2)
    return [0.5 + draw.random() for _ in range(functions)]


def all_finished(functions: Sequence[Any]) -> bool:
    return all(f.state.value == "finished" for f in functions)


def played(nodes: list[Any], spec: Any, seconds: Sequence[float]) -> Measured:
    """Measure a simulation from the first node joining to the last function ending."""
    gc.collect()
    start = time.process_time()
    simulation = Simulation(nodes, spec, seconds)
    simulation.play()
    took = time.process_time() - start
    assert all_finished(simulation.run.functions)
    return Measured(took / len(seconds) * 1e6, simulation.now)


def placements(state: Any, now: float) -> list[Any]:
    """Let the core decide; the functions that it placed."""
    return [d.function for d in state.decide(now) if type(d).__name__ == "Place"]


def driven(state: Any, functions: Sequence[Any], seconds: Callable[[Any], float]) -> float:
    """Play functions of several runs, all of which are ready; the makespan."""
    now, count = 0.0, 0
    ends: list[tuple[float, int, float, Any]] = []
    for f in functions:
        state.ready(f, now)
    while True:
        for f in placements(state, now):
            count += 1
            heapq.heappush(ends, (now + seconds(f), count, now, f))
        wake = state.next_wake()
        if wake is not None and wake <= now:
            continue
        if wake is not None and (not ends or wake < ends[0][0]):
            now = wake
            continue
        if not ends:
            assert all_finished(functions)
            return now
        now = ends[0][0]
        while ends and ends[0][0] == now:
            _, _, started, f = heapq.heappop(ends)
            state.finished(f, now, started=started, stopped=now, nbytes=0)


# The rows


def layered(functions: int, nodes: int, distinct: int = 0, equal: bool = False) -> Measured:
    """Layers of functions; with ``equal`` durations, nodes become free all at once."""
    seconds = [1.0] * functions if equal else drawn(functions)
    return played(make_nodes(nodes), make_spec(functions, nodes, distinct), seconds)


def fan_in(inputs: int) -> Measured:
    """One function takes the results of all others, which run at once, and needs the only GPU.

    Other work keeps the node that has it busy to the end, so that it is the bottleneck.
    """
    capacity = {"cpu": 8 * UNIT, "threads": 8 * UNIT}
    nodes = [Node(f"n{i:03}", capacity) for i in range(1000)] + [Node("scarce", {**capacity, "gpu": UNIT})]
    last, work = inputs, inputs // 20
    kinds = [kind("input", cpu=1), kind("last", gpu=1), kind("work", gpu=1)]
    kind_of = [0] * inputs + [1] + [2] * work
    dependents: list[list[int]] = [[last]] * inputs + [[]] * (1 + work)
    seconds = drawn(inputs) + [1.0] * (1 + work)
    spec = RunSpec("run", "dag", range(len(kind_of)), kinds, kind_of, dependents=dependents, seconds=seconds)
    return played(nodes, spec, seconds)


def first_fit(ready: Sequence[Any], nodes: Mapping[Any, Any], look_at_all: bool = False) -> dict[Any, Any]:
    """An allocator as a user writes it: each function to the first node that has room for it."""
    free = {name: dict(amounts) for name, amounts in nodes.items()}
    placed = {}
    for f in ready:
        for name, amounts in free.items():
            if all(amounts.get(r, 0) >= n for r, n in f.cost.items()):
                placed[f.id] = name
                for r, n in f.cost.items():
                    amounts[r] -= n
                break
        else:
            if not look_at_all:
                break
    return placed


def own_allocator(functions: int, look_at_all: bool) -> Measured:
    """A user's allocator on 10 nodes; one that stops at the first function that it cannot place, or not."""
    dag = DAG("own")
    for i in range(functions):
        dag.add_function(Function(id=i, code=len, extra_args=["x"], cost={"cpu": 1}))
    nodes = {f"n{i}": {"cpu": 4} for i in range(10)}
    durations = dict(enumerate(drawn(functions)))
    allocator = partial(first_fit, look_at_all=look_at_all)
    gc.collect()
    start = time.process_time()
    schedule = handoff.simulate(dag, nodes, durations, allocation_strategy=allocator)
    return Measured((time.process_time() - start) / functions * 1e6, schedule.makespan)


def ids(functions: int, files: bool, lowering: bool) -> Measured:
    """Ids that are names of files, or numbered: lowering the DAG, or playing it with durations learnt."""
    names = [f"data/site-{'abc'[i % 3]}/2024/x{i}.fits" if files else f"x-{i}" for i in range(functions)]
    dag, width = DAG("ids"), max(1, functions // 20)
    for i, name in enumerate(names):
        inputs = [names[i - width]] if i >= width else []
        extra = [] if inputs else ["x"]
        dag.add_function(Function(id=name, code=len, args=inputs, extra_args=extra, cost={"cpu": 1}))
    gc.collect()
    start = time.process_time()
    spec = lower_dag(dag, "run", policy=RetryPolicy(max_retries=0), strategy="best_fit").spec
    if lowering:
        return Measured((time.process_time() - start) / functions * 1e6)
    return played(make_nodes(20), spec, drawn(functions))


def joining(nodes: int, runs: int) -> Measured:
    """Nodes join one by one while runs that have finished are still held."""
    state = SchedulingState()
    state.node_joined(make_nodes(1)[0], 0.0)
    kinds = [kind(f"code {i}", cpu=1, memory=1 + i) for i in range(20)]
    for r in range(runs):
        run = state.run_added(flat(kinds, 200, f"run {r}"), 0.0)
        driven(state, run.functions, lambda f: 1.0)
    others = make_nodes(nodes + 1)[1:]
    gc.collect()
    start = time.process_time()
    for node in others:
        state.node_joined(node, 100.0)
        state.decide(100.0)
    return Measured((time.process_time() - start) / nodes * 1e6)


def failing(nodes: int, functions: int, attempts: int = 8) -> Measured:
    """Attempts that fail one by one, each to be repeated on a node on which the function has not failed."""
    state = SchedulingState()
    for node in make_nodes(nodes):
        state.node_joined(node, 0.0)
    policy = RetryPolicy(max_retries=attempts, elsewhere=True)
    run = state.run_added(flat([kind(cpu=4, policy=policy)], functions), 0.0)
    for f in run.functions:
        state.ready(f, 0.0)
    running, failed, now = placements(state, 0.0), 0, 0.0
    gc.collect()
    start = time.process_time()
    for _ in range(attempts):
        again = []
        for f in running:
            now += 0.001
            state.failed(f, now, started=now - 0.001, stopped=now)
            failed += 1
            state.ready(f, now)
            again += placements(state, now)
        running = again
    took = time.process_time() - start
    assert failed == attempts * functions, f"{failed} attempts failed"
    return Measured(took / failed * 1e6)


def many_runs(functions: int, runs: int) -> Measured:
    """Functions of many runs wait at once for a cluster that is full."""
    state = SchedulingState()
    for node in make_nodes(10):
        state.node_joined(node, 0.0)
    kinds = [kind(f"{c} {m}", cpu=c, memory=m) for c, m in COSTS]
    each = max(1, functions // runs)
    seconds = drawn(each)
    gc.collect()
    start = time.process_time()
    added = [state.run_added(flat(kinds, each, f"run {r}"), 0.0) for r in range(runs)]
    makespan = driven(state, [f for run in added for f in run.functions], lambda f: seconds[f.number])
    return Measured((time.process_time() - start) / (each * runs) * 1e6, makespan)


def limited(functions: int, concurrency: bool) -> Measured:
    """Functions that wait for a limit of their run, or for its ``max_concurrency``."""
    limits = {"max_concurrency": 100} if concurrency else {"limits": (("licence", 100 * UNIT),)}
    limit_cost = () if concurrency else (("licence", UNIT),)
    kinds = [kind(f"{c} {m}", cpu=c, memory=m, limit_cost=limit_cost) for c, m in COSTS]
    return played(make_nodes(1000), flat(kinds, functions, **limits), drawn(functions))


def pinned(functions: int, nodes: int) -> Measured:
    """Functions that are each pinned to one of many nodes."""
    there = make_nodes(nodes)
    kinds = [kind(cpu=4, pins=(node.name,)) for node in there]
    return played(there, flat(kinds, functions), drawn(functions))


@dataclass(frozen=True)
class Row:
    """A row of the table: its name, what its CPU time is divided by, and what measures it."""

    name: str
    per: str
    measure: Callable[..., Measured]
    arguments: Mapping[str, Any]


def make_rows(largest: int = 1_000_000, shrink: int = 1) -> dict[str, Row]:
    """All rows by name."""
    rows: dict[str, Row] = {}

    def add(name: str, measure: Callable[..., Measured], per: str = "function", **arguments: Any) -> None:
        sizes = {k: v if type(v) is not int or v < 10 else max(4, v // shrink) for k, v in arguments.items()}
        rows[name] = Row(name, per, measure, sizes)

    add(f"layered {largest:,d} x 1,000 nodes", layered, functions=largest, nodes=1000)
    add(f"layered {largest:,d} x 10 nodes", layered, functions=largest, nodes=10)
    for n in (1000, 2000, 4000, 8000):
        add(f"fan-in {n:,d}", fan_in, inputs=n)
    for n in (500, 1000, 2000, 4000):
        for how, look_at_all in (("what it places", False), ("all", True)):
            add(f"own allocator looks at {how}, {n:,d}", own_allocator, functions=n, look_at_all=look_at_all)
    for which, files in (("files", True), ("numbered", False)):
        add(f"ids {which}, lowering", ids, functions=20_000, files=files, lowering=True)
        add(f"ids {which}, simulation", ids, functions=20_000, files=files, lowering=False)
    for n in (0, 50):
        add(f"joining nodes, {n} finished runs", joining, "node", nodes=1000, runs=n)
    for n in (100, 1000):
        add(f"failing attempts, {n:,d} nodes", failing, "attempt", nodes=n, functions=200)
    for n in (10_000, 100_000):
        for nodes in (10, 1000):
            name = f"costs 10,000, {n:,d} x {nodes:,d} nodes"
            add(name, layered, functions=n, nodes=nodes, distinct=10_000)
    for n in (1, 100, 1000):
        add(f"runs {n:,d} at once", many_runs, functions=10_000, runs=n)
    for which, concurrency in (("a limit", False), ("max_concurrency", True)):
        add(f"waiting for {which}, 10,000", limited, functions=10_000, concurrency=concurrency)
    add("equal durations, 100,000 x 1,000 nodes", layered, functions=100_000, nodes=1000, equal=True)
    for nodes in (1000, 10_000):
        add(f"nodes {nodes:,d}, 100,000 functions", layered, functions=100_000, nodes=nodes)
    add("pins 1,000, 20,000 functions", pinned, functions=20_000, nodes=1000)
    return rows


# Running them


def measure_row(name: str, checkout: Path, options: argparse.Namespace) -> Measured | None:
    """Measure a row in a process of its own; None when it took too long."""
    arguments = ["--one", name, f"--functions={options.functions}", f"--shrink={options.shrink}"]
    answer = in_checkout(checkout, Path(__file__), arguments, options.timeout)
    return None if answer is None else Measured(**answer)


def least(measured: Sequence[Measured | None]) -> Measured | None:
    """The measurement of least CPU time; None when one took too long."""
    done = [m for m in measured if m is not None]
    return min(done, key=lambda m: m.micros) if len(done) == len(measured) else None


def show(measured: Measured | None) -> list[str]:
    if measured is None:
        return ["too long", ""]
    return [f"{measured.micros:,.1f}", "" if measured.makespan is None else f"{measured.makespan:.3f}"]


def quotient(before: Measured | None, after: Measured | None) -> str:
    return f"{after.micros / before.micros:.2f}" if before and after else ""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", help="only those whose names begin like this")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="compare this checkout with that")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--functions", type=int, default=1_000_000, help="of the rows 'layered'")
    parser.add_argument("--shrink", type=int, default=1, help="divide all sizes by this")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one measurement")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.names = list(make_rows(options.functions, options.shrink))
    if options.rows:
        options.names = [name for name in options.names if name.startswith(tuple(options.rows))]
    if not options.names:
        parser.error(f"no such row; there are: {'; '.join(make_rows(options.functions))}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    rows = make_rows(options.functions, options.shrink)
    if options.one:
        row = rows[options.one]
        print(json.dumps(asdict(row.measure(**row.arguments))))
        return 0
    machine = machine_line()
    print(f"{machine}\n\nmicroseconds of CPU time in the core, and seconds on the virtual clock\n")
    sides = {"before": options.against, "after": CHECKOUT} if options.against else {"now": CHECKOUT}
    headings = ["row", "per", *(text for side in sides for text in (side, "makespan"))]
    headings += ["ratio"] if options.against else []
    table = Table(headings, [-42, -8, *[9, 11] * len(sides), *[6] * bool(options.against)], options.markdown)
    figures: dict[str, dict[str, list[dict[str, Any] | None]]] = {}
    failed = False
    for turn, name in enumerate(options.names):
        found: dict[str, list[Measured | None]] = {side: [] for side in sides}
        for repeat in range(options.repeats):
            order = list(sides) if (turn + repeat) % 2 == 0 else list(reversed(sides))
            for side in order:
                found[side].append(measure_row(name, sides[side], options))
        best = [least(found[side]) for side in sides]
        failed |= None in best
        cells = [text for measured in best for text in show(measured)]
        table.row(name, rows[name].per, *cells, *([quotient(*best)] if options.against else []))
        figures[name] = {side: [m and asdict(m) for m in all_of] for side, all_of in found.items()}
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "rows": figures}, indent=1) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
