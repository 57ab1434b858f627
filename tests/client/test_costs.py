"""Costs that are estimated ("auto") and costs that are computed (callables), on a cluster and locally."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import dask
import pytest
from distributed import Client
from helpers import dag_of, gate, identity, on_cluster_and_locally, pass_gate, plugin_of, settle, until

import handoff_dask as handoff
from handoff_dask import CostError, Function, FunctionFailedError, InvalidCostError, Need, RetryPolicy

MB = 2**20


def take(megabytes, *_):
    """Use memory, all of which is written to."""
    data = bytearray(megabytes * MB)
    data[:: 2**12] = b"x" * len(data[:: 2**12])
    return len(data)


def costs_of(result, id):
    return [a.cost for a in result.records[id].attempts]


# ---------------------------------------------------------------------- "auto"


@pytest.fixture(scope="module")
def large():
    """A cluster with a node large enough to run several functions of unknown size."""
    nodes = {"a": {"cpu": 4, "memory": 1600, "threads": 16}}
    with handoff.local_cluster(nodes, processes=False) as cluster:
        yield cluster


def test_automatic_memory_is_learnt_and_bounds(large):
    """The first guess is a quarter of the node. What it was too small for runs again with more."""
    dag = dag_of(*[Function(f"f{n}", take, extra_args=[30], cost={"memory": "auto"}) for n in range(6)])
    dag.add_function(Function("huge", take, extra_args=[450], cost={"memory": "auto"}, max_retries=0))
    with Client(large, set_as_default=False) as client:
        result = handoff.execute(dag, client)
        assert dict(result.records["f0"].cost) == {"memory": "auto"}
        assert costs_of(result, "huge")[-1]["memory"] >= 450
        assert [a.outcome for a in result.records["huge"].attempts][:-1] != [], "killed at least once"
        again = handoff.execute(dag_of(*[f for f in dag.functions.values() if f.id != "huge"]), client)
        # A new process also imports this module, so a function may first ask for too little.
        assert {30 <= a["memory"] < 400 for id in again.records for a in costs_of(again, id)} == {True}
    settle(large)


def test_a_second_run_with_a_history_asks_for_what_each_function_used(large, tmp_path):
    dag = dag_of(
        *[Function(f"f{n}", take, extra_args=[m], cost={"memory": "auto"}) for n, m in enumerate((20, 300))]
    )
    with handoff.local_cluster({"a": {"cpu": 4, "memory": 2000}}, processes=False) as cluster:
        handoff.execute(dag, cluster, history=tmp_path / "history.db")
    with handoff.local_cluster({"a": {"cpu": 4, "memory": 2000}}, processes=False) as cluster:
        result = handoff.execute(dag, cluster, history=tmp_path / "history.db")
    (small,), (large_,) = costs_of(result, "f0"), costs_of(result, "f1")
    assert 20 <= small["memory"] < 300 <= large_["memory"]


@on_cluster_and_locally
def test_automatic_costs_run_in_a_process_of_their_own(client, run):
    result = run(
        dag_of(Function("f", threading.get_native_id, cost={"cpu": "auto", "memory": "auto"})), client
    )
    (attempt,) = result.records["f"].attempts
    assert attempt.peak_exact
    assert "auto" not in attempt.cost.values()


def test_an_automatic_cost_can_be_simulated():
    dag = dag_of(Function("f", identity, extra_args=[1], cost={"cpu": 1, "memory": "auto"}))
    schedule = handoff.simulate(dag, {"a": {"cpu": 1, "memory": 100}}, 2.0)
    assert schedule.makespan == 2.0
    assert schedule.records["f"].attempts[0].cost == {"cpu": 1, "memory": 25}
    repr(schedule), schedule._repr_html_(), schedule.timeline()._repr_html_(), schedule.bounds


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"cost": {"gpu": "auto"}}, "only memory and cpu are measured, so 'gpu' cannot be 'auto'"),
        ({"cost": {"memry": "auto"}}, "did you mean 'memory'?"),
        ({"cost": {"memory": "Auto"}}, "must be a number of MB (2**20 bytes) or a string with a unit"),
        ({"cost": {"memory": "auto"}, "isolation": "thread"}, "'auto' needs isolation='process'"),
        ({"cost": {"memory": "auto"}, "type": "inline"}, "an inline function cannot have the cost 'auto'"),
    ],
)
def test_invalid_automatic_costs(fields, text):
    with pytest.raises(InvalidCostError) as caught:
        dag_of(Function("f", identity, extra_args=[1], **fields)).validate()
    assert text in str(caught.value)


@pytest.mark.parametrize("run", [handoff.execute, handoff.submit])
def test_an_automatic_cost_cannot_be_a_limit_of_the_run(client, run):
    dag = dag_of(Function("f", identity, extra_args=[1], cost={"memory": "auto"}))
    with pytest.raises(InvalidCostError, match=r"'f'.*'memory' is a limit of the run"):
        run(dag, client, limits={"memory": 5})


def test_a_dag_with_automatic_and_computed_costs_can_be_displayed(client):
    dag = dag_of(
        Function("f", identity, extra_args=[1], cost={"cpu": 1, "memory": "auto"}),
        Function("g", identity, args=["f"], cost=by_input),
    )
    text = dag._repr_html_()
    assert "auto" in text
    assert "computed by by_input" in text
    dag.to_mermaid()
    result = handoff.execute(dag, client)
    for shown in (result.records, result.records["f"], result.timeline(), dag["f"], dag["g"]):
        assert getattr(shown, "_repr_html_", shown.__repr__)()
    table = result.records.to_pandas()
    assert sorted(table["cost_memory"]) == [pytest.approx(10, abs=0.01), 2048]


# ---------------------------------------------------------------------- callables


def by_input(need):
    return {"cpu": 1, "memory": 10 + need.input_mb * need.attempt}


@on_cluster_and_locally
def test_a_cost_is_computed_from_sizes_of_inputs(client, run):
    dag = dag_of(
        Function("data", bytes, extra_args=[5 * MB]),
        Function("other", bytes, extra_args=[2 * MB]),
        Function("sum", lambda *xs: sum(map(len, xs)), args=["data", "other"], cost=by_input),
        Function("free", identity, extra_args=[1], cost=lambda need: {"cpu": 1, "memory": "3MiB"}),
    )
    result = run(dag, client)
    (cost,) = costs_of(result, "sum")
    assert cost["cpu"] == 1
    assert cost["memory"] == pytest.approx(17, abs=0.1)
    (cost,) = costs_of(result, "free")
    assert dict(cost) == {"cpu": 1, "memory": 3}


NEEDS = []


def note(need):
    NEEDS.append(need)
    return {"cpu": 1}


@on_cluster_and_locally
def test_a_need_says_what_is_known(client, run):
    NEEDS.clear()
    dag = dag_of(
        Function(("data", 1), bytes, extra_args=[3 * MB]),
        Function("half", lambda x: x, args=[("data", 1)], type="inline"),
        Function("f", len, args=["half"], cost=note),
    )
    run(dag, client)
    assert NEEDS[0] == Need(1, {("data", 1): 0.0}, None), "before anything runs"
    last = NEEDS[-1]
    assert (last.attempt, last.seen_peak) == (1, None)
    assert last.inputs == {("data", 1): pytest.approx(3, abs=0.1)}


def grow_with_attempts(need):
    return {"memory": 40 * need.attempt**2, "cpu": 1}


def test_a_cost_may_grow_with_attempts_and_knows_what_was_seen(large):
    f = Function("f", take, extra_args=[100], cost=grow_with_attempts, isolation="process")
    g = Function(
        "g",
        take,
        extra_args=[100],
        cost=lambda need: {"memory": 1 + 4 * (need.seen_peak or 10)},
        isolation="process",
    )
    with Client(large, set_as_default=False) as client:
        result = handoff.execute(dag_of(f, g), client)
    assert [c["memory"] for c in costs_of(result, "f")] == [40, 160]
    first, second = costs_of(result, "g")
    assert first["memory"] == 41
    assert second["memory"] >= 161
    settle(large)


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        (lambda need: 1 / 0, "raised ZeroDivisionError: division by zero"),
        (lambda need: None, "must return a mapping of resources to numbers, not None"),
        (lambda need: {"cpu": -1}, "cpu must not be negative"),
        (lambda need: {"memory": "auto"}, "an amount that is computed cannot be 'auto'"),
        (lambda need: {"threads": 2}, "'threads' cannot be set"),
        (dict, "raised TypeError"),
    ],
)
def test_a_callable_is_checked_before_anything_runs(cost, text):
    with pytest.raises(InvalidCostError) as caught:
        dag_of(Function("f", identity, extra_args=[1], cost=cost)).validate()
    assert text in str(caught.value)
    assert "function 'f'" in str(caught.value)


def test_a_callable_that_gives_something_else_each_time(client):
    """Validation has passed, but the next call fails."""
    answers = [{"cpu": 1}]
    dag = dag_of(Function("f", identity, extra_args=[1], cost=lambda need: answers.pop()))
    with pytest.raises(InvalidCostError, match=r"function 'f': cost: .* raised IndexError"):
        handoff.execute(dag, client)


def test_a_callable_excludes_grow_and_inline_functions():
    for fields in ({"retry": RetryPolicy(grow={"cpu": 2})}, {"type": "inline"}):
        with pytest.raises(InvalidCostError):
            dag_of(Function("f", identity, extra_args=[1], cost=by_input, **fields)).validate()


def wrong_later(need):
    if need.input_mb:
        raise RuntimeError("no idea")
    return {"cpu": 1}


def nonsense_later(need):
    return {"cpu": -1} if need.input_mb else {"cpu": 1}


@on_cluster_and_locally
@pytest.mark.parametrize(
    ("cost", "text"),
    [(wrong_later, "raised RuntimeError: no idea"), (nonsense_later, "cpu must not be negative")],
)
def test_an_error_of_a_callable_is_the_failure_of_its_function(client, run, cost, text):
    dag = dag_of(
        Function("data", bytes, extra_args=[MB]),
        Function("f", len, args=["data"], cost=cost),
        Function("g", identity, args=["f"]),
        Function("good", len, args=["data"], cost={"cpu": 1}),
    )
    with pytest.raises(FunctionFailedError) as caught:
        run(dag, client, fail_fast=False)
    error = caught.value
    assert error.function_id == "f"
    assert isinstance(error.__cause__, CostError)
    assert (error.__cause__.function_id, error.__cause__.attempt) == ("f", 1)
    assert text in str(error.__cause__)
    assert text in str(error)
    (attempt,) = error.attempts
    assert attempt.outcome == "failed"
    statuses = {id: r.status for id, r in error.run.records.items()}
    assert statuses.pop("g", "skipped") == "skipped"
    assert statuses == {"data": "finished", "f": "failed", "good": "finished"}


BLOCKED = threading.Event()


def block(need):
    if need.input_mb:
        BLOCKED.wait(60)
    return {"cpu": 1}


@pytest.fixture
def one_node():
    """A client of a cluster of one node, and that cluster, on which nothing may be left."""
    with (
        handoff.local_cluster({"a": {"cpu": 2, "memory": 1000}}, processes=False) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client, cluster
        settle(cluster)


def held_back(door, **fields):
    """A DAG with a function whose cost is computed once a gate is open."""

    def cost(need):
        return pass_gate(door, {"cpu": 1}) if need.input_mb else {"cpu": 1}

    return dag_of(
        Function("data", bytes, extra_args=[MB], **fields), Function("f", len, args=["data"], cost=cost)
    )


def test_a_callable_that_blocks_fails_its_function():
    BLOCKED.clear()
    with (
        dask.config.set({"handoff.cost-timeout": "300ms"}),
        handoff.local_cluster({"a": {"cpu": 2}}, processes=False) as cluster,
    ):
        dag = dag_of(Function("data", bytes, extra_args=[MB]), Function("f", len, args=["data"], cost=block))
        with pytest.raises(FunctionFailedError, match=r"it did not return within 0\.3 s"):
            handoff.execute(dag, cluster)
        BLOCKED.set()
        assert handoff.execute(dag, cluster)["f"] == MB


def test_a_callable_that_blocks_delays_no_other_function(one_node):
    client, _ = one_node
    door = gate("cost blocks")
    dag = held_back("cost blocks")
    for n in range(40):
        dag.add_function(Function(n, len, args=["data"], cost=by_input))
    run = handoff.submit(dag, client)
    until(lambda: all(run.records[n].status == "finished" for n in range(40)))
    assert run.records["f"].status == "delayed"
    door.open()
    assert run.result(30)["f"] == MB


def test_a_function_whose_cost_is_being_computed_explains_itself_and_can_be_cancelled(one_node):
    client, _ = one_node
    door = gate("cost")
    dag = held_back("cost")
    run = handoff.submit(dag, client)
    door.await_inside(1)
    assert "is waiting for its cost" in run.explain("f")
    run.cancel()
    door.open()
    until(lambda: run.records["f"].status == "cancelled")
    assert handoff.execute(dag, client)["f"] == MB


def test_the_cost_is_computed_on_another_node_if_one_leaves():
    door = gate("cost node")
    nodes = {"a": {"cpu": 1}, "b": {"cpu": 1}}
    with (
        handoff.local_cluster(nodes, processes=False) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        run = handoff.submit(held_back("cost node", cost={"cpu": 1}), client)
        door.await_inside(1)
        cluster.sync(cluster.workers["a"].close)
        door.open()
        assert run.result(30)["f"] == MB
        del run
        settle(cluster)


def test_a_computed_cost_that_fits_nowhere_fails_by_name():
    with (
        dask.config.set({"handoff.node-timeout": "200ms"}),
        handoff.local_cluster({"a": {"cpu": 2, "memory": 100}}, processes=False) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        dag = dag_of(
            Function("data", bytes, extra_args=[MB]),
            Function("f", len, args=["data"], cost=lambda need: {"memory": 1000 * need.input_mb + 1}),
        )
        with pytest.raises(handoff.AllocationError, match="'f'"):
            handoff.execute(dag, client)


def test_computed_costs_count_against_limits(client):
    dag = dag_of(Function("data", bytes, extra_args=[MB]))
    for n in range(4):
        dag.add_function(
            Function(n, slowly, args=["data"], cost=lambda need: {"db": 2 if need.input_mb else 1})
        )
    result = handoff.execute(dag, client, limits={"db": 2})
    spans = sorted((a.started, a.stopped) for n in range(4) for a in result.records[n].attempts)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


def slowly(data):
    time.sleep(0.05)
    return len(data)


def test_the_plugin_is_removed_while_a_cost_is_being_computed(one_node):
    client, cluster = one_node
    door = gate("cost removed")
    run = handoff.submit(held_back("cost removed"), client)
    door.await_inside(1)
    client.unregister_scheduler_plugin("handoff")
    door.open()
    assert run.wait(20)
    assert plugin_of(cluster) is None
