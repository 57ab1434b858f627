"""Execution of a run in this process, and its records."""

from __future__ import annotations

import math
import random
import threading
import time
import traceback
import uuid
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any

from dask.sizeof import sizeof

from handoff_dask._adapter import checkpoint as checkpoints
from handoff_dask._adapter import current
from handoff_dask._adapter.config import wants_full_tracebacks
from handoff_dask._adapter.evaluation import LOCAL, call_function, evaluate_function
from handoff_dask._adapter.meter import ThreadMeter
from handoff_dask._adapter.process_pool import Outcome, StoppedError, run_in_process, stop_attempts
from handoff_dask._adapter.tracebacks import hide_frames, origin_of
from handoff_dask._client.options import RunOptions
from handoff_dask._client.result import Result, Values
from handoff_dask._client.resume import Plan
from handoff_dask._model.dag import DAG
from handoff_dask._model.function import Function, declared_cost, has_auto, is_isolated, policy_of
from handoff_dask._model.graph import count_inputs, depth_first, inline_order, placed_dependencies
from handoff_dask._model.need import CostFunction, Need, evaluate_cost
from handoff_dask._model.records import Attempt, Records, Summary
from handoff_dask._model.resources import MB, is_auto
from handoff_dask._model.retry import is_retryable, ran_out_of_memory
from handoff_dask._model.safe_repr import safe_repr
from handoff_dask._model.used import UNKNOWN, Used
from handoff_dask.exceptions import (
    CostError,
    FunctionFailedError,
    FunctionMemoryError,
    RunError,
    RunTimeoutError,
)

#: Of a finished function: when it started and stopped, the failed attempts before, what it used, and its cost
#: if failed attempts may have let it grow.
FinishedTimes = tuple[float, float, tuple[Attempt, ...], Used, Mapping[str, Any] | None]


