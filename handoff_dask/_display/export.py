"""Export of records: to pandas, Parquet, JSON and Chrome's trace format."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handoff_dask._model.records import Attempt, FunctionRecord

Records = Mapping[Hashable, "FunctionRecord"]

#: Columns of the table of attempts. A column ``cost_NAME`` per resource follows.
COLUMNS = (
    "function",
    "status",
    "attempt",
    "outcome",
    "node",
    "queued",
    "started",
    "stopped",
    "seconds",
    "nbytes",
    "error",
    "devices",
    "cpu_seconds",
    "peak_memory",
    "peak_exact",
)


def rows_of(records: Records) -> list[dict[str, Any]]:
    """Return one row per attempt, and one for each function without attempts."""
    rows = []
    for id, record in records.items():
        for attempt in record.attempts or (None,):
            rows.append(_row(id, record, attempt))
    return rows


def _row(id: Hashable, record: FunctionRecord, attempt: Attempt | None) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row.update(function=id, status=record.status)
    if attempt is not None:
        duration = None
        if attempt.started is not None and attempt.stopped is not None:
            duration = attempt.stopped - attempt.started
        row.update(
            attempt=attempt.number,
            outcome=attempt.outcome,
            node=attempt.node,
            queued=attempt.queued,
            started=attempt.started,
            stopped=attempt.stopped,
            seconds=duration,
            nbytes=record.nbytes if attempt.outcome == "finished" else None,
            error=attempt.error,
            devices={name: list(indices) for name, indices in attempt.devices.items()} or None,
            cpu_seconds=attempt.cpu_seconds,
            peak_memory=attempt.peak_memory,
            peak_exact=None if attempt.peak_memory is None else attempt.peak_exact,
        )
    cost = record.cost if attempt is None or attempt.cost is None else attempt.cost
    return {**row, **{f"cost_{name}": amount for name, amount in cost.items()}}


def to_pandas(records: Records) -> Any:
    """Return :func:`rows_of` as a data frame."""
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("records.to_pandas() needs pandas: pip install pandas") from error
    rows = rows_of(records)
    columns = [*COLUMNS, *dict.fromkeys(name for row in rows for name in row if name not in COLUMNS)]
    return pd.DataFrame({name: pd.Series([row.get(name) for row in rows]) for name in columns})


def to_parquet(records: Records, path: Any) -> None:
    """Write the table as Parquet; ids, nodes and devices become text, since a column has a single type."""
    frame = to_pandas(records)
    for name in ("function", "node", "devices"):
        frame[name] = [None if value is None else _plain(value) for value in frame[name]]
    frame.to_parquet(path)


def to_json(records: Records, path: Any) -> None:
    """Write the table as a JSON list of objects; ids that JSON cannot represent become their ``repr``."""
    rows = [
        {name: value if name == "devices" else _jsonable(value) for name, value in row.items()}
        for row in rows_of(records)
    ]
    with open(path, "w", encoding="utf-8") as file:
        json.dump(rows, file, indent=1)
        file.write("\n")


def to_trace(records: Records, path: Any) -> None:
    """Write the attempts in Chrome's trace format: a process per node, a thread per lane of the node."""
    events: list[dict[str, Any]] = []
    by_node: dict[Any, list[tuple[float, float, Hashable, FunctionRecord, Attempt]]] = {}
    for id, record in records.items():
        for a in record.attempts:
            if a.started is not None and a.stopped is not None:
                by_node.setdefault(a.node, []).append((a.started, a.stopped, id, record, a))
    begin = min((ran[0][0] for ran in map(sorted_by_start, by_node.values())), default=0.0)
    for pid, (node, ran) in enumerate(sorted(by_node.items(), key=lambda item: str(item[0]))):
        events.append({"ph": "M", "pid": pid, "name": "process_name", "args": {"name": str(node)}})
        for lane, (started, stopped, id, record, a) in assign_lanes(sorted_by_start(ran)):
            details = {
                "attempt": a.number,
                "outcome": a.outcome,
                "cost": dict(record.cost if a.cost is None else a.cost),
                "cpu_seconds": a.cpu_seconds,
                "peak_memory": a.peak_memory,
                "peak_exact": None if a.peak_memory is None else a.peak_exact,
                "waited": None if a.queued is None else started - a.queued,
                "nbytes": record.nbytes,
                "error": a.error,
            }
            events.append(
                {
                    "ph": "X",
                    "pid": pid,
                    "tid": lane,
                    "name": _plain(id),
                    "cat": a.outcome,
                    "ts": (started - begin) * 1e6,
                    "dur": (stopped - started) * 1e6,
                    "args": {name: value for name, value in details.items() if value is not None},
                }
            )
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"traceEvents": events, "displayTimeUnit": "ms"}, file)
        file.write("\n")


def sorted_by_start(ran: Iterable[Any]) -> list[Any]:
    """Return intervals sorted by start, then by end."""
    return sorted(ran, key=lambda interval: interval[:2])


def assign_lanes(ran: Iterable[Any], slack: float = 0.0) -> Iterable[tuple[int, Any]]:
    """Yield each interval with the number of a lane in which it overlaps with no other interval.

    The lowest free lane is used, so there are as many lanes as intervals overlap at most.

    Parameters
    ----------
    ran : iterable of tuples
        Intervals sorted by start. The first two items of each are its start and its end.
    slack : float
        Tolerated overlap of successive intervals in a lane, for times that are not exact. Same unit.
    """
    busy: list[tuple[float, int]] = []  # end of the lane's last interval, lane
    free: list[int] = []
    lanes = 0
    for interval in ran:
        while busy and busy[0][0] <= interval[0] + slack:
            heappush(free, heappop(busy)[1])
        if free:
            lane = heappop(free)
        else:
            lane, lanes = lanes, lanes + 1
        heappush(busy, (interval[1], lane))
        yield lane, interval


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def _jsonable(value: Any) -> Any:
    return value if value is None or isinstance(value, (str, int, float, bool)) else repr(value)
