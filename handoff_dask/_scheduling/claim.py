"""One claim: capacity held back for functions of one cost, from a start time on."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from handoff_dask._scheduling.functions import FunctionState, State
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.queues import sort_key
from handoff_dask._scheduling.spec import Amounts


class Claim:
    """Capacity held back for one or more functions of the same cost. Only less urgent functions are blocked.

    Attributes
    ----------
    cost : dict
        Cost of each of the functions.
    function : FunctionState or None
        The first of the functions; None before the first :meth:`refresh`.
    start : float
        When the first function is expected to need the capacity. Seconds.
    expected_start : float
        The start if no running function overran its expected duration. Seconds.
    decision : int
        Number of the decision for which the claim was last refreshed.
    """

    __slots__ = ("cost", "decision", "expected_start", "function", "start")

    def __init__(self, cost: Amounts, function: FunctionState | None = None) -> None:
        self.cost = cost
        self.function = function
        self.start = self.expected_start = 0.0
        self.decision = -1

    def refresh(self, now: float) -> bool:
        """Update the first function and the start. Return False if no function needs the claim any more."""
        raise NotImplementedError

    def slots(self, node: Node) -> int:
        """Return how many functions the claim covers on a node."""
        raise NotImplementedError

    def is_delayed_by(self, f: FunctionState, node: Node, now: float) -> bool:
        """Return whether a less urgent function that fits on a node would delay the claim there.

        It would not, so it may backfill, if

        * it is expected to end before the start of the claim, or
        * the claimed slots still fit beside it, in the capacity that is free now or that functions which are
          expected to end before the start of the claim will release.
        """
        count = self.slots(node)
        # The urgency is computed anew: placements change the share of the run during the decision.
        if not count or self.function is None or sort_key(self.function) >= sort_key(f):
            return False
        seconds = f.run.estimates.seconds(f, node)
        if not seconds or now + seconds < self.start or _both_fit(node, f.cost, self.cost, count, ()):
            return False
        ending = [g for g in node.running if end_of(g, now) <= self.start]
        return not ending or not _both_fit(node, f.cost, self.cost, count, ending)


class UpcomingClaim(Claim):
    """The claim of the upcoming functions of one kind, on the only nodes that can hold them.

    The functions fill the nodes in the order of their names, so that nodes beyond the last function stay free
    of the claim.

    Attributes
    ----------
    functions : dict of FunctionState to None
        Roughly in the order in which they will become ready.
    """

    __slots__ = ("_before", "_inputs", "functions")

    def __init__(self, nodes: Iterable[Node], cost: Amounts) -> None:
        super().__init__(cost)
        self.functions: dict[FunctionState, None] = {}
        self._inputs: deque[FunctionState] = deque()  # running inputs of the first function, by expected end
        # Node → number of functions that fill the nodes before it.
        self._before: dict[Node, int] = {}
        count = 0
        for node in sorted(nodes, key=lambda n: n.position):
            self._before[node] = count
            count += node.slots(cost)

    def refresh(self, now: float) -> bool:
        while self.functions:
            f = next(iter(self.functions))
            if f.state is State.WAITING and f.run.is_upcoming(f):
                break
            del self.functions[f]
        else:
            return False
        if f is not self.function:
            self.function = f
            running = [g for g in f.run.inputs_of(f) if g.state is State.RUNNING]
            self._inputs = deque(sorted(running, key=_expected_end))
        inputs = self._inputs
        while inputs and inputs[-1].state is not State.RUNNING:
            inputs.pop()
        while inputs and inputs[0].state is not State.RUNNING:
            inputs.popleft()
        self.expected_start = _expected_end(inputs[-1]) if inputs else now
        # Overdue inputs are assumed to overrun by as much again, so the one overdue for longest may end last.
        self.start = max(end_of(inputs[-1], now), end_of(inputs[0], now)) if inputs else now
        return True

    def slots(self, node: Node) -> int:
        before = self._before.get(node)
        if before is None:
            return 0
        return max(0, min(len(self.functions) - before, node.slots(self.cost)))


class OvertakenClaim(Claim):
    """The claim of a function that others have overtaken, on the node that is expected to fit it first."""

    __slots__ = ("_node",)

    def __init__(self, f: FunctionState, node: Node) -> None:
        super().__init__(f.cost, f)
        self._node = node

    def refresh(self, now: float) -> bool:
        f = self.function
        if f is None or f.state is not State.READY or f.cost is not self.cost:
            return False
        self.start = self.expected_start = when_free(self._node, self.cost, now)
        return True

    def slots(self, node: Node) -> int:
        return int(node is self._node)


def _both_fit(
    node: Node, cost: Amounts, claimed: Amounts, count: int, ending: Iterable[FunctionState]
) -> bool:
    """Return whether ``count`` claimed slots fit beside a function after the functions in ``ending`` end."""
    for name, units in claimed.items():
        free = node.available(name) - cost.get(name, 0) + sum(g.cost.get(name, 0) for g in ending)
        if free < count * units:
            return False
    return True


def _expected_end(f: FunctionState) -> float:
    """Return when a running function ends if it takes as long as expected. Possibly in the past."""
    return f.placed + f.run.estimates.seconds(f, f.node)


def end_of(f: FunctionState, now: float) -> float:
    """Return when a running function is expected to end. If overdue, assume it overruns by as much again."""
    end = _expected_end(f)
    return end if end >= now else now + (now - end)


def when_free(node: Node, cost: Amounts, now: float) -> float:
    """Return when a cost is expected to fit on a node; infinity if never."""
    missing = {name: units - node.free.get(name, 0) for name, units in cost.items()}
    missing = {name: units for name, units in missing.items() if units > 0}
    at = now
    for end, _, f in sorted((end_of(f, now), n, f) for n, f in enumerate(node.running)):
        if not missing:
            break
        at = end
        missing = {name: units - f.cost.get(name, 0) for name, units in missing.items()}
        missing = {name: units for name, units in missing.items() if units > 0}
    return math.inf if missing else at
