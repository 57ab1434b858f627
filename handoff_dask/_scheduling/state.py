"""The scheduling core: events in, decisions out.

A synchronous state machine. It knows no Dask, no clock, no thread and no network: times and random numbers
are handed in. The scheduler plugin drives it with what happens on a cluster; tests and the simulator drive
it with what they like.

Events are method calls. They only update state; decisions are made in :meth:`SchedulingState.decide`, once
for as many events as there were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from heapq import heappop, heappush
from typing import Any

from handoff_dask._model.function import LOADING
from handoff_dask._model.records import Shortfall
from handoff_dask._scheduling.audit import check_ledger
from handoff_dask._scheduling.decisions import (
    Begin,
    Decision,
    End,
    Fail,
    Place,
    Recall,
    Settings,
    Starved,
    Stop,
    TooLate,
)
from handoff_dask._scheduling.dependents import (
    dependents_of,
    only_failed_need,
    skip_dependents,
    unskip_dependents,
)
from handoff_dask._scheduling.durations import loading
from handoff_dask._scheduling.explain import explain
from handoff_dask._scheduling.feasibility import find_limit_shortfalls, find_shortfalls
from handoff_dask._scheduling.functions import FINAL, FunctionState, State
from handoff_dask._scheduling.ledger import Hold, Node
from handoff_dask._scheduling.locality import HEAVY
from handoff_dask._scheduling.placement import Placement
from handoff_dask._scheduling.proposals import Rejected
from handoff_dask._scheduling.runs import Run, RunStatus
from handoff_dask._scheduling.spec import Amounts, RunSpec

#: Time of a retry, the function, and before it numbers of its own, so that functions are never compared.
_Delayed = tuple[float, int, int, FunctionState]


class SchedulingState:
    """Nodes, runs and what waits.

    Parameters
    ----------
    settings : Settings
    random : callable
        Returns numbers in [0, 1), for the jitter of retries.
    """

    def __init__(self, settings: Settings | None = None, random: Callable[[], float] = lambda: 0.0) -> None:
        self.placement = Placement(settings or Settings())
        self.nodes = self.placement.nodes
        self.runs: dict[str, Run] = {}
        self._random = random
        self._pending: list[Run] = []
        self._pending_nodes: list[Node] | None = None  # those the pending runs were last compared with
        self._delayed: list[_Delayed] = []
        self._spent: list[FunctionState] = []  # ready, but they have failed for good
        self._too_late: list[FunctionState] = []  # ready, but their runs have ended
        self._recalled: list[FunctionState] = []  # placed where there will never be room for them
        self._ended: list[Run] = []
        self._stops: list[Stop] = []
        self._unranked: dict[Run, None] = {}  # more is left of them than when they were ranked
        self._sequence = 0

    # ------------------------------------------------------------------ events: nodes

    def node_joined(self, node: Node, now: float) -> None:
        """A node is there. One that was known under this name has left."""
        self.node_left(node.name, now)
        self.placement.join(node)
        self._nodes_changed()

    def node_left(self, name: Any, now: float) -> None:
        """A node is gone; what ran there is lost. Results it held are reported lost one by one."""
        node = self.placement.leave(name)
        if node is None:
            return
        for f in [*node.ahead, *node.running]:
            self.lost(f, now)
        self._nodes_changed()
        for run in self.runs.values():
            for group in run.groups:
                if group.node is node:
                    self.placement.bind(group, None)

    def _nodes_changed(self) -> None:
        """What is scarce, how much a run holds, and how long all that is left would take may be otherwise."""
        for run in self.runs.values():
            run.weigh(self.placement.fleet)
        for node in self.nodes.values():
            for f in node.running:
                f.run.hold(f)
        for run in self.runs.values():
            if not run.ended and run.ranking.nodes_changed(len(run.functions), len(self.nodes)):
                self._unranked[run] = None

    def node_resized(self, name: Any, capacity: Amounts) -> None:
        """A node's capacity is now this; what runs there goes on.

        What was placed there and no longer fits may still wait on the node, which would never start it.
        """
        self.placement.resize(name, capacity)
        node = self.nodes[name]
        self._recalled += [f for f in (*node.running, *node.ahead) if not node.holds(f.cost)]
        self._nodes_changed()

    def node_occupied(self, name: Any, amounts: Amounts) -> None:
        """Tasks other than functions hold this much of a node now."""
        self.placement.occupy(name, amounts)

    def node_accepting(self, name: Any, accepting: bool) -> None:
        """A node was paused, or goes on after a pause."""
        self.placement.accept(name, accepting)

    # ------------------------------------------------------------------ events: runs

    def run_added(self, spec: RunSpec, now: float) -> Run:
        """A run begins; its functions are reported ready as their inputs are there.

        A run that cannot be placed gets the status ``FAILED`` with its shortfalls at once, or, when it may
        wait for nodes, after that time.

        Raises
        ------
        ValueError
            There is a run of this id.
        """
        if spec.run_id in self.runs:
            raise ValueError(f"there is a run {spec.run_id!r} already")
        self._sequence += 1
        run = Run(spec, self._sequence)
        run.weigh(self.placement.fleet)
        self.runs[spec.run_id] = run
        for code, seconds in spec.hints.items():
            self.placement.durations.hint(code, seconds)
        limits = find_limit_shortfalls(run)
        run.shortfalls = limits + find_shortfalls(run, self.placement.fleet)
        if run.shortfalls:
            run.status = RunStatus.PENDING
            if spec.wait_for_nodes > 0 and not limits:
                run.deadline = now + spec.wait_for_nodes
                self._pending.append(run)
            else:
                self._end(run, RunStatus.FAILED)
        elif not run.functions:
            self._end(run, RunStatus.FINISHED)
        else:
            self._rank(run, now)
        return run

    def run_cancelled(self, run_id: str) -> None:
        """Nothing more of a run is to start. What runs already keeps its booking until it ends.

        What runs in a process of its own is stopped.
        """
        run = self.runs[run_id]
        if not run.ended:
            self._end(run, RunStatus.CANCELLED)

    def run_removed(self, run_id: str) -> None:
        """Forget a run and everything booked for it."""
        run = self.runs.pop(run_id)
        self._ended = [other for other in self._ended if other is not run]
        self._pending = [other for other in self._pending if other is not run]
        self._stops = [stop for stop in self._stops if stop.function.run is not run]
        self._unranked.pop(run, None)
        self._too_late = [f for f in self._too_late if f.run is not run]
        for f in run.functions:
            if f.state is State.RUNNING:
                self.placement.bookings.release(f)
            if f.state not in FINAL:
                f.move(State.CANCELLED)
        if not run.ended:
            run.status = RunStatus.CANCELLED
        self.placement.ended(run)

    def _end(self, run: Run, status: RunStatus) -> None:
        run.status = status
        run.deadline = None
        if status is not RunStatus.FINISHED:
            for f in run.functions:
                if f.state is State.RUNNING:
                    self._stop(f, len(f.attempts) + 1)
                elif f.state not in FINAL:
                    f.move(State.CANCELLED)
        self.placement.ended(run)
        self._ended.append(run)

    def _stop(self, f: FunctionState, attempt: int) -> None:
        """Have an attempt ended where it runs, if that can be done."""
        if f.kind.isolated:
            assert f.node is not None
            self._stops.append(Stop(f, f.node, attempt))

    def _rank(self, run: Run, now: float) -> None:
        """Order a run's functions by what is known by now."""
        if run.ranking.update(run, self.placement.fleet, self.placement.durations, now):
            self.placement.reorder(run)

    def _check_complete(self, run: Run) -> None:
        if run.status is RunStatus.RUNNING and run.complete():
            self._end(run, RunStatus.FAILED if run.failed else RunStatus.FINISHED)

    # ------------------------------------------------------------------ events: functions

    def ready(self, f: FunctionState, now: float) -> None:
        """All inputs of a function are there."""
        if f.state is not State.WAITING:
            if f.state in FINAL and not f.run.active and f.run.spec.run_id in self.runs:
                self._too_late.append(f)
            return
        if f.failures > f.kind.policy.max_retries:
            f.move(State.READY)
            self._spent.append(f)
            return
        if f.not_before > now:
            f.move(State.DELAYED)
            heappush(self._delayed, (f.not_before, f.run.sequence, f.number, f))
            return
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
            self.placement.bookings.release(f)
            f.move(State.READY if f.run.active else State.CANCELLED)
            self.placement.enqueue(f)

    def returned(self, f: FunctionState) -> None:
        """The node gave back a function that it had not started."""
        if f.state is State.RUNNING:
            self.placement.bookings.release(f)
            f.move(State.WAITING if f.run.active else State.CANCELLED)

    def finished(
        self,
        f: FunctionState,
        now: float,
        *,
        started: float | None = None,
        stopped: float | None = None,
        nbytes: int | None = None,
        loaded: bool = False,
    ) -> None:
        """A function's result is on the cluster; ``loaded``: from a checkpoint."""
        if f.state is State.RUNNING:
            code = f.kind.code
            if loaded:
                code = loading(code)
            elif code.startswith(LOADING):
                loaded = True
            f.close_attempt("finished", started, stopped if stopped is not None else now, loaded=loaded)
            self.placement.bookings.release(f)
            if started is not None and stopped is not None:
                size = 0.0 if loaded else f.run.sizes[f.run.spec.kind_of[f.number]]
                self.placement.durations.learn(code, size, stopped - started, nbytes or 0)
        elif f.state in FINAL:
            return
        f.nbytes = nbytes
        if nbytes is not None and nbytes >= HEAVY:
            f.run.heavy = True
        f.move(State.FINISHED)
        if f.run.ranking.due(f.run.counts[State.FINISHED]):
            self._rank(f.run, now)
        self._check_complete(f.run)

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
    ) -> bool:
        """An attempt failed.

        Returns
        -------
        bool
            Whether there will be another one. Its time and node are decided when the function is reported
            ready again.
        """
        if f.state is not State.RUNNING:
            return False
        assert f.node is not None
        f.close_attempt("failed", started, stopped if stopped is not None else now, error, traceback)
        self.placement.bookings.release(f)
        if retryable and f.failures < f.kind.policy.max_retries and f.run.active:
            self._count_failure(f, now, f.node.name)
            f.move(State.WAITING)
            return True
        f.failures += 1
        self._fail(f)
        return False

    def stopped(
        self, f: FunctionState, now: float, *, started: float | None = None, stopped: float | None = None
    ) -> bool:
        """An attempt was ended as a :class:`Stop` asked for; that is no failure of its function.

        Returns
        -------
        bool
            Whether there will be another one: its run goes on.
        """
        if f.state is not State.RUNNING:
            return False
        f.close_attempt("cancelled", started, stopped if stopped is not None else now)
        self.placement.bookings.release(f)
        f.move(State.WAITING if f.run.active else State.CANCELLED)
        return f.run.active

    def gave_up(self, f: FunctionState, now: float, error: str | None = None) -> None:
        """Dask gave a function up by itself: it took down too many nodes."""
        if f.state in FINAL:
            return
        if f.state is State.RUNNING:
            # Like those before it: nothing is known of a failure.
            f.close_attempt("lost", None, now, error)
            self.placement.bookings.release(f)
        self._fail(f)

    def lost(self, f: FunctionState, now: float) -> None:
        """An attempt was lost with its node."""
        if f.state is State.RUNNING:
            f.close_attempt("lost", None, now)
            self.placement.bookings.release(f)
            f.move(State.WAITING if f.run.active else State.CANCELLED)

    def taken_back(self, f: FunctionState, now: float) -> Hold | None:
        """A function was taken back from a node that is there: one of its inputs was lost.

        Returns
        -------
        Hold or None
            What it goes on to take there, until :meth:`ended_at_last`.
        """
        if f.state is not State.RUNNING:
            return None
        f.close_attempt("cancelled", None, now)
        hold = None
        if f.booked:
            self._stop(f, len(f.attempts))
            hold = self.placement.bookings.linger(f)
        else:
            self.placement.bookings.release(f)
        f.move(State.WAITING if f.run.active else State.CANCELLED)
        return hold

    def seceded(self, f: FunctionState) -> None:
        """A function has left its thread, to wait for others: it takes as long as these do."""
        if f.state is State.RUNNING:
            self.placement.bookings.lasts(f)

    def ended_at_last(self, hold: Hold) -> None:
        """A function that had been taken back does not run any more."""
        self.placement.bookings.ended_at_last(hold)

    def unmovable(self, f: FunctionState, now: float, error: str, traceback: str | None = None) -> bool:
        """A function's result does not travel to where it is needed: its attempt has failed after all.

        The function is to be reported ready again. If there are no retries left, it is found then to have
        failed for good.

        Returns
        -------
        bool
            Whether the result is to be given up.
        """
        if f.state is not State.FINISHED or not f.run.active or not f.attempts:
            return False
        last = f.attempts[-1]._replace(outcome="failed", error=error, traceback=traceback)
        f.attempts = (*f.attempts[:-1], last)
        f.run.troubles.append((f, last.number))
        self._count_failure(f, now, last.node)
        self.result_lost(f)
        return True

    def _count_failure(self, f: FunctionState, now: float, node: Any) -> None:
        """One more attempt has failed: when and where the next one may be."""
        f.failures += 1
        policy = f.kind.policy
        f.not_before = now + policy.wait(f.failures, self._random())
        if policy.elsewhere:
            f.avoid |= {node}

    def result_lost(self, f: FunctionState) -> None:
        """A result is gone and needed again."""
        if f.state is State.FINISHED and f.run.active:
            f.move(State.WAITING)
            f.run.ranking.forget()
            self._unranked[f.run] = None

    def retried(self, f: FunctionState) -> bool:
        """Somebody asks for one more try of a function that failed, or of one that it needs.

        Returns
        -------
        bool
            Whether there will be one; not after the end of the run. All its retries are there again.
        """
        if f.state not in (State.FAILED, State.SKIPPED) or not f.run.active:
            return False
        if f.state is State.FAILED:
            f.run.failed.remove(f)
            f.run.shortfalls = _without(f.run.shortfalls, f.id)
        f.failures = 0
        f.not_before = 0.0
        f.move(State.WAITING)
        unskip_dependents(f)
        f.run.ranking.forget()
        self._unranked[f.run] = None
        return True

    def given_up(self, f: FunctionState) -> None:
        """Whoever submitted the run does not want this function: without it the run has no end to reach."""
        needed = any(dependent.state not in FINAL for dependent in dependents_of(f))
        if (f.state not in FINAL or needed) and not f.run.ended:
            self._end(f.run, RunStatus.CANCELLED)

    def skipped(self, f: FunctionState, now: float) -> None:
        """A function that ``f`` needs failed for good."""
        if f.state in FINAL:
            return
        if f.state is State.RUNNING:
            f.close_attempt("cancelled", None, now)
            self.placement.bookings.release(f)
        f.move(State.SKIPPED)
        self._check_complete(f.run)

    def unneeded(self, f: FunctionState, now: float) -> None:
        """Nobody needs the result of a function: that is no end of its run if all that did need it failed."""
        if f.state not in FINAL and f.run.status is RunStatus.RUNNING and only_failed_need(f):
            self.skipped(f, now)

    def dropped(self, f: FunctionState, now: float) -> None:
        """Nobody will ever want this function again."""
        if f.state is State.RUNNING:
            f.close_attempt("cancelled", None, now)
            self.placement.bookings.release(f)
        if f.state not in FINAL:
            f.move(State.CANCELLED)
            if f.run.status in (RunStatus.RUNNING, RunStatus.PENDING):
                self._end(f.run, RunStatus.CANCELLED)

    def _fail(self, f: FunctionState) -> None:
        f.move(State.FAILED)
        f.run.failed.append(f)
        if f.run.spec.fail_fast and not f.run.ended:
            self._end(f.run, RunStatus.FAILED)
        else:
            skip_dependents(f)
            self._check_complete(f.run)

    # ------------------------------------------------------------------ decisions

    def decide(self, now: float) -> list[Decision]:
        """Place everything that can be placed now.

        Parameters
        ----------
        now : float
            Seconds on the clock that all events use.

        Returns
        -------
        list of Decision
            To be carried out in this order.
        """
        decisions: list[Decision] = []
        for run in self._unranked:
            if run.status is not RunStatus.PENDING:
                self._rank(run, now)
        self._unranked.clear()
        if self._pending:
            decisions += map(Begin, self._start_pending(now))
        while self._delayed and self._delayed[0][0] <= now:
            f = heappop(self._delayed)[-1]
            if f.state is State.DELAYED:  # still
                f.move(State.READY)
                f.queued = now
                self.placement.enqueue(f)
        for f in self._spent:
            if f.state is State.READY:
                decisions.append(Fail(f))
                self._fail(f)
        self._spent.clear()
        for decision in self.placement.place(now):
            if type(decision) is Starved:
                run = decision.functions[0].run
                run.shortfalls += (decision.shortfall,)
                for f in decision.functions:
                    if f.state is State.READY:  # still: the first failure may have ended the run
                        decisions.append(Fail(f, decision.shortfall))
                        self._fail(f)
            elif type(decision) is Rejected:
                decision.run.fault = decision.reason
                if not decision.run.ended:
                    self._end(decision.run, RunStatus.FAILED)
            else:
                assert isinstance(decision, Place)
                decisions.append(decision)
        placed = [(f, f.node) for f in self._recalled if f.state is State.RUNNING and f.node is not None]
        recalled = {f: node for f, node in placed if not node.holds(f.cost)}
        self._recalled.clear()
        recalled.update(self.placement.bookings.take_stuck())
        decisions += [Recall(f, node) for f, node in recalled.items()]
        decisions += [TooLate(f) for f in self._too_late if f.state in FINAL]
        self._too_late.clear()
        decisions += self._stops
        self._stops = []
        decisions += [End(run) for run in self._ended]
        self._ended = []
        return decisions

    def _start_pending(self, now: float) -> list[Run]:
        """Begin the runs that have waited for nodes and have them now, and end those that waited too long."""
        begun = []
        nodes = self.placement.fleet.ordered
        changed = nodes is not self._pending_nodes
        self._pending_nodes = nodes
        for run in list(self._pending):
            if changed and run.status is RunStatus.PENDING:
                run.shortfalls = find_shortfalls(run, self.placement.fleet)
                if not run.shortfalls:
                    run.status = RunStatus.RUNNING
                    run.deadline = None
                    begun.append(run)
                    self._rank(run, now)
                    for f in run.functions:
                        if f.state is State.READY:
                            self.placement.enqueue(f)
                    self._check_complete(run)
            if run.deadline is not None and now >= run.deadline:
                self._end(run, RunStatus.FAILED)
            if run.status is not RunStatus.PENDING:
                self._pending.remove(run)
        return begun

    def next_wake(self) -> float | None:
        """When :meth:`decide` should be called although nothing happens; None: no need."""
        times = [run.deadline for run in self._pending if run.deadline is not None]
        while self._delayed and self._delayed[0][-1].state is not State.DELAYED:
            heappop(self._delayed)
        if self._delayed:
            times.append(self._delayed[0][0])
        if self.placement.next_starved is not None:
            times.append(self.placement.next_starved)
        if self.placement.reservations.recheck is not None:
            times.append(self.placement.reservations.recheck)
        return min(times, default=None)

    # ------------------------------------------------------------------ questions

    def explain(self, f: FunctionState, now: float) -> str:
        """What a function waits for, in words."""
        return explain(self, f, now)

    def check(self) -> None:
        """Raise AssertionError unless the ledger is what the functions that run make it."""
        check_ledger(self.nodes.values(), self.runs.values())


def _without(shortfalls: Iterable[Shortfall], id: Any) -> tuple[Shortfall, ...]:
    """What is left when one function does not fall short any more."""
    left = [replace(s, function_ids=tuple(i for i in s.function_ids if i != id)) for s in shortfalls]
    return tuple(s for s in left if s.function_ids)
