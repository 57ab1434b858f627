"""What the runs of a history say about functions before they run: the input of the scheduler's estimates."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

from handoff_dask._client.history_file import decode_id
from handoff_dask._model.code_keys import split_key, without_stem
from handoff_dask._model.resources import is_auto, parse_amounts
from handoff_dask._scheduling.estimates import MAX_PEAKS, size_of
from handoff_dask._scheduling.spec import Hint, Known, Pace
from handoff_dask._scheduling.speeds import Speeds

#: Parameters per SQL statement. SQLite allows 32,766; before version 3.32 it allowed 999.
_BATCH = 500

#: Only the latest runs count, so that the time to submit a run does not grow with its history.
_RUNS = 1_000

#: Finished attempts that ran the code. An attempt that loaded a checkpoint says nothing about it.
_ATTEMPTS = f"""
    functions AS f JOIN attempts AS a ON a.run_id = f.run_id AND a.function = f.number
    WHERE f.seconds IS NOT NULL AND a.outcome = 'finished' AND NOT a.loaded
    AND f.run_id IN (SELECT id FROM runs ORDER BY submitted DESC LIMIT {_RUNS})
"""


class Predictions(NamedTuple):
    """What a history knows of code and of functions. Durations of code are on a node of ordinary speed.

    Attributes
    ----------
    hints : dict of str to Hint
        By key, with and without the stem of the ids.
    functions : dict of str to Known
        By fingerprint.
    paces : list of Pace
        From which the speeds of nodes are learnt.
    """

    hints: dict[str, Hint]
    functions: dict[str, Known]
    paces: list[Pace]


def predict(connection: sqlite3.Connection, keys: Iterable[str], fingerprints: Iterable[str]) -> Predictions:
    """Return what a history knows of the code of some keys, and of functions with some fingerprints."""
    codes = sorted({split_key(key)[0] for key in keys})
    paces, means = _paces(connection, codes)
    functions = _functions(connection, sorted(set(fingerprints)))
    speeds = Speeds()
    for known in functions.values():
        for node, took in known.times[1:]:
            speeds.compare(node, took, *known.times[0])
    speeds.recall(paces)
    totals: dict[str, tuple[float, float]] = {}
    for pace, mean in zip(paces, means, strict=True):
        key, _ = pace.code
        for name in {key, without_stem(key)}:
            n, took = totals.get(name, (0.0, 0.0))
            totals[name] = n + pace.n, took + pace.n * mean / speeds.factor(pace.node)
    peaks = _peaks(connection, codes)
    hints = {key: Hint(took / n, tuple(peaks.get(key, ()))) for key, (n, took) in totals.items()}
    return Predictions(hints, functions, paces)


def _rows(
    connection: sqlite3.Connection, query: Callable[[str], str], values: Collection[str]
) -> Iterable[tuple[Any, ...]]:
    """Return the rows of a query in batches of the values; ``query`` takes the placeholders of a batch."""
    listed = list(values)
    for start in range(0, len(listed), _BATCH):
        batch = listed[start : start + _BATCH]
        yield from connection.execute(query(", ".join("?" * len(batch))), batch)


def _paces(connection: sqlite3.Connection, codes: Collection[str]) -> tuple[list[Pace], list[float]]:
    """Return the paces of code on nodes, and the mean duration of each in seconds."""
    connection.create_function("log_of", 1, lambda x: math.log(max(x, 1e-9)), deterministic=True)
    rows = _rows(
        connection,
        lambda places: (
            "SELECT f.code_key, f.stem, f.cost, a.node, count(*), avg(f.seconds), avg(log_of(f.seconds)),"
            f" avg(log_of(f.seconds) * log_of(f.seconds)) FROM {_ATTEMPTS} AND f.code_key IN ({places})"
            " GROUP BY f.code_key, f.stem, f.cost, a.node"
        ),
        codes,
    )
    paces, means = [], []
    for code, stem, cost, node, n, seconds, mean, square in rows:
        key = f"{code} {stem}", _size_of(cost)
        paces.append(Pace(key, decode_id(node), n, mean, max(0.0, square - mean * mean)))
        means.append(seconds)
    return paces, means


def _size_of(cost: str) -> float:
    amounts = {name: amount for name, amount in json.loads(cost).items() if not is_auto(amount)}
    try:
        return size_of(parse_amounts(amounts).items())
    except ValueError:  # of a resource or an amount that this version does not know
        return 0.0


def _peaks(connection: sqlite3.Connection, codes: Collection[str]) -> dict[str, list[float]]:
    """Return the exact peaks of memory by key, with and without the stem of the ids: the latest ones."""
    found: dict[str, list[float]] = {}
    rows = _rows(
        connection,
        lambda places: (
            f"SELECT f.code_key, f.stem, a.peak_memory FROM {_ATTEMPTS} AND f.code_key IN ({places})"
            f" AND a.peak_exact AND a.peak_memory IS NOT NULL ORDER BY a.stopped DESC LIMIT {100 * MAX_PEAKS}"
        ),
        codes,
    )
    for code, stem, peak in rows:
        for key in {f"{code} {stem}", f"{code} "}:
            peaks = found.setdefault(key, [])
            if len(peaks) < MAX_PEAKS:
                peaks.append(peak)
    return found


def _functions(connection: sqlite3.Connection, fingerprints: Collection[str]) -> dict[str, Known]:
    """Return fingerprint → durations and highest peak of the functions that have run before."""
    times: dict[str, list[tuple[Any, float]]] = {}
    peaks: dict[str, float] = {}
    rows = _rows(
        connection,
        lambda places: (
            "SELECT f.fingerprint, a.node, avg(f.seconds), max(CASE WHEN a.peak_exact THEN a.peak_memory END)"
            f" FROM {_ATTEMPTS} AND f.fingerprint IN ({places}) GROUP BY f.fingerprint, a.node"
        ),
        fingerprints,
    )
    for fingerprint, node, seconds, peak in rows:
        times.setdefault(fingerprint, []).append((decode_id(node), seconds))
        if peak is not None:
            peaks[fingerprint] = max(peak, peaks.get(fingerprint, 0.0))
    return {key: Known(tuple(took), peaks.get(key)) for key, took in times.items()}
