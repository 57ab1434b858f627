"""``execute`` on a cluster: arguments, placement, limits, kept results."""

from __future__ import annotations

import logging
import threading
import time

import pytest
from distributed import Client
from helpers import GATES, add, dag_of, gate, identity, multiply, pass_gate, until

import handoff_dask as handoff
from handoff_dask import DAG, Argument, Collocated, Function, RetryPolicy


def basic() -> DAG:
    return dag_of(
        Function("source", identity, extra_args=[42]),
        Function("transform", multiply, args=["source"], extra_args=[2]),
        Function("sink", "The final answer is: {}".format, args=["transform"]),
        id="basic",
    )


EXPECTED = {"source": 42, "transform": 84, "sink": "The final answer is: 84"}


def test_results_allocations_and_records(client):
    before = time.time()
    result = handoff.execute(basic(), client)
    assert result.results == EXPECTED
    assert list(result.results) == ["source", "transform", "sink"]
    assert result["sink"] == EXPECTED["sink"]
    assert result.dag_id == "basic"
    assert result.allocations.keys() == EXPECTED.keys()
    assert set(result.allocations.values()) <= {"node1", "node2"}
    assert result.elapsed > 0
    for id, record in result.records.items():
        (attempt,) = record.attempts
        assert record.function_id == id
        assert record.status == attempt.outcome == "finished"
        assert record.node == attempt.node == result.allocations[id]
        assert attempt.number == 1
        assert before <= attempt.queued <= attempt.started <= attempt.stopped <= time.time()
        assert record.nbytes > 0
        assert record.duration >= 0


def test_concurrent_runs_of_one_dag_do_not_mix(client):
    dag = basic()
    runs = [handoff.submit(dag, client) for _ in range(3)]
    assert len({run.id for run in runs}) == 3
    assert [run.result().results for run in runs] == [EXPECTED] * 3


def test_an_empty_dag_has_empty_results(client):
    result = handoff.execute(DAG("empty"), client)
    assert (result.results, result.allocations, dict(result.records)) == ({}, {}, {})


@pytest.mark.parametrize(
    "run",
    [
        handoff.execute,
        lambda dag, client: handoff.submit(dag, client).result(),
        lambda dag, client: handoff.execute_local(dag),
    ],
    ids=["execute", "submit", "execute_local"],
)
def test_an_empty_dag_logs_one_warning(client, run, caplog):
    with caplog.at_level(logging.WARNING, "handoff_dask"):  # the cluster has silenced pytest's handler
        assert run(DAG("forgotten"), client).results == {}
        run(dag_of(Function("f", int)), client)
    (record,) = [r for r in caplog.records if r.name == "handoff_dask"]
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "DAG 'forgotten' is empty: it has no functions, so its results are empty"


def test_with_a_cluster_an_address_and_a_default_client(cluster, client):
    assert handoff.execute(basic(), cluster).results == EXPECTED
    assert handoff.execute(basic(), cluster.scheduler_address).results == EXPECTED
    with Client(cluster):
        result = handoff.execute(basic())
        assert set(result.allocations.values()) <= {"node1", "node2"}


def test_without_a_cluster_an_embedded_one_is_started_once():
    first = handoff.execute(basic())
    assert first.results == EXPECTED
    assert set(first.allocations.values()) == {"embedded"}
    threads = threading.active_count()
    assert handoff.execute(basic()).results == EXPECTED
    assert threading.active_count() <= threads + 1
    (node,) = handoff.discover_nodes().values()
    assert node["cpu"] >= 1
    assert node["memory"] > 0


def test_argument_passing(client):
    def collect(*args, **kwargs):
        return args, kwargs

    result = handoff.execute(
        dag_of(
            Function("a", identity, extra_args=[1]),
            Function("b", identity, extra_args=[2]),
            Function("variadic", collect, args=["a", "b", "a"], extra_args=[3], extra_kwargs={"k": 4}),
            Function("listed", collect, args=["a", "b"], extra_args=[3], argument_inclusion="as_list"),
            Function("named", collect, args=["a"], kwargs={"x": "b"}, extra_kwargs={"y": 5}),
            Function("imported", "operator:mul", args=["b"], extra_args=[21]),
            Function("nested", "os.path:join", extra_args=["x", "y"]),
        ),
        client,
    )
    assert result["variadic"] == ((1, 2, 1, 3), {"k": 4})
    assert result["listed"] == (([1, 2], 3), {})
    assert result["named"] == ((1,), {"x": 2, "y": 5})
    assert result["imported"] == 42
    assert result["nested"] == "x/y"


