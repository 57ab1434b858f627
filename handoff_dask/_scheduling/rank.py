"""Ranks: the order in which the functions of one run should run.

Functions are ranked by critical-path length (list scheduling by upward rank, as in HEFT: Topcuoglu et al.,
IEEE TPDS 2002), which includes the wait for their turn on a scarce resource. If results are large and the
critical path cannot bound the makespan, functions are ranked by number, which keeps few results alive.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heapreplace
from typing import TYPE_CHECKING

from handoff_dask._model.graph import path_lengths
from handoff_dask._scheduling.estimates import Estimates
from handoff_dask._scheduling.functions import FINAL, State
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.spec import Amounts

if TYPE_CHECKING:
    from handoff_dask._scheduling.nodes import Nodes
    from handoff_dask._scheduling.runs import Run

#: The critical path may bound the makespan if it is longer than this fraction of the time that the nodes need
#: for the remaining work. This fraction applies while result sizes are unknown. It is below 1 because
#: estimates are rough, and a critical path that starts too late cannot catch up.
CRITICAL_SHARE = 0.25

#: If the results of a run are smaller in total, saving memory is not worthwhile. Bytes.
SMALL_RESULTS = 64 * 2**20

#: The same fraction for runs with small and with large results. Tuned on workflow traces, a wide map-reduce
#: and a tree.
SMALL_RESULTS_SHARE, LARGE_RESULTS_SHARE = 0.1, 1.5

#: A resource is not scarce if the functions that need it take more than this fraction of the total duration.
_SCARCE_SHARE = 0.5

#: Nodes are a bottleneck if the functions that only they can hold keep them busy for at least this fraction
#: of the time that all nodes need for the remaining work.
_BOTTLENECK_SHARE = 0.8

#: A run of at most this many functions is checked after each of them.
_SMALL_RUN = 256


class Ranking:
    """The ranks of one run's functions, and when to compute them again.

    The critical path decides if it may bound the makespan: if it takes more than a fraction of the time that
    the nodes need for the remaining work. The fraction is small if results are small or are all kept.
    Otherwise the number decides: depth-first order continues branches that have begun.

    Ranking takes time for every unfinished function. So it is repeated at exponentially growing intervals, if
    estimates of durations have changed, and whenever half of the unfinished functions have finished.

    Attributes
    ----------
    scarce : dict of int to frozenset of Node
        Bottleneck kinds, whose upcoming functions may claim capacity: kind → the only nodes that can hold its
        functions.
    paths : sequence of float
        Function number → length of its critical path in seconds, for those that had not ended at the last
        ranking. Empty before the first one.
    """

    __slots__ = ("_half", "_left", "_next", "_nodes", "paths", "scarce")

    def __init__(self) -> None:
        self.scarce: dict[int, frozenset[Node]] = {}
        self._left: list[int] = []  # functions that had not ended at the last ranking
        self._nodes = 0
        self.paths: Sequence[float] = ()
        self._next = 0
        self._half = 0

    def reset(self) -> None:
        """Note that functions which had ended must run again, because results were lost."""
        self.paths = ()
        self._left = []
        self._half = 0

    def nodes_changed(self, functions: int, nodes: int) -> bool:
        """Return whether to rank again because the nodes have changed.

        Large runs are ranked again only if the number of nodes has changed by more than a quarter.

        Parameters
        ----------
        functions : int
            Number of functions in the run.
        nodes : int
            Number of nodes.
        """
        if functions > _SMALL_RUN and 4 * abs(nodes - self._nodes) <= self._nodes:
            return False
        self._half = 0
        return True

    def due(self, finished: int) -> bool:
        """Return whether to call :meth:`update`, given the number of finished functions."""
        return finished >= self._next

    def update(self, run: Run, nodes: Nodes, estimates: Estimates, now: float) -> bool:
        """Compute the ranks again, if anything that they depend on has changed.

        Parameters
        ----------
        run : Run
        nodes : Nodes
        estimates : Estimates
        now : float

        Returns
        -------
        bool
            Whether ranks were computed, so that the run's queues must be sorted again.
        """
        spec = run.spec
        total, finished = len(run.functions), run.counts[State.FINISHED]
        halved = finished >= self._half
        if halved:
            self._half = finished + max(1, (total - finished + 1) // 2)
        self._next = finished + 1 if total <= _SMALL_RUN else min(max(1, 4 * finished), self._half)
        changed = halved
        if not spec.seconds and run.estimates.update(_running(run, estimates, now)):
            self.paths = ()
            changed = True
        if (
            not changed
            or not spec.dependents
            or (len(spec.kinds) == 1 and not any(spec.dependents) and not spec.known)
        ):
            return False  # nothing has changed, there are no dependencies, or all functions are equal
        self._rank(run, nodes, _share(run, estimates))
        return True

    def _rank(self, run: Run, nodes: Nodes, share: float) -> None:
        """Set the ranks of the unfinished functions, and find the bottleneck kinds."""
        spec = run.spec
        self._nodes = len(nodes.by_name)
        seconds = run.estimates.all_seconds()
        functions = run.functions
        left = self._left = [
            n for n in self._left or range(len(functions)) if functions[n].state not in FINAL
        ]
        paths = self.paths = self.paths or path_lengths(spec.dependents, seconds, left)
        work = _Work(run, nodes, seconds, left)
        longest = max((paths[n] for n in left), default=0.0)
        bound = share * work.needed
        turns, self.scarce = _take_turns(work, paths, bound - longest)
        lengths = path_lengths(spec.dependents, seconds, left, turns) if turns else paths
        for n in left:
            if longest >= bound or (lengths[n] > paths[n] and lengths[n] >= bound):
                functions[n].rank = -lengths[n]
            else:
                functions[n].rank = float(n)


def _running(run: Run, estimates: Estimates, now: float) -> dict[str, float]:
    """Return code → longest time that a function of it has been running, in seconds.

    Empty if all code of the run has run before.
    """
    running: dict[str, float] = {}
    if all(estimates.has_run(kind.code) for kind in run.spec.kinds):
        return running
    for f in run.functions:
        if f.state is State.RUNNING and f.allocated:
            running[f.kind.code] = max(now - f.placed, running.get(f.kind.code, 0.0))
    return running


def _share(run: Run, estimates: Estimates) -> float:
    """Return the fraction of the remaining work's time above which the critical path counts."""
    if run.spec.keep_all:
        return SMALL_RESULTS_SHARE
    total = estimates.total_bytes(run.code_counts.items())
    if total is None:
        return CRITICAL_SHARE
    return SMALL_RESULTS_SHARE if total < SMALL_RESULTS else LARGE_RESULTS_SHARE


