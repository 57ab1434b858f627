"""Which of several nodes gets a function that fits on each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from handoff_dask._model.resources import THREADS
from handoff_dask._scheduling.ledger import Node
from handoff_dask._scheduling.spec import Amounts

#: (cost, a node on which it is free now, resource → largest capacity of any node) → how little the node is
#: suited. Of equal ones the first by name is taken.
Strategy = Callable[[Amounts, Node, Amounts], float]


def first_available(cost: Amounts, node: Node, largest: Amounts) -> float:
    """The first node by name. Handoff: ``lib/handoff/simple_allocator.ex``."""
    return 0.0


def load_balanced(cost: Amounts, node: Node, largest: Amounts) -> float:
    """The node that stays least loaded: whose fullest resource is least full afterwards."""
    used, capacity = node.used, node.capacity
    return max((used[r] + cost.get(r, 0)) / total for r, total in capacity.items() if total and r in used)


def best_fit(cost: Amounts, node: Node, largest: Amounts) -> float:
    """The node with least left over, each resource relative to the largest node's.

    What is left over of a resource that was not asked for counts too: among nodes of about one size it keeps
    functions that need no GPU off those that have one, as long as others will do.
    """
    used = node.used
    left = 0.0
    for r, total in node.capacity.items():
        if total and r != THREADS:
            left += (total - used.get(r, 0) - cost.get(r, 0)) / largest[r]
    return left


def slack(node: Node, largest: Amounts) -> float:
    """What a node has left of everything, each resource relative to the largest node's.

    What a function asks for lessens it equally on each node where it fits: :func:`best_fit` puts nodes in
    the order of their slack, whatever the cost.
    """
    return best_fit({}, node, largest)


STRATEGIES: Mapping[str, Strategy] = {
    "first_available": first_available,
    "load_balanced": load_balanced,
    "best_fit": best_fit,
}
