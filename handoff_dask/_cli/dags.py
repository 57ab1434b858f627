"""``validate`` and ``show``: checking and displaying a DAG without running it."""

from __future__ import annotations

import os
from collections import Counter

import click

from handoff_dask._cli.errors import ExitCode, Failure, debug_option
from handoff_dask._cli.loading import load_dag, select, target_option
from handoff_dask._cli.output import reserve_stdout, table
from handoff_dask._display.groups import cost_text
from handoff_dask._error_texts import count
from handoff_dask._model.dag import DAG
from handoff_dask._model.function import Collocated, Function, code_name, declared_cost
from handoff_dask._model.safe_repr import safe_str


@click.command(short_help="Check a DAG without running it.")
@click.argument("target", metavar="MODULE:DAG")
@debug_option
def validate(target: str) -> None:
    """Check a DAG without running it.

    MODULE:DAG is, for example, `pipeline.py:dag`: see `handoff-dask run --help`.

    Lists all problems. The exit code is 2 if there are any.
    """
    dag = load_dag(target)
    dag.validate()
    asked = Counter(name for f in dag.functions.values() for name in declared_cost(f))
    costs = f"; resources: {', '.join(sorted(asked))}" if asked else ""
    click.echo(f"DAG {dag.id!r} is valid: {count(len(dag), 'function')}{costs}.")


@click.command(short_help="Show a DAG as a table, a Mermaid flowchart or a drawing.")
@click.argument("target", metavar="MODULE:DAG")
@target_option
@click.option("--mermaid", is_flag=True, help="Print a Mermaid flowchart, for Markdown.")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Draw the DAG to a file. The suffix sets the format: .svg, .png or .pdf.",
)
@debug_option
def show(target: str, targets: tuple[str, ...], mermaid: bool, output: str | None) -> None:
    """Show a DAG as a table of its functions, as a Mermaid flowchart or as a drawing.

    MODULE:DAG is, for example, `pipeline.py:dag`: see `handoff-dask run --help`.

    The DAG may be invalid, but must not have a cycle.

    Drawings need Graphviz with its program `dot`, and `pip install 'handoff-dask[display]'`.
    """
    if mermaid and output is not None:
        raise click.UsageError("--mermaid prints and --output draws: pass only one of them")
    if output is not None and not os.path.splitext(output)[1]:
        raise click.UsageError(f"--output {output}: the file name needs a suffix, such as .svg")
    with reserve_stdout(mermaid) as out:
        dag = select(load_dag(target), targets)
        if mermaid:
            click.echo(dag.to_mermaid(), nl=False, file=out)
            return
    if output is not None:
        _draw(dag, output)
        click.echo(f"Drew DAG {dag.id!r} to {output}.", err=True)
    else:
        click.echo(f"DAG {dag.id!r}: {count(len(dag), 'function')}")
        if len(dag):
            click.echo()
            head = ("function", "code", "dependencies", "cost", "node")
            table(
                head,
                (_row(dag[id]) for id in dag),
                truncate=("dependencies", "function", "cost", "code", "node"),
            )


def _row(f: Function) -> tuple[object, ...]:
    node = f"beside {f.node.id}" if isinstance(f.node, Collocated) else f.node
    if isinstance(node, tuple):
        node = " or ".join(map(safe_str, node))
    if f.type != "regular":
        node = f"({safe_str(f.type)})"
    return (
        f.id,
        code_name(f.code) if f.code is not None else None,
        ", ".join(str(d) for d in dict.fromkeys(f.dependencies)),
        cost_text(f.cost) if f.cost else None,
        node,
    )


def _draw(dag: DAG, output: str) -> None:
    try:
        dag.visualize(output)
    except ImportError:
        raise
    except Exception as error:  # naming graphviz's exceptions would need an import of graphviz
        if type(error).__name__ == "ExecutableNotFound":
            raise Failure(
                "drawing needs the Graphviz program `dot`, which is not on the PATH: install Graphviz, for"
                " example with `apt-get install graphviz`; --mermaid does not need it",
                ExitCode.INVALID,
            ) from error
        raise Failure(f"--output {output}: {error}") from error
