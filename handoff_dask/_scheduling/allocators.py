"""Allocators: which of the nodes with room gets a function.

The built-in ones score nodes. An allocator of the user's own is shown what is ready and what is free, and
proposes placements, which are checked.
"""

from __future__ import annotations

import operator
import traceback
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, MutableSequence
from heapq import merge
from itertools import islice
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from handoff_dask._model.allocator import ReadyFunction
from handoff_dask._model.resources import UNIT, format_amounts, from_units
from handoff_dask._scheduling.functions import FunctionState, State
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.nodes import Nodes, Rows, Scores
from handoff_dask._scheduling.pool import Pool
from handoff_dask._scheduling.queues import Entry, Queue
from handoff_dask._scheduling.runs import Run
from handoff_dask._scheduling.spec import Amounts

# ---------------------------------------------------------------------- built-in

#: Results smaller than this are moved without a second thought. Bytes.
HEAVY = 100_000

#: However long a move takes, it counts for no more than so many resources of a node left unused.
_MOST_MOVE = 4.0


def first_available(nodes: Nodes, rows: Rows, cost: Amounts) -> Scores:
    """The first node by name. Handoff: ``lib/handoff/simple_allocator.ex``."""
    return None


def load_balanced(nodes: Nodes, rows: Rows, cost: Amounts) -> Scores:
    """The node that stays least loaded: whose fullest resource is least full afterwards."""
    return nodes.load(rows, cost)


def best_fit(nodes: Nodes, rows: Rows, cost: Amounts) -> Scores:
    """The node with least left over, all resources added up, each in its own unit.

    Resources that were not asked for count too: this keeps functions that need no GPU off the nodes that
    have one, as long as others will do.
    """
    return nodes.slack(rows)


ALLOCATORS: Mapping[str, Callable[[Nodes, Rows, Amounts], Scores]] = {
    "first_available": first_available,
    "load_balanced": load_balanced,
    "best_fit": best_fit,
}


def held_inputs(f: FunctionState) -> dict[Node, int]:
    """Node → bytes of a function's inputs that were computed there."""
    functions = f.run.functions
    held: dict[Node, int] = {}
    for n in f.run.inputs[f.number]:
        g = functions[n]
        if g.nbytes and g.node is not None and g.state is State.FINISHED:
            held[g.node] = held.get(g.node, 0) + g.nbytes
    return held


def move_costs(f: FunctionState, nodes: Nodes, bandwidth: float) -> Callable[[Rows, Scores], Scores] | None:
    """Add the time to move a function's inputs to each node, over the time that it runs, to the scores.

    A move that takes as long as the function counts as much as one resource of a node left unused.

    Parameters
    ----------
    f : FunctionState
    nodes : Nodes
    bandwidth : float
        Bytes per second between two nodes.

    Returns
    -------
    callable or None
        None if the inputs are too small to matter.
    """
    held = held_inputs(f)
    total = sum(held.values())
    if total < HEAVY:
        return None
    scale = 1 / (bandwidth * max(f.run.ranking.expected(f), 1e-3))

    def adjust(rows: Rows, scores: Scores) -> Scores:
        if scores is None:
            return None
        moves = np.full(rows.size, min(_MOST_MOVE, total * scale))
        for node, nbytes in held.items():
            if nodes.by_name.get(node.name) is not node:
                continue
            at = int(np.searchsorted(rows, node.position))
            if at < rows.size and rows[at] == node.position:
                moves[at] = min(_MOST_MOVE, (total - nbytes) * scale)
        adjusted: NDArray[np.float64] = np.round(scores + moves, 9)
        return adjusted

    return adjust


# ---------------------------------------------------------------------- the user's own


class Rejected(NamedTuple):
    """A run's own allocator raised an exception, or proposed what cannot be carried out."""

    run: Run
    reason: str


class ReadyFunctions(MutableSequence[ReadyFunction]):
    """The ready functions of a run, the most urgent first; a list that the allocator may change.

    They are made as they are looked at, so that an allocator pays for no more than it uses.
    """

    def __init__(self, run: Run, nodes: Nodes) -> None:
        queues = [queue for queue in run.backlog.queues.values() if queue.head and queue.is_possible(nodes)]
        self._nodes = nodes
        self._made: list[ReadyFunction] = []
        self._left = merge(*(self._entries(queue) for queue in queues))

    def _entries(self, queue: Queue) -> Iterator[tuple[Entry, tuple[Any, ...] | None]]:
        """Entries of a queue, with the names of the only nodes that may run its functions."""
        nodes = _allowed(queue, self._nodes)
        names = None if nodes is None else tuple(node.name for node in nodes)
        return ((entry, names) for entry in queue.entries())

    def _make(self, upto: int | None = None) -> list[ReadyFunction]:
        missing = None if upto is None else max(0, upto - len(self._made))
        self._made += [_shown(entry[4], names) for entry, names in islice(self._left, missing)]
        return self._made

    def __len__(self) -> int:
        return len(self._make())

    def __bool__(self) -> bool:
        return bool(self._make(1))

    def __iter__(self) -> Iterator[ReadyFunction]:
        at = 0
        while at < len(self._make(at + 1)):
            yield self._made[at]
            at += 1

    @overload
    def __getitem__(self, index: int) -> ReadyFunction: ...
    @overload
    def __getitem__(self, index: slice) -> list[ReadyFunction]: ...
    def __getitem__(self, index: Any) -> Any:
        last = index.stop if isinstance(index, slice) else operator.index(index) + 1
        return self._make(last if last is not None and last > 0 else None)[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._make()[index] = value

    def __delitem__(self, index: Any) -> None:
        del self._make()[index]

    def insert(self, index: int, value: ReadyFunction) -> None:
        """Insert a value."""
        self._make().insert(index, value)

    def __eq__(self, other: object) -> bool:
        return list(self) == other

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._make())


