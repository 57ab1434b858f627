"""The scheduling core: events in, decisions out.

A synchronous state machine. It knows no Dask, no clock, no thread and no network: times and random numbers
are handed in. The scheduler plugin drives it with what happens on a cluster; tests and the simulator drive
it with what they like.

Events are method calls. They only update state; decisions are made in :meth:`SchedulingState.decide`, once
for as many events as there were.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop
from typing import Any

from handoff_dask._scheduling.allocators import Rejected
from handoff_dask._scheduling.decisions import Begin, Decision, End, Fail, Place, Recall, Settings, TooLate
from handoff_dask._scheduling.explain import explain
from handoff_dask._scheduling.feasibility import find_limit_shortfalls, find_shortfalls
from handoff_dask._scheduling.functions import FINAL, FunctionState, State
from handoff_dask._scheduling.ledger import check_ledger
from handoff_dask._scheduling.lifecycle import Lifecycle
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.runs import Run, RunStatus
from handoff_dask._scheduling.spec import Amounts, RunSpec


class SchedulingState(Lifecycle):
    """Nodes, runs and their functions.

    Parameters
    ----------
    settings : Settings
    random : callable
        Returns numbers in [0, 1), for the jitter of retries.
    """

    def __init__(self, settings: Settings | None = None, random: Callable[[], float] = lambda: 0.0) -> None:
        super().__init__(settings or Settings(), random)
        self.nodes = self.placement.nodes.by_name
        self._active: dict[Run, None] = {}  # runs that have not ended
        self._pending: list[Run] = []  # runs that wait for nodes
        self._compared_version = -1  # the version of the nodes that runs were last compared with
        self._recalled: list[FunctionState] = []  # placed where they will never fit
        self._sequence = 0

    # ------------------------------------------------------------------ events: nodes

    def node_joined(self, node: Node, now: float) -> None:
        """A node is there. One that was known under this name has left."""
        self.node_left(node.name, now)
        self.placement.join(node)

    def node_left(self, name: Any, now: float) -> None:
        """A node is gone; what ran there is lost. Results it held are reported lost one by one."""
        node = self.placement.leave(name)
        if node is None:
            return
        for f in [*node.prefetched, *node.running]:
            self.lost(f, now)
        for group in list(node.groups):
            self.placement.bind(group, None)

    def node_resized(self, name: Any, capacity: Amounts) -> None:
        """A node's capacity is now this; what runs there goes on.

        What was placed there and no longer fits may still wait on the node, which would never start it.
        """
        self.placement.resize(name, capacity)
        node = self.nodes[name]
        self._recalled += [f for f in (*node.running, *node.prefetched) if not node.holds(f.cost)]

    def node_external(self, name: Any, amounts: Amounts) -> None:
        """Dask's own tasks hold this much of a node now."""
        self.placement.set_external(name, amounts)

    def node_accepting(self, name: Any, accepting: bool) -> None:
        """A node was paused, or goes on after a pause."""
        self.placement.accept(name, accepting)

    # ------------------------------------------------------------------ events: runs

    def run_added(self, spec: RunSpec, now: float) -> Run:
        """A run begins; its functions are reported ready as their inputs are there.

        A run that cannot be placed gets the status ``FAILED`` with its shortfalls at once, or, if it may
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
        run.update_weights(self.placement.nodes)
        self.runs[spec.run_id] = run
        self._active[run] = None
        for code, seconds in spec.hints.items():
            self.placement.estimates.hint(code, seconds)
        limits = find_limit_shortfalls(run)
        run.shortfalls = limits + find_shortfalls(run, self.placement.nodes)
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
        self._active.pop(run, None)
        self._ended = [other for other in self._ended if other is not run]
        self._pending = [other for other in self._pending if other is not run]
        self._stops = [stop for stop in self._stops if stop.function.run is not run]
        self._unranked.pop(run, None)
        self._too_late = [f for f in self._too_late if f.run is not run]
        for f in run.functions:
            if f.state is State.RUNNING:
                self.placement.ledger.release(f)
            if f.state not in FINAL:
                f.move(State.CANCELLED)
        for group in run.groups:
            if group.node is not None:
                group.node.groups.pop(group, None)
        if not run.ended:
            run.status = RunStatus.CANCELLED
        self.placement.forget(run)

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
        if self._compared_version != self.placement.nodes.version:
            self._compare_with_nodes()
        if self._unranked:
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
        if self._out_of_retries:
            for f in self._out_of_retries:
                if f.state is State.READY:
                    decisions.append(Fail(f))
                    self._fail(f)
            self._out_of_retries.clear()
        for decision in self.placement.place(now):
            if isinstance(decision, Place):
                decisions.append(decision)
            elif isinstance(decision, Rejected):
                decision.run.fault = decision.reason
                if not decision.run.ended:
                    self._end(decision.run, RunStatus.FAILED)
            elif decision.functions[0].run.active:  # still: an earlier failure may have ended it
                decision.functions[0].run.shortfalls += (decision.shortfall,)
                for f in decision.functions:
                    if f.state is State.READY:
                        decisions.append(Fail(f, decision.shortfall))
                        self._fail(f)
        if self._recalled or self.placement.ledger.stuck:
            decisions += self._recalls()
        if self._too_late:
            decisions += [TooLate(f) for f in self._too_late if f.state in FINAL]
            self._too_late.clear()
        if self._stops:
            decisions += self._stops
            self._stops = []
        for run in self._ended:
            decisions.append(End(run))
            self._active.pop(run, None)
        self._ended.clear()
        return decisions

    def _compare_with_nodes(self) -> None:
        """What is scarce, and how long the rest takes, may have changed with the nodes."""
        nodes = self.placement.nodes
        self._compared_version = nodes.version
        for run in self._active:
            run.update_weights(nodes)
            if run.ranking.nodes_changed(len(run.functions), len(nodes.by_name)):
                self._unranked[run] = None

    def _recalls(self) -> list[Recall]:
        """What was placed where it will never fit, or behind functions of unknown length."""
        placed = [(f, f.node) for f in self._recalled if f.state is State.RUNNING and f.node is not None]
        self._recalled.clear()
        recalled = {f: node for f, node in placed if not node.holds(f.cost)}
        recalled.update(self.placement.ledger.take_stuck())
        return [Recall(f, node) for f, node in recalled.items()]

    def _start_pending(self, now: float) -> list[Run]:
        """Begin the runs that have waited for nodes and have them now, and end those that waited too long."""
        begun = []
        nodes = self.placement.nodes
        for run in list(self._pending):
            if run.status is RunStatus.PENDING and run.compared_version != nodes.version:
                run.compared_version = nodes.version
                run.shortfalls = find_shortfalls(run, nodes)
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
        while self._delayed and self._delayed[0][-1].state is not State.DELAYED:
            heappop(self._delayed)
        wake = self.placement.claims.recheck
        times = [run.deadline for run in self._pending] if self._pending else []
        times.append(self.placement.infeasible.due)
        if self._delayed:
            times.append(self._delayed[0][0])
        for time in times:
            if time is not None and (wake is None or time < wake):
                wake = time
        return wake

    # ------------------------------------------------------------------ questions

    def explain(self, f: FunctionState, now: float) -> str:
        """Why a function is not running, in words."""
        return explain(self, f, now)

    def check(self) -> None:
        """Raise AssertionError unless the ledger is what the functions that run make it."""
        check_ledger(self.nodes.values(), self.runs.values())