class LocalRun:
    """A run in this process. Errors carry it as ``run``.

    Attributes
    ----------
    id : str
        Unique id of the run.
    dag : DAG
        The DAG that runs.
    results : dict
        Function id → value, for finished functions whose results are kept.
    restored : tuple of ids
        Functions that did not need to run because their results were in the checkpoint directory.
    """

    def __init__(self, dag: DAG, plan: Plan, options: RunOptions, timeout: float | None) -> None:
        self.id = uuid.uuid4().hex[:16]
        self.dag = dag
        self.restored = plan.restored
        self._restored = frozenset(plan.restored)
        self.results: dict[Hashable, Any] = {}
        self._options = options
        self._timeout = timeout
        self._full_tracebacks = wants_full_tracebacks()
        self._submitted_at = time.time()
        self._deadline = math.inf  # checked between functions by a sequential run only
        self._stop = threading.Event()
        self._isolated: set[Hashable] = set()  # attempts that run in their own process
        self._pending_uses_lock = threading.Lock()
        self._by_thread = threading.local()
        self._meters: list[ThreadMeter] = []
        self._elapsed = 0.0
        self._times: dict[Hashable, FinishedTimes] = {}
        self._failed: dict[Hashable, tuple[Attempt, ...]] = {}
        self._failures: list[FunctionFailedError] = []
        self._timeout_error: RunTimeoutError | None = None
        self._functions = functions = plan.dag.functions
        self._stores = plan.stores
        self._inlined = inline_order(functions, plan.dag)
        self._dependencies = placed_dependencies(functions, self._inlined)
        keep = options.keep
        self._pending_uses: dict[Hashable, int] | None = None
        if keep != "all":
            uses = dict.fromkeys(self._dependencies, 0)
            for deps in self._dependencies.values():
                for d in deps:
                    uses[d] += 1
            kept = [id for id, n in uses.items() if not n] if keep == "sinks" else keep
            for id in kept:
                uses[id] += 1
            self._pending_uses = uses

    # ------------------------------------------------------------------ running

    def run_sequentially(self) -> None:
        """Run all functions in the calling thread."""
        functions = self._functions
        skipped: set[Hashable] = set()
        local = current.local
        outer = getattr(local, "current", None)  # set if a function called execute_local
        if self._timeout is not None:
            self._deadline = time.monotonic() + self._timeout
        try:
            for id in depth_first(self._dependencies):
                if skipped and not skipped.isdisjoint(self._dependencies[id]):
                    skipped.add(id)
                    continue
                if self._past_deadline():
                    break
                if not self._run_one(functions[id]):
                    if self._failures and self._options.fail_fast:
                        return
                    skipped.add(id)
            if self._past_deadline():
                self._time_out()
        finally:
            local.current = outer
            self._ended()

    def run_in_threads(self, threads: int) -> None:
        """Run all functions on a thread pool of this size.

        A thread that finishes a function continues with one of the functions that became ready, and submits
        the others to the pool. A chain therefore stays on one thread.
        """
        functions = self._functions
        ready, waiting, dependents = count_inputs(self._dependencies)
        lock = threading.Lock()
        all_done = threading.Event()
        open_chains = len(ready)
        stop = self._stop
        errors: list[BaseException] = []

        def chain(id: Hashable) -> None:
            nonlocal open_chains
            try:
                next_id: Hashable | None = id
                more = True
                while more and not stop.is_set():
                    more = False
                    if self._run_one(functions[next_id]):
                        with lock:
                            next_ready = []
                            for d in dependents.get(next_id, ()):
                                waiting[d] -= 1
                                if not waiting[d]:
                                    next_ready.append(d)
                            if stop.is_set():
                                break
                            open_chains += max(0, len(next_ready) - 1)
                            for d in next_ready[1:]:
                                pool.submit(chain, d)
                        if next_ready:
                            next_id, more = next_ready[0], True
                    elif self._options.fail_fast:
                        stop.set()
            except BaseException as error:
                errors.append(error)
                stop.set()
            finally:
                current.local.current = None
                with lock:
                    open_chains -= 1
                    last = not open_chains
                if last or stop.is_set():
                    all_done.set()

        pool = ThreadPoolExecutor(threads, thread_name_prefix="handoff")
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        try:
            futures: list[Future[None]] = [pool.submit(chain, id) for id in ready]
            done = not futures or all_done.wait(self._timeout)
            # A run that finishes after its deadline has timed out, as in a sequential run.
            if not done or (deadline is not None and not self._failures and time.monotonic() >= deadline):
                self._time_out()
        finally:
            with lock:  # so that no thread is between checking `stop` and submitting to the pool
                stop.set()
            stop_attempts(tuple(self._isolated))
            pool.shutdown(wait=self._timeout_error is None, cancel_futures=True)
            self._ended()
        if errors:
            raise errors[0]

    def _ended(self) -> None:
        self._elapsed = time.time() - self._submitted_at
        for meter in self._meters:
            meter.close()

    def _run_one(self, f: Function) -> bool:
        """Run a function and its retries. Return whether it finished."""
        id = f.id
        results, times, failed, inlined = self.results, self._times, self._failed, self._inlined
        attempts: tuple[Attempt, ...] = ()
        clock = time.time
        meter = self._thread_meter()
        isolated = is_isolated(f, self._options.isolation)
        estimated = has_auto(f)
        if estimated:  # there is no node whose capacity would have to be shared, so nothing is bounded
            f = f.replace(cost={name: n for name, n in declared_cost(f).items() if not is_auto(n)})
        cost_function = f.cost if callable(f.cost) else None
        while True:
            current.local.current = (self.id, self.dag.id, f, len(attempts) + 1)
            started = clock()
            usage = UNKNOWN
            try:
                if cost_function is not None:
                    f = f.replace(cost=self._compute_cost(f, cost_function, attempts))
                    current.local.current = (self.id, self.dag.id, f, len(attempts) + 1)
                if isolated:
                    value, failure, usage = self._call_in_process(f, len(attempts) + 1)
                    if failure is not None:
                        raise failure
                else:
                    meter.begin()
                    try:
                        if id in inlined:
                            value = evaluate_function(self.id, f, self._inline(id), self._inputs(id))
                        else:
                            value = call_function(self.id, f, results)
                    finally:
                        usage = meter.end()
                if id in self._stores:
                    checkpoints.write_result(self._stores[id], id, value)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # SystemExit is a failure of the function too
                origin = origin_of(error)
                if isinstance(error, FunctionMemoryError):
                    usage = Used(peak_memory=error.seen)
                if not self._full_tracebacks:
                    hide_frames(error)
                attempt = Attempt(
                    number=len(attempts) + 1,
                    node=LOCAL,
                    queued=started,
                    started=started,
                    stopped=clock(),
                    outcome="failed",
                    error=safe_repr(error),
                    traceback="".join(traceback.format_tb(error.__traceback__)),
                    **usage._asdict(),
                    cost=dict(declared_cost(f)),
                )
                if isinstance(error, StoppedError):
                    failed[id] = (
                        *attempts,
                        attempt._replace(outcome="cancelled", error=None, traceback=None),
                    )
                    return False
                attempts = (*attempts, attempt)
                policy = policy_of(f, self._options.policy)
                if not (policy.allows(len(attempts)) and is_retryable(policy.retry_on, error, origin)):
                    failed[id] = attempts
                    failed_error = FunctionFailedError(self.dag.id, self.id, id, attempts)
                    failed_error.__cause__ = error
                    failed_error.run = self
                    self._failures.append(failed_error)
                    return False
                if not self._wait(policy.wait(len(attempts), random.random())):
                    failed[id] = attempts
                    return False
                if policy.grow and ran_out_of_memory(error):
                    f = f.replace(cost=policy.grown(declared_cost(f)))
                continue
            results[id] = value
            varies = attempts or estimated or cost_function is not None
            times[id] = (started, clock(), attempts, usage, declared_cost(f) if varies else None)
            if self._pending_uses is not None:
                self._release(id, self._pending_uses, results)
            return True

    def _compute_cost(
        self, f: Function, cost: CostFunction, attempts: Sequence[Attempt]
    ) -> Mapping[str, Any]:
        """Return the cost of a function's next attempt.

        Raises
        ------
        CostError
            It cannot be computed, or is no cost.
        """
        inputs = {d: sizeof(value) / MB for d, value in self._inputs(f.id).items()}
        peaks = [a.peak_memory for a in attempts if a.peak_memory is not None]
        try:
            return evaluate_cost(cost, Need(len(attempts) + 1, inputs, max(peaks, default=None)))
        except ValueError as error:
            raise CostError(f.id, len(attempts) + 1, str(error)) from error

    def _thread_meter(self) -> ThreadMeter:
        """Return what measures the attempts of this thread."""
        found: ThreadMeter | None = getattr(self._by_thread, "meter", None)
        if found is None:
            found = self._by_thread.meter = ThreadMeter()
            self._meters.append(found)
        return found

    def _wait(self, seconds: float) -> bool:
        """Wait before a retry. Return False if the run ends first."""
        left = max(0.0, self._deadline - time.monotonic())
        return not self._stop.wait(min(seconds, left)) and not self._past_deadline()

    def _past_deadline(self) -> bool:
        return time.monotonic() >= self._deadline

    def _release(self, id: Hashable, uses: dict[Hashable, int], results: dict[Hashable, Any]) -> None:
        """Release results that no function needs any more."""
        with self._pending_uses_lock:
            if not uses[id]:
                results.pop(id, None)
            for d in self._dependencies[id]:
                uses[d] -= 1
                if not uses[d]:
                    results.pop(d, None)

    def _inline(self, id: Hashable) -> list[Function]:
        return [self._functions[g] for g in self._inlined.get(id, ())]

    def _inputs(self, id: Hashable) -> dict[Hashable, Any]:
        return {d: self.results[d] for d in self._dependencies[id]}

    def _call_in_process(self, f: Function, attempt: int) -> Outcome:
        """Run an attempt in its own process."""
        arguments = (self.id, f, self._inline(f.id), self._inputs(f.id))
        facts = current.Current(self.id, self.dag.id, f.id, attempt, LOCAL, dict(declared_cost(f)))
        running = (self.id, f.id, attempt)
        self._isolated.add(running)
        try:
            if self._stop.is_set():  # if it is set later, this attempt is in `_isolated` and gets stopped
                raise StoppedError
            return run_in_process(evaluate_function, arguments, facts, f.timeout, running)
        finally:
            self._isolated.discard(running)

    def _time_out(self) -> None:
        assert self._timeout is not None
        # Functions still running in threads cannot be stopped: let them write to the old dicts from now on.
        self.results, self._times, self._failed = dict(self.results), dict(self._times), dict(self._failed)
        self._timeout_error = RunTimeoutError(
            self.dag.id, self.id, self._timeout, len(self._times), len(self._dependencies)
        )
        self._timeout_error.run = self

    # ------------------------------------------------------------------ afterwards

    @cached_property
    def _error(self) -> RunError | None:
        """The error that the run ended with, or None if it finished."""
        if self._timeout_error is not None or not self._failures:
            return self._timeout_error
        first, *others = self._failures
        error = FunctionFailedError(self.dag.id, self.id, first.function_id, first.attempts, others)
        error.__cause__ = first.__cause__
        error.run = self
        return error

    @property
    def status(self) -> str:
        """``"finished"`` or ``"failed"``."""
        return "failed" if self._error is not None else "finished"

    def done(self) -> bool:
        """Always True: the object is visible only after the run has ended."""
        return True

    @property
    def elapsed(self) -> float:
        """Duration of the run, in seconds."""
        return self._elapsed

    def __repr__(self) -> str:
        return f"<LocalRun {self.id} of DAG {self.dag.id!r}: {self.status}>"

    @property
    def records(self) -> Records:
        """Function id → :class:`FunctionRecord`, for functions that ran."""
        ids = (*self._times, *self._failed)
        return Records(
            ids,
            self._summary,
            lambda id: declared_cost(self.dag[id]),
            lambda: self.dag._inputs_among(set(ids)),
        )

    def _summary(self, id: Hashable) -> Summary:
        if id in self._failed:
            attempts = self._failed[id]
            return Summary("cancelled" if attempts[-1].outcome == "cancelled" else "failed", attempts)
        started, stopped, failed, usage, cost = self._times[id]
        last = Attempt(
            len(failed) + 1,
            LOCAL,
            started,
            started,
            stopped,
            "finished",
            loaded=id in self._restored,
            **usage._asdict(),
            cost=cost,
        )
        return Summary("finished", (*failed, last))

    @property
    def allocations(self) -> dict[Hashable, Any]:
        """Function id → ``"local"``."""
        return dict.fromkeys(self._times, LOCAL)

    def result(self) -> Result:
        """Return the result, or raise the error that the run ended with."""
        if self._error is not None:
            raise self._error
        records = self.records
        return Result(
            dag_id=self.dag.id,
            results=Values(self.results, self.dag.id, records),
            allocations=self.allocations,
            records=records,
            elapsed=self._elapsed,
            run_id=self.id,
            restored=self.restored,
        )