def _allowed(queue: Queue, nodes: Nodes) -> list[Node] | None:
    """The only nodes on which functions of a queue may run, by name; None for any."""
    rows = queue.rows(nodes)
    if rows is None:
        return None
    ordered, avoided = nodes.ordered, queue.avoided(nodes)
    return [node for node in (ordered[row] for row in rows.tolist()) if node.name not in avoided]


class _Proposed(NamedTuple):
    """One function and node that an allocator returned, None where they are unknown; and both in words."""

    text: str
    function: FunctionState | None
    node: Node | None
    allowed: list[Node] | None


def propose(run: Run, nodes: Nodes) -> Iterator[tuple[FunctionState, Node] | Rejected]:
    """Ask the allocator of a run what is to start where.

    Each pair can be carried out when it is yielded, and must have been before the next one is asked for.
    """
    while run.counts[State.READY]:
        ready = ReadyFunctions(run, nodes)
        if not ready:
            return
        proposals = _ask(run, ready, nodes)
        if isinstance(proposals, Rejected):
            yield proposals
            return
        split = False
        for text, f, node, allowed in proposals:
            if f is None:
                yield Rejected(run, f"{text}: that is none of the ready functions")
                return
            if node is None:
                accepting = _names(n for n in nodes.ordered if n.accepting)
                yield Rejected(run, f"{text}: the nodes are {accepting}")
                return
            if allowed is not None and node not in allowed:
                yield Rejected(run, f"{text}: the nodes that may run it are {_names(allowed)}")
                return
            if f.group is not None and f.group.node not in (None, node):
                split = True  # this very proposal has put another one of its group elsewhere
                continue
            if run.limits is not None and not run.limits.fits(f.limit_cost):
                continue
            if not Pool.fits(node, f.cost):
                asked = format_amounts({r: from_units(units) for r, units in f.cost.items()})
                left = format_amounts({r: from_units(node.available(r)) for r in f.cost})
                yield Rejected(run, f"{text}: that takes {asked}, but free are {left}")
                return
            if node.takes(f.cost):  # if not, it is for reasons that the allocator was not shown
                yield f, node
        if not split:
            return


def _ask(run: Run, ready: ReadyFunctions, nodes: Nodes) -> list[_Proposed] | Rejected:
    """The allocator's answer."""
    allocator = run.spec.strategy
    allocate = getattr(allocator, "allocate", allocator)
    free = {node.name: _free(node) for node in nodes.ordered if node.accepting}
    try:
        answer = allocate(ready, free)
        if not isinstance(answer, Mapping):
            return Rejected(run, f"it returned {answer!r}, not a mapping of function ids to node names")
        # Here, since values of other people's types need not even be hashable or have a repr.
        return [_proposed(run, id, name, nodes) for id, name in answer.items()]
    except (Exception, SystemExit) as error:  # a scheduler does not end because an allocator says so
        summary = "".join(traceback.format_exception_only(error)).strip()
        return Rejected(run, f"it raised {summary}\n{''.join(traceback.format_exception(error))}")


def _proposed(run: Run, id: Hashable, name: Hashable, nodes: Nodes) -> _Proposed:
    text = f"it placed {id!r} on {name!r}"
    node = nodes.by_name.get(name)
    if node is not None and not node.accepting:
        node = None
    number = run.number_of.get(id)
    f = None if number is None else run.functions[number]
    if f is None or f.state is not State.READY:
        return _Proposed(text, None, node, None)
    queue = run.backlog.queue_of(f)
    if not queue.is_possible(nodes):
        return _Proposed(text, None, node, None)
    return _Proposed(text, f, node, _allowed(queue, nodes))


def _free(node: Node) -> dict[str, float]:
    return {r: _exact(node.available(r)) for r, units in node.capacity.items() if units}


def _exact(units: int) -> float:
    """Not rounded, so that sums of what an allocator is shown come out right."""
    whole, rest = divmod(units, UNIT)
    return units / UNIT if rest else whole


def _shown(f: FunctionState, nodes: tuple[Any, ...] | None) -> ReadyFunction:
    return ReadyFunction(
        f.id,
        {r: _exact(units) for r, units in f.cost.items()},
        nodes,
        {node.name: nbytes for node, nbytes in held_inputs(f).items()},
        f.kind.priority,
        f.queued or 0.0,
    )


def _names(nodes: Iterable[Node]) -> str:
    return ", ".join(repr(node.name) for node in nodes) or "none"
