"""What functions hold of nodes and limits: every change of the ledger on their behalf is made here."""

from __future__ import annotations

from collections.abc import Callable

from handoff_dask._model.resources import GPU
from handoff_dask._scheduling.fleet import Fleet
from handoff_dask._scheduling.functions import FunctionState
from handoff_dask._scheduling.ledger import Hold, Limits, Node
from handoff_dask._scheduling.queues import Queue
from handoff_dask._scheduling.spec import Amounts


class Bookings:
    """Books functions on nodes, and gives back what they held.

    Parameters
    ----------
    fleet : Fleet
        Told of every node on which something has changed.
    look_again : callable
        Called with each queue that waited for limits of which something was given back.

    Attributes
    ----------
    freed : dict of Node to None
        Nodes that may have more room than when it was last looked for.
    """

    def __init__(self, fleet: Fleet, look_again: Callable[[Queue], None]) -> None:
        self.freed: dict[Node, None] = {}
        self._stuck: dict[FunctionState, None] = {}
        self._fleet = fleet
        self._look_again = look_again

    def book(self, f: FunctionState, node: Node, now: float, *, ahead: bool) -> None:
        """Book a function on a node, or note it as sent ahead."""
        f.node = node
        f.placed = now
        if ahead:
            node.ahead[f] = None
        else:
            self._acquire(f, node)
        self._fleet.moved(node)

    def _acquire(self, f: FunctionState, node: Node) -> None:
        f.booked = True
        node.acquire(f.cost)
        if f.short:
            _add(node.short, f.cost, 1)
        else:
            self._find_stuck(node)
        f.run.hold(f)
        node.running[f] = None
        if GPU in f.cost:
            f.devices = node.devices.choose(f.cost[GPU])
            assert f.devices is not None
            node.devices.take(f.devices)
        if f.run.limits is not None:
            f.run.limits.acquire(f.limit_cost)

    def release(self, f: FunctionState) -> None:
        """Give back what a function holds; functions sent ahead move up."""
        node = f.node
        assert node is not None
        if f.booked:
            del node.running[f]
            node.release(f.cost)
            if f.short:
                _add(node.short, f.cost, -1)
            if f.devices:
                node.devices.give_back(f.devices)
                f.devices = None
            f.run.give_back(f)
            if f.run.limits is not None:
                self._release_limits(f.run.limits, f.limit_cost)
        else:
            del node.ahead[f]
        f.booked = False
        self._move_up(node)

    def linger(self, f: FunctionState) -> Hold:
        """Take a booked function back from its node, whose thread goes on with it."""
        node, run = f.node, f.run
        assert node is not None
        self.lasts(f)
        del node.running[f]
        run.give_back(f)
        hold = Hold(node, f.cost, f.devices or {}, run.limits, f.limit_cost)
        node.lingering[hold] = None
        f.booked = False
        f.devices = None
        return hold

    def lasts(self, f: FunctionState) -> None:
        """A function goes on for nobody knows how long, however short others of its code were."""
        if f.short and f.booked:
            assert f.node is not None
            _add(f.node.short, f.cost, -1)
            self._find_stuck(f.node)
        f.short = False

    def _find_stuck(self, node: Node) -> None:
        for f in node.ahead:
            if not node.soon_fits(f.cost):
                self._stuck[f] = None

    def take_stuck(self) -> dict[FunctionState, Node]:
        """Functions sent ahead that wait for others of which nobody knows how long they take."""
        stuck, self._stuck = self._stuck, {}
        nodes = [(f, f.node) for f in stuck if f.node is not None]
        return {f: node for f, node in nodes if f in node.ahead and not node.soon_fits(f.cost)}

    def ended_at_last(self, hold: Hold) -> None:
        """A function that had been taken back has ended."""
        node = hold.node
        if hold not in node.lingering:
            return
        del node.lingering[hold]
        node.release(hold.cost)
        node.devices.give_back(hold.devices)
        if hold.limits is not None:
            self._release_limits(hold.limits, hold.limit_cost)
        self._move_up(node)

    def resize(self, node: Node, capacity: Amounts) -> None:
        """Change a node's capacity."""
        node.resize(capacity)
        self._move_up(node)
        self._find_stuck(node)

    def occupy(self, node: Node, amounts: Amounts) -> None:
        """Tasks other than functions hold this much of a node now."""
        node.occupy(amounts)
        self._move_up(node)
        self._find_stuck(node)

    def _release_limits(self, limits: Limits, cost: Amounts) -> None:
        limits.release(cost)
        for queue in limits.waiting:
            self._look_again(queue)
        limits.waiting.clear()

    def _move_up(self, node: Node) -> None:
        """The node starts what was sent ahead, as far as there is room now, in this order."""
        for f in list(node.ahead):
            if not node.fits(f.cost):
                break
            del node.ahead[f]
            self._acquire(f, node)
        self.freed[node] = None
        self._fleet.moved(node)


def _add(amounts: dict[str, int], cost: Amounts, sign: int) -> None:
    """Add a cost to amounts, or take it away; what is not in use has no entry."""
    for name, units in cost.items():
        total = amounts.get(name, 0) + sign * units
        if total:
            amounts[name] = total
        else:
            amounts.pop(name, None)
