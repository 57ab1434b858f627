"""Running a DAG on a cluster."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Collection, Hashable, Mapping
from typing import Any

from distributed import Client

from handoff_dask._adapter.compile import compile_dag
from handoff_dask._client.options import (
    DEFAULT_MAX_RETRIES,
    DEFAULT_STRATEGY,
    AllocatorLike,
    HistoryLike,
    RunOptions,
    check_dag,
    check_seconds,
)
from handoff_dask._client.progress import Display, wait_with_display
from handoff_dask._client.result import Result
from handoff_dask._client.resume import CheckpointLike, Plan, Selection, plan_run
from handoff_dask._client.run import Run
from handoff_dask._client.session import resolve_client
from handoff_dask._model.dag import DAG
from handoff_dask._model.hooks import module_for
from handoff_dask._model.retry import RetryPolicy
from handoff_dask.exceptions import RunError


def submit(
    dag: DAG,
    client: Any = None,
    *,
    max_retries: int = DEFAULT_MAX_RETRIES,
    retry: RetryPolicy | None = None,
    max_concurrency: int | None = None,
    limits: Mapping[str, Any] | None = None,
    allocation_strategy: str | AllocatorLike = DEFAULT_STRATEGY,
    keep: str | Collection[Hashable] = "all",
    fail_fast: bool = True,
    priority: float = 0,
    wait_for_nodes: float = 0,
    history: HistoryLike | None = None,
    checkpoint: CheckpointLike | None = None,
    checkpoint_of: Selection | None = None,
) -> Run:
    """Start a DAG on a cluster and return at once.

    Parameters
    ----------
    dag : DAG
        Validated first.
    client : distributed.Client, cluster, str, optional
        A Dask client, blocking or asynchronous; a cluster; the address of a scheduler. None: the default
        client if there is one, otherwise an embedded cluster in this process.
    max_retries : int
        Retries after a failure, for functions that do not say otherwise.
    retry : RetryPolicy, optional
        More about retries, instead of ``max_retries``.
    max_concurrency : int, optional
        Functions of this run that may run at once.
    limits : mapping of str to number, optional
        Amounts that this run may use at once across the cluster: with ``limits={"db": 8}``, functions of
        ``cost={"db": 1}`` run eight at a time. A limit is not a resource of nodes.
    allocation_strategy : {"best_fit", "load_balanced", "first_available"} or Allocator
        Which of several nodes gets a function that fits on each; or an :class:`Allocator` of your own, which
        decides what starts where.
    keep : {"all", "sinks"} or list of ids
        Functions whose results are wanted. Others are dropped as soon as nothing needs them.
    fail_fast : bool
        The first failure ends the run; otherwise branches that do not need the failed function finish.
    priority : float
        Higher goes first among the runs on the cluster.
    wait_for_nodes : float
        Seconds to wait for nodes that can hold every function, when there are none.
    history : str, path-like or History, optional
        File to which the run is written when it ends, however it does, and from which the scheduler is told
        how long functions of the same code took. A run whose :class:`Run` is gone by then is not written. If
        writing fails then, that is a RuntimeWarning, and changes nothing about the run.
    checkpoint : str, path or Checkpoint, optional
        Directory or URL, seen by the client and every node, to which each result is written when it is there.
        A function whose result is there already, from the same code, arguments and inputs, is not run again:
        its result is loaded, or left where it is when nothing needs it. Loading unpickles, which runs code:
        give only a place that nobody else can write to.
    checkpoint_of : list of ids or callable, optional
        Functions whose results are written and looked for: their ids, or ``callable(function) -> bool``. By
        default all that have a result, apart from the two functions that an :class:`Argument` stands for.

    Returns
    -------
    Run

    Raises
    ------
    InvalidDAGError
        The DAG cannot run as written.
    AllocationError
        A function fits on no node. With an asynchronous client it is raised when the run is awaited.
    ClusterNotReadyError
        The scheduler plugin is not there and cannot be installed, or cannot load the allocator.
    HistoryError
        The history cannot be written. With an asynchronous client it is raised when the run is awaited.
    CheckpointError
        The checkpoint directory cannot be made, written or listed.
    TypeError, ValueError
        An argument is not what it has to be.
    """
    check_dag(dag)
    options = RunOptions(
        max_retries=max_retries,
        retry=retry,
        max_concurrency=max_concurrency,
        limits=limits,
        allocation_strategy=allocation_strategy,
        keep=keep,
        fail_fast=fail_fast,
        priority=priority,
        wait_for_nodes=wait_for_nodes,
        history=history,
        checkpoint=checkpoint,
        checkpoint_of=checkpoint_of,
    )
    options.check_keep(dag)
    plan = _plan(dag, options)
    resolved, _ = resolve_client(client, reuse=True)
    return _submit(dag, resolved, options, plan)


def _plan(dag: DAG, options: RunOptions) -> Plan:
    return plan_run(dag, options.checkpoint, options.checkpoint_of, options.keep)


def _submit(dag: DAG, client: Client, options: RunOptions, plan: Plan) -> Run:
    compiled = compile_dag(
        plan.dag,
        uuid.uuid4().hex[:16],
        policy=options.policy,
        max_concurrency=options.max_concurrency,
        limits=options.limits,
        strategy=options.allocation_strategy,
        keep=options.keep,
        fail_fast=options.fail_fast,
        priority=options.priority,
        wait_for_nodes=options.wait_for_nodes,
        stores=plan.stores,
    )
    run = Run(dag, compiled, client, plan.restored, history=options.history_path)
    if client.asynchronous:
        run._start_in_background()
    else:
        client.sync(run._start)
    return run


def execute(
    dag: DAG,
    client: Any = None,
    *,
    max_retries: int = DEFAULT_MAX_RETRIES,
    retry: RetryPolicy | None = None,
    max_concurrency: int | None = None,
    limits: Mapping[str, Any] | None = None,
    allocation_strategy: str | AllocatorLike = DEFAULT_STRATEGY,
    keep: str | Collection[Hashable] = "all",
    fail_fast: bool = True,
    timeout: float | None = None,
    priority: float = 0,
    progress: bool = False,
    wait_for_nodes: float = 0,
    history: HistoryLike | None = None,
    checkpoint: CheckpointLike | None = None,
    checkpoint_of: Selection | None = None,
) -> Any:
    """Run a DAG on a cluster and wait for its results.

    Takes what :func:`submit` takes, and:

    Parameters
    ----------
    timeout : float, optional
        Seconds after which the run is ended.
    progress : bool
        Show how far the run is: in a notebook below the cell; on a terminal, on standard error, with a line
        for each node if rich is installed; otherwise as a plain line now and then. The time left comes from
        how long functions of the same code took.

    Returns
    -------
    Result
        With an asynchronous client an awaitable of it.

    Raises
    ------
    FunctionFailedError
        A function failed for good; ``__cause__`` is its exception.
    AllocationError
        A function fits on no node.
    AllocatorError
        The run's own allocator raised an exception, or proposed what cannot be done.
    RunTimeoutError
        It took longer than ``timeout``.
    RunCancelledError
        The client was closed meanwhile.
    InvalidDAGError, ClusterNotReadyError, HistoryError, CheckpointError, TypeError, ValueError
        As :func:`submit`.

    Notes
    -----
    Handoff: ``Handoff.execute/2``, ``lib/handoff/distributed_executor.ex``.
    """
    check_dag(dag)
    if timeout is not None:
        check_seconds("timeout", timeout)
    options = RunOptions(
        max_retries=max_retries,
        retry=retry,
        max_concurrency=max_concurrency,
        limits=limits,
        allocation_strategy=allocation_strategy,
        keep=keep,
        fail_fast=fail_fast,
        priority=priority,
        wait_for_nodes=wait_for_nodes,
        history=history,
        checkpoint=checkpoint,
        checkpoint_of=checkpoint_of,
    )
    options.check_keep(dag)
    dag.validate()  # before a cluster is started for it
    resolved, owned = resolve_client(client, reuse=False)
    if resolved.asynchronous:
        return _execute_async(dag, resolved, options, timeout, progress, owned)
    try:
        run = _submit(dag, resolved, options, _plan(dag, options))
        try:
            # A notebook shows it below the cell that is running: that is known in this thread.
            display = _display_of(run) if progress else None
            result: Result = resolved.sync(_result_within, run, timeout, display)
        except KeyboardInterrupt:
            run.cancel()
            raise
        except RunError:
            if owned:  # the client goes, and the results with it
                resolved.sync(run.results.fetch)
            raise
        return result
    finally:
        if owned:
            resolved.close()


async def _execute_async(
    dag: DAG, client: Client, options: RunOptions, timeout: float | None, progress: bool, owned: bool
) -> Result:
    try:
        # In a thread: looking through files takes its time, and this loop may be the cluster's, too.
        plan = Plan(dag) if options.checkpoint is None else await asyncio.to_thread(_plan, dag, options)
        run = _submit(dag, client, options, plan)
        try:
            return await _result_within(run, timeout, _display_of(run) if progress else None)
        except BaseException as error:
            if not run.done():
                await run._cancel()
            elif owned and isinstance(error, RunError):
                await run.results.fetch()
            raise
    finally:
        if owned:
            await client.close()


def _display_of(run: Run) -> Display:
    return module_for("progress").display_of(str(run.dag.id))


async def _result_within(run: Run, timeout: float | None, display: Display | None) -> Result:
    ended = await (run._wait(timeout) if display is None else wait_with_display(run, timeout, display))
    if not ended:
        assert timeout is not None
        raise await run._time_out(timeout)
    return await run._result()
