"""The core's decisions, and its settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from handoff_dask._model.records import Shortfall
from handoff_dask._scheduling.functions import FunctionState
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.runs import Run


class Place(NamedTuple):
    """Run ``function`` on ``node``. The ledger includes it already."""

    function: FunctionState
    node: Node
    peer: Any = None  # of a transfer: name of the node of the other half


@dataclass(frozen=True, slots=True)
class Infeasible:
    """``functions`` waited for an eligible node until the node timeout."""

    functions: tuple[FunctionState, ...]
    shortfall: Shortfall


@dataclass(frozen=True, slots=True)
class Fail:
    """Fail ``function``, which was ready: there is a shortfall, or it has no retries left."""

    function: FunctionState
    shortfall: Shortfall | None = None


class Stop(NamedTuple):
    """Terminate the process of an attempt on ``node``, because its result is no longer needed.

    Its allocation is held until the attempt is reported to have ended. It may have ended already.
    """

    function: FunctionState
    node: Node
    attempt: int


class ComputeCost(NamedTuple):
    """Compute the cost of the next attempt of ``function``, and report it.

    Attributes
    ----------
    function : FunctionState
    attempt : int
        Number of the attempt, from 1.
    inputs : tuple of (int, float)
        Number of each function whose result it takes, and the size of the result in MB.
    seen_peak : float or None
        The most memory in MB that it has used before; None if it is unknown.
    """

    function: FunctionState
    attempt: int
    inputs: tuple[tuple[int, float], ...]
    seen_peak: float | None


@dataclass(frozen=True, slots=True)
class Begin:
    """Start ``run``, which was pending: the nodes that it waited for have joined."""

    run: Run


@dataclass(frozen=True, slots=True)
class TooLate:
    """Fail ``function``, which became ready after the end of its run."""

    function: FunctionState


@dataclass(frozen=True, slots=True)
class Recall:
    """Take ``function`` back from ``node`` unless it has started there.

    Either the node has shrunk below its cost, or it was prefetched and waits behind functions of unknown
    duration.
    """

    function: FunctionState
    node: Node


@dataclass(frozen=True, slots=True)
class End:
    """``run`` has reached a final status. Its functions that have not started never will."""

    run: Run


#: An instruction for whoever drives the core.
Decision = Begin | Place | ComputeCost | Fail | TooLate | Recall | Stop | End


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings that an administrator can change.

    Attributes
    ----------
    node_timeout : float
        Seconds that a function waits if no eligible node is left.
    prefetch_horizon : float
        Seconds of work that a node may prefetch, which saves short functions a round trip to the scheduler
        each. 0 turns prefetching off.
    prefetch_limit : int
        Maximum number of functions that a node may prefetch.
    bandwidth : float
        Bytes per second between two nodes.
    first_memory, first_cpu : float
        Fraction of the largest node for which a function with the cost ``"auto"`` asks while nothing is known
        of its code.
    """

    node_timeout: float = 30.0
    prefetch_horizon: float = 0.01
    prefetch_limit: int = 40
    bandwidth: float = 100e6
    first_memory: float = 0.25
    first_cpu: float = 1.0
