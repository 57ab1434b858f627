"""On a node: the one function that runs all functions."""

from __future__ import annotations

from typing import Any

from distributed.metrics import time
from distributed.protocol import pickle, serialize

from handoff_dask._adapter import checkpoint
from handoff_dask._adapter._dask.running import Running, attempt_id, enclose
from handoff_dask._adapter.current import current, facts_of, find_task
from handoff_dask._adapter.evaluation import LOCAL, evaluate
from handoff_dask._adapter.killable import StoppedError, run_killable
from handoff_dask._adapter.messages import NAME, Blob, Program, Report, unsealed_id
from handoff_dask.exceptions import RunEndedError

#: Types of which everything pickles.
_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})


class InterruptedFunctionError(Exception):
    """A function raised ``SystemExit`` or ``KeyboardInterrupt``, which would take its whole node down.

    Attributes
    ----------
    original : BaseException
        What was raised.
    """

    def __init__(self, original: BaseException) -> None:
        super().__init__(original)
        self.original = original

    def __repr__(self) -> str:
        return repr(self.original)


def run_function(program: Program, *values: Any) -> Any:
    """Run one attempt of a function in the thread of a Dask worker.

    Parameters
    ----------
    program : Program
    *values
        Results of the functions it depends on, directly or through inline functions.
    """
    shape = program.shape
    found = find_task()
    number = 0 if found is None else attempt_id(found.task)
    started = time()
    try:
        nodes = _transfer_nodes(program, found) if shape.transfer else ()
        # An attempt before this one may have finished, on a node that was then lost.
        again = found is not None and "attempt" in facts_of(found.task)
        kept = checkpoint.recall(program.store) if again and program.store is not None else ()
        if kept:
            (result,) = kept
        elif shape.timeout is None:
            result = evaluate(program, values, nodes)
        else:
            facts = None if found is None else current()
            attempt = object() if found is None else (found.task.key, facts_of(found.task).get("attempt", 1))
            result = run_killable(evaluate, (program, values, nodes), facts, shape.timeout, attempt)
        if program.store is not None and not kept:
            checkpoint.store(program.store, unsealed_id(program.function_id), result)
        elif shape.kept and shape.timeout is None and found is not None:
            _check_pickles(result, found.worker)
    except BaseException as error:
        if found is not None:
            outcome = "stopped" if isinstance(error, StoppedError) else "failed"
            retryable = _is_retryable(error, shape.retry_on)
            _report(found, Report(number, started, time(), outcome, retryable))
        if isinstance(error, StoppedError):
            ids = unsealed_id(program.dag_id), program.run_id, unsealed_id(program.function_id)
            raise RunEndedError(*ids, "ended") from None
        if isinstance(error, (SystemExit, KeyboardInterrupt)):
            raise InterruptedFunctionError(error) from error
        raise
    if found is not None:
        _report(found, Report(number, started, time(), "loaded" if kept else "finished"))
    return None if shape.discard else result


def _transfer_nodes(program: Program, found: Running | None) -> tuple[Any, Any]:
    """Names of the producer's and the consumer's node."""
    if found is None:
        return LOCAL, LOCAL
    worker, task = found
    peer = facts_of(task).get("peer")
    serializing = unsealed_id(program.function_id)[0] == "serialize"
    return (worker.name, peer) if serializing else (peer, worker.name)


def _check_pickles(result: Any, worker: Any) -> None:
    """Find out while it can be tried again that a client would not get a result.

    Arrays are not copied by this; what is pickled piece by piece takes as long as sending it.
    """
    if type(result) in _PLAIN or worker.address.startswith("inproc://"):
        return
    try:
        serialize(result, on_error="raise")
    except Exception as error:
        cause = error.__cause__ or error
        name = type(result).__qualname__
        raise TypeError(f"its result, of type {name}, does not pickle: {cause}") from cause


def _is_retryable(error: BaseException, retry_on: Blob | None) -> bool:
    """Whether the policy of a function, which is given in pickled form, retries such a failure."""
    return isinstance(error, Exception if retry_on is None else pickle.loads(retry_on.data))


def _report(found: Running, report: Report) -> None:
    """Tell the scheduler what an attempt was.

    Dask's own times are no substitute: they are shifted by its estimate of the clocks' difference, which
    wanders by milliseconds, so that two attempts which followed each other on a node would seem to overlap.
    """
    enclose(found, NAME, tuple(report), time())
