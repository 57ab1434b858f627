"""Execute a DAG on a cluster."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from distributed import Client

from handoff_dask._adapter.compile import compile_dag
from handoff_dask._adapter.tracebacks import UserFrames
from handoff_dask._client.options import (
    DEFAULT_MAX_RETRIES,
    DEFAULT_STRATEGY,
    AllocatorLike,
    HistoryLike,
    RunOptions,
    check_order,
    check_seconds,
    select,
    warn_if_empty,
)
from handoff_dask._client.progress import Display, wait_with_display
from handoff_dask._client.result import Result
from handoff_dask._client.resume import CheckpointLike, Plan, Selection, plan_run
from handoff_dask._client.run import Run
from handoff_dask._client.session import resolve_client
from handoff_dask._model.dag import DAG
from handoff_dask._model.function import Isolation
from handoff_dask._model.hooks import module_for
from handoff_dask._model.retry import RetryPolicy
from handoff_dask._model.runinfo import INTERRUPTED
from handoff_dask._suggest import suggest_keywords
from handoff_dask.exceptions import RunError


@suggest_keywords
def submit(
    dag: DAG,
    client: Any = None,
    *,
    targets: Hashable | Iterable[Hashable] = None,
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
    isolation: Isolation = "thread",
) -> Run:
    """Start a DAG on a cluster and return immediately.

    Parameters
    ----------
    dag : DAG
        The DAG to run. It is validated first. A DAG without functions gives empty results and logs a
        warning.
    client : distributed.Client, cluster, str, optional
        A Dask client, blocking or asynchronous; a cluster; or the address of a scheduler. None: the default
        client if there is one, otherwise an embedded cluster in this process.
    targets : id or list of ids, optional
        Run only these functions and what they need, as :meth:`DAG.subset` returns it. Default: all functions.
    max_retries : int
        Number of retries after a failure, for functions that do not set their own.
    retry : RetryPolicy, optional
        Full retry policy for functions without their own. Overrides ``max_retries``.
    max_concurrency : int, optional
        Maximum number of functions of this run that run at once.
    limits : mapping of str to number, optional
        Amounts that this run may use at once across the cluster: with ``limits={"db": 8}``, at most eight
        functions with ``cost={"db": 1}`` run at a time. A limit is not a node resource.
    allocation_strategy : {"best_fit", "load_balanced", "first_available"} or Allocator
        How to choose among nodes where a function fits. An :class:`Allocator` of your own decides which
        functions start on which nodes.
    keep : {"all", "sinks"} or list of ids
        Functions whose results to keep. All other results are released once no dependent needs them.
    fail_fast : bool
        End the run at the first failure. If False, branches that do not depend on the failed function
        finish first.
    priority : float
        Priority among the runs on the cluster; higher goes first.
    wait_for_nodes : float
        Seconds to wait for suitable nodes to join if a function fits on no node.
    history : str, path-like or History, optional
        File to which the run is written when it ends, whatever its outcome. The scheduler learns from it how
        long functions with the same code took. The run is not written if its :class:`Run` has been
        garbage-collected before it ends. A failure to write emits a RuntimeWarning and does not affect the
        run.
    checkpoint : str, path or Checkpoint, optional
        Directory or URL that the client and all nodes can access. Each result is written there as soon as it
        exists. A function whose result is already there, from the same code, arguments and inputs, does not
        run again: its result is loaded, or not even read if nothing needs it. Loading unpickles, which can
        execute arbitrary code: use only locations that nobody else can write to.
    checkpoint_of : list of ids or callable, optional
        Functions to checkpoint: their ids, or a predicate ``callable(function) -> bool``. By default all
        functions that have a result, except the two synthetic functions of each :class:`Argument`.
    isolation : {"thread", "process"}
        Whether functions that do not set their own isolation run in threads of their nodes, or each attempt
        in a process of its own.

    Returns
    -------
    Run
        A handle to the run.

    Raises
    ------
    InvalidDAGError
        The DAG is invalid.
    AllocationError
        A function fits on no node. With an asynchronous client, raised when the run is awaited.
    ClusterNotReadyError
        The scheduler plugin is missing and cannot be installed, or the scheduler cannot load the allocator.
    HistoryError
        The history cannot be written. With an asynchronous client, raised when the run is awaited.
    CheckpointError
        The checkpoint directory cannot be created, written or listed.
    TypeError, ValueError
        An argument has the wrong type or an invalid value.

    Examples
    --------
    >>> from distributed import Client
    >>> from handoff_dask import DAG, local_cluster, submit
    >>> dag = DAG("example")
    >>> @dag.function(cost={"cpu": 1})
    ... def source():
    ...     return 42
    >>> @dag.function(cost={"cpu": 2, "memory": "1GB"})
    ... def double(source):
    ...     return 2 * source
    >>> with local_cluster({"node1": {"cpu": 4, "memory": "8GB"}}) as cluster, Client(cluster) as client:
    ...     run = submit(dag, client)
    ...     result = run.result()  # waits
    >>> run.status, result["double"]
    ('finished', 84)
    """
    check_order(dag, client)
    dag = select(dag, targets)
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
        isolation=isolation,
    )
    options.check(dag)
    warn_if_empty(dag)
    plan = _plan(dag, options)
    resolved, _ = resolve_client(client, reuse=True)
    with UserFrames():
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
        isolation=options.isolation,
        checkpoints=plan.stores,
    )
    compiled = replace(compiled, fingerprints=plan.fingerprints)
    run = Run(dag.copy(), compiled, client, plan.restored, history=options.history_path)
    if client.asynchronous:
        run._start_in_background()
    else:
        try:
            client.sync(run._start)
        except KeyboardInterrupt:  # the run starts nevertheless
            client.sync(run._cancel, INTERRUPTED)
            raise
    return run


@suggest_keywords
def execute(
    dag: DAG,
    client: Any = None,
    *,
    targets: Hashable | Iterable[Hashable] = None,
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
    isolation: Isolation = "thread",
) -> Result:
    """Run a DAG on a cluster and wait for its results.

    Parameters
    ----------
    dag : DAG
        The DAG to run. It is validated first. A DAG without functions gives empty results and logs a
        warning.
    client : distributed.Client, cluster, str, optional
        A Dask client, blocking or asynchronous; a cluster; or the address of a scheduler. None: the default
        client if there is one, otherwise an embedded cluster in this process.
    targets : id or list of ids, optional
        Run only these functions and what they need, as :meth:`DAG.subset` returns it. Default: all functions.
    max_retries : int
        Number of retries after a failure, for functions that do not set their own.
    retry : RetryPolicy, optional
        Full retry policy for functions without their own. Overrides ``max_retries``.
    max_concurrency : int, optional
        Maximum number of functions of this run that run at once.
    limits : mapping of str to number, optional
        Amounts that this run may use at once across the cluster: with ``limits={"db": 8}``, at most eight
        functions with ``cost={"db": 1}`` run at a time. A limit is not a node resource.
    allocation_strategy : {"best_fit", "load_balanced", "first_available"} or Allocator
        How to choose among nodes where a function fits. An :class:`Allocator` of your own decides which
        functions start on which nodes.
    keep : {"all", "sinks"} or list of ids
        Functions whose results to keep. All other results are released once no dependent needs them.
    fail_fast : bool
        End the run at the first failure. If False, branches that do not depend on the failed function
        finish first.
    timeout : float, optional
        Seconds after which the run is cancelled.
    priority : float
        Priority among the runs on the cluster; higher goes first.
    progress : bool
        Show progress: in a notebook, below the cell; on a terminal, on standard error, with one line per
        node if rich is installed; otherwise, as a plain line now and then. The time left is estimated from
        how long functions with the same code took.
    wait_for_nodes : float
        Seconds to wait for suitable nodes to join if a function fits on no node.
    history : str, path-like or History, optional
        File to which the run is written when it ends, whatever its outcome. The scheduler learns from it how
        long functions with the same code took. A failure to write emits a RuntimeWarning and does not affect
        the run.
    checkpoint : str, path or Checkpoint, optional
        Directory or URL that the client and all nodes can access. Each result is written there as soon as it
        exists. A function whose result is already there, from the same code, arguments and inputs, does not
        run again: its result is loaded, or not even read if nothing needs it. Loading unpickles, which can
        execute arbitrary code: use only locations that nobody else can write to.
    checkpoint_of : list of ids or callable, optional
        Functions to checkpoint: their ids, or a predicate ``callable(function) -> bool``. By default all
        functions that have a result, except the two synthetic functions of each :class:`Argument`.
    isolation : {"thread", "process"}
        Whether functions that do not set their own isolation run in threads of their nodes, or each attempt
        in a process of its own.

    Returns
    -------
    Result
        With an asynchronous client, an awaitable of it.

    Raises
    ------
    FunctionFailedError
        A function failed permanently; ``__cause__`` is its last exception.
    AllocationError
        A function fits on no node.
    AllocatorError
        The run's custom allocator raised an exception or proposed an invalid placement.
    RunTimeoutError
        The run exceeded ``timeout``.
    RunCancelledError
        The run was cancelled, for example because its client was closed.
    InvalidDAGError
        The DAG is invalid.
    ClusterNotReadyError
        The scheduler plugin is missing and cannot be installed, or the scheduler cannot load the allocator.
    HistoryError
        The history cannot be written.
    CheckpointError
        The checkpoint directory cannot be created, written or listed.
    TypeError, ValueError
        An argument has the wrong type or an invalid value.

    Notes
    -----
    Handoff: ``Handoff.execute/2``, ``lib/handoff/distributed_executor.ex``.

    Examples
    --------
    >>> from handoff_dask import DAG, execute, local_cluster
    >>> dag = DAG("example")
    >>> @dag.function(cost={"cpu": 1})
    ... def source():
    ...     return 42
    >>> @dag.function(cost={"cpu": 2, "memory": "1GB"})
    ... def double(source):
    ...     return 2 * source
    >>> with local_cluster({"node1": {"cpu": 4, "memory": "8GB"}}) as cluster:
    ...     result = execute(dag, cluster)
    >>> result["double"], result.allocations["double"]
    (84, 'node1')
    """
    check_order(dag, client)
    dag = select(dag, targets)
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
        isolation=isolation,
    )
    options.check(dag)
    dag.validate()  # before starting a cluster for it
    warn_if_empty(dag)
    resolved, owned = resolve_client(client, reuse=False)
    if resolved.asynchronous:
        awaitable: Any = _execute_async(dag, resolved, options, timeout, progress, owned)
        return awaitable  # type checkers can await a Result: see there
    try:
        with UserFrames():
            run = _submit(dag, resolved, options, _plan(dag, options))
            try:
                # The display finds its notebook cell through this thread's context.
                display = _display_of(run) if progress else None
                result: Result = resolved.sync(_result_within, run, timeout, display)
            except KeyboardInterrupt:
                resolved.sync(run._cancel, INTERRUPTED)
                raise
            except RunError:
                if owned:  # closing the client releases the results
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
        # Checkpoint files take a while to read, and this event loop may also be the cluster's.
        plan = Plan(dag) if options.checkpoint is None else await asyncio.to_thread(_plan, dag, options)
        with UserFrames():
            run = _submit(dag, client, options, plan)
            try:
                return await _result_within(run, timeout, _display_of(run) if progress else None)
            except BaseException as error:
                if not run.done():
                    await run._cancel(INTERRUPTED)
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
    result = await run._result()
    if display is not None:
        module_for("progress").show_remarks(result)
    return result