class _Share:
    """The part of the remaining work that certain nodes can hold.

    Attributes
    ----------
    kinds : list of int
    seconds : dict of str to float
        Resource → total duration of the functions that ask for it.
    areas : dict of str to float
        Resource → work, in units times seconds.
    """

    __slots__ = ("areas", "kinds", "seconds")

    def __init__(self) -> None:
        self.kinds: list[int] = []
        self.seconds: dict[str, float] = {}
        self.areas: dict[str, float] = {}

    def add(self, kind: int, cost: Amounts, seconds: float) -> None:
        """Add the functions of a kind, given their total duration."""
        self.kinds.append(kind)
        for name, units in cost.items():
            if units:
                self.seconds[name] = self.seconds.get(name, 0.0) + seconds
                self.areas[name] = self.areas.get(name, 0.0) + units * seconds


class _Work:
    """The remaining work of a run, by kind and by eligible nodes.

    Parameters
    ----------
    run : Run
    nodes : Nodes
    seconds : sequence of float
        Function number → expected duration.
    left : sequence of int
        Numbers of the unfinished functions.

    Attributes
    ----------
    members : dict of int to list of int
        Kind → numbers of its unfinished functions.
    by_kind : dict of int to float
        Kind → total duration of these functions.
    shares : dict of frozenset of Node to _Share
        Eligible nodes → the kinds that only they can hold. The key None stands for all nodes.
    capacity : dict of str to int
        Resource → units on all nodes.
    needed : float
        Seconds that the nodes need for the remaining work, given by the resource in shortest supply.
    """

    def __init__(self, run: Run, nodes: Nodes, seconds: Sequence[float], left: Sequence[int]) -> None:
        self.seconds = seconds
        kind_of = run.spec.kind_of
        holders = run.holders(nodes)
        self.costs = run.costs
        self.members: dict[int, list[int]] = {}
        for n in left:
            self.members.setdefault(kind_of[n], []).append(n)
        self.by_kind: dict[int, float] = {}
        self.shares: dict[frozenset[Node] | None, _Share] = {}
        for k in sorted(self.members):
            took = self.by_kind[k] = sum(map(seconds.__getitem__, self.members[k]))
            share = self.shares.get(holders[k])
            if share is None:
                share = self.shares[holders[k]] = _Share()
            share.add(k, self.costs[k], took)
        names = dict.fromkeys(name for share in self.shares.values() for name in share.areas)
        self.capacity = {name: nodes.total(name) for name in names}
        areas = {name: sum(s.areas.get(name, 0.0) for s in self.shares.values()) for name in names}
        self.needed = max(
            (area / self.capacity[name] for name, area in areas.items() if self.capacity[name]), default=0.0
        )


