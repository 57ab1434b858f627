"""``discover_nodes``, ``register_node``, ``resources_available`` and ``local_cluster``."""

from __future__ import annotations

import pytest
from distributed import Client
from helpers import dag_of, gate, identity, pass_gate, until

import handoff_dask as handoff
from handoff_dask import AllocationError, Function, NodeNotFoundError


def test_discover_nodes_lists_capacities_by_name(client):
    nodes = handoff.discover_nodes(client)
    assert list(nodes.items()) == [
        ("node1", {"cpu": 4, "memory": 8192, "gpu": 1}),
        ("node2", {"cpu": 2, "memory": 4096}),
    ]


def test_undeclared_capacity_is_detected():
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=3, processes=False, memory_limit="512MiB", dashboard_address=":0"
    ) as cluster:
        ((name, node),) = handoff.discover_nodes(cluster).items()
        assert name == 0
        assert (node["cpu"], node["memory"]) == (3, 512)
        result = handoff.execute(
            dag_of(Function("f", identity, extra_args=[1], cost={"cpu": 3, "memory": 512}, node=0)), cluster
        )
        assert result.allocations == {"f": 0}
        with pytest.raises(AllocationError):
            handoff.execute(dag_of(Function("f", identity, extra_args=[1], cost={"cpu": 4})), cluster)


def test_memory_may_be_a_string_wherever_it_is_written():
    nodes = {"a": {"cpu": 2, "memory": "4GB"}}
    dag = dag_of(
        Function("x", identity, extra_args=[1], cost={"memory": "4GB", "cpu": 1}),
        Function("i", identity, args=["x"], cost={"memory": "3 GiB"}, type="inline"),
        Function("y", identity, args=["i"], cost={"memory": "1GiB"}),
    )
    assert dag["x"].cost == {"memory": 3814, "cpu": 1}
    with handoff.local_cluster(nodes) as cluster, Client(cluster) as client:
        found = handoff.discover_nodes(client)
        assert found == {"a": {"cpu": 2, "memory": 3814}}
        assert handoff.resources_available("a", {"memory": "4GB"}, client) is True
        assert handoff.resources_available("a", {"memory": "4GiB"}, client) is False
        result = handoff.execute(dag, client)
        assert result.records["x"].cost == {"memory": 3814, "cpu": 1}
        assert result.records["y"].cost == {"memory": 3072}
        assert set(result.allocations) == {"x", "y"}
        limited = dag_of(Function("f", identity, extra_args=[1], cost={"memory": "8 GiB"}))
        handoff.execute(limited, client, limits={"memory": "8GiB"})
        with pytest.raises(AllocationError, match="too large for the run's limits"):
            handoff.execute(limited, client, limits={"memory": "8GB"})
        handoff.register_node("a", {"memory": "8 GiB"}, client)
        assert handoff.discover_nodes(client)["a"]["memory"] == 8192
    for capacities in (nodes, found):
        assert handoff.simulate(dag, capacities).makespan > 0


def test_a_byte_string_fits_on_a_worker_with_the_same_memory_limit():
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, memory_limit="1GB", dashboard_address=":0"
    ) as cluster:
        function = Function("f", identity, extra_args=[1], cost={"memory": "1GB"})
        assert handoff.execute(dag_of(function), cluster).results == {"f": 1}


def test_declared_memory_that_looks_like_bytes_is_logged(caplog):
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, processes=False, resources={"memory": 8e9}, dashboard_address=":0"
    ) as cluster:
        handoff.discover_nodes(cluster)
    assert [r.getMessage() for r in caplog.records if r.name.startswith("handoff_dask")] == [
        "the resources of node 0: memory is in MB, but 8000000000 looks like bytes; did you mean 7629?"
    ]


def test_registered_memory_that_looks_like_bytes(client):
    with pytest.warns(
        UserWarning, match="memory is in MB, but 8589934592 looks like bytes; did you mean 8192?"
    ):
        handoff.register_node("node1", {"memory": 2**33}, client)
    handoff.register_node("node1", {"memory": 8192}, client)


def test_pins_may_be_names_addresses_and_hosts(client, cluster):
    address = cluster.workers["node2"].address
    host = address.split("://")[1].split("/")[0]
    dag = dag_of(
        Function("name", identity, extra_args=[1], node="node2"),
        Function("address", identity, extra_args=[1], node=address),
        Function("host", identity, extra_args=[1], node=host),
        Function("several", identity, extra_args=[1], node=["nowhere", "node2"]),
    )
    where = handoff.execute(dag, client).allocations
    assert (where["name"], where["address"], where["several"]) == ("node2",) * 3
    assert where["host"] in ("node1", "node2")


