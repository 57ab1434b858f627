"""The life cycle of functions: each event moves one to its next state, and may end its run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from heapq import heappush
from typing import Any

from handoff_dask._model.records import Attempt, Shortfall
from handoff_dask._model.resources import CPU, MB, MEMORY
from handoff_dask._model.used import UNKNOWN, Used
from handoff_dask._scheduling.allocators import LARGE_RESULT
from handoff_dask._scheduling.decisions import ComputeCost, Settings, Stop
from handoff_dask._scheduling.functions import (
    FINAL,
    FIRST_TRY,
    FunctionState,
    Retry,
    State,
    dependents_of,
    only_failed_need,
    skip_dependents,
    unskip_dependents,
)
from handoff_dask._scheduling.ledger import Orphan
from handoff_dask._scheduling.place import Placement
from handoff_dask._scheduling.runs import Run, RunStatus
from handoff_dask._scheduling.sizing import Sizing
from handoff_dask._scheduling.totals import Totals


class Lifecycle:
    """The functions of all runs, and the events that concern them.

    Parameters
    ----------
    settings : Settings
    random : callable
        Returns numbers in [0, 1), for the jitter of retries.

    Attributes
    ----------
    placement : Placement
    runs : dict of str to Run
        Run id → run.
    totals : Totals
        Counts of what has ended.
    """

    def __init__(self, settings: Settings, random: Callable[[], float]) -> None:
        self.placement = Placement(settings)
        first = {MEMORY: settings.first_memory, CPU: settings.first_cpu}
        self._sizing = Sizing(self.placement.nodes, self.placement.estimates, first)
        self.runs: dict[str, Run] = {}
        self.totals = Totals()
        self._random = random
        # A heap of retries by time. Sequence and number break ties, so that functions are never compared.
        self._delayed: list[tuple[float, int, int, FunctionState]] = []
        self._out_of_retries: list[FunctionState] = []  # ready, but no retries left
        self._too_late: list[FunctionState] = []  # ready after the end of their runs
        self._ended: list[Run] = []
        self._stops: list[Stop] = []
        self._to_compute: list[FunctionState] = []  # their costs must be computed
        self._unranked: dict[Run, None] = {}

    # ------------------------------------------------------------------ before and after an attempt

    def ready(self, f: FunctionState, now: float) -> None:
        """All inputs of a function exist."""
        if f.state is not State.WAITING:
            if f.state in FINAL and not f.run.active and f.run.spec.run_id in self.runs:
                self._too_late.append(f)
        elif f.retry is None:
            f.move(State.READY)
            self._out_of_retries.append(f)
        elif f.retry.not_before > now:
            f.move(State.DELAYED)
            f.awaits_cost = False
            heappush(self._delayed, (f.retry.not_before, f.run.sequence, f.number, f))
        else:
            self._enqueue(f, now)

    def _enqueue(self, f: FunctionState, now: float) -> None:
        """Queue a function whose next attempt is due, once its cost is known."""
        if f.kind.computed and (f.attempts or f.run.inputs[f.number] or f.run.estimates.peak(f) is not None):
            if f.state is not State.DELAYED:
                f.move(State.DELAYED)
            f.awaits_cost = True
            self._to_compute.append(f)
            return
        f.move(State.READY)
        f.queued = now
        if f.kind.auto:
            self._sizing.size(f)
        self.placement.enqueue(f)

    def cost_computed(self, f: FunctionState, now: float, amounts: Mapping[str, float]) -> None:
        """The cost of a function's next attempt was computed.

        Raises
        ------
        ValueError
            It is no cost. Nothing has changed.
        """
        if f.state is not State.DELAYED or not f.awaits_cost:
            return
        self._sizing.set_cost(f, amounts)
        f.awaits_cost = False
        f.move(State.READY)
        f.queued = now
        self.placement.enqueue(f)

    def cost_failed(self, f: FunctionState, now: float, error: str, traceback: str | None = None) -> None:
        """The cost of a function could not be computed, so the function fails."""
        if f.state is not State.DELAYED or not f.awaits_cost:
            return
        number = len(f.attempts) + 1
        failed = Attempt(number, None, now, None, now, "failed", error, traceback)
        f.attempts = (*f.attempts, failed)
        f.run.failed_attempts.append((f, number))
        self.totals.attempts["failed"] += 1
        f.retry = None
        f.move(State.READY)
        self._out_of_retries.append(f)

    def _computations(self) -> list[ComputeCost]:
        """Return what has to be known to compute the costs of functions that wait for them."""
        waiting, self._to_compute = self._to_compute, []
        decisions = []
        for f in waiting:
            if f.state is State.DELAYED and f.awaits_cost:
                sizes = tuple((g.number, (g.nbytes or 0) / MB) for g in f.run.inputs_of(f))
                peaks = [f.run.estimates.peak(f), *(a.peak_memory for a in f.attempts)]
                most = max((peak for peak in peaks if peak is not None), default=None)
                decisions.append(ComputeCost(f, len(f.attempts) + 1, sizes, most))
        return decisions

    def withdrawn(self, f: FunctionState) -> None:
        """A ready function is no longer ready: an input was lost, or its result is no longer needed."""
        if f.state in (State.READY, State.DELAYED):
            f.move(State.WAITING)

    def refused(self, f: FunctionState) -> None:
        """The node refused a function that was just placed there. Treat the node as paused."""
        if f.state is State.RUNNING and f.node is not None:
            self.placement.accept(f.node.name, False)
            self.placement.ledger.release(f)
            f.move(State.READY if f.run.active else State.CANCELLED)
            self.placement.enqueue(f)

    def returned(self, f: FunctionState) -> None:
        """The node returned a function that it had not started, after a recall."""
        if f.state is State.RUNNING:
            self._leave_node(f)

    def _leave_node(self, f: FunctionState) -> None:
        """Release a function's allocation. If its run is active, wait until Dask reports it ready again."""
        self.placement.ledger.release(f)
        f.move(State.WAITING if f.run.active else State.CANCELLED)

    # ------------------------------------------------------------------ how an attempt ends

    def finished(
        self,
        f: FunctionState,
        now: float,
        *,
        started: float | None = None,
        stopped: float | None = None,
        nbytes: int | None = None,
        code: str | None = None,
        loaded: bool = False,
        usage: Used = UNKNOWN,
    ) -> None:
        """A function's result exists on the cluster.

        Parameters
        ----------
        f : FunctionState
        now : float
        started, stopped : float, optional
            Start and end of the attempt.
        nbytes : int, optional
            Size of the result in bytes.
        code : str, optional
            Name of the code that ran, if it was not the function's own. The duration is learnt for this code.
        loaded : bool
            Whether the result was loaded from a checkpoint. Recorded with the attempt.
        usage : Used
            What the attempt used. Recorded with it.
        """
        run = f.run
        if f.state is State.RUNNING:
            f.close_attempt(
                "finished", started, stopped if stopped is not None else now, loaded=loaded, usage=usage
            )
            self.placement.ledger.release(f)
            if started is not None and stopped is not None:
                self._learn(f, stopped - started, nbytes or 0, usage, code)
        elif f.state in FINAL:
            return
        f.nbytes = nbytes
        if nbytes is not None and nbytes >= LARGE_RESULT:
            run.has_large_results = True
        f.move(State.FINISHED)
        if run.ranking.due(run.counts[State.FINISHED]):
            self._rank(run, now)
        if not run.unfinished:
            self._check_complete(run)

    def _learn(self, f: FunctionState, seconds: float, nbytes: int, usage: Used, code: str | None) -> None:
        """Learn from an attempt that has finished."""
        assert f.node is not None
        estimates = self.placement.estimates
        if code is not None:
            estimates.learn(code, 0.0, seconds, nbytes)
        else:
            size = f.run.estimates.size(f.run.spec.kind_of[f.number])
            estimates.learn(
                f.kind.code,
                size,
                seconds,
                nbytes,
                node=f.node.name,
                before=f.run.estimates.before(f),
                usage=usage,
            )
            if f.kind.auto:
                for other in self._sizing.resize(f.run, f.run.spec.kind_of[f.number]):
                    self.placement.enqueue(other)

    def failed(
        self,
        f: FunctionState,
        now: float,
        *,
        started: float | None = None,
        stopped: float | None = None,
        error: str | None = None,
        traceback: str | None = None,
        retryable: bool = True,
        usage: Used = UNKNOWN,
        out_of_memory: bool = False,
    ) -> Retry | None:
        """An attempt failed.

        Parameters
        ----------
        f : FunctionState
        now : float
        started, stopped : float, optional
            Start and end of the attempt.
        error, traceback : str, optional
            Texts for the record.
        retryable : bool
            Whether the retry policy retries errors of this type.
        usage : Used
            What the attempt used.
        out_of_memory : bool
            Whether the attempt failed because it ran out of memory.

        Returns
        -------
        Retry or None
            When and where the next attempt may run, once the function is reported ready. None if the function
            failed permanently.
        """
        if f.state is not State.RUNNING:
            return None
        assert f.node is not None
        node, end = f.node.name, stopped if stopped is not None else now
        grows = out_of_memory and retryable and self._sizing.can_grow(f)
        grown = self._sizing.grow(f) if grows else {}
        if grows and not grown:
            retryable = False
            error = f"{error}; no node that may run it has more than it has asked for"
        f.close_attempt("failed", started, end, error, traceback, usage=usage)
        self.placement.ledger.release(f)
        self._sizing.ask(f, grown)
        if grown and MEMORY in f.kind.auto and f.run.active:
            f.retry = Retry(now, f.retry.avoid if f.retry is not None else frozenset())  # not its own fault
        else:
            self._count_failure(f, now, node, retryable)
        if f.retry is None:
            self._fail(f)
        else:
            f.move(State.WAITING)
        return f.retry

    def unmovable(self, f: FunctionState, now: float, error: str, traceback: str | None = None) -> bool:
        """A result cannot be moved to another node, so the attempt that finished counts as failed.

        The driver reports the function ready again. It then fails if it has no retries left.

        Returns
        -------
        bool
            Whether the driver must release the result.
        """
        if f.state is not State.FINISHED or not f.run.active or not f.attempts:
            return False
        last = f.attempts[-1]._replace(outcome="failed", error=error, traceback=traceback)
        f.attempts = (*f.attempts[:-1], last)
        f.run.failed_attempts.append((f, last.number))
        self.totals.attempts["failed"] += 1
        self._count_failure(f, now, last.node, True)
        self.result_lost(f)
        return True

    def _count_failure(self, f: FunctionState, now: float, node: Any, retryable: bool) -> None:
        """Count a failed attempt, and set when and where the function may be retried."""
        f.failures += 1
        policy = f.kind.policy
        if not retryable or not policy.allows(f.failures) or not f.run.active:
            f.retry = None
            return
        avoid = f.retry.avoid if f.retry is not None else frozenset()
        not_before = now + policy.wait(f.failures, self._random())
        f.retry = Retry(not_before, avoid | {node} if policy.elsewhere else avoid)

    def stopped(
        self,
        f: FunctionState,
        now: float,
        *,
        started: float | None = None,
        stopped: float | None = None,
        usage: Used = UNKNOWN,
    ) -> bool:
        """An attempt was terminated by a :class:`Stop`. This is no failure of its function.

        Returns
        -------
        bool
            Whether the function runs again, because its run is active.
        """
        if f.state is not State.RUNNING:
            return False
        f.close_attempt("cancelled", started, stopped if stopped is not None else now, usage=usage)
        self._leave_node(f)
        return f.run.active

    def abandoned(self, f: FunctionState, now: float, error: str | None = None) -> None:
        """Dask gave a function up, because too many nodes were lost while it ran."""
        if f.state in FINAL:
            return
        if f.state is State.RUNNING:
            # Like the attempts before it: lost, not failed.
            f.close_attempt("lost", None, now, error)
            self.placement.ledger.release(f)
        self._fail(f)

    def lost(self, f: FunctionState, now: float) -> None:
        """An attempt was lost with its node."""
        if f.state is not State.RUNNING:
            return
        f.close_attempt("lost", None, now)
        self._leave_node(f)
        if self._sizing.can_grow(f) and sum(a.outcome == "lost" for a in f.attempts) % 2 == 0:
            # It may have taken the memory of both nodes.
            self._sizing.ask(f, self._sizing.grow(f))

    def taken_back(self, f: FunctionState, now: float) -> Orphan | None:
        """Dask took a function back from a node that is still present, because an input was lost.

        Returns
        -------
        Orphan or None
            The allocation of the orphaned attempt, held until :meth:`orphan_ended`. None if it had no
            allocation.
        """
        if f.state is not State.RUNNING:
            return None
        f.close_attempt("cancelled", None, now)
        if not f.allocated:
            self._leave_node(f)
            return None
        self._stop(f, len(f.attempts))
        orphan = self.placement.ledger.orphan(f)
        f.move(State.WAITING if f.run.active else State.CANCELLED)
        return orphan

    def orphan_ended(self, orphan: Orphan) -> None:
        """The thread of an orphaned attempt has ended."""
        self.placement.ledger.release_orphan(orphan)

    def seceded(self, f: FunctionState) -> None:
        """A function has seceded from its thread to wait for other tasks, so it may take long."""
        if f.state is State.RUNNING:
            self.placement.ledger.mark_long(f)

    def _stop(self, f: FunctionState, attempt: int) -> None:
        """Request the termination of an attempt, if it runs in a separate process."""
        if f.kind.isolated:
            assert f.node is not None
            self._stops.append(Stop(f, f.node, attempt))

    # ------------------------------------------------------------------ after the end of a function

    def result_lost(self, f: FunctionState) -> None:
        """A result was lost and is needed again."""
        if f.state is State.FINISHED and f.run.active:
            f.move(State.WAITING)
            f.run.ranking.reset()
            self._unranked[f.run] = None

    def retried(self, f: FunctionState) -> bool:
        """A client requests another attempt of a function that failed or was skipped.

        Returns
        -------
        bool
            Whether the function runs again, with its full number of retries. False after the end of the run.
        """
        if f.state not in (State.FAILED, State.SKIPPED) or not f.run.active:
            return False
        if f.state is State.FAILED:
            f.run.failed.remove(f)
            f.run.shortfalls = _without(f.run.shortfalls, f.id)
        f.failures = 0
        f.retry = FIRST_TRY if f.retry is None or not f.retry.avoid else Retry(avoid=f.retry.avoid)
        f.move(State.WAITING)
        unskip_dependents(f)
        f.run.ranking.reset()
        self._unranked[f.run] = None
        return True

    def released(self, f: FunctionState) -> None:
        """The submitting client has released a function. If the run still needs it, the run is cancelled."""
        needed = any(dependent.state not in FINAL for dependent in dependents_of(f))
        if (f.state not in FINAL or needed) and not f.run.ended:
            self._end(f.run, RunStatus.CANCELLED)

    def skipped(self, f: FunctionState, now: float) -> None:
        """A dependency of a function failed permanently."""
        if f.state in FINAL:
            return
        self._cancel_attempt(f, now)
        f.move(State.SKIPPED)
        self._check_complete(f.run)

    def unneeded(self, f: FunctionState, now: float) -> None:
        """Dask no longer needs a function's result. If all its dependents failed, it is skipped."""
        if f.state not in FINAL and f.run.status is RunStatus.RUNNING and only_failed_need(f):
            self.skipped(f, now)

    def forgotten(self, f: FunctionState, now: float) -> None:
        """Dask has forgotten a function. If it had not ended, its run is cancelled."""
        self._cancel_attempt(f, now)
        if f.state not in FINAL:
            f.move(State.CANCELLED)
            if f.run.status in (RunStatus.RUNNING, RunStatus.PENDING):
                self._end(f.run, RunStatus.CANCELLED)

    def _cancel_attempt(self, f: FunctionState, now: float) -> None:
        if f.state is State.RUNNING:
            f.close_attempt("cancelled", None, now)
            self.placement.ledger.release(f)

    def _fail(self, f: FunctionState) -> None:
        f.move(State.FAILED)
        self.totals.failures += 1
        f.run.failed.append(f)
        if f.run.spec.fail_fast and not f.run.ended:
            self._end(f.run, RunStatus.FAILED)
        else:
            skip_dependents(f)
            self._check_complete(f.run)

    # ------------------------------------------------------------------ runs

    def _rank(self, run: Run, now: float) -> None:
        """Rank a run's functions again with the current estimates."""
        if run.ranking.update(run, self.placement.nodes, self.placement.estimates, now):
            run.backlog.reorder()

    def _check_complete(self, run: Run) -> None:
        if run.status is RunStatus.RUNNING and run.complete():
            self._end(run, RunStatus.FAILED if run.failed else RunStatus.FINISHED)

    def _end(self, run: Run, status: RunStatus) -> None:
        """Give a run its final status, unless it is removed before it ends."""
        run.status = status
        self.totals.runs[status.value] += 1
        run.deadline = None
        if status is not RunStatus.FINISHED:
            for f in run.functions:
                if f.state is State.RUNNING:
                    self._stop(f, len(f.attempts) + 1)
                elif f.state not in FINAL:
                    f.move(State.CANCELLED)
        self.placement.forget(run)
        self._ended.append(run)


def _without(shortfalls: Iterable[Shortfall], id: Any) -> tuple[Shortfall, ...]:
    """Return the shortfalls without one function."""
    left = [replace(s, function_ids=tuple(i for i in s.function_ids if i != id)) for s in shortfalls]
    return tuple(s for s in left if s.function_ids)
