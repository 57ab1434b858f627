"""One function of a run, and the states it goes through."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, NamedTuple

from handoff_dask._model.records import Attempt, Summary

if TYPE_CHECKING:
    from handoff_dask._scheduling.node import Node
    from handoff_dask._scheduling.runs import Group, Run
    from handoff_dask._scheduling.spec import Kind


class State(Enum):
    """State of a function. The value is what records show."""

    __hash__ = object.__hash__  # an enum's own is slow, and states are counted at every step

    #: Needs a result that is not there.
    WAITING = "waiting"
    #: Could run, but its retry is not due yet.
    DELAYED = "delayed"
    #: Could run, waits for a node.
    READY = "ready"
    #: Placed on a node.
    RUNNING = "running"
    #: Its result is on the cluster, or was and is not needed any more.
    FINISHED = "finished"
    #: Failed for good.
    FAILED = "failed"
    #: A function that it needs failed, or all that need it did or were skipped.
    SKIPPED = "skipped"
    #: The run ended before it started, or nobody wants it any more.
    CANCELLED = "cancelled"


#: State → its value, which an enum member looks up slowly.
NAMES = {state: state.value for state in State}

_NO_DEVICES: dict[str, tuple[int, ...]] = {}

FINAL = frozenset({State.FINISHED, State.FAILED, State.SKIPPED, State.CANCELLED})

W, D, R, P = State.WAITING, State.DELAYED, State.READY, State.RUNNING
F, X, S, C = State.FINISHED, State.FAILED, State.SKIPPED, State.CANCELLED

#: Every legal step. Anything else is a bug and raises.
TRANSITIONS: Mapping[State, frozenset[State]] = {
    W: frozenset({D, R, F, X, S, C}),  # F: a node turned out to have the result
    D: frozenset({R, W, F, X, S, C}),
    R: frozenset({P, W, X, S, C, F}),
    P: frozenset({F, W, R, X, S, C}),  # W: failed or lost, R: the node did not take it
    F: frozenset({W, C}),  # W: the result was lost and is needed again
    X: frozenset({W}),  # W: somebody asked for one more try
    S: frozenset({W}),  # W: likewise, of what it needs
    C: frozenset(),
}

del W, D, R, P, F, X, S, C


#: States in which a function's result is there or being computed.
STARTED = frozenset({State.RUNNING, State.FINISHED})


class Retry(NamedTuple):
    """When and where a function may be tried again.

    Attributes
    ----------
    not_before : float
        Seconds on the clock that all events use.
    avoid : frozenset
        Names of nodes on which it failed: they come last.
    """

    not_before: float = 0.0
    avoid: frozenset[Any] = frozenset()


#: Of functions that have not failed.
FIRST_TRY = Retry()


class IllegalTransition(AssertionError):
    """A function was sent from one state to another that does not follow it. A bug: please report it."""


class FunctionState:
    """What the core knows of one function.

    Attributes
    ----------
    run, number, kind
        The run, the function's number in it, and what it asks for.
    cost : dict
        What it takes of its node, the thread included. Shared by functions of one kind.
    limit_cost : dict
        What it takes of its run's limits. Shared likewise.
    group : Group or None
        The functions that it shares a node with.
    state : State
    node : Node or None
        Where it runs or ran last.
    booked : bool
        Whether its cost is in the ledger. False while it is prefetched.
    devices : dict
        Device index → units, while it runs with devices.
    failures : int
        Attempts that counted against the retry policy.
    retry : Retry or None
        When and where it may run next; None once it has no retries left.
    rank : float
        Smaller goes first, among functions of one run and priority.
    short : bool
        Whether it is known not to take long.
    queued : float or None
        When it last became ready.
    ticket : int
        Number of its entry in a queue: older entries are void.
    nbytes : int or None
        Size of the result.
    placed : float
        When it was last placed.
    """

    __slots__ = (
        "_attempts",
        "_finished",
        "allocated",
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
        self.group: Group | None = None
        self.state = State.WAITING
        self.node: Node | None = None
        self.allocated = False
        self.devices: dict[int, int] | None = None
        self.failures = 0
        self.retry: Retry | None = FIRST_TRY
        self.rank: float = number
        self.queued: float | None = None
        self.ticket = 0
        self._attempts: tuple[Attempt, ...] = ()
        # When the last attempt started and stopped, and whether it loaded a checkpoint, if it finished: most
        # functions have no other, and an Attempt for each takes time and memory.
        self._finished: tuple[float | None, float | None, bool] | None = None
        self.nbytes: int | None = None
        self.placed = 0.0
        self.short = False

    @property
    def id(self) -> Any:
        """The function's id."""
        return self.run.spec.ids[self.number]

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Attempts that ended, in order."""
        if self._finished is None:
            return self._attempts
        started, stopped, loaded = self._finished
        return (*self._attempts, self._attempt("finished", started, stopped, loaded=loaded))

    @attempts.setter
    def attempts(self, attempts: tuple[Attempt, ...]) -> None:
        self._attempts = attempts
        self._finished = None

    def device_indices(self) -> dict[str, tuple[int, ...]]:
        """Indices of its devices by resource."""
        return {"gpu": tuple(sorted(self.devices))} if self.devices else {}

    def move(self, state: State) -> None:
        """Enter another state.

        Raises
        ------
        IllegalTransition
            Nothing was changed.
        """
        before = self.state
        if state not in TRANSITIONS[before]:
            raise IllegalTransition(f"{self!r} cannot become {state.value}")
        run = self.run
        counts = run.counts
        counts[before] -= 1
        counts[state] += 1
        if state in FINAL:
            run.unfinished -= before not in FINAL
        elif before in FINAL:
            run.unfinished += 1
            self.attempts = self.attempts  # before node and times are those of the next one
        run.transitions.append(self.number)
        self.state = state
        if run.unstarted_inputs is not None and (before in STARTED) != (state in STARTED):
            run.count_started(self, state in STARTED)

    def close_attempt(
        self,
        outcome: str,
        started: float | None,
        stopped: float | None,
        error: str | None = None,
        traceback: str | None = None,
        loaded: bool = False,
    ) -> None:
        """Record that the running attempt has ended."""
        assert error is None or outcome != "finished", f"{self!r} has finished, with the error {error}"
        if outcome == "finished" and not self.devices:
            self._finished = (started, stopped, loaded)
            return
        attempt = self._attempt(outcome, started, stopped, error, traceback, loaded)
        self.attempts += (attempt,)
        if outcome in ("failed", "lost"):
            self.run.troubles.append((self, attempt.number))

    def _attempt(
        self,
        outcome: str = "running",
        started: float | None = None,
        stopped: float | None = None,
        error: str | None = None,
        traceback: str | None = None,
        loaded: bool = False,
    ) -> Attempt:
        node = None if self.node is None else self.node.name
        devices = self.device_indices() if self.devices else _NO_DEVICES
        number = len(self._attempts) + 1
        return Attempt(
            number, node, self.queued, started, stopped, outcome, error, traceback, devices, loaded
        )

    def summary(self) -> Summary:
        """What is known of it, the running attempt included."""
        running = (self._attempt(),) if self.state is State.RUNNING else ()
        return Summary(NAMES[self.state], self.attempts + running, self.nbytes)

    def __repr__(self) -> str:
        return f"<function {self.id!r} of run {self.run.spec.run_id}: {self.state.value}>"


# ---------------------------------------------------------------------- dependents of a failure

#: States of functions that will not run, for what they need or by themselves.
FAILED = frozenset({State.FAILED, State.SKIPPED})


def dependents_of(f: FunctionState) -> list[FunctionState]:
    """Functions that take the result of one, as far as the run says what depends on what."""
    spec, functions = f.run.spec, f.run.functions
    return [functions[number] for number in spec.dependents[f.number]] if spec.dependents else []


def skip_dependents(f: FunctionState) -> None:
    """Skip all that needs a function which failed for good, directly or not."""
    failed = [f]
    while failed:
        for dependent in dependents_of(failed.pop()):
            if dependent.state not in FINAL and dependent.state is not State.RUNNING:
                dependent.move(State.SKIPPED)
                failed.append(dependent)


def unskip_dependents(f: FunctionState) -> None:
    """Let wait again what was skipped for nothing but a function that is tried once more."""
    run = f.run
    numbers = [dependent.number for dependent in dependents_of(f)]
    heapify(numbers)  # inputs come before what needs them
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
    """Whether there were functions that need one, and all of them failed or were skipped."""
    states = {dependent.state for dependent in dependents_of(f)}
    return bool(states) and states <= FAILED
