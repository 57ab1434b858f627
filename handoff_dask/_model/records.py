"""What is known of a run afterwards: frozen values, made by the layers below, read by people."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from handoff_dask._model.resources import format_amounts


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to run a function.

    Attributes
    ----------
    number : int
        Counts from 1.
    node : str or None
        Name of the node it was placed on.
    queued, started, stopped : float or None
        Seconds since the epoch: when it could have started, when its code started and stopped.
    outcome : str
        ``"finished"``, ``"failed"``, ``"lost"`` (its node left), ``"cancelled"`` or ``"running"``.
    error, traceback : str or None
        Text of the exception and of where it was raised.
    devices : mapping of str to tuple of int
        Indices of the devices it used, by resource: ``{"gpu": (0,)}``.
    """

    number: int
    node: Any = None
    queued: float | None = None
    started: float | None = None
    stopped: float | None = None
    outcome: str = "running"
    error: str | None = None
    traceback: str | None = None
    devices: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FunctionRecord:
    """Where, when and how often one function ran.

    Attributes
    ----------
    function_id : hashable
        Id of the function.
    status : str
        ``"waiting"``, ``"delayed"``, ``"ready"``, ``"running"``, ``"finished"``, ``"failed"``,
        ``"skipped"`` (a function it needs failed) or ``"cancelled"``.
    node : str or None
        Node of the last attempt.
    attempts : tuple of Attempt
        Every attempt, in order.
    cost : dict
        What it asked for, as given.
    devices : mapping of str to tuple of int
        Devices of the last attempt.
    nbytes : int or None
        Size of the result in bytes, as Dask measures it.
    """

    function_id: Hashable
    status: str
    node: Any
    attempts: tuple[Attempt, ...]
    cost: Mapping[str, float]
    devices: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    nbytes: int | None = None

    @property
    def started(self) -> float | None:
        """When the last attempt started, seconds since the epoch."""
        return self.attempts[-1].started if self.attempts else None

    @property
    def stopped(self) -> float | None:
        """When the last attempt stopped, seconds since the epoch."""
        return self.attempts[-1].stopped if self.attempts else None

    @property
    def duration(self) -> float | None:
        """Seconds that the last attempt ran."""
        if self.started is None or self.stopped is None:
            return None
        return self.stopped - self.started


@dataclass(frozen=True, slots=True)
class Shortfall:
    """Why functions of one kind fit on no node.

    Attributes
    ----------
    function_ids : tuple
        The functions concerned.
    asked : dict
        Resource → amount they ask for; of a collocated group, the most that any member asks.
    nearest : str or None
        The node that comes nearest, None when no node comes into question.
    offered : dict
        What that node has, of the resources asked for.
    reason : str
        What rules the nodes out, in words.
    """

    function_ids: tuple[Hashable, ...]
    asked: Mapping[str, float]
    nearest: Any
    offered: Mapping[str, float]
    reason: str

    def __str__(self) -> str:
        shown = ", ".join(repr(i) for i in self.function_ids[:3])
        if len(self.function_ids) > 3:
            shown += f" and {len(self.function_ids) - 3} more"
        text = f"{'function' if len(self.function_ids) == 1 else 'functions'} {shown}"
        text += f": {self.reason}; asked: {format_amounts(self.asked)}"
        if self.nearest is not None:
            text += f"; nearest node {self.nearest!r} has {format_amounts(self.offered)}"
        return text