def test_ids_may_be_any_hashable(client):
    ids = ["text", 7, ("a", ("b", 1)), frozenset({1, 2}), None, 2.5]
    dag = dag_of(*[Function(id, identity, extra_args=[str(id)]) for id in ids])
    dag.add_function(Function("all", lambda *xs: xs, args=ids))
    result = handoff.execute(dag, client)
    assert result["all"] == tuple(str(id) for id in ids)
    assert set(result.allocations) == {*ids, "all"}
    assert result.records[frozenset({1, 2})].function_id == frozenset({1, 2})


def count_evaluation(name, *xs):
    GATES[name].entered += 1
    return sum(xs)


def test_inline_functions_are_evaluated_once_per_dependent(client):
    counter = gate("inline")
    result = handoff.execute(
        dag_of(
            Function("source", identity, extra_args=[10]),
            Function("inline", lambda x: count_evaluation("inline", x, 1), args=["source"], type="inline"),
            Function("twice", add, args=["inline", "inline"], type="inline"),
            Function("left", add, args=["inline", "twice"]),
            Function("right", add, args=["twice", "source"], kwargs={}),
        ),
        client,
    )
    assert result.results == {"source": 10, "left": 33, "right": 32}
    assert result.allocations.keys() == {"source", "left", "right"}
    assert counter.entered == 2  # once per placed dependent, even if several paths lead to it


def test_a_long_inline_chain_needs_no_recursion(client):
    dag = dag_of(Function(0, identity, extra_args=[0]))
    for i in range(1, 3000):
        dag.add_function(Function(i, add, args=[i - 1], extra_args=[1], type="inline"))
    dag.add_function(Function("end", identity, args=[2999]))
    assert handoff.execute(dag, client)["end"] == 2999


def test_an_inline_functions_cost_is_added_to_its_dependents(client):
    result = handoff.execute(
        dag_of(
            Function("inline", identity, extra_args=[1], type="inline", cost={"gpu": 1}),
            Function("user", identity, args=["inline"], cost={"cpu": 1}),
        ),
        client,
    )
    assert result.allocations == {"user": "node1"}
    assert result.records["user"].cost == {"cpu": 1, "gpu": 1}


def pack(data, source, target, mark):
    return {"data": data, "route": [(mark, source, target)]}


def unpack(packed, source, target, mark):
    return packed["data"], [*packed["route"], (mark, source, target)]


def test_transfers_run_on_the_nodes_of_producer_and_consumer(client):
    result = handoff.execute(
        dag_of(
            Function("producer", identity, extra_args=[7], node="node1"),
            Function(
                "consumer",
                identity,
                args=[Argument("producer", pack, unpack, ["out"], ["in"])],
                node="node2",
            ),
        ),
        client,
    )
    out, into = ("serialize", "producer", "consumer", 0), ("deserialize", "producer", "consumer", 0)
    assert result["consumer"] == (7, [("out", "node1", "node2"), ("in", "node1", "node2")])
    assert result[out] == {"data": 7, "route": [("out", "node1", "node2")]}
    assert result.allocations == {"producer": "node1", out: "node1", into: "node2", "consumer": "node2"}


def test_collocated_functions_share_a_node(client):
    dag = DAG("collocated")
    for i in range(12):
        dag.add_function(Function(("first", i), identity, extra_args=[i]))
        dag.add_function(
            Function(
                ("second", i), identity, args=[("first", i)], node=Collocated(("first", i)), cost={"cpu": 1}
            )
        )
        dag.add_function(Function(("third", i), identity, extra_args=[i], node=Collocated(("second", i))))
    where = handoff.execute(dag, client).allocations
    for i in range(12):
        assert where["first", i] == where["second", i] == where["third", i]
    assert len(set(where.values())) == 2


def test_fractions_of_a_cpu_do_not_drift():
    # 20 functions with cpu 0.2 fit on cpu 4 at once: none passes the gate before all 20 are inside.
    barrier = gate("fractions")
    with handoff.local_cluster({"node": {"cpu": 4, "threads": 21}}) as cluster, Client(cluster) as client:
        dag = dag_of(
            *[Function(i, pass_gate, extra_args=["fractions"], cost={"cpu": 0.2}) for i in range(21)]
        )
        run = handoff.submit(dag, client)
        barrier.await_inside(20)
        assert not handoff.resources_available("node", {"cpu": 0.2}, client)
        barrier.open()
        run.result()
    assert barrier.most == 20


