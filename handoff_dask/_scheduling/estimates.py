"""Estimates: how long functions take and how large their results are, learnt from those that have run."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping

from handoff_dask._model.resources import UNIT

#: A function that asks for ``k`` times as much as others of its code is expected to take ``k**SLOPE`` times
#: as long. More memory goes with more data; how much longer that takes cannot be learnt from the first that
#: finish, since those are the short ones.
SLOPE = 0.5

#: Code that has not run yet is expected to take this many times the mean of the rest: what it leads to is
#: unknown too, and the sooner one function has run, the sooner it is known.
UNKNOWN = 1.5

#: Names of code about which something is remembered; the name learnt about least recently goes first.
MOST_NAMES = 10_000


def size_of(cost: Iterable[tuple[str, int]]) -> float:
    """How much a function asks for, on a logarithmic scale, to compare functions of one code.

    Amounts up to one count as nothing: one GPU says little about how much there is to do.
    """
    return math.fsum(math.log(max(UNIT, units) / UNIT) for _, units in cost)


class _Stats:
    """Functions of one code that have run.

    Attributes
    ----------
    count : int
    mean : float
        Seconds; recent functions weigh more.
    most : float
        About the most seconds that recent functions took.
    size : float
        Mean, see :func:`size_of`.
    nbytes : float
        Mean size of a result.
    """

    __slots__ = ("count", "mean", "most", "nbytes", "size")

    def __init__(self, mean: float = 0.0, size: float = 0.0) -> None:
        self.count = 0
        self.mean = mean
        self.most = 0.0
        self.size = size
        self.nbytes = 0.0

    def add(self, size: float, seconds: float, nbytes: int) -> None:
        self.count += 1
        weight = 0.1 if self.count > 10 else 1 / self.count
        self.mean += weight * (seconds - self.mean)
        self.size += weight * (size - self.size)
        self.nbytes += weight * (nbytes - self.nbytes)
        # Up at once, down slowly.
        self.most = seconds if seconds > self.most else self.most + 0.1 * (seconds - self.most)


class Estimates:
    """Seconds that functions take and bytes that they return, by the name of their code and their size.

    Parameters
    ----------
    short : float
        Seconds; code whose functions recently took no longer is *short*.
    """

    __slots__ = ("_hints", "_limit", "_seen", "_short")

    def __init__(self, short: float = 0.0) -> None:
        self._limit = short
        self._seen: OrderedDict[str, _Stats] = OrderedDict()  # the least recently learnt first
        self._hints: OrderedDict[str, float] = OrderedDict()
        self._short: set[str] = set()

    def hint(self, code: str, seconds: float) -> None:
        """Note what functions of this code take on average elsewhere, until one has run here."""
        self._hints[code] = seconds
        self._hints.move_to_end(code)
        if len(self._hints) > MOST_NAMES:
            self._hints.popitem(last=False)

    def learn(self, code: str, size: float, seconds: float, nbytes: int = 0) -> None:
        """Note that a function has run, and how large its result is."""
        seen = self._seen.get(code)
        if seen is None:
            seen = self._seen[code] = _Stats()
            if len(self._seen) > MOST_NAMES:
                oldest, _ = self._seen.popitem(last=False)
                self._short.discard(oldest)
        else:
            self._seen.move_to_end(code)
        seen.add(size, seconds, nbytes)
        if seen.most <= self._limit and self._limit:
            self._short.add(code)
        elif code in self._short:
            self._short.remove(code)

    def expected(
        self, functions: Iterable[tuple[str, float]], running: Mapping[str, float] | None = None
    ) -> list[float]:
        """Seconds that functions are expected to take, given the code and the size of each.

        Code that has not run counts as its hint or, without one, as :data:`UNKNOWN` times the mean of the
        code that has, or as :data:`UNKNOWN` seconds if none has; and as no less than twice the time for which
        a function of it has been ``running`` (code → seconds).
        """
        running = running or {}
        functions = list(functions)
        known = [self._seen[code].mean for code in {code for code, _ in functions} if code in self._seen]
        mean = math.fsum(known) / len(known) if known else 1.0
        sizes: dict[str, list[float]] = {}
        for code, size in functions:
            if code not in self._seen:
                sizes.setdefault(code, []).append(size)
        seen = {
            code: _Stats(
                max(self._hints.get(code, UNKNOWN * mean), 2 * running.get(code, 0.0)), math.fsum(s) / len(s)
            )
            for code, s in sizes.items()
        }
        seen.update((code, self._seen[code]) for code, _ in functions if code in self._seen)
        return [seen[c].mean * math.exp(min(5.0, SLOPE * (size - seen[c].size))) for c, size in functions]

    def has_run(self, code: str) -> bool:
        """Whether a function of this code has run."""
        return code in self._seen

    def knows(self, code: str) -> bool:
        """Whether a function of this code has run, or there is a hint."""
        return code in self._seen or code in self._hints

    def result_bytes(self, code: str) -> float | None:
        """Mean size of a result; None if no function of this code has run."""
        seen = self._seen.get(code)
        return None if seen is None else seen.nbytes

    @property
    def any_short(self) -> bool:
        """Whether any code is known to be short."""
        return bool(self._short)

    def is_short(self, code: str) -> bool:
        """Whether functions of this code are known to be short."""
        return code in self._short

    def most(self, code: str) -> float | None:
        """About the most seconds that recent functions of this code took; None if none has run."""
        seen = self._seen.get(code)
        return None if seen is None else seen.most
