"""Speeds of nodes, learnt from the durations of functions of the same code on several nodes.

The logarithm of a duration is modelled as the sum of a term for the code and a term for the node, fitted by
least squares with a small penalty on the terms of nodes (ridge regression: Hoerl & Kennard, Technometrics
1970). Code that runs on a single node therefore says nothing about the speed of that node.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
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
_ERRORS = 4.0

#: ... and after at least this many functions.
_FEWEST = 3

#: Penalty on the terms of nodes, in functions.
_PENALTY = 0.5

#: Rounds of alternating least squares. The next fit continues from the last one.
_ROUNDS = 8

#: Maximum number of codes, and of codes times nodes, that the model remembers.
_MAX_CODES, _MAX_PACES = 1_000, 50_000


class _Sums:
    """Number, sum and sum of squares of logarithms of durations."""

    __slots__ = ("n", "squares", "total")

    def __init__(self) -> None:
        self.n = 0.0
        self.total = 0.0
        self.squares = 0.0


class Speeds:
    """Factors by which the durations of functions on a node differ from those on other nodes.

    Attributes
    ----------
    factors : dict of node name to float
        Nodes that are known to be slower (above 1) or faster (below 1). Empty if all are alike.
    version : int
        Incremented whenever the factors have changed.
    """

    __slots__ = ("_codes", "_learnt", "_next", "_paces", "_terms", "factors", "version")

    def __init__(self) -> None:
        self.factors: dict[Any, float] = {}
        self.version = 0
        # Code → node → sums; the code that was updated least recently is the first.
        self._codes: OrderedDict[Code, dict[Any, _Sums]] = OrderedDict()
        self._terms: dict[Any, float] = {}
        self._paces = 0
        self._learnt = 0
        self._next = 2 * _FEWEST

    def factor(self, node: Any) -> float:
        """Return the factor of a node, 1 if it is not known to be slower or faster."""
        return self.factors.get(node, 1.0)

    def learn(self, code: Code, node: Any, seconds: float) -> None:
        """Record the duration of a function on a node."""
        if seconds < _SHORTEST:
            return
        log = math.log(seconds)
        self._add(code, node, 1.0, log, log * log)
        if self._learnt >= self._next:
            self._fit()

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
                _, oldest = self._codes.popitem(last=False)
                self._paces -= len(oldest)
        sums.n += n
        sums.total += total
        sums.squares += squares
        self._learnt += 1

    def _fit(self) -> None:
        """Fit the terms of codes and nodes, and decide which nodes differ.

        It is repeated at exponentially growing intervals, so that its time per function is constant.
        """
        self._next = self._learnt + max(_FEWEST, self._learnt // 4)
        shared = [by_node for by_node in self._codes.values() if len(by_node) > 1]
        terms = self._terms
        counts: dict[Any, float] = {}
        for by_node in shared:
            for node, sums in by_node.items():
                counts[node] = counts.get(node, 0.0) + sums.n
        bases: list[float] = []
        for _ in range(_ROUNDS):
            bases = []
            above = dict.fromkeys(counts, 0.0)
            for by_node in shared:
                n = sum(sums.n for sums in by_node.values())
                base = sum(s.total - s.n * terms.get(node, 0.0) for node, s in by_node.items()) / n
                bases.append(base)
                for node, sums in by_node.items():
                    above[node] += sums.total - sums.n * base
            terms = {node: above[node] / (counts[node] + _PENALTY) for node in counts}
        self._terms = terms
        variance = self._variance(shared, bases, terms)
        factors = {
            node: math.exp(term)
            for node, term in terms.items()
            if (n := counts[node]) >= _FEWEST and abs(term) > max(_LEAST, _ERRORS * math.sqrt(variance / n))
        }
        changed = factors.keys() != self.factors.keys() or any(
            abs(math.log(factor / self.factors[node])) > 0.05 for node, factor in factors.items()
        )
        if changed:
            self.factors = factors
            self.version += 1

    def _variance(self, shared: list[dict[Any, _Sums]], bases: list[float], terms: dict[Any, float]) -> float:
        """Return the variance of the logarithms of durations that codes and nodes do not explain."""
        squares = n = 0.0
        for by_node, base in zip(shared, bases, strict=True):
            for node, sums in by_node.items():
                at = base + terms[node]
                squares += sums.squares - 2 * at * sums.total + sums.n * at * at
                n += sums.n
        freedom = n - len(bases) - len(terms)
        return max(0.0, squares) / freedom if freedom > 0 else math.inf