def test_resources_available_tells_about_free_capacity(client):
    door = gate("now")
    run = handoff.submit(
        dag_of(Function("f", pass_gate, extra_args=["now"], cost={"gpu": 1, "cpu": 3})), client
    )
    door.await_inside(1)
    assert not handoff.resources_available("node1", {"gpu": 0.5}, client)
    assert handoff.resources_available("node1", {"cpu": 1}, client)
    assert not handoff.resources_available("node1", {"cpu": 1.5}, client)
    assert handoff.resources_available("node2", {"cpu": 2}, client)
    door.open()
    run.result()
    assert handoff.resources_available("node1", {"gpu": 1, "cpu": 4}, client)


def test_register_node_overrides_capacity():
    with handoff.local_cluster({"a": {"cpu": 2}, "b": {"cpu": 1}}) as cluster, Client(cluster) as client:
        licensed = dag_of(Function("f", identity, extra_args=[1], cost={"licence": 2}))
        with pytest.raises(AllocationError):
            handoff.execute(licensed, client)
        assert handoff.register_node("b", {"licence": 2}, client) is None
        assert handoff.discover_nodes(client)["b"]["licence"] == 2
        assert handoff.discover_nodes(client)["b"]["cpu"] == 1
        assert handoff.execute(licensed, client).allocations == {"f": "b"}

        # More cores than the worker declares, and a change while a function runs.
        door = gate("registered")
        handoff.register_node("a", {"cpu": 8}, client)
        run = handoff.submit(
            dag_of(Function("f", pass_gate, extra_args=["registered"], cost={"cpu": 6})), client
        )
        door.await_inside(1)
        handoff.register_node("a", {"cpu": 4}, client)
        assert not handoff.resources_available("a", {"cpu": 1}, client)
        door.open()
        run.result()
        until(lambda: handoff.resources_available("a", {"cpu": 4}, client))
        assert not handoff.resources_available("a", {"cpu": 5}, client)
        handoff.register_node("b", {"licence": 0}, client)
        assert "licence" not in handoff.discover_nodes(client)["b"]


@pytest.mark.parametrize(
    ("capacity", "error", "text"),
    [
        ({"cpu": -1}, ValueError, "capacity: cpu must not be negative"),
        ({"cpu": "many"}, ValueError, "capacity: cpu must be a number"),
        ([("cpu", 1)], TypeError, "capacity must be a mapping"),
        ({"threads": 3}, ValueError, "capacity cannot set threads, which are the worker's"),
    ],
)
def test_invalid_capacities_are_named(client, capacity, error, text):
    with pytest.raises(error, match=text):
        handoff.register_node("node1", capacity, client)


def test_an_error_about_an_unknown_node_lists_the_nodes(client):
    for ask in (
        lambda: handoff.register_node("node7", {"cpu": 1}, client),
        lambda: handoff.resources_available("node7", {"cpu": 1}, client),
    ):
        with pytest.raises(
            NodeNotFoundError, match=r"no node is named 'node7'; known nodes: 'node1', 'node2'"
        ) as e:
            ask()
        assert e.value.known == ("node1", "node2")


@pytest.mark.parametrize(
    ("nodes", "text"),
    [
        ({}, "at least one node"),
        ({"a": {"cpu": -1}}, "node 'a': cpu must not be negative"),
        ({"a": {"threads": 1.5}}, "node 'a': threads must be a whole number of at least 1, not 1.5"),
        ({"a": {"threads": 0}}, "node 'a': threads must be a whole number of at least 1, not 0"),
        ({"a": None}, "node 'a': its capacity must be a mapping"),
        ([1], "nodes must map names to capacities, such as"),
    ],
)
def test_local_cluster_rejects_invalid_nodes(nodes, text):
    with pytest.raises((ValueError, TypeError), match=text):
        handoff.local_cluster(nodes)


def test_a_nodes_threads_default_to_its_cores():
    with handoff.local_cluster(
        {"a": {"cpu": 3}, "b": {"cpu": 0.5}, "c": {"cpu": 1, "threads": 5}}
    ) as cluster:
        assert [cluster.workers[name].state.nthreads for name in "abc"] == [3, 1, 5]
