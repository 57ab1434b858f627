"""What nodes lack for a function, in words: a line for all nodes that lack the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from handoff_dask._model.resources import CPU, GPU, MEMORY, THREADS, from_units
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.spec import Amounts

if TYPE_CHECKING:
    from handoff_dask._scheduling.nodes import Nodes
    from handoff_dask._scheduling.queues import Queue

#: Most nodes to name in a line; of more nodes the line has the number.
_MAX_NAMED = 3

#: Most nodes to examine, which takes some microseconds each on the scheduler's event loop.
_MAX_EXAMINED = 200

#: Most lines.
_MAX_LINES = 8


class Lack(NamedTuple):
    """A resource of which a node has too little.

    Attributes
    ----------
    resource : str
    needed : int
        Units that the function asks for.
    available : int
        Units that the node has, in total or free.
    total : int or None
        Units that the node has in total if ``available`` are the free ones; None if they are all it has.
    predicate : str
        The reason in words, if the units do not tell it.
    """

    resource: str
    needed: int
    available: int
    total: int | None = None
    predicate: str = ""

    @property
    def kind(self) -> tuple[str, int, str]:
        """What nodes that share a line have in common."""
        how = "busy" if self.total is not None else "small" if self.available else "absent"
        return self.resource, self.needed, self.predicate or how


#: Why a node cannot start a function: lacks, or predicates and sentences about the node. Empty if it can.
Reasons = tuple[Lack | str, ...]


def reasons_against(node: Node, queue: Queue, nodes: Nodes) -> Reasons:
    """Return why the functions of a queue cannot start on a node now, claims aside."""
    bound = queue.key.bound
    if (bound is not None and node is not bound) or not node.allowed(queue.key.pins):
        return ("is excluded by its pin or collocation",)
    if small := too_small(node, queue.need):
        return small
    if node.name in queue.avoided(nodes):
        return ("it failed there before; other nodes come first",)
    if not node.accepting:
        return ("is paused or retiring",)
    return busy(node, queue.cost)


def too_small(node: Node, need: Amounts) -> tuple[Lack, ...]:
    """Return the resources of which a node has too little in total, absent ones first."""
    lacks = [Lack(r, n, has) for r, n in need.items() if n > (has := node.capacity.get(r, 0))]
    return tuple(sorted(lacks, key=lambda lack: lack.available > 0))


def busy(node: Node, cost: Amounts) -> tuple[Lack, ...]:
    """Return the resources of which a node has too little free capacity to start a function."""

    def lack(resource: str, predicate: str = "") -> Lack:
        total = node.capacity.get(resource, 0)
        return Lack(resource, cost.get(resource, 0), node.available(resource), total, predicate)

    lacks = [lack(r) for r, n in cost.items() if n > node.free.get(r, 0)]
    if lacks:
        # Most nodes have a thread per core, so that threads repeat what cores say.
        by_cores = any(lack.resource == CPU for lack in lacks)
        return tuple([lack for lack in lacks if lack.resource != THREADS or not by_cores])
    if not node.fits(cost):
        return (lack(GPU, f"has {amount(GPU, cost[GPU])} free, but spread over too many devices"),)
    if not node.can_start(cost):
        return (lack(CPU, "prefetched functions may take its cores"),)
    return ()


def lack_lines(nodes: Sequence[Node], need: Amounts) -> tuple[str, ...]:
    """Return lines that say why none of the nodes can ever hold a need."""
    return group_lines(((node.name, too_small(node, need)) for node in nodes), len(nodes))


def group_lines(found: Iterable[tuple[Any, Reasons]], total: int) -> tuple[str, ...]:
    """Return a line for all nodes with the same reasons.

    Parameters
    ----------
    found : iterable of (name, reasons)
        Only the first ``_MAX_EXAMINED`` are examined.
    total : int
        Number of nodes, whether examined or not.
    """
    groups: dict[Any, list[tuple[Any, Reasons]]] = {}
    for name, reasons in islice(found, _MAX_EXAMINED):
        key = tuple([reason.kind if isinstance(reason, Lack) else reason for reason in reasons])
        groups.setdefault(key, []).append((name, reasons))
    listed = list(groups.values())[:_MAX_LINES]
    lines = [_line(members) for members in listed]
    left_out = total - sum(map(len, listed))
    if left_out:
        lines.append(f"... and {left_out:,d} more node{'s' if left_out > 1 else ''}")
    return tuple(lines)


def _line(members: Sequence[tuple[Any, Reasons]]) -> str:
    """Return the line of nodes with the same kinds of reasons."""
    names = [repr(name) for name, _ in members]
    several = len(names) > 1
    subject = f"node{'s' if several else ''} {', '.join(names)}"
    if len(names) > _MAX_NAMED:
        subject = f"{len(names):,d} nodes"
    columns = zip(*[reasons for _, reasons in members], strict=True)
    predicates = [_predicate(column, several) for column in columns]
    colon = "" if predicates[0].startswith(("is ", "are ", "has ", "have ")) else ":"
    return f"{subject}{colon} {'; '.join(predicates)}"


def _predicate(column: Sequence[Lack | str], several: bool) -> str:
    """Return what nodes have in common: a reason of the same kind for each."""
    first, has = column[0], "have" if several else "has"
    if isinstance(first, str) or first.predicate:
        text = first if isinstance(first, str) else first.predicate
        verb, _, rest = text.partition(" ")
        plural = {"is": "are", "has": "have"}.get(verb) if several else None
        return text if plural is None else f"{plural} {rest}"
    lacks = [lack for lack in column if isinstance(lack, Lack)]
    available = _range([lack.available for lack in lacks])
    name, needed = label(first.resource), number(first.needed)
    if first.total is not None:
        totals = _range([lack.total or 0 for lack in lacks])
        return f"{has} {available} of {totals} {name} free (needs {needed})"
    if not first.available:
        return f"{has} no {first.resource}"
    return f"needs {amount(first.resource, first.needed)}, {has} {available}"


def _range(units: Sequence[int]) -> str:
    least, most = min(units), max(units)
    return number(least) if least == most else f"{number(least)} to {number(most)}"


def amount(resource: str, units: int) -> str:
    """Format an amount: ``4 cpu``, ``512 MB memory``."""
    return f"{number(units)} {label(resource)}"


def number(units: int) -> str:
    """Format units as a number, in full up to ten digits."""
    return f"{from_units(units):.10g}"


def label(resource: str) -> str:
    """Return a resource's name after a number, with the unit of memory."""
    return f"MB {resource}" if resource == MEMORY else resource
