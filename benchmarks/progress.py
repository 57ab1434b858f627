"""Overhead of ``progress=True``: functions that do nothing, with and without it, in alternation.

    python benchmarks/progress.py [functions] [pairs]

Prints the CPU seconds of client, scheduler and nodes together, which all share this process.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import sys
import time

import handoff_dask as handoff
from handoff_dask import DAG, Function


class Terminal(io.StringIO):
    """A fake terminal that stores its output."""

    def isatty(self) -> bool:
        """Return True."""
        return True


def nothing(*_: object) -> None:
    """Do nothing."""


def cpu_seconds(cluster: object, functions: int, progress: bool) -> float:
    dag = DAG("progress")
    for i in range(functions):
        after = [i - 1] if i % 5 else []
        dag.add_function(Function(id=i, args=after, code=nothing, cost={"cpu": 1}))
    with contextlib.redirect_stderr(Terminal()):
        begin = time.process_time()
        handoff.execute(dag, cluster, keep="sinks", progress=progress)
        return time.process_time() - begin


def main(functions: int = 5000, pairs: int = 5) -> None:
    nodes = {f"node{i}": {"cpu": 4} for i in range(4)}
    with handoff.local_cluster(nodes, processes=False) as cluster:
        cpu_seconds(cluster, functions, False)
        cpu_seconds(cluster, functions, True)
        ratios = []
        for pair in range(pairs):
            order = (False, True) if pair % 2 else (True, False)  # later runs may be slower or faster
            took = {progress: cpu_seconds(cluster, functions, progress) for progress in order}
            without, with_it = took[False], took[True]
            ratios.append(with_it / without)
            print(f"{functions:,d} functions: {without:.2f} s without, {with_it:.2f} s with progress")
    print(f"ratio: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
