"""The node index: all nodes in the order of their names, and a search for nodes on which a cost fits.

Free capacity is kept in one array per resource, so a cost is compared with all nodes at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handoff_dask._model.resources import THREADS
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.spec import Amounts, Pins

#: Positions of nodes, ascending.
Rows = NDArray[np.intp]

#: Scores of nodes, the lowest score the best. None ranks nodes by name.
Scores = NDArray[np.float64] | None

#: Larger amounts are clipped to this in the arrays. The nodes found are then checked exactly.
_MAX_UNITS = 2**62

#: Decimal places of scores. Rounding makes the scores of equal nodes equal despite floating-point errors.
_DIGITS = 9


class Nodes:
    """All nodes.

    Attributes
    ----------
    by_name : dict of name to Node
    version : int
        Incremented when a node joins, leaves, pauses, resumes or changes its capacity.
    changed : dict of Node to None
        Nodes whose free capacity has changed since the last update of the arrays.
    """

    def __init__(self) -> None:
        self.by_name: dict[Any, Node] = {}
        self.version = 0
        self.changed: dict[Node, None] = {}
        self._sorted = -1  # version for which the fields below are valid
        self._ordered: list[Node] = []
        self._aliases: dict[str, list[Node]] = {}
        self._capacity: dict[str, NDArray[np.int64]] = {}
        self._free: dict[str, NDArray[np.int64]] = {}
        self._unit: dict[str, float] = {}
        self._slack: NDArray[np.float64] = np.zeros(0)
        self._total: dict[str, int] = {}
        # For each distinct capacity, a node that has it, and the positions of all nodes that have it.
        self._capacity_classes: list[tuple[Node, list[int]]] = []
        self._holders: dict[Any, Rows] = {}
        self._holder_sets: dict[Any, frozenset[Node]] = {}

    def invalidate(self) -> None:
        """Invalidate the index, because a node, its capacity or its ``accepting`` has changed."""
        self.version += 1

    @property
    def ordered(self) -> list[Node]:
        """All nodes, sorted by name."""
        if self._sorted != self.version:
            self._sort()
        return self._ordered

    def _sort(self) -> None:
        """Rebuild the index for the current version."""
        self._sorted = self.version
        nodes = self._ordered = sorted(self.by_name.values(), key=lambda n: str(n.name))
        self._aliases = {}
        self._holders = {}
        self._holder_sets = {}
        names: dict[str, None] = {THREADS: None}
        classes: dict[Any, list[int]] = {}
        for position, node in enumerate(nodes):
            node.position = position
            names.update(dict.fromkeys(node.capacity))
            for alias in node.aliases:
                self._aliases.setdefault(alias, []).append(node)
            classes.setdefault(tuple(sorted(node.capacity.items())), []).append(position)
        self._capacity_classes = [(nodes[rows[0]], rows) for rows in classes.values()]
        self._unit = unit_amounts([node.capacity for node, _ in self._capacity_classes])
        self._total = {name: sum(node.capacity.get(name, 0) for node in nodes) for name in names}
        self._capacity = {
            name: np.array([min(n.capacity.get(name, 0), _MAX_UNITS) for n in nodes], dtype=np.int64)
            for name in names
        }
        self._free = {name: np.zeros(len(nodes), dtype=np.int64) for name in names}
        self._slack = np.zeros(len(nodes))
        self.changed = dict.fromkeys(nodes)

    def _update(self) -> None:
        """Write the changed nodes to the arrays."""
        if self._sorted != self.version:
            self._sort()
        columns, unit, slack = self._free, self._unit, self._slack
        for node in self.changed:
            row = node.position
            left = 0.0
            for name, units in node.free.items():
                columns[name][row] = units if units < _MAX_UNITS else _MAX_UNITS
                if name != THREADS and node.capacity[name]:
                    left += units / unit[name]
            slack[row] = round(left, _DIGITS)
            if not node.accepting:
                columns[THREADS][row] = 0  # nothing fits, since every function takes a thread
        self.changed.clear()

    # ------------------------------------------------------------------ capacity

    def total(self, name: str) -> int:
        """Return the total capacity of a resource on all nodes, in units."""
        if self._sorted != self.version:
            self._sort()
        return self._total.get(name, 0)

    def can_hold(self, need: Amounts) -> bool:
        """Return whether any node could hold these amounts if it were idle."""
        if self._sorted != self.version:
            self._sort()
        return any(node.holds(need) for node, _ in self._capacity_classes)

    def pinned(self, pins: Pins) -> list[Node]:
        """Return the nodes that all pins allow, sorted by name. There must be at least one pin."""
        if self._sorted != self.version:
            self._sort()
        called = self._aliases
        found = set.intersection(*({n for alias in pin for n in called.get(alias, ())} for pin in pins))
        return sorted(found, key=lambda n: n.position)

    def holders(self, need: Amounts, pins: Pins) -> Rows:
        """Return the positions of the nodes that could hold these amounts if they were idle."""
        if pins:
            return np.array([n.position for n in self.pinned(pins) if n.holds(need)], dtype=np.intp)
        if self._sorted != self.version:
            self._sort()
        able = tuple(i for i, (node, _) in enumerate(self._capacity_classes) if node.holds(need))
        found = self._holders.get(able)
        if found is None:
            rows = [self._capacity_classes[i][1] for i in able]
            found = self._holders[able] = np.array(sorted(chain.from_iterable(rows)), dtype=np.intp)
        return found

    def only_holders(self, need: Amounts, pins: Pins) -> frozenset[Node] | None:
        """Return the nodes that could hold these amounts if they were idle; None if all could."""
        rows = self.holders(need, pins)
        if rows.size == len(self._ordered):
            return None
        key = rows.tobytes()
        found = self._holder_sets.get(key)
        if found is None:
            found = self._holder_sets[key] = frozenset(self._ordered[row] for row in rows.tolist())
        return found

    # ------------------------------------------------------------------ free capacity

    def fitting(
        self,
        cost: Amounts,
        score: Callable[[Nodes, Rows, Amounts], Scores],
        rows: Rows | None = None,
        adjust: Callable[[Rows, Scores], Scores] | None = None,
    ) -> Iterator[Node]:
        """Iterate over the nodes on which a function can start now, by ascending score, ties by name.

        Parameters
        ----------
        cost : mapping of str to int
            Resource → units, including ``threads``.
        score : callable
            Returns the scores of the nodes at some positions for a cost.
        rows : array of int, optional
            Ascending positions of the nodes to consider. The default is all nodes.
        adjust : callable, optional
            Adjusts the scores for one function.

        Yields
        ------
        Node
        """
        if self.changed or self._sorted != self.version:
            self._update()
        rows = self._fitting_rows(cost, rows)
        if not rows.size:
            return
        nodes = self._ordered
        scores = score(self, rows, cost)
        if adjust is not None:
            scores = adjust(rows, scores)
        if scores is not None:
            first = int(scores.argmin()) if rows.size > 1 else 0
            node = nodes[rows[first]]
            if node.can_start(cost):
                yield node
            # Most callers take only the first node, so the rest is sorted late.
            scores[first] = np.inf
            order = np.argsort(scores, kind="stable")[:-1]
            rows = rows[order]
        for row in rows.tolist():
            if nodes[row].can_start(cost):
                yield nodes[row]

    def _fitting_rows(self, cost: Amounts, rows: Rows | None) -> Rows:
        """Return the positions of nodes on which a cost fits, according to the arrays."""
        mask: NDArray[np.bool_] | None = None
        for name, units in cost.items():
            if not units:
                continue
            column = self._free.get(name)
            if column is None:
                return np.zeros(0, dtype=np.intp)
            enough = (column if rows is None else column[rows]) >= (
                units if units < _MAX_UNITS else _MAX_UNITS
            )
            if mask is None:
                mask = enough
            else:
                mask &= enough
        assert mask is not None  # every function takes a thread
        return mask.nonzero()[0] if rows is None else rows[mask]

    def slack(self, rows: Rows) -> NDArray[np.float64]:
        """Return the free capacity of nodes, summed over all resources but ``threads`` in normalised units.

        The cost itself need not be subtracted: it lowers the slack equally on every node on which it fits.
        """
        return self._slack[rows]

    def load(self, rows: Rows, cost: Amounts) -> NDArray[np.float64]:
        """Return the used fraction of the fullest resource on nodes, with a cost added."""
        fullest = np.zeros(rows.size)
        for name, column in self._capacity.items():
            capacity = column[rows]
            taken = capacity - self._free[name][rows] + cost.get(name, 0)
            share = np.divide(taken, capacity, out=np.zeros(rows.size), where=capacity > 0)
            np.maximum(fullest, share, out=fullest)
        return np.round(fullest, _DIGITS)


def unit_amounts(capacities: Iterable[Mapping[str, int]]) -> dict[str, float]:
    """Return resource → the amount that counts as 1 in a node's slack.

    It is the largest capacity of any node. For resources that only some nodes have it is smaller, so that the
    largest capacity of such a resource outweighs all the resources that every node has.
    """
    capacities = list(capacities)
    largest: dict[str, int] = {}
    holders: Counter[str] = Counter()
    for capacity in capacities:
        for name, total in capacity.items():
            largest[name] = max(total, largest.get(name, 0))
            holders[name] += total > 0
    everywhere = {name for name, n in holders.items() if n == len(capacities) and name != THREADS}
    rare = 1 << len(everywhere).bit_length()  # above their number; a power of two keeps fractions exact
    return {name: total if name in everywhere else total / rare for name, total in largest.items()}
