"""The node side: ``run_function``, the code of every Dask task, runs one attempt."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from distributed.metrics import time
from distributed.protocol import pickle, serialize

from handoff_dask._adapter import checkpoint, tracing
from handoff_dask._adapter._dask.running import Running, attach, attempt_id
from handoff_dask._adapter.current import attempt_metadata, current, find_task
from handoff_dask._adapter.evaluation import LOCAL, evaluate
from handoff_dask._adapter.messages import NAME, Program, Report, unsealed_id
from handoff_dask._adapter.meter import Measurement
from handoff_dask._adapter.process_pool import Outcome, StoppedError, run_in_process
from handoff_dask._adapter.tracebacks import hide_frames, origin_of
from handoff_dask._model.retry import is_retryable, ran_out_of_memory
from handoff_dask._model.used import UNKNOWN, Used
from handoff_dask.exceptions import FunctionMemoryError, RunEndedError

#: Types all of whose values pickle.
_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})


class InterruptedFunctionError(Exception):
    """A function raised ``SystemExit`` or ``KeyboardInterrupt``.

    Raised in their place, since either would terminate the whole node.

    Attributes
    ----------
    original : BaseException
        The exception that the function raised.
    """

    def __init__(self, original: BaseException) -> None:
        super().__init__(original)
        self.original = original

    def __repr__(self) -> str:
        return repr(self.original)


def run_function(program: Program, *values: Any) -> Any:
    """Run one attempt of a function, in a thread of a Dask worker.

    Parameters
    ----------
    program : Program
    *values
        Results of the functions that it depends on, directly or through inline functions.

    Returns
    -------
    object
        The function's result; None if ``program.shape.discard``.

    Raises
    ------
    RunEndedError
        The attempt was stopped because its run has ended.
    InterruptedFunctionError
        The function raised ``SystemExit`` or ``KeyboardInterrupt``.
    BaseException
        Any other failure of the attempt, including those of :func:`process_pool.run_in_process` and
        :func:`checkpoint.write_result`.
    """
    shape = program.shape
    running = find_task()
    carrier = tracing.carrier_in(running)
    dask_attempt = 0 if running is None else attempt_id(running.task)
    started = time()
    usage = UNKNOWN
    try:
        with tracing.attempt_span(carrier, program, running) if carrier else nullcontext() as span:
            try:
                nodes = _transfer_nodes(program, running) if shape.transfer else ()
                # An earlier attempt may have written its result before its node was lost.
                repeated = running is not None and "attempt" in attempt_metadata(running.task)
                loaded: tuple[Any, ...] = ()
                if repeated and program.checkpoint is not None:
                    loaded = checkpoint.find_result(program.checkpoint)
                if loaded:
                    (result,) = loaded
                elif not shape.isolated:
                    measurement = Measurement()
                    try:
                        result = evaluate(program, values, nodes)
                    finally:
                        usage = measurement.end()
                else:
                    result, error, usage = _evaluate_isolated(program, values, nodes, running, carrier)
                    if error is not None:
                        raise error
                if program.checkpoint is not None and not loaded:
                    checkpoint.write_result(program.checkpoint, unsealed_id(program.function_id), result)
                elif shape.kept and not shape.isolated and running is not None:
                    _check_pickles(result, running.worker)
            finally:
                tracing.add_usage(span, usage)
    except BaseException as error:
        if running is not None:
            how = "stopped" if isinstance(error, StoppedError) else "failed"
            types = None if shape.retry_on is None else pickle.loads(shape.retry_on.data)
            retryable = is_retryable(types, error, origin_of(error))
            exhausted = ran_out_of_memory(error)
            _report(running, Report(dask_attempt, started, time(), how, retryable, tuple(usage), exhausted))
        if not shape.full_tracebacks:
            hide_frames(error)
        if isinstance(error, StoppedError):
            ids = unsealed_id(program.dag_id), program.run_id, unsealed_id(program.function_id)
            raise RunEndedError(*ids, "ended") from None
        if isinstance(error, (SystemExit, KeyboardInterrupt)):
            try:
                raise InterruptedFunctionError(error) from error
            except InterruptedFunctionError as stand_in:
                stand_in.__traceback__ = error.__traceback__
                raise
        raise  # adds no frame of its own
    if running is not None:
        how = "loaded" if loaded else "finished"
        _report(running, Report(dask_attempt, started, time(), how, usage=tuple(usage)))
    return None if shape.discard else result


def _evaluate_isolated(
    program: Program,
    values: tuple[Any, ...],
    nodes: tuple[Any, ...],
    running: Running | None,
    carrier: tracing.Carrier,
) -> Outcome:
    """Evaluate a function in a process of its own, inside the span of its attempt."""
    call = evaluate, (program, values, nodes)
    timeout = program.shape.timeout
    if running is None:
        return run_in_process(*call, None, timeout, object())
    attempt = (running.task.key, attempt_metadata(running.task).get("attempt", 1))
    try:
        return run_in_process(*tracing.in_process(carrier, *call), current(), timeout, attempt)
    except FunctionMemoryError as error:
        return Outcome(None, error, Used(peak_memory=error.seen))


def _transfer_nodes(program: Program, running: Running | None) -> tuple[Any, Any]:
    """Return the names of the producer's and the consumer's node."""
    if running is None:
        return LOCAL, LOCAL
    worker, task = running
    peer = attempt_metadata(task).get("peer")
    serializing = unsealed_id(program.function_id)[0] == "serialize"
    return (worker.name, peer) if serializing else (peer, worker.name)


def _check_pickles(result: Any, worker: Any) -> None:
    """Raise unless the result pickles, so that the attempt fails here and not when the client fetches it.

    Arrays are not copied. For other types the check takes as long as serializing the result to send it.

    Raises
    ------
    TypeError
        The result does not pickle.
    """
    if type(result) in _PLAIN or worker.address.startswith("inproc://"):
        return
    try:
        serialize(result, on_error="raise")
    except Exception as error:
        cause = error.__cause__ or error
        name = type(result).__qualname__
        raise TypeError(f"its result, of type {name}, does not pickle: {cause}") from cause


def _report(running: Running, report: Report) -> None:
    """Attach a report to Dask's message about the outcome.

    The start and stop times in Dask's own message are no substitute: Dask shifts them by its estimate of the
    clock offset, which drifts by milliseconds, so that consecutive attempts on a node would seem to overlap.
    """
    attach(running, NAME, tuple(report), time())
