"""Runs with an allocator of their own: what it is shown, and whether what it proposes can be done."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from handoff_dask._model.allocator import ReadyFunction
from handoff_dask._model.resources import format_amounts, from_units
from handoff_dask._scheduling.functions import FunctionState, State
from handoff_dask._scheduling.ledger import Node
from handoff_dask._scheduling.queues import Queue, urgency_of
from handoff_dask._scheduling.runs import Run


class Rejected(NamedTuple):
    """The run's allocator raised an exception, or proposed what cannot be done."""

    run: Run
    reason: str


def propose(
    run: Run, queues: Iterable[Queue], nodes: Mapping[Any, Node], admits: Callable[[Queue, Node], bool]
) -> Iterator[tuple[FunctionState, Node] | Rejected]:
    """Ask the allocator of a run what is to start where.

    Each pair can be carried out when it is yielded, and must have been before the next one is asked for.

    Parameters
    ----------
    run : Run
    queues : iterable of Queue
        Those in which its functions wait.
    nodes : mapping of name to Node
    admits : callable
        Whether a node is one of those that could hold a queue's functions.
    """
    waiting = {f: queue for queue in queues for f in queue}
    if not waiting:
        return
    ready = sorted(waiting, key=urgency_of)
    free = {
        name: {r: from_units(node.free(r)) for r, units in node.capacity.items() if units}
        for name, node in nodes.items()
        if node.accepting
    }
    allocator = run.spec.strategy
    allocate = getattr(allocator, "allocate", allocator)
    try:
        proposal = dict(allocate([_shown(f, waiting[f]) for f in ready], free))
    except Exception as error:
        text = "".join(traceback.format_exception(error))
        yield Rejected(run, f"it raised {type(error).__name__}: {error}\n{text}")
        return
    known = {f.id: f for f in ready}
    for id, name in proposal.items():
        f = known.get(id)
        if f is None:
            yield Rejected(run, f"it placed {id!r}, which is not among the ready functions")
            return
        if f.state is not State.READY:
            continue  # its run has ended meanwhile
        node = nodes.get(name)
        if node is None or not node.accepting:
            yield Rejected(run, f"it placed {id!r} on {name!r}; the nodes are {_names(free)}")
            return
        if not admits(waiting[f], node) or (f.group and f.group.node not in (None, node)):
            yield Rejected(run, f"it placed {id!r} on {name!r}, where the function may not run or never fits")
            return
        if run.limits is not None and not run.limits.fits(f.limit_cost):
            continue
        if not node.takes(f.cost):
            asked = format_amounts({r: from_units(units) for r, units in f.cost.items()})
            left = format_amounts({r: from_units(node.free(r)) for r in f.cost})
            yield Rejected(run, f"it placed {id!r} on {name!r}: that takes {asked}, but free are {left}")
            return
        yield f, node


def _shown(f: FunctionState, queue: Queue) -> ReadyFunction:
    held: dict[Any, int] = {}
    for n in f.run.inputs[f.number]:
        g = f.run.functions[n]
        if g.node is not None and g.nbytes:
            held[g.node.name] = held.get(g.node.name, 0) + g.nbytes
    return ReadyFunction(
        f.id,
        {r: from_units(units) for r, units in f.cost.items()},
        tuple(node.name for node in queue.eligible) if queue.restricted else None,
        held,
        f.kind.priority,
        f.queued or 0.0,
    )


def _names(nodes: Iterable[Any]) -> str:
    return ", ".join(repr(name) for name in nodes) or "none"
