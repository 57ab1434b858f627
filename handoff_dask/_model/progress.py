"""Progress of a run, as displayed while the user waits."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple


class FailedAttempt(NamedTuple):
    """An attempt that failed or was lost with its node.

    Attributes
    ----------
    function_id : hashable
        Id of the function.
    attempt : int
        Number of the attempt, from 1.
    node : str or None
        Name of the node.
    outcome : str
        ``"failed"`` or ``"lost"``.
    error : str or None
        Text of the error, if any.
    final : bool
        Whether no retry follows, because the function failed permanently or its run has ended.
    """

    function_id: Hashable
    attempt: int
    node: Any
    outcome: str
    error: str | None
    final: bool


class NodeLoad(NamedTuple):
    """The load of a node.

    Attributes
    ----------
    name : hashable
        Name of the node.
    running : int
        Number of the run's functions on the node.
    used, capacity : mapping of str to float
        Resource → amount in use by all runs, and amount that the node offers.
    """

    name: Any
    running: int
    used: Mapping[str, float]
    capacity: Mapping[str, float]


class Waiting(NamedTuple):
    """The state of a run that waits for nodes (``wait_for_nodes=``) before any function is placed.

    Attributes
    ----------
    awaited : str
        Description of the missing nodes: ``a node with gpu 1``.
    seconds : float
        Seconds that the run has waited.
    limit : float
        Seconds after which the run fails.
    """

    awaited: str
    seconds: float
    limit: float

    def __str__(self) -> str:
        return f"waiting for {self.awaited} ({int(min(self.seconds, self.limit))} of {self.limit:g} s)"


class Progress(NamedTuple):
    """A snapshot of a run's progress.

    Attributes
    ----------
    total : int
        Number of functions.
    counts : mapping of str to int
        Status → number of functions with this status.
    elapsed : float
        Seconds since the run was submitted.
    nodes : tuple of NodeLoad
        The nodes that run most of the run's functions.
    more_nodes : int
        Number of nodes that ``nodes`` leaves out.
    failed_attempts : tuple of FailedAttempt
        The latest of the attempts that failed or were lost since the previous snapshot.
    more_failed_attempts : int
        Number of failed or lost attempts since the previous snapshot that ``failed_attempts`` leaves out.
    failed_total : int
        Number of failed or lost attempts since the start of the run.
    lost_total : int
        How many of these were lost with their nodes.
    eta : float or None
        Estimated seconds until the run ends; None while no durations are known.
    known : float
        Fraction of the remaining work whose durations are known, from 0 to 1.
    waiting : Waiting or None
        What the run waits for before it starts; None if it does not wait.
    lost : str or None
        Why the run's progress is no longer known; None while it is.
    """

    total: int
    counts: Mapping[str, int]
    elapsed: float
    nodes: tuple[NodeLoad, ...] = ()
    more_nodes: int = 0
    failed_attempts: tuple[FailedAttempt, ...] = ()
    more_failed_attempts: int = 0
    failed_total: int = 0
    lost_total: int = 0
    eta: float | None = None
    known: float = 0.0
    waiting: Waiting | None = None
    lost: str | None = None

    @property
    def finished(self) -> int:
        """Number of functions that have finished."""
        return self.counts.get("finished", 0)
