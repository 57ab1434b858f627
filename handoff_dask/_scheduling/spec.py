"""The specification of a run: functions as numbers, and their costs and constraints as a few kinds."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from handoff_dask._model.resources import THREADS, UNIT
from handoff_dask._model.retry import RetryPolicy

#: Resource → units.
Amounts = Mapping[str, int]

#: Constraints on a node: for each set, one of its names, addresses or hosts must be the node's.
Pins = frozenset[frozenset[str]]


class Known(NamedTuple):
    """What a function took in earlier runs: the same id, code, arguments and dependencies.

    Attributes
    ----------
    times : tuple of (node, float)
        Names of the nodes on which it ran, and its mean duration there in seconds.
    peak : float or None
        The most memory in use at any time, in MB.
    """

    times: tuple[tuple[Any, float], ...] = ()
    peak: float | None = None


class Hint(NamedTuple):
    """What functions of some code took in earlier runs.

    Attributes
    ----------
    seconds : float
        Mean duration, on a node of ordinary speed.
    peaks : tuple of float
        The most memory in use at any time by each of some of them, in MB.
    """

    seconds: float
    peaks: tuple[float, ...] = ()


class Pace(NamedTuple):
    """Durations of functions of one code on one node in earlier runs.

    Attributes
    ----------
    code : (str, float)
        Key, and size of the cost.
    node : object
        Name of the node.
    n : float
        Number of functions.
    mean, variance : float
        Of the natural logarithms of their durations in seconds.
    """

    code: tuple[str, float]
    node: Any
    n: float
    mean: float
    variance: float


@dataclass(frozen=True, slots=True)
class Kind:
    """The cost and constraints of functions that are interchangeable to an allocator.

    Attributes
    ----------
    cost : tuple of (resource, units)
        Cost on the node, without ``threads``.
    limit_cost : tuple of (name, units)
        Cost in terms of the run's limits.
    asked : tuple of (resource, number or "auto")
        Cost and limit cost as the user gave them, for display.
    pins : tuple of str, optional
        Names, addresses or hosts of the nodes that may run it; None for any node.
    policy : RetryPolicy
        The function's retry policy, or else the run's.
    code : str
        Key under which functions are learnt; see :mod:`~handoff_dask._model.code_keys`.
    priority : int or float
        Higher priorities go first.
    auto : tuple of str
        Resources whose amounts are estimated before each attempt. In ``cost`` they have the smallest amount.
    computed : bool
        Whether the cost is computed when a function is ready. ``cost`` is then that of before the run.
    isolated : bool
        Whether each attempt runs in a separate process, which can be terminated at any time.
    """

    cost: tuple[tuple[str, int], ...] = ()
    limit_cost: tuple[tuple[str, int], ...] = ()
    asked: tuple[tuple[str, Any], ...] = ()
    pins: tuple[str, ...] | None = None
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    code: str = ""
    priority: int | float = 0
    auto: tuple[str, ...] = ()
    computed: bool = False
    isolated: bool = False

    @property
    def pin_sets(self) -> Pins:
        """The pins, in the form in which nodes are compared with them."""
        return frozenset() if self.pins is None else frozenset({frozenset(self.pins)})

    @property
    def node_cost(self) -> dict[str, int]:
        """The cost on the node, including the thread that every function takes."""
        return {THREADS: UNIT, **dict(self.cost)}


@dataclass(frozen=True, slots=True)
class RunSpec:
    """The specification of a run. Functions are numbered in an order that keeps few results alive.

    Attributes
    ----------
    run_id : str
    dag_id : hashable
    ids : sequence
        Function number → id.
    kinds : sequence of Kind
        The distinct kinds of functions.
    kind_of : sequence of int
        Function number → index into ``kinds``.
    groups : sequence of sequences of int
        Numbers of the functions of each collocation group.
    dependents : sequence of sequences of int
        Function number → numbers of its dependents. () if unknown: then functions are ranked by number.
    seconds : sequence of float
        Function number → duration. () if durations must be learnt.
    known : sequence of Known or None
        Function number → what the same function took in earlier runs, None if it was in none. () if none was.
    hints : mapping of str to Hint
        Code → what functions of this code took in earlier runs. It counts until one has run here.
    paces : sequence of Pace
        From which to learn the speeds of nodes.
    cost_code : mapping of int to bytes
        Function number → the pickled callable that computes its cost, for the driver.
    peers : mapping of int to int
        Number of each serializer → number of its deserializer, and vice versa.
    limits : tuple of (name, units)
        Amounts that the run may hold concurrently, across all nodes.
    max_concurrency : int, optional
        Maximum number of functions that run concurrently.
    strategy : str or Allocator
        Name of a built-in allocator, or a custom allocator.
    priority : int or float
        Higher priorities go first. Takes precedence over the priorities of functions.
    fail_fast : bool
        Whether the first failure ends the run.
    keep_all : bool
        Whether all results are kept until the end. Then no order of functions saves memory.
    wait_for_nodes : float
        Seconds to wait, before the start, for nodes that can hold every function.
    """

    run_id: str
    dag_id: Hashable
    ids: Sequence[Hashable]
    kinds: Sequence[Kind]
    kind_of: Sequence[int]
    groups: Sequence[Sequence[int]] = ()
    dependents: Sequence[Sequence[int]] = ()
    seconds: Sequence[float] = ()
    known: Sequence[Known | None] = ()
    hints: Mapping[str, Hint] = field(default_factory=dict)
    paces: Sequence[Pace] = ()
    cost_code: Mapping[int, bytes] = field(default_factory=dict)
    peers: Mapping[int, int] = field(default_factory=dict)
    limits: tuple[tuple[str, int], ...] = ()
    max_concurrency: int | None = None
    strategy: Any = "best_fit"
    priority: int | float = 0
    fail_fast: bool = True
    keep_all: bool = False
    wait_for_nodes: float = 0.0
