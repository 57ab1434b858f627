"""A run in the core: its functions, groups, limits and backlog, its dominant share and its progress."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from handoff_dask._model.progress import Waiting
from handoff_dask._model.records import Shortfall
from handoff_dask._model.resources import UNIT
from handoff_dask._scheduling.allocators import Allocator, BuiltIn
from handoff_dask._scheduling.backlog import Backlog
from handoff_dask._scheduling.custom import Custom
from handoff_dask._scheduling.estimates import Estimates
from handoff_dask._scheduling.functions import STARTED, FunctionState, State
from handoff_dask._scheduling.node import Node, Pool
from handoff_dask._scheduling.rank import Ranking
from handoff_dask._scheduling.run_estimates import RunEstimates
from handoff_dask._scheduling.spec import Pins, RunSpec
from handoff_dask._scheduling.totals import Totals

if TYPE_CHECKING:
    from handoff_dask._scheduling.nodes import Nodes

#: The whole of a resource, in parts.
WHOLE = 2**30

#: ``max_concurrency`` is a limit of this name.
CONCURRENCY = "max_concurrency"


class RunStatus(Enum):
    """Status of a run. The value is that of :attr:`handoff_dask.Run.status`."""

    __hash__ = object.__hash__  # as for State

    #: Waits for nodes that can hold all of its functions.
    PENDING = "pending"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


_ACTIVE = frozenset({RunStatus.RUNNING, RunStatus.FINISHED})

#: Final status of a run → predicate for messages.
ENDED = {"finished": "has finished", "failed": "has failed", "cancelled": "was cancelled"}


class Changes(NamedTuple):
    """The functions of a run that have changed since a cursor.

    Attributes
    ----------
    numbers : list of int
        Function numbers.
    cursor : (int, int)
        For the next request: how many functions and how many transitions have been reported.
    more : bool
        Whether further changes are available already.
    """

    numbers: list[int]
    cursor: tuple[int, int]
    more: bool


class Group:
    """A collocation group.

    Attributes
    ----------
    members : list of FunctionState
    need : dict
        Resource → the largest amount that any member asks for.
    pins : Pins
        The pins of all members.
    node : Node or None
        The node to which the group is bound, from the placement of its first function on.
    """

    __slots__ = ("members", "need", "node", "pins")

    def __init__(self, members: Sequence[FunctionState]) -> None:
        self.members = list(members)
        self.need: dict[str, int] = {}
        self.pins: Pins = frozenset().union(*(f.kind.pin_sets for f in members))
        self.node: Node | None = None
        for f in members:
            f.group = self
            for name, units in f.cost.items():
                self.need[name] = max(units, self.need.get(name, 0))


class Run:
    """A run.

    Attributes
    ----------
    spec : RunSpec
    sequence : int
        Number of the run in the order of submission.
    functions : list of FunctionState
        Function number → function.
    costs : list of dict
        Kind → cost on a node, including the thread.
    limits : Pool or None
    estimates : RunEstimates
        What is expected of its functions.
    allocator : Allocator
    ranking : Ranking
    top_priority : int or float
        The highest priority of any of its functions.
    backlog : Backlog
        Its ready functions.
    share : int
        Its dominant share of the cluster, in parts of :data:`WHOLE`: the sum over its running functions of
        the largest fraction that the function takes of any resource in the cluster.
    weights : list of int
        Kind → contribution of one running function to the share.
    weights_version : int
        Version of the nodes for which the weights are valid.
    compared_version : int
        Version of the nodes with which the functions of a pending run were last compared.
    unstarted_inputs : list of int or None
        Function number → number of inputs that are neither finished nor running. Computed on first use.
    fault : str or None
        Why its custom allocator failed.
    has_large_results : bool
        Whether any result is so large that its location influences placement.
    deadline : float or None
        When a pending run fails. Seconds.
    status : RunStatus
    shortfalls : tuple of Shortfall
        Why functions could not be placed.
    failed : list of FunctionState
        Functions that failed permanently, in order.
    failed_attempts : list of (FunctionState, int)
        Attempts that failed or were lost, in order: the function and the number of the attempt, from 1.
    lost_attempts : int
        How many of these were lost.
    counts : dict of State to int
        State → number of functions.
    ready_by_kind : list of int
        Kind → number of ready functions.
    sized_from : dict of int to int
        Kind → number of measured functions when its estimated amounts were last set.
    totals : Totals
        Counts that all runs of the core share.
    code_counts : mapping of str to int
        Code → number of functions.
    unfinished : int
        Number of functions that are in no final state.
    transitions : list of int
        The number of the function for each transition, in order.
    """

    def __init__(self, spec: RunSpec, sequence: int, totals: Totals, estimates: Estimates) -> None:
        self.spec = spec
        self.sequence = sequence
        costs = self.costs = [kind.node_cost for kind in spec.kinds]
        limit_costs = [dict(kind.limit_cost) for kind in spec.kinds]
        if spec.max_concurrency is not None:
            for cost in limit_costs:
                cost[CONCURRENCY] = UNIT
        self.functions = [
            FunctionState(self, number, spec.kinds[k], costs[k], limit_costs[k])
            for number, k in enumerate(spec.kind_of)
        ]
        self.groups = [Group([self.functions[n] for n in members]) for members in spec.groups]
        capacity = dict(spec.limits)
        if spec.max_concurrency is not None:
            capacity[CONCURRENCY] = spec.max_concurrency * UNIT
        self.limits = Pool(capacity) if capacity else None
        strategy = spec.strategy
        self.allocator: Allocator = BuiltIn(strategy) if isinstance(strategy, str) else Custom(self, strategy)
        self.top_priority: int | float = max((kind.priority for kind in spec.kinds), default=0)
        self.backlog = Backlog({tuple(sorted(cost.items())) for cost in costs})
        self.estimates = RunEstimates(spec, estimates)
        self.ranking = Ranking()
        self.share = 0
        self.weights: list[int] = [0] * len(spec.kinds)
        self.weights_version = -1
        self.compared_version = -1
        self.unstarted_inputs: list[int] | None = None
        self.fault: str | None = None
        self.has_large_results = False
        self.deadline: float | None = None
        self.status = RunStatus.RUNNING
        self.shortfalls: tuple[Shortfall, ...] = ()
        self.failed: list[FunctionState] = []
        self.failed_attempts: list[tuple[FunctionState, int]] = []
        self.lost_attempts = 0
        self.transitions: list[int] = []
        self.counts: dict[State, int] = dict.fromkeys(State, 0)
        self.counts[State.WAITING] = self.unfinished = len(self.functions)
        self.ready_by_kind: list[int] = [0] * len(spec.kinds)
        self.sized_from: dict[int, int] = {}
        self.totals = totals
        self.code_counts = Counter[str]()
        for k, count in Counter(spec.kind_of).items():
            self.code_counts[spec.kinds[k].code] += count
        self._holders_version = -1
        self._holders: list[frozenset[Node] | None] = []
        self._number_of: dict[Hashable, int] | None = None
        self._inputs: list[tuple[int, ...]] | None = None

    def update_weights(self, nodes: Nodes) -> None:
        """Compute the weights and the share for the current nodes."""
        if self.weights_version == nodes.version:
            return
        self.weights_version = nodes.version
        # Nodes may have left, so a cost may exceed the total capacity, which may even be 0.
        total = {name: max(1, nodes.total(name)) for cost in self.costs for name in cost}
        self.weights = [
            min(WHOLE, max(units * WHOLE // total[name] for name, units in cost.items()))
            for cost in self.costs
        ]
        self.share = 0
        if self.counts[State.RUNNING]:
            kind_of = self.spec.kind_of
            self.share = sum(self.weights[kind_of[f.number]] for f in self.functions if f.allocated)

    def holders(self, nodes: Nodes) -> list[frozenset[Node] | None]:
        """Return kind → the nodes that could hold its functions if they were idle; None for all nodes."""
        if self._holders_version != nodes.version:
            self._holders_version = nodes.version
            kinds = zip(self.spec.kinds, self.costs, strict=True)
            self._holders = [nodes.only_holders(cost, kind.pin_sets) for kind, cost in kinds]
        return self._holders

    def inputs_of(self, f: FunctionState) -> list[FunctionState]:
        """Return the functions whose results a function takes."""
        return [self.functions[n] for n in self.inputs[f.number]]

    def is_upcoming(self, f: FunctionState) -> bool:
        """Return whether all inputs of a function are finished or running."""
        if self.unstarted_inputs is None:
            started = [g.state in STARTED for g in self.functions]
            self.unstarted_inputs = [sum(not started[n] for n in inputs) for inputs in self.inputs]
        return not self.unstarted_inputs[f.number]

    def count_started(self, f: FunctionState, started: bool) -> None:
        """Update the dependents' count of unstarted inputs, after a function has started or reverted."""
        assert self.unstarted_inputs is not None
        for n in self.spec.dependents[f.number] if self.spec.dependents else ():
            self.unstarted_inputs[n] -= 1 if started else -1

    @property
    def number_of(self) -> Mapping[Hashable, int]:
        """Id → function number."""
        if self._number_of is None:
            self._number_of = {id: n for n, id in enumerate(self.spec.ids)}
        return self._number_of

    @property
    def inputs(self) -> list[tuple[int, ...]]:
        """Function number → numbers of the functions whose results it takes."""
        if self._inputs is None:
            inputs: list[list[int]] = [[] for _ in self.functions]
            for n, dependents in enumerate(self.spec.dependents):
                for d in dependents:
                    inputs[d].append(n)
            # Tuples of numbers, unlike lists, are exempt from garbage collection.
            self._inputs = [tuple(numbers) for numbers in inputs]
        return self._inputs

    def waiting(self, now: float) -> Waiting | None:
        """Return what a pending run waits for; None if the run is not pending."""
        if self.status is not RunStatus.PENDING or self.deadline is None:
            return None
        first, *others = dict.fromkeys(shortfall.awaited for shortfall in self.shortfalls)
        if others:
            first += f" and {len(others):,d} other{'s' if len(others) > 1 else ''}"
        limit = self.spec.wait_for_nodes
        return Waiting(first, now - (self.deadline - limit), limit)

    @property
    def active(self) -> bool:
        """Whether its functions may be placed. True for a finished run, whose lost results are recomputed."""
        return self.status in _ACTIVE

    @property
    def ended(self) -> bool:
        """Whether the run has a final status."""
        return self.status not in (RunStatus.RUNNING, RunStatus.PENDING)

    def changes(self, cursor: Sequence[int] | None, most: int) -> Changes:
        """Return the functions that have changed since a cursor: first every function, then transitions.

        Parameters
        ----------
        cursor : (int, int) or None
            The cursor of the previous answer; None for the first request.
        most : int
            Maximum number of functions or transitions to report.
        """
        reported, seen = (0, len(self.transitions)) if cursor is None else cursor
        if reported < len(self.functions):
            numbers = list(range(reported, min(reported + most, len(self.functions))))
            reported += len(numbers)
        else:
            recent = self.transitions[seen : seen + most]
            seen += len(recent)
            numbers = list(dict.fromkeys(recent))
        more = reported < len(self.functions) or seen < len(self.transitions)
        return Changes(numbers, (reported, seen), more)

    def complete(self) -> bool:
        """Return whether every function is in a final state."""
        return not self.unfinished

    def __repr__(self) -> str:
        counts: dict[str, Any] = {s.value: n for s, n in self.counts.items() if n}
        return f"<run {self.spec.run_id}: {self.status.value} {counts}>"
