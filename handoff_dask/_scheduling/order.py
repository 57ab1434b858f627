"""In which order functions of a run should run.

While the longest path to the end is short against the work that is left, functions go in the order of
their numbers, which continues what was begun, so that few results are alive. As soon as that path may bound
when the run ends, what has the longest way to the end goes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from handoff_dask._scheduling.durations import Durations, size_of
from handoff_dask._scheduling.functions import FINAL, State
from handoff_dask._scheduling.ledger import Node

if TYPE_CHECKING:
    from handoff_dask._scheduling.runs import Run

#: The longest path may bound the end when it is longer than this share of what the nodes need for all that
#: is left. Below 1, since estimates are rough and a path started too late cannot be made up for; the lower,
#: the more results are alive at once. Chosen on workflow traces and a wide map-reduce.
CRITICAL_SHARE = 0.35


#: Estimates that differ by less are the same. Seconds.
_UNNOTICED = 0.005

#: A run of no more functions than this is looked at after each of them.
_SMALL = 256


def path_lengths(dependents: Sequence[Sequence[int]], seconds: Sequence[float]) -> list[float]:
    """Length of the longest path from each function to the end, itself included.

    Parameters
    ----------
    dependents : sequence of sequences of int
        Of each function, by number; numbers are a topological order.
    seconds : sequence of float
        Of each function.
    """
    lengths = list(seconds)
    for n in range(len(lengths) - 1, -1, -1):
        after = dependents[n]
        if after:
            lengths[n] += max(lengths[d] for d in after)
    return lengths


class Ranking:
    """The order of one run's functions, and when it is worth working out again.

    Working it out takes time for every function that is left, so it is done when estimates of durations
    have become better, at exponentially growing distances, and whenever half of what was left is done.
    """

    __slots__ = ("_estimates", "_half", "_next", "_sizes")

    def __init__(self) -> None:
        self._estimates: list[float] = []
        self._next = 0
        self._half = 0
        self._sizes: list[tuple[str, float]] = []

    def due(self, finished: int) -> bool:
        """Whether to look again, now that so many functions have finished."""
        return finished >= self._next

    def update(self, run: Run, nodes: Iterable[Node], durations: Durations) -> bool:
        """Set the ranks of all functions.

        Parameters
        ----------
        run : Run
        nodes : iterable of Node
            For how long they would need for all that is left.
        durations : Durations
            What has been learnt.

        Returns
        -------
        bool
            Whether anything changed.
        """
        spec = run.spec
        total, finished = len(run.functions), run.counts[State.FINISHED]
        halved = finished >= self._half
        if halved:
            self._half = finished + max(1, (total - finished + 1) // 2)
        self._next = finished + 1 if total <= _SMALL else min(max(1, 4 * finished), self._half)
        if not spec.dependents or (len(spec.kinds) == 1 and not any(spec.dependents)):
            return False  # nothing is known of the order, or all are alike
        if spec.seconds:
            if not halved:
                return False
            seconds: Sequence[float] = spec.seconds
        else:
            if not self._sizes:
                self._sizes = [(kind.code, size_of(kind.cost)) for kind in spec.kinds]
            estimates = durations.expected(self._sizes)
            if not halved and not _differ(estimates, self._estimates):
                return False
            self._estimates = estimates
            seconds = [estimates[k] for k in spec.kind_of]
        lengths = path_lengths(spec.dependents, seconds)
        left = [f for f in run.functions if f.state not in FINAL]
        needed = _time_for_all(((f.cost, seconds[f.number]) for f in left), nodes)
        longest = max((lengths[f.number] for f in left), default=0.0)
        critical = longest >= CRITICAL_SHARE * needed
        for f in run.functions:  # those that have finished, too: a result may be lost
            f.rank = -lengths[f.number] if critical else float(f.number)
        return True


def _differ(new: Sequence[float], old: Sequence[float]) -> bool:
    """Whether estimates changed by so much that the order may, and that it is worth the time to change it."""
    if len(new) != len(old):
        return True
    return any(abs(a - b) > max(0.25 * b, _UNNOTICED) for a, b in zip(new, old, strict=True))


def _time_for_all(work: Iterable[tuple[dict[str, int], float]], nodes: Iterable[Node]) -> float:
    """Seconds that all nodes together need at least: of each resource, the work over the capacity."""
    total: dict[str, float] = {}
    for cost, seconds in work:
        for name, units in cost.items():
            total[name] = total.get(name, 0.0) + units * seconds
    capacity: dict[str, int] = {}
    for node in nodes:
        for name, units in node.capacity.items():
            capacity[name] = capacity.get(name, 0) + units
    return max((units / capacity[name] for name, units in total.items() if capacity.get(name)), default=0.0)
