"""A chain of three functions, without setting up a cluster.

``source`` returns a number, ``transform`` doubles it, ``sink`` formats a sentence. Without a Dask ``Client``,
``execute`` starts the embedded cluster, which runs in this process and closes when the process ends.
"""

import handoff_dask as handoff
from handoff_dask import DAG, Function


def identity(value):
    return value


def multiply(value, factor):
    return value * factor


def format_answer(value):
    return f"The final answer is: {value}"


def build_dag() -> DAG:
    """Chain three functions; results of ``args`` are the first arguments: ``multiply(42, 2)``."""
    dag = DAG("basic_example")
    dag.add_function(Function(id="source", code=identity, extra_args=[42]))
    dag.add_function(Function(id="transform", args=["source"], code=multiply, extra_args=[2]))
    dag.add_function(Function(id="sink", args=["transform"], code=format_answer))
    return dag


def main() -> handoff.Result:
    """Run the DAG; print each function's result and the node it ran on."""
    result = handoff.execute(build_dag())
    for id, value in result.results.items():
        print(f"{id:<10} {value!s:<25} on {result.allocations[id]}")
    return result


if __name__ == "__main__":
    main()
