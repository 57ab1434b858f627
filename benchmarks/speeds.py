"""Nodes of speed 1 : 2 : 4: makespan over a lower bound, for plain Dask and for a first and a second run.

    python benchmarks/speeds.py [--functions 150] [--seconds 15] [--repeats 3] [--markdown]

The functions have lognormal durations (sigma 1) and sleep for their duration times the factor of their node,
so that the lower bound on three nodes of two cores is ``--seconds``. The first run learns the speeds of the
nodes while it runs; the second one has the history of the first. The engines alternate.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time

from common import BackgroundLoad, Table, machine_line, silence_dask_logs
from distributed import Client, get_worker, wait

import handoff_dask as handoff
from handoff_dask import DAG, Function

#: Node → how many times as long functions take there as on the fastest one.
FACTORS = {"slow": 4.0, "middle": 2.0, "fast": 1.0}

#: Cores of each node.
CORES = 2


def work(seconds: float) -> None:
    time.sleep(seconds * FACTORS[get_worker().name])


def durations(n: int, bound: float, seed: int) -> list[float]:
    """Return durations on the fastest node for which the lower bound is ``bound`` seconds."""
    rng = random.Random(seed)
    drawn = [rng.lognormvariate(0, 1) for _ in range(n)]
    speed = sum(CORES / factor for factor in FACTORS.values())
    scale = bound * speed / sum(drawn)
    return [scale * d for d in drawn]


def run_plain(seconds: list[float]) -> float:
    with fresh_cluster() as cluster, Client(cluster) as client:
        client.submit(int, pure=False).result()
        begin = time.perf_counter()
        wait(client.map(work, seconds, pure=False, resources={"cpu": 1}))
        return time.perf_counter() - begin


def run_handoff(seconds: list[float], history: str) -> float:
    dag = DAG("speeds")
    for n, s in enumerate(seconds):
        dag.add_function(Function(n, work, extra_args=[s], cost={"cpu": 1}))
    with fresh_cluster() as cluster, Client(cluster) as client:
        handoff.execute(DAG("first").add_function(Function("first", int)), client)
        begin = time.perf_counter()
        handoff.execute(dag, client, history=history)
        return time.perf_counter() - begin


def fresh_cluster():
    return handoff.local_cluster({name: {"cpu": CORES} for name in FACTORS})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--functions", type=int, default=150)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    silence_dask_logs()
    print(f"{machine_line()}\n\nnodes of speed 1 : 2 : 4, {options.functions} functions, seconds\n")
    ratios: dict[str, list[float]] = {}
    with BackgroundLoad() as others:
        for seed in range(options.repeats):
            seconds = durations(options.functions, options.seconds, seed)
            bound = max(options.seconds, *seconds)
            with tempfile.TemporaryDirectory() as folder:
                for engine, makespan in (
                    ("plain Dask", run_plain(seconds)),
                    ("first run", run_handoff(seconds, f"{folder}/history.db")),
                    ("second run, with a history", run_handoff(seconds, f"{folder}/history.db")),
                ):
                    ratios.setdefault(engine, []).append(makespan / bound)
    table = Table(["engine", "makespan over bound, median", "highest"], [-28, 12, 12], options.markdown)
    for engine, found in ratios.items():
        table.row(engine, f"{statistics.median(found):.3f}", f"{max(found):.3f}")
    print(f"\nOther processes used {others.cores or 0:.1f} cores.")


if __name__ == "__main__":
    main()
