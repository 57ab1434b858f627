"""What runs on the nodes of a seed, and what it really takes of them."""

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
    """An attempt that is to fail."""


class Ledger:
    """What is in use on each machine, as the functions themselves say.

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
        """A function starts."""
        self.started[what] += 1
        used, capacity = self.used[machine], self.capacity[machine]
        for name, amount in (*cost.items(), ("threads", 1)):
            used[name] += amount
            if used[name] > capacity.get(name, 0) + 1e-9:
                self.trace.complain(
                    f"overcommitted: {machine} has {name} {capacity.get(name, 0):g},"
                    f" and {used[name]:g} is in use as {what} starts"
                )
        for name, indices in devices.items():
            for index in indices:
                if cost.get(name, 0) >= 1 and self.devices.setdefault((machine, name, index), what) != what:
                    self.trace.complain(f"{name} {index} of {machine} is used twice, by {what}, too")

    def end(self, machine: str, what: Any, cost: Mapping[str, float], devices: Mapping[str, Any]) -> None:
        """It has ended."""
        for name, amount in (*cost.items(), ("threads", 1)):
            self.used[machine][name] -= amount
        for name, indices in devices.items():
            for index in indices:
                if self.devices.get((machine, name, index)) == what:
                    del self.devices[machine, name, index]


#: Of the seed that is running.
LEDGER: list[Ledger] = []


def combine(i: int, inputs: Iterable[int]) -> int:
    """The value of function ``i``, which depends on every input and on their order."""
    value = i
    for x in inputs:
        value = (value * 31 + x) % 1_000_003
    return value


def attempt(*inputs: int, i: int, failing: int, seconds: float, inner: int = 0) -> int:
    """Take some time, run a DAG of ``inner`` functions inside, and fail as often as planned."""
    (ledger,) = LEDGER
    here = handoff.current()
    machine, what = threads.here().pool.machine, (here.dag_id, i, here.attempt)
    trace = ledger.trace
    trace.note("begins", what)
    ledger.begin(machine, what, here.cost, here.devices)
    seceded = 0
    try:
        threads.sleep(seconds)
        if inner:
            # Whoever gets a client inside a function gives back the function's thread, though not its cost.
            seceded = 1
            ledger.used[machine]["threads"] -= seceded
            nest((here.dag_id, i), inner)
    finally:
        ledger.used[machine]["threads"] += seceded
        ledger.end(machine, what, here.cost, here.devices)
    trace.note("ends", what)
    if here.attempt <= failing:
        raise PlannedError(f"attempt {here.attempt} of {failing} that fail")
    return combine(i, inputs)


def nest(name: Any, n: int) -> None:
    """Run a DAG from inside a function, as users do."""
    dag = DAG(name)
    for k in range(n):
        does = {"i": k, "failing": 0, "seconds": 0.01}
        dag.add_function(Function(k, attempt, args=[k - 1] if k else [], extra_kwargs=does))
    with worker_client() as client:
        results = handoff.execute(dag, client).results
    expected = 0
    for k in range(n):
        expected = combine(k, [expected] if k else [])
        if results[k] != expected:
            LEDGER[0].trace.complain(f"{k} of {name}, inside a function, is {results[k]}, not {expected}")
