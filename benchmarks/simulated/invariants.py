"""What must be so when a run has ended, and when all are over."""

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
    """Complaints about how a run has ended: an exception, or a result."""
    if isinstance(outcome, BaseException):
        if not _allowed(scenario, run, outcome):
            yield f"{run.name} ended with {type(outcome).__name__}: {str(outcome)[:500]}"
        for a in getattr(outcome, "attempts", ()):
            if a.outcome == "finished" and a.error is not None:
                yield f"{run.name} ended with the attempt {a.number} finished, and its error {a.error}"
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
    """Whether something in the scenario explains an error."""
    if run.client in scenario.closes:
        return isinstance(error, HandoffError)
    stays = all(any(n.holds(f.cost) for n in scenario.nodes if n.stays) for f in run.functions)
    return (
        (isinstance(error, RunCancelledError) and run.how == "cancel")
        or (isinstance(error, RunTimeoutError) and run.how == "timeout")
        or (isinstance(error, AllocationError) and not stays)
        or (isinstance(error, FunctionFailedError) and run.fails)
        # Its results were lost with their node before they were fetched, and no other node can make them.
        or (
            isinstance(error, FunctionFailedError)
            and not stays
            and isinstance(error.__cause__, AllocationError)
        )
    )


def check_records(run: PlannedRun, records: Mapping[Any, Any]) -> Iterator[str]:
    """Complaints about what is told of the functions of a run that has ended."""
    for i, record in records.items():
        outcomes = [a.outcome for a in record.attempts]
        if [a.number for a in record.attempts] != list(range(1, len(outcomes) + 1)):
            yield f"{run.name}: attempts of {i} are numbered {[a.number for a in record.attempts]}"
        for a in record.attempts:
            if a.outcome == "finished" and a.error is not None:
                yield f"{run.name}: attempt {a.number} of {i} is finished, with the error {a.error}"
            if a.outcome == "failed" and a.error is None:
                yield f"{run.name}: attempt {a.number} of {i} failed without an error"
        if record.status == "finished" and outcomes[-1:] != ["finished"]:
            yield f"{run.name}: {i} is finished, its attempts are {outcomes}"


def left_over(cluster: Cluster) -> Iterator[str]:
    """Complaints about what is left when nobody wants anything any more."""
    scheduler = cluster.scheduler
    for plugin in cluster.plugins():
        for what in ("runs", "functions"):
            if left := getattr(plugin, what):
                yield f"left: plugin.{what}: {list(map(str, left))[:5]}"
        if plugin.state.runs:
            yield f"left: the core's runs: {list(plugin.state.runs)[:5]}"
        for node in plugin.state.nodes.values():
            if used := {name: units for name, units in node.used.items() if units}:
                yield f"booked on {node}: {used}"
        alive = sorted(m.name for m in cluster.machines.values() if m.alive)
        nodes = sorted(plugin.state.nodes)
        if alive != nodes:
            yield f"alive are {alive}, and nodes of the plugin {nodes}"
    if scheduler.tasks:
        states = sorted(f"{ts.key}: {ts.state}" for ts in scheduler.tasks.values())
        yield f"left on Dask's scheduler: {states[:5]}"
    if scheduler.unrunnable:
        yield f"parked: {sorted(str(ts.key) for ts in scheduler.unrunnable)[:5]}"


def still_parked(cluster: Cluster, run: PlannedRun, run_id: str) -> Iterator[str]:
    """Complaints about what is parked of a run that has ended, whose handle is still there."""
    keys = sorted(str(ts.key) for ts in cluster.scheduler.unrunnable if str(ts.key[0]).endswith(run_id))
    if keys:
        yield f"{run.name} has ended, and is parked still: {keys[:5]}"


def describe_stuck(cluster: Cluster, name: str) -> str:
    """What the scheduler knows of a run that does not end."""
    for plugin in cluster.plugins():
        for active in list(plugin.runs.values()):
            if active.run.spec.dag_id == name:
                states = [f"{f.number}: {f.state.name}" for f in active.run.functions]
                return f"the scheduler has it as {active.run.status.value}, functions {', '.join(states)}"
    return "the scheduler does not know it"
