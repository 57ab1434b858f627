"""Execute a DAG in this process: no cluster, no Dask, no pickling."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Collection, Hashable, Iterable

from handoff_dask._adapter.tracebacks import UserFrames
from handoff_dask._client.local_run import LocalRun
from handoff_dask._client.options import (
    DEFAULT_MAX_RETRIES,
    HistoryLike,
    RunOptions,
    check_seconds,
    select,
    warn_if_empty,
)
from handoff_dask._client.recording import check_history, record_local
from handoff_dask._client.result import Result
from handoff_dask._client.resume import CheckpointLike, Selection, plan_run
from handoff_dask._model.dag import DAG
from handoff_dask._model.function import Isolation
from handoff_dask._model.retry import RetryPolicy
from handoff_dask._suggest import suggest_keywords


@suggest_keywords
def execute_local(
    dag: DAG,
    *,
    targets: Hashable | Iterable[Hashable] = None,
    max_retries: int = DEFAULT_MAX_RETRIES,
    retry: RetryPolicy | None = None,
    max_concurrency: int | None = None,
    keep: str | Collection[Hashable] = "all",
    fail_fast: bool = True,
    timeout: float | None = None,
    history: HistoryLike | None = None,
    checkpoint: CheckpointLike | None = None,
    checkpoint_of: Selection | None = None,
    isolation: Isolation = "thread",
) -> Result:
    """Run a DAG in this process, on a thread pool.

    ``cost`` and ``node`` are ignored.

    Parameters
    ----------
    dag : DAG
        The DAG to run. It is validated first. A DAG without functions gives empty results and logs a
        warning.
    targets : id or list of ids, optional
        Run only these functions and what they need, as :meth:`DAG.subset` returns it. Default: all functions.
    max_retries : int
        Number of retries after a failure, for functions that do not set their own.
    retry : RetryPolicy, optional
        Full retry policy for functions without their own. Overrides ``max_retries``.
    max_concurrency : int, optional
        Maximum number of functions that run at once. Default: the number of cores. With 1, functions run
        one after the other in the calling thread (unless it runs an event loop), which is fastest for short
        functions.
    keep : {"all", "sinks"} or list of ids
        Functions whose results to keep. All other results are released once no dependent needs them.
    fail_fast : bool
        End the run at the first failure. If False, branches that do not depend on the failed function
        finish first.
    timeout : float, optional
        Seconds after which no further attempt starts and the run fails. Attempts that are running in threads
        cannot be interrupted.
    history : str, path-like or History, optional
        File to which the run is written when it ends, whatever its outcome, with the functions that ran.
    checkpoint : str, path or Checkpoint, optional
        Directory or URL to which each result is written as soon as it exists, and from which results are
        loaded instead of computed. :func:`handoff_dask.execute` can share it, and describes it.
    checkpoint_of : list of ids or callable, optional
        Functions to checkpoint: their ids, or a predicate ``callable(function) -> bool``. By default all
        functions that have a result, except the two synthetic functions of each :class:`Argument`.
    isolation : {"thread", "process"}
        Whether functions that do not set their own isolation run in threads of this process, or each attempt
        in a process of its own.

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
    KeyboardInterrupt
        The user pressed Ctrl-C. No further function has started. Functions that ran in threads have finished
        first, as threads cannot be interrupted; their results are lost unless they have checkpoints.
    """
    dag = select(dag, targets)
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
        isolation=isolation,
    )
    options.check(dag)
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
