"""Freed capacity: the nodes that a decision compares with clean queues."""

from __future__ import annotations

from collections.abc import Iterable

from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.queues import Cost
from handoff_dask._scheduling.spec import Amounts


class Room:
    """Nodes on which capacity was freed, and what each of them has at most.

    Parameters
    ----------
    nodes : iterable of Node
    least : Cost
        Nodes with less are not worth a look.
    soon : bool
        Count what short functions hold as free: others may be prefetched behind them.

    Attributes
    ----------
    free : mapping or None
        Resource → the most units that any of the nodes has free; None if there are no nodes.
    only : Node or None
        The node, if there is just one.
    stale : bool
        Whether it may be less by now.
    """

    def __init__(self, nodes: Iterable[Node], least: Cost, soon: bool) -> None:
        self.nodes = dict.fromkeys(nodes)
        self._least = least
        self._soon = soon
        self.refresh()

    def _amounts(self, node: Node) -> Amounts | None:
        """What a node has free, None if that is too little for anybody."""
        amounts: Amounts = node.free
        if self._soon and node.short:
            amounts = {name: units + node.short.get(name, 0) for name, units in amounts.items()}
        for name, units in self._least:
            if units > amounts.get(name, 0):
                return None
        return amounts

    def refresh(self) -> None:
        """Work out what is free."""
        self.stale = False
        self.free: Amounts | None = None
        for node in list(self.nodes):
            amounts = self._amounts(node)
            if amounts is None:
                del self.nodes[node]
            elif self.free is None:
                self.free = amounts
            else:
                most = dict(self.free)
                for name, units in amounts.items():
                    if units > most.get(name, 0):
                        most[name] = units
                self.free = most
        self.only = next(iter(self.nodes)) if len(self.nodes) == 1 else None

    def took(self, node: Node) -> None:
        """Note that a function was placed on a node."""
        if node is self.only:
            self.refresh()
        elif node in self.nodes:
            self.stale = True
            if self._amounts(node) is None:
                del self.nodes[node]
                if len(self.nodes) < 2:
                    self.refresh()

    def leave_out(self, nodes: Iterable[Node]) -> None:
        """Look at some nodes no more in this decision."""
        for node in nodes:
            self.nodes.pop(node, None)
        self.refresh()
