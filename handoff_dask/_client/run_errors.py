"""The error that a run ended with, built from the scheduler's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from distributed.protocol import pickle

from handoff_dask._adapter._dask.running import unpickle_error
from handoff_dask._adapter.compile import Compiled
from handoff_dask._adapter.worker import InterruptedFunctionError
from handoff_dask._client.summaries import Summaries
from handoff_dask._model.records import with_cost
from handoff_dask.exceptions import (
    AllocationError,
    AllocatorError,
    FunctionFailedError,
    RunCancelledError,
    RunError,
)

#: Possible causes of a cancellation while the client is open, if the scheduler no longer knows the run.
_CANCELLED = (
    "run.cancel() was called, futures of the run were cancelled or released, the cluster was restarted, or"
    " the handoff_dask plugin was removed from the scheduler"
)


def find_error(
    compiled: Compiled,
    dag_id: Any,
    status: str,
    unreachable: str | None,
    report: Mapping[str, Any],
    summaries: Summaries,
) -> RunError:
    """Return the error of a run that ended without finishing.

    Parameters
    ----------
    compiled : Compiled
    dag_id : hashable
    status : str
        The run's status as known to its client.
    unreachable : str or None
        Why the scheduler can no longer be asked about the run; None if it can.
    report : mapping
        The scheduler's report on the run.
    summaries : Summaries
        The summaries of its functions.
    """
    run_id = compiled.spec.run_id
    if broken := report.get("broken"):
        return RunError(dag_id, run_id, f"handoff_dask failed on the scheduler: {broken}")
    if fault := report.get("fault"):
        return AllocatorError(dag_id, run_id, fault)
    if report.get("failed") and status != "cancelled":  # without the cancellation, it might be retried
        starved = {id for s in pickle.loads(report["shortfalls"]) for id in s.function_ids}
        if compiled.spec.ids[report["failed"][0]] in starved:
            return allocation_error(compiled, dag_id, report["shortfalls"])
        return _failures(compiled, dag_id, report, summaries)
    if status == "failed":
        return allocation_error(compiled, dag_id, report.get("shortfalls") or pickle.dumps(()))
    return RunCancelledError(dag_id, run_id, unreachable or report.get("error") or _CANCELLED)


def _failures(
    compiled: Compiled, dag_id: Any, report: Mapping[str, Any], known: Summaries
) -> FunctionFailedError:
    """Return the error of the first failure, which carries all others."""

    def failure(number: int, others: Sequence[FunctionFailedError] = ()) -> FunctionFailedError:
        id, summaries = compiled.ids[number], known.by_number  # no summaries if the plugin was removed
        spec = compiled.spec
        cost = dict(spec.kinds[spec.kind_of[number]].asked)
        attempts = with_cost(summaries[number].attempts, cost) if number < len(summaries) else ()
        failed = FunctionFailedError(dag_id, compiled.spec.run_id, id, attempts, others)
        failed.__cause__ = original_exception(known.errors.get(number))
        return failed

    first, *others = report["failed"]
    return failure(first, [failure(other) for other in others])


def allocation_error(compiled: Compiled, dag_id: Any, shortfalls: bytes) -> AllocationError:
    """Build the error for functions that fit on no node, with the ids that the user gave them."""
    known = dict(zip(compiled.spec.ids, compiled.ids, strict=True))
    distinct = {id(s): s for s in pickle.loads(shortfalls)}.values()
    # get() with a default: an id that is NaN is not found, since copies of NaN differ.
    named = [replace(s, function_ids=tuple(known.get(i, i) for i in s.function_ids)) for s in distinct]
    return AllocationError(dag_id, compiled.spec.run_id, named)


def original_exception(error: Any) -> BaseException | None:
    """Return the exception that a function raised, with its traceback, unpacked from Dask's message."""
    if error is None:
        return None
    exception = unpickle_error(error)
    return exception.original if isinstance(exception, InterruptedFunctionError) else exception
