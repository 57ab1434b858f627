"""Functions whose memory nobody knows: throughput, kills and waste of four ways to give costs.

    python benchmarks/costs.py [--functions 500] [--median 50] [--seconds 1] [--repeats 1] [--markdown]

Each function runs in a process of its own and uses memory with a lognormal peak (sigma 1: of 500, one uses
some 20 times the median), which it reaches in the first half of its time. The two nodes have 12 cores each
and room for 40 times the median. The costs are

* ``median``: everybody declares the median, and ``RetryPolicy(grow={"memory": 2})``,
* ``auto``: ``cost={"memory": "auto"}``, without any history,
* ``auto again``: the same with the history of such a run,
* ``most``: everybody declares the highest peak,
* ``oracle``: each declares a tenth more than its own peak.

Waste is the memory that attempts booked times their durations, less what the successful ones used.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

from common import BackgroundLoad, Table, machine_line, silence_dask_logs
from distributed import Client

import handoff_dask as handoff
from handoff_dask import DAG, Function, RetryPolicy

#: Cores of each of the two nodes.
CORES = 12

#: Memory of each node, in medians of the peaks.
ROOM = 40

#: Number of steps in which a function reaches its peak.
STEPS = 5


def use(megabytes: float, seconds: float) -> int:
    data = []
    for _ in range(STEPS):
        part = bytearray(int(megabytes / STEPS * 2**20))
        part[:: 2**12] = b"x" * len(part[:: 2**12])  # use every page
        data.append(part)
        time.sleep(seconds / 2 / STEPS)
    time.sleep(seconds / 2)
    return sum(map(len, data))


def dag_of(peaks: list[float], seconds: float, cost: Callable[[float], Any]) -> DAG:
    dag = DAG("costs")
    retry = RetryPolicy(max_retries=10, grow={"memory": 2})
    for n, peak in enumerate(peaks):
        amounts = {"cpu": 1, "memory": cost(peak)}
        dag.add_function(
            Function(n, use, extra_args=[peak, seconds], cost=amounts, isolation="process", retry=retry)
        )
    return dag


def run(dag: DAG, room: float, history: str | None = None) -> dict[str, float]:
    nodes = {name: {"cpu": CORES, "memory": room} for name in ("a", "b")}
    with handoff.local_cluster(nodes, processes=True) as cluster, Client(cluster) as client:
        warm = DAG("warm")
        for n in range(2 * CORES):  # starts the processes
            warm.add_function(
                Function(n, time.sleep, extra_args=[4], cost={"cpu": 1, "memory": 1}, isolation="process")
            )
        handoff.execute(warm, client)
        before = set(client.scheduler_info()["workers"])
        begin = time.perf_counter()
        result = handoff.execute(dag, client, history=history)
        makespan = time.perf_counter() - begin
        lost = before - set(client.scheduler_info()["workers"])
    booked = used = 0.0
    attempts = [a for record in result.records.values() for a in record.attempts]
    for record in result.records.values():
        for a in record.attempts:
            cost = record.cost if a.cost is None else a.cost
            booked += cost["memory"] * (a.stopped - a.started)
            used += (a.peak_memory or 0.0) * (a.stopped - a.started) if a.outcome == "finished" else 0.0
    return {
        "makespan": makespan,
        "kills": len(attempts) - len(result.records),
        "waste": booked - used,
        "used": used,
        "lost": len(lost),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--functions", type=int, default=500)
    parser.add_argument("--median", type=float, default=50.0, help="MB")
    parser.add_argument("--seconds", type=float, default=1.0, help="duration of a function")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    silence_dask_logs()
    os.environ["DASK_LOGGING__DISTRIBUTED"] = "critical"  # of the nodes: each kill is an error there
    print(f"{machine_line()}\n\n{options.functions} functions of {options.seconds:g} s\n")
    found: dict[str, list[dict[str, float]]] = {}
    room = ROOM * options.median
    with BackgroundLoad() as others:
        for seed in range(options.repeats):
            rng = random.Random(seed)
            peaks = [
                min(0.8 * room, options.median * rng.lognormvariate(0, 1)) for _ in range(options.functions)
            ]

            def dag(cost: Callable[[float], Any], peaks: list[float] = peaks) -> DAG:
                return dag_of(peaks, options.seconds, cost)

            most = 1.1 * max(peaks) + 10
            with tempfile.TemporaryDirectory() as folder:
                history = f"{folder}/history.db"
                for name, outcome in (
                    ("median", run(dag(lambda peak: options.median), room)),
                    ("auto", run(dag(lambda peak: "auto"), room, history)),
                    ("auto again", run(dag(lambda peak: "auto"), room, history)),
                    ("most", run(dag(lambda peak, most=most: most), room)),
                    ("oracle", run(dag(lambda peak: 1.1 * peak + 10), room)),
                ):
                    found.setdefault(name, []).append(outcome)
    headings = ["cost", "throughput of oracle", "killed attempts", "waste over use", "nodes lost"]
    table = Table(headings, [-12, 10, 10, 10, 6], options.markdown)
    oracle = statistics.median(o["makespan"] for o in found["oracle"])
    for name, outcomes in found.items():
        median = {key: statistics.median(o[key] for o in outcomes) for key in outcomes[0]}
        table.row(
            name,
            f"{oracle / median['makespan']:.2f}",
            f"{median['kills']:g}",
            f"{median['waste'] / median['used']:.2f}",
            f"{sum(o['lost'] for o in outcomes):g}",
        )
    print(f"\nThe oracle took {oracle:.1f} s. Other processes used {others.cores or 0:.1f} cores.")


if __name__ == "__main__":
    main()
