"""``simulate``: what a DAG would do on nodes that need not exist."""

from __future__ import annotations

from typing import Any

import click

from handoff_dask._cli.errors import checked, debug_option
from handoff_dask._cli.loading import load_dag, load_nodes
from handoff_dask._cli.output import count, json_option, only_ours, print_json, table
from handoff_dask._cli.placing import placement_options
from handoff_dask._client.history import History
from handoff_dask._client.simulate import Schedule
from handoff_dask._client.simulate import simulate as simulated
from handoff_dask._display.labels import duration_text


@click.command(short_help="Say how long a DAG would take on given nodes.")
@click.argument("target", metavar="MODULE:DAG")
@click.option(
    "--nodes",
    "path",
    required=True,
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="A YAML file with a line for each node, such as `node1: {cpu: 4, memory: 8192}`.",
)
@click.option(
    "--durations",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Seconds that each function takes (1 unless given).",
)
@click.option(
    "--history",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Take the durations from runs that `run --history` has written.",
)
@placement_options
@json_option
@debug_option
def simulate(
    target: str,
    path: str,
    durations: float | None,
    history: str | None,
    strategy: str,
    max_concurrency: int | None,
    as_json: bool,
) -> None:
    """Say how long a DAG would take on nodes that need not exist. Nothing is run.

    MODULE:DAG is such as `pipeline.py:dag`, see `handoff-dask run --help`.

    Printed are the makespan (when the last function ends), a lower
    bound that no schedule can beat, and the share of each node's capacity that is in use over the makespan.
    What a cluster adds, such as moving data, is left out.
    """
    if durations is not None and history is not None:
        raise click.UsageError("--durations and --history both say how long functions take: give one of them")
    capacities = load_nodes(path)
    with only_ours(as_json) as out:
        dag = load_dag(target)
        with checked():
            schedule = _simulated(dag, capacities, durations, history, strategy, max_concurrency)
        if as_json:
            print_json(_document(schedule, strategy), out)
            return
    where = count(len(capacities), "node")
    click.echo(f"DAG {dag.id!r}: {count(len(dag), 'function')} on {where}, {strategy}")
    click.echo()
    click.echo(f"makespan     {duration_text(schedule.makespan)}")
    bounds = schedule.bounds
    by = f"  ({max(bounds, key=bounds.__getitem__)})" if bounds else ""
    click.echo(f"lower bound  {duration_text(schedule.lower_bound)}{by}")
    click.echo()
    table(*_utilisation(schedule), cut=("node",))


def _simulated(
    dag: Any,
    nodes: Any,
    durations: float | None,
    history: str | None,
    strategy: str,
    max_concurrency: int | None,
) -> Schedule:
    options: dict[str, Any] = {"allocation_strategy": strategy, "max_concurrency": max_concurrency}
    if history is None:
        return simulated(dag, nodes, 1.0 if durations is None else durations, **options)
    with History(history) as known:
        return simulated(dag, nodes, known, **options)


def _utilisation(schedule: Schedule) -> tuple[list[str], list[list[Any]]]:
    """A row for each node: functions, and the share in use of each resource."""
    used = schedule.utilisation
    resources = list(dict.fromkeys(name for on_node in used.values() for name in on_node))
    ran = list(schedule.allocations.values())
    rows = [
        [node, ran.count(node), *(f"{on_node[r]:.0%}" if r in on_node else None for r in resources)]
        for node, on_node in used.items()
    ]
    return ["node", "functions", *(f"{name} in use" for name in resources)], rows


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
