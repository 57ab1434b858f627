"""How long a run will go on, from what has been learnt of durations."""

from __future__ import annotations

from typing import NamedTuple

from handoff_dask._model.graph import path_lengths
from handoff_dask._scheduling.estimates import Estimates
from handoff_dask._scheduling.functions import FINAL, State
from handoff_dask._scheduling.nodes import Nodes
from handoff_dask._scheduling.runs import Run

#: A function that has been running for longer than expected is taken to go on for this share of that time.
_OVERDUE = 0.1


class TimeLeft(NamedTuple):
    """How long a run will go on.

    Attributes
    ----------
    seconds : float
        The longest path, or what the nodes or the limits of the run need for all the work that is left,
        whichever is longer.
    known : float
        For which share of that work functions of the same code have run, or earlier runs tell.
    """

    seconds: float
    known: float


def time_left(run: Run, nodes: Nodes, estimates: Estimates, now: float) -> TimeLeft | None:
    """Estimate it. None while nothing is known of any function that is left.

    What other runs and Dask's own tasks hold at the moment is taken to stay theirs.
    """
    spec = run.spec
    left = [f for f in run.functions if f.state not in FINAL]
    if not left:
        return TimeLeft(0.0, 1.0)
    kinds = spec.kinds
    knows = [bool(spec.seconds) or estimates.knows(kind.code) for kind in kinds]
    kind_of = spec.kind_of
    if not any(knows[kind_of[f.number]] for f in left):
        return None
    learnt = estimates.expected([(kind.code, size) for kind, size in zip(kinds, run.sizes, strict=True)])
    seconds = [0.0] * len(run.functions)
    by_kind = [0.0] * len(kinds)
    own: dict[str, int] = {}
    for f in left:
        k = kind_of[f.number]
        takes = spec.seconds[f.number] if spec.seconds else learnt[k]
        if f.state is State.RUNNING:
            ran = now - f.placed
            takes = max(takes - ran, _OVERDUE * ran)
            if f.booked:
                for name, units in f.cost.items():
                    own[name] = own.get(name, 0) + units
        seconds[f.number] = takes
        by_kind[k] += takes
    most = max(path_lengths(spec.dependents, seconds, [f.number for f in left])) if spec.dependents else 0.0
    asked: dict[str, float] = {}
    limits: dict[str, float] = {}
    for kind, total in zip(kinds, by_kind, strict=True):
        for name, units in kind.node_cost.items():
            asked[name] = asked.get(name, 0.0) + units * total
        for name, units in kind.limit_cost:
            limits[name] = limits.get(name, 0.0) + units * total
    for name, work in asked.items():
        others = sum(node.used.get(name, 0) for node in nodes.ordered) - own.get(name, 0)
        units = max(nodes.total(name) - others, own.get(name, 0))
        if units:
            most = max(most, work / units)
    limit_of = dict(spec.limits)
    for name, work in limits.items():
        most = max(most, work / there) if (there := limit_of.get(name, 0)) else most
    total = sum(by_kind)
    if spec.max_concurrency:
        most = max(most, total / spec.max_concurrency)
    known = sum(seconds for seconds, is_known in zip(by_kind, knows, strict=True) if is_known)
    return TimeLeft(most, known / total if total else 1.0)
