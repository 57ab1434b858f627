"""The functions that run on the nodes of a seed, and a ledger of their true usage."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from distributed import worker_client

import handoff_dask as handoff
from handoff_dask import DAG, Function
from simulated import threads
from simulated.trace import Trace


class PlannedError(Exception):
    """The error of an attempt that fails as planned."""


class UsageLedger:
    """Resources in use on each machine, as reported by the functions themselves.

    Parameters
    ----------
    trace : Trace
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.capacity: dict[str, dict[str, float]] = {}
        self.used: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self.devices: dict[tuple[str, str, int], Any] = {}
        self.limits: dict[str, float] = {}
        self.started: dict[Any, int] = defaultdict(int)

    def begin(self, machine: str, what: Any, cost: Mapping[str, float], devices: Mapping[str, Any]) -> None:
        """Record the start of a function."""
        self.started[what] += 1
        used, capacity = self.used[machine], self.capacity[machine]
        for name, amount in (*cost.items(), ("threads", 1)):
            used[name] += amount
            if used[name] > capacity.get(name, 0) + 1e-9:
                self.trace.report(
                    f"overcommitted: {machine} has {name} {capacity.get(name, 0):g},"
                    f" but {used[name]:g} is in use as {what} starts"
                )
        for name, indices in devices.items():
            for index in indices:
                if cost.get(name, 0) >= 1 and self.devices.setdefault((machine, name, index), what) != what:
                    self.trace.report(f"{name} {index} of {machine} is used twice, the second time by {what}")

    def end(self, machine: str, what: Any, cost: Mapping[str, float], devices: Mapping[str, Any]) -> None:
        """Record the end of a function."""
        for name, amount in (*cost.items(), ("threads", 1)):
            self.used[machine][name] -= amount
        for name, indices in devices.items():
            for index in indices:
                if self.devices.get((machine, name, index)) == what:
                    del self.devices[machine, name, index]


#: The ledger of the running seed.
LEDGER: list[UsageLedger] = []


def combine(i: int, inputs: Iterable[int]) -> int:
    """Return the value of function ``i``, which depends on every input and on their order."""
    value = i
    for x in inputs:
        value = (value * 31 + x) % 1_000_003
    return value


def attempt(*inputs: int, i: int, failures: int, seconds: float, inner: int = 0) -> int:
    """Sleep, run a nested DAG of ``inner`` functions, and fail as often as planned."""
    (ledger,) = LEDGER
    current_thread = handoff.current()
    machine, what = threads.current_thread().pool.machine, (current_thread.dag_id, i, current_thread.attempt)
    trace = ledger.trace
    trace.note("begins", what)
    ledger.begin(machine, what, current_thread.cost, current_thread.devices)
    seceded = 0
    try:
        threads.sleep(seconds)
        if inner:
            # A function that gets a client secedes: it gives back its thread, but not its cost.
            seceded = 1
            ledger.used[machine]["threads"] -= seceded
            nest((current_thread.dag_id, i), inner)
    finally:
        ledger.used[machine]["threads"] += seceded
        ledger.end(machine, what, current_thread.cost, current_thread.devices)
    trace.note("ends", what)
    if current_thread.attempt <= failures:
        raise PlannedError(f"attempt {current_thread.attempt} of {failures} that fail")
    return combine(i, inputs)


def nest(name: Any, n: int) -> None:
    """Run a nested DAG from inside a function, as users do."""
    dag = DAG(name)
    for k in range(n):
        kwargs = {"i": k, "failures": 0, "seconds": 0.01}
        dag.add_function(Function(k, attempt, args=[k - 1] if k else [], extra_kwargs=kwargs))
    with worker_client() as client:
        results = handoff.execute(dag, client).results
    expected = 0
    for k in range(n):
        expected = combine(k, [expected] if k else [])
        if results[k] != expected:
            LEDGER[0].trace.report(f"{k} of {name}, a nested DAG, is {results[k]} instead of {expected}")
