"""``demo``: two small DAGs, and what can be seen of them."""

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
    """Give back what it gets."""
    return value


def multiply(value: int, factor: int) -> int:
    """Multiply."""
    return value * factor


def in_words(value: object) -> str:
    """Put it in a sentence."""
    return f"The final answer is: {value}"


def load_data(path: str) -> str:
    """Pretend to load a file."""
    return f"Loaded: {path}"


def process_on_gpu(data: str) -> str:
    """Pretend to need a GPU."""
    return f"Processed [{data}] on GPU"


def basic() -> DAG:
    """Three functions in a row, without costs."""
    dag = DAG("basic")
    dag.add_function(Function("source", identity, extra_args=[42]))
    dag.add_function(Function("transform", multiply, args=["source"], extra_args=[2]))
    return dag.add_function(Function("sink", in_words, args=["transform"]))


def unequal() -> DAG:
    """Three functions of which one needs a GPU."""
    dag = DAG("unequal")
    dag.add_function(Function("load", load_data, extra_args=["data.txt"], cost={"cpu": 1, "memory": 1000}))
    cost = {"cpu": 2, "memory": 2048, "gpu": 1}
    dag.add_function(Function("process", process_on_gpu, args=["load"], cost=cost))
    return dag.add_function(Function("format", in_words, args=["process"], cost={"cpu": 1, "memory": 500}))


def too_large() -> DAG:
    """A function that fits nowhere here."""
    return DAG("too-large").add_function(Function("train", identity, extra_args=[1], cost={"gpu": 2}))


def say(text: str = "") -> None:
    """Print text of the guide."""
    click.echo(text)


@click.command(short_help="Run two small DAGs on two unequal nodes, and explain.")
@debug_option
def demo() -> None:
    """Run two small DAGs on two unequal nodes made in this process, and explain what is seen."""
    say("Two nodes, made here for this demonstration. Only gpu-node offers a GPU:")
    say()
    table(("node", "offers"), ((name, cost_text(capacity)) for name, capacity in NODES.items()))
    with local_cluster(NODES) as cluster:
        say()
        say("1. Three functions in a row. They state no cost, so any node will do.")
        say()
        result = execute(basic(), cluster)
        function_table(result.records, result.results)
        say()
        say("Each ran once the result it needs was there: 42, twice that, a sentence.")
        say()
        say("2. Again three in a row, but each states what it needs while it runs:")
        say()
        dag = unequal()
        table(("function", "asks for"), ((id, cost_text(dag[id].cost)) for id in dag))
        say()
        result = execute(dag, cluster)
        function_table(result.records, result.results)
        say()
        where = result.allocations["process"]
        say(f"The GPU is on gpu-node, so `process` ran on {where}; the others may run")
        say(f"anywhere that has room. All took {duration_text(result.elapsed)}.")
        say()
        say("3. What can never fit is an error before anything runs:")
        say()
        try:
            execute(too_large(), cluster)
        except AllocationError as error:
            for shortfall in error.shortfalls:
                for line in str(shortfall).splitlines():
                    say(textwrap.fill(line, 76, subsequent_indent="      ", break_on_hyphens=False))
    say()
    say("Your own DAG: handoff-dask run FILE.py:NAME, see handoff-dask run --help.")
