"""What is expected of the functions of one run, from earlier runs of them or from their code."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from handoff_dask._scheduling.estimates import Estimates, size_of
from handoff_dask._scheduling.spec import RunSpec

if TYPE_CHECKING:
    from handoff_dask._scheduling.functions import FunctionState
    from handoff_dask._scheduling.node import Node

#: Estimates that differ by less count as equal. Seconds.
_NEGLIGIBLE = 0.005


class RunEstimates:
    """What is expected of the functions of one run.

    Parameters
    ----------
    spec : RunSpec
    estimates : Estimates

    Attributes
    ----------
    given : sequence of float
        Function number → duration in seconds, if durations need not be learnt.
    by_kind : list of float
        Kind → expected duration in seconds. Kept up to date by :meth:`update`.
    """

    __slots__ = (
        "_estimates",
        "_kind_of",
        "_known",
        "_own",
        "_ranked",
        "_sizes",
        "_speeds",
        "_version",
        "by_kind",
        "given",
    )

    def __init__(self, spec: RunSpec, estimates: Estimates) -> None:
        self._estimates = estimates
        self._speeds = estimates.speeds
        self._kind_of = spec.kind_of
        self._sizes = [(kind.code, size_of(kind.cost)) for kind in spec.kinds]
        self.given = spec.seconds
        self._known = spec.known
        self._version = self._ranked = -1  # versions of the speeds for which `_own` and the ranks are valid
        self._own: list[float | None] = []
        self.by_kind: list[float] = []

    def size(self, kind: int) -> float:
        """Return the size of the cost of a kind, on a logarithmic scale; see :func:`size_of`."""
        return self._sizes[kind][1]

    def update(self, running: Mapping[str, float]) -> bool:
        """Learn from what has run since. Return whether that makes a difference.

        ``running`` is as for :meth:`Estimates.expected`.
        """
        learnt = self._estimates.expected(self._sizes, running)
        if not (self._known and self._ranked != self._speeds.version) and not _differ(learnt, self.by_kind):
            return False
        self._ranked = self._speeds.version
        self.by_kind = learnt
        return True

    def seconds(self, f: FunctionState, node: Node | None = None) -> float:
        """Return the expected duration of a function in seconds, on a node or on one of ordinary speed."""
        number = f.number
        if self.given:
            return self.given[number]
        own = self.own
        seconds = own[number] if own else None
        if seconds is None:
            if not self.by_kind:
                return 1.0
            seconds = self.by_kind[self._kind_of[number]]
        return seconds if node is None else seconds * self.factor(node)

    def factor(self, node: Node) -> float:
        """Return by how much functions take longer on a node than on one of ordinary speed."""
        return self._speeds.factor(node.name) if self._speeds.factors and not self.given else 1.0

    def peak(self, f: FunctionState) -> float | None:
        """Return the peak of memory of the same function in earlier runs, in MB; None if it is unknown."""
        known = self._known[f.number] if self._known else None
        return None if known is None else known.peak

    def before(self, f: FunctionState) -> Sequence[tuple[Any, float]]:
        """Return the nodes on which the same function has run before, and its durations there in seconds."""
        known = self._known[f.number] if self._known else None
        return () if known is None else known.times

    @property
    def own(self) -> Sequence[float | None]:
        """Function number → duration of the same function in earlier runs, on a node of ordinary speed."""
        if self._known and self._version != self._speeds.version:
            self._version = self._speeds.version
            self._own = [None if known is None else self._ordinary(known.times) for known in self._known]
        return self._own

    def _ordinary(self, times: Sequence[tuple[Any, float]]) -> float | None:
        if not times:
            return None
        return math.fsum(took / self._speeds.factor(node) for node, took in times) / len(times)

    def all_seconds(self) -> Sequence[float]:
        """Return function number → expected duration in seconds, on a node of ordinary speed."""
        return self.given or self._by_number(self.by_kind)

    def latest(self) -> Sequence[float]:
        """Return the same with all that is known now, without an effect on any decision."""
        return self.given or self._by_number(self._estimates.expected(self._sizes))

    def _by_number(self, by_kind: Sequence[float]) -> Sequence[float]:
        seconds = [by_kind[k] for k in self._kind_of]
        if own := self.own:
            seconds = [learnt if known is None else known for known, learnt in zip(own, seconds, strict=True)]
        return seconds

    def known(self) -> Sequence[bool]:
        """Return function number → whether its duration is known, be it only from others of its code."""
        if self.given:
            return [True] * len(self.given)
        by_kind = [self._estimates.knows(key) for key, _ in self._sizes]
        known = [by_kind[k] for k in self._kind_of]
        own = self.own
        return [a or b is not None for a, b in zip(known, own, strict=True)] if own else known


def _differ(new: Sequence[float], old: Sequence[float]) -> bool:
    """Return whether estimates differ enough to justify a new ranking."""
    if len(new) != len(old):
        return True
    pairs = zip(new, old, strict=True)
    return any(a != b and abs(a - b) > max(0.25 * b, _NEGLIGIBLE) for a, b in pairs)
