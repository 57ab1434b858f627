"""Histories: runs and their records in an SQLite file, also used to predict durations."""

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
from handoff_dask._client.history_estimates import Predictions, predict
from handoff_dask._client.history_file import decode_devices, decode_id, encode_id, encode_text
from handoff_dask._client.usage import Usage, read_usage
from handoff_dask._model.code_keys import name_in, split_key, without_stem
from handoff_dask._model.records import Attempt, Records, Summary
from handoff_dask._model.resources import MEASURED, MEMORY
from handoff_dask._model.runinfo import RunInfo, make_unique
from handoff_dask._suggest import suggestion
from handoff_dask._version import __version__
from handoff_dask.exceptions import HistoryError, RunNotFoundError

#: Ties between runs submitted at the same time go to the one written last.
_NEWEST_FIRST = "ORDER BY submitted DESC, rowid DESC"


class HistoryEntry(NamedTuple):
    """One function of a run, to be written to a history.

    Attributes
    ----------
    id : hashable
    code : str
        Key under which the scheduler learns it; see :mod:`~handoff_dask._model.code_keys`.
    summary : Summary
    cost : dict
    restored : bool
        Whether its result came from a checkpoint, so that its duration says nothing about its code.
    fingerprint : str or None
        Identifies the function with its id, code, arguments and dependencies. None if it is unknown.
    """

    id: Hashable
    code: str
    summary: Summary
    cost: Mapping[str, Any]
    restored: bool = False
    fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class CodeDurations:
    """Statistics of the durations of functions with the same code, over finished attempts.

    Attributes
    ----------
    code : str
        Name of the code, such as the name of the Python function.
    count : int
        Number of finished functions.
    mean, median, max : float
        Durations, in seconds.
    """

    code: str
    count: int
    mean: float
    median: float
    max: float


