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
from handoff_dask import DAG

NODES = {
    "cpu-node": {"cpu": 4, "memory": 4096},
    "gpu-node": {"cpu": 4, "memory": 4096, "gpu": 1},
}


# Costs: cpu in cores, memory in MB, gpu in devices.
dag = DAG("distributed_example")


@dag.function(extra_args=["/path/to/shared/data.txt"], cost={"cpu": 1, "memory": 1000})
def load_data(path):
    return f"Loaded: {path}"


@dag.function(cost={"cpu": 2, "memory": 2048, "gpu": 1})
def gpu_process(load_data):
    return f"Processed [{load_data}] on GPU"


@dag.function(cost={"cpu": 1, "memory": 500})
def format_result(gpu_process):
    return f"The final answer is: {gpu_process}"


def main(address: str | None = None) -> handoff.Result:
    """Run on the cluster at ``address``, or on a local one with :data:`NODES`; print nodes and results."""
    with (
        nullcontext(address) if address else handoff.local_cluster(NODES) as cluster,
        Client(cluster) as client,
    ):
        print("Nodes:")
        for node, capacity in handoff.discover_nodes(client).items():
            print(f"  {node:<14}", ", ".join(f"{name} {amount:g}" for name, amount in capacity.items()))
        result = handoff.execute(dag, client)

    print("Results:")
    for id, value in result.results.items():
        print(f"  {id:<14} {value}")
    print("Allocations:")
    for id, node in result.allocations.items():
        print(f"  {id:<14} {node}")
    return result


if __name__ == "__main__":
    main(*sys.argv[1:2])
