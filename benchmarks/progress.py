"""What ``progress=True`` costs: functions that do nothing, with and without it, in alternation.

CPU seconds of client, scheduler and nodes together, which are all in this process.

``python benchmarks/progress.py [functions] [pairs]``
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
    """A terminal that keeps what is written to it."""

    def isatty(self) -> bool:
        """Whether it is one."""
        return True


def nothing(*_: object) -> None:
    """Do it."""


def one(cluster: object, functions: int, progress: bool) -> float:
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
        one(cluster, functions, False)
        one(cluster, functions, True)
        ratios = []
        for pair in range(pairs):
            order = (False, True) if pair % 2 else (True, False)  # later runs may be slower, or faster
            took = {progress: one(cluster, functions, progress) for progress in order}
            without, with_it = took[False], took[True]
            ratios.append(with_it / without)
            print(f"{functions:,d} functions: {without:.2f} s without, {with_it:.2f} s with progress")
    print(f"ratio: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
