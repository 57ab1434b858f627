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

import numpy as np
from numpy.typing import NDArray

from handoff_dask._scheduling.spec import Pace

Floats = NDArray[np.float64]

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
        data = _Data(self._codes, self._pairs)
        if not data.nodes:
            return
        terms = np.array([self._terms.get(node, 0.0) for node in data.nodes])
        variances = np.array([self._variances.get(code, 1.0) for code in data.codes])
        of_pairs = self._variances.get(None, 1.0)
        for _ in range(_ROUNDS):
            above, weights = data.sums(terms, variances, of_pairs)
            terms = above / (weights + _PENALTY)
            variances, of_pairs = data.variances(terms, of_pairs)
        self._terms = dict(zip(data.nodes, terms.tolist(), strict=True))
        self._variances = {**dict(zip(data.codes, variances.tolist(), strict=True)), None: of_pairs}
        _, weights = data.sums(terms, variances, of_pairs)
        differs = np.abs(terms) > np.maximum(_LEAST, _ERRORS / np.sqrt(weights))
        differs &= data.numbers >= _FEWEST
        factors = {data.nodes[i]: math.exp(terms[i]) for i in differs.nonzero()[0].tolist()}
        changed = factors.keys() != self.factors.keys() or any(
            abs(math.log(factor / self.factors[node])) > 0.05 for node, factor in factors.items()
        )
        if changed:
            self.factors = factors
            self.version += 1


class _Data:
    """What was measured, as arrays: a row for each code and node, and one for each pair of nodes.

    Code that has run on a single node is left out.

    Attributes
    ----------
    codes, nodes : list
        Their positions are those in the arrays.
    numbers : array of float
        Node → number of measurements.
    """

    def __init__(
        self, codes: Mapping[Code, Mapping[Any, _Sums]], pairs: Mapping[tuple[Any, Any], _Sums]
    ) -> None:
        self.codes = [code for code, by_node in codes.items() if len(by_node) > 1]
        rows = [(c, node, s) for c, code in enumerate(self.codes) for node, s in codes[code].items()]
        of_pairs = [node for pair in pairs for node in pair]
        self.nodes = list(dict.fromkeys([*(node for _, node, _ in rows), *of_pairs]))
        index = {node: k for k, node in enumerate(self.nodes)}
        self._code = np.array([c for c, _, _ in rows], dtype=np.intp)
        self._node = np.array([index[node] for _, node, _ in rows], dtype=np.intp)
        self._n, self._total, self._squares = _arrays([s for _, _, s in rows])
        self._in_code = np.bincount(self._code, self._n, len(self.codes))
        self._first = np.array([index[a] for a, _ in pairs], dtype=np.intp)
        self._second = np.array([index[b] for _, b in pairs], dtype=np.intp)
        self._pair_n, self._pair_total, self._pair_squares = _arrays(list(pairs.values()))
        self._places = np.concatenate([self._node, self._first, self._second])
        self.numbers: Floats = self._by_node(self._n, self._pair_n, self._pair_n)

    def _by_node(self, *values: Floats) -> Floats:
        """Add up values of the rows, and of the first and the second nodes of pairs, by node."""
        return np.asarray(np.bincount(self._places, np.concatenate(values), len(self.nodes)), dtype=float)

    def _bases(self, terms: Floats) -> Floats:
        """Return the terms of codes, given those of nodes."""
        rest = self._total - self._n * terms[self._node]
        return np.asarray(np.bincount(self._code, rest, len(self.codes)) / self._in_code, dtype=float)

    def sums(self, terms: Floats, variances: Floats, of_pairs: float) -> tuple[Floats, Floats]:
        """Return for each node the weighted sum of what its term should be, and the sum of the weights."""
        weight = 1 / variances[self._code]
        rest = weight * (self._total - self._n * self._bases(terms)[self._code])
        first = (self._pair_total + self._pair_n * terms[self._second]) / of_pairs
        second = (-self._pair_total + self._pair_n * terms[self._first]) / of_pairs
        share = self._pair_n / of_pairs
        return self._by_node(rest, first, second), self._by_node(weight * self._n, share, share)

    def variances(self, terms: Floats, of_pairs: float) -> tuple[Floats, float]:
        """Return the variances that codes and nodes do not explain; few measurements count as uncertain."""
        at = self._bases(terms)[self._code] + terms[self._node]
        squares = np.maximum(0.0, self._squares - 2 * at * self._total + self._n * at * at)
        freedom = self._in_code - np.bincount(self._code, minlength=len(self.codes))
        within = (np.bincount(self._code, squares, len(self.codes)) + 1.0) / (freedom + 1.0)
        if (left := self._pair_n.sum() - len(self.nodes)) > 0:
            at = terms[self._first] - terms[self._second]
            squares = self._pair_squares - 2 * at * self._pair_total + self._pair_n * at * at
            of_pairs = max(_LEAST_VARIANCE, (max(0.0, float(squares.sum())) + 0.1) / (float(left) + 1.0))
        return np.maximum(_LEAST_VARIANCE, within), of_pairs


def _arrays(sums: Sequence[_Sums]) -> tuple[Floats, Floats, Floats]:
    """Return the fields of sums as arrays."""
    columns = np.array([(s.n, s.total, s.squares) for s in sums], dtype=float).reshape(-1, 3)
    return columns[:, 0], columns[:, 1], columns[:, 2]
