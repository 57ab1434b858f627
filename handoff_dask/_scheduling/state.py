"""The scheduling core: events in, decisions out.

A synchronous state machine without Dask, clock, threads or I/O: times and random numbers are passed in. Its
driver is the scheduler plugin, the simulator or a test. Events are method calls, which only update state.
:meth:`SchedulingState.decide` then makes the decisions for a batch of events.
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
from handoff_dask._scheduling.totals import Totals


class SchedulingState(Lifecycle):
    """The state of the scheduling core: nodes, runs and their functions.

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
        self._compared_version = -1  # version of the nodes with which the active runs were last compared
        self._recalled: list[FunctionState] = []  # placed on nodes that have shrunk below their cost
        self._sequence = 0

    # ------------------------------------------------------------------ events: nodes

    def node_joined(self, node: Node, now: float) -> None:
        """A node has joined. An earlier node of this name has left."""
        self.node_left(node.name, now)
        self.placement.join(node)

    def node_left(self, name: Any, now: float) -> None:
        """A node has left, and its attempts are lost. Each result that it held is reported separately."""
        node = self.placement.leave(name)
        if node is None:
            return
        for f in [*node.prefetched, *node.running]:
            self.lost(f, now)
        for group in list(node.groups):
            self.placement.bind(group, None)

    def node_resized(self, name: Any, capacity: Amounts) -> None:
        """A node's capacity has changed. Running functions continue.

        Functions that no longer fit there even alone are recalled: if the worker has not started one, it
        never will.
        """
        self.placement.resize(name, capacity)
        node = self.nodes[name]
        self._recalled += [f for f in (*node.running, *node.prefetched) if not node.holds(f.cost)]

    def node_external(self, name: Any, amounts: Amounts) -> None:
        """The amounts that external tasks hold on a node have changed."""
        self.placement.set_external(name, amounts)

    def node_accepting(self, name: Any, accepting: bool) -> None:
        """A node was paused or has resumed."""
        self.placement.accept(name, accepting)

    # ------------------------------------------------------------------ events: runs

    def run_added(self, spec: RunSpec, now: float) -> Run:
        """A run was submitted. Its functions are reported ready separately, as their inputs exist.

        A run with shortfalls gets the status ``FAILED`` at once. If it may wait for nodes, it is ``PENDING``
        until these have joined, and fails after ``spec.wait_for_nodes`` seconds.

        Raises
        ------
        ValueError
            A run of this id exists.
        """
        if spec.run_id in self.runs:
            raise ValueError(f"a run with the id {spec.run_id!r} exists already")
        self._sequence += 1
        estimates = self.placement.estimates
        for key, hint in spec.hints.items():
            estimates.hint(key, hint)
        for known in spec.known:
            if known is not None:
                for node, took in known.times[1:]:
                    estimates.speeds.compare(node, took, *known.times[0])
        estimates.speeds.recall(spec.paces)
        run = Run(spec, self._sequence, self.totals, estimates)
        run.update_weights(self.placement.nodes)
        self.runs[spec.run_id] = run
        self._active[run] = None
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

    def lacks_nodes(self, spec: RunSpec) -> bool:
        """Whether a run would fail at once, but might not if more nodes joined."""
        if spec.wait_for_nodes > 0:
            return False
        run = Run(spec, 0, Totals(), self.placement.estimates)  # counts as no run
        return not find_limit_shortfalls(run) and bool(find_shortfalls(run, self.placement.nodes))

    def run_cancelled(self, run_id: str) -> None:
        """A run was cancelled: start none of its functions any more.

        Running functions hold their allocations until they end. Those in separate processes are stopped.
        """
        run = self.runs[run_id]
        if not run.ended:
            self._end(run, RunStatus.CANCELLED)

    def run_removed(self, run_id: str) -> None:
        """Forget a run, and release all its allocations."""
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
        """Make all decisions that are due: place functions, fail or recall them, start and end runs.

        Parameters
        ----------
        now : float
            Seconds on the clock that all events use.

        Returns
        -------
        list of Decision
            The driver carries out placements first and stops last, and all others in this order.
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
            if f.state is State.DELAYED and not f.awaits_cost:  # it may have changed since
                self._enqueue(f, now)
        if self._to_compute:
            decisions += self._computations()
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
            elif decision.functions[0].run.active:  # an earlier failure may have ended it
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
        """Update weights and ranks of the active runs to the current nodes."""
        nodes = self.placement.nodes
        self._compared_version = nodes.version
        for run in self._active:
            run.update_weights(nodes)
            if run.ranking.nodes_changed(len(run.functions), len(nodes.by_name)):
                self._unranked[run] = None
            for f in self._sizing.fit_to_nodes(run):
                self.placement.enqueue(f)

    def _recalls(self) -> list[Recall]:
        """Recall functions that exceed their node, or that wait behind functions of unknown duration."""
        placed = [(f, f.node) for f in self._recalled if f.state is State.RUNNING and f.node is not None]
        self._recalled.clear()
        recalled = {f: node for f, node in placed if not node.holds(f.cost)}
        recalled.update(self.placement.ledger.take_stuck())
        return [Recall(f, node) for f, node in recalled.items()]

    def _start_pending(self, now: float) -> list[Run]:
        """Start the pending runs that the nodes can hold now, and fail those past their deadline."""
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
                            self._sizing.size(f)
                            self.placement.enqueue(f)
                    self._check_complete(run)
            if run.deadline is not None and now >= run.deadline:
                self._end(run, RunStatus.FAILED)
            if run.status is not RunStatus.PENDING:
                self._pending.remove(run)
        return begun

    def next_wake(self) -> float | None:
        """Return when to call :meth:`decide` even if no event occurs, None for never. -inf means at once."""
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
        """Return why a function is not running, as text."""
        return explain(self, f, now)

    def check(self) -> None:
        """Raise AssertionError unless the ledger agrees with the running functions and orphans."""
        check_ledger(self.nodes.values(), self.runs.values())
