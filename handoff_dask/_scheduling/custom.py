"""Custom allocators: the user's code chooses functions and nodes, and its proposals are validated."""

from __future__ import annotations

import operator
import traceback
from collections.abc import Hashable, Iterable, Iterator, Mapping, MutableSequence
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from handoff_dask._model.allocator import ReadyFunction
from handoff_dask._model.resources import UNIT, format_amounts, from_units
from handoff_dask._scheduling.allocators import Proposal, Rejected, View, held_inputs
from handoff_dask._scheduling.functions import FunctionState, State
from handoff_dask._scheduling.node import Node, Pool
from handoff_dask._scheduling.nodes import Nodes
from handoff_dask._scheduling.queues import Entry, Queue

if TYPE_CHECKING:
    from handoff_dask._scheduling.runs import Run


class Custom:
    """An allocator that calls a user's code and validates its proposals.

    Parameters
    ----------
    run : Run
    allocator : handoff_dask.Allocator or callable
    """

    once = True

    def __init__(self, run: Run, allocator: Any) -> None:
        self._run = run
        self._allocator = allocator

    def propose(self, queue: Queue, view: View) -> Iterator[Proposal | Rejected]:
        """Propose the placements that the user's allocator chooses among all ready functions of the run."""
        run, nodes = self._run, view.nodes
        split = True
        while split and run.counts[State.READY]:
            split = False
            ready = ReadyFunctions(run, nodes)
            if not ready:
                return
            answer = self._ask(ready, nodes)
            if isinstance(answer, Rejected):
                yield answer
                return
            for choice in answer:
                if (fault := choice.fault(nodes)) is not None:
                    yield Rejected(run, f"{choice.text}: {fault}")
                    return
                f, node = choice.function, choice.node
                assert f is not None
                assert node is not None
                if f.group is not None and f.group.node not in (None, node):
                    split = True  # an earlier choice bound its group to another node: ask again
                elif run.limits is not None and not run.limits.fits(f.limit_cost):
                    pass  # it waits for the run's limits
                elif not Pool.fits(node, f.cost):
                    asked = format_amounts({r: from_units(units) for r, units in f.cost.items()})
                    free = format_amounts({r: from_units(node.available(r)) for r in f.cost})
                    yield Rejected(run, f"{choice.text}: asked: {asked}; free: {free}")
                    return
                elif node.can_start(
                    f.cost
                ):  # devices or prefetched functions, which the allocator cannot see
                    yield Proposal(run.backlog.queue_of(f), f, node)

    def _ask(self, ready: ReadyFunctions, nodes: Nodes) -> list[_Choice] | Rejected:
        """Call the user's allocator and return its choices."""
        free = {node.name: _free(node) for node in nodes.ordered if node.accepting}
        try:
            allocate = getattr(self._allocator, "allocate", self._allocator)
            answer = allocate(ready, free)
            if not isinstance(answer, Mapping):
                reason = f"it returned {answer!r} instead of a mapping of function ids to node names"
                return Rejected(self._run, reason)
            # Inside the `try`, because hashing or printing values of the user's types may fail.
            return [self._choice(id, name, nodes) for id, name in answer.items()]
        except (Exception, SystemExit) as error:  # the scheduler must survive any failure of an allocator
            summary = "".join(traceback.format_exception_only(error)).strip()
            return Rejected(self._run, f"it raised {summary}\n{''.join(traceback.format_exception(error))}")

    def _choice(self, id: Hashable, name: Hashable, nodes: Nodes) -> _Choice:
        """Look up the function and the node of a choice."""
        run = self._run
        text = f"it placed {id!r} on {name!r}"
        node = nodes.by_name.get(name)
        if node is not None and not node.accepting:
            node = None
        number = run.number_of.get(id)
        f = None if number is None else run.functions[number]
        if f is None or f.state is not State.READY:
            return _Choice(text, None, node, None)
        queue = run.backlog.queue_of(f)
        if not queue.is_feasible(nodes):
            return _Choice(text, None, node, None)
        return _Choice(text, f, node, _allowed(queue, nodes))


class _Choice(NamedTuple):
    """A function and a node that an allocator has chosen.

    Attributes
    ----------
    text : str
        The choice, for error messages.
    function : FunctionState or None
        None if there is no ready function of this id.
    node : Node or None
        None if no node of this name accepts functions.
    allowed : list of Node or None
        The only nodes on which the function may run; None for any.
    """

    text: str
    function: FunctionState | None
    node: Node | None
    allowed: list[Node] | None

    def fault(self, nodes: Nodes) -> str | None:
        """Return why the choice is invalid regardless of free capacity, None if it is valid."""
        if self.function is None:
            return "no ready function has this id"
        if self.node is None:
            names = _names(n for n in nodes.ordered if n.accepting)
            return f"the nodes that accept functions are {names}"
        if self.allowed is not None and self.node not in self.allowed:
            return f"the only nodes that may run it are {_names(self.allowed)}"
        return None


class ReadyFunctions(MutableSequence[ReadyFunction]):
    """The ready functions of a run, the most urgent first, as a list that the allocator may modify.

    Items are created on access, so that an allocator pays only for the functions that it reads.
    """

    def __init__(self, run: Run, nodes: Nodes) -> None:
        queues = [queue for queue in run.backlog.queues.values() if queue.head and queue.is_feasible(nodes)]
        self._nodes = nodes
        self._made: list[ReadyFunction] = []
        self._left = merge(*(self._entries(queue) for queue in queues))

    def _entries(self, queue: Queue) -> Iterator[tuple[Entry, tuple[Any, ...] | None]]:
        """Return the entries of a queue, with the names of the only nodes that may run its functions."""
        nodes = _allowed(queue, self._nodes)
        names = None if nodes is None else tuple(node.name for node in nodes)
        return ((entry, names) for entry in queue.entries())

    def _make(self, upto: int | None = None) -> list[ReadyFunction]:
        missing = None if upto is None else max(0, upto - len(self._made))
        self._made += [_ready_function(entry[4], names) for entry, names in islice(self._left, missing)]
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
    """Return the only nodes on which functions of a queue may run, sorted by name; None for any."""
    rows = queue.rows(nodes)
    if rows is None:
        return None
    ordered, avoided = nodes.ordered, queue.avoided(nodes)
    return [node for node in (ordered[row] for row in rows.tolist()) if node.name not in avoided]


def _free(node: Node) -> dict[str, float]:
    return {r: _exact(node.available(r)) for r, units in node.capacity.items() if units}


def _exact(units: int) -> float:
    """Convert units without rounding, so that an allocator's sums and differences come out exact."""
    whole, rest = divmod(units, UNIT)
    return units / UNIT if rest else whole


def _ready_function(f: FunctionState, nodes: tuple[Any, ...] | None) -> ReadyFunction:
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
