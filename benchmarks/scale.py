"""Scaling of placement with functions, nodes and kinds of cost, and how long it blocks a scheduler.

    python benchmarks/scale.py [simulation] [scheduler] [--functions 10000 100000 1000000] [--nodes 1000]
        [--markdown]

``simulation`` runs the scheduling core on a virtual clock, without Dask. The functions come in layers and
have four costs, or all different costs; each needs one or two functions of the previous layer. The script
prints CPU time and memory per function, each row from a separate process, and for comparison the CPU time of
a bare loop over heaps.

``scheduler`` runs a real scheduler in a separate process, with 100,000 functions waiting for one node. The
script prints the longest time for which its event loop was blocked, with and without Python's garbage
collector, while another node joins and takes its share, while the run's records are fetched for the first and
the second time, and while the run is cancelled.
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

from common import Table, machine_line, silence_dask_logs
from core import COSTS, UNIT, Simulation, all_finished, make_nodes, make_spec
from distributed import Client

import handoff_dask as handoff
from handoff_dask import DAG, Function


def simulate(functions: int, nodes: int, distinct: int) -> tuple[float, float]:
    """Return microseconds of CPU time and bytes of memory per function."""
    draw = random.Random(2)
    spec = make_spec(functions, nodes, distinct)
    seconds = [0.5 + draw.random() for _ in range(functions)]
    node_list = make_nodes(nodes)
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    simulation = Simulation(node_list, spec, seconds)
    simulation.play()
    took = time.process_time() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert all_finished(simulation.run.functions)
    return took / functions * 1e6, grown / functions


def bare_loop(functions: int, nodes: int) -> float:
    """Return microseconds of CPU time per function of a minimal scheduling loop.

    It has one heap per cost, three amounts per node, and a tuple per ended function; functions go in the
    order of their numbers. It does not choose nodes, and has no limits, pins, groups, retries or durations.
    """
    draw = random.Random(2)
    spec = make_spec(functions, nodes)
    seconds = [0.5 + draw.random() for _ in range(functions)]
    costs = [tuple(kind.node_cost.items()) for kind in spec.kinds]
    free_amounts = [{"cpu": 16 * UNIT, "memory": 64_000 * UNIT, "threads": 16 * UNIT} for _ in range(nodes)]
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

    for node in free_amounts:
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
    print("\nthe core on a virtual clock: CPU time and memory per function")
    headings = ["functions", "nodes", "costs", "microseconds", "bytes", "bare loop"]
    table = Table(headings, [10, 6, 6, 13, 8, 10], markdown)
    cases = [(n, nodes, 0) for n in sizes] + [(sizes[0], 10, 0), (sizes[0], 10, sizes[0])]
    for functions, count, distinct in cases:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            micros, nbytes = pool.apply(simulate, (functions, count, distinct))
            least = "" if distinct else f"{pool.apply(bare_loop, (functions, count)):.1f}"
        costs = str(distinct or len(COSTS))
        table.row(f"{functions:,}", f"{count:,}", f"{costs}", f"{micros:.1f}", f"{nbytes:,.0f}", least)


class EventLoopMonitor:
    """Measures on a scheduler how long its event loop is blocked, with and without garbage collection."""

    def __init__(self) -> None:
        self.pauses = [(0.0, 0.0)]
        self.collecting = 0.0
        self._begin = 0.0
        gc.callbacks.append(self._on_gc)
        self._task = asyncio.create_task(self._sample())

    def _on_gc(self, phase: str, info: Mapping[str, int]) -> None:
        if phase == "start":
            self._begin = time.perf_counter()
        else:
            self.collecting += time.perf_counter() - self._begin

    async def _sample(self) -> None:
        while True:
            start, collecting = time.perf_counter(), self.collecting
            await asyncio.sleep(0.001)
            pause = time.perf_counter() - start - 0.001
            self.pauses.append((pause, pause - (self.collecting - collecting)))

    def stop(self) -> tuple[float, float]:
        """Stop, and return the longest pause in seconds, with and without garbage collection."""
        self._task.cancel()
        gc.callbacks.remove(self._on_gc)
        return max(a for a, _ in self.pauses), max(b for _, b in self.pauses)


async def start_monitor(dask_scheduler: Any) -> None:
    dask_scheduler.loop_monitor = EventLoopMonitor()


async def stop_monitor(dask_scheduler: Any) -> tuple[float, float]:
    return dask_scheduler.loop_monitor.stop()


def parked(dask_scheduler: Any) -> int:
    return len(dask_scheduler.unrunnable)


def processing(dask_scheduler: Any) -> int:
    """Count the nodes that have tasks."""
    return sum(bool(ws.processing) for ws in dask_scheduler.workers.values())


def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.1)


def sleep(seconds: float) -> None:
    """Sleep; the code of the functions."""
    time.sleep(seconds)


@contextlib.contextmanager
def dask_process(*words: str) -> Iterator[None]:
    """Run a ``dask`` command in a separate process."""
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
    headings = ["during", "event loop blocked at most", "without garbage collection"]
    table = Table(headings, [26, 30, 30], markdown)

    @contextlib.contextmanager
    def monitored(what: str) -> Iterator[None]:
        client.run_on_scheduler(start_monitor)
        yield
        blocked, without = client.run_on_scheduler(stop_monitor)
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
            dask_process(
                "scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", file, "--no-dashboard"
            ),
            dask_process(*worker, "--name", "first"),
            Client(scheduler_file=file, timeout=60) as client,
        ):
            client.wait_for_workers(1)
            dag = DAG("waiting")
            for i in range(functions):
                dag.add_function(Function(id=i, code=sleep, extra_args=[0.05], cost={"slot": 1}))
            run = handoff.submit(dag, client)
            wait_until(lambda: client.run_on_scheduler(parked) > functions - 1000)
            time.sleep(2)
            with dask_process(*worker, "--name", "second"):
                with monitored("another node joining"):
                    wait_until(lambda: client.run_on_scheduler(processing) == 2)
                    time.sleep(2)  # of normal operation
                for what in ("the first fetch of records", "the second fetch of records"):
                    with monitored(what):
                        assert len(run.records) == functions
                with monitored("cancellation of the run"):
                    run.cancel()
                    wait_until(lambda: client.run_on_scheduler(parked) == 0)


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
    silence_dask_logs()
    print(machine_line())
    if not options.what or "simulation" in options.what:
        measure_simulation(options.functions, options.nodes, options.markdown)
    if not options.what or "scheduler" in options.what:
        measure_scheduler(options.waiting, options.markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
