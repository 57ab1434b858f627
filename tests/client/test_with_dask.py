"""Integration with Dask: a run's futures in Dask's APIs, and Dask inside functions."""

import asyncio
import operator

import dask
import dask.array as da
import numpy as np
import pytest
from dask import delayed
from distributed import Client, as_completed, get_worker, rejoin, secede, wait, worker_client
from distributed.client import _global_clients
from distributed.worker import get_client
from helpers import dag_of, gate, identity, pass_gate

import handoff_dask as handoff
from handoff_dask import Function


@pytest.fixture(autouse=True)
def _close_worker_clients():
    """Close clients that in-process workers made for their tasks; Dask leaves them trying to reconnect."""
    yield
    for client in list(_global_clients.values()):
        if client.id.startswith("Client-worker-"):
            asyncio.run_coroutine_threadsafe(client._close(fast=True), client.loop.asyncio_loop).result(20)


def make_chunk(n):
    return np.full(3, float(n))


def chunk_dag(n):
    return dag_of(*(Function(i, make_chunk, extra_args=[i]) for i in range(n)))


# futures


@pytest.fixture
def run(client):
    run = handoff.submit(chunk_dag(3), client)
    yield run
    run.wait()


def test_futures_as_arguments_of_tasks(client, run):
    assert client.submit(np.sum, run.futures[2]).result() == 6
    assert client.submit(sum, list(run.futures.values())).result().tolist() == [3, 3, 3]
    assert client.gather(client.map(np.sum, list(run.futures.values()))) == [0, 3, 6]
    nested = client.submit(dict, a=[run.futures[1]])
    assert nested.result()["a"][0].tolist() == [1, 1, 1]


def test_futures_gathered_and_waited_for(client, run):
    with client.as_current():
        done, not_done = wait(list(run.futures.values()))
        found = {int(value[0]) for _, value in as_completed(run.futures.values(), with_results=True)}
    assert len(done) == 3
    assert not not_done
    assert found == {0, 1, 2}
    assert [x[0] for x in client.gather(list(run.futures.values()))] == [0, 1, 2]


def test_futures_in_delayed_and_arrays(client, run):
    with client.as_current():
        assert delayed(np.sum)(run.futures[2]).compute() == 6
        arrays = [da.from_delayed(delayed(f), shape=(3,), dtype=float) for f in run.futures.values()]
        x = da.concatenate(arrays)
        assert x.chunks == ((3, 3, 3),)
        assert x.sum().compute() == 9
        assert client.compute(x.max()).result() == 2
        assert client.persist(x + 1).compute().tolist() == [1] * 3 + [2] * 3 + [3] * 3


def test_a_future_outlives_its_run(client):
    run = handoff.submit(chunk_dag(2), client)
    future = run.futures[1]
    run.wait()
    del run
    total = client.submit(np.sum, future)
    del future
    assert total.result() == 3


# Dask inside functions


def delayed_sum(x):
    return delayed(operator.add)(x, 1)


def compute(x):
    return x.compute()


def test_a_collection_is_passed_on_uncomputed(client):

    dag = dag_of(Function("lazy", delayed_sum, extra_args=[41]), Function("same", identity, args=["lazy"]))
    results = handoff.execute(dag, client).results
    assert dask.is_dask_collection(results["same"])
    assert results["same"].compute(scheduler="sync") == 42


def name_of_node():
    return get_worker().name


def test_get_worker(client):
    result = handoff.execute(dag_of(Function("f", name_of_node, node="node2")), client)
    assert result.results["f"] == "node2"


def with_worker_client(n):
    with worker_client() as client:
        return sum(client.gather(client.map(operator.neg, range(n))))


def with_compute(n):
    return delayed(sum)([delayed(operator.neg)(i) for i in range(n)]).compute()


def with_get_client(n):
    client = get_client()
    futures = client.map(operator.neg, range(n))
    secede()
    total = sum(client.gather(futures))
    rejoin()
    return total


@pytest.mark.parametrize("code", [with_worker_client, with_compute, with_get_client])
def test_tasks_submitted_inside_a_function_get_a_thread(code):
    """Even if functions hold all threads: each of these ways secedes before it waits."""
    dag = dag_of(*(Function(i, code, extra_args=[5], cost={"cpu": 1}) for i in range(6)))
    with handoff.local_cluster({"only": {"cpu": 2}}) as cluster, Client(cluster) as client:
        assert set(handoff.execute(dag, client, timeout=30).results.values()) == {-10}


def test_a_collection_is_computed_by_another_function():
    dag = dag_of(Function("lazy", delayed_sum, extra_args=[41]), Function("value", compute, args=["lazy"]))
    with handoff.local_cluster({"only": {"cpu": 1}}) as cluster, Client(cluster) as client:
        assert handoff.execute(dag, client, timeout=30).results["value"] == 42


def secede_and_wait(name):
    secede()
    return pass_gate(name)


def test_a_seceded_function_holds_its_allocation(cluster, client):
    """Its thread is free for external tasks, but its cost stays allocated."""
    waiting = gate("seceded")
    run = handoff.submit(
        dag_of(
            Function("seceded", secede_and_wait, extra_args=["seceded"], cost={"cpu": 2}, node="node2"),
            Function("next", identity, extra_args=[1], cost={"cpu": 1}, node="node2"),
        ),
        client,
    )
    try:
        waiting.await_inside(1)
        assert not handoff.resources_available("node2", {"cpu": 1}, client)
        assert client.submit(operator.neg, 1, workers="node2").result(timeout=20) == -1
        assert "next" not in run.results
        assert "cpu" in run.explain("next")
    finally:
        waiting.open()
    assert run.result().results["next"] == 1


def run_inner(n, timeout):
    with worker_client() as client:
        return sum(handoff.execute(chunk_dag(n), client, timeout=timeout).results.values())[0]


def test_a_run_inside_a_function(client):
    """The inner run needs its own capacity: the outer function holds its allocation."""
    outer = dag_of(Function("outer", run_inner, extra_args=[3, 60], cost={"cpu": 1}, node="node1"))
    assert handoff.execute(outer, client).results["outer"] == 3


def test_a_run_inside_a_function_that_holds_the_last_thread_waits():
    """It waits forever, unless it has a timeout."""
    outer = dag_of(Function("outer", run_inner, extra_args=[1, 0.5], max_retries=0))
    with handoff.local_cluster({"only": {"cpu": 1}}) as cluster, Client(cluster) as client:
        with pytest.raises(handoff.FunctionFailedError) as info:
            handoff.execute(outer, client)
        assert isinstance(info.value.__cause__, handoff.RunTimeoutError)
        assert handoff.execute(chunk_dag(1), client).allocations == {0: "only"}


def test_a_client_left_behind_by_a_worker_is_not_the_default():
    """``get_client()`` in a function on an in-process node creates a client that is never closed."""
    dag = dag_of(Function("f", with_get_client, extra_args=[5]))
    nodes = {"only": {"cpu": 2}}
    with handoff.local_cluster(nodes) as cluster, Client(cluster, set_as_default=False) as client:
        assert handoff.execute(dag, client)["f"] == -10
    assert handoff.execute(dag_of(Function("f", abs, extra_args=[-1])))["f"] == 1
