"""Overhead of handoff_dask per function, compared with plain Dask in one alternating run.

    python benchmarks/overhead.py [submit] [local] [dask] [timeout] [--repeats 5]

Prints medians and ratios of medians. All functions do nothing, so that only overhead is measured.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext

import dask
import psutil
from common import machine_line
from dask._task_spec import Task, TaskRef
from distributed import Client, SpecCluster, wait

import handoff_dask as handoff
from handoff_dask import DAG, Function

COST = {"cpu": 1, "memory": 10}


def nothing(x: object = None) -> None:
    """Do nothing."""


Cost = Mapping[str, float] | None


def independent(n: int, cost: Cost = COST) -> DAG:
    dag = DAG(f"independent-{n}")
    for i in range(n):
        dag.add_function(Function(id=i, code=nothing, cost=cost))
    return dag


def chain(n: int, cost: Cost = COST) -> DAG:
    dag = DAG(f"chain-{n}")
    for i in range(n):
        dag.add_function(Function(id=i, code=nothing, args=[i - 1] if i else [], cost=cost))
    return dag


def seconds(run: Callable[[], object]) -> float:
    gc.collect()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure_submit(repeats: int) -> None:
    """Measure validation, compilation and submission; the functions then wait for a node that never joins."""
    from handoff_dask._adapter.compile import compile_dag
    from handoff_dask._model.retry import RetryPolicy

    print("\nvalidate + compile + submit, microseconds per function (medians)")
    print(f"{'functions':>10s} {'validate':>10s} {'compile':>10s} {'submit':>10s} {'total':>10s}")
    with handoff.local_cluster({"node": {"cpu": 1, "memory": 1}}) as cluster, Client(cluster) as client:
        handoff.discover_nodes(client)
        for n in (1_000, 10_000, 100_000):
            rows = []
            for _ in range(repeats if n < 100_000 else max(1, repeats // 2)):
                dag = independent(n)
                validate = seconds(dag.validate)
                compiled = seconds(lambda dag=dag: compile_dag(dag, "0", policy=RetryPolicy(), keep="all"))
                box = []
                both = seconds(
                    lambda dag=dag, box=box: box.append(handoff.submit(dag, client, wait_for_nodes=600))
                )
                box[0].cancel()
                rows.append((validate, compiled, max(0.0, both - compiled), validate + both))
            cells = [statistics.median(column) / n * 1e6 for column in zip(*rows, strict=True)]
            print(f"{n:>10,d} " + " ".join(f"{cell:10.1f}" for cell in cells), flush=True)


def measure_local(repeats: int) -> None:
    """Measure execute_local, including validation and results."""
    print("\nexecute_local, functions per second (medians)")
    print(f"{'functions':>10s} {'shape':>12s} {'sequential':>12s} {'threads':>12s}")
    for n in (100, 1_000, 10_000, 50_000):
        for name, build in (("independent", independent), ("chain", chain)):
            rates: dict[int, list[float]] = {1: [], 4: []}
            for _ in range(repeats):
                for threads in rates:
                    dag = build(n)
                    took = seconds(
                        lambda dag=dag, threads=threads: handoff.execute_local(dag, max_concurrency=threads)
                    )
                    rates[threads].append(n / took)
            one, four = (statistics.median(rates[threads]) for threads in (1, 4))
            print(f"{n:>10,d} {name:>12s} {one:12,.0f} {four:12,.0f}", flush=True)


def plain_dask(dag: DAG, client: Client, name: str, resources: Cost) -> None:
    """Run the same graph with the same resources on plain Dask."""
    key = {id: (name, id) for id in dag.functions}
    graph = {
        key[id]: Task(key[id], f.code, *[TaskRef(key[d]) for d in f.args]) for id, f in dag.functions.items()
    }
    with dask.annotate(resources=lambda k: resources) if resources else nullcontext():
        futures = client.get(graph, list(graph), sync=False)
    wait(futures)
    client.gather(futures)


def settle(*clusters: SpecCluster) -> None:
    """Wait until the clusters are idle: all share this process, and would slow each other down."""
    gc.collect()
    while any(cluster.scheduler.tasks for cluster in clusters):
        time.sleep(0.02)


def measure_dask(repeats: int) -> None:
    """Compare execute with client.get of the same graph with the same resources."""
    print("\nexecute against plain Dask with the same resources, on one in-process node (medians, seconds)")
    print(f"{'graph':>20s} {'handoff_dask':>13s} {'plain Dask':>11s} {'ratio':>6s}  range of pair ratios")
    node = {"cpu": 4, "memory": 10_000}
    # Each side has its own cluster, because the plugin shortens pauses for all messages of its cluster.
    with (
        handoff.local_cluster({"node": node}) as our_cluster,
        Client(our_cluster) as client,
        handoff.local_cluster({"node": node}) as plain_cluster,
        Client(plain_cluster) as plain_client,
    ):
        cases: list[tuple[str, Callable[[int, Cost], DAG], int, Cost]] = [
            ("independent", independent, 2_000, COST),
            ("independent", independent, 10_000, COST),
            ("without cost", independent, 10_000, None),
            ("chain", chain, 300, COST),
            ("chain", chain, 1_000, COST),
        ]
        for name, build, n, cost in cases:
            ours, plain = [], []
            for k in range(repeats + 1):  # the first pair warms up
                dag, same = build(n, cost), build(n, cost)
                settle(our_cluster, plain_cluster)
                a = seconds(lambda dag=dag: handoff.execute(dag, client))
                settle(our_cluster, plain_cluster)
                key = f"nothing-{time.time_ns()}"
                b = seconds(lambda dag=same, k=key, r=cost: plain_dask(dag, plain_client, k, r))
                if k:
                    ours.append(a)
                    plain.append(b)
            ratios = [a / b for a, b in zip(ours, plain, strict=True)]
            a, b = statistics.median(ours), statistics.median(plain)
            print(
                f"{name + ' ' + format(n, ','):>20s} {a:13.3f} {b:11.3f} {a / b:6.2f}"
                f"  {min(ratios):.2f}..{max(ratios):.2f}",
                flush=True,
            )


def measure_timeout(repeats: int) -> None:
    """Measure the overhead of ``timeout``, with which a function runs in a separate process."""
    print("\nfunctions with a timeout, compared with the same functions without, in this process (medians)")
    n, size = 200, 100_000_000

    def run(timeout: float | None, count: int, data: bytes = b"") -> float:
        dag = DAG("timeout")
        for i in range(count):
            dag.add_function(Function(id=i, code=nothing, extra_args=[data], timeout=timeout))
        return seconds(lambda: handoff.execute_local(dag, max_concurrency=1))

    print(f"start of a process: {run(60, 1):.2f} s")
    for name, count, data in (("nothing", n, b""), ("100 MB in", 1, bytes(size))):
        pairs = [(run(None, count, data), run(60, count, data)) for _ in range(repeats)]
        more = statistics.median(b - a for a, b in pairs) / count
        print(f"{name}: {more * 1e3:.2f} ms more per function")
    child = psutil.Process().children()[0]
    print(f"an idle process: {child.memory_info().rss / 2**20:.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", choices=["submit", "local", "dask", "timeout", []], default=[])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    parts = {
        "submit": measure_submit,
        "local": measure_local,
        "dask": measure_dask,
        "timeout": measure_timeout,
    }
    print(machine_line())
    for name, part in parts.items():
        if not options.what or name in options.what:
            part(options.repeats)


if __name__ == "__main__":
    main()