class History:
    """Runs in an SQLite file, written by :func:`handoff_dask.execute` and the like with ``history=``.

    A context manager that closes the file on exit. Several processes may read and write the file at the same
    time, and several threads may share one object.

    Parameters
    ----------
    path : str or path-like
        The file. A missing or empty file is initialised as a history.

    Attributes
    ----------
    path : str
        Absolute path of the file.

    Raises
    ------
    HistoryError
        The file cannot be opened, is not a history, or was written by a newer handoff_dask. Every method also
        raises it if the file cannot be read or written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = absolute_path(path)
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
        """Close the file. Every later query raises :class:`HistoryError`."""
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
        """List all runs.

        Returns
        -------
        list of RunInfo
            Most recently submitted first. Counts cover the functions stored in the history.
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
        """Return the records of a run.

        Parameters
        ----------
        run_id : str
            Id of the run.

        Returns
        -------
        Records
            As ``Result.records``. Function ids and node names are restored if they consist of strings,
            numbers, None and tuples of these; others are replaced by their ``repr``.

        Raises
        ------
        RunNotFoundError
            The history has no such run.
        """
        with self._transaction() as connection:
            self._check_known(connection, run_id)
            attempts: dict[int, list[Attempt]] = {}
            for row in connection.execute(
                "SELECT function, number, node, queued, started, stopped, outcome, error, traceback, devices,"
                " loaded, cpu_seconds, peak_memory, peak_exact, cost FROM attempts WHERE run_id = ?"
                " ORDER BY function, number",
                (run_id,),
            ):
                function, number, node, *times, devices, loaded, cpu, peak, exact, cost = row
                booked = None if cost is None else json.loads(cost)
                facts = (decode_devices(devices), bool(loaded), cpu, peak, bool(exact), booked)
                attempt = Attempt._make((number, decode_id(node), *times, *facts))
                attempts.setdefault(function, []).append(attempt)
            functions = connection.execute(
                "SELECT number, id, status, nbytes, cost FROM functions WHERE run_id = ? ORDER BY number",
                (run_id,),
            ).fetchall()
        ids = make_unique(decode_id(id) for _, id, *_ in functions)
        known = {
            id: (Summary(status, attempts.get(number, ()), nbytes), cost)
            for id, (number, _, status, nbytes, cost) in zip(ids, functions, strict=True)
        }
        return Records(known, lambda id: known[id][0], lambda id: json.loads(known[id][1]))

    def allocations(self, run_id: str) -> dict[Hashable, Any]:
        """Return the allocations of a run: function id → name of the node it was last placed on.

        Parameters
        ----------
        run_id : str
            Id of the run.

        Raises
        ------
        RunNotFoundError
            The history has no such run.
        """
        return self.records(run_id).allocations

    def durations(self) -> dict[str, CodeDurations]:
        """Return the durations of finished functions over all runs, grouped by the name of their code.

        Returns
        -------
        dict
            Name of the code → :class:`CodeDurations`, ordered by name.
            ``pandas.DataFrame(durations.values())`` converts it to a table.
        """
        from statistics import fmean, median  # here because the import takes 5 ms and few programs need it

        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT code, seconds FROM functions WHERE seconds IS NOT NULL ORDER BY code"
            ).fetchall()
        found = {}
        for code, group in groupby(rows, itemgetter(0)):
            seconds = [took for _, took in group]
            found[code] = CodeDurations(code, len(seconds), fmean(seconds), median(seconds), max(seconds))
        return found

    def usage(self, resource: str = MEMORY) -> Usage:
        """Return what functions asked for and used, over all runs, grouped by the name of their code.

        Parameters
        ----------
        resource : {"memory", "cpu"}
            ``"memory"``: peak memory in MB. ``"cpu"``: mean number of cores while the function ran.

        Returns
        -------
        Usage
            With the cost that would have sufficed for each code. Attempts in threads count with their
            estimates of memory.

        Raises
        ------
        ValueError
            The use of the resource is not measured.
        """
        if resource not in MEASURED:
            hint = suggestion(resource, MEASURED)
            raise ValueError(f"usage(): only memory and cpu are measured, not {resource!r}{hint}")
        with self._transaction() as connection:
            return read_usage(connection, resource)

    # ------------------------------------------------------------------ removing

    def remove(self, run_id: str) -> None:
        """Remove a run.

        Parameters
        ----------
        run_id : str
            Id of the run.

        Raises
        ------
        RunNotFoundError
            The history has no such run.
        """
        with self._transaction("IMMEDIATE") as connection:
            self._check_known(connection, run_id)
            connection.execute("DELETE FROM runs WHERE id = ?", (run_id,))

    def prune(self, *, keep: int | None = None, before: float | None = None) -> int:
        """Remove old runs.

        Parameters
        ----------
        keep : int, optional
            Number of runs to keep, the most recently submitted ones.
        before : float, optional
            Remove runs submitted before this time, in seconds since the epoch. If ``keep`` is given too, a
            run is removed if either rule applies.

        Returns
        -------
        int
            Number of removed runs. The file does not shrink; later runs reuse the space.

        Raises
        ------
        ValueError
            Neither is given, or ``keep`` is not a whole number of at least 0.
        """
        if keep is None and before is None:
            raise ValueError("prune() needs the number of runs to keep (keep=) or a time (before=)")
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

    # ------------------------------------------------------------------ internal interface of the package

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
        """Write a run in one transaction."""
        functions, attempts = [], []
        for number, (id, key, (status, tried, nbytes), cost, restored, fingerprint) in enumerate(entries):
            code_key, stem = split_key(key)
            functions.append(
                (
                    info.id,
                    number,
                    encode_id(id),
                    encode_text(name_in(key)),
                    encode_text(stem),
                    status,
                    None if restored else _measured_seconds(status, tried),
                    nbytes,
                    history_file.encode_amounts(cost),
                    fingerprint,
                    encode_text(code_key),
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
                        a.cpu_seconds,
                        a.peak_memory,
                        int(a.peak_exact),
                        None if a.cost is None else history_file.encode_amounts(a.cost),
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

    def _estimates(self, keys: Iterable[str], fingerprints: Iterable[str]) -> Predictions:
        """Return what the history knows of code, by key, and of functions, by fingerprint."""
        with self._transaction() as connection:
            return predict(connection, keys, fingerprints)

    def _predict_seconds(
        self,
        dag_id: Hashable,
        ids: Sequence[Hashable],
        keys: Sequence[str],
        fingerprints: Mapping[Hashable, str],
    ) -> dict[Hashable, float]:
        """Return durations in seconds by function id, for the functions that the history can predict.

        The duration is that of the same function in earlier runs: with the same id, code, arguments and
        dependencies. If there was none, it is that of the function with this id in the latest run of a DAG
        with this id; then the mean of functions with the same code and id stem, or else with the same code.
        """
        from statistics import fmean

        known = self._estimates(keys, fingerprints.values())
        own = ((id, known.functions.get(fingerprints.get(id, ""))) for id in ids)
        found = {id: fmean(took for _, took in k.times) for id, k in own if k is not None and k.times}
        missing = {encode_id(id): id for id in ids if id not in found}
        with self._transaction() as connection:
            runs = connection.execute(
                f"SELECT id FROM runs WHERE dag_id IS ? {_NEWEST_FIRST}",
                (encode_id(dag_id),),
            ).fetchall()
            for (run_id,) in runs:
                if not missing:
                    return found
                for id, seconds in connection.execute(
                    "SELECT id, seconds FROM functions WHERE run_id = ? AND seconds IS NOT NULL", (run_id,)
                ):
                    if id in missing:
                        found[missing.pop(id)] = seconds
        for id, key in zip(ids, keys, strict=True):
            hint = known.hints.get(key) or known.hints.get(without_stem(key))
            if id not in found and hint is not None:
                found[id] = hint.seconds
        return found


def absolute_path(path: str | os.PathLike[str]) -> str:
    """Return the absolute path of a history, independent of later changes of the current directory.

    Raises
    ------
    TypeError
        The path is not a str.
    """
    path = os.fspath(path)
    if not isinstance(path, str):
        raise TypeError(f"the path of a history must be a str, not {path!r}")
    return os.path.abspath(path)


def _measured_seconds(status: str, attempts: Sequence[Attempt]) -> float | None:
    """Return the duration of the last finished attempt that ran the code, or None if there is none."""
    if status == "finished":
        for a in reversed(attempts):
            if a.outcome == "finished" and not a.loaded:
                return None if a.started is None or a.stopped is None else a.stopped - a.started
    return None
