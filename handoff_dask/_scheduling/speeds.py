"""Speeds of nodes, learnt from the durations of the same function or code on several nodes.

The logarithm of a duration is modelled as the sum of a term for the code and a term for the node. They are
fitted by least squares, weighted with the variances within each code, and with a small penalty on the terms
of nodes (ridge regression: Hoerl & Kennard, Technometrics 1970). Code that runs on a single node therefore
says nothing about the speed of that node. The same function on two nodes says most: it does the same work.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from handoff_dask._scheduling.spec import Pace

#: Key, and size of the cost: functions with larger costs may take longer, and run on larger nodes.
Code = tuple[str, float]

#: Shorter functions are dominated by the overhead of an attempt, which the speed of a node hardly changes.
#: Seconds.
_SHORTEST = 0.02

#: A node counts as faster or slower than others if it differs by more than this factor, ...
_LEAST = math.log(1.25)

#: ... by more than this many standard errors, ...
_ERRORS = 3.5

#: ... and after at least this many functions.
_FEWEST = 3

#: Penalty on the terms of nodes: the inverse of the variance that they are expected to have.
_PENALTY = 0.5

#: Lowest variance of the logarithms of durations: no two measurements agree better than by 2 %.
_LEAST_VARIANCE = 0.02**2

#: Rounds of alternating least squares. The next fit continues from the last one.
_ROUNDS = 8

#: Maximum number of codes, and of codes times nodes, that the model remembers.
_MAX_CODES, _MAX_PACES = 1_000, 50_000


class _Sums:
    """Number, sum and sum of squares of logarithms."""

    __slots__ = ("n", "squares", "total")

    def __init__(self) -> None:
        self.n = 0.0
        self.total = 0.0
        self.squares = 0.0

    def add(self, n: float, total: float, squares: float) -> None:
        self.n += n
        self.total += total
        self.squares += squares

    def deviation(self, at: float) -> float:
        """Return the sum of squares of the differences from a value."""
        return max(0.0, self.squares - 2 * at * self.total + self.n * at * at)


class Speeds:
    """Factors by which the durations of functions on a node differ from those on other nodes.

    Attributes
    ----------
    factors : dict of node name to float
        Nodes that are known to be slower (above 1) or faster (below 1). Empty if all are alike.
    version : int
        Incremented whenever the factors have changed.
    """

    __slots__ = (
        "_codes",
        "_learnt",
        "_next",
        "_paces",
        "_pairs",
        "_terms",
        "_variances",
        "factors",
        "version",
    )

    def __init__(self) -> None:
        self.factors: dict[Any, float] = {}
        self.version = 0
        # Code → node → logarithms of durations; the code that was updated least recently is the first.
        self._codes: OrderedDict[Code, dict[Any, _Sums]] = OrderedDict()
        # Node and another one → logarithms of the ratios of durations of the same functions.
        self._pairs: dict[tuple[Any, Any], _Sums] = {}
        self._terms: dict[Any, float] = {}
        self._variances: dict[Code | None, float] = {}  # within each code; None: of pairs
        self._paces = 0
        self._learnt = 0
        self._next = 2 * _FEWEST

    def factor(self, node: Any) -> float:
        """Return the factor of a node, 1 if it is not known to be slower or faster."""
        return self.factors.get(node, 1.0)

    def learn(self, code: Code, node: Any, seconds: float, before: Sequence[tuple[Any, float]] = ()) -> None:
        """Record the duration of a function on a node.

        ``before`` has nodes on which the same function has run before, and its durations there.
        """
        if seconds < _SHORTEST:
            return
        log = math.log(seconds)
        self._add(code, node, 1.0, log, log * log)
        for other, took in before:
            self.compare(node, seconds, other, took)
        if self._learnt >= self._next:
            self._fit()

    def compare(self, node: Any, seconds: float, other: Any, took: float) -> None:
        """Record that the same function has run on two nodes."""
        if node == other or min(seconds, took) < _SHORTEST:
            return
        ratio = math.log(seconds / took)
        pair = (node, other)
        if (other, node) in self._pairs:
            pair, ratio = (other, node), -ratio
        if pair not in self._pairs:
            if len(self._pairs) >= _MAX_PACES:
                return
            self._pairs[pair] = _Sums()
        self._pairs[pair].add(1.0, ratio, ratio * ratio)
        self._learnt += 1

    def recall(self, paces: Iterable[Pace]) -> None:
        """Add what was learnt elsewhere, unless the code has run here."""
        known = set(self._codes)
        for code, node, n, mean, variance in paces:
            if code not in known:
                self._add(code, node, n, n * mean, n * (variance + mean * mean))
        self._fit()

    def _add(self, code: Code, node: Any, n: float, total: float, squares: float) -> None:
        by_node = self._codes.get(code)
        if by_node is None:
            by_node = self._codes[code] = {}
        else:
            self._codes.move_to_end(code)
        sums = by_node.get(node)
        if sums is None:
            sums = by_node[node] = _Sums()
            self._paces += 1
            while self._paces > _MAX_PACES or len(self._codes) > _MAX_CODES:
                oldest, paces = self._codes.popitem(last=False)
                self._variances.pop(oldest, None)
                self._paces -= len(paces)
        sums.add(n, total, squares)
        self._learnt += 1

    # ------------------------------------------------------------------ fitting

    def _fit(self) -> None:
        """Fit the terms of codes and nodes, and decide which nodes differ.

        It is repeated at exponentially growing intervals, so that its time per function is constant.
        """
        self._next = self._learnt + max(_FEWEST, self._learnt // 4)
        shared = {code: by_node for code, by_node in self._codes.items() if len(by_node) > 1}
        numbers: dict[Any, float] = {}
        weights: dict[Any, float] = {}
        for _ in range(_ROUNDS):
            above: dict[Any, float] = {}
            weights = {}
            numbers = {}
            terms = self._terms
            for code, by_node in shared.items():
                weight = 1 / self._variances.get(code, 1.0)
                base = _base(by_node, terms)
                for node, sums in by_node.items():
                    _count(above, node, weight * (sums.total - sums.n * base))
                    _count(weights, node, weight * sums.n)
                    _count(numbers, node, sums.n)
            weight = 1 / self._variances.get(None, 1.0)
            for (a, b), sums in self._pairs.items():
                for node, other, total in ((a, b, sums.total), (b, a, -sums.total)):
                    _count(above, node, weight * (total + sums.n * terms.get(other, 0.0)))
                    _count(weights, node, weight * sums.n)
                    _count(numbers, node, sums.n)
            self._terms = {node: above[node] / (weights[node] + _PENALTY) for node in weights}
            self._fit_variances(shared)
        factors = {
            node: math.exp(term)
            for node, term in self._terms.items()
            if numbers[node] >= _FEWEST and abs(term) > max(_LEAST, _ERRORS / math.sqrt(weights[node]))
        }
        changed = factors.keys() != self.factors.keys() or any(
            abs(math.log(factor / self.factors[node])) > 0.05 for node, factor in factors.items()
        )
        if changed:
            self.factors = factors
            self.version += 1

    def _fit_variances(self, shared: Mapping[Code, Mapping[Any, _Sums]]) -> None:
        """Estimate the variances that codes and nodes do not explain; few measurements count as uncertain."""
        terms = self._terms
        for code, by_node in shared.items():
            base = _base(by_node, terms)
            squares = sum(sums.deviation(base + terms.get(node, 0.0)) for node, sums in by_node.items())
            freedom = sum(sums.n for sums in by_node.values()) - len(by_node)
            self._variances[code] = max(_LEAST_VARIANCE, (squares + 1.0) / (freedom + 1.0))
        squares = sum(s.deviation(terms.get(a, 0.0) - terms.get(b, 0.0)) for (a, b), s in self._pairs.items())
        freedom = sum(s.n for s in self._pairs.values()) - len(terms)
        if freedom > 0:
            self._variances[None] = max(_LEAST_VARIANCE, (squares + 0.1) / (freedom + 1.0))


def _base(by_node: Mapping[Any, _Sums], terms: Mapping[Any, float]) -> float:
    """Return the term of a code, given those of the nodes."""
    n = sum(sums.n for sums in by_node.values())
    return sum(sums.total - sums.n * terms.get(node, 0.0) for node, sums in by_node.items()) / n


def _count(counts: dict[Any, float], node: Any, amount: float) -> None:
    counts[node] = counts.get(node, 0.0) + amount
