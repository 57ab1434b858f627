"""In which order functions of a run should run.

What has the longest way to the end goes first, if results are small or are all kept anyhow. Otherwise that
is so only when the longest path bounds when the run ends; while it is short against the work that is left,
functions go in the order of their numbers, which continues what was begun, so that few results are alive.

Some resources are scarce: two GPUs among a hundred cores, one node with much memory. Functions that need one
of them, and those that these wait for, have not only their own path to go: they have to take turns. How long
that takes counts as their way to the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heapreplace
from typing import TYPE_CHECKING

from handoff_dask._model.graph import path_lengths
from handoff_dask._scheduling.estimates import Estimates
from handoff_dask._scheduling.functions import FINAL, FunctionState, State
from handoff_dask._scheduling.node import Node

if TYPE_CHECKING:
    from handoff_dask._scheduling.nodes import Nodes
    from handoff_dask._scheduling.runs import Run

#: The longest path may bound the end when it is longer than this share of what the nodes need for all that
#: is left. As long as it is not known how large results are, below 1, since estimates are rough and a path
#: started too late cannot be made up for.
CRITICAL_SHARE = 0.25

#: Results of a run that are smaller, all together, need not be saved. Bytes.
SMALL_RESULTS = 64 * 2**20

#: The share where there is nothing to save by another order, and where there is much. Chosen on workflow
#: traces, a wide map-reduce and a tree.
SMALL_RESULTS_SHARE, LARGE_RESULTS_SHARE = 0.1, 1.5

#: What takes a greater share of all time is not scarce but the common case.
_SCARCE_SHARE = 0.5

#: Nodes are kept free for functions that will need them when these keep them busy for at least this share of
#: what all nodes need for all that is left.
_BOTTLENECK_SHARE = 0.8

#: Estimates that differ by less are the same. Seconds.
_NEGLIGIBLE = 0.005

#: A run of no more functions than this is looked at after each of them.
_SMALL_RUN = 256


class Ranking:
    """The order of one run's functions, and when it is worth working out again.

    Working it out takes time for every function that is left, so it is done when estimates of durations
    have become better, at exponentially growing distances, and whenever half of what was left is done.

    Attributes
    ----------
    scarce : dict of int to frozenset of Node
        Kind → the only nodes that can hold its functions, of kinds for which these nodes should be kept.
    """

    __slots__ = ("_estimates", "_half", "_known", "_left", "_next", "_nodes", "_paths", "_sizes", "scarce")

    def __init__(self) -> None:
        self.scarce: dict[int, frozenset[Node]] = {}
        self._estimates: list[float] = []
        self._known: Sequence[float] = ()
        self._left: list[int] = []  # functions that had not ended when they were last ranked
        self._nodes = 0
        self._paths: Sequence[float] = ()
        self._next = 0
        self._half = 0
        self._sizes: list[tuple[str, float]] = []

    def reset(self) -> None:
        """More is left than there was: results were lost."""
        self._paths = ()
        self._left = []
        self._half = 0

    def nodes_changed(self, functions: int, nodes: int) -> bool:
        """Whether to look again, now that there are so many nodes: when it was done for far more or fewer."""
        if functions > _SMALL_RUN and 4 * abs(nodes - self._nodes) <= self._nodes:
            return False
        self._half = 0
        return True

    def due(self, finished: int) -> bool:
        """Whether to look again, now that so many functions have finished."""
        return finished >= self._next

    def expected(self, f: FunctionState) -> float:
        """Seconds that a function is expected to take."""
        if self._known:
            return self._known[f.number]
        return self._estimates[f.run.spec.kind_of[f.number]] if self._estimates else 1.0

    def update(self, run: Run, nodes: Nodes, estimates: Estimates, now: float) -> bool:
        """Set the ranks of all functions.

        Parameters
        ----------
        run : Run
        nodes : Nodes
        estimates : Estimates
        now : float

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
        self._next = finished + 1 if total <= _SMALL_RUN else min(max(1, 4 * finished), self._half)
        self._known = spec.seconds
        changed = halved
        if not self._known:
            if not self._sizes:
                self._sizes = [(kind.code, size) for kind, size in zip(spec.kinds, run.sizes, strict=True)]
            learnt = estimates.expected(self._sizes, _running(run, estimates, now))
            if _differ(learnt, self._estimates):
                self._estimates = learnt
                self._paths = ()
                changed = True
        if not changed or not spec.dependents or (len(spec.kinds) == 1 and not any(spec.dependents)):
            return False  # nothing new, nothing is known about the order, or all functions are alike
        self._rank(run, nodes, _share(run, estimates))
        return True

    def _rank(self, run: Run, nodes: Nodes, share: float) -> None:
        spec = run.spec
        self._nodes = len(nodes.by_name)
        seconds = self._known or [self._estimates[k] for k in spec.kind_of]
        functions = run.functions
        left = self._left = [
            n for n in self._left or range(len(functions)) if functions[n].state not in FINAL
        ]
        paths = self._paths = self._paths or path_lengths(spec.dependents, seconds, left)
        work = _Work(run, nodes, seconds, left)
        longest = max((paths[n] for n in left), default=0.0)
        bound = share * work.needed
        turns, self.scarce = _take_turns(work, paths, bound - longest)
        ways = path_lengths(spec.dependents, seconds, left, turns) if turns else paths
        for n in left:
            if longest >= bound or (ways[n] > paths[n] and ways[n] >= bound):
                functions[n].rank = -ways[n]
            else:
                functions[n].rank = n


