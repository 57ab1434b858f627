"""Chaos: functions fail at random and nodes are killed at random, yet every result must be correct.

Each seed runs one DAG on four nodes in separate processes, while node after node is killed and replaced by a
new one. Afterwards the script compares the results with those of a sequential evaluation, and checks the
records, the capacities and the scheduler's state.

    python benchmarks/chaos.py --seeds 20
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
from checks import Interval
from common import Table, machine_line, silence_dask_logs
from distributed import Client
from processes import ProcessCluster

import handoff_dask as handoff
from handoff_dask import DAG, Collocated, Function

FUNCTIONS = 2_000
MAX_RETRIES = 3
THREADS = 4
KILL_INTERVAL = 0.6, 1.4  # seconds, uniformly distributed
MAX_KILLS = 15  # so that a run that loses results as fast as it computes them ends eventually

#: Timeout of nodes that try to fetch a result from a node that was just killed. With Dask's default of 30 s,
#: these attempts would take most of a seed's time.
CONNECT = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "2s"}

#: Declared resources of the four nodes. A replacement declares the same as its predecessor.
SHAPES: tuple[Mapping[str, float], ...] = (
    {"cpu": 4, "memory": 8192, "gpu": 1},
    {"cpu": 2, "memory": 4096},
    {"cpu": 4, "memory": 2048, "gpu": 1},
    {"cpu": 2, "memory": 8192},
)
COSTS: tuple[Mapping[str, float], ...] = (
    {},
    {"cpu": 1},
    {"cpu": 2},
    {"cpu": 0.5, "memory": 500},
    {"memory": 2000},
    {"gpu": 1},
    {"cpu": 1, "gpu": 0.5},
)


# ---------------------------------------------------------------------- the DAG


@dataclass(frozen=True)
class Plan:
    """One function: its inputs, cost and behaviour."""

    inputs: tuple[int, ...]
    cost: Mapping[str, float]
    collocated_with: int | None  # number of a function
    failures: int  # number of attempts that fail
    seconds: float


def plan(seed: int, n: int = FUNCTIONS) -> list[Plan]:
    """Draw the functions of a seed."""
    rng = random.Random(seed)
    plans = []
    for i in range(n):
        recent = range(max(0, i - 100), i)
        plans.append(
            Plan(
                inputs=tuple(rng.sample(recent, rng.randint(0, min(3, len(recent))))),
                cost=rng.choice(COSTS),
                collocated_with=rng.choice(recent) if recent and rng.random() < 0.1 else None,
                failures=rng.choices((0, 1, 2), (85, 10, 5))[0],
                seconds=rng.expovariate(1 / 0.003),
            )
        )
    return plans


def combine(i: int, inputs: Iterable[int]) -> int:
    """Return the value of function ``i``, which depends on every input and on their order."""
    value = i
    for x in inputs:
        value = (value * 31 + x) % 1_000_003
    return value


def attempt(*inputs: int, i: int, failures: int, seconds: float, folder: str) -> int:
    """Run on a node, and log start and stop in a file per node, which outlives the node."""
    here = handoff.current()
    log = os.open(Path(folder) / here.node, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(log, f"{i} {here.attempt} start {time.time():.6f}\n".encode())
        time.sleep(seconds)
        os.write(log, f"{i} {here.attempt} stop {time.time():.6f}\n".encode())
    finally:
        os.close(log)
    if here.attempt <= failures:
        raise OSError(f"attempt {here.attempt} of {failures} that fail")
    return combine(i, inputs)


def dag_of(plans: Sequence[Plan], name: str, folder: str) -> DAG:
    """Make the DAG of the functions."""
    dag = DAG(name)
    for i, f in enumerate(plans):
        kwargs = {"i": i, "failures": f.failures, "seconds": f.seconds, "folder": folder}
        node = None if f.collocated_with is None else Collocated(f.collocated_with)
        dag.add_function(
            Function(i, attempt, args=list(f.inputs), extra_kwargs=kwargs, cost=dict(f.cost), node=node)
        )
    return dag


def evaluate_sequentially(plans: Sequence[Plan]) -> dict[int, int]:
    """Evaluate the functions sequentially in this process, and return their results."""
    values: dict[int, int] = {}
    for i, f in enumerate(plans):
        values[i] = combine(i, [values[d] for d in f.inputs])
    return values


# ---------------------------------------------------------------------- killing


class Killer(threading.Thread):
    """Kills a random node about every second, and starts a replacement with the same resources.

    At least two nodes stay alive at any time, because replacements take a while to start. A node without
    results is spared, so that every death loses some.

    Attributes
    ----------
    shapes : dict of str to mapping
        Every node that ever existed → its declared resources.
    killed : dict of str to float
        Node → time after its death.
    """

    def __init__(
        self, cluster: ProcessCluster, seed: int, shapes: Mapping[str, Mapping[str, float]], max_kills: int
    ) -> None:
        super().__init__(name="killer")
        self._max_kills = max_kills
        self.shapes = dict(shapes)
        self.killed: dict[str, float] = {}
        self._cluster = cluster
        self._rng = random.Random(seed)
        self._stop_requested = threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        """Kill nodes until :meth:`stop`."""
        try:
            while len(self.killed) < self._max_kills:
                if self._stop_requested.wait(self._rng.uniform(*KILL_INTERVAL)):
                    break
                alive = sorted(set(self._cluster.scheduler.aliases) & set(self._cluster.processes))
                holding = [name for name in alive if self._holds_results(name)]
                if len(alive) > 2 and holding:
                    self._replace(self._rng.choice(holding))
        except Exception as error:
            self.error = error

    def _holds_results(self, name: str) -> bool:
        scheduler = self._cluster.scheduler
        worker = scheduler.workers.get(scheduler.aliases.get(name))
        return worker is not None and bool(worker.has_what)

    def _replace(self, name: str) -> None:
        self._cluster.kill(name)
        self.killed[name] = time.time()
        other = f"{name.partition('-')[0]}-{len(self.killed)}"
        self.shapes[other] = self.shapes[name]
        self._cluster.start(other, self.shapes[other])

    def stop(self) -> None:
        """Stop killing.

        Raises
        ------
        Exception
            The error that stopped the thread.
        """
        self._stop_requested.set()
        self.join()
        if self.error is not None:
            raise self.error


# ---------------------------------------------------------------------- checks


def read_log(folder: Path, killed: Mapping[str, float], found: list[str]) -> list[Interval]:
    """Read all attempts, even lost ones, with ids ``(function, attempt)``; add violations to ``found``."""
    log: list[Interval] = []
    for path in sorted(folder.iterdir()):
        node, open_ = path.name, {}
        for line in path.read_text().splitlines():
            i, number, what, moment = line.split()
            id = int(i), int(number)
            if what == "start":
                open_[id] = float(moment)
            else:
                log.append(Interval(id, node, open_.pop(id), float(moment)))  # type: ignore[arg-type]
        for id, start in open_.items():
            if node in killed:
                log.append(Interval(id, node, start, killed[node]))  # type: ignore[arg-type]
            else:
                found.append(f"{id} did not end on {node}, although the node was not killed")
    for id, times in Counter(i.id for i in log).items():
        if times > 1:
            found.append(f"{id} ran {times} times")
    return log


def overcommitted(
    log: Iterable[Interval], costs: Sequence[Mapping[str, float]], shapes: Mapping[str, Mapping[str, float]]
) -> Iterator[str]:
    """Yield each use above capacity. Ids of intervals are ``(function, attempt)``."""
    used: dict[tuple[str, str], float] = defaultdict(float)
    changes = [(i.stop, -1, i) for i in log] + [(i.start, 1, i) for i in log]
    for moment, sign, i in sorted(changes, key=lambda change: change[:2]):
        for name, amount in [*costs[i.id[0]].items(), ("threads", 1)]:  # type: ignore[call-overload]
            used[i.node, name] += sign * amount
            capacity = {"threads": THREADS, **shapes[i.node]}[name]
            if used[i.node, name] > capacity + 1e-9:
                yield f"{i.node} has {name} {capacity:g}, but {used[i.node, name]:g} was in use at {moment}"


def check_records(
    plans: Sequence[Plan], records: Mapping[Any, Any], log: Sequence[Interval], killed: Mapping[str, float]
) -> Iterator[str]:
    """Yield contradictions between records and the log, and collocated functions on different nodes."""
    nodes = {i.id: i.node for i in log}
    for i, f in enumerate(plans):
        record = records[i]
        numbers = [a.number for a in record.attempts]
        outcomes = [a.outcome for a in record.attempts]
        if record.status != "finished" or not outcomes or outcomes[-1] != "finished":
            yield f"{i} is {record.status}: {outcomes}"
        if numbers != list(range(1, len(numbers) + 1)):
            yield f"{i} has attempts {numbers}"
        for a in record.attempts:
            last = a is record.attempts[-1]
            right = {
                "failed": a.number <= f.failures,
                "finished": a.number > f.failures
                and (last or bool(killed)),  # Dask may have moved the result
                "lost": a.node in killed,
                "cancelled": not last,  # an input was lost before the attempt started
            }
            if not right.get(a.outcome, False):
                yield f"attempt {a.number} of {len(numbers)} of {i} on {a.node} is {a.outcome}"
            ran = nodes.get((i, a.number))
            # If the thread of a cancelled attempt still runs on the same node, Dask takes its result for the
            # new attempt.
            resumed = [
                b for b in record.attempts[: a.number - 1] if b.outcome == "cancelled" and b.node == a.node
            ]
            if ran is None and any(nodes.get((i, b.number)) == a.node for b in resumed):
                ran = a.node
            if ran != a.node and (ran is not None or a.outcome in ("failed", "finished")):
                yield f"attempt {a.number} of {i}, {a.outcome}, ran on {ran}, not on {a.node}"
        if f.collocated_with is not None:
            places = {a.node for j in (i, f.collocated_with) for a in records[j].attempts}
            if len(places) > 1 and not places & killed.keys():
                yield f"{i} and {f.collocated_with} are collocated, but ran on {places}"


def find_leaks(cluster: ProcessCluster) -> Iterator[str]:
    """Yield whatever the scheduler still holds after the last run has ended and its handle is gone."""
    plugin: Any = cluster.scheduler.plugins["handoff"]
    gc.collect()
    cluster.wait_until(lambda: not plugin.runs, "the scheduler has forgotten the run")
    cluster.sync(plugin.membership.settled)
    for what in (plugin.functions, plugin.state.runs, cluster.scheduler.tasks):
        if what:
            yield f"leaked: {what}"
    for node in plugin.state.nodes.values():
        if node.running or node.prefetched or any(node.used.values()):
            yield f"still booked on {node}: {node.used}"
    for ws in cluster.scheduler.workers.values():
        if any(ws.used_resources.values()):
            yield f"still in use on {ws}: {ws.used_resources}"
    plugin.state.check()


# ---------------------------------------------------------------------- a seed


@dataclass(frozen=True)
class Outcome:
    """The outcome of a seed. ``recomputed`` counts results that were lost and computed again."""

    seed: int
    kills: int
    seconds: float
    lost: int
    failed: int
    recomputed: int
    violations: list[str]


def run_seed(seed: int, n: int = FUNCTIONS, kills: int = MAX_KILLS, timeout: float = 300.0) -> Outcome:
    """Run the DAG of a seed while nodes are killed, and check everything.

    Raises
    ------
    RunError
        The run failed.
    """
    plans = plan(seed, n)
    shapes = {f"n{k}": shape for k, shape in enumerate(SHAPES)}
    settings = {"distributed.scheduler.allowed-failures": 1_000}  # do not blame functions for killed nodes
    with (
        dask.config.set(settings),
        ProcessCluster(shapes, threads=THREADS, environment=CONNECT) as cluster,
        Client(cluster.scheduler_address, set_as_default=False) as client,
    ):
        folder = cluster.logs / "attempts"
        folder.mkdir()
        handoff.discover_nodes(client)
        killer = Killer(cluster, seed, shapes, kills)
        killer.start()
        try:
            dag = dag_of(plans, f"chaos {seed}", str(folder))
            result = handoff.execute(dag, client, max_retries=MAX_RETRIES, timeout=timeout)
        finally:
            killer.stop()
        found = []
        for name, process in cluster.processes.items():
            if process.poll() is not None:
                tail = (cluster.logs / f"{name}.log").read_text()[-2000:]
                found.append(f"{name} exited although it was not killed:\n{tail}")
        records = dict(result.records)
        log = read_log(folder, killer.killed, found)
        expected = evaluate_sequentially(plans)
        wrong = [i for i, value in expected.items() if result.results.get(i) != value]
        found += [f"wrong results: {wrong}"] if wrong else []
        found += check_records(plans, records, log, killer.killed)
        costs = [f.cost for f in plans]
        recorded = [
            Interval((i, a.number), a.node, a.started, a.stopped)  # type: ignore[arg-type]
            for i, record in records.items()
            for a in record.attempts
            if a.started is not None  # unknown if the attempt was lost
        ]
        found += [f"according to records: {line}" for line in overcommitted(recorded, costs, killer.shapes)]
        found += [f"according to the log: {line}" for line in overcommitted(log, costs, killer.shapes)]
        seconds = result.elapsed
        del result
        found += find_leaks(cluster)
    outcomes = Counter(a.outcome for record in records.values() for a in record.attempts)
    return Outcome(
        seed,
        len(killer.killed),
        seconds,
        outcomes["lost"],
        outcomes["failed"],
        outcomes["finished"] - n,
        found,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run seeds and print a table; return 1 if anything was wrong, otherwise 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="number of seeds (default 20)")
    parser.add_argument("--first", type=int, default=0, help="first seed (default 0)")
    parser.add_argument("--functions", type=int, default=FUNCTIONS)
    parser.add_argument("--kills", type=int, default=MAX_KILLS, help="maximum per seed")
    parser.add_argument("--markdown", action="store_true", help="print Markdown for the documentation")
    options = parser.parse_args(arguments)
    silence_dask_logs()
    print(machine_line())
    headings = ("seed", "kills", "seconds", "lost", "retried", "recomputed", "checks")
    table = Table(headings, (4, 5, 7, 5, 7, 10, -6), options.markdown)
    good = True
    for seed in range(options.first, options.first + options.seeds):
        try:
            o = run_seed(seed, options.functions, options.kills)
        except Exception as error:
            good = False
            table.row(str(seed), *["-"] * 5, "error")
            print(f"seed {seed}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        good = good and not o.violations
        figures = (o.kills, f"{o.seconds:.1f}", o.lost, o.failed, o.recomputed)
        table.row(str(seed), *map(str, figures), "failed" if o.violations else "passed")
        for violation in o.violations:
            print(f"seed {seed}: {violation}", file=sys.stderr)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
