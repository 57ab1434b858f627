"""Queues of which nothing fits anywhere, and which of them gets what is freed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from handoff_dask._scheduling.ahead import Ahead
from handoff_dask._scheduling.ledger import Node
from handoff_dask._scheduling.queues import Queue, Urgency
from handoff_dask._scheduling.spec import Amounts

#: From so many queues on, all are compared with a node at once.
MANY = 64

#: No amount in the table is larger; what the table lets through is looked at exactly afterwards.
_MOST = 2**62

#: Whole numbers below this are exact as floats.
_EXACT = 2.0**53


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
        self._urgencies = np.zeros((256, 5))
        self._noted: list[Urgency | None] = []  # the same, exactly
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
            urgencies = np.zeros((longer, 5))
            urgencies[:rows] = self._urgencies
            self._needs, self._urgencies = needs, urgencies
        self._rows[row] = queue
        self.row_of[queue] = row
        self._needs[row] = 0
        for name, units in queue.cost.items():
            self._needs[row, self._columns[name]] = min(units, _MOST)
        self._note(row, None if queue.head() is None else queue.urgency)

    def _note(self, row: int, urgency: Urgency | None) -> None:
        self._noted[row] = urgency
        try:
            self._urgencies[row] = urgency or 0.0
        except OverflowError:  # priorities are any numbers
            self._urgencies[row] = [_as_float(number) for number in urgency or ()]

    def remove(self, queue: Queue) -> None:
        """Take a queue away."""
        row = self.row_of.pop(queue)
        self._rows[row] = None
        self._needs[row] = _MOST + 1
        self._unused.append(row)

    def update(self, queue: Queue) -> bool:
        """Take note of the urgency of a queue; whether it was another one."""
        row = self.row_of[queue]
        if queue.head() is None or self._noted[row] == queue.urgency:
            return False
        self._note(row, queue.urgency)
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
            values = self._urgencies[left, column]
            least = values.min()
            left = left[values == least]
            if abs(least) >= _EXACT:
                left = left[[min(range(len(left)), key=lambda i: self._noted[left[i]] or ())]]
        return self._rows[left[0]] if len(left) else None


def _as_float(number: float) -> float:
    """A number, or an infinity where it is too large for a float."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf
