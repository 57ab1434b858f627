"""``simulate``: computing how long a DAG would take on real or hypothetical nodes."""

from __future__ import annotations

from typing import Any

import click

from handoff_dask._cli.errors import debug_option, use_given_nodes, user_errors
from handoff_dask._cli.loading import load_dag, load_nodes, select, target_option
from handoff_dask._cli.output import json_option, print_json, reserve_stdout, table
from handoff_dask._cli.placement import placement_options
from handoff_dask._client.history import History
from handoff_dask._client.simulate import Schedule
from handoff_dask._client.simulate import simulate as simulated
from handoff_dask._display.labels import duration_text
from handoff_dask._error_texts import count


@click.command(short_help="Compute how long a DAG would take on given nodes.")
@click.argument("target", metavar="MODULE:DAG")
@target_option
@click.option(
    "--nodes",
    "path",
    required=True,
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="A YAML file with a line per node, such as `node1: {cpu: 4, memory: 8192}`.",
)
@click.option(
    "--durations",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Duration of each function (default: 1).",
)
@click.option(
    "--history",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Use the durations recorded in a history written by `run --history`.",
)
@placement_options
@json_option
@debug_option
def simulate(
    target: str,
    targets: tuple[str, ...],
    path: str,
    durations: float | None,
    history: str | None,
    strategy: str,
    max_concurrency: int | None,
    limits: dict[str, Any] | None,
    as_json: bool,
) -> None:
    """Compute how long a DAG would take on real or hypothetical nodes, without running it.

    MODULE:DAG is, for example, `pipeline.py:dag`: see `handoff-dask run --help`.

    Prints the makespan (the end of the last function), a lower bound that no schedule can beat, and the mean
    share of each node's resources in use. The overhead of a cluster, such as data transfers, is not included.
    """
    if durations is not None and history is not None:
        raise click.UsageError("--durations and --history both set durations: pass only one of them")
    use_given_nodes(path)
    capacities = load_nodes(path)
    with reserve_stdout(as_json) as out:
        dag = select(load_dag(target), targets)
        with user_errors():
            schedule = _simulated(dag, capacities, durations, history, strategy, max_concurrency, limits)
        if as_json:
            print_json(_document(schedule, strategy), out)
            return
    where = count(len(capacities), "node")
    click.echo(f"DAG {dag.id!r}: {count(len(dag), 'function')} on {where}, {strategy}")
    if durations is None and history is None:
        click.echo("Assuming that each function takes 1 s: --durations and --history set other durations.")
    click.echo()
    click.echo(f"makespan     {duration_text(schedule.makespan)}")
    bounds = schedule.bounds
    by = f"  ({max(bounds, key=bounds.__getitem__)})" if bounds else ""
    click.echo(f"lower bound  {duration_text(schedule.lower_bound)}{by}")
    click.echo()
    table(*_utilisation(schedule), truncate=("node",))


def _simulated(
    dag: Any,
    nodes: Any,
    durations: float | None,
    history: str | None,
    strategy: str,
    max_concurrency: int | None,
    limits: dict[str, Any] | None,
) -> Schedule:
    options: dict[str, Any] = {
        "allocation_strategy": strategy,
        "max_concurrency": max_concurrency,
        "limits": limits,
    }
    if history is None:
        return simulated(dag, nodes, 1.0 if durations is None else durations, **options)
    with History(history) as known:
        return simulated(dag, nodes, known, **options)


def _utilisation(schedule: Schedule) -> tuple[list[str], list[list[Any]]]:
    """Return head and rows of the table of nodes: number of functions, and share of each resource in use."""
    used = schedule.utilisation
    resources = list(dict.fromkeys(name for on_node in used.values() for name in on_node))
    ran = list(schedule.allocations.values())
    rows = [
        [node, ran.count(node), *(f"{on_node[r]:.0%}" if r in on_node else None for r in resources)]
        for node, on_node in used.items()
    ]
    return ["node", "functions", *(f"{name} used" for name in resources)], rows


def _document(schedule: Schedule, strategy: str) -> dict[str, Any]:
    functions = []
    for id, record in schedule.records.items():
        (attempt,) = record.attempts
        functions.append(
            {"function": id, "node": record.node, "started": attempt.started, "stopped": attempt.stopped}
        )
    return {
        "dag_id": schedule.dag_id,
        "strategy": strategy,
        "makespan": schedule.makespan,
        "lower_bound": schedule.lower_bound,
        "bounds": schedule.bounds,
        "utilisation": schedule.utilisation,
        "functions": functions,
    }
