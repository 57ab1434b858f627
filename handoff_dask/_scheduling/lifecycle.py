"""What happens to functions: each event takes one from a state to the next, and may end its run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from heapq import heappush
from typing import Any

from handoff_dask._model.records import Shortfall
from handoff_dask._scheduling.allocators import LARGE_RESULT
from handoff_dask._scheduling.decisions import Settings, Stop
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


class Lifecycle:
    """The functions of all runs.

    Parameters
    ----------
    settings : Settings
    random : callable
        Returns numbers in [0, 1), for the jitter of retries.

    Attributes
    ----------
    placement : Placement
    runs : dict of str to Run
    """

    def __init__(self, settings: Settings, random: Callable[[], float]) -> None:
        self.placement = Placement(settings)
        self.runs: dict[str, Run] = {}
        self._random = random
        # Times of retries; before each function, numbers of its own, so that functions are never compared.
        self._delayed: list[tuple[float, int, int, FunctionState]] = []
        self._out_of_retries: list[FunctionState] = []  # ready, but without a retry left
        self._too_late: list[FunctionState] = []  # ready, but their runs have ended
        self._ended: list[Run] = []
        self._stops: list[Stop] = []
        self._unranked: dict[Run, None] = {}

    # ------------------------------------------------------------------ before and after an attempt

    def ready(self, f: FunctionState, now: float) -> None:
        """All inputs of a function are there."""
        if f.state is not State.WAITING:
            if f.state in FINAL and not f.run.active and f.run.spec.run_id in self.runs:
                self._too_late.append(f)
        elif f.retry is None:
            f.move(State.READY)
            self._out_of_retries.append(f)
        elif f.retry.not_before > now:
            f.move(State.DELAYED)
            heappush(self._delayed, (f.retry.not_before, f.run.sequence, f.number, f))
        else:
            f.move(State.READY)
            f.queued = now
            self.placement.enqueue(f)

    def withdrawn(self, f: FunctionState) -> None:
        """A function that was ready is so no longer: an input was lost, or nobody wants it."""
        if f.state in (State.READY, State.DELAYED):
            f.move(State.WAITING)

    def refused(self, f: FunctionState) -> None:
        """The node did not take a function that was just placed there; it accepts nothing for now."""
        if f.state is State.RUNNING and f.node is not None:
            self.placement.accept(f.node.name, False)
            self.placement.ledger.release(f)
            f.move(State.READY if f.run.active else State.CANCELLED)
            self.placement.enqueue(f)

    def returned(self, f: FunctionState) -> None:
        """The node gave back a function that it had not started."""
        if f.state is State.RUNNING:
            self._leave_node(f)

    def _leave_node(self, f: FunctionState) -> None:
        """Release what a function holds; it waits until Dask reports it ready again, if its run goes on."""
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
    ) -> None:
        """A function's result is on the cluster.

        Parameters
        ----------
        f : FunctionState
        now, started, stopped : float
        nbytes : int, optional
            Size of the result.
        code : str, optional
            Name of the code that ran, if it was not the function's own: its duration is learnt for that code.
        loaded : bool
            Recorded with the attempt.
        """
        run = f.run
        if f.state is State.RUNNING:
            f.close_attempt("finished", started, stopped if stopped is not None else now, loaded=loaded)
            self.placement.ledger.release(f)
            if started is not None and stopped is not None:
                size = 0.0 if code else run.sizes[run.spec.kind_of[f.number]]
                self.placement.estimates.learn(code or f.kind.code, size, stopped - started, nbytes or 0)
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
    ) -> Retry | None:
        """An attempt failed.

        Returns
        -------
        Retry or None
            When and where there will be another attempt, once the function is reported ready; None: it has
            failed for good.
        """
        if f.state is not State.RUNNING:
            return None
        assert f.node is not None
        f.close_attempt("failed", started, stopped if stopped is not None else now, error, traceback)
        self.placement.ledger.release(f)
        self._count_failure(f, now, f.node.name, retryable)
        if f.retry is None:
            self._fail(f)
        else:
            f.move(State.WAITING)
        return f.retry

    def unmovable(self, f: FunctionState, now: float, error: str, traceback: str | None = None) -> bool:
        """A function's result cannot be moved to where it is needed: its attempt has failed after all.

        The function is to be reported ready again, and fails then if it has no retries left.

        Returns
        -------
        bool
            Whether the result is to be released.
        """
        if f.state is not State.FINISHED or not f.run.active or not f.attempts:
            return False
        last = f.attempts[-1]._replace(outcome="failed", error=error, traceback=traceback)
        f.attempts = (*f.attempts[:-1], last)
        f.run.troubles.append((f, last.number))
        self._count_failure(f, now, last.node, True)
        self.result_lost(f)
        return True

    def _count_failure(self, f: FunctionState, now: float, node: Any, retryable: bool) -> None:
        f.failures += 1
        policy = f.kind.policy
        if not retryable or not policy.allows(f.failures) or not f.run.active:
            f.retry = None
            return
        avoid = f.retry.avoid if f.retry is not None else frozenset()
        not_before = now + policy.wait(f.failures, self._random())
        f.retry = Retry(not_before, avoid | {node} if policy.elsewhere else avoid)

    def stopped(
        self, f: FunctionState, now: float, *, started: float | None = None, stopped: float | None = None
    ) -> bool:
        """An attempt was ended as a :class:`Stop` asked for, which is no failure of its function.

        Returns
        -------
        bool
            Whether there will be another one: its run goes on.
        """
        if f.state is not State.RUNNING:
            return False
        f.close_attempt("cancelled", started, stopped if stopped is not None else now)
        self._leave_node(f)
        return f.run.active

    def gave_up(self, f: FunctionState, now: float, error: str | None = None) -> None:
        """Dask gave a function up by itself: it took down too many nodes."""
        if f.state in FINAL:
            return
        if f.state is State.RUNNING:
            # Like those before it: nothing is known about a failure.
            f.close_attempt("lost", None, now, error)
            self.placement.ledger.release(f)
        self._fail(f)

    def lost(self, f: FunctionState, now: float) -> None:
        """An attempt was lost with its node."""
        if f.state is State.RUNNING:
            f.close_attempt("lost", None, now)
            self._leave_node(f)

    def taken_back(self, f: FunctionState, now: float) -> Orphan | None:
        """Dask took a function back from a node that is still there: one of its inputs was lost.

        Returns
        -------
        Orphan or None
            What its thread goes on to hold, until :meth:`orphan_ended`.
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
        """The thread of a function that was taken back has ended."""
        self.placement.ledger.release_orphan(orphan)

    def seceded(self, f: FunctionState) -> None:
        """A function has left its thread to wait for others: it takes as long as these do."""
        if f.state is State.RUNNING:
            self.placement.ledger.mark_long(f)

    def _stop(self, f: FunctionState, attempt: int) -> None:
        """Have an attempt ended where it runs, if that can be done."""
        if f.kind.isolated:
            assert f.node is not None
            self._stops.append(Stop(f, f.node, attempt))

    # ------------------------------------------------------------------ after the end of a function

    def result_lost(self, f: FunctionState) -> None:
        """A result is gone and needed again."""
        if f.state is State.FINISHED and f.run.active:
            f.move(State.WAITING)
            f.run.ranking.reset()
            self._unranked[f.run] = None

    def retried(self, f: FunctionState) -> bool:
        """A client asks for one more try of a function that failed, or of one that it needs.

        Returns
        -------
        bool
            Whether there will be one; not after the end of the run. It has all its retries again.
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

    def given_up(self, f: FunctionState) -> None:
        """The client that submitted the run does not want this function: the run cannot be completed."""
        needed = any(dependent.state not in FINAL for dependent in dependents_of(f))
        if (f.state not in FINAL or needed) and not f.run.ended:
            self._end(f.run, RunStatus.CANCELLED)

    def skipped(self, f: FunctionState, now: float) -> None:
        """A function that ``f`` needs failed for good."""
        if f.state in FINAL:
            return
        self._cancel_attempt(f, now)
        f.move(State.SKIPPED)
        self._check_complete(f.run)

    def unneeded(self, f: FunctionState, now: float) -> None:
        """Nobody needs the result of a function; its run goes on if all that needed it have failed."""
        if f.state not in FINAL and f.run.status is RunStatus.RUNNING and only_failed_need(f):
            self.skipped(f, now)

    def dropped(self, f: FunctionState, now: float) -> None:
        """Nobody will ever want this function again."""
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
        f.run.failed.append(f)
        if f.run.spec.fail_fast and not f.run.ended:
            self._end(f.run, RunStatus.FAILED)
        else:
            skip_dependents(f)
            self._check_complete(f.run)

    # ------------------------------------------------------------------ runs

    def _rank(self, run: Run, now: float) -> None:
        """Rank a run's functions by what is known by now."""
        if run.ranking.update(run, self.placement.nodes, self.placement.estimates, now):
            run.backlog.reorder()

    def _check_complete(self, run: Run) -> None:
        if run.status is RunStatus.RUNNING and run.complete():
            self._end(run, RunStatus.FAILED if run.failed else RunStatus.FINISHED)

    def _end(self, run: Run, status: RunStatus) -> None:
        """Give a run its final status: the one place where that is done."""
        run.status = status
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
    """The shortfalls that remain when one function does not fall short any more."""
    left = [replace(s, function_ids=tuple(i for i in s.function_ids if i != id)) for s in shortfalls]
    return tuple(s for s in left if s.function_ids)
