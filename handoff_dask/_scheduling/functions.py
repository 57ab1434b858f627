"""The state of one function in a run, and the transitions between states."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, NamedTuple

from handoff_dask._model.records import Attempt, Summary
from handoff_dask._model.used import UNKNOWN, Used
from handoff_dask._scheduling.errors import IllegalTransition

if TYPE_CHECKING:
    from handoff_dask._scheduling.node import Node
    from handoff_dask._scheduling.runs import Group, Run
    from handoff_dask._scheduling.spec import Kind


class State(Enum):
    """State of a function. The value appears in records."""

    __hash__ = object.__hash__  # Enum's own hash is slow, and every transition counts states

    #: At least one input does not exist.
    WAITING = "waiting"
    #: All inputs exist, but the retry is not due yet, or the cost is being computed.
    DELAYED = "delayed"
    #: All inputs exist. Waits for a node.
    READY = "ready"
    #: Placed on a node, or prefetched there.
    RUNNING = "running"
    #: The result is on the cluster, or was there and is no longer needed.
    FINISHED = "finished"
    #: Failed permanently.
    FAILED = "failed"
    #: A dependency failed permanently, or all dependents failed or were skipped.
    SKIPPED = "skipped"
    #: The run ended before the function started, or no client needs the result any more.
    CANCELLED = "cancelled"


#: State → its value: faster than the attribute of an enum member.
NAMES = {state: state.value for state in State}

_NO_DEVICES: dict[str, tuple[int, ...]] = {}

FINAL = frozenset({State.FINISHED, State.FAILED, State.SKIPPED, State.CANCELLED})

W, D, R, P = State.WAITING, State.DELAYED, State.READY, State.RUNNING
F, X, S, C = State.FINISHED, State.FAILED, State.SKIPPED, State.CANCELLED

#: The legal transitions. Any other one is a bug and raises.
TRANSITIONS: Mapping[State, frozenset[State]] = {
    W: frozenset({D, R, F, X, S, C}),  # F: the result turned out to exist on a node
    D: frozenset({R, W, F, X, S, C}),
    R: frozenset({P, W, X, S, C, F}),
    P: frozenset({F, W, R, X, S, C}),  # W: the attempt failed or was lost, R: the node refused the function
    F: frozenset({W, C}),  # W: the result was lost and is needed again
    X: frozenset({W}),  # W: a client requested another attempt
    S: frozenset({W}),  # W: a client requested another attempt of the dependency that failed
    C: frozenset(),
}

del W, D, R, P, F, X, S, C


#: States in which a function's result exists or is being computed.
STARTED = frozenset({State.RUNNING, State.FINISHED})

# From and to → change in the number of unfinished functions of the run, of started and of ready ones.
_CHANGES: dict[State, dict[State, tuple[int, int, int]]] = {
    before: {
        after: (
            (before in FINAL) - (after in FINAL),
            (after in STARTED) - (before in STARTED),
            (after is State.READY) - (before is State.READY),
        )
        for after in TRANSITIONS[before]
    }
    for before in State
}


class Retry(NamedTuple):
    """When and where the next attempt of a function may run.

    Attributes
    ----------
    not_before : float
        Seconds on the clock that all events use.
    avoid : frozenset
        Names of nodes on which the function failed. They are used only if no other eligible node is left.
    """

    not_before: float = 0.0
    avoid: frozenset[Any] = frozenset()


#: The value for functions that have not failed: at once, on any node.
FIRST_TRY = Retry()


class FunctionState:
    """The state of one function in the core.

    Attributes
    ----------
    run : Run
    number : int
        The function's number in the run.
    kind : Kind
        Its cost and constraints.
    cost : dict
        Cost on its node, including the thread. Shared by all functions of a kind, until it grows.
    asked : mapping or None
        Resource → number for which the next attempt asks, if that is not what was declared.
    limit_cost : dict
        Cost in terms of the run's limits. Shared by all functions of a kind.
    group : Group or None
        Its collocation group.
    state : State
    node : Node or None
        Node of the current or the last attempt.
    allocated : bool
        Whether it has an allocation. False while it is prefetched.
    devices : dict or None
        Device index → units, while it holds devices.
    failures : int
        Number of attempts that counted against the retry policy.
    retry : Retry or None
        When and where it may run next; None if it has no retries left.
    rank : float
        Order among functions of the same run and priority, the smallest rank first.
    short : bool
        Whether its attempt is expected to be short.
    queued : float or None
        When it last became ready. Seconds.
    ticket : int
        Ticket of its valid queue entry. Entries with older tickets are void.
    nbytes : int or None
        Size of the result in bytes.
    placed : float
        When it was last placed. Seconds.
    awaits_cost : bool
        Whether its cost is being computed.
    """

    __slots__ = (
        "_attempts",
        "_finished",
        "allocated",
        "asked",
        "awaits_cost",
        "cost",
        "devices",
        "failures",
        "group",
        "kind",
        "limit_cost",
        "nbytes",
        "node",
        "number",
        "placed",
        "queued",
        "rank",
        "retry",
        "run",
        "short",
        "state",
        "ticket",
    )

    def __init__(
        self, run: Run, number: int, kind: Kind, cost: dict[str, int], limit_cost: dict[str, int]
    ) -> None:
        self.run = run
        self.number = number
        self.kind = kind
        self.cost = cost
        self.limit_cost = limit_cost
        self.asked: Mapping[str, Any] | None = None
        self.group: Group | None = None
        self.state = State.WAITING
        self.node: Node | None = None
        self.allocated = False
        self.devices: dict[int, int] | None = None
        self.failures = 0
        self.retry: Retry | None = FIRST_TRY
        self.rank: float = float(number)
        self.queued: float | None = None
        self.ticket = 0
        self._attempts: tuple[Attempt, ...] = ()
        # Start, stop, ``loaded`` and usage of the attempt that finished. Most have no other one, and an
        # Attempt object for each would cost time and memory.
        self._finished: tuple[float | None, float | None, bool, Used] | None = None
        self.nbytes: int | None = None
        self.placed = 0.0
        self.short = False
        self.awaits_cost = False

    @property
    def id(self) -> Any:
        """The function's id."""
        return self.run.spec.ids[self.number]

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The attempts that have ended, in order."""
        if self._finished is None:
            return self._attempts
        started, stopped, loaded, usage = self._finished
        last = self._attempt("finished", started, stopped, loaded=loaded, usage=usage)
        return (*self._attempts, last)

    @attempts.setter
    def attempts(self, attempts: tuple[Attempt, ...]) -> None:
        self._attempts = attempts
        self._finished = None

    def device_indices(self) -> dict[str, tuple[int, ...]]:
        """Return resource → indices of the devices that it holds."""
        return {"gpu": tuple(sorted(self.devices))} if self.devices else {}

    def move(self, state: State) -> None:
        """Enter another state.

        Raises
        ------
        IllegalTransition
            The transition is illegal. Nothing is changed.
        """
        before = self.state
        changes = _CHANGES[before].get(state)
        if changes is None:
            raise IllegalTransition(f"{self!r} cannot become {state.value}")
        run = self.run
        counts = run.counts
        counts[before] -= 1
        counts[state] += 1
        unfinished, started, ready = changes
        if unfinished:
            run.unfinished += unfinished
            if unfinished > 0:  # build the last Attempt before the next one overwrites its node
                self.attempts = self.attempts
        if ready:
            run.ready_by_kind[run.spec.kind_of[self.number]] += ready
        run.transitions.append(self.number)
        self.state = state
        if started and run.unstarted_inputs is not None:
            run.count_started(self, started > 0)

    def close_attempt(
        self,
        outcome: str,
        started: float | None,
        stopped: float | None,
        error: str | None = None,
        traceback: str | None = None,
        loaded: bool = False,
        usage: Used = UNKNOWN,
    ) -> None:
        """Record the end of the running attempt."""
        assert error is None or outcome != "finished", f"{self!r} has finished, with the error {error}"
        self.run.totals.attempts[outcome] += 1
        if outcome == "finished" and not self.devices:
            self._finished = (started, stopped, loaded, usage)
            return
        attempt = self._attempt(outcome, started, stopped, error, traceback, loaded, usage)
        self.attempts += (attempt,)
        if outcome in ("failed", "lost"):
            self.run.failed_attempts.append((self, attempt.number))
            self.run.lost_attempts += outcome == "lost"

    def _attempt(
        self,
        outcome: str = "running",
        started: float | None = None,
        stopped: float | None = None,
        error: str | None = None,
        traceback: str | None = None,
        loaded: bool = False,
        usage: Used = UNKNOWN,
    ) -> Attempt:
        node = None if self.node is None else self.node.name
        devices = self.device_indices() if self.devices else _NO_DEVICES
        number = len(self._attempts) + 1
        return Attempt(
            number,
            node,
            self.queued,
            started,
            stopped,
            outcome,
            error,
            traceback,
            devices,
            loaded,
            *usage,
            self.asked,
        )

    def summary(self) -> Summary:
        """Return the state, all attempts including a running one, and the result size."""
        running = (self._attempt(),) if self.state is State.RUNNING else ()
        return Summary(NAMES[self.state], self.attempts + running, self.nbytes)

    def __repr__(self) -> str:
        return f"<function {self.id!r} of run {self.run.spec.run_id}: {self.state.value}>"


# ---------------------------------------------------------------------- dependents of a failure

#: States of functions that failed permanently or depend on one that did.
FAILED = frozenset({State.FAILED, State.SKIPPED})


def dependents_of(f: FunctionState) -> list[FunctionState]:
    """Return the functions that take a function's result. Empty if the run has no dependency information."""
    spec, functions = f.run.spec, f.run.functions
    return [functions[number] for number in spec.dependents[f.number]] if spec.dependents else []


def skip_dependents(f: FunctionState) -> None:
    """Skip all direct and transitive dependents of a function that failed permanently."""
    failed = [f]
    while failed:
        for dependent in dependents_of(failed.pop()):
            if dependent.state not in FINAL and dependent.state is not State.RUNNING:
                dependent.move(State.SKIPPED)
                failed.append(dependent)


def unskip_dependents(f: FunctionState) -> None:
    """Undo the skipping of dependents that have no other failed dependency, because ``f`` is retried."""
    run = f.run
    numbers = [dependent.number for dependent in dependents_of(f)]
    heapify(numbers)  # dependencies before their dependents
    seen: set[int] = set()
    while numbers:
        number = heappop(numbers)
        dependent = run.functions[number]
        if number in seen or dependent.state is not State.SKIPPED:
            continue
        seen.add(number)
        if not any(run.functions[other].state in FAILED for other in run.inputs[number]):
            dependent.move(State.WAITING)
            for other in dependents_of(dependent):
                heappush(numbers, other.number)


def only_failed_need(f: FunctionState) -> bool:
    """Return whether a function has dependents, and all of them failed or were skipped."""
    states = {dependent.state for dependent in dependents_of(f)}
    return bool(states) and states <= FAILED
