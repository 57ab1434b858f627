"""``nodes`` and ``runs``: the nodes and runs of a cluster."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import click

from handoff_dask._cli.connect import connected, scheduler_options
from handoff_dask._cli.errors import Failure, debug_option
from handoff_dask._cli.output import json_option, print_json, table, timestamp_text
from handoff_dask._cli.run import function_documents, function_table
from handoff_dask._client.cluster_runs import run_records
from handoff_dask._client.cluster_runs import runs as known_runs
from handoff_dask._client.history import History
from handoff_dask._client.nodes import discover_nodes
from handoff_dask._display.labels import duration_text
from handoff_dask._error_texts import count
from handoff_dask._model.records import Records
from handoff_dask._model.runinfo import RunInfo

#: The first columns of the table of nodes, in this order.
_FIRST = ("cpu", "memory", "gpu")

#: Maximum length of a reason in the table of runs: `--json` prints all of it.
_MAX_REASON = 60

#: Maximum number of ids in an error.
_MAX_IDS = 5


@click.command(short_help="List the nodes of a cluster.")
@scheduler_options
@json_option
@debug_option
def nodes(scheduler: str | None, connect_timeout: float | None, as_json: bool) -> None:
    """List the nodes of a cluster and their capacity: cpu in cores, memory in MB, gpu in devices.

    --scheduler is required. A node is a Dask worker. Resources that it declares (`dask worker --resources`)
    take precedence over detected ones.
    """
    if scheduler is None:
        raise click.UsageError("no cluster given: pass --scheduler ADDRESS")
    with connected(scheduler, connect_timeout) as client:
        found: dict[Any, dict[str, float]] = discover_nodes(client)
    if as_json:
        print_json(found)
    elif not found:
        click.echo(f"No nodes on {scheduler}.", err=True)
    else:
        names = dict.fromkeys(name for capacity in found.values() for name in capacity)
        resources = [n for n in _FIRST if n in names] + [n for n in names if n not in _FIRST]
        rows = ([node, *(capacity.get(r) for r in resources)] for node, capacity in found.items())
        table(["node", *("memory (MB)" if r == "memory" else r for r in resources)], rows, truncate=("node",))


@click.command(short_help="List the runs of a cluster or of a history.")
@click.argument("run_id", required=False)
@scheduler_options
@click.option(
    "--history",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="List the runs in a history, as written by `run --history`, instead of those of a scheduler.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    metavar="N",
    help="Maximum number of runs to list.",
)
@json_option
@debug_option
def runs(
    run_id: str | None,
    scheduler: str | None,
    connect_timeout: float | None,
    history: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List runs, newest first; with a RUN_ID, or its beginning, list the functions of that run.

    A scheduler lists its active and most recently ended runs, whichever client submitted them. A history
    lists the runs recorded in it, for example by `run --history`.
    """
    if (scheduler is None) == (history is None):
        raise click.UsageError("no source of runs given: pass either --scheduler ADDRESS or --history FILE")
    if history is not None:
        with History(history) as known:
            found: Any = known.runs()
            if run_id is not None:
                found = known.records(_complete(run_id, found))
    else:
        assert scheduler is not None
        with connected(scheduler, connect_timeout) as client:
            found = known_runs(client)
            if run_id is not None:
                found = run_records(_complete(run_id, found), client)
    if run_id is not None:
        _show_functions(found, as_json)
    elif as_json:
        print_json([asdict(info) for info in found[:limit]])
    elif not found:
        click.echo(f"No runs {'on' if history is None else 'in'} {scheduler or history}.", err=True)
    else:
        shown = found[:limit]
        head = ["run", "DAG", "status", "submitted", "elapsed", "finished"]
        rows = _run_rows(shown)
        if any(info.error for info in shown):
            head.append("reason")
            rows = ((*row, _short(info.error)) for row, info in zip(rows, shown, strict=True))
        table(head, rows, truncate=("reason", "DAG"), total=len(found))


def _complete(prefix: str, known: Iterable[RunInfo]) -> str:
    """Return the id of the only run that begins with a prefix; the prefix itself if no run does.

    Raises
    ------
    Failure
        Several runs begin with it, and none is called so.
    """
    found = [info.id for info in known if info.id.startswith(prefix)]
    if prefix in found or not found:
        return prefix
    if len(found) > 1:
        more = f" and {len(found) - _MAX_IDS:,d} more" if len(found) > _MAX_IDS else ""
        raise Failure(f"{len(found):,d} runs begin with {prefix!r}: {', '.join(found[:_MAX_IDS])}{more}")
    return found[0]


def _short(error: str | None) -> str | None:
    """Return the beginning of the first line of an error."""
    if not error:
        return None
    line, *rest = error.strip().splitlines() or [""]
    text = line + " ..." if rest else line
    return text if len(text) <= _MAX_REASON else text[: _MAX_REASON - 3] + "..."


def _show_functions(records: Records, as_json: bool) -> None:
    if as_json:
        print_json(function_documents(records, {}))
        return
    click.echo(count(len(records), "function"))
    click.echo()
    function_table(records, {})


def _run_rows(found: Iterable[RunInfo]) -> Iterable[tuple[Any, ...]]:
    for info in found:
        finished = f"{info.counts.get('finished', 0):,d} of {sum(info.counts.values()):,d}"
        yield (
            info.id,
            info.dag_id,
            info.status,
            timestamp_text(info.submitted),
            duration_text(info.elapsed),
            finished,
        )
