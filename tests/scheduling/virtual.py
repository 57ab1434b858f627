"""A cluster without Dask, which drives the core in tests of many steps.

It stands in for Dask: it tracks dependencies and the locations of results, and starts the functions sent to a
worker as the worker's threads and declared resources allow, in the worker's order. It makes no placement
decisions, and time advances only on request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Any

from handoff_dask._model.resources import THREADS, UNIT
from handoff_dask._scheduling.decisions import Decision, End, Fail, Place, Recall, Settings, Stop
from handoff_dask._scheduling.functions import FINAL, FunctionState, State
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.runs import Run
from handoff_dask._scheduling.spec import Kind, RunSpec
from handoff_dask._scheduling.state import SchedulingState

#: Function number → numbers of its inputs.
Needs = Mapping[int, Sequence[int]]

#: Final states without a result.
NO_RESULT = FINAL - {State.FINISHED}


class Worker:
    """The worker side of a node."""

    def __init__(self, node: Node, last_first: bool = False) -> None:
        self.threads = node.capacity[THREADS] // UNIT
        self.free = {name: node.capacity[name] for name in node.enforced}
        self.last_first = last_first
        self.sent: dict[FunctionState, dict[str, int]] = {}  # with the amounts that the worker enforces
        self.started: dict[FunctionState, dict[str, int]] = {}

    def send(self, f: FunctionState, enforced: Iterable[str]) -> None:
        self.sent[f] = {name: f.cost[name] for name in enforced if name in f.cost}

    def start(self) -> list[FunctionState]:
        """Start all functions for which threads and declared resources are free."""
        new = []
        for f in reversed(list(self.sent)) if self.last_first else list(self.sent):
            if len(self.started) == self.threads:
                break
            if all(units <= self.free[name] for name, units in self.sent[f].items()):
                self.started[f] = self.sent.pop(f)
                for name, units in self.started[f].items():
                    self.free[name] -= units
                new.append(f)
        return new

    def end(self, f: FunctionState) -> None:
        """Remove a function that has ended or need not start any more."""
        for name, units in self.started.pop(f, {}).items():
            self.free[name] += units
        self.sent.pop(f, None)


class VirtualCluster:
    """The core, with workers, dependencies, results and a clock."""

    def __init__(self, settings: Settings | None = None, random: Callable[[], float] = lambda: 0.0) -> None:
        self.state = SchedulingState(settings, random)
        self.now = 0.0
        self.workers: dict[Any, Worker] = {}
        self.results: dict[FunctionState, Any] = {}
        self.missing: dict[FunctionState, int] = {}
        self.dependents: dict[FunctionState, list[FunctionState]] = {}
        self.inputs: dict[FunctionState, list[FunctionState]] = {}
        self.stopping: list[Stop] = []

    def tell(self, event: str, *args: Any, **details: Any) -> Any:
        """Send an event to the core. A subclass can intercept all events here."""
        return getattr(self.state, event)(*args, **details)

    # nodes

    def join(self, node: Node, last_first: bool = False) -> None:
        if node.name in self.workers:
            self.leave(node.name)
        self.tell("node_joined", node, self.now)
        self.workers[node.name] = Worker(node, last_first)

    def leave(self, name: Any, *, tasks_first: bool = False) -> None:
        """Remove a node and its results. Dask may withdraw its tasks before it reports that the node left."""
        worker = self.workers.pop(name)
        gone = [f for f in [*worker.started, *worker.sent] if f.state is State.RUNNING]
        if tasks_first:
            for f in gone:
                self.tell("lost", f, self.now)
        self.tell("node_left", name, self.now)
        lost = [f for f, where in self.results.items() if where == name]
        for f in lost:
            self._take_result(f)
        for f in [*gone, *lost]:
            self._offer(f)

    # runs

    def add(self, spec: RunSpec, needs: Needs) -> Run:
        run: Run = self.tell("run_added", spec, self.now)
        functions = run.functions
        for f in functions:
            self.inputs[f] = [functions[n] for n in needs.get(f.number, ())]
            self.missing[f] = len(self.inputs[f])
            self.dependents[f] = []
            for other in self.inputs[f]:
                self.dependents[other].append(f)
        for f in functions:
            self._offer(f)
        return run

    def remove(self, run: Run) -> None:
        for f in run.functions:
            for worker in self.workers.values():
                worker.end(f)
            self.results.pop(f, None)
        self.tell("run_removed", run.spec.run_id)
        for f in run.functions:
            del self.inputs[f], self.missing[f], self.dependents[f]

    # functions

    def started(self) -> list[FunctionState]:
        return [f for worker in self.workers.values() for f in worker.started]

    def finish(self, f: FunctionState, took: float) -> None:
        self._end(f)
        self.results[f] = f.node.name if f.node else None
        self.tell("finished", f, self.now, started=self.now - took, stopped=self.now)
        for other in self.dependents[f]:
            self.missing[other] -= 1
            self._offer(other)

    def fail(self, f: FunctionState, *, retryable: bool = True) -> bool:
        self._end(f)
        retry: bool = self.tell("failed", f, self.now, retryable=retryable) is not None
        if retry:
            self._offer(f)
        else:
            self._skip_dependents(f)
        return retry

    def lose(self, f: FunctionState) -> None:
        """Lose an attempt."""
        self._end(f)
        self.tell("lost", f, self.now)
        self._offer(f)

    def lose_result(self, f: FunctionState) -> None:
        self._take_result(f)
        self._offer(f)

    def give_up(self, f: FunctionState) -> None:
        self._end(f)
        self.tell("abandoned", f, self.now)
        self._skip_dependents(f)

    def retry(self, f: FunctionState) -> None:
        """Request a retry of a function and of everything skipped because of it."""
        asked = [f]
        for each in asked:
            if self.tell("retried", each):
                asked += [other for other in self.dependents[each] if other.state is State.SKIPPED]
        for each in dict.fromkeys(asked):
            self._offer(each)

    def forget(self, f: FunctionState) -> None:
        """Withdraw a function that nothing needs any more, as Dask does."""
        if f.state is State.RUNNING:
            self._end(f)
            self.tell("lost", f, self.now)
        elif f.state is State.READY:
            self.tell("withdrawn", f)
        self.tell("unneeded", f, self.now)
        self._offer(f)

    def release(self, f: FunctionState) -> None:
        """Release a function that neither a client nor a dependent needs, and its dependents."""
        for other in self.dependents[f]:
            if other.state not in FINAL:
                self.release(other)
        self._end(f)
        self.tell("forgotten", f, self.now)

    def _end(self, f: FunctionState) -> None:
        if f.state is State.RUNNING and f.node.name in self.workers:
            self.workers[f.node.name].end(f)

    def _offer(self, f: FunctionState) -> None:
        if f.state is not State.WAITING:
            return
        if any(other.state in NO_RESULT for other in self.inputs[f]):
            self.tell("skipped", f, self.now)
            self._skip_dependents(f)
        elif not self.missing[f]:
            self.tell("ready", f, self.now)

    def _take_result(self, f: FunctionState) -> None:
        if f not in self.results:
            return
        del self.results[f]
        for other in self.dependents[f]:
            self.missing[other] += 1
            if other.state in (State.READY, State.DELAYED):
                self.tell("withdrawn", other)
        self.tell("result_lost", f)

    def _skip_dependents(self, f: FunctionState) -> None:
        stack = list(self.dependents[f])
        while stack:
            other = stack.pop()
            if other.state not in FINAL:
                self._end(other)
                self.tell("skipped", other, self.now)
                stack += self.dependents[other]

    # decisions

    def decide(self, refuse_last: bool = False) -> list[Decision]:
        """Let the core decide, and enact the decisions; the node of the last placement may refuse it."""
        decisions: list[Decision] = self.tell("decide", self.now)
        places = [d for d in decisions if isinstance(d, Place)]
        refused = places[-1] if refuse_last and places else None
        for place in places:
            if place is not refused:
                self.workers[place.node.name].send(place.function, place.node.enforced)
        if refused is not None:
            self.tell("refused", refused.function)
        for decision in decisions:
            if isinstance(decision, Fail):
                self._skip_dependents(decision.function)
            elif isinstance(decision, Recall):
                self._return(decision.function, decision.node)
        self.stopping += [d for d in decisions if isinstance(d, Stop)]
        return decisions

    def stop(self, asked: Stop) -> None:
        """Stop an attempt, unless it has already ended."""
        self.stopping.remove(asked)
        f = asked.function
        if f in self.inputs and f.state is State.RUNNING and len(f.attempts) + 1 == asked.attempt:
            self._end(f)
            self.tell("stopped", f, self.now)

    def _return(self, f: FunctionState, node: Node) -> None:
        """Return a function that the node has not started."""
        worker = self.workers[node.name]
        if f in worker.sent:
            worker.end(f)
            self.tell("returned", f)
            self._offer(f)

    def start(self) -> list[FunctionState]:
        """Let workers start functions."""
        return [f for worker in self.workers.values() for f in worker.start()]

    # whole runs

    def run(self, duration: Callable[[FunctionState], float], limit: int = 10**6) -> list[Run]:
        """Advance time until nothing is pending, and return the ended runs in order.

        Every function finishes after its duration.
        """
        ending: list[tuple[float, int, FunctionState]] = []
        ended = []
        steps = 0
        while True:
            ended += [d.run for d in self.decide() if isinstance(d, End)]
            for f in self.start():
                steps += 1
                heappush(ending, (self.now + duration(f), steps, f))
            wake = self.state.next_wake()
            times = [t for t in (wake, ending[0][0] if ending else None) if t is not None]
            if not times:
                return ended
            self.now = max(self.now, min(times))
            while ending and ending[0][0] <= self.now:
                f = heappop(ending)[2]
                self.finish(f, duration(f))
            assert steps <= limit, f"not finished after {limit} steps"


def make_spec(
    kinds: Iterable[Kind], run_id: str = "r", needs: Needs | None = None, **options: Any
) -> RunSpec:
    """Make a run whose ids are numbers; with ``needs`` the core knows the dependencies."""
    functions = list(kinds)
    if needs is not None:
        dependents: list[list[int]] = [[] for _ in functions]
        for n, inputs in needs.items():
            for i in inputs:
                dependents[i].append(n)
        options["dependents"] = dependents
    distinct = list(dict.fromkeys(functions))
    index = {kind: n for n, kind in enumerate(distinct)}
    return RunSpec(
        run_id=run_id,
        dag_id="dag",
        ids=range(len(functions)),
        kinds=distinct,
        kind_of=[index[kind] for kind in functions],
        **options,
    )
