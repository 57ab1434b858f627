"""``run``: a DAG on a cluster."""

from __future__ import annotations

import logging
import sys
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import Any, TextIO

import click

from handoff_dask._cli.connect import cluster_for, scheduler_options
from handoff_dask._cli.errors import checked, debug_option, message_of
from handoff_dask._cli.loading import find_ids, load_dag
from handoff_dask._cli.output import SHOWN, count, json_option, only_ours, print_json, table
from handoff_dask._cli.placing import placement_options
from handoff_dask._client.execute import execute
from handoff_dask._client.options import DEFAULT_MAX_RETRIES
from handoff_dask._client.result import Result
from handoff_dask._display.labels import duration_text, state_label
from handoff_dask._model.dag import DAG
from handoff_dask._model.records import FunctionRecord
from handoff_dask._model.shown import shown
from handoff_dask.exceptions import RunError

EXAMPLES = """\b
Examples:
  handoff-dask run pipeline.py:dag
  handoff-dask run pipeline.py:dag --nodes nodes.yaml --keep sinks
  handoff-dask run pipeline.py:dag --scheduler tcp://192.0.2.1:8786 --json
"""


@click.command(epilog=EXAMPLES, short_help="Run a DAG and print its results.")
@click.argument("target", metavar="MODULE:DAG")
@scheduler_options
@click.option(
    "--nodes",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Run on nodes made here. A YAML file with a line for each, such as `node1: {cpu: 4, memory: 8192}`.",
)
@click.option("--processes", is_flag=True, help="Make each of these nodes a process of its own.")
@click.option(
    "--progress/--no-progress",
    default=None,
    help="Show on standard error how far the run is. By default where that is a terminal.",
)
@click.option(
    "--history",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Write the run to this file, and learn from it how long functions take.",
)
@click.option(
    "--checkpoint",
    metavar="URL",
    help="Write each result to this directory or URL, and run only what is not there yet.",
)
@click.option(
    "--max-retries",
    type=click.IntRange(min=0),
    default=DEFAULT_MAX_RETRIES,
    show_default=True,
    metavar="N",
    help="Retries after a failure, for functions that do not say otherwise.",
)
@click.option(
    "--keep",
    multiple=True,
    metavar="all|sinks|ID",
    help="Results to fetch and print: all (the default), sinks (those that no function needs), or the id of"
    " a function; may be repeated.",
)
@placement_options
@click.option(
    "--keep-going", is_flag=True, help="When a function fails, finish those that do not need its result."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="End the run after so long; the exit code is 1 then.",
)
@click.option(
    "--wait-for-nodes",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="How long to wait, if a function fits on none of the nodes, for one that joins.",
)
@json_option
@debug_option
def run(
    target: str,
    scheduler: str | None,
    connect_timeout: float | None,
    nodes: str | None,
    processes: bool,
    progress: bool | None,
    keep: tuple[str, ...],
    strategy: str,
    keep_going: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Run a DAG and print where its functions ran, and their results.

    MODULE:DAG says where the DAG is: `pipeline:dag` or `pipeline.py:dag`, for a DAG or a function without
    parameters that returns one. Modules are looked for in the current directory first. The functions of a
    module have to be importable on the nodes; those of a FILE.py travel with the run, as a script's do.

    It runs on the cluster of --scheduler; on nodes made on this machine with --nodes; or else on this machine
    as one node. Ctrl-C cancels the run. `handoff-dask --help` lists the exit codes.
    """
    with only_ours(as_json) as out:
        dag = load_dag(target)
        dag.validate()  # before a cluster is started for it
        wanted = _kept(dag, keep)
        silent = progress is False
        progress = sys.stderr.isatty() if progress is None else progress
        with cluster_for(scheduler, nodes, processes, connect_timeout) as client:
            try:
                with checked(), nullcontext() if progress or silent else _saying_what_it_waits_for():
                    result: Result = execute(
                        dag,
                        client,
                        keep=wanted,
                        progress=progress,
                        allocation_strategy=strategy,
                        fail_fast=not keep_going,
                        **options,
                    )
            except RunError as error:
                _show_failure(error, out if as_json else None)
                _hint_at_modules(error, target)
                raise
        if as_json:
            print_json(_document(result), out)
            return
    click.echo(
        f"Run {result.run_id} of DAG {dag.id!r} finished in {duration_text(result.elapsed)}:"
        f" {count(len(result.records), 'function')}."
    )
    if result.restored:
        click.echo(f"{count(len(result.restored), 'result')} came from checkpoints.")
    if len(dag):
        click.echo()
        function_table(result.records, result.results)


@contextmanager
def _saying_what_it_waits_for() -> Iterator[None]:
    """Let a run that waits for nodes say so on standard error, although no progress is shown."""
    logger, handler = logging.getLogger("handoff_dask"), logging.StreamHandler(sys.stderr)
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _kept(dag: DAG, keep: tuple[str, ...]) -> Any:
    if not keep or keep == ("all",):
        return "all"
    if keep == ("sinks",):
        return "sinks"
    return find_ids(dag, keep)


def function_table(records: Mapping[Hashable, FunctionRecord], results: Mapping[Hashable, Any]) -> None:
    """Print where each function ran, how long it took, and its result if there are any."""
    head = ["function", "status", "node", "attempts", "took"]
    if results:
        head.append("result")
    rows = []
    for id, record in islice(records.items(), SHOWN):
        row = [
            id,
            state_label(record.status),
            record.node,
            len(record.attempts),
            duration_text(record.duration),
        ]
        if results:
            row.append(shown(results[id]) if id in results else None)
        rows.append(row)
    table(head, rows, cut=("result", "function", "node"), total=len(records))


def function_documents(
    records: Mapping[Hashable, FunctionRecord], results: Mapping[Hashable, Any]
) -> list[dict[str, Any]]:
    """The same for JSON."""
    found = []
    for id, record in records.items():
        document = {
            "function": id,
            "status": record.status,
            "node": record.node,
            "attempts": [
                {
                    "number": a.number,
                    "node": a.node,
                    "started": a.started,
                    "stopped": a.stopped,
                    "outcome": a.outcome,
                    "error": a.error,
                }
                for a in record.attempts
            ],
            "seconds": record.duration,
            "cost": dict(record.cost),
        }
        if id in results:
            document["result"] = results[id]
        found.append(document)
    return found


def _document(result: Result) -> dict[str, Any]:
    return {
        "run_id": result.run_id,
        "dag_id": result.dag_id,
        "status": "finished",
        "elapsed": result.elapsed,
        "restored": result.restored,
        "functions": function_documents(result.records, result.results),
    }


def _show_failure(error: RunError, out: TextIO | None) -> None:
    """What there is to see of a run that failed, as JSON if there is somewhere to write that.

    The message comes after it, on standard error.
    """
    records: Mapping[Hashable, FunctionRecord] = {} if error.run is None else error.run.records
    if out is not None:
        print_json(
            {
                "run_id": error.run_id,
                "dag_id": error.dag_id,
                "status": "failed",
                "error": {"type": type(error).__name__, "message": message_of(error)},
                "functions": function_documents(records, {}),
            },
            out,
        )
    elif any(record.attempts for record in records.values()):
        function_table(records, {})
        click.echo()


def _hint_at_modules(error: RunError, target: str) -> None:
    """Functions of a module that is only here cannot run elsewhere, which is easily overlooked."""
    place = target.rpartition(":")[0]
    lacks = f"No module named {place.partition('.')[0]!r}"
    records: Mapping[Hashable, FunctionRecord] = {} if error.run is None else error.run.records
    errors = (attempt.error or "" for record in records.values() for attempt in record.attempts)
    if not place.endswith(".py") and any(lacks in text for text in errors):
        text = f"Nodes import {place!r}, and have to have it. Functions of a file travel: FILE.py:NAME."
        click.echo(text, err=True)
