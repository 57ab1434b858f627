"""A run inside the core: its functions, groups and limits, and how far it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from handoff_dask._model.progress import Waiting
from handoff_dask._model.records import Shortfall
from handoff_dask._model.resources import UNIT
from handoff_dask._scheduling.allocators import Allocator, BuiltIn
from handoff_dask._scheduling.backlog import Backlog
from handoff_dask._scheduling.custom import Custom
from handoff_dask._scheduling.estimates import size_of
from handoff_dask._scheduling.functions import STARTED, FunctionState, State
from handoff_dask._scheduling.node import Node, Pool
from handoff_dask._scheduling.rank import Ranking
from handoff_dask._scheduling.spec import Pins, RunSpec

if TYPE_CHECKING:
    from handoff_dask._scheduling.nodes import Nodes

#: The whole of a resource, in parts.
WHOLE = 2**30

#: Name of the limit that ``max_concurrency`` is.
CONCURRENCY = "max_concurrency"


class RunStatus(Enum):
    """How a run stands. The value is what :attr:`Run.status` shows."""

    #: Waits for nodes that can hold all its functions.
    PENDING = "pending"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


#: Status of a run that has ended → what to say of it.
ENDED = {"finished": "has finished", "failed": "has failed", "cancelled": "was cancelled"}


class Changes(NamedTuple):
    """Functions of a run of which something has changed.

    Attributes
    ----------
    numbers : list of int
    cursor : (int, int)
        For the next look: how many functions were told of, and how many moves.
    more : bool
        Whether there are more by now.
    """

    numbers: list[int]
    cursor: tuple[int, int]
    more: bool


class Group:
    """Collocated functions.

    Attributes
    ----------
    members : list of FunctionState
    need : dict
        Resource → the most that any member asks.
    pins : Pins
        Those of all members.
    node : Node or None
        Where the group is, once its first function was placed.
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
        Number of the run: earlier ones go first.
    functions : list of FunctionState
        By number.
    costs : list of dict
        Kind → what its functions take of a node, the thread included.
    limits : Pool or None
    sizes : list of float
        Kind → how much its functions ask for, on a logarithmic scale.
    allocator : Allocator
    ranking : Ranking
        The order of its functions.
    top_priority : float
        The highest priority of its functions.
    backlog : Backlog
        Its ready functions.
    share : int
        Its dominant share of the cluster, in parts of :data:`WHOLE`: each running function counts with the
        largest part of all there is of a resource. The run with the smallest share goes first.
    weights : list of int
        Kind → what one of its functions adds to the share.
    unstarted : list of int or None
        Function number → how many of its inputs are neither there nor running. None until asked for.
    fault : str or None
        What the run's own allocator did wrong.
    heavy : bool
        Whether it has results that are worth looking where they are.
    deadline : float or None
        Until when it waits for nodes.
    status : RunStatus
    shortfalls : tuple of Shortfall
        Why it could not be placed.
    failed : list of FunctionState
        Functions that failed for good, in order.
    troubles : list of (FunctionState, int)
        Attempts that failed or were lost, in order: the function, and the number of the attempt from 1.
    counts : dict of State to int
        How many functions are in each state.
    left : int
        How many are in none that is final.
    moved : list of int
        Number of a function for each time that it went to another state, in order.
    """

    def __init__(self, spec: RunSpec, sequence: int) -> None:
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
        self.top_priority = max((kind.priority for kind in spec.kinds), default=0)
        self.backlog = Backlog({tuple(sorted(cost.items())) for cost in costs})
        self.sizes = [size_of(kind.cost) for kind in spec.kinds]
        self.ranking = Ranking()
        self.share = 0
        self.weights: list[int] = [0] * len(spec.kinds)
        self.weights_version = -1  # the version of the nodes that the weights are for
        self.compared_version = -1  # the version of the nodes that a pending run was compared with
        self.unstarted_inputs: list[int] | None = None
        self.fault: str | None = None
        self.has_large_results = False
        self.deadline: float | None = None
        self.status = RunStatus.RUNNING
        self.shortfalls: tuple[Shortfall, ...] = ()
        self.failed: list[FunctionState] = []
        self.troubles: list[tuple[FunctionState, int]] = []
        self.transitions: list[int] = []
        self.counts: dict[State, int] = dict.fromkeys(State, 0)
        self.counts[State.WAITING] = self.unfinished = len(self.functions)

    def update_weights(self, nodes: Nodes) -> None:
        """Work out the weights for the nodes there are now, and the share anew."""
        if self.weights_version == nodes.version:
            return
        self.weights_version = nodes.version
        # Runs may ask for more than there is by now.
        total = {name: max(1, nodes.total(name)) for cost in self.costs for name in cost}
        self.weights = [
            min(WHOLE, max(units * WHOLE // total[name] for name, units in cost.items()))
            for cost in self.costs
        ]
        self.share = 0
        if self.counts[State.RUNNING]:
            kind_of = self.spec.kind_of
            self.share = sum(self.weights[kind_of[f.number]] for f in self.functions if f.allocated)

    def inputs_of(self, f: FunctionState) -> list[FunctionState]:
        """The functions whose results a function takes."""
        return [self.functions[n] for n in self.inputs[f.number]]

    def is_upcoming(self, f: FunctionState) -> bool:
        """Whether every input of a function is there or being computed."""
        if self.unstarted_inputs is None:
            started = [g.state in STARTED for g in self.functions]
            self.unstarted_inputs = [sum(not started[n] for n in inputs) for inputs in self.inputs]
        return not self.unstarted_inputs[f.number]

    def count_started(self, f: FunctionState, started: bool) -> None:
        """Count a function that was placed, or that is not running any more, at those that need it."""
        assert self.unstarted_inputs is not None
        for n in self.spec.dependents[f.number] if self.spec.dependents else ():
            self.unstarted_inputs[n] -= 1 if started else -1

    @cached_property
    def number_of(self) -> Mapping[Hashable, int]:
        """Id → function number."""
        return {id: n for n, id in enumerate(self.spec.ids)}

    @cached_property
    def inputs(self) -> list[tuple[int, ...]]:
        """Function number → numbers of those whose results it takes."""
        inputs: list[list[int]] = [[] for _ in self.functions]
        for n, dependents in enumerate(self.spec.dependents):
            for d in dependents:
                inputs[d].append(n)
        return [tuple(numbers) for numbers in inputs]  # the garbage collector passes tuples of numbers by

    @cached_property
    def kind_counts(self) -> Mapping[int, int]:
        """Kind → how many functions are of it."""
        return Counter(self.spec.kind_of)

    def waiting(self, now: float) -> Waiting | None:
        """What it waits for before it begins, if it does."""
        if self.status is not RunStatus.PENDING or self.deadline is None:
            return None
        first, *others = dict.fromkeys(shortfall.awaited for shortfall in self.shortfalls)
        if others:
            first += f" and {len(others):,d} other{'s' if len(others) > 1 else ''}"
        limit = self.spec.wait_for_nodes
        return Waiting(first, now - (self.deadline - limit), limit)

    @property
    def active(self) -> bool:
        """Whether its functions may be placed. A finished run's may: a lost result is computed again."""
        return self.status in (RunStatus.RUNNING, RunStatus.FINISHED)

    @property
    def ended(self) -> bool:
        """Whether it has a final status."""
        return self.status not in (RunStatus.RUNNING, RunStatus.PENDING)

    def changes(self, cursor: Sequence[int] | None, most: int) -> Changes:
        """Functions that have moved since an earlier look: first all there are, by number, then those.

        Parameters
        ----------
        cursor : (int, int) or None
            That of the earlier look; None: there was none.
        most : int
            Functions or moves to look at.
        """
        told, seen = (0, len(self.transitions)) if cursor is None else cursor
        if told < len(self.functions):
            numbers = list(range(told, min(told + most, len(self.functions))))
            told += len(numbers)
        else:
            moves = self.transitions[seen : seen + most]
            seen += len(moves)
            numbers = list(dict.fromkeys(moves))
        more = told < len(self.functions) or seen < len(self.transitions)
        return Changes(numbers, (told, seen), more)

    def complete(self) -> bool:
        """Whether every function is in a final state."""
        return not self.unfinished

    def __repr__(self) -> str:
        counts: dict[str, Any] = {s.value: n for s, n in self.counts.items() if n}
        return f"<run {self.spec.run_id}: {self.status.value} {counts}>"
