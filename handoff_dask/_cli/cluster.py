"""``nodes`` and ``runs``: what a cluster has and does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import click

from handoff_dask._cli.connect import connected, scheduler_options
from handoff_dask._cli.errors import debug_option
from handoff_dask._cli.output import count, json_option, moment, print_json, table
from handoff_dask._cli.run import function_documents, function_table
from handoff_dask._client.cluster_runs import run_records
from handoff_dask._client.cluster_runs import runs as known_runs
from handoff_dask._client.history import History
from handoff_dask._client.nodes import discover_nodes
from handoff_dask._display.words import seconds
from handoff_dask._model.records import Records
from handoff_dask._model.runinfo import RunInfo

#: These come first in tables, and in this order.
_FIRST = ("cpu", "memory", "gpu")


@click.command(short_help="List the nodes of a cluster.")
@scheduler_options
@json_option
@debug_option
def nodes(scheduler: str | None, connect_timeout: float | None, as_json: bool) -> None:
    """List the nodes of a cluster and what they have: cpu in cores, memory in MB, gpu in devices.

    The cluster is that of --scheduler. A node is a Dask worker. What it declares (`dask worker --resources`)
    wins over what it is seen to have.
    """
    if scheduler is None:
        raise click.UsageError("say which cluster: --scheduler ADDRESS")
    with connected(scheduler, connect_timeout) as client:
        found: dict[Any, dict[str, float]] = discover_nodes(client)
    if as_json:
        print_json(found)
    elif not found:
        click.echo(f"There are no nodes on {scheduler}.", err=True)
    else:
        names = dict.fromkeys(name for capacity in found.values() for name in capacity)
        resources = [n for n in _FIRST if n in names] + [n for n in names if n not in _FIRST]
        rows = ([node, *(capacity.get(r) for r in resources)] for node, capacity in found.items())
        table(["node", *("memory (MB)" if r == "memory" else r for r in resources)], rows, cut=("node",))


@click.command(short_help="List the runs of a cluster or of a history.")
@click.argument("run_id", required=False)
@scheduler_options
@click.option(
    "--history",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="List what `run --history` has written, instead of what a scheduler knows.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    metavar="N",
    help="List no more than so many runs.",
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
    """List runs, the last one first; or, with a RUN_ID, the functions of that run.

    A scheduler knows the runs that are on it and those that ended last, whoever submitted them; a history has
    those that were run with `--history`.
    """
    if (scheduler is None) == (history is None):
        raise click.UsageError("say which runs: either --scheduler ADDRESS or --history FILE")
    if history is not None:
        with History(history) as known:
            found: Any = known.runs() if run_id is None else known.records(run_id)
    else:
        assert scheduler is not None
        with connected(scheduler, connect_timeout) as client:
            found = known_runs(client) if run_id is None else run_records(run_id, client)
    if run_id is not None:
        _show_functions(found, as_json)
    elif as_json:
        print_json([asdict(info) for info in found[:limit]])
    elif not found:
        click.echo(f"There are no runs {'on' if history is None else 'in'} {scheduler or history}.", err=True)
    else:
        head = ("run", "DAG", "status", "submitted", "took", "finished")
        table(head, _run_rows(found[:limit]), cut=("DAG",), total=len(found))


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
        yield info.id, info.dag_id, info.status, moment(info.submitted), seconds(info.elapsed), finished
