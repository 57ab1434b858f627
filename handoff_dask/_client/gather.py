"""Fetch a run's results from the cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from distributed import Future

from handoff_dask._adapter._dask import client as dask_client
from handoff_dask._client.connection import connection_of
from handoff_dask._model.safe_repr import safe_repr
from handoff_dask.exceptions import FunctionFailedError, RunCancelledError, RunError

if TYPE_CHECKING:
    from handoff_dask._client.run import Run


async def gather(run: Run, futures: Mapping[Hashable, Future]) -> dict[Hashable, Any]:
    """Fetch results, again if the connection breaks.

    Parameters
    ----------
    run : Run
    futures : mapping
        Function id → future.

    Raises
    ------
    FunctionFailedError
        A result cannot be fetched. The error names its function and has the reason as ``__cause__``.
    RunCancelledError
        The results are gone: the client was closed, the scheduler restarted, or a future was released.
    """
    connection, client = connection_of(run._client), run._client
    while True:
        await connection.wait_until_attached()
        if run._unreachable_reason is not None and futures:
            raise _results_gone(run)
        comm = dask_client.connection(client)
        try:
            try:
                values = await dask_client.gather(client, futures.values())
            except Exception as error:
                _forget_frames(error, futures.values())
                # Dask does not tell which result is unavailable, so fetch them one by one.
                values = [await _gather_one(run, id, future) for id, future in futures.items()]
        except RunError:
            if comm is None or dask_client.is_connected_by(client, comm):
                raise
            await asyncio.sleep(0.01)  # the connection broke: let Dask notice and reconnect
        else:
            return dict(zip(futures, values, strict=True))


def _results_gone(run: Run) -> RunError:
    reason = f"its results are gone: {run._unreachable_reason}"
    return run._with_run(RunCancelledError(run.dag.id, run.id, reason))


async def _gather_one(run: Run, id: Hashable, future: Future) -> Any:
    if not dask_client.is_known(run._client, future) or future.status == "cancelled":
        gone = f"the future of function {id!r} was cancelled or released, and its result went with it"
        raise run._with_run(RunCancelledError(run.dag.id, run.id, gone))
    try:
        (value,) = await dask_client.gather(run._client, [future])
    except Exception as error:
        _forget_frames(error, [future])
        record = (await run._records()).get(id)  # None if the plugin was removed before anything was fetched
        reason = None if record is not None and record.status == "failed" else safe_repr(error)
        attempts = () if record is None else record.attempts
        failure = FunctionFailedError(run.dag.id, run.id, id, attempts, reason=reason)
        raise run._with_run(failure, error) from error
    return value


def _forget_frames(error: BaseException, futures: Iterable[Future]) -> None:
    """Drop the traceback of an exception that a future holds, whose frames would keep the caller alive."""
    if any(error is dask_client.error_of(future) for future in futures):
        error.__traceback__ = None
