"""CPU time of the scheduling core on a virtual clock, in cases where it might scale badly.

    python benchmarks/core.py [--rows NAME...] [--against CHECKOUT] [--repeats 1] [--functions 1000000]
        [--shrink 1] [--json FILE] [--markdown]

Each row runs in a separate process and prints microseconds of CPU time per function (or per failed attempt,
or per joining node) and, if it has one, the makespan in virtual seconds. ``--rows`` takes prefixes of names.
With ``--against``, each row runs alternately in that checkout (before) and in this one (after), with this
script in both. ``--repeats`` takes the minimum of several measurements. ``--shrink`` divides all sizes.
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

from common import CHECKOUT, Table, machine_line, run_in_checkout

import handoff_dask as handoff
from handoff_dask import DAG, Function, RetryPolicy


def import_first(name: str, *modules: str) -> Any:
    """Import a name from the first of these modules that has it, since checkouts differ in their modules."""
    for module in modules:
        try:
            return getattr(import_module(f"handoff_dask.{module}"), name)
        except (ModuleNotFoundError, AttributeError):
            continue
    raise ImportError(f"no {name} in {', '.join(modules)}")


UNIT = import_first("UNIT", "_model.resources", "_model.amounts")
Kind = import_first("Kind", "_scheduling.spec")
RunSpec = import_first("RunSpec", "_scheduling.spec")
Node = import_first("Node", "_scheduling.nodes", "_scheduling.ledger", "_scheduling.node")
Simulation = import_first("Simulation", "_scheduling.simulation", "_scheduling.simulate")
SchedulingState = import_first("SchedulingState", "_scheduling.state")
lower_dag = import_first("lower_dag", "_scheduling.lower", "_scheduling.lowering")

#: Default costs of functions: (cores, MB).
COSTS = ((1, 500), (2, 4000), (4, 1000), (1, 8000))


@dataclass(frozen=True)
class Measured:
    """Microseconds of CPU time per function, attempt or node; the makespan, if any, in virtual seconds."""

    micros: float
    makespan: float | None = None


# Parts of rows


def make_spec(functions: int, nodes: int, distinct: int = 0) -> Any:
    """Make layers about twice as wide as the nodes can run at once, optionally of ``distinct`` costs."""
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
    """Make nodes of 16 cores, every fourth with a GPU."""
    capacity = {"cpu": 16 * UNIT, "memory": 64_000 * UNIT, "threads": 16 * UNIT}
    return [Node(f"n{i:05}", {**capacity, **({"gpu": UNIT} if i % 4 == 0 else {})}) for i in range(count)]


def kind(code: str = "code", **options: Any) -> Any:
    """Make a kind of functions; options that are not fields of ``Kind`` are amounts of resources."""
    own = {name: options.pop(name) for name in ("pins", "policy", "limit_cost") if name in options}
    return Kind(cost=tuple((r, n * UNIT) for r, n in options.items()), code=code, **own)


def independent(kinds: Sequence[Any], functions: int, run_id: str = "run", **options: Any) -> Any:
    """Make a run of independent functions that cycle through these kinds."""
    kind_of = [i % len(kinds) for i in range(functions)]
    return RunSpec(run_id, "dag", range(functions), kinds, kind_of, dependents=[[]] * functions, **options)


def draw_seconds(functions: int) -> list[float]:
    """Draw the seconds of each function."""
    draw = random.Random(2)
    return [0.5 + draw.random() for _ in range(functions)]


def all_finished(functions: Sequence[Any]) -> bool:
    return all(f.state.value == "finished" for f in functions)


def measure_play(nodes: list[Any], spec: Any, seconds: Sequence[float]) -> Measured:
    """Measure a simulation from the first joining node to the last ended function."""
    gc.collect()
    start = time.process_time()
    simulation = Simulation(nodes, spec, seconds)
    simulation.play()
    took = time.process_time() - start
    assert all_finished(simulation.run.functions)
    return Measured(took / len(seconds) * 1e6, simulation.now)


def placements(state: Any, now: float) -> list[Any]:
    """Let the core decide, and return the functions that it placed."""
    return [d.function for d in state.decide(now) if type(d).__name__ == "Place"]


def drive(state: Any, functions: Sequence[Any], seconds: Callable[[Any], float]) -> float:
    """Play functions of several runs, all of them ready, and return the makespan."""
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
    """Layers of functions; with ``equal`` durations, all nodes become free at once."""
    seconds = [1.0] * functions if equal else draw_seconds(functions)
    return measure_play(make_nodes(nodes), make_spec(functions, nodes, distinct), seconds)


def fan_in(inputs: int) -> Measured:
    """One function takes the results of all others, which run at once, and needs the only GPU.

    Other functions keep the GPU busy to the end of the run, which makes its node the bottleneck.
    """
    capacity = {"cpu": 8 * UNIT, "threads": 8 * UNIT}
    nodes = [Node(f"n{i:03}", capacity) for i in range(1000)] + [Node("scarce", {**capacity, "gpu": UNIT})]
    last, work = inputs, inputs // 20
    kinds = [kind("input", cpu=1), kind("last", gpu=1), kind("work", gpu=1)]
    kind_of = [0] * inputs + [1] + [2] * work
    dependents: list[list[int]] = [[last]] * inputs + [[]] * (1 + work)
    seconds = draw_seconds(inputs) + [1.0] * (1 + work)
    spec = RunSpec("run", "dag", range(len(kind_of)), kinds, kind_of, dependents=dependents, seconds=seconds)
    return measure_play(nodes, spec, seconds)


def first_fit(ready: Sequence[Any], nodes: Mapping[Any, Any], scan_all: bool = False) -> dict[Any, Any]:
    """Place each function on the first node where it fits, like an allocator that a user writes."""
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
            if not scan_all:
                break
    return placed


def user_allocator(functions: int, scan_all: bool) -> Measured:
    """A user's allocator on 10 nodes, which may stop at the first function that it cannot place."""
    dag = DAG("own")
    for i in range(functions):
        dag.add_function(Function(id=i, code=len, extra_args=["x"], cost={"cpu": 1}))
    nodes = {f"n{i}": {"cpu": 4} for i in range(10)}
    durations = dict(enumerate(draw_seconds(functions)))
    allocator = partial(first_fit, scan_all=scan_all)
    gc.collect()
    start = time.process_time()
    schedule = handoff.simulate(dag, nodes, durations, allocation_strategy=allocator)
    return Measured((time.process_time() - start) / functions * 1e6, schedule.makespan)


