"""What a function waits for, in a few words: functions that wait for the same thing form a group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from handoff_dask._model.resources import CPU, GPU, THREADS
from handoff_dask._scheduling.custom import Custom
from handoff_dask._scheduling.functions import FunctionState
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.runs import CONCURRENCY, RunStatus

if TYPE_CHECKING:
    from handoff_dask._scheduling.state import SchedulingState

#: Maximum number of nodes to inspect: there may be thousands.
_MAX_NODES = 32


def reason(state: SchedulingState, f: FunctionState) -> str:
    """Return what a ready function waits for.

    Parameters
    ----------
    state : SchedulingState
    f : FunctionState
        A ready function, or one of a pending run.

    Returns
    -------
    str
        A noun phrase, such as ``"gpu, on 1 node"``. It does not name the function.
    """
    run = f.run
    if run.status is RunStatus.PENDING:
        return "nodes that can hold all functions of its run"
    if run.limits is not None and not run.limits.fits(f.limit_cost):
        free = run.limits.free
        reached = [name for name, units in f.limit_cost.items() if units > free.get(name, 0)]
        return " and ".join(
            sorted("max_concurrency" if name == CONCURRENCY else f"limit {name!r}" for name in reached)
        )
    if isinstance(run.allocator, Custom):
        return "the run's custom allocator"
    ordered = state.placement.nodes.ordered
    able = [node for node in ordered[:_MAX_NODES] if _can_hold(f, node)]
    if not able:
        return "an eligible node" if len(ordered) <= _MAX_NODES else "one of very many nodes"
    accepting = [node for node in able if node.accepting]
    if not accepting:
        return f"{_nodes(len(able))} to accept functions again (paused or retiring)"
    short = [_short(f, node) for node in accepting]
    if not all(short):
        return "capacity that more urgent functions have claimed"
    everywhere = set.intersection(*short)
    names = everywhere or set.union(*short)
    if CPU in names:
        names.discard(THREADS)  # every function takes a thread, and most nodes have one per core
    return f"{(' and ' if everywhere else ' or ').join(sorted(names))}, on {_nodes(len(accepting))}"


def _nodes(n: int) -> str:
    return f"{n} node{'' if n == 1 else 's'}"


def _can_hold(f: FunctionState, node: Node) -> bool:
    need, pins = (f.cost, f.kind.pin_sets) if f.group is None else (f.group.need, f.group.pins)
    if f.group is not None and f.group.node is not None:
        return node is f.group.node
    if f.retry is not None and node.name in f.retry.avoid:
        return False
    return node.allowed(pins) and node.holds(need)


def _short(f: FunctionState, node: Node) -> set[str]:
    """Return the resources of which a node has too little free capacity for a function."""
    short = {name for name, units in f.cost.items() if units > node.free.get(name, 0)}
    if not short and not node.fits(f.cost):
        short.add(GPU)  # free, but spread over too many devices
    if not short and not node.can_start(f.cost):
        short.add(CPU)  # prefetched functions may take the cores
    return short
