"""Peak size of live results, compared with plain Dask in one alternating run.

    python benchmarks/memory.py [CASES...] [--load 0.05] [--step 0.01] [--repeats 3] [--json FILE]
        [--markdown] [--strict]

Cases: ``map-reduce``, 200 blocks, reduced by tens, then all together; ``tree``, 256 blocks, reduced in pairs.
Each block counts as 10 MB and takes ``--load`` seconds to make, each step takes ``--step`` seconds, on two
nodes of four threads. After every transition on the scheduler, the script samples the size of all results on
the nodes, copies included. Plain Dask has two columns: with defaults, where it holds loading functions back
(``distributed.scheduler.worker-saturation``), and with the costs as ``resources``, where it does not.
handoff_dask runs with ``keep="sinks"``. The exit status is 1 if a value was wrong or a run failed or, with
``--strict``, if the median of handoff_dask is above that of plain Dask.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import Table, machine_line, silence_dask_logs
from distributed import Client
from distributed.diagnostics.plugin import SchedulerPlugin
from engines import fresh_cluster, plain_dask

import handoff_dask as handoff
from handoff_dask import DAG, Function

NODES = {"node1": {"cpu": 4}, "node2": {"cpu": 4}}
MB = 10**6
BLOCK = 10 * MB
COST = {"cpu": 1}


@dataclass(frozen=True)
class Block:
    """A stand-in for an array of 10 MB, since Dask relies on the size that an object reports.

    Nodes in one process pass results on without copying them, so real arrays would measure nothing more. The
    machine's memory stays out of the measurement.
    """

    leaves: int

    def __sizeof__(self) -> int:
        return BLOCK


def load(seconds: float) -> Block:
    time.sleep(seconds)
    return Block(1)


def reduce(*arguments: Any) -> Block:
    """Reduce several blocks to one. Arguments: the blocks, seconds."""
    *blocks, seconds = arguments
    time.sleep(seconds)
    return Block(sum(block.leaves for block in blocks))


def map_reduce(load_seconds: float, step_seconds: float, width: int = 200, fan_in: int = 10) -> DAG:
    dag = DAG("map-reduce")
    for i in range(width):
        dag.add_function(Function(id=f"load-{i}", code=load, extra_args=[load_seconds], cost=COST))
    for i in range(width // fan_in):
        inputs = [f"load-{k}" for k in range(i * fan_in, (i + 1) * fan_in)]
        dag.add_function(
            Function(id=f"reduce-{i}", code=reduce, args=inputs, extra_args=[step_seconds], cost=COST)
        )
    inputs = [f"reduce-{i}" for i in range(width // fan_in)]
    return dag.add_function(
        Function(id="final", code=reduce, args=inputs, extra_args=[step_seconds], cost=COST)
    )


def tree(load_seconds: float, step_seconds: float, width: int = 256) -> DAG:
    dag = DAG("tree")
    level = [f"load-{i}" for i in range(width)]
    for id in level:
        dag.add_function(Function(id=id, code=load, extra_args=[load_seconds], cost=COST))
    height = 0
    while len(level) > 1:
        height += 1
        above = [f"pair{height}-{i}" for i in range(len(level) // 2)]
        for i, id in enumerate(above):
            pair = level[2 * i : 2 * i + 2]
            dag.add_function(Function(id=id, code=reduce, args=pair, extra_args=[step_seconds], cost=COST))
        level = above
    return dag


CASES: dict[str, tuple[Callable[[float, float], DAG], int]] = {
    "map-reduce": (map_reduce, 200),
    "tree": (tree, 256),
}


class Peak(SchedulerPlugin):
    """The peak, in bytes, of the results on the nodes as the scheduler knows them, copies included."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self.nbytes = 0

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        """Sample the size: results change with transitions, and copies are known by the next one."""
        now = sum(ws.nbytes for ws in self._scheduler.workers.values())
        self.nbytes = max(self.nbytes, now)


def with_handoff(dag: DAG, client: Client) -> Mapping[Any, Any]:
    return handoff.execute(dag, client, keep="sinks").results


def with_plain(dag: DAG, client: Client) -> Mapping[Any, Any]:
    return plain_dask(dag, resources=False)(client, 600)


def with_resources(dag: DAG, client: Client) -> Mapping[Any, Any]:
    return plain_dask(dag)(client, 600)


SIDES: dict[str, Callable[[DAG, Client], Mapping[Any, Any]]] = {
    "plain Dask": with_plain,
    "plain, resources": with_resources,
    "handoff_dask": with_handoff,
}


@dataclass(frozen=True)
class Measured:
    """One run: peak in bytes, seconds, and the number of leaves in the result."""

    nbytes: int
    seconds: float
    leaves: int


def measure(dag: DAG, run: Callable[[DAG, Client], Mapping[Any, Any]]) -> Measured:
    with fresh_cluster(NODES) as (cluster, client):
        client.submit(int, pure=False).result()
        peak = Peak(cluster.scheduler)
        cluster.scheduler.add_plugin(peak, name="peak")
        start = time.perf_counter()
        (result,) = run(dag, client).values()
        return Measured(peak.nbytes, time.perf_counter() - start, result.leaves)


def format_cell(nbytes: float, seconds: float) -> str:
    return f"{nbytes / MB:,.0f} ({seconds:.2f} s)"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], default=[])
    parser.add_argument("--load", type=float, default=0.05, help="seconds to make a block")
    parser.add_argument("--step", type=float, default=0.01, help="seconds per reduction")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--strict", action="store_true", help="fail if handoff_dask is above plain Dask")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args(arguments)

    silence_dask_logs()
    machine = machine_line()
    print(machine)
    print(f"peak of live results in MB, seconds in parentheses (medians of {options.repeats})\n")
    headings = ["case", "functions", *SIDES]
    table = Table(headings, [-10, 9, *[18] * len(SIDES)], options.markdown)
    wrong, missed, figures = False, False, {}
    for name in options.cases or CASES:
        build, width = CASES[name]
        runs: dict[str, list[Measured]] = {side: [] for side in SIDES}
        functions = len(build(options.load, options.step))
        for turn in range(options.repeats):
            for i in range(len(SIDES)):
                side = list(SIDES)[(turn + i) % len(SIDES)]
                measured = measure(build(options.load, options.step), SIDES[side])
                runs[side].append(measured)
                if measured.leaves != width:
                    wrong = True
                    print(
                        f"{name}: {side} returned {measured.leaves} leaves instead of {width}",
                        file=sys.stderr,
                    )
        peaks = {side: statistics.median(m.nbytes for m in some) for side, some in runs.items()}
        seconds = {side: statistics.median(m.seconds for m in some) for side, some in runs.items()}
        cells = [format_cell(peaks[side], seconds[side]) for side in SIDES]
        table.row(name, str(functions), *cells)
        missed |= peaks["handoff_dask"] > peaks["plain Dask"]
        figures[name] = {side: [vars(m) for m in some] for side, some in runs.items()}
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "cases": figures}, indent=1) + "\n")
    return 1 if wrong or (options.strict and missed) else 0


if __name__ == "__main__":
    sys.exit(main())