def ids(functions: int, files: bool, lowering: bool) -> Measured:
    """Ids that are file names, or numbered: lowering the DAG, or playing it with learnt durations."""
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
    return measure_play(make_nodes(20), spec, draw_seconds(functions))


def joining(nodes: int, runs: int) -> Measured:
    """Nodes join one by one while finished runs are still kept."""
    state = SchedulingState()
    state.node_joined(make_nodes(1)[0], 0.0)
    kinds = [kind(f"code {i}", cpu=1, memory=1 + i) for i in range(20)]
    for r in range(runs):
        run = state.run_added(independent(kinds, 200, f"run {r}"), 0.0)
        drive(state, run.functions, lambda f: 1.0)
    others = make_nodes(nodes + 1)[1:]
    gc.collect()
    start = time.process_time()
    for node in others:
        state.node_joined(node, 100.0)
        state.decide(100.0)
    return Measured((time.process_time() - start) / nodes * 1e6)


def failing(nodes: int, functions: int, attempts: int = 8) -> Measured:
    """Attempts fail one by one; each is retried on a node where the function has not failed."""
    state = SchedulingState()
    for node in make_nodes(nodes):
        state.node_joined(node, 0.0)
    policy = RetryPolicy(max_retries=attempts, elsewhere=True)
    run = state.run_added(independent([kind(cpu=4, policy=policy)], functions), 0.0)
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
    """Functions of many runs wait for a full cluster."""
    state = SchedulingState()
    for node in make_nodes(10):
        state.node_joined(node, 0.0)
    kinds = [kind(f"{c} {m}", cpu=c, memory=m) for c, m in COSTS]
    each = max(1, functions // runs)
    seconds = draw_seconds(each)
    gc.collect()
    start = time.process_time()
    added = [state.run_added(independent(kinds, each, f"run {r}"), 0.0) for r in range(runs)]
    makespan = drive(state, [f for run in added for f in run.functions], lambda f: seconds[f.number])
    return Measured((time.process_time() - start) / (each * runs) * 1e6, makespan)


def limited(functions: int, concurrency: bool) -> Measured:
    """Functions wait for a limit of their run, or for its ``max_concurrency``."""
    limits = {"max_concurrency": 100} if concurrency else {"limits": (("licence", 100 * UNIT),)}
    limit_cost = () if concurrency else (("licence", UNIT),)
    kinds = [kind(f"{c} {m}", cpu=c, memory=m, limit_cost=limit_cost) for c, m in COSTS]
    return measure_play(make_nodes(1000), independent(kinds, functions, **limits), draw_seconds(functions))


def pinned(functions: int, nodes: int) -> Measured:
    """Functions are each pinned to one of many nodes."""
    there = make_nodes(nodes)
    kinds = [kind(cpu=4, pins=(node.name,)) for node in there]
    return measure_play(there, independent(kinds, functions), draw_seconds(functions))


@dataclass(frozen=True)
class Row:
    """A row of the table: its name, the unit of its CPU time, and the function that measures it."""

    name: str
    per: str
    measure: Callable[..., Measured]
    arguments: Mapping[str, Any]


def make_rows(largest: int = 1_000_000, shrink: int = 1) -> dict[str, Row]:
    """Return all rows by name."""
    rows: dict[str, Row] = {}

    def add(name: str, measure: Callable[..., Measured], per: str = "function", **arguments: Any) -> None:
        sizes = {k: v if type(v) is not int or v < 10 else max(4, v // shrink) for k, v in arguments.items()}
        rows[name] = Row(name, per, measure, sizes)

    add(f"layered {largest:,d} x 1,000 nodes", layered, functions=largest, nodes=1000)
    add(f"layered {largest:,d} x 10 nodes", layered, functions=largest, nodes=10)
    for n in (1000, 2000, 4000, 8000):
        add(f"fan-in {n:,d}", fan_in, inputs=n)
    for n in (500, 1000, 2000, 4000):
        for how, scan_all in (("stops at misfit", False), ("scans all", True)):
            add(f"user allocator {how}, {n:,d}", user_allocator, functions=n, scan_all=scan_all)
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


# Running the rows


def measure_row(name: str, checkout: Path, options: argparse.Namespace) -> Measured | None:
    """Measure a row in a separate process; return None if it took too long."""
    arguments = ["--one", name, f"--functions={options.functions}", f"--shrink={options.shrink}"]
    answer = run_in_checkout(checkout, Path(__file__), arguments, options.timeout)
    return None if answer is None else Measured(**answer)


def fastest(measured: Sequence[Measured | None]) -> Measured | None:
    """Return the measurement with the least CPU time; None if one took too long."""
    done = [m for m in measured if m is not None]
    return min(done, key=lambda m: m.micros) if len(done) == len(measured) else None


def format_cells(measured: Measured | None) -> list[str]:
    if measured is None:
        return ["too long", ""]
    return [f"{measured.micros:,.1f}", "" if measured.makespan is None else f"{measured.makespan:.3f}"]


def format_ratio(before: Measured | None, after: Measured | None) -> str:
    return f"{after.micros / before.micros:.2f}" if before and after else ""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", help="only rows whose names start with one of these")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="compare with another checkout")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--functions", type=int, default=1_000_000, help="size of the rows 'layered'")
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
        parser.error(f"no row of that name (known: {'; '.join(make_rows(options.functions))})")
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
        best = [fastest(found[side]) for side in sides]
        failed |= None in best
        cells = [text for measured in best for text in format_cells(measured)]
        table.row(name, rows[name].per, *cells, *([format_ratio(*best)] if options.against else []))
        figures[name] = {side: [m and asdict(m) for m in all_of] for side, all_of in found.items()}
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "rows": figures}, indent=1) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
