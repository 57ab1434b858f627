"""Runs with an allocator of their own: what it is shown, and whether what it proposes can be done."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from handoff_dask._model.allocator import ReadyFunction
from handoff_dask._model.resources import UNIT, format_amounts, from_units
from handoff_dask._scheduling.functions import FunctionState, State
from handoff_dask._scheduling.ledger import Node, Pool
from handoff_dask._scheduling.locality import held_inputs
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
    ordered = sorted(nodes.values(), key=lambda node: str(node.name))
    allowed: dict[FunctionState, Sequence[Any] | None] = {}
    for queue in queues:
        names: Sequence[Any] | None = None
        if queue.restricted or queue.need is not queue.cost:
            names = tuple(node.name for node in ordered if admits(queue, node))
        allowed.update((f, names) for f in queue)
    ready = sorted(allowed, key=urgency_of)
    while ready:
        open_nodes = [node for node in ordered if node.accepting]
        proposal = _ask(run, ready, allowed, open_nodes)
        if isinstance(proposal, Rejected):
            yield proposal
            return
        split = False
        for text, f, node in proposal:
            if f is None:
                yield Rejected(run, f"{text}: that is none of the ready functions")
                return
            if f.state is not State.READY:
                continue  # its run has ended meanwhile
            if node is None:
                yield Rejected(run, f"{text}: the nodes are {_names(n.name for n in open_nodes)}")
                return
            names = allowed[f]
            if names is not None and node.name not in names:
                yield Rejected(run, f"{text}: the nodes that may run it are {_names(names)}")
                return
            if f.group is not None and f.group.node not in (None, node):
                split = True  # this very proposal has put another one of its group elsewhere
                continue
            if run.limits is not None and not run.limits.fits(f.limit_cost):
                continue
            if not Pool.fits(node, f.cost):
                asked = format_amounts({r: from_units(units) for r, units in f.cost.items()})
                left = format_amounts({r: from_units(node.free(r)) for r in f.cost})
                yield Rejected(run, f"{text}: that takes {asked}, but free are {left}")
                return
            if node.takes(f.cost):  # if not, it is for reasons that the allocator was not shown
                yield f, node
        if not split:
            return
        ready = [f for f in ready if f.state is State.READY]
        for f in ready:
            if f.group is not None and f.group.node is not None:
                allowed[f] = (f.group.node.name,)


def _ask(
    run: Run,
    ready: Sequence[FunctionState],
    allowed: Mapping[FunctionState, Sequence[Any] | None],
    nodes: Sequence[Node],
) -> list[tuple[str, FunctionState | None, Node | None]] | Rejected:
    """What the allocator answers, in words and as functions and nodes where these are known."""
    allocator = run.spec.strategy
    allocate = getattr(allocator, "allocate", allocator)
    functions = {f.id: f for f in ready}
    by_name = {node.name: node for node in nodes}
    try:
        answer = allocate([_shown(f, allowed[f]) for f in ready], {n.name: _free(n) for n in nodes})
        if not isinstance(answer, Mapping):
            return Rejected(run, f"it returned {answer!r}, not a mapping of function ids to node names")
        # Here, since values of other people's types need not even be hashable or have a repr.
        return [
            (f"it placed {id!r} on {name!r}", functions.get(id), by_name.get(name))
            for id, name in answer.items()
        ]
    except (Exception, SystemExit) as error:  # a scheduler does not end because an allocator says so
        summary = "".join(traceback.format_exception_only(error)).strip()
        return Rejected(run, f"it raised {summary}\n{''.join(traceback.format_exception(error))}")


def _free(node: Node) -> dict[str, float]:
    return {r: _exact(node.free(r)) for r, units in node.capacity.items() if units}


def _exact(units: int) -> float:
    """Not rounded, so that sums of what an allocator is shown come out right."""
    whole, rest = divmod(units, UNIT)
    return units / UNIT if rest else whole


def _shown(f: FunctionState, nodes: Sequence[Any] | None) -> ReadyFunction:
    return ReadyFunction(
        f.id,
        {r: _exact(units) for r, units in f.cost.items()},
        None if nodes is None else tuple(nodes),
        {node.name: nbytes for node, nbytes in held_inputs(f).items()},
        f.kind.priority,
        f.queued or 0.0,
    )


def _names(nodes: Iterable[Any]) -> str:
    return ", ".join(repr(name) for name in nodes) or "none"
