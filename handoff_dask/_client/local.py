"""Execute a DAG in this process: no cluster, no Dask, no pickling."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Collection, Hashable

from handoff_dask._adapter.tracebacks import UserFrames
from handoff_dask._client.local_run import LocalRun
from handoff_dask._client.options import (
    DEFAULT_MAX_RETRIES,
    HistoryLike,
    RunOptions,
    check_dag,
    check_seconds,
    warn_if_empty,
)
from handoff_dask._client.recording import check_history, record_local
from handoff_dask._client.result import Result
from handoff_dask._client.resume import CheckpointLike, Selection, plan_run
from handoff_dask._model.dag import DAG
from handoff_dask._model.retry import RetryPolicy


def execute_local(
    dag: DAG,
    *,
    max_retries: int = DEFAULT_MAX_RETRIES,
    retry: RetryPolicy | None = None,
    max_concurrency: int | None = None,
    keep: str | Collection[Hashable] = "all",
    fail_fast: bool = True,
    timeout: float | None = None,
    history: HistoryLike | None = None,
    checkpoint: CheckpointLike | None = None,
    checkpoint_of: Selection | None = None,
) -> Result:
    """Run a DAG in this process, on a thread pool.

    ``cost`` and ``node`` are ignored. A function with a ``timeout`` runs in its own process.

    Parameters
    ----------
    dag : DAG
        The DAG to run. It is validated first. A DAG without functions gives empty results and logs a
        warning.
    max_retries, retry, keep, fail_fast, checkpoint, checkpoint_of
        As for :func:`handoff_dask.execute`. The two functions can share a checkpoint directory.
    max_concurrency : int, optional
        Maximum number of functions that run at once. Default: the number of cores. With 1, functions run
        one after the other in the calling thread (unless it runs an event loop), which is fastest for short
        functions.
    timeout : float, optional
        Seconds after which no further attempt starts and the run fails. Attempts that are running in threads
        cannot be interrupted.
    history : str, path-like or History, optional
        File to which the run is written when it ends, whatever its outcome, with the functions that ran.

    Returns
    -------
    Result
        Every allocation is ``"local"``.

    Raises
    ------
    FunctionFailedError
        A function failed permanently; ``__cause__`` is its last exception, and ``run`` has the partial
        results.
    RunTimeoutError
        The run exceeded ``timeout``.
    InvalidDAGError, HistoryError, CheckpointError, TypeError, ValueError
        As for :func:`handoff_dask.submit`.
    """
    check_dag(dag)
    if timeout is not None:
        check_seconds("timeout", timeout)
        timeout = min(float(timeout), threading.TIMEOUT_MAX)
    options = RunOptions(
        max_retries=max_retries,
        retry=retry,
        max_concurrency=max_concurrency,
        keep=keep,
        fail_fast=fail_fast,
        history=history,
        checkpoint=checkpoint,
        checkpoint_of=checkpoint_of,
    )
    options.check_keep(dag)
    dag._validate_to_run()
    path = options.history_path
    if path is not None:
        check_history(path)
    warn_if_empty(dag)
    plan = plan_run(dag, checkpoint, checkpoint_of, keep)
    run = LocalRun(dag, plan, options, timeout)
    threads = max_concurrency or os.cpu_count() or 1
    interrupted = True
    try:
        if threads == 1 and not _runs_event_loop():
            run.run_sequentially()
        else:
            run.run_in_threads(threads)
        interrupted = False
    finally:
        if path is not None:
            record_local(run, path, interrupted)
    with UserFrames():
        return run.result()


def _runs_event_loop() -> bool:
    """Whether this thread runs an event loop, as in a notebook, so that it cannot run a coroutine itself."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