def test_a_nodes_capacity_is_never_exceeded(client):
    intervals = []

    dag = DAG("capacity")
    for i in range(60):
        cost = [{"cpu": 2}, {"memory": 3000}, {"cpu": 1, "memory": 1000}, {"gpu": 0.5}, {}][i % 5]
        dag.add_function(Function(i, time.sleep, extra_args=[0.002 * (i % 7)], cost=cost))
    result = handoff.execute(dag, client)
    capacity = {
        "node1": {"cpu": 4, "memory": 8192, "gpu": 1, "threads": 4},
        "node2": {"cpu": 2, "memory": 4096, "threads": 2},
    }
    for record in result.records.values():
        cost = {**record.cost, "threads": 1}
        intervals.append((record.started, record.stopped, record.node, cost))
    for moment, _, node, _ in intervals:
        for name, most in capacity[node].items():
            used = sum(c.get(name, 0) for a, b, n, c in intervals if n == node and a <= moment < b)
            assert used <= most + 1e-9


def test_functions_waiting_for_one_resource_do_not_block_others(client):
    gpu = gate("gpu")
    dag = dag_of(
        *[Function(("gpu", i), pass_gate, extra_args=["gpu"], cost={"gpu": 1}, priority=1) for i in range(3)],
        *[Function(("cpu", i), identity, extra_args=[i], cost={"cpu": 1}) for i in range(10)],
    )
    run = handoff.submit(dag, client)
    gpu.await_inside(1)
    for i in range(10):
        assert run.futures["cpu", i].result(timeout=20) == i
    assert gpu.inside == 1
    gpu.open()
    assert len(run.result().results) == 13


def test_priorities_order_ready_functions(client):
    first = gate("first")
    blocker = handoff.submit(
        dag_of(*[Function(i, pass_gate, extra_args=["first"], cost={"gpu": 1}) for i in range(1)]), client
    )
    first.await_inside(1)
    low, high = (
        handoff.submit(
            dag_of(
                *[
                    Function(i, record_order, extra_args=[name, i], cost={"gpu": 1}, priority=i)
                    for i in range(3)
                ]
            ),
            client,
            priority=priority,
        )
        for name, priority in (("low", -1), ("high", 1))
    )
    until(lambda: {r.status for run in (low, high) for r in run.records.values()} == {"ready"})
    ORDER.clear()
    first.open()
    for run in (blocker, low, high):
        run.result()
    assert [(name, i) for name in ("high", "low") for i in (2, 1, 0)] == ORDER


ORDER: list = []


def record_order(name, i):
    ORDER.append((name, i))


@pytest.mark.parametrize(("options", "most"), [({"max_concurrency": 2}, 2), ({"limits": {"db": 3}}, 3)])
def test_limits_of_a_run_are_used_fully_and_never_exceeded(client, options, most):
    door = gate("limited")
    cost = {"db": 1} if "limits" in options else {}
    run = handoff.submit(
        dag_of(*[Function(i, pass_gate, extra_args=["limited"], cost=cost) for i in range(6)]),
        client,
        **options,
    )
    door.await_inside(most)
    other = handoff.execute(dag_of(Function("other", identity, extra_args=[1])), client)
    assert other["other"] == 1
    door.open()
    run.result()
    assert door.most == most


def test_keep_selects_the_results(client):
    dag = dag_of(
        Function("a", identity, extra_args=[1]),
        Function("b", add, args=["a"], extra_args=[1]),
        Function("c", add, args=["b"], extra_args=[1]),
        Function("d", add, args=["a"], extra_args=[5]),
    )
    assert handoff.execute(dag, client).results == {"a": 1, "b": 2, "c": 3, "d": 6}
    assert handoff.execute(dag, client, keep="sinks").results == {"c": 3, "d": 6}
    chosen = handoff.execute(dag, client, keep=["b"])
    assert chosen.results == {"b": 2}
    assert chosen.allocations.keys() == {"a", "b", "c", "d"}
    assert handoff.execute(dag, client, keep=[]).results == {}


