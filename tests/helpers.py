"""Helpers for many tests: concise DAGs, access to the internals of a cluster, waiting for conditions."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Callable

import psutil
import pytest
from distributed import Status

import handoff_dask as handoff
from handoff_dask import DAG, Function

#: Whether property tests try as many examples as they are written for, or a quarter.
THOROUGH = os.environ.get("HANDOFF_TESTS") == "thorough"


def examples(number: int) -> int:
    """Return how many examples a property test tries: all of them in CI, and fewer in a quick run."""
    return number if THOROUGH else max(10, number // 4)


def dag_of(*functions: Function, id="test") -> DAG:
    dag = DAG(id)
    for f in functions:
        dag.add_function(f)
    return dag


def holds(condition: Callable[[], object]) -> object:
    """Return whether a condition holds; False if another thread, such as an event loop, changes its data."""
    try:
        return condition()
    except RuntimeError as error:
        if "during iteration" not in str(error):  # "dictionary changed size during iteration" and the like
            raise
        return False


def until(condition: Callable[[], object], seconds: float = 20, what: str = "") -> None:
    """Poll for a condition that no event announces, such as the scheduler forgetting a task."""
    deadline = time.monotonic() + seconds
    while not holds(condition):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        time.sleep(0.005)


def soon(condition: Callable[[], object], seconds: float = 0.1) -> bool:
    """Return whether a condition becomes true within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not holds(condition):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.002)
    return True


def plugin_of(cluster):
    """Return the scheduler plugin of an in-process cluster, or None if it is not installed."""
    return cluster.scheduler.plugins.get("handoff")


def settle(cluster) -> None:
    """Wait until the scheduler holds no run, and check that it holds no function and no allocation."""
    plugin = plugin_of(cluster)
    if plugin is None:
        return
    if not soon(lambda: not plugin.runs):
        gc.collect()  # a handle in a reference cycle, such as an exception and its frames
        until(lambda: not plugin.runs, what=f"runs left: {plugin.runs}")

    async def check() -> None:
        assert not plugin.functions
        assert not plugin.state.runs
        for node in plugin.state.nodes.values():
            assert not node.running
            assert not node.prefetched
            assert not any(node.used.values()), node.used
        for ws in cluster.scheduler.workers.values():
            assert not any(ws.used_resources.values()), ws.used_resources

    if getattr(cluster, "status", None) is Status.closed:
        asyncio.run(check())
    else:
        cluster.sync(check)  # on its event loop, which may be about to remove the rest of the last run


def listening(pid=None):
    """Return the addresses on which a process and its children listen."""
    process = psutil.Process(pid)
    return {
        tuple(c.laddr)
        for p in (process, *process.children(recursive=True))
        for c in p.net_connections("inet")
        if c.status == psutil.CONN_LISTEN
    }


class Gate:
    """A gate at which functions on in-process nodes wait until the test opens it."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._lock = threading.Condition()
        self.inside = 0
        self.most = 0
        self.entered = 0

    def wait(self, value=None):
        with self._lock:
            self.inside += 1
            self.entered += 1
            self.most = max(self.most, self.inside)
            self._lock.notify_all()
        try:
            assert self._open.wait(60)
        finally:
            with self._lock:
                self.inside -= 1
        return value

    def await_inside(self, n: int, seconds: float = 20) -> None:
        with self._lock:
            assert self._lock.wait_for(lambda: self.inside >= n, seconds), f"{self.inside} inside, not {n}"

    def open(self) -> None:
        self._open.set()


#: Gates by name, so that functions on in-process nodes can reach them.
GATES: dict[str, Gate] = {}


def gate(name: str) -> Gate:
    GATES[name] = Gate()
    return GATES[name]


def pass_gate(name, value=None):
    return GATES[name].wait(value)


def identity(x):
    return x


def multiply(x, y):
    return x * y


def add(*xs):
    return sum(xs)


def greedily(ready, free, order=list):
    """Allocate greedily: propose the first eligible node with room for each function."""
    chosen = {}
    for f in ready:
        for name in order(list(free) if f.nodes is None else f.nodes):
            if name in free and all(free[name].get(r, 0) >= amount for r, amount in f.cost.items()):
                chosen[f.id] = name
                for r, amount in f.cost.items():
                    free[name][r] -= amount
                break
    return chosen


def run_locally(dag: DAG, client, **options):
    return handoff.execute_local(dag, **options)


def run_on_cluster(dag: DAG, client, **options):
    return handoff.execute(dag, client, **options)


#: Run a test with ``run(dag, client)`` on a cluster and in this process.
on_cluster_and_locally = pytest.mark.parametrize("run", [run_on_cluster, run_locally])

#: The same, for what starts many processes: a plain test run leaves the second to the slow tests.
on_cluster_and_locally_if_slow = pytest.mark.parametrize(
    "run", [run_on_cluster, pytest.param(run_locally, marks=pytest.mark.slow)]
)
