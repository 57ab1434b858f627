"""What notebooks show. Plain HTML that takes its colours from the page, dark or light."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from html import escape
from typing import TYPE_CHECKING, Any

from handoff_dask._display.graph import cost_text
from handoff_dask._display.words import seconds
from handoff_dask._model.dag import DAG
from handoff_dask._model.function import code_name
from handoff_dask._model.shown import plain, shown

if TYPE_CHECKING:
    from handoff_dask._client.result import Result
    from handoff_dask._client.run import Run
    from handoff_dask._model.records import FunctionRecord

#: Rows of a table that are shown.
SHOWN = 20


def table(head: Iterable[str], rows: Iterable[Iterable[Any]], total: int) -> str:
    """A table of at most :data:`SHOWN` rows, and how many more there are."""
    cells = "".join(f"<th style='text-align:left'>{escape(h)}</th>" for h in head)
    body = ""
    for _, row in zip(range(SHOWN), rows, strict=False):
        body += (
            "<tr>" + "".join(f"<td style='text-align:left'>{escape(plain(c))}</td>" for c in row) + "</tr>"
        )
    more = f"<p>and {total - SHOWN:,d} more</p>" if total > SHOWN else ""
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>{more}"


def dag(dag: DAG) -> str:
    """A DAG: its size and its functions."""
    rows = (
        (
            id,
            code_name(f.code) if f.code is not None else "",
            ", ".join(str(d) for d in f.dependencies),
            cost_text(f.cost) if f.cost else "",
            "" if f.node is None else f.node,
        )
        for id, f in dag.functions.items()
    )
    head = f"<p><b>DAG {escape(repr(dag.id))}</b>: {len(dag):,d} functions</p>"
    return head + table(("id", "code", "args", "cost", "node"), rows, len(dag))


def result(result: Result) -> str:
    """A result: where every function ran, for how long, and its value in short."""

    def row(id: Hashable, record: FunctionRecord) -> tuple[Any, ...]:
        duration = record.duration
        value = shown(result.results[id]) if id in result.results else ""
        return (
            id,
            record.node,
            len(record.attempts),
            seconds(duration),
            value if len(value) <= 80 else value[:77] + "...",
        )

    rows = (row(id, record) for id, record in result.records.items())  # made only as far as shown
    head = f"<p><b>Result of DAG {escape(repr(result.dag_id))}</b>: {seconds(result.elapsed)}</p>"
    return head + table(("function", "node", "attempts", "time", "value"), rows, len(result.records))


def run(run: Run) -> str:
    """A run: how it stands."""
    return (
        f"<p><b>Run {escape(run.id)}</b> of DAG {escape(repr(run.dag.id))}: {escape(run.status)},"
        f" {len(run.results):,d} of {len(run.futures):,d} results, {seconds(run.elapsed)}</p>"
    )