def _take_turns(
    work: _Work, paths: Sequence[float], least: float
) -> tuple[list[float], dict[int, frozenset[Node]]]:
    """Extend the critical paths of functions that take turns on a scarce resource.

    Two GPUs among a hundred cores, or one node with much memory, are scarce: the functions that need them run
    one after another. The wait for the others counts as part of a function's critical path.

    Parameters
    ----------
    work : _Work
    paths : sequence of float
        Function number → length of its critical path in seconds.
    least : float
        Ignore resources whose users keep them busy for fewer seconds.

    Returns
    -------
    turns : list of float
        Function number → seconds from its start to the end if the users of the resource take turns, 0 for
        functions that need no scarce resource. Empty if nothing is scarce.
    bottlenecks : dict of int to frozenset of Node
        Kind → its eligible nodes, for kinds that keep these nodes busy for about as long as the whole run.
    """
    everything = sum(work.by_kind.values())
    turns: list[float] = []
    bottlenecks: dict[int, frozenset[Node]] = {}
    for where in work.shares:
        within = {
            nodes: share
            for nodes, share in work.shares.items()
            if where is None or (nodes is not None and nodes <= where)
        }
        for name in dict.fromkeys(name for share in within.values() for name in share.areas):
            if sum(share.seconds.get(name, 0.0) for share in within.values()) > _SCARCE_SHARE * everything:
                continue
            if where is None:
                capacity = work.capacity[name]
            else:
                capacity = sum(node.capacity.get(name, 0) for node in where)
            area = sum(share.areas.get(name, 0.0) for share in within.values())
            took = area / capacity if capacity else 0.0
            if not took or took < least:
                continue
            users = {
                nodes: [k for k in share.kinds if work.costs[k].get(name)] for nodes, share in within.items()
            }
            turns = turns or [0.0] * len(work.seconds)
            _list_schedule(work, [k for kinds in users.values() for k in kinds], name, capacity, paths, turns)
            if where is not None and took >= _BOTTLENECK_SHARE * work.needed:
                for nodes, kinds in users.items():
                    if nodes is not None:
                        bottlenecks.update((k, nodes) for k in kinds)
    return turns, bottlenecks


def _list_schedule(
    work: _Work, kinds: Iterable[int], name: str, capacity: int, paths: Sequence[float], turns: list[float]
) -> None:
    """Schedule the functions of some kinds on one resource, the longest critical path first.

    Raise each function's entry in ``turns`` to the time from its start to the end of that schedule.
    """
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
