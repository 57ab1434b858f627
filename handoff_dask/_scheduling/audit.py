"""Whether the books are right, and what is written down of attempts."""

from __future__ import annotations

from collections.abc import Iterable

from handoff_dask._scheduling.functions import State
from handoff_dask._scheduling.ledger import Node
from handoff_dask._scheduling.runs import Run
from handoff_dask._scheduling.spec import Amounts


def check_ledger(nodes: Iterable[Node], runs: Iterable[Run]) -> None:
    """Raise AssertionError unless what is booked is what functions hold that run, or go on running."""
    nodes = list(nodes)
    for node in nodes:
        for f in node.running:
            assert f.state is State.RUNNING, f
            assert f.node is node, f
            assert f.booked, f
        for f in node.ahead:
            assert f.state is State.RUNNING, f
            assert not f.booked, f
        costs = [f.cost for f in node.running] + [hold.cost for hold in node.lingering]
        assert _total([node.occupied, *costs]) == _positive(node.used), node
        assert _total(f.cost for f in node.running if f.short) == _positive(node.short), node
    running = [f for node in nodes for f in node.running]
    for run in runs:
        for f in run.functions:
            assert not any(a.outcome == "finished" and a.error is not None for a in f.attempts), f
        assert run.share == sum(run.weight(f) for f in running if f.run is run), run
        if run.limits is not None:
            costs = [f.limit_cost for f in running if f.run is run]
            costs += [h.limit_cost for node in nodes for h in node.lingering if h.limits is run.limits]
            assert _total(costs) == _positive(run.limits.used), run


def _total(costs: Iterable[Amounts]) -> dict[str, int]:
    total: dict[str, int] = {}
    for cost in costs:
        for name, units in cost.items():
            total[name] = total.get(name, 0) + units
    return _positive(total)


def _positive(amounts: Amounts) -> dict[str, int]:
    return {name: units for name, units in amounts.items() if units}
