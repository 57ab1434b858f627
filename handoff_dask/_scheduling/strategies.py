"""Which of several nodes gets a function that fits on each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from handoff_dask._model.resources import THREADS
from handoff_dask._scheduling.ledger import Node
from handoff_dask._scheduling.spec import Amounts

#: (cost, nodes on which it is free now, resource → largest capacity of any node) → one of the nodes.
Strategy = Callable[[Amounts, Sequence[Node], Amounts], Node]


def first_available(cost: Amounts, nodes: Sequence[Node], largest: Amounts) -> Node:
    """The first node by name. Handoff: ``lib/handoff/simple_allocator.ex``."""
    return nodes[0]


def load_balanced(cost: Amounts, nodes: Sequence[Node], largest: Amounts) -> Node:
    """The node that stays least loaded: whose fullest resource is least full afterwards."""

    def load(node: Node) -> float:
        used, capacity = node.used, node.capacity
        return max((used[r] + cost.get(r, 0)) / total for r, total in capacity.items() if total and r in used)

    return min(nodes, key=load)


def best_fit(cost: Amounts, nodes: Sequence[Node], largest: Amounts) -> Node:
    """The node with least left over, each resource relative to the largest node's.

    What is left over of a resource that was not asked for counts too: it keeps functions that need no GPU
    off the nodes that have one, as long as others will do.
    """

    def left(node: Node) -> float:
        used, capacity = node.used, node.capacity
        return sum(
            (total - used.get(r, 0) - cost.get(r, 0)) / largest[r]
            for r, total in capacity.items()
            if total and r != THREADS
        )

    return min(nodes, key=left)


STRATEGIES: Mapping[str, Strategy] = {
    "first_available": first_available,
    "load_balanced": load_balanced,
    "best_fit": best_fit,
}
