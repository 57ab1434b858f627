"""Engines that run a trace: plain Dask, tuned Dask, handoff_dask, and its core on a virtual clock."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import dask
from checks import Interval
from common import BackgroundLoad
from dask._task_spec import Task, TaskRef
from distributed import Client, get_worker, wait
from traces import Nodes, Trace

import handoff_dask as handoff
from handoff_dask import DAG, Function


@dataclass(frozen=True)
class Outcome:
    """A run: its makespan, its log, and the background load.

    ``makespan`` is the seconds from submission until the caller knows that the run has ended. ``others`` is
    the number of cores that other processes used, or None if it is unknown.
    """

    makespan: float
    log: list[Interval]
    others: float | None = None


# The functions of a run append to these logs. They find them because this module is imported, not run as a
# script, so that functions are pickled by name. Each run has its own log, because an abandoned run may
# continue for a while.
_logs: dict[int, list[Interval]] = defaultdict(list)
_numbers = count()


def sleep_and_log(*arguments: Any) -> None:
    """Sleep, and log where and when. Arguments: the inputs, id, seconds, number of the log."""
    start = time.perf_counter()
    *_, id, seconds, number = arguments
    node = get_worker().name
    time.sleep(max(0.0, start + seconds - time.perf_counter()))
    _logs[number].append(Interval(id, node, start, time.perf_counter()))


def dag_of(trace: Trace, number: int = 0) -> DAG:
    """Convert a trace to a DAG of functions that sleep."""
    dag = DAG(trace.name)
    for id, f in trace.functions.items():
        dag.add_function(
            Function(
                id=id,
                code=sleep_and_log,
                args=list(f.deps),
                extra_args=[id, f.seconds, number],
                cost=dict(f.cost),
            )
        )
    return dag


@contextmanager
def fresh_cluster(nodes: Nodes, settings: Mapping[str, Any] | None = None) -> Iterator[tuple[Any, Client]]:
    """Start a cluster in this process, and a client, for one measurement."""
    # Profiling many threads in one process would take part of a core from the measured code.
    config = {"distributed.worker.profile.enabled": False, **(settings or {})}
    with (
        dask.config.set(config),
        handoff.local_cluster(nodes, processes=False) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.wait_for_workers(len(nodes))
        yield cluster, client


def plain_dask(dag: DAG, *, resources: bool = True) -> Callable[[Client, float], Mapping[Hashable, Any]]:
    """Return a function that runs the same graph on plain Dask and returns the results of its sinks.

    Keys are the ids, so that Dask learns durations per type of function and recognises similar tasks, as in a
    program written for Dask.

    Parameters
    ----------
    dag : DAG
    resources : bool
        Whether tasks have their costs as ``resources``.
    """
    graph = {
        id: Task(id, f.code, *[TaskRef(d) for d in f.args], *f.extra_args) for id, f in dag.functions.items()
    }
    costs = {id: dict(f.cost or {}) for id, f in dag.functions.items()}
    sinks = list(dag.sinks)

    def run(client: Client, timeout: float) -> Mapping[Hashable, Any]:
        annotations = {"resources": lambda key: costs[key]} if resources else {}
        with dask.annotate(**annotations):
            futures = client.get(graph, sinks, sync=False)
        with client.as_current():
            wait(futures, timeout=timeout)
        return dict(zip(sinks, client.gather(futures), strict=True))

    return run


def _timed(trace: Trace, number: int, run: Callable[[], object]) -> Outcome:
    with BackgroundLoad() as others:
        start = time.perf_counter()
        run()
        makespan = time.perf_counter() - start
    return Outcome(makespan, _logs.pop(number), others.cores)


def run_plain(trace: Trace, nodes: Nodes, timeout: float) -> Outcome:
    """Run on plain Dask with default settings."""
    return _run_plain(trace, nodes, timeout, {})


def run_tuned(trace: Trace, nodes: Nodes, timeout: float) -> Outcome:
    """Run on plain Dask with two settings tuned for this trace; the defaults suit much longer functions.

    Work stealing runs every 20 ms instead of once a second. Functions of a type that has not finished once
    are expected to take the mean duration of the trace instead of half a second.
    """
    mean = statistics.fmean(f.seconds for f in trace.functions.values())
    settings = {
        "distributed.scheduler.work-stealing-interval": "20ms",
        "distributed.scheduler.unknown-task-duration": f"{mean:.6f}s",
    }
    return _run_plain(trace, nodes, timeout, settings)


def _run_plain(trace: Trace, nodes: Nodes, timeout: float, settings: Mapping[str, Any]) -> Outcome:
    number = next(_numbers)
    run = plain_dask(dag_of(trace, number))
    with fresh_cluster(nodes, settings) as (_, client):
        client.submit(int, pure=False).result()  # establishes the connections
        return _timed(trace, number, lambda: run(client, timeout))


def run_handoff(trace: Trace, nodes: Nodes, timeout: float) -> Outcome:
    """Run with ``handoff_dask.execute``, without durations."""
    number = next(_numbers)
    dag = dag_of(trace, number)
    with fresh_cluster(nodes) as (_, client):
        handoff.execute(DAG("first").add_function(Function(id="first", code=int)), client)
        return _timed(trace, number, lambda: handoff.execute(dag, client, keep="sinks", timeout=timeout))


def run_again(trace: Trace, nodes: Nodes, timeout: float) -> Outcome:
    """Run with ``handoff_dask.execute`` a second time, with the durations that a history has of the first."""
    number = next(_numbers)
    dag = dag_of(trace, number)
    with tempfile.TemporaryDirectory() as folder:
        history = f"{folder}/history.db"
        with fresh_cluster(nodes) as (_, client):
            handoff.execute(dag, client, keep="sinks", timeout=timeout, history=history)
            _logs.pop(number)
        with fresh_cluster(nodes) as (_, client):
            handoff.execute(DAG("first").add_function(Function(id="first", code=int)), client)
            return _timed(
                trace,
                number,
                lambda: handoff.execute(dag, client, keep="sinks", timeout=timeout, history=history),
            )


def run_simulator(
    trace: Trace, nodes: Nodes, timeout: float, *, known: bool = True, strategy: str = "best_fit"
) -> Outcome:
    """Run ``handoff_dask.simulate``: decisions alone, without a cluster or any overhead."""
    seconds = {id: f.seconds for id, f in trace.functions.items()}
    schedule = handoff.simulate(dag_of(trace), nodes, seconds, allocation_strategy=strategy, known=known)
    attempts = {id: record.attempts[0] for id, record in schedule.records.items()}
    log = [Interval(id, str(a.node), a.started, a.stopped) for id, a in attempts.items()]
    return Outcome(schedule.makespan, log)


def run_learner(trace: Trace, nodes: Nodes, timeout: float) -> Outcome:
    """Run the simulator with durations that it learns as functions end."""
    return run_simulator(trace, nodes, timeout, known=False)


ENGINES: dict[str, Callable[[Trace, Nodes, float], Outcome]] = {
    "plain": run_plain,
    "tuned": run_tuned,
    "handoff": run_handoff,
    "again": run_again,
    "simulator": run_simulator,
    "learner": run_learner,
}