def _running(run: Run, estimates: Estimates, now: float) -> dict[str, float]:
    """Code of which nothing is known → seconds for which a function of it has been running."""
    running: dict[str, float] = {}
    if all(estimates.has_run(kind.code) for kind in run.spec.kinds):
        return running
    for f in run.functions:
        if f.state is State.RUNNING and f.allocated:
            running[f.kind.code] = max(now - f.placed, running.get(f.kind.code, 0.0))
    return running


def _share(run: Run, estimates: Estimates) -> float:
    """From which share of the time for all that is left the longest path counts."""
    if run.spec.keep_all:
        return SMALL_RESULTS_SHARE
    sizes = [estimates.result_bytes(kind.code) for kind in run.spec.kinds]
    known = [nbytes for nbytes in sizes if nbytes is not None]
    if not known:
        return CRITICAL_SHARE
    mean = sum(known) / len(known)
    counts = run.kind_counts
    total = sum((mean if nbytes is None else nbytes) * counts[k] for k, nbytes in enumerate(sizes))
    return SMALL_RESULTS_SHARE if total < SMALL_RESULTS else LARGE_RESULTS_SHARE


class _Work:
    """What is left of a run, by kind and by the nodes that can do it."""

    def __init__(self, run: Run, nodes: Nodes, seconds: Sequence[float], left: Sequence[int]) -> None:
        self.seconds = seconds
        kind_of = run.spec.kind_of
        self.costs = run.costs
        self.members: dict[int, list[int]] = {}
        for n in left:
            self.members.setdefault(kind_of[n], []).append(n)
        self.by_kind = {k: sum(seconds[n] for n in members) for k, members in self.members.items()}
        self.holders: dict[frozenset[Node] | None, list[int]] = {}
        areas: dict[str, float] = {}
        for k in sorted(self.members):
            cost = self.costs[k]
            self.holders.setdefault(nodes.only_holders(cost, run.spec.kinds[k].pin_sets), []).append(k)
            for name, units in cost.items():
                areas[name] = areas.get(name, 0.0) + units * self.by_kind[k]
        self.capacity = {name: nodes.total(name) for name in areas}
        self.needed = max(
            (area / self.capacity[name] for name, area in areas.items() if self.capacity[name]), default=0.0
        )

    def area(self, kinds: Iterable[int], name: str) -> float:
        """Units times seconds of a resource that is left of some kinds."""
        return sum(self.costs[k].get(name, 0) * self.by_kind[k] for k in kinds)


def _take_turns(
    work: _Work, paths: Sequence[float], least: float
) -> tuple[list[float], dict[int, frozenset[Node]]]:
    """How long functions that need something scarce have to the end if they take turns.

    Parameters
    ----------
    work : _Work
    paths : sequence of float
        Of each function, its own way to the end.
    least : float
        Work of fewer seconds does not matter.

    Returns
    -------
    turns : list of float
        Of each function; empty when nothing is scarce.
    bottlenecks : dict of int to frozenset of Node
        Kind → nodes, of those that are busy about as long as the whole run.
    """
    everything = sum(work.by_kind.values())
    turns: list[float] = []
    bottlenecks: dict[int, frozenset[Node]] = {}
    for where in work.holders:
        kinds = [
            k
            for nodes, some in work.holders.items()
            if where is None or (nodes is not None and nodes <= where)
            for k in some
        ]
        for name in dict.fromkeys(name for k in kinds for name in work.costs[k]):
            users = dict.fromkeys(k for k in kinds if work.costs[k].get(name))
            if sum(work.by_kind[k] for k in users) > _SCARCE_SHARE * everything:
                continue
            if where is None:
                capacity = work.capacity[name]
            else:
                capacity = sum(node.capacity.get(name, 0) for node in where)
            took = work.area(users, name) / capacity if capacity else 0.0
            if not took or took < least:
                continue
            turns = turns or [0.0] * len(work.seconds)
            _list_schedule(work, users, name, capacity, paths, turns)
            if where is not None and took >= _BOTTLENECK_SHARE * work.needed:
                for nodes, some in work.holders.items():
                    if nodes is not None:
                        bottlenecks.update((k, nodes) for k in some if k in users)
    return turns, bottlenecks


def _list_schedule(
    work: _Work, kinds: Iterable[int], name: str, capacity: int, paths: Sequence[float], turns: list[float]
) -> None:
    """Raise ``turns`` of functions to the time from their start to the end, if these kinds take turns."""
    members = sorted((n for k in kinds for n in work.members[k]), key=lambda n: -paths[n])
    asked = sum(work.costs[k][name] * len(work.members[k]) for k in kinds)
    at_once = max(1, capacity * len(members) // asked)
    ends = [0.0] * min(at_once, len(members))  # a heap
    starts = []
    end = 0.0
    for n in members:
        starts.append(ends[0])
        end = max(end, ends[0] + paths[n])
        heapreplace(ends, ends[0] + work.seconds[n])
    for n, start in zip(members, starts, strict=True):
        turns[n] = max(turns[n], end - start)


def _differ(new: Sequence[float], old: Sequence[float]) -> bool:
    """Whether estimates changed by so much that the order may, and that it is worth the time to change it."""
    if len(new) != len(old):
        return True
    return any(abs(a - b) > max(0.25 * b, _NEGLIGIBLE) for a, b in zip(new, old, strict=True))
