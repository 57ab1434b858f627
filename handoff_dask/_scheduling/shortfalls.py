"""The text of shortfalls: which nodes rule out a function, why, and the remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from handoff_dask._model.records import Shortfall
from handoff_dask._model.resources import (
    GPU,
    MEMORY,
    THREADS,
    format_amounts,
    from_units,
    hint_at_bytes,
)
from handoff_dask._scheduling.functions import FunctionState
from handoff_dask._scheduling.lacks import lack_lines
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.runs import CONCURRENCY
from handoff_dask._scheduling.spec import Amounts, Pins
from handoff_dask._suggest import suggestion

#: Most names of nodes to list.
_MAX_NAMES = 8

#: The last remedy of a run that has not started, and of one whose nodes have left.
_WAIT = "or pass wait_for_nodes=SECONDS if such a node is about to join."
_WAIT_LONGER = "or increase handoff.node-timeout if such a node will rejoin."

#: The reason of a shortfall on a cluster without nodes.
_NO_NODES = "the cluster has no nodes"

_BYTES = 'Give memory in MB, or as a string with a unit, such as "4GB".'


def shortfall_of(
    functions: Sequence[FunctionState],
    need: Amounts,
    pins: Pins,
    nodes: Sequence[Node],
    *,
    started: bool = False,
) -> Shortfall | None:
    """Return the shortfall of functions that share a need, None if a node can hold it.

    Parameters
    ----------
    functions : sequence of FunctionState
    need : mapping
        Resource → units that a node must have in total.
    pins : Pins
    nodes : sequence of Node
    started : bool
        Whether the run has started, so that it is too late for some remedies.
    """
    allowed = [n for n in nodes if n.allowed(pins)]
    if any(n.holds(need) for n in allowed):
        return None
    nearest = max(allowed, key=lambda n: _coverage(n, need), default=None)
    wait = _WAIT_LONGER if started else _WAIT
    asked = {name: units for name, units in need.items() if name != THREADS}
    lines = lack_lines(allowed, need)
    absent = _absent(asked, allowed)
    if not nodes:
        reason, remedy = _NO_NODES, f"Start a worker (`dask worker ADDRESS`), {wait}"
    elif nearest is None:
        reason, remedy = _not_allowed(pins, nodes, wait)
    elif absent:
        reason, remedy = _absent_everywhere(functions[0], absent, pins, allowed, wait)
        lines = lines if len(lines) > 1 else ()  # the reason says it all
    else:
        reason, remedy = _too_large(functions[0], pins, wait)
    other = next((n for n in nodes if n.holds(need)), None)
    if nearest is not None and other is not None:  # only the pins rule it out
        remedy = f"Pin the functions to a node that can hold them, such as {other.name!r}"
        remedy += "." if absent else ", or lower the cost."
    amounts = _to_amounts(asked)
    if nearest is not None and (hint := hint_at_bytes(amounts)) is not None:
        reason, remedy = f"{reason} ({hint})", _BYTES
    return Shortfall(
        tuple(f.id for f in functions),
        amounts,
        None if nearest is None else nearest.name,
        {} if nearest is None else _to_amounts({name: nearest.capacity.get(name, 0) for name in asked}),
        reason,
        lines,
        _awaited(asked, pins, allowed),
        remedy,
    )


def after_waiting(shortfall: Shortfall, seconds: float, lost: int) -> Shortfall:
    """Return the shortfall of functions that have waited for a node during their run.

    Parameters
    ----------
    shortfall : Shortfall
    seconds : float
        How long they have waited.
    lost : int
        Number of attempts of one of the functions that were lost with their nodes.
    """
    reason = shortfall.reason
    if lost > 1:  # the function itself may take its nodes down
        reason += f", after {lost} of its attempts were lost with their nodes"
    which = "none" if shortfall.reason == _NO_NODES else "no suitable node"
    reason += f"; {which} has joined for {seconds:g} s (handoff.node-timeout)"
    return replace(shortfall, reason=reason, waited=seconds)


def limit_shortfall(functions: Sequence[FunctionState], cost: Amounts, limits: Amounts) -> Shortfall:
    """Return the shortfall of functions whose cost exceeds the limits of their run."""
    asked = _to_amounts({name: units for name, units in cost.items() if name != CONCURRENCY})
    listed = format_amounts(_to_amounts({name: limits[name] for name in asked}))
    return Shortfall(
        tuple(f.id for f in functions),
        asked,
        None,
        {},
        f"too large for the run's limits ({listed})",
        remedy="Lower the cost, or raise the limit (limits=).",
    )


def _not_allowed(pins: Pins, nodes: Sequence[Node], wait: str) -> tuple[str, str]:
    """Return why no node satisfies the pins, and the remedy."""
    called = " and ".join(sorted(" or ".join(repr(name) for name in sorted(pin)) for pin in pins))
    unknown = [pin for pin in pins if not any(n.allowed(frozenset({pin})) for n in nodes)]
    if not unknown:
        reason = f"its collocation group is pinned to different nodes: {called}"
        return reason, "Pin all functions of a collocation group to the same node, or do not collocate them."
    names = ", ".join(repr(n.name) for n in nodes[:_MAX_NAMES])
    more = f" and {len(nodes) - _MAX_NAMES:,d} more" if len(nodes) > _MAX_NAMES else ""
    hints = [suggestion(name, [n.name for n in nodes]) for pin in unknown for name in sorted(pin)]
    hint = next((hint for hint in hints if hint), "")
    remedy = f"Correct the pin (node=), start a worker of that name (`dask worker --name NAME`), {wait}"
    return f"pinned to {called}, but the nodes are {names}{more}{_in_parentheses(hint)}", remedy


def _in_parentheses(hint: str) -> str:
    return hint and f" ({hint.removeprefix('; ')})"


def _absent(asked: Amounts, nodes: Sequence[Node]) -> list[str]:
    """Return the resources that no node has: perhaps their names are misspelt."""
    offered = _offered(nodes)
    return [name for name in asked if name not in offered]


def _offered(nodes: Sequence[Node]) -> set[str]:
    return {name for n in nodes for name, units in n.capacity.items() if units and name != THREADS}


def _absent_everywhere(
    f: FunctionState, absent: Sequence[str], pins: Pins, nodes: Sequence[Node], wait: str
) -> tuple[str, str]:
    """Return which resources no allowed node has, and the remedy."""
    offered = sorted(_offered(nodes))
    known = [*offered, *(f.run.limits.capacity if f.run.limits is not None else ())]
    hint = next((hint for name in absent if (hint := suggestion(name, known))), "")
    which = "no node it is pinned to" if pins else "no node"
    names = " or ".join(map(repr, absent))
    reason = f"{which} has {names} (available: {', '.join(offered) or 'nothing'}{hint})"
    if hint:
        return reason, "Use the same name of the resource in costs, on workers and in limits."
    if pins:
        return reason, f"Pin the functions to a node that has {names}, {wait}"
    example = ",".join(f"{name}=1" for name in absent)
    limit = ""
    if absent[0] not in (GPU, MEMORY):
        limit = f" declare it as a limit (limits={{{absent[0]!r}: 1}}) if the whole cluster shares it,"
    return reason, f'Add a node that offers {names} (`dask worker --resources "{example}"`),{limit} {wait}'


def _too_large(f: FunctionState, pins: Pins, wait: str) -> tuple[str, str]:
    """Return that the allowed nodes are too small, and the remedy."""
    if pins:
        remedy = "Pin the functions to a larger node, or lower the cost."
        return "too large for the nodes it is pinned to", remedy
    remedy = f"add a node that offers enough (`dask worker --resources ...`), {wait}"
    if f.group is not None and len(f.group.members) > 1:
        return "too large for every node", f"Lower the cost, collocate fewer functions, {remedy}"
    return "too large for every node", f"Lower the cost, {remedy}"


def _awaited(need: Amounts, pins: Pins, nodes: Sequence[Node]) -> str:
    """Describe the missing node: its name, and the resources of which no given node has enough."""
    lacking = {r: units for r, units in need.items() if all(n.capacity.get(r, 0) < units for n in nodes)}
    amounts = _to_amounts(lacking or need)
    names = " and ".join(sorted(" or ".join(map(repr, sorted(pin))) for pin in pins))
    return (f"node {names}" if pins else "a node") + (f" with {format_amounts(amounts)}" if amounts else "")


def _coverage(node: Node, need: Amounts) -> tuple[int, float]:
    """Return how close a node comes to a need: the number of resources it satisfies, then total fractions."""
    shares = [min(1.0, node.capacity.get(name, 0) / units) for name, units in need.items()]
    return sum(share == 1.0 for share in shares), sum(shares)


def _to_amounts(amounts: Mapping[str, int]) -> dict[str, float]:
    return {name: from_units(units) for name, units in amounts.items()}
