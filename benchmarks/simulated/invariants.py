"""Invariants at the end of a run, and after the end of all runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from handoff_dask.exceptions import (
    AllocationError,
    FunctionFailedError,
    HandoffError,
    RunCancelledError,
    RunTimeoutError,
)
from simulated.cluster import Cluster
from simulated.scenario import PlannedRun, Scenario


def check_outcome(scenario: Scenario, run: PlannedRun, outcome: Any) -> Iterator[str]:
    """Yield violations in the outcome of a run, which is an exception or a result."""
    if isinstance(outcome, BaseException):
        if not _allowed(scenario, run, outcome):
            yield f"{run.name} ended with {type(outcome).__name__}: {str(outcome)[:500]}"
        for a in getattr(outcome, "attempts", ()):
            if a.outcome == "finished" and a.error is not None:
                yield f"{run.name} ended with attempt {a.number} finished, but with the error {a.error}"
        return
    expected = run.expected()
    wrong = {i: value for i, value in outcome.results.items() if expected[i] != value}
    sinks = set(expected) - {d for f in run.functions for d in f.inputs}
    if wrong:
        yield f"{run.name} has wrong results: {wrong}"
    missing = (set(expected) if run.options["keep"] == "all" else sinks) - set(outcome.results)
    if missing:
        yield f"{run.name} lacks results of {sorted(missing)}"
    yield from check_records(run, outcome.records)


def _allowed(scenario: Scenario, run: PlannedRun, error: BaseException) -> bool:
    """Return whether the scenario explains an error."""
    if run.client in scenario.closes:
        return isinstance(error, HandoffError)
    stays = all(any(n.holds(f.cost) for n in scenario.nodes if n.stays) for f in run.functions)
    return (
        (isinstance(error, RunCancelledError) and run.how == "cancel")
        or (isinstance(error, RunTimeoutError) and run.how == "timeout")
        or (isinstance(error, AllocationError) and not stays)
        or (isinstance(error, FunctionFailedError) and run.fails)
        # Results were lost with their node before they were fetched, and no other node can recompute them.
        or (
            isinstance(error, FunctionFailedError)
            and not stays
            and isinstance(error.__cause__, AllocationError)
        )
    )


def check_records(run: PlannedRun, records: Mapping[Any, Any]) -> Iterator[str]:
    """Yield violations in the records of an ended run."""
    for i, record in records.items():
        outcomes = [a.outcome for a in record.attempts]
        if [a.number for a in record.attempts] != list(range(1, len(outcomes) + 1)):
            yield f"{run.name}: attempts of {i} are numbered {[a.number for a in record.attempts]}"
        for a in record.attempts:
            if a.outcome == "finished" and a.error is not None:
                yield f"{run.name}: attempt {a.number} of {i} is finished, but has the error {a.error}"
            if a.outcome == "failed" and a.error is None:
                yield f"{run.name}: attempt {a.number} of {i} failed without an error"
        if record.status == "finished" and outcomes[-1:] != ["finished"]:
            yield f"{run.name}: {i} is finished, but its attempts are {outcomes}"


def find_leaks(cluster: Cluster) -> Iterator[str]:
    """Yield everything that the scheduler still holds after all handles are gone."""
    scheduler = cluster.scheduler
    for plugin in cluster.plugins():
        for what in ("runs", "functions"):
            if left := getattr(plugin, what):
                yield f"leaked: plugin.{what}: {list(map(str, left))[:5]}"
        if plugin.state.runs:
            yield f"leaked: the core's runs: {list(plugin.state.runs)[:5]}"
        for node in plugin.state.nodes.values():
            if used := {name: units for name, units in node.used.items() if units}:
                yield f"still booked on {node}: {used}"
        alive = sorted(m.name for m in cluster.machines.values() if m.alive)
        nodes = sorted(plugin.state.nodes)
        if alive != nodes:
            yield f"alive nodes are {alive}, but nodes of the plugin are {nodes}"
    if scheduler.tasks:
        states = sorted(f"{ts.key}: {ts.state}" for ts in scheduler.tasks.values())
        yield f"leaked on Dask's scheduler: {states[:5]}"
    if scheduler.unrunnable:
        yield f"still parked: {sorted(str(ts.key) for ts in scheduler.unrunnable)[:5]}"


def still_parked(cluster: Cluster, run: PlannedRun, run_id: str) -> Iterator[str]:
    """Yield parked tasks of an ended run whose handle still exists."""
    keys = sorted(str(ts.key) for ts in cluster.scheduler.unrunnable if str(ts.key[0]).endswith(run_id))
    if keys:
        yield f"{run.name} has ended, but has parked tasks: {keys[:5]}"


def describe_stuck(cluster: Cluster, name: str) -> str:
    """Describe the state on the scheduler of a run that does not end."""
    for plugin in cluster.plugins():
        for active in list(plugin.runs.values()):
            if active.run.spec.dag_id == name:
                states = [f"{f.number}: {f.state.name}" for f in active.run.functions]
                return f"on the scheduler it is {active.run.status.value}, functions {', '.join(states)}"
    return "the scheduler does not know the run"
