"""What the attempts of a run asked for and used, by code."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

from distributed.metrics import monotonic

from handoff_dask._model.records import Attempt
from handoff_dask._model.resources import CPU, MEMORY
from handoff_dask._scheduling.runs import Changes

#: Seconds after which an update counts no further attempts: the next one continues.
UPDATING = 0.004

#: Number of functions that are read between two looks at the clock.
CHUNK = 200


#: Number of amounts that are kept for a median. Of more attempts than that, a part is kept.
KEPT = 4_000


class UsageView(TypedDict):
    """What the measured attempts of one code asked for and used of one resource, in MB or in cores.

    ``asked`` is the least and the most that any of them asked for; None if none asked for the resource.
    ``median`` and ``most`` are of what they used: peak memory, or mean number of cores. ``exact`` says
    whether all of these measurements are exact. ``exceeded`` counts the attempts that used more than they
    asked for.
    """

    resource: str
    attempts: int
    asked: tuple[float, float] | None
    median: float
    most: float
    exact: bool
    exceeded: int


class _Amounts:
    """What attempts asked for and used of one resource."""

    __slots__ = ("_every", "_used", "asked", "attempts", "exact", "exceeded", "most")

    def __init__(self) -> None:
        self.attempts = 0
        self.asked: tuple[float, float] | None = None
        self.most = 0.0
        self.exact = True
        self.exceeded = 0
        self._used: list[float] = []  # of one attempt in `_every`
        self._every = 1

    def add(self, asked: float | None, used: float, exact: bool) -> None:
        """Add an attempt."""
        self.attempts += 1
        if self.attempts % self._every == 0:
            self._used.append(used)
            if len(self._used) == KEPT:
                self._used.sort()
                self._used = self._used[1::2]  # the same distribution
                self._every *= 2
        if used > self.most:
            self.most = used
        if not exact:
            self.exact = False
        if asked:
            if self.asked is None or not self.asked[0] <= asked <= self.asked[1]:
                least, most = self.asked or (asked, asked)
                self.asked = min(least, asked), max(most, asked)
            self.exceeded += used > asked

    def view(self, resource: str) -> UsageView:
        """Return a summary of the attempts so far."""
        self._used.sort()  # fast, since only the latest are not in order yet
        return {
            "resource": resource,
            "attempts": self.attempts,
            "asked": self.asked,
            "median": self._used[(len(self._used) - 1) // 2],
            "most": self.most,
            "exact": self.exact,
            "exceeded": self.exceeded,
        }


class UsageByCode:
    """What the attempts of a run asked for and used, by code, as far as they have been counted.

    Attempts that finished or failed count, except those that loaded a result from a checkpoint. Each is
    counted once, when somebody wants to know: an update covers what has changed since the one before.

    Attributes
    ----------
    codes : sequence of str
        Kind of functions → its code, as text.
    costs : sequence of mapping
        Kind of functions → its cost, as declared.
    kind_of : sequence of int
        Function number → index into ``codes`` and ``costs``.
    partial : bool
        Whether attempts remain to be counted.
    """

    def __init__(
        self, codes: Sequence[str], costs: Sequence[Mapping[str, float]], kind_of: Sequence[int]
    ) -> None:
        self.partial = True
        self.codes = codes
        self.costs = costs
        self.kind_of = kind_of
        self._cursor: tuple[int, int] | None = None
        self._counted = array("I", bytes(4 * len(kind_of)))  # function number → its attempts so far
        self._amounts: dict[str, tuple[_Amounts, _Amounts]] = {}  # code → of memory, and of cores

    def update(
        self,
        changes: Callable[[tuple[int, int] | None, int], Changes],
        attempts_of: Callable[[int], Sequence[Attempt]],
    ) -> None:
        """Count attempts that are new, for at most about :data:`UPDATING` seconds.

        Parameters
        ----------
        changes : callable
            :meth:`Run.changes`, or the same of an archived run.
        attempts_of : callable
            Number of a function → its attempts that have ended.
        """
        until = monotonic() + UPDATING
        self.partial = True
        while self.partial and monotonic() < until:
            numbers, self._cursor, self.partial = changes(self._cursor, CHUNK)
            for number in numbers:
                attempts = attempts_of(number)
                if len(attempts) > (counted := self._counted[number]):
                    self._counted[number] = len(attempts)
                    for attempt in attempts[counted:]:
                        self._add(self.kind_of[number], attempt)

    def _add(self, kind: int, a: Attempt) -> None:
        if a.loaded or a.outcome not in ("finished", "failed"):
            return
        cost = self.costs[kind] if a.cost is None else a.cost
        code = self.codes[kind]
        if code not in self._amounts:
            self._amounts[code] = _Amounts(), _Amounts()
        memory, cpu = self._amounts[code]
        if a.peak_memory is not None:
            memory.add(cost.get(MEMORY), a.peak_memory, a.peak_exact)
        started, stopped = a.started, a.stopped
        if a.cpu_seconds is not None and started is not None and stopped is not None and stopped > started:
            cpu.add(cost.get(CPU), a.cpu_seconds / (stopped - started), True)

    def of(self, code: str) -> list[UsageView]:
        """Return what the attempts of a code asked for and used: of memory, and of cores."""
        found = zip((MEMORY, CPU), self._amounts.get(code, ()), strict=False)
        return [amounts.view(resource) for resource, amounts in found if amounts.attempts]
