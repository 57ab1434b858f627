"""Functions with different needs on two unequal nodes.

Each function declares its cost and runs on a node with enough free capacity: only ``gpu-node`` is eligible
for ``gpu_process``. Without an argument, the program creates both nodes on this machine. To run on your own
cluster, pass its scheduler's address; one of its workers must offer a GPU, and ``handoff_dask`` must be
installed on all its machines::

    dask scheduler
    dask worker tcp://scheduler:8786 --name cpu-node --resources "cpu=4,memory=4096"
    dask worker tcp://scheduler:8786 --name gpu-node --resources "cpu=4,memory=4096,gpu=1"
    python distributed_execution.py tcp://scheduler:8786
"""

import sys
from contextlib import nullcontext

from distributed import Client

import handoff_dask as handoff
from handoff_dask import DAG, Function

NODES = {
    "cpu-node": {"cpu": 4, "memory": 4096},
    "gpu-node": {"cpu": 4, "memory": 4096, "gpu": 1},
}


def load_data(path):
    return f"Loaded: {path}"


def process_on_gpu(data):
    return f"Processed [{data}] on GPU"


def format_output(processed):
    return f"The final answer is: {processed}"


def build_dag() -> DAG:
    """Chain three functions with costs: ``cpu`` in cores, ``memory`` in MB, ``gpu`` in devices."""
    dag = DAG("distributed_example")
    dag.add_function(
        Function(
            id="load_data",
            code=load_data,
            extra_args=["/path/to/shared/data.txt"],
            cost={"cpu": 1, "memory": 1000},
        )
    )
    dag.add_function(
        Function(
            id="gpu_process",
            args=["load_data"],
            code=process_on_gpu,
            cost={"cpu": 2, "memory": 2048, "gpu": 1},
        )
    )
    dag.add_function(
        Function(
            id="format_result",
            args=["gpu_process"],
            code=format_output,
            cost={"cpu": 1, "memory": 500},
        )
    )
    return dag


def main(address: str | None = None) -> handoff.Result:
    """Run on the cluster at ``address``, or on a local one with :data:`NODES`; print nodes and results."""
    with (
        nullcontext(address) if address else handoff.local_cluster(NODES) as cluster,
        Client(cluster) as client,
    ):
        print("Nodes:")
        for node, capacity in handoff.discover_nodes(client).items():
            print(f"  {node:<14}", ", ".join(f"{name} {amount:g}" for name, amount in capacity.items()))
        result = handoff.execute(build_dag(), client)

    print("Results:")
    for id, value in result.results.items():
        print(f"  {id:<14} {value}")
    print("Allocations:")
    for id, node in result.allocations.items():
        print(f"  {id:<14} {node}")
    return result


if __name__ == "__main__":
    main(*sys.argv[1:2])
