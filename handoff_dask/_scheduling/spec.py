"""What the core is told of a run: its functions as numbers, their costs and constraints as few kinds."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from handoff_dask._model.resources import THREADS, UNIT
from handoff_dask._model.retry import RetryPolicy

#: Resource → units.
Amounts = Mapping[str, int]

#: What a node must be called: one name, address or host of each set.
Pins = frozenset[frozenset[str]]


@dataclass(frozen=True, slots=True)
class Kind:
    """What functions of one kind ask for. Functions of one kind are interchangeable to an allocator.

    Attributes
    ----------
    cost : tuple of (resource, units)
        Of the node, threads not included.
    limit_cost : tuple of (name, units)
        Of the run's limits.
    asked : tuple of (resource, number)
        Cost and limit cost as the user gave them, for people.
    pins : tuple of str, optional
        Names, addresses or hosts of the nodes that may run it; None for any.
    policy : RetryPolicy
        The one in force: the function's own, or the run's.
    code : str
        Name under which durations are learnt.
    priority : float
        Higher first.
    isolated : bool
        Whether an attempt runs in a process of its own, which can be ended at any time.
    """

    cost: tuple[tuple[str, int], ...] = ()
    limit_cost: tuple[tuple[str, int], ...] = ()
    asked: tuple[tuple[str, float], ...] = ()
    pins: tuple[str, ...] | None = None
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    code: str = ""
    priority: float = 0
    isolated: bool = False

    @property
    def pin_sets(self) -> Pins:
        """The pins as a node is compared with them."""
        return frozenset() if self.pins is None else frozenset({frozenset(self.pins)})

    @property
    def node_cost(self) -> dict[str, int]:
        """Cost with the thread that every function takes."""
        return {THREADS: UNIT, **dict(self.cost)}


@dataclass(frozen=True, slots=True)
class RunSpec:
    """A run, as the core sees it. Functions are numbered in the order in which they should run.

    Attributes
    ----------
    run_id, dag_id
        Ids of the run and of its DAG.
    ids : sequence
        Function number → id.
    kinds : sequence of Kind
        The kinds there are.
    kind_of : sequence of int
        Function number → index into ``kinds``.
    groups : sequence of sequences of int
        Collocated functions, by number.
    dependents : sequence of sequences of int
        Of each function, by number: those that take its result. () when the order of numbers is all there is.
    seconds : sequence of float
        Of each function, by number: how long it takes. () when that has to be learnt.
    hints : mapping of str to float
        Code → seconds that its functions are expected to take until one has run.
    peers : mapping of int to int
        Serializer → deserializer and back.
    limits : tuple of (name, units)
        What the run may use at once, across the cluster.
    max_concurrency : int, optional
        How many of its functions may run at once.
    strategy : str or Allocator
        Name of the allocator, or one of the user's own.
    priority : float
        Higher first, before the priorities of functions.
    fail_fast : bool
        The first failure ends the run.
    keep_all : bool
        All results are kept to the end, so that no order of the functions keeps fewer of them.
    wait_for_nodes : float
        Seconds to wait for nodes that can hold everything.
    """

    run_id: str
    dag_id: Hashable
    ids: Sequence[Hashable]
    kinds: Sequence[Kind]
    kind_of: Sequence[int]
    groups: Sequence[Sequence[int]] = ()
    dependents: Sequence[Sequence[int]] = ()
    seconds: Sequence[float] = ()
    hints: Mapping[str, float] = field(default_factory=dict)
    peers: Mapping[int, int] = field(default_factory=dict)
    limits: tuple[tuple[str, int], ...] = ()
    max_concurrency: int | None = None
    strategy: Any = "best_fit"
    priority: float = 0
    fail_fast: bool = True
    keep_all: bool = False
    wait_for_nodes: float = 0.0
