"""What becomes of functions when one that they need, or all that need them, failed for good."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from handoff_dask._scheduling.functions import FINAL, FunctionState, State

#: States of functions that will not run, for what they need or by themselves.
FAILED = frozenset({State.FAILED, State.SKIPPED})


def dependents_of(f: FunctionState) -> list[FunctionState]:
    """Functions that take the result of one, as far as the run says what depends on what."""
    spec, functions = f.run.spec, f.run.functions
    return [functions[number] for number in spec.dependents[f.number]] if spec.dependents else []


def skip_dependents(f: FunctionState) -> None:
    """Skip all that needs a function which failed for good, directly or not."""
    failed = [f]
    while failed:
        for dependent in dependents_of(failed.pop()):
            if dependent.state not in FINAL and dependent.state is not State.RUNNING:
                dependent.move(State.SKIPPED)
                failed.append(dependent)


def unskip_dependents(f: FunctionState) -> None:
    """Let wait again what was skipped for nothing but a function that is tried once more."""
    run = f.run
    numbers = [dependent.number for dependent in dependents_of(f)]
    heapify(numbers)  # inputs come before what needs them
    seen: set[int] = set()
    while numbers:
        number = heappop(numbers)
        dependent = run.functions[number]
        if number in seen or dependent.state is not State.SKIPPED:
            continue
        seen.add(number)
        if not any(run.functions[other].state in FAILED for other in run.inputs[number]):
            dependent.move(State.WAITING)
            for other in dependents_of(dependent):
                heappush(numbers, other.number)


def only_failed_need(f: FunctionState) -> bool:
    """Whether there were functions that need one, and all of them failed or were skipped."""
    states = {dependent.state for dependent in dependents_of(f)}
    return bool(states) and states <= FAILED
