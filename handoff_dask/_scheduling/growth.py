"""Growth of costs: after running out of memory, a function asks for more at its next attempt."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from handoff_dask._model.resources import from_units
from handoff_dask._scheduling.functions import FunctionState
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.spec import Amounts


def can_grow(f: FunctionState) -> bool:
    """Return whether the retry policy of a function lets any resource grow that the function asks for."""
    return any(name in f.cost for name in f.kind.policy.grow)


def grown_amounts(f: FunctionState, nodes: Iterable[Node]) -> dict[str, int]:
    """Return the amounts for which a function asks next, by the factors of its retry policy.

    The amounts grow at most to what one of the nodes offers that may run the function: the one that offers
    most of what it would ask for without this bound.

    Returns
    -------
    dict of str to int
        Resource → units. Empty if no amount can grow.
    """
    factors: Mapping[str, float] = f.kind.policy.grow
    pins = f.kind.pin_sets if f.group is None else f.group.pins
    wanted = {name: math.ceil(f.cost[name] * factor) for name, factor in factors.items() if f.cost.get(name)}
    best: dict[str, int] = {}
    most = 0.0
    for node in nodes:
        if node.allowed(pins) and node.holds(f.cost):
            offered = {name: min(units, node.capacity[name]) for name, units in wanted.items()}
            share = math.fsum(offered[name] / units for name, units in wanted.items())
            if share > most:
                most, best = share, offered
    return {name: units for name, units in best.items() if units > f.cost[name]}


def grow(f: FunctionState, grown: Amounts) -> None:
    """Let a function without an allocation ask for grown amounts, if there are any."""
    if not grown:
        return
    f.cost = {**f.cost, **grown}
    asked = dict(f.kind.asked) if f.asked is None else f.asked
    f.asked = {**asked, **{name: from_units(units) for name, units in grown.items()}}
    if f.group is not None:
        f.group.need = _larger(f.group.need, f.cost)


def _larger(need: Amounts, cost: Amounts) -> dict[str, int]:
    return {name: max(need.get(name, 0), cost.get(name, 0)) for name in {**need, **cost}}
