"""``demo``: three small DAGs with explanations, of which the third fits on no node."""

from __future__ import annotations

import textwrap

import click

from handoff_dask._adapter.cluster import local_cluster
from handoff_dask._cli.errors import debug_option
from handoff_dask._cli.output import table
from handoff_dask._cli.run import function_table
from handoff_dask._client.execute import execute
from handoff_dask._display.groups import cost_text
from handoff_dask._display.labels import duration_text
from handoff_dask._model.dag import DAG
from handoff_dask._model.function import Function
from handoff_dask.exceptions import AllocationError

NODES = {
    "cpu-node": {"cpu": 4, "memory": 4096},
    "gpu-node": {"cpu": 4, "memory": 4096, "gpu": 1},
}


def identity(value: int) -> int:
    """Return the value."""
    return value


def multiply(value: int, factor: int) -> int:
    """Return the product."""
    return value * factor


def describe(value: object) -> str:
    """Return a sentence about the value."""
    return f"The final answer is: {value}"


def load_data(path: str) -> str:
    """Pretend to load a file."""
    return f"Loaded: {path}"


def process_on_gpu(data: str) -> str:
    """Pretend to need a GPU."""
    return f"Processed [{data}] on GPU"


def basic() -> DAG:
    """Return a chain of three functions without costs."""
    dag = DAG("basic")
    dag.add_function(Function("source", identity, extra_args=[42]))
    dag.add_function(Function("transform", multiply, args=["source"], extra_args=[2]))
    return dag.add_function(Function("sink", describe, args=["transform"]))


def unequal() -> DAG:
    """Return a chain of three functions, one of which needs a GPU."""
    dag = DAG("unequal")
    dag.add_function(Function("load", load_data, extra_args=["data.txt"], cost={"cpu": 1, "memory": 1000}))
    cost = {"cpu": 2, "memory": 2048, "gpu": 1}
    dag.add_function(Function("process", process_on_gpu, args=["load"], cost=cost))
    return dag.add_function(Function("format", describe, args=["process"], cost={"cpu": 1, "memory": 500}))


def too_large() -> DAG:
    """Return a DAG with a function that fits on no node of the demonstration."""
    return DAG("too-large").add_function(Function("train", identity, extra_args=[1], cost={"gpu": 2}))


def say(text: str = "") -> None:
    """Print a line of the explanation."""
    click.echo(text)


@click.command(short_help="Run two small DAGs on two unequal nodes, with explanations.")
@debug_option
def demo() -> None:
    """Run two small DAGs on two unequal nodes in this process, with explanations."""
    say("Two nodes in this process. Only gpu-node has a GPU:")
    say()
    table(("node", "capacity"), ((name, cost_text(capacity)) for name, capacity in NODES.items()))
    with local_cluster(NODES) as cluster:
        say()
        say("1. A chain of three functions. They have no cost, so they can run on any node:")
        say()
        result = execute(basic(), cluster)
        function_table(result.records, result.results)
        say()
        say("Each function ran once its input was available: 42, its double, a sentence.")
        say()
        say("2. Another chain. Each function has a cost, which it holds while it runs:")
        say()
        dag = unequal()
        table(("function", "cost"), ((id, cost_text(dag[id].cost)) for id in dag))
        say()
        result = execute(dag, cluster)
        function_table(result.records, result.results)
        say()
        where = result.allocations["process"]
        say(f"Only gpu-node has a GPU, so `process` ran on {where}. The other functions can")
        say(f"run on either node. The run took {duration_text(result.elapsed)}.")
        say()
        say("3. If a cost fits on no node, the run fails before anything starts:")
        say()
        try:
            execute(too_large(), cluster)
        except AllocationError as error:
            for shortfall in error.shortfalls:
                for line in str(shortfall).splitlines():
                    say(textwrap.fill(line, 76, subsequent_indent="      ", break_on_hyphens=False))
    say()
    say("To run your own DAG: handoff-dask run FILE.py:NAME (see its --help).")
