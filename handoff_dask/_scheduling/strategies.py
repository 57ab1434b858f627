"""Which of several nodes gets a function that fits on each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping

from handoff_dask._model.resources import THREADS
from handoff_dask._scheduling.ledger import Node
from handoff_dask._scheduling.spec import Amounts

#: (cost, a node on which it is free now, resource → the amount of it that counts as 1) → how little the node
#: is suited. Of equal ones the first by name is taken.
Strategy = Callable[[Amounts, Node, Mapping[str, float]], float]


def first_available(cost: Amounts, node: Node, unit: Mapping[str, float]) -> float:
    """The first node by name. Handoff: ``lib/handoff/simple_allocator.ex``."""
    return 0.0


def load_balanced(cost: Amounts, node: Node, unit: Mapping[str, float]) -> float:
    """The node that stays least loaded: whose fullest resource is least full afterwards."""
    used, capacity = node.used, node.capacity
    return max((used[r] + cost.get(r, 0)) / total for r, total in capacity.items() if total and r in used)


def best_fit(cost: Amounts, node: Node, unit: Mapping[str, float]) -> float:
    """The node with least left over, all resources added up, each in its own unit.

    What is left over of a resource that was not asked for counts too: it keeps functions that need no GPU
    off the nodes that have one, as long as others will do.
    """
    used = node.used
    left = 0.0
    for r, total in node.capacity.items():
        if total and r != THREADS:
            left += (total - used.get(r, 0) - cost.get(r, 0)) / unit[r]
    return left


def slack(node: Node, unit: Mapping[str, float]) -> float:
    """What a node has left of everything, each resource in its own unit.

    What a function asks for lessens it equally on each node where it fits: :func:`best_fit` puts nodes in
    the order of their slack, whatever the cost.
    """
    return best_fit({}, node, unit)


def units_of(capacities: Collection[Amounts]) -> dict[str, float]:
    """Resource → the amount of it that counts as 1 when what nodes have left is compared.

    It is the most that any node has; of a resource that not every node has it is so much less that a node
    which has this most of it counts for more than all that every node has.
    """
    largest: dict[str, int] = {}
    holders: Counter[str] = Counter()
    for capacity in capacities:
        for r, total in capacity.items():
            largest[r] = max(total, largest.get(r, 0))
            holders[r] += total > 0
    everywhere = {r for r, n in holders.items() if n == len(capacities) and r != THREADS}
    rare = 1 << len(everywhere).bit_length()  # more than there are of them; a power of two keeps shares exact
    return {r: total if r in everywhere else total / rare for r, total in largest.items()}


STRATEGIES: Mapping[str, Strategy] = {
    "first_available": first_available,
    "load_balanced": load_balanced,
    "best_fit": best_fit,
}
