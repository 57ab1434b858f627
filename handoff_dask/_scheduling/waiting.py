"""The runs that have ready functions, in the order in which they go first."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from handoff_dask._scheduling.queues import Cost
from handoff_dask._scheduling.runs import Run

#: Priority of the run negated, the highest priority that a function of it may have negated, its dominant
#: share, its number.
RunKey = tuple[float, float, int, int]


class WaitingRuns:
    """Runs with ready functions, and some that had some.

    Attributes
    ----------
    moved : dict of Run to None
        Runs whose share has changed since :meth:`sort`.
    dirty : dict of Run to None
        Runs that may have a dirty queue.
    """

    def __init__(self) -> None:
        self.moved: dict[Run, None] = {}
        self.dirty: dict[Run, None] = {}
        self._entries: list[tuple[RunKey, Run]] = []
        self._keys: dict[Run, RunKey] = {}
        self._stale = False  # whether the key of the only run may have changed
        self._least: dict[str, int] | None = None
        self._least_cost: Cost = ()

    def __iter__(self) -> Iterator[Run]:
        return iter(self._keys)

    def add(self, run: Run) -> None:
        """Add a run, unless it is there."""
        if run not in self._keys:
            if self._stale:
                self._stale = False
                self._keys = {other: _key(other) for other in self._keys}
                self._entries = sorted((key, other) for other, key in self._keys.items())
            key = self._keys[run] = _key(run)
            insort(self._entries, (key, run))
            if self._least is not None:
                self._lower(self._least, run)
                self._least_cost = tuple(self._least.items())

    def discard(self, run: Run) -> None:
        """Remove a run, if it is there."""
        self.dirty.pop(run, None)
        self.moved.pop(run, None)
        key = self._keys.pop(run, None)
        if key is not None:
            del self._entries[bisect_left(self._entries, (key, run))]
            self._least = None

    def sort(self) -> None:
        """Put the runs whose share has changed where they belong."""
        if len(self._entries) < 2:
            self._stale |= bool(self.moved)
            self.moved.clear()
            return
        for run in self.moved:
            before = self._keys.get(run)
            if before is not None:
                key = _key(run)
                if key != before:
                    del self._entries[bisect_left(self._entries, (before, run))]
                    self._keys[run] = key
                    insort(self._entries, (key, run))
        self.moved.clear()

    @property
    def least(self) -> Cost:
        """The least that any waiting function may need of each resource."""
        if self._least is None:
            self._least = {}
            for n, run in enumerate(self._keys):
                if n:
                    self._lower(self._least, run)
                else:
                    self._least = dict(run.backlog.least)
            self._least_cost = tuple(self._least.items())
        return self._least_cost

    @staticmethod
    def _lower(least: dict[str, int], run: Run) -> None:
        other = dict(run.backlog.least)
        for name, units in list(least.items()):
            least[name] = min(units, other.get(name, 0))
            if not least[name]:
                del least[name]

    def in_order(self) -> list[tuple[RunKey, Run]]:
        """All runs, the one that goes first first. To be left as it is."""
        return self._entries

    def dirty_in_order(self, after: RunKey | None = None) -> list[tuple[RunKey, Run]]:
        """Runs that may have a dirty queue, the first first; only those that come ``after`` another one."""
        entries = [(self._keys[run], run) for run in self.dirty]
        return sorted(entry for entry in entries if after is None or entry[0] > after)


def _key(run: Run) -> RunKey:
    return (-run.spec.priority, -run.top_priority, run.share, run.sequence)
