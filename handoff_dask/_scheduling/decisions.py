"""What the core decides, and what an administrator can set of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from handoff_dask._model.records import Shortfall
from handoff_dask._scheduling.functions import FunctionState
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.runs import Run


class Place(NamedTuple):
    """Run ``function`` on ``node``. It has been booked there already."""

    function: FunctionState
    node: Node
    peer: Any = None  # name of the node of the other half of a transfer


@dataclass(frozen=True, slots=True)
class Infeasible:
    """``functions`` waited too long for a node that could ever hold them."""

    functions: tuple[FunctionState, ...]
    shortfall: Shortfall


@dataclass(frozen=True, slots=True)
class Fail:
    """``function``, which was ready, will not be placed: for a shortfall, or since it has failed for good."""

    function: FunctionState
    shortfall: Shortfall | None = None


class Stop(NamedTuple):
    """End an attempt of ``function`` on ``node``, in its process: nobody wants its result any more.

    What was booked for it stays so until the attempt is reported to have ended, which it may have by itself.
    """

    function: FunctionState
    node: Node
    attempt: int


@dataclass(frozen=True, slots=True)
class Begin:
    """``run``, which waited for nodes, has them."""

    run: Run


@dataclass(frozen=True, slots=True)
class TooLate:
    """``function``, which became ready after the end of its run, will not be placed."""

    function: FunctionState


@dataclass(frozen=True, slots=True)
class Recall:
    """Take ``function`` back from ``node`` if it has not started there.

    The node will never have room for it, or it was prefetched and would wait for functions of unknown length.
    """

    function: FunctionState
    node: Node


@dataclass(frozen=True, slots=True)
class End:
    """``run`` has reached a final status; its functions that did not start will not."""

    run: Run


#: What is to be carried out.
Decision = Begin | Place | Fail | TooLate | Recall | Stop | End


@dataclass(frozen=True, slots=True)
class Settings:
    """What an administrator can set.

    Attributes
    ----------
    node_timeout : float
        Seconds that a function waits when no node is left that could ever hold it.
    prefetch_horizon : float
        Seconds of work that a node may prefetch, so that short functions do not each wait for a message to
        the scheduler and back. 0 turns prefetching off.
    prefetch_limit : int
        Functions that a node may prefetch.
    bandwidth : float
        Bytes per second between nodes.
    """

    node_timeout: float = 30.0
    prefetch_horizon: float = 0.01
    prefetch_limit: int = 40
    bandwidth: float = 100e6