def test_results_that_are_not_kept_are_released_during_the_run(cluster, client):
    end = gate("end")
    dag = dag_of(
        Function("big", bytes, extra_args=[1000]),
        Function("size", len, args=["big"]),
        Function("unwanted", bytes, args=["size"]),
        Function("end", pass_gate, extra_args=["end"]),
    )
    run = handoff.submit(dag, client, keep=["end"])
    end.await_inside(1)
    tasks = cluster.scheduler.tasks

    def live():
        return sorted(
            key[0].split("-")[0] for key, ts in tasks.items() if ts.state == "memory" and ts.nbytes > 500
        )

    until(lambda: run.records["unwanted"].status == "finished")
    until(lambda: not live(), what=str(live()))
    end.open()
    assert run.result().results.keys() == {"end"}


def return_current():
    return handoff.current()


def test_current_describes_the_running_attempt(client):
    result = handoff.execute(
        dag_of(Function("me", return_current, cost={"gpu": 1, "cpu": 0.5}), id="asking"), client
    )
    me = result["me"]
    assert (me.dag_id, me.function_id, me.run_id) == ("asking", "me", result.run_id)
    assert (me.attempt, me.node, me.cost) == (1, "node1", {"gpu": 1, "cpu": 0.5})
    assert me.devices == {"gpu": [0]}
    with pytest.raises(RuntimeError, match="outside of a function"):
        handoff.current()


def test_functions_on_one_node_use_different_devices():
    door = gate("devices")
    with handoff.local_cluster({"node": {"cpu": 4, "gpu": 2}}) as cluster, Client(cluster) as client:
        run = handoff.submit(dag_of(*[Function(i, gated_current, cost={"gpu": 1}) for i in range(2)]), client)
        door.await_inside(2)
        door.open()
        result = run.result()
        assert sorted(result[i].devices["gpu"] for i in range(2)) == [[0], [1]]
        assert sorted(r.devices["gpu"] for r in result.records.values()) == [(0,), (1,)]


def gated_current():
    pass_gate("devices")
    return handoff.current()


async def asynchronous():
    return handoff.current().function_id


def test_a_coroutine_function_is_awaited(client):
    assert handoff.execute(dag_of(Function("co", asynchronous)), client)["co"] == "co"


def test_a_functions_retry_policy_overrides_the_runs(client):
    policy = RetryPolicy(max_retries=0)
    with pytest.raises(handoff.FunctionFailedError) as caught:
        handoff.execute(dag_of(Function("f", int, extra_args=["x"], retry=policy)), client, max_retries=5)
    assert len(caught.value.attempts) == 1


def test_functions_with_half_a_device_share_one():
    door = gate("shared device")
    with handoff.local_cluster({"node": {"cpu": 8, "gpu": 2}}) as cluster, Client(cluster) as client:
        half = [
            Function(i, pass_gate, extra_args=["shared device"], cost={"gpu": 0.5}, priority=1)
            for i in range(2)
        ]
        whole = [Function(("whole", i), identity, extra_args=[i], cost={"gpu": 1}) for i in range(2)]
        run = handoff.submit(dag_of(*half, *whole), client)
        door.await_inside(2)
        until(lambda: all(run.records["whole", i].status == "finished" for i in range(2)))
        door.open()
        records = run.result().records
        (shared,) = {records[i].devices["gpu"] for i in range(2)}
        assert {records["whole", i].devices["gpu"] for i in range(2)} == {(1 - shared[0],)}
        first, second = sorted(((records["whole", i]) for i in range(2)), key=lambda r: r.started)
        assert first.stopped <= second.started, "only one device is left for both"


def make_bytes(size):
    return bytes(size)


@pytest.mark.parametrize(("size", "node"), [(5_000_000, "b"), (10, "a")])
def test_a_function_runs_where_its_large_inputs_are(size, node):
    """Between two equally suitable nodes. Small inputs do not matter."""
    nodes = {"a": {"cpu": 1, "memory": 100}, "b": {"cpu": 1, "memory": 100}}
    with handoff.local_cluster(nodes) as cluster, Client(cluster) as client:
        dag = dag_of(
            Function("data", make_bytes, extra_args=[size], node="b"),
            Function("use", len, args=["data"], cost={"memory": 100}),
        )
        result = handoff.execute(dag, client)
        assert result["use"] == size
        assert result.allocations == {"data": "b", "use": node}
