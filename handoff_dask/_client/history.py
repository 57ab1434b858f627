"""What runs did, in an SQLite file: for looking at later, and for knowing how long functions take."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from types import TracebackType
from typing import Any, NamedTuple

from handoff_dask._client import history_file
from handoff_dask._client.history_file import decode_devices, decode_id, encode_id, encode_text
from handoff_dask._model.records import Attempt, Records, Summary
from handoff_dask._model.runinfo import RunInfo, tell_apart
from handoff_dask._version import __version__
from handoff_dask.exceptions import HistoryError, RunNotFoundError

#: Parameters of one statement: SQLite takes 32,766, and took 999 for long.
_BATCH = 500

#: Of two runs submitted at once, the one written last comes first.
_NEWEST_FIRST = "ORDER BY submitted DESC, rowid DESC"


class HistoryEntry(NamedTuple):
    """One function of a run that is written.

    Attributes
    ----------
    id : hashable
    code : str
        Name under which its durations are learnt.
    summary : Summary
    cost : dict
    restored : bool
        Whether its result was only loaded, which says nothing of how long it takes.
    """

    id: Hashable
    code: str
    summary: Summary
    cost: Mapping[str, Any]
    restored: bool = False


@dataclass(frozen=True, slots=True)
class CodeDurations:
    """How long functions of one code took: attempts that finished.

    Attributes
    ----------
    code : str
        Name of the code, such as that of the Python function.
    count : int
        Functions that finished.
    mean, median, max : float
        Seconds.
    """

    code: str
    count: int
    mean: float
    median: float
    max: float


class History:
    """Runs in an SQLite file, written by :func:`handoff_dask.execute` and others with ``history=``.

    A context manager that closes the file. Several processes may write and read it at once, and several
    threads may use one object.

    Parameters
    ----------
    path : str or path-like
        A file that is not there, or is empty, becomes a history.

    Attributes
    ----------
    path : str
        Absolute.

    Raises
    ------
    HistoryError
        The file cannot be opened, is something else, or was written by a newer handoff_dask. Also by every
        method, when the file cannot be read or written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = absolute(path)
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        with self._errors():
            self._connection = history_file.connect(self.path)

    def __enter__(self) -> History:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Nothing more can be asked."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def __repr__(self) -> str:
        return f"<History {self.path!r}{'' if self._connection else ', closed'}>"

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, history_file.UnusableFileError) as error:
            raise HistoryError(self.path, str(error)) from error

    @contextmanager
    def _transaction(self, kind: str = "DEFERRED") -> Iterator[sqlite3.Connection]:
        with self._lock, self._errors():
            if self._connection is None:
                raise HistoryError(self.path, "it is closed")
            with history_file.transaction(self._connection, kind):
                yield self._connection

    # ------------------------------------------------------------------ reading

    def runs(self) -> list[RunInfo]:
        """All runs.

        Returns
        -------
        list of RunInfo
            The one submitted last comes first. Counts are of the functions that are in the history.
        """
        with self._transaction() as connection:
            counts: dict[str, dict[str, int]] = {}
            question = "SELECT run_id, status, count(*) FROM functions GROUP BY run_id, status"
            for run_id, status, n in connection.execute(question):
                counts.setdefault(run_id, {})[status] = n
            rows = connection.execute(
                "SELECT id, dag_id, status, client, submitted, ended, elapsed, priority, error"
                f" FROM runs {_NEWEST_FIRST}"
            ).fetchall()
        return [
            RunInfo(
                id=id,
                dag_id=decode_id(dag_id),
                status=status,
                client=client,
                submitted=submitted,
                ended=ended,
                elapsed=elapsed,
                counts=counts.get(id, {}),
                priority=priority,
                error=error,
            )
            for id, dag_id, status, client, submitted, ended, elapsed, priority, error in rows
        ]

    def records(self, run_id: str) -> Records:
        """The records of a run.

        Returns
        -------
        Records
            As ``Result.records``. Ids of functions are as they were when made of strings, numbers, None
            and tuples of these; others are their ``repr``. So are names of nodes.

        Raises
        ------
        RunNotFoundError
            No such run is in the history.
        """
        with self._transaction() as connection:
            self._check_known(connection, run_id)
            attempts: dict[int, list[Attempt]] = {}
            for function, number, node, *facts, devices, loaded in connection.execute(
                "SELECT function, number, node, queued, started, stopped, outcome, error, traceback, devices,"
                " loaded FROM attempts WHERE run_id = ? ORDER BY function, number",
                (run_id,),
            ):
                attempt = Attempt._make(
                    (number, decode_id(node), *facts, decode_devices(devices), bool(loaded))
                )
                attempts.setdefault(function, []).append(attempt)
            functions = connection.execute(
                "SELECT number, id, status, nbytes, cost FROM functions WHERE run_id = ? ORDER BY number",
                (run_id,),
            ).fetchall()
        ids = tell_apart(decode_id(id) for _, id, *_ in functions)
        known = {
            id: (Summary(status, attempts.get(number, ()), nbytes), cost)
            for id, (number, _, status, nbytes, cost) in zip(ids, functions, strict=True)
        }
        return Records(known, lambda id: known[id][0], lambda id: json.loads(known[id][1]))

    def allocations(self, run_id: str) -> dict[Hashable, Any]:
        """Function id → name of the node it was last placed on, of those that were placed.

        Raises
        ------
        RunNotFoundError
            No such run is in the history.
        """
        return self.records(run_id).allocations

    def durations(self) -> dict[str, CodeDurations]:
        """How long functions took, by the name of their code: those that finished, of all runs.

        Returns
        -------
        dict
            Name of the code → :class:`CodeDurations`, by name. ``pandas.DataFrame(durations.values())`` makes
            a table of it.
        """
        from statistics import fmean, median  # its import takes 5 ms, which few need

        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT code, seconds FROM functions WHERE seconds IS NOT NULL ORDER BY code"
            ).fetchall()
        found = {}
        for code, group in groupby(rows, itemgetter(0)):
            seconds = [took for _, took in group]
            found[code] = CodeDurations(code, len(seconds), fmean(seconds), median(seconds), max(seconds))
        return found

    # ------------------------------------------------------------------ removing

    def remove(self, run_id: str) -> None:
        """Remove a run.

        Raises
        ------
        RunNotFoundError
            No such run is in the history.
        """
        with self._transaction("IMMEDIATE") as connection:
            self._check_known(connection, run_id)
            connection.execute("DELETE FROM runs WHERE id = ?", (run_id,))

    def prune(self, *, keep: int | None = None, before: float | None = None) -> int:
        """Remove old runs.

        Parameters
        ----------
        keep : int, optional
            How many runs to keep: those submitted last.
        before : float, optional
            Remove the runs that were submitted before this, in seconds since the epoch. With ``keep``,
            those that either rule removes.

        Returns
        -------
        int
            How many were removed. The file does not shrink; the room is used for the next runs.

        Raises
        ------
        ValueError
            Neither is given, or ``keep`` is no whole number of at least 0.
        """
        if keep is None and before is None:
            raise ValueError("say how many runs to keep (keep=), or which to remove (before=)")
        if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int) or keep < 0):
            raise ValueError(f"keep must be a whole number of at least 0, not {keep!r}")
        removed = 0
        with self._transaction("IMMEDIATE") as connection:
            if before is not None:
                removed += connection.execute("DELETE FROM runs WHERE submitted < ?", (before,)).rowcount
            if keep is not None:
                removed += connection.execute(
                    f"DELETE FROM runs WHERE id NOT IN (SELECT id FROM runs {_NEWEST_FIRST} LIMIT ?)",
                    (keep,),
                ).rowcount
        return removed

    # ------------------------------------------------------------------ for the rest of the package

    def _check_known(self, connection: sqlite3.Connection, run_id: str) -> None:
        known = [id for (id,) in connection.execute(f"SELECT id FROM runs {_NEWEST_FIRST}")]
        if run_id not in known:
            raise RunNotFoundError(run_id, known)

    def _check_writable(self) -> None:
        with self._lock, self._errors():
            if self._connection is None:
                raise HistoryError(self.path, "it is closed")
            history_file.check_writable(self._connection)

    def _write(self, info: RunInfo, entries: Iterable[HistoryEntry]) -> None:
        """Write a run, all of it or nothing."""
        functions, attempts = [], []
        for number, (id, name, (status, tried, nbytes), cost, restored) in enumerate(entries):
            code, _, stem = name.partition(" ")
            functions.append(
                (
                    info.id,
                    number,
                    encode_id(id),
                    encode_text(code),
                    encode_text(stem),
                    status,
                    None if restored else _seconds(status, tried),
                    nbytes,
                    history_file.encode_amounts(cost),
                )
            )
            for a in tried:
                attempts.append(
                    (
                        info.id,
                        number,
                        a.number,
                        history_file.encode_node(a.node),
                        a.queued,
                        a.started,
                        a.stopped,
                        a.outcome,
                        encode_text(a.error),
                        encode_text(a.traceback),
                        history_file.encode_devices(a.devices),
                        int(a.loaded),
                    )
                )
        run = (
            info.id,
            encode_id(info.dag_id),
            info.status,
            info.client,
            info.submitted,
            info.ended,
            info.elapsed,
            info.priority,
            encode_text(info.error),
            __version__,
        )
        with self._transaction("IMMEDIATE") as connection:
            for table, rows in (("runs", [run]), ("functions", functions), ("attempts", attempts)):
                if rows:
                    places = ", ".join("?" * len(rows[0]))
                    connection.executemany(f"INSERT INTO {table} VALUES ({places})", rows)

    def _hints(self, names: Iterable[str]) -> dict[str, float]:
        """Mean seconds by the names under which durations are learnt, of those that the history knows."""
        wanted = set(names)
        codes = sorted({name.partition(" ")[0] for name in wanted})
        found = {}
        with self._transaction() as connection:
            for start in range(0, len(codes), _BATCH):
                some = codes[start : start + _BATCH]
                for code, stem, seconds in connection.execute(
                    "SELECT code, stem, avg(seconds) FROM functions WHERE seconds IS NOT NULL"
                    f" AND code IN ({', '.join('?' * len(some))}) GROUP BY code, stem",
                    some,
                ):
                    if (name := f"{code} {stem}") in wanted:
                        found[name] = seconds
        return found

    def _seconds_of(
        self, dag_id: Hashable, ids: Sequence[Hashable], names: Sequence[str]
    ) -> dict[Hashable, float]:
        """Seconds by function id, of the functions of which the history tells.

        Of runs of the DAG, the last in which a function finished counts; for functions that finished in none,
        the mean of functions of their code with such ids, or of their code.
        """
        found: dict[Hashable, float] = {}
        missing = {encode_id(id): id for id in ids}
        with self._transaction() as connection:
            runs = connection.execute(
                f"SELECT id FROM runs WHERE dag_id IS ? {_NEWEST_FIRST}",
                (encode_id(dag_id),),
            ).fetchall()
            for (run_id,) in runs:
                for id, seconds in connection.execute(
                    "SELECT id, seconds FROM functions WHERE run_id = ? AND seconds IS NOT NULL", (run_id,)
                ):
                    if id in missing:
                        found[missing.pop(id)] = seconds
                if not missing:
                    return found
        by_name = self._hints(names)
        by_code = {code: taken.mean for code, taken in self.durations().items()}
        for id, name in zip(ids, names, strict=True):
            if id not in found:
                seconds = by_name.get(name, by_code.get(name.partition(" ")[0]))
                if seconds is not None:
                    found[id] = seconds
        return found


def absolute(path: str | os.PathLike[str]) -> str:
    """The path of a history, whatever the current directory will be.

    Raises
    ------
    TypeError
        It is not text.
    """
    path = os.fspath(path)
    if not isinstance(path, str):
        raise TypeError(f"the path of a history must be text, not {path!r}")
    return os.path.abspath(path)


def _seconds(status: str, attempts: Sequence[Attempt]) -> float | None:
    """How long a function took that finished; what only loaded its result again does not count."""
    if status == "finished":
        for a in reversed(attempts):
            if a.outcome == "finished" and not a.loaded:
                return None if a.started is None or a.stopped is None else a.stopped - a.started
    return None
