"""How long functions take, learnt from those that have run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from handoff_dask._model.function import LOADING
from handoff_dask._model.resources import UNIT

#: A function that asks for ``k`` times as much as others of its code is expected to take ``k**SLOPE`` times
#: as long. More memory goes with more data; how much longer that takes cannot be learnt from the first that
#: finish, since those are the short ones.
SLOPE = 0.5

#: Functions of code that has not run yet count for more than the others: what they lead to is not known
#: either, and the sooner one has run, the sooner it is.
UNKNOWN = 1.5


def size_of(cost: Iterable[tuple[str, int]]) -> float:
    """How much a function asks for, on a logarithmic scale, to compare functions of one code.

    Anything up to one counts as nothing: that one has a GPU says little of how much there is to do.
    """
    return math.fsum(math.log(max(UNIT, units) / UNIT) for _, units in cost)


def loading(code: str) -> str:
    """Name under which it is learnt how long it takes to load results of functions of this code."""
    return f"{LOADING} {code.partition(' ')[2]}"


@dataclass(slots=True)
class _Seen:
    """Functions of one code that have run."""

    count: int = 0
    mean: float = 0.0  # seconds, the later ones weighing more
    most: float = 0.0  # seconds of the longest of late, or a little less
    size: float = 0.0  # mean
    nbytes: float = 0.0  # mean size of a result

    def add(self, size: float, seconds: float, nbytes: int) -> None:
        self.count += 1
        weight = max(0.1, 1 / self.count)
        self.mean += weight * (seconds - self.mean)
        self.size += weight * (size - self.size)
        self.nbytes += weight * (nbytes - self.nbytes)
        self.most = max(seconds, self.most + 0.1 * (seconds - self.most))  # up at once, down slowly


class Durations:
    """Seconds that functions take, by the name of their code and how much they ask for."""

    __slots__ = ("_hints", "_seen")

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._hints: dict[str, float] = {}

    def hint(self, code: str, seconds: float) -> None:
        """Take note of what functions of this code take on average elsewhere, until one has run here."""
        self._hints[code] = seconds

    def learn(self, code: str, size: float, seconds: float, nbytes: int = 0) -> None:
        """Take note of one that has run, and of the size of its result."""
        seen = self._seen.get(code)
        if seen is None:
            seen = self._seen[code] = _Seen()
        seen.add(size, seconds, nbytes)

    def expected(
        self, functions: Iterable[tuple[str, float]], running: Mapping[str, float] | None = None
    ) -> list[float]:
        """What functions are expected to take, given the code and the size of each.

        Codes of which none has run count as :data:`UNKNOWN` times the mean of those of which some have, or as
        so many seconds, unless there is a hint; and as no less than twice what one has been ``running`` for
        already (code → seconds).
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
            code: _Seen(
                mean=max(self._hints.get(code, UNKNOWN * mean), 2 * running.get(code, 0.0)),
                size=math.fsum(s) / len(s),
            )
            for code, s in sizes.items()
        }
        seen.update((code, self._seen[code]) for code, _ in functions if code in self._seen)
        return [seen[c].mean * math.exp(min(5.0, SLOPE * (size - seen[c].size))) for c, size in functions]

    def knows(self, code: str) -> bool:
        """Whether a function of this code has run, or others have told how long they took."""
        return code in self._seen or code in self._hints

    def result_bytes(self, code: str) -> float | None:
        """Size of a result; None when none has run."""
        seen = self._seen.get(code)
        return None if seen is None else seen.nbytes

    def least(self) -> float:
        """The smallest :meth:`most` of any code; infinity when none has run."""
        return min((seen.most for seen in self._seen.values()), default=math.inf)

    def most(self, code: str) -> float | None:
        """What the longest of late took, or a little less; None when none has run."""
        seen = self._seen.get(code)
        return None if seen is None else seen.most
