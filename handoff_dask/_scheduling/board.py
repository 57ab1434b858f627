"""Queues of which nothing fits anywhere, and which of them gets what is freed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from handoff_dask._scheduling.ahead import Ahead
from handoff_dask._scheduling.ledger import Node
from handoff_dask._scheduling.queues import Queue, Standing
from handoff_dask._scheduling.runs import Run
from handoff_dask._scheduling.spec import Amounts

#: From so many queues on, all are compared with a node at once.
MANY = 64

#: No amount in the table is larger; what the table lets through is looked at exactly afterwards.
_MOST = 2**62

#: Column of the number of the run: what comes after the share that it has.
_SEQUENCE = 2

#: Whole numbers below this are exact as floats.
_EXACT = 2.0**53

_urgency_of = attrgetter("urgency")


class Board:
    """Blocked queues: no node that there was when they were looked at has room for their functions."""

    def __init__(self) -> None:
        self._queues: dict[Queue, None] = {}
        self._table: _Table | None = None

    @property
    def is_large(self) -> bool:
        """Whether there are so many queues that they are compared at once."""
        return self._table is not None

    def add(self, queue: Queue) -> None:
        """A queue is blocked."""
        if queue in self._queues:
            return
        self._queues[queue] = None
        if self._table is not None:
            self._table.add(queue)
        elif len(self._queues) > MANY:
            self._table = _Table(self._queues)

    def discard(self, queue: Queue) -> None:
        """A queue is not blocked any more."""
        if queue in self._queues:
            del self._queues[queue]
            if self._table is not None:
                self._table.remove(queue)
                if len(self._queues) < MANY // 2:
                    self._table = None

    def __iter__(self) -> Iterator[Queue]:
        return iter(list(self._queues))

    def first(self, freed: Mapping[Node, None], turn: int, ahead: Ahead) -> Queue | None:
        """The most urgent queue that could get something now.

        Queues that are empty stay, and are blocked when they get functions again, unless these would fit:
        what is still free on these nodes is not looked at in the next decision.

        Parameters
        ----------
        freed : mapping of Node
            Where there may be more room than there was.
        turn : int
            Queues that were tried in this turn are left out.
        ahead : Ahead
            What may be sent to a node although it has no room.
        """
        if self._table is not None:
            return self._first_of_many(self._table, freed, turn, ahead)
        best: Queue | None = None
        empty = []
        for queue in self._queues:
            if queue.tried == turn:
                continue
            fits = _fits_on_one(queue.cost, freed)
            if not fits and not ahead.horizon:
                continue
            f = queue.head()
            if f is None:
                if fits:
                    empty.append(queue)
            elif (best is None or queue.urgency < best.urgency) and (fits or ahead.may(f)):
                best = queue
        for queue in empty:
            self.discard(queue)
            queue.parked = None
        return best

    def _first_of_many(
        self, table: _Table, freed: Mapping[Node, None], turn: int, ahead: Ahead
    ) -> Queue | None:
        fitting = table.fitting(freed)
        while (queue := self._most_urgent(table, fitting)) is not None:
            if queue.tried != turn:
                return queue
            fitting[table.row_of[queue]] = False
        # Of those that fit nowhere only the most urgent one may be sent ahead: each has to be looked at.
        queue = self._most_urgent(table, table.used()) if ahead.is_likely() else None
        f = None if queue is None or queue.tried == turn else queue.head()
        return queue if f is not None and ahead.may(f) else None

    def _most_urgent(self, table: _Table, rows: NDArray[np.bool_]) -> Queue | None:
        """The most urgent queue of these rows; those that turn out to be empty are not blocked."""
        while (queue := table.most_urgent(rows)) is not None:
            if queue.head() is None:
                rows[table.row_of[queue]] = False
                self.discard(queue)
                queue.parked = None
            elif not table.update(queue):
                return queue
        return None

    def update(self, queue: Queue) -> None:
        """A function was added to a queue."""
        if self._table is not None and queue in self._queues:
            self._table.update(queue)


def _fits_on_one(cost: Amounts, nodes: Iterable[Node]) -> bool:
    for node in nodes:  # noqa: SIM110 - a generator takes longer than what it looks at
        if node.takes(cost):
            return True
    return False


class _Table:
    """Costs and urgencies of many queues, to compare them all at once.

    Attributes
    ----------
    row_of : dict of Queue to int
    """

    def __init__(self, queues: Iterable[Queue]) -> None:
        self.row_of: dict[Queue, int] = {}
        self._columns: dict[str, int] = {}
        self._rows: list[Queue | None] = []
        self._unused: list[int] = []
        self._needs = np.zeros((256, 4), dtype=np.int64)
        self._standings = np.zeros((256, 5))
        self._noted: list[Standing | None] = []  # the same, exactly
        self._runs: list[Run | None] = []
        self._place_of: dict[Run, int] = {}  # in _runs
        self._queues_of: Counter[Run] = Counter()
        self._run_of = np.zeros(256, dtype=np.int64)
        for queue in queues:
            self.add(queue)

    def add(self, queue: Queue) -> None:
        """Add a queue."""
        row = self._unused.pop() if self._unused else len(self._rows)
        if row == len(self._rows):
            self._rows.append(None)
            self._noted.append(None)
        for name in queue.cost:
            self._columns.setdefault(name, len(self._columns))
        rows, columns = self._needs.shape
        if row >= rows or len(self._columns) > columns:
            wider, longer = max(columns, 2 * len(self._columns)), max(rows, 2 * row)
            needs = np.zeros((longer, wider), dtype=np.int64)
            needs[:rows, :columns] = self._needs
            standings = np.zeros((longer, 5))
            standings[:rows] = self._standings
            run_of = np.zeros(longer, dtype=np.int64)
            run_of[:rows] = self._run_of
            self._needs, self._standings, self._run_of = needs, standings, run_of
        self._rows[row] = queue
        self.row_of[queue] = row
        self._needs[row] = 0
        for name, units in queue.cost.items():
            self._needs[row, self._columns[name]] = min(units, _MOST)
        self._run_of[row] = self._place(queue.run)
        self._queues_of[queue.run] += 1
        self._note(row, None if queue.head() is None else queue.standing)

    def _note(self, row: int, standing: Standing | None) -> None:
        self._noted[row] = standing
        try:
            self._standings[row] = standing or 0.0
        except OverflowError:  # priorities are any numbers
            self._standings[row] = [_as_float(number) for number in standing or ()]

    def remove(self, queue: Queue) -> None:
        """Take a queue away."""
        row = self.row_of.pop(queue)
        self._rows[row] = None
        self._needs[row] = _MOST + 1
        self._unused.append(row)
        self._queues_of[queue.run] -= 1
        if not self._queues_of[queue.run]:
            del self._queues_of[queue.run]
            self._runs[self._place_of.pop(queue.run)] = None

    def _place(self, run: Run) -> int:
        place = self._place_of.get(run)
        if place is None:
            place = self._runs.index(None) if None in self._runs else len(self._runs)
            self._runs[place:] = [run, *self._runs[place + 1 :]]
            self._place_of[run] = place
        return place

    def update(self, queue: Queue) -> bool:
        """Take note of the urgency of a queue; whether it was another one."""
        row = self.row_of[queue]
        if queue.head() is None or self._noted[row] == queue.standing:
            return False
        self._note(row, queue.standing)
        return True

    def fitting(self, nodes: Iterable[Node]) -> NDArray[np.bool_]:
        """Whether the cost of each queue is free on one of the nodes, as far as the table tells."""
        needs = self._needs[: len(self._rows), : len(self._columns)]
        found = np.zeros(len(needs), dtype=bool)
        for free in {tuple(min(n.free(name), _MOST) for name in self._columns) for n in nodes}:
            found |= (needs <= np.array(free, dtype=np.int64)).all(axis=1)
        return found

    def used(self) -> NDArray[np.bool_]:
        """Whether there is a queue in each row."""
        found: NDArray[np.bool_] = self._needs[: len(self._rows), 0] <= _MOST
        return found

    def most_urgent(self, rows: NDArray[np.bool_]) -> Queue | None:
        """The most urgent queue of these rows."""
        left = np.flatnonzero(rows)
        for column in range(5):
            if len(left) < 2:
                break
            if column == _SEQUENCE and len(self._place_of) > 1:
                all_shares = [0 if run is None else run.share for run in self._runs]
                shares = np.array(all_shares, dtype=np.int64)[self._run_of[left]]
                left = left[shares == shares.min()]
            values = self._standings[left, column]
            least = values.min()
            left = left[values == least]
            if abs(least) >= _EXACT:
                queues = [q for q in map(self._rows.__getitem__, left) if q and q.head() is not None]
                return min(queues, key=_urgency_of) if queues else self._rows[left[0]]
        return self._rows[left[0]] if len(left) else None


def _as_float(number: float) -> float:
    """A number, or an infinity where it is too large for a float."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf
