"""How far a run is, as it is shown while somebody waits."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple


class Trouble(NamedTuple):
    """An attempt that failed or was lost.

    Attributes
    ----------
    function_id : hashable
    attempt : int
        From 1.
    node : str or None
    outcome : str
        ``"failed"`` or ``"lost"``.
    error : str or None
    final : bool
        Whether there is no other attempt: the function failed for good, or its run has ended.
    """

    function_id: Hashable
    attempt: int
    node: Any
    outcome: str
    error: str | None
    final: bool


class NodeLoad(NamedTuple):
    """What a node does.

    Attributes
    ----------
    name : hashable
    running : int
        Functions of the run that are there.
    used, capacity : mapping of str to float
        Resource → amount in use, by this run or others, and amount there is.
    """

    name: Any
    running: int
    used: Mapping[str, float]
    capacity: Mapping[str, float]


class Waiting(NamedTuple):
    """What a run waits for before anything of it is placed.

    Attributes
    ----------
    awaited : str
        The nodes that are missing: ``a node with gpu 1``.
    seconds : float
        It has waited for so long.
    limit : float
        Seconds after which it fails.
    """

    awaited: str
    seconds: float
    limit: float

    def __str__(self) -> str:
        return f"waiting for {self.awaited} ({int(min(self.seconds, self.limit))} of {self.limit:g} s)"


class Progress(NamedTuple):
    """How far a run is.

    Attributes
    ----------
    total : int
        Functions.
    counts : mapping of str to int
        State → functions in it.
    elapsed : float
        Seconds since it was submitted.
    nodes : tuple of NodeLoad
        Those that run most functions of the run.
    more_nodes : int
        How many others there are.
    troubles : tuple of Trouble
        Attempts that failed or were lost since the last look, the latest ones.
    more_troubles : int
        How many others there were since.
    tries : int
        Attempts that failed or were lost since the beginning.
    remaining : float or None
        Seconds that it is expected to go on, from what is known of durations; None while nothing is.
    known : float
        Share of the work that is left of which durations are known: 0 to 1.
    waiting : Waiting or None
        What it waits for before it begins.
    lost : str or None
        Why nothing more is known of it, once that is so.
    """

    total: int
    counts: Mapping[str, int]
    elapsed: float
    nodes: tuple[NodeLoad, ...] = ()
    more_nodes: int = 0
    troubles: tuple[Trouble, ...] = ()
    more_troubles: int = 0
    tries: int = 0
    remaining: float | None = None
    known: float = 0.0
    waiting: Waiting | None = None
    lost: str | None = None

    @property
    def finished(self) -> int:
        """Functions that have finished."""
        return self.counts.get("finished", 0)
