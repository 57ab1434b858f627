"""A chain of three functions, without setting up a cluster.

``source`` returns a number, ``transform`` doubles it, ``sink`` formats a sentence. Without a Dask ``Client``,
``execute`` starts the embedded cluster, which runs in this process and closes when the process ends.
"""

import handoff_dask as handoff
from handoff_dask import DAG

dag = DAG("basic_example")


@dag.function
def source():
    return 42


@dag.function(extra_args=[2])
def transform(source, factor):  # called with the result of source, then with extra_args
    return source * factor


@dag.function
def sink(transform):
    return f"The final answer is: {transform}"


def main() -> handoff.Result:
    """Run the DAG; print each function's result and the node it ran on."""
    result = handoff.execute(dag)
    for id, value in result.results.items():
        print(f"{id:<10} {value!s:<25} on {result.allocations[id]}")
    return result


if __name__ == "__main__":
    main()
