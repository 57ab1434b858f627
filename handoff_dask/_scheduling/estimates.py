"""Estimates: what is known of a function before it runs, from the most to the least specific source.

1. The same function in earlier runs: the same id, code, arguments and dependencies.
2. Functions of the same code whose ids have the same stem.
3. Functions of the same code.
4. For durations, the mean of other code.

Sources 2 and 3 prefer what was measured here to what a history or Dask knows. :class:`Estimates` holds what
all runs have in common; :class:`~handoff_dask._scheduling.run_estimates.RunEstimates` answers for the
functions of one run.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from handoff_dask._model.code_keys import name_in, without_stem
from handoff_dask._model.resources import UNIT
from handoff_dask._model.used import UNKNOWN as UNMEASURED
from handoff_dask._model.used import Used
from handoff_dask._scheduling.spec import Hint
from handoff_dask._scheduling.speeds import Speeds

if TYPE_CHECKING:
    pass

#: A function that asks for ``k`` times as much as others of its code is expected to take ``k**SLOPE`` times
#: as long, because more memory suggests more data. The exponent cannot be learnt during a run, since the
#: functions that finish first are the short ones.
SLOPE = 0.5

#: Code that has never run is expected to take this many times the mean of the other code. This ranks it
#: early, so that its duration, and that of its dependents, is known early.
UNKNOWN = 1.5

#: Maximum number of keys with statistics; the least recently updated one is evicted.
MAX_KEYS = 10_000

#: Number of peaks of memory to remember for each key, the latest ones.
MAX_PEAKS = 64


def size_of(cost: Iterable[tuple[str, int]]) -> float:
    """Return the size of a cost on a logarithmic scale, to compare functions of the same code.

    Amounts up to 1 do not count: one GPU says little about the amount of work.
    """
    return math.fsum(math.log(max(UNIT, units) / UNIT) for _, units in cost)


class _Stats:
    """Statistics of the functions of one key that have run.

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
    measured : int
        Number of functions whose use of memory or processors was measured.
    peaks : list of float
        The most memory in use by each of the latest functions, in MB.
    cores : list of float
        Mean number of processors that each of the latest functions used.
    """

    __slots__ = ("cores", "count", "mean", "measured", "most", "nbytes", "peaks", "size")

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self.most = 0.0
        self.size = 0.0
        self.nbytes = 0.0
        self.measured = 0
        self.peaks: list[float] = []
        self.cores: list[float] = []

    def add(self, size: float, seconds: float, nbytes: int, usage: Used | None) -> None:
        """Add a function, and what it used if that was measured."""
        self.count += 1
        weight = 0.1 if self.count > 10 else 1 / self.count
        self.mean += weight * (seconds - self.mean)
        self.size += weight * (size - self.size)
        self.nbytes += weight * (nbytes - self.nbytes)
        # Rises immediately, decays slowly.
        self.most = seconds if seconds > self.most else self.most + 0.1 * (seconds - self.most)
        if usage is not None:
            at = self.measured % MAX_PEAKS  # the oldest measurement, or the end while there are few
            self.measured += 1
            if usage.peak_memory is not None:
                self.peaks[at : at + 1] = [usage.peak_memory]
            if usage.cpu_seconds is not None and seconds > 0:
                self.cores[at : at + 1] = [usage.cpu_seconds / seconds]


class Estimates:
    """What is known of code, by key and size of the cost, and of the speeds of nodes.

    Parameters
    ----------
    short : float
        Seconds. Code whose recent functions took no longer is *short*. 0: no code is.

    Attributes
    ----------
    speeds : Speeds
    """

    __slots__ = ("_by_code", "_hints", "_limit", "_seen", "_short", "speeds")

    def __init__(self, short: float = 0.0) -> None:
        self.speeds = Speeds()
        self._limit = short
        self._seen: OrderedDict[str, _Stats] = OrderedDict()  # the least recently updated first
        self._by_code: dict[str, dict[str, None]] = {}  # key without its stem → keys with statistics
        self._hints: OrderedDict[str, Hint] = OrderedDict()
        self._short: set[str] = set()

    # ------------------------------------------------------------------ learning

    def hint(self, key: str, hint: Hint) -> None:
        """Set what is known of code that ran elsewhere. It applies until it has run here."""
        self._hints[key] = hint
        self._hints.move_to_end(key)
        if len(self._hints) > MAX_KEYS:
            self._hints.popitem(last=False)

    def learn(
        self,
        key: str,
        size: float,
        seconds: float,
        nbytes: int = 0,
        *,
        node: Any = None,
        before: Sequence[tuple[Any, float]] = (),
        usage: Used = UNMEASURED,
    ) -> None:
        """Record what a function took that has run.

        Parameters
        ----------
        key : str
        size : float
            Size of its cost.
        seconds : float
            Its duration.
        nbytes : int
            Size of its result in bytes.
        node : optional
            Name of the node on which it ran.
        before : sequence of (node, float)
            Where the same function has run before, and for how many seconds.
        usage : Used
        """
        speeds = self.speeds
        if node is not None:
            speeds.learn((key, size), node, seconds, before)
            if speeds.factors:
                seconds /= speeds.factor(node)
        stats = self._seen.get(key)
        if stats is None:
            stats = self._start(key)
        else:
            self._seen.move_to_end(key)
        stats.add(size, seconds, nbytes, usage if usage.peak_exact else None)
        if stats.most <= self._limit and self._limit:
            self._short.add(key)
        elif key in self._short:
            self._short.remove(key)

    def _start(self, key: str) -> _Stats:
        stats = self._seen[key] = _Stats()
        self._by_code.setdefault(without_stem(key), {})[key] = None
        if len(self._seen) > MAX_KEYS:
            oldest, _ = self._seen.popitem(last=False)
            self._short.discard(oldest)
            code = without_stem(oldest)
            del self._by_code[code][oldest]
            if not self._by_code[code]:
                del self._by_code[code]
        return stats

    def _of_code(self, key: str) -> list[_Stats]:
        """Return the statistics of all keys that have the same code as a key."""
        return [self._seen[other] for other in self._by_code.get(without_stem(key), ())]

    @property
    def names(self) -> set[str]:
        """Short names of the code that has run."""
        return set(map(name_in, self._by_code))

    # ------------------------------------------------------------------ durations

    def expected(
        self, functions: Sequence[tuple[str, float]], running: Mapping[str, float] | None = None
    ) -> list[float]:
        """Return the expected durations of functions in seconds, on a node of ordinary speed.

        Code of which nothing is known is expected to take :data:`UNKNOWN` times the mean of the code that has
        run, or :data:`UNKNOWN` seconds if none has.

        Parameters
        ----------
        functions : sequence of (str, float)
            Key and size of each function.
        running : mapping of str to float, optional
            Key → seconds for which a function of it has been running. Functions of a key that has never run
            are expected to take at least twice as long.
        """
        means: dict[str, float] = {}  # of keys that have run
        sizes: dict[str, float] = {}  # mean size of the functions of each key
        counts: dict[str, int] = {}  # of keys that have never run
        for key, size in functions:
            seen = self._seen.get(key)
            if seen is not None:
                means[key] = seen.mean
                sizes[key] = seen.size
            else:
                n = counts[key] = counts.get(key, 0) + 1
                sizes[key] = size if n == 1 else sizes[key] + (size - sizes[key]) / n
        unknown = UNKNOWN * (math.fsum(means.values()) / len(means) if means else 1.0)
        for key in counts:
            elsewhere = self._elsewhere(key)
            means[key] = max(
                unknown if elsewhere is None else elsewhere, 2 * running.get(key, 0.0) if running else 0.0
            )
        return [
            means[key] if size == sizes[key] else means[key] * math.exp(min(5.0, SLOPE * (size - sizes[key])))
            for key, size in functions
        ]

    def _elsewhere(self, key: str) -> float | None:
        """Return what a key that has never run here is expected to take; None if nothing is known of it."""
        hint = self._hints.get(key)
        if hint is None:
            if others := self._of_code(key):
                n = sum(stats.count for stats in others)
                return UNKNOWN * math.fsum(stats.count * stats.mean for stats in others) / n
            hint = self._hints.get(without_stem(key))
        return None if hint is None else hint.seconds

    def has_run(self, key: str) -> bool:
        """Return whether a function of this key has run."""
        return key in self._seen

    def knows(self, key: str) -> bool:
        """Return whether anything is known of a key or of its code."""
        return key in self._seen or self._elsewhere(key) is not None

    @property
    def any_short(self) -> bool:
        """Whether any code is known to be short."""
        return bool(self._short)

    def is_short(self, key: str) -> bool:
        """Return whether functions of this key are known to be short."""
        return key in self._short

    def most(self, key: str) -> float | None:
        """Return about the longest recent duration of this key in seconds; None if it has not run."""
        seen = self._seen.get(key)
        return None if seen is None else seen.most

    # ------------------------------------------------------------------ results, memory and processors

    def total_bytes(self, counts: Iterable[tuple[str, int]]) -> float | None:
        """Return the expected total size of results in bytes; None if none of their code has run.

        Code that has never run is expected to return as much as the mean of the other code.

        Parameters
        ----------
        counts : iterable of (str, int)
            Key, and number of functions.
        """
        total = sizes = 0.0
        known = unknown = 0
        for key, n in counts:
            seen = self._seen.get(key)
            if seen is None:
                unknown += n
            else:
                total += seen.nbytes * n
                sizes += seen.nbytes
                known += 1
        return total + sizes / known * unknown if known else None

    def measured(self, key: str) -> int:
        """Return how many functions of this key were measured here."""
        seen = self._seen.get(key)
        return 0 if seen is None else seen.measured

    def peaks(self, key: str) -> Sequence[float]:
        """Return the peaks of memory of functions like those of a key, in MB; empty if none are known."""
        seen, hint = self._seen.get(key), self._hints.get(key)
        if seen is not None and seen.peaks:
            return seen.peaks
        if hint is not None and hint.peaks:
            return hint.peaks
        if peaks := [peak for stats in self._of_code(key) for peak in stats.peaks]:
            return _sample(peaks)
        hint = self._hints.get(without_stem(key))
        return () if hint is None else hint.peaks

    def cores(self, key: str) -> Sequence[float]:
        """Return the processors that functions like those of a key used; empty if none are known."""
        seen = self._seen.get(key)
        if seen is not None and seen.cores:
            return seen.cores
        return _sample([cores for stats in self._of_code(key) for cores in stats.cores])


def _sample(amounts: list[float]) -> Sequence[float]:
    """Return amounts of about the same distribution, at most about :data:`MAX_PEAKS` of them."""
    return sorted(amounts)[:: -(-len(amounts) // MAX_PEAKS)] if len(amounts) > MAX_PEAKS else amounts
