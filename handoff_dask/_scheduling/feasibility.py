"""Whether functions can ever be placed, and what is missing where they cannot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from handoff_dask._model.records import Shortfall
from handoff_dask._model.resources import GPU, THREADS, from_units
from handoff_dask._scheduling.functions import FunctionState
from handoff_dask._scheduling.ledger import Devices, Node
from handoff_dask._scheduling.runs import CONCURRENCY, Run
from handoff_dask._scheduling.spec import Amounts

Need = tuple[tuple[str, int], ...]


def find_shortfalls(run: Run, nodes: Sequence[Node]) -> tuple[Shortfall, ...]:
    """What of a run no node could hold even if nothing else ran there: one for each kind of need."""
    found = []
    for (need, pins), functions in _by_need(run.functions).items():
        amounts = dict(need)
        shortfall = shortfall_of(functions, amounts, pins, nodes)
        if shortfall is not None:
            found.append(shortfall)
    if run.limits is not None:
        by_kind: dict[int, list[FunctionState]] = {}
        for f in run.functions:
            by_kind.setdefault(id(f.limit_cost), []).append(f)
        for functions in by_kind.values():
            cost = functions[0].limit_cost
            if not run.limits.holds(cost):
                asked = _shown({name: units for name, units in cost.items() if name != CONCURRENCY})
                limits = _shown({name: run.limits.capacity[name] for name in asked})
                found.append(
                    Shortfall(
                        tuple(f.id for f in functions),
                        asked,
                        None,
                        {},
                        f"asks for more than the run's limits, {limits}, allow at once",
                    )
                )
    return tuple(found)


def _by_need(
    functions: Iterable[FunctionState],
) -> dict[tuple[Need, frozenset[str] | None], list[FunctionState]]:
    needs: dict[tuple[Need, frozenset[str] | None], list[FunctionState]] = {}
    known: dict[int, tuple[Need, frozenset[str] | None]] = {}  # by identity: few kinds, many functions
    for f in functions:
        source = f.group if f.group is not None else f.kind
        key = known.get(id(source))
        if key is None:
            need = tuple(sorted((f.cost if f.group is None else f.group.need).items()))
            if f.group is not None:
                pins = f.group.pins
            else:
                pins = None if f.kind.pins is None else frozenset(f.kind.pins)
            key = known[id(source)] = (need, pins)
        needs.setdefault(key, []).append(f)
    return needs


def shortfall_of(
    functions: Sequence[FunctionState], need: Amounts, pins: frozenset[str] | None, nodes: Sequence[Node]
) -> Shortfall | None:
    """The shortfall of functions with this need, None when some node can hold it."""
    allowed = [n for n in nodes if pins is None or not pins.isdisjoint(n.aliases)]
    if any(n.holds(need) for n in allowed):
        return None
    names = ", ".join(repr(n.name) for n in nodes) or "none"
    nearest = max(allowed, key=lambda n: _coverage(n, need), default=None)
    if not nodes:
        reason = "the cluster has no nodes"
    elif pins is not None and not pins:
        reason = "its collocated functions are pinned to different nodes"
    elif nearest is None:
        called = " or ".join(repr(p) for p in sorted(pins or ()))
        reason = f"pinned to {called}, but the nodes are {names}"
    elif pins is not None:
        reason = "too much for the nodes it is pinned to"
    else:
        reason = "too much for every node"
    shown = {name: units for name, units in need.items() if name != THREADS}
    offered = {} if nearest is None else _shown({name: nearest.capacity.get(name, 0) for name in shown})
    return Shortfall(
        tuple(f.id for f in functions),
        _shown(shown),
        None if nearest is None else nearest.name,
        offered,
        reason,
    )


def _coverage(node: Node, need: Amounts) -> tuple[int, float]:
    """How near a node comes: resources that it has enough of, then the shares it has of the others."""
    shares = [min(1.0, node.capacity.get(name, 0) / units) for name, units in need.items()]
    if GPU in need and Devices(node.capacity.get(GPU, 0)).choose(need[GPU]) is None:
        shares.append(0.0)
    return sum(share == 1.0 for share in shares), sum(shares)


def _shown(amounts: Mapping[str, int]) -> dict[str, float]:
    return {name: from_units(units) for name, units in amounts.items()}
