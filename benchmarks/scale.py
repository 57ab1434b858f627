"""How placement scales: functions, nodes, kinds of cost; and how long it blocks a scheduler.

    python benchmarks/scale.py [simulation] [scheduler] [--functions 10000 100000 1000000] [--nodes 1000]
        [--markdown]

``simulation``: the scheduling core on a virtual clock, without Dask. Layers of functions of four costs, each
needing one or two of the layer before; and functions that all have different costs. CPU time and memory for
each function; each row in a process of its own. Beside it, what the barest loop over heaps takes.

``scheduler``: a real scheduler, in a process of its own, with 100,000 functions waiting for one node: the
longest time for which its event loop did nothing else, with and without what Python's garbage collector took
of it, while another node joins and takes its share, while the run's records are fetched for the first time
and again, and while the run is cancelled.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import heapq
import multiprocessing
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from common import Table, machine_line, quiet
from core import COSTS, UNIT, Simulation, all_finished, make_nodes, make_spec
from distributed import Client

import handoff_dask as handoff
from handoff_dask import DAG, Function


def simulate(functions: int, nodes: int, distinct: int) -> tuple[float, float]:
    """Microseconds of CPU time and bytes for each function."""
    draw = random.Random(2)
    spec = make_spec(functions, nodes, distinct)
    seconds = [0.5 + draw.random() for _ in range(functions)]
    there = make_nodes(nodes)
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    simulation = Simulation(there, spec, seconds)
    simulation.play()
    took = time.process_time() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert all_finished(simulation.run.functions)
    return took / functions * 1e6, grown / functions


def bare(functions: int, nodes: int) -> float:
    """Microseconds of CPU time for each function, of a loop that does the least there is to do.

    One heap for each cost, three amounts for each node, and a tuple for each function that ended: no order
    but that of numbers, no choice of nodes, no limits, pins, groups, retries or durations.
    """
    draw = random.Random(2)
    spec = make_spec(functions, nodes)
    seconds = [0.5 + draw.random() for _ in range(functions)]
    costs = [tuple(kind.node_cost.items()) for kind in spec.kinds]
    fleet = [{"cpu": 16 * UNIT, "memory": 64_000 * UNIT, "threads": 16 * UNIT} for _ in range(nodes)]
    start = time.process_time()
    missing = [0] * functions
    for dependents in spec.dependents:
        for d in dependents:
            missing[d] += 1
    waiting: list[list[int]] = [[] for _ in costs]
    for n in range(functions):
        if not missing[n]:
            heapq.heappush(waiting[spec.kind_of[n]], n)
    ends: list[tuple[float, int, dict[str, int]]] = []
    done: list[tuple[int, float, float]] = []
    now = 0.0

    def fill(node: dict[str, int]) -> None:
        while True:
            best = None
            for k, heap in enumerate(waiting):
                if heap and (best is None or heap[0] < waiting[best][0]):
                    for name, units in costs[k]:
                        if units > node[name]:
                            break
                    else:
                        best = k
            if best is None:
                return
            n = heapq.heappop(waiting[best])
            for name, units in costs[best]:
                node[name] -= units
            heapq.heappush(ends, (now + seconds[n], n, node))

    for node in fleet:
        fill(node)
    while ends:
        now, n, node = heapq.heappop(ends)
        for name, units in costs[spec.kind_of[n]]:
            node[name] += units
        done.append((n, now - seconds[n], now))
        for d in spec.dependents[n]:
            missing[d] -= 1
            if not missing[d]:
                heapq.heappush(waiting[spec.kind_of[d]], d)
        fill(node)
    assert len(done) == functions
    return (time.process_time() - start) / functions * 1e6


def measure_simulation(sizes: Sequence[int], nodes: int, markdown: bool) -> None:
    print("\nthe core on a virtual clock: CPU time and memory for each function")
    headings = ["functions", "nodes", "costs", "microseconds", "bytes", "bare loop"]
    table = Table(headings, [10, 6, 6, 13, 8, 10], markdown)
    cases = [(n, nodes, 0) for n in sizes] + [(sizes[0], 10, 0), (sizes[0], 10, sizes[0])]
    for functions, count, distinct in cases:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            micros, nbytes = pool.apply(simulate, (functions, count, distinct))
            least = "" if distinct else f"{pool.apply(bare, (functions, count)):.1f}"
        costs = str(distinct or len(COSTS))
        table.row(f"{functions:,}", f"{count:,}", f"{costs}", f"{micros:.1f}", f"{nbytes:,.0f}", least)


class Watch:
    """On a scheduler: for how long its event loop did nothing else, in all and without the collector."""

    def __init__(self) -> None:
        self.pauses = [(0.0, 0.0)]
        self.collecting = 0.0
        self._begin = 0.0
        gc.callbacks.append(self._note)
        self._task = asyncio.create_task(self._watch())

    def _note(self, phase: str, info: Mapping[str, int]) -> None:
        if phase == "start":
            self._begin = time.perf_counter()
        else:
            self.collecting += time.perf_counter() - self._begin

    async def _watch(self) -> None:
        while True:
            start, collecting = time.perf_counter(), self.collecting
            await asyncio.sleep(0.001)
            pause = time.perf_counter() - start - 0.001
            self.pauses.append((pause, pause - (self.collecting - collecting)))

    def stop(self) -> tuple[float, float]:
        """The longest pauses."""
        self._task.cancel()
        gc.callbacks.remove(self._note)
        return max(a for a, _ in self.pauses), max(b for _, b in self.pauses)


async def start_watch(dask_scheduler: Any) -> None:
    dask_scheduler.watch = Watch()


async def stop_watch(dask_scheduler: Any) -> tuple[float, float]:
    return dask_scheduler.watch.stop()


def parked(dask_scheduler: Any) -> int:
    return len(dask_scheduler.unrunnable)


def processing(dask_scheduler: Any) -> int:
    """Nodes that have something to do."""
    return sum(bool(ws.processing) for ws in dask_scheduler.workers.values())


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.1)


def hold(seconds: float) -> None:
    """The function that waits, and then runs."""
    time.sleep(seconds)


@contextlib.contextmanager
def command(*words: str) -> Iterator[None]:
    """A part of a cluster in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dask", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def measure_scheduler(functions: int, markdown: bool) -> None:
    print(f"\na scheduler with {functions:,} functions waiting")
    headings = ["while", "event loop blocked at most", "without garbage collection"]
    table = Table(headings, [26, 30, 30], markdown)

    @contextlib.contextmanager
    def watched(what: str) -> Iterator[None]:
        client.run_on_scheduler(start_watch)
        yield
        blocked, without = client.run_on_scheduler(stop_watch)
        table.row(what, f"{blocked * 1e3:.0f} ms", f"{without * 1e3:.0f} ms")

    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/scheduler.json"
        worker = (
            "worker",
            "--scheduler-file",
            file,
            "--nthreads",
            "4",
            "--resources",
            "slot=4",
            "--no-nanny",
        )
        with (
            command(
                "scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", file, "--no-dashboard"
            ),
            command(*worker, "--name", "first"),
            Client(scheduler_file=file, timeout=60) as client,
        ):
            client.wait_for_workers(1)
            dag = DAG("waiting")
            for i in range(functions):
                dag.add_function(Function(id=i, code=hold, extra_args=[0.05], cost={"slot": 1}))
            run = handoff.submit(dag, client)
            until(lambda: client.run_on_scheduler(parked) > functions - 1000)
            time.sleep(2)
            with command(*worker, "--name", "second"):
                with watched("a node joins"):
                    until(lambda: client.run_on_scheduler(processing) == 2)
                    time.sleep(2)  # of usual work
                for what in ("records are fetched", "records are fetched again"):
                    with watched(what):
                        assert len(run.records) == functions
                with watched("the run is cancelled"):
                    run.cancel()
                    until(lambda: client.run_on_scheduler(parked) == 0)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", choices=["simulation", "scheduler", []], default=[])
    parser.add_argument("--functions", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--nodes", type=int, default=1_000)
    parser.add_argument("--waiting", type=int, default=100_000)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args(arguments)
    quiet()
    print(machine_line())
    if not options.what or "simulation" in options.what:
        measure_simulation(options.functions, options.nodes, options.markdown)
    if not options.what or "scheduler" in options.what:
        measure_scheduler(options.waiting, options.markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
