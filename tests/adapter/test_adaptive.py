"""Adaptive clusters: waiting functions add nodes, and idle nodes are removed again."""

from __future__ import annotations

import pytest
from distributed import Client, LocalCluster
from helpers import dag_of, gate, identity, pass_gate, settle, until

import handoff_dask as handoff
from handoff_dask import Function


@pytest.fixture(params=["one node", "no node"])
def adaptive(request):
    minimum = int(request.param == "one node")
    with LocalCluster(
        n_workers=minimum,
        threads_per_worker=1,
        processes=False,
        dashboard_address=":0",
        memory_limit=0,
        resources={"slot": 1},
    ) as cluster:
        cluster.adapt(minimum=minimum, maximum=3, interval="20ms", wait_count=2, target_duration="100ms")
        with Client(cluster) as client:
            yield cluster, client, minimum
        settle(cluster)


def test_waiting_functions_add_nodes_and_idle_nodes_are_removed(adaptive):
    cluster, client, minimum = adaptive
    door = gate(f"adaptive {minimum}")
    dag = dag_of(
        *[
            Function(i, pass_gate, extra_args=[f"adaptive {minimum}", i], cost={"slot": 1}, priority=-i)
            for i in range(6)
        ],
        Function("sum", sum, args=range(6), argument_inclusion="as_list"),
    )
    run = handoff.submit(dag, client, wait_for_nodes=60)
    door.await_inside(3)  # on three nodes: each node has one slot
    assert len(set(run.allocations.values())) == 3
    door.open()
    result = run.result(timeout=60)
    assert result.results["sum"] == 15
    del run, result
    until(lambda: len(cluster.scheduler.workers) == minimum, what="idle nodes stay")
    assert (
        handoff.execute(dag_of(Function("x", identity, extra_args=[1])), client, wait_for_nodes=60)["x"] == 1
    )
