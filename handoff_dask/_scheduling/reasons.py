"""What a function waits for, in a few words: functions that wait for the same thing form a group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from handoff_dask._model.resources import CPU, THREADS
from handoff_dask._scheduling.custom import Custom
from handoff_dask._scheduling.functions import FunctionState
from handoff_dask._scheduling.lacks import busy
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
    nodes, queue = state.placement.nodes, run.backlog.queue_of(f)
    ordered = nodes.ordered
    able = [n for n in ordered[:_MAX_NODES] if n.holds(queue.need) and queue.admits(n, nodes)]
    if not able:
        return "an eligible node" if len(ordered) <= _MAX_NODES else "one of very many nodes"
    accepting = [node for node in able if node.accepting]
    if not accepting:
        return f"{_nodes(len(able))} to accept functions again (paused or retiring)"
    short = [{lack.resource for lack in busy(node, f.cost)} for node in accepting]
    if not all(short):
        return "capacity that more urgent functions have claimed"
    everywhere = set.intersection(*short)
    names = everywhere or set.union(*short)
    if CPU in names:
        names.discard(THREADS)  # every function takes a thread, and most nodes have one per core
    return f"{(' and ' if everywhere else ' or ').join(sorted(names))}, on {_nodes(len(accepting))}"


def _nodes(n: int) -> str:
    return f"{n} node{'' if n == 1 else 's'}"
