"""``run``: running a DAG on a cluster."""

from __future__ import annotations

import logging
import sys
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import Any, TextIO

import click

from handoff_dask._cli.connect import cluster_for, scheduler_options
from handoff_dask._cli.errors import debug_option, message_of, user_errors
from handoff_dask._cli.loading import find_ids, load_dag, select, target_option
from handoff_dask._cli.output import MAX_ROWS, json_option, print_json, reserve_stdout, table
from handoff_dask._cli.placement import placement_options
from handoff_dask._client.execute import execute
from handoff_dask._client.options import DEFAULT_MAX_RETRIES
from handoff_dask._client.result import Result
from handoff_dask._display.labels import duration_text
from handoff_dask._display.table import FUNCTION_COLUMNS, function_row, without_empty
from handoff_dask._error_texts import count
from handoff_dask._model.dag import DAG
from handoff_dask._model.function import ISOLATION
from handoff_dask._model.records import FunctionRecord
from handoff_dask._model.safe_repr import safe_repr
from handoff_dask.exceptions import RunError

EXAMPLES = """\b
Examples:
  handoff-dask run pipeline.py:dag
  handoff-dask run pipeline.py:dag --nodes nodes.yaml --keep sinks
  handoff-dask run pipeline.py:dag --scheduler tcp://192.0.2.1:8786 --json
"""


@click.command(epilog=EXAMPLES, short_help="Run a DAG and print its results.")
@click.argument("target", metavar="MODULE:DAG")
@target_option
@scheduler_options
@click.option(
    "--nodes",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Run on nodes started on this machine. A YAML file with a line per node, such as"
    " `node1: {cpu: 4, memory: 8192}`.",
)
@click.option("--processes", is_flag=True, help="Run each of these nodes in its own process.")
@click.option(
    "--progress/--no-progress",
    default=None,
    help="Show progress on standard error. Default: only if standard error is a terminal.",
)
@click.option(
    "--history",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Write the run to this file, and use the durations recorded there.",
)
@click.option(
    "--checkpoint",
    metavar="URL",
    help="Write each result to this directory or URL, and run only functions whose results are missing"
    " there.",
)
@click.option(
    "--max-retries",
    type=click.IntRange(min=0),
    default=DEFAULT_MAX_RETRIES,
    show_default=True,
    metavar="N",
    help="Retries after a failure, for functions that do not set their own number.",
)
@click.option(
    "--keep",
    multiple=True,
    metavar="all|sinks|ID",
    help="Results to fetch and print: all (the default), sinks (functions without dependents), or the id of a"
    " function. May be repeated.",
)
@placement_options
@click.option(
    "--isolation",
    type=click.Choice(ISOLATION),
    default="thread",
    show_default=True,
    help="Run functions in threads of their nodes, or each attempt in a process of its own.",
)
@click.option(
    "--keep-going", is_flag=True, help="If a function fails, finish the functions that do not depend on it."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="End the run after this time, with exit code 1.",
)
@click.option(
    "--wait-for-nodes",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="If a function fits on no node, wait this long for suitable nodes to join.",
)
@json_option
@debug_option
def run(
    target: str,
    targets: tuple[str, ...],
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
    """Run a DAG, and print where its functions ran and their results.

    MODULE:DAG, such as `pipeline:dag` or `pipeline.py:dag`, names a DAG or a function without parameters that
    returns one. Modules are looked up in the current directory first. The functions of a module must be
    importable on the nodes; those of a FILE.py are sent to the nodes, like those of a script.

    The DAG runs on the cluster of --scheduler, on nodes that --nodes starts on this machine, or otherwise on
    this machine as a single node. Ctrl-C cancels the run. `handoff-dask --help` lists the exit codes.
    """
    with reserve_stdout(as_json) as out:
        dag = select(load_dag(target), targets)
        dag.validate()  # before starting a cluster
        kept = _parse_keep(dag, keep)
        silent = progress is False
        progress = sys.stderr.isatty() if progress is None else progress
        with cluster_for(scheduler, nodes, processes, connect_timeout) as client:
            try:
                with user_errors(), nullcontext() if progress or silent else _log_to_stderr():
                    result: Result = execute(
                        dag,
                        client,
                        keep=kept,
                        progress=progress,
                        allocation_strategy=strategy,
                        fail_fast=not keep_going,
                        **options,
                    )
            except RunError as error:
                _show_failure(error, out if as_json else None)
                _hint_at_missing_module(error, target)
                raise
        if as_json:
            print_json(_document(result), out)
            return
    click.echo(
        f"Run {result.run_id} of DAG {dag.id!r} finished in {duration_text(result.elapsed)}:"
        f" {count(len(result.records), 'function')}."
    )
    if result.restored:
        click.echo(f"{count(len(result.restored), 'result')} loaded from checkpoints.")
    if len(dag):
        click.echo()
        function_table(result.records, result.results)


@contextmanager
def _log_to_stderr() -> Iterator[None]:
    """Log on standard error which nodes a run waits for, when no progress is shown."""
    logger, handler = logging.getLogger("handoff_dask"), logging.StreamHandler(sys.stderr)
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _parse_keep(dag: DAG, keep: tuple[str, ...]) -> Any:
    if not keep or keep == ("all",):
        return "all"
    if keep == ("sinks",):
        return "sinks"
    return find_ids(dag, keep, "--keep")


def function_table(records: Mapping[Hashable, FunctionRecord], results: Mapping[Hashable, Any]) -> None:
    """Print the status, node, attempts and duration of each function, and its result if results are given."""
    head = list(FUNCTION_COLUMNS)
    if results:
        head.append("result")
    rows = []
    for id, record in islice(records.items(), MAX_ROWS):
        row = function_row(id, record)
        if results:
            row.append(safe_repr(results[id]) if id in results else None)
        rows.append(row)
    head, rows = without_empty(head, rows)
    table(head, rows, truncate=("result", "function", "node"), total=len(records))


def function_documents(
    records: Mapping[Hashable, FunctionRecord], results: Mapping[Hashable, Any]
) -> list[dict[str, Any]]:
    """Return the content of :func:`function_table`, with all attempts and costs, for JSON."""
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
                    "cpu_seconds": a.cpu_seconds,
                    "peak_memory": a.peak_memory,
                    "peak_exact": a.peak_exact,
                    "cost": a.cost,
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
    """Print the functions of a failed run, as JSON to ``out`` if that is given.

    The error message follows on standard error.
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


def _hint_at_missing_module(error: RunError, target: str) -> None:
    """Print a hint if the nodes could not import the DAG's module: it often exists on this machine only."""
    place = target.rpartition(":")[0]
    missing = f"No module named {place.partition('.')[0]!r}"
    records: Mapping[Hashable, FunctionRecord] = {} if error.run is None else error.run.records
    errors = (attempt.error or "" for record in records.values() for attempt in record.attempts)
    if not place.endswith(".py") and any(missing in text for text in errors):
        advice = "install it there, or send the functions of a file with FILE.py:NAME"
        click.echo(f"The nodes cannot import {place!r}: {advice}.", err=True)
