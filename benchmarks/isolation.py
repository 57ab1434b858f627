"""What isolation and measuring cost: functions in processes of their own, in threads, and in Dask's pools.

    python benchmarks/isolation.py [--repeats 5] [--against CHECKOUT] [--markdown]

Functions run one after another on one in-process node. Each takes an array of the given size and returns
another one. The script prints milliseconds per function, medians of alternating runs: in threads, in
their own processes (``isolation="process"``), and in plain Dask with a ``ProcessPoolExecutor`` on the worker.
GB per second is the size in and out over the time more than in a thread. It also prints what measuring an
attempt in a thread costs.

``--against`` compares with another checkout instead: the two take turns, each time in a new process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import dask
import numpy as np
from common import CHECKOUT, Table, machine_line, run_in_checkout, silence_dask_logs
from distributed import Client, Scheduler, SpecCluster, Worker, wait

import handoff_dask as handoff
from handoff_dask import DAG, Function
from handoff_dask._adapter.meter import Measurement

#: Bytes of the arrays → number of functions in a run.
SIZES = {0: 100, 1_000_000: 50, 10_000_000: 20, 100_000_000: 5}


def chain(size: int, length: int, isolation: str) -> DAG:
    dag = DAG("chain")
    dag.add_function(Function(0, np.zeros, extra_args=[size // 8]))
    for n in range(1, length + 1):
        dag.add_function(Function(n, np.negative, args=[n - 1], isolation=isolation))
    return dag


def handoff_seconds(client: Client, size: int, length: int, isolation: str) -> float:
    dag = chain(size, length, isolation)
    begin = time.perf_counter()
    handoff.submit(dag, client, keep="sinks").wait()
    return (time.perf_counter() - begin) / length


def dask_seconds(client: Client, size: int, length: int) -> float:
    value = client.submit(np.zeros, size // 8, pure=False)
    begin = time.perf_counter()
    with dask.annotate(executor="processes"):
        for _ in range(length):
            value = client.submit(np.negative, value, pure=False)
    with client.as_current():
        wait(value)
    return (time.perf_counter() - begin) / length


def rate(size: int, thread: float, process: float) -> str:
    """Return the GB per second in and out of a process, from the seconds per function."""
    return f"{2 * size / (process - thread) / 1e9:.2f}" if size and process > thread else ""


def measure_once(sizes: Sequence[int]) -> list[tuple[float, float]]:
    """Return the seconds per function in a thread and in a process, for each size."""
    with (
        handoff.local_cluster({"node": {"cpu": 1}}, processes=False) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        pairs = []
        for size in sizes:
            for isolation in ("thread", "process"):
                handoff_seconds(client, size, 2, isolation)  # starts the process, warms up the allocator
            thread, process = (handoff_seconds(client, size, SIZES[size], i) for i in ("thread", "process"))
            pairs.append((thread, process))
        return pairs


def compare(other: Path, repeats: int, sizes: Sequence[int], markdown: bool) -> None:
    """Print the medians of two checkouts that take turns, and their ratio."""
    sides: dict[Path, list[list[tuple[float, float]]]] = {other: [], CHECKOUT: []}
    for turn in range(repeats):
        for checkout in sorted(sides, reverse=bool(turn % 2)):
            arguments = ["--child", "--sizes", *map(str, sizes)]
            sides[checkout].append(run_in_checkout(checkout, Path(__file__), arguments, 300))
    print("\nmilliseconds per function in a process, and GB per second")
    headings = ["array", "before", "after", "after/before", "GB/s before", "GB/s after"]
    table = Table(headings, [-8, 9, 9, 14, 12, 12], markdown)
    for n, size in enumerate(sizes):
        medians = [
            [statistics.median(turn[n][i] for turn in turns) for i in (0, 1)] for turns in sides.values()
        ]
        (_, before), (_, after) = medians
        texts = (f"{1e3 * before:.2f}", f"{1e3 * after:.2f}", f"{after / before:.2f}")
        table.row(f"{size // 10**6} MB", *texts, *(rate(size, *pair) for pair in medians))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", choices=SIZES, default=list(SIZES), help="in bytes")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="compare with another checkout")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        silence_dask_logs()
        print(json.dumps(measure_once(options.sizes)))
        return 0
    print(machine_line())
    if options.against:
        compare(options.against, options.repeats, options.sizes, options.markdown)
    else:
        measure_pools(options.repeats, options.sizes, options.markdown)
        measure_meters()
    return 0


def measure_pools(repeats: int, sizes: Sequence[int], markdown: bool) -> None:
    """Print the cost of threads, processes, and a process pool of Dask."""
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    spec = {
        "cls": Worker,
        "options": {"nthreads": 1, "executor": {"processes": pool}, "memory_limit": 0, "dashboard": False},
    }
    rows = []
    with (
        handoff.local_cluster({"node": {"cpu": 1}}, processes=False) as cluster,
        Client(cluster, set_as_default=False) as client,
        SpecCluster(
            workers={"node": spec},
            scheduler={"cls": Scheduler, "options": {"dashboard": False, "port": 0}},
        ) as other,
        Client(other, set_as_default=False) as plain,
    ):
        for size in sizes:
            length = SIZES[size]
            times: dict[str, list[float]] = {"thread": [], "process": [], "pool": []}
            for _ in range(repeats + 1):
                times["thread"].append(handoff_seconds(client, size, length, "thread"))
                times["process"].append(handoff_seconds(client, size, length, "process"))
                times["pool"].append(dask_seconds(plain, size, length))
            rows.append((size, *(statistics.median(times[name][1:]) for name in times)))
    pool.shutdown()
    print("\nmilliseconds per function")
    table = Table(
        ["array", "thread", "process", "process pool of Dask", "GB per second"],
        [-8, 9, 9, 21, 14],
        markdown,
    )
    for size, thread, process, pooled in rows:
        texts = [f"{1e3 * s:.2f}" for s in (thread, process, pooled)]
        table.row(f"{size // 10**6} MB", *texts, rate(size, thread, process))


def measure_meters() -> None:
    """Print the cost of measuring attempts in threads."""
    n = 10_000
    begin = time.perf_counter()
    for _ in range(n):
        Measurement().end()
    print(f"\nmeasuring an attempt in a thread: {(time.perf_counter() - begin) / n * 1e6:.1f} microseconds")
    measurement = Measurement()
    begin, cpu = time.perf_counter(), time.process_time()
    time.sleep(3)
    share = (time.process_time() - cpu) / (time.perf_counter() - begin)
    measurement.end()
    print(f"looking at the memory of a process: {share:.2%} of a core")


if __name__ == "__main__":
    sys.exit(main())
