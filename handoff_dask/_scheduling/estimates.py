"""Estimates of durations and result sizes, learnt from functions that have run."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

from handoff_dask._model.resources import UNIT

#: A function that asks for ``k`` times as much as others of its code is expected to take ``k**SLOPE`` times
#: as long, because more memory suggests more data. The exponent cannot be learnt during a run, since the
#: functions that finish first are the short ones.
SLOPE = 0.5

#: Code that has never run is expected to take this many times the mean of the other code. This ranks it
#: early, so that its duration, and that of its dependents, is known early.
UNKNOWN = 1.5

#: Maximum number of code names with statistics; the least recently updated one is evicted.
MAX_NAMES = 10_000


def size_of(cost: Iterable[tuple[str, int]]) -> float:
    """Return the size of a cost on a logarithmic scale, to compare functions of the same code.

    Amounts up to 1 do not count: one GPU says little about the amount of work.
    """
    return math.fsum(math.log(max(UNIT, units) / UNIT) for _, units in cost)


class _Stats:
    """Statistics of the functions of one code that have run.

    Attributes
    ----------
    count : int
        Number of functions.
    mean : float
        Mean duration in seconds; recent functions have more weight.
    most : float
        Decaying maximum of recent durations, in seconds.
    size : float
        Mean size of the costs; see :func:`size_of`.
    nbytes : float
        Mean result size in bytes.
    """

    __slots__ = ("count", "mean", "most", "nbytes", "size")

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self.most = 0.0
        self.size = 0.0
        self.nbytes = 0.0

    def add(self, size: float, seconds: float, nbytes: int) -> None:
        self.count += 1
        weight = 0.1 if self.count > 10 else 1 / self.count
        self.mean += weight * (seconds - self.mean)
        self.size += weight * (size - self.size)
        self.nbytes += weight * (nbytes - self.nbytes)
        # Rises immediately, decays slowly.
        self.most = seconds if seconds > self.most else self.most + 0.1 * (seconds - self.most)


class Estimates:
    """Expected durations and result sizes, by code name and size of the cost.

    Parameters
    ----------
    short : float
        Seconds. Code whose recent functions took no longer is *short*. 0: no code is.
    """

    __slots__ = ("_hints", "_limit", "_seen", "_short")

    def __init__(self, short: float = 0.0) -> None:
        self._limit = short
        self._seen: OrderedDict[str, _Stats] = OrderedDict()  # the least recently updated first
        self._hints: OrderedDict[str, float] = OrderedDict()
        self._short: set[str] = set()

    def hint(self, code: str, seconds: float) -> None:
        """Set the mean duration of code that ran elsewhere. It applies until it has run here."""
        self._hints[code] = seconds
        self._hints.move_to_end(code)
        if len(self._hints) > MAX_NAMES:
            self._hints.popitem(last=False)

    def learn(self, code: str, size: float, seconds: float, nbytes: int = 0) -> None:
        """Record the duration and the result size of a function that has run."""
        seen = self._seen.get(code)
        if seen is None:
            seen = self._seen[code] = _Stats()
            if len(self._seen) > MAX_NAMES:
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
        self, functions: Sequence[tuple[str, float]], running: Mapping[str, float] | None = None
    ) -> list[float]:
        """Return the expected durations of functions in seconds.

        Code that has never run is expected to take its hint or, without one, :data:`UNKNOWN` times the mean
        of the code that has run, or :data:`UNKNOWN` seconds if none has.

        Parameters
        ----------
        functions : sequence of (str, float)
            Code and size of each function.
        running : mapping of str to float, optional
            Code → seconds for which a function of it has been running. Code that has never run is expected to
            take at least twice as long.
        """
        means: dict[str, float] = {}  # of code that has run
        sizes: dict[str, float] = {}  # mean size of the functions of each code
        counts: dict[str, int] = {}  # of code that has never run
        for code, size in functions:
            seen = self._seen.get(code)
            if seen is not None:
                means[code] = seen.mean
                sizes[code] = seen.size
            else:
                n = counts[code] = counts.get(code, 0) + 1
                sizes[code] = size if n == 1 else sizes[code] + (size - sizes[code]) / n
        unknown = UNKNOWN * (math.fsum(means.values()) / len(means) if means else 1.0)
        for code in counts:
            means[code] = max(self._hints.get(code, unknown), 2 * running.get(code, 0.0) if running else 0.0)
        return [
            means[code]
            if size == sizes[code]
            else means[code] * math.exp(min(5.0, SLOPE * (size - sizes[code])))
            for code, size in functions
        ]

    def has_run(self, code: str) -> bool:
        """Return whether a function of this code has run."""
        return code in self._seen

    def knows(self, code: str) -> bool:
        """Return whether a function of this code has run, or a hint exists."""
        return code in self._seen or code in self._hints

    def total_bytes(self, counts: Iterable[tuple[str, int]]) -> float | None:
        """Return the expected total size of results in bytes; None if none of their code has run.

        Code that has never run is expected to return as much as the mean of the other code.

        Parameters
        ----------
        counts : iterable of (str, int)
            Code, and number of functions.
        """
        total = sizes = 0.0
        known = unknown = 0
        for code, n in counts:
            seen = self._seen.get(code)
            if seen is None:
                unknown += n
            else:
                total += seen.nbytes * n
                sizes += seen.nbytes
                known += 1
        return total + sizes / known * unknown if known else None

    @property
    def any_short(self) -> bool:
        """Whether any code is known to be short."""
        return bool(self._short)

    def is_short(self, code: str) -> bool:
        """Return whether functions of this code are known to be short."""
        return code in self._short

    def most(self, code: str) -> float | None:
        """Return about the longest recent duration of this code in seconds; None if it has not run."""
        seen = self._seen.get(code)
        return None if seen is None else seen.most
