"""Dask's own operations on tasks and workers, applied to functions: no task or allocation is left behind."""

from __future__ import annotations

import time
from concurrent.futures import CancelledError

import dask
import pytest
from distributed import Client, Variable
from helpers import add, dag_of, gate, identity, pass_gate, plugin_of, settle, until

import handoff_dask as handoff
from handoff_dask import AllocationError, Function, FunctionFailedError, RunCancelledError

TIMEOUT = 20  # seconds


@pytest.fixture
def one():
    """A cluster of one node, and a client."""
    with (
        dask.config.set({"handoff.node-timeout": "200ms"}),
        handoff.local_cluster({"a": {"cpu": 1, "threads": 2}}) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield cluster, client
    settle(cluster)


@pytest.fixture
def two():
    """A cluster of two nodes, and a client."""
    nodes = {name: {"cpu": 2, "slot": 1} for name in "ab"}
    with (
        dask.config.set({"handoff.node-timeout": "200ms"}),
        handoff.local_cluster(nodes) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield cluster, client
    settle(cluster)


@pytest.fixture
def other(request):
    """Another client of the same cluster."""
    cluster, _ = request.getfixturevalue("two" if "two" in request.fixturenames else "one")
    with Client(cluster, set_as_default=False) as client:
        yield client


#: Names for which ``unless_broken`` raises.
BROKEN: set[str] = set()


def unless_broken(name, value=1):
    if name in BROKEN:
        raise ValueError(f"{name} is broken")
    return value


def assert_clean(cluster):
    """Assert that no task is parked and that nodes have no allocations."""
    plugin = plugin_of(cluster)
    until(lambda: not any(node.used["threads"] for node in plugin.state.nodes.values()), what="booked")
    until(lambda: not cluster.scheduler.unrunnable, what="parked")
    plugin.state.check()


def runs_on(run, id):
    return lambda: run.records[id].status == "running"


# client.retry


def test_retry_of_a_failed_function_during_its_run(one):
    _, client = one
    BROKEN.add("retried")
    door = gate("retry, running")
    run = handoff.submit(
        dag_of(
            Function("broken", unless_broken, extra_args=["retried", 5], cost={"cpu": 0.5}, max_retries=0),
            Function("after", identity, args=["broken"], cost={"cpu": 0.1}),
            Function("held", pass_gate, extra_args=["retry, running", 1], cost={"cpu": 0.5}),
        ),
        client,
        fail_fast=False,
    )
    until(lambda: run.records["after"].status == "skipped")
    BROKEN.clear()
    client.retry(run.futures["broken"])
    until(lambda: run.records["after"].status == "finished")
    assert run.futures["after"].result(TIMEOUT) == 5
    assert [a.outcome for a in run.records["broken"].attempts] == ["failed", "finished"]
    door.open()
    assert run.result(TIMEOUT).results == {"broken": 5, "after": 5, "held": 1}


def test_a_retry_resets_the_number_of_retries(one):
    _, client = one
    BROKEN.add("again")
    door = gate("retry twice")
    run = handoff.submit(
        dag_of(
            Function("broken", unless_broken, extra_args=["again"], cost={"cpu": 0.5}, max_retries=1),
            Function("held", pass_gate, extra_args=["retry twice", 1], cost={"cpu": 0.5}),
        ),
        client,
        fail_fast=False,
    )
    until(lambda: run.records["broken"].status == "failed")
    client.retry(run.futures["broken"])
    until(lambda: len(run.records["broken"].attempts) == 4)
    door.open()
    with pytest.raises(FunctionFailedError, match="after 4 attempts") as caught:
        run.result(TIMEOUT)
    assert not caught.value.others


@pytest.mark.parametrize("fail_fast", [True, False])
def test_retry_after_the_end_of_the_run_is_refused(one, fail_fast):
    cluster, client = one
    BROKEN.add("ended")
    run = handoff.submit(
        dag_of(
            Function("broken", unless_broken, extra_args=["ended"], max_retries=0),
            Function("after", identity, args=["broken"]),
        ),
        client,
        fail_fast=fail_fast,
    )
    assert run.wait(TIMEOUT)
    BROKEN.clear()
    client.retry(run.futures["broken"])
    with pytest.raises(handoff.RunEndedError, match=r"'broken'.*has failed.*checkpoint="):
        run.futures["broken"].result(TIMEOUT)
    assert_clean(cluster)
    with pytest.raises(FunctionFailedError, match="ended is broken"):
        run.result(TIMEOUT)


def test_retry_affects_failed_functions_only(one):
    """Dask would restart running tasks, and recompute existing results."""
    cluster, client = one
    BROKEN.add("one of many")
    door = gate("retry all")
    run = handoff.submit(
        dag_of(
            Function("made", identity, extra_args=[1], cost={"cpu": 0.5}),
            Function("broken", unless_broken, extra_args=["one of many"], max_retries=0, cost={"cpu": 0.5}),
            Function("held", pass_gate, extra_args=["retry all", 3], cost={"cpu": 0.5}),
        ),
        client,
        fail_fast=False,
    )
    door.await_inside(1)
    until(lambda: [run.records[id].status for id in ("made", "broken")] == ["finished", "failed"])
    client.retry(list(run.futures.values()))
    until(lambda: len(run.records["broken"].attempts) == 2)
    door.open()
    assert run.wait(TIMEOUT)
    client.retry(list(run.futures.values()))
    with pytest.raises(handoff.RunEndedError, match="'broken'"):
        run.futures["broken"].result(TIMEOUT)
    assert run.results.gather() == {"made": 1, "held": 3}
    assert [len(record.attempts) for record in run.records.values()] == [1, 2, 1]
    assert_clean(cluster)


# client.cancel


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("which", ["first", "second", "third"])
def test_cancel_of_a_waiting_or_running_function(one, force, which):
    cluster, client = one
    door = gate(f"cancel {which}")
    run = handoff.submit(
        dag_of(
            Function("first", pass_gate, extra_args=[f"cancel {which}"], cost={"cpu": 1}),
            Function("second", identity, args=["first"], cost={"cpu": 1}),
            Function("third", identity, args=["second"], cost={"cpu": 1}),
        ),
        client,
    )
    door.await_inside(1)
    client.cancel(run.futures[which], force=force)
    assert run.wait(TIMEOUT)
    assert run.status == "cancelled"
    assert not handoff.resources_available("a", {"cpu": 1}, client)  # its thread keeps running
    with pytest.raises(RunCancelledError, match="cancelled"):
        run.result(TIMEOUT)
    door.open()
    until(lambda: handoff.resources_available("a", {"cpu": 1}, client))
    assert_clean(cluster)
    assert handoff.execute(dag_of(Function("f", identity, extra_args=[1])), client)["f"] == 1


@pytest.mark.parametrize("force", [False, True])
def test_cancel_of_the_only_function_while_it_runs(one, force):
    cluster, client = one
    door = gate("cancel only")
    run = handoff.submit(
        dag_of(Function("f", pass_gate, extra_args=["cancel only"], cost={"cpu": 1})), client
    )
    door.await_inside(1)
    client.cancel(run.futures["f"], force=force)
    client.cancel(run.futures["f"], force=force)
    assert not handoff.resources_available("a", {"cpu": 1}, client)
    door.open()
    assert run.wait(TIMEOUT)
    with pytest.raises(RunCancelledError, match="cancelled"):
        run.result(TIMEOUT)
    assert_clean(cluster)


@pytest.mark.parametrize("force", [False, True])
def test_cancel_of_a_finished_function_with_dependents(one, force):
    cluster, client = one
    door = gate("cancel finished")
    run = handoff.submit(
        dag_of(
            Function("made", identity, extra_args=[5], cost={"cpu": 0.5}),
            Function("held", pass_gate, extra_args=["cancel finished", 2], cost={"cpu": 0.5}),
            Function("sum", add, args=["made", "held"]),
        ),
        client,
    )
    door.await_inside(1)
    until(lambda: run.records["made"].status == "finished")
    client.cancel(run.futures["made"], force=force)
    assert run.wait(TIMEOUT)
    with pytest.raises(RunCancelledError, match="cancelled"):
        run.result(TIMEOUT)
    door.open()
    assert_clean(cluster)


@pytest.mark.parametrize("force", [False, True])
def test_cancel_of_a_function_whose_dependents_are_not_kept(one, force):
    """Dask's handler raises on dependents that no client wants, which breaks the client's connection."""
    cluster, client = one
    door = gate("cancel unkept")
    run = handoff.submit(
        dag_of(
            Function("first", pass_gate, extra_args=["cancel unkept"]),
            Function("between", identity, args=["first"]),
            Function("last", identity, args=["between"]),
        ),
        client,
        keep=["first", "last"],
    )
    door.await_inside(1)
    client.cancel(run.futures["first"], force=force)
    assert run.wait(TIMEOUT)
    with pytest.raises(RunCancelledError, match="cancelled"):
        run.result(TIMEOUT)
    door.open()
    assert_clean(cluster)


@pytest.mark.parametrize("force", [False, True])
def test_cancel_by_another_client(one, other, force):
    """Without force, another client releases only its own future."""
    cluster, client = one
    door = gate("another client")
    run = handoff.submit(
        dag_of(
            Function("held", pass_gate, extra_args=["another client", 1], cost={"cpu": 1}),
            Function("next", identity, args=["held"], cost={"cpu": 1}),
        ),
        client,
    )
    door.await_inside(1)
    shared = Variable("shared", client=client)
    shared.set(run.futures["next"])
    elsewhere = Variable("shared", client=other).get()
    other.cancel(elsewhere, force=force)
    assert elsewhere.cancelled()
    until(lambda: run.done() == force)
    door.open()
    assert run.wait(TIMEOUT)
    if force:
        assert run.futures["next"].cancelled()
        with pytest.raises(RunCancelledError):
            run.result(TIMEOUT)
    else:
        assert run.result(TIMEOUT)["next"] == 1
    shared.delete()
    assert_clean(cluster)


def test_cancel_of_a_future_of_a_finished_run(one):
    _, client = one
    run = handoff.submit(dag_of(*(Function(i, identity, extra_args=[i]) for i in range(2))), client)
    assert run.wait(TIMEOUT)
    client.cancel(run.futures[0])
    with pytest.raises(RunCancelledError, match="future of function 0 was cancelled"):
        run.result(TIMEOUT)
    assert run.results[1] == 1
    with pytest.raises(KeyError, match="cancelled"):
        run.results[0]


def test_external_tasks_that_depend_on_functions_of_a_cancelled_run(one, other):
    """They fail instead of waiting forever for functions that will not be placed."""
    cluster, client = one
    door = gate("dependent task")
    run = handoff.submit(
        dag_of(
            Function("held", pass_gate, extra_args=["dependent task"], cost={"cpu": 1}),
            Function("ready", identity, extra_args=[1], cost={"cpu": 1}),
            Function("waiting", identity, args=["held"], cost={"cpu": 1}),
        ),
        client,
    )
    door.await_inside(1)
    until(lambda: run.records["ready"].status == "ready")
    tasks = [client.submit(identity, run.futures[id]) for id in ("ready", "waiting")]
    keys = {task.key for task in tasks}
    until(lambda: keys <= set(cluster.scheduler.tasks))
    shared = Variable("shared", client=client)
    shared.set(run.futures["ready"])
    elsewhere = Variable("shared", client=other).get()
    assert run.cancel()
    with pytest.raises(handoff.RunEndedError, match=r"'ready'.*was cancelled"):
        tasks[0].result(TIMEOUT)
    with pytest.raises(handoff.RunEndedError, match=r"'ready'.*was cancelled"):
        elsewhere.result(TIMEOUT)
    door.open()
    with pytest.raises(handoff.RunEndedError, match=r"'waiting'.*was cancelled"):
        tasks[1].result(TIMEOUT)
    shared.delete()
    del tasks, elsewhere
    assert_clean(cluster)


def test_a_function_of_a_cancelled_run_whose_node_is_lost(two, other):
    """Its futures fail on all clients, instead of waiting for a function that will not run again."""
    cluster, client = two
    door = gate("cancelled and lost")
    run = handoff.submit(dag_of(Function("f", pass_gate, extra_args=["cancelled and lost"])), client)
    door.await_inside(1)
    future = run.futures["f"]
    shared = Variable("shared", client=client)
    shared.set(future)
    elsewhere = Variable("shared", client=other).get()
    assert run.cancel()
    address = cluster.workers[run.allocations["f"]].address
    cluster.sync(cluster.scheduler.remove_worker, address, stimulus_id="test", close=False)
    with pytest.raises(handoff.RunEndedError, match=r"'f'.*was cancelled"):
        elsewhere.result(TIMEOUT)
    with pytest.raises((handoff.RunEndedError, CancelledError)):
        future.result(TIMEOUT)
    door.open()
    shared.delete()
    del future, elsewhere
    assert_clean(cluster)


# futures released while the run waits at a gate


@pytest.mark.parametrize("how", ["release", "del"])
@pytest.mark.parametrize("which", ["held", "ready", "after", "made"])
def test_release_of_a_future(one, how, which):
    """A function whose result is no longer needed does not run; all others do."""
    cluster, client = one
    door = gate("released")
    run = handoff.submit(
        dag_of(
            Function("made", identity, extra_args=[3], cost={"cpu": 0.5}),
            Function("held", pass_gate, extra_args=["released", 1], cost={"cpu": 1}, priority=-1),
            Function("ready", identity, extra_args=[1], cost={"cpu": 1}, priority=-2),
            Function("after", identity, args=["held"], cost={"cpu": 1}),
        ),
        client,
    )
    door.await_inside(1)
    if how == "release":
        run.futures[which].release()
    else:
        del run.futures[which]
    cancels = which in ("ready", "after")  # not needed, and not started
    until(lambda: run.done() == cancels)
    door.open()
    assert run.wait(TIMEOUT)
    if cancels:
        with pytest.raises(RunCancelledError, match="released"):
            run.result(TIMEOUT)
    elif how == "release":
        with pytest.raises(
            RunCancelledError, match=f"future of function '{which}' was cancelled or released"
        ):
            run.result(TIMEOUT)
    else:
        assert set(run.result(TIMEOUT).results) == {"made", "held", "ready", "after"} - {which}
    assert_clean(cluster)


# restart


@pytest.mark.parametrize("how", [pytest.param("client", marks=pytest.mark.slow), "scheduler"])
def test_restart_while_functions_run_and_wait(how):
    with (
        handoff.local_cluster({"a": {"cpu": 1}}, processes=True) as cluster,
        Client(cluster, set_as_default=False) as client,
        Client(cluster, set_as_default=False) as other,
    ):
        functions = [Function(i, time.sleep, extra_args=[60], cost={"cpu": 1}) for i in range(2)]
        runs = [handoff.submit(dag_of(*functions), c) for c in (client, other)]
        until(runs_on(runs[0], 0))
        until(lambda: len(cluster.scheduler.tasks) == 4)  # graphs and restarts use different connections
        if how == "client":
            client.restart(timeout=60)
        else:
            cluster.sync(cluster.scheduler.restart, stimulus_id="test")
        for run in runs:
            assert run.wait(TIMEOUT)
            assert run.status == "cancelled"
            with pytest.raises(RunCancelledError, match="restarted"):
                run.result(TIMEOUT)
        until(lambda: handoff.discover_nodes(client))
        for c in (client, other):
            assert (
                handoff.execute(dag_of(Function("f", identity, extra_args=[1])), c, wait_for_nodes=20)["f"]
                == 1
            )
        del runs, run
        settle(cluster)


# Worker.set_resources


async def set_resources(dask_worker, **resources):
    await dask_worker.set_resources(**resources)


def set_on(client, cluster, node, **resources):
    client.run(set_resources, workers=[cluster.workers[node].address], **resources)


def test_a_new_resource_is_available_at_once(two):
    cluster, client = two
    run = handoff.submit(
        dag_of(Function("f", identity, extra_args=[1], cost={"licence": 1})), client, wait_for_nodes=60
    )
    assert run.status == "pending"
    set_on(client, cluster, "a", licence=2)
    assert handoff.discover_nodes(client)["a"]["licence"] == 2
    assert run.result(TIMEOUT).allocations == {"f": "a"}
    assert cluster.scheduler.workers[cluster.workers["a"].address].used_resources["licence"] == 0


def test_a_resource_is_lowered_while_functions_hold_it(two):
    """Running functions continue. Waiting functions go to another node, or fail clearly if there is none."""
    cluster, client = two
    door = gate("lowered")
    run = handoff.submit(
        dag_of(
            Function("held", pass_gate, extra_args=["lowered", 1], cost={"slot": 1}, node="a"),
            Function("next", identity, extra_args=[2], cost={"slot": 1}),
            Function("pinned", identity, extra_args=[2], cost={"slot": 1}, node="a"),
        ),
        client,
        fail_fast=False,
    )
    door.await_inside(1)
    set_on(client, cluster, "a", slot=0)
    assert "slot" not in handoff.discover_nodes(client)["a"]
    ws = cluster.scheduler.workers[cluster.workers["a"].address]
    assert ws.used_resources["slot"] == 1
    door.open()
    with pytest.raises(AllocationError, match="slot 1") as caught:
        run.result(TIMEOUT)
    assert [s.function_ids for s in caught.value.shortfalls] == [("pinned",)]
    assert run.results["held"] == 1
    assert run.allocations["next"] == "b"
    del caught
    set_on(client, cluster, "a", slot=1)
    again = dag_of(Function("f", identity, extra_args=[1], cost={"slot": 1}, node="a"))
    assert handoff.execute(again, client).allocations == {"f": "a"}
    assert_clean(cluster)
    assert ws.used_resources["slot"] == 0


def test_retry_of_a_function_once_a_node_has_its_resource_again(two):
    cluster, client = two
    first, last = gate("before"), gate("beside")
    run = handoff.submit(
        dag_of(
            Function("first", pass_gate, extra_args=["before", 2]),
            Function("f", identity, args=["first"], cost={"slot": 1}),
            Function("last", pass_gate, extra_args=["beside", 1]),
        ),
        client,
        fail_fast=False,
    )
    last.await_inside(1)
    for node in "ab":
        set_on(client, cluster, node, slot=0)
    first.open()
    until(lambda: run.records["f"].status == "failed")
    set_on(client, cluster, "b", slot=1)
    client.retry(run.futures["f"])
    until(lambda: run.records["f"].status == "finished")
    last.open()
    assert run.result(TIMEOUT).results == {"first": 2, "f": 2, "last": 1}


@pytest.mark.parametrize("stealing", [True, False])
def test_a_function_that_waits_on_a_worker_for_a_removed_resource_is_recalled(stealing, request):
    """The function was in transit when the worker's resources changed."""
    with dask.config.set({"distributed.scheduler.work-stealing": stealing}):
        cluster, client = request.getfixturevalue("two")
    handoff.discover_nodes(client)
    worker = cluster.workers["a"]
    cluster.sync(lower, worker, "slot")  # the scheduler does not know yet
    dag = dag_of(
        Function("f", identity, extra_args=[1], cost={"slot": 1}), Function("g", identity, args=["f"])
    )
    run = handoff.submit(dag, client, allocation_strategy="first_available")
    until(lambda: any(ts.state == "constrained" for ts in worker.state.tasks.values()))
    set_on(client, cluster, "a", slot=0)
    result = run.result(TIMEOUT)
    assert result.allocations["f"] == "b"
    assert [a.outcome for a in result.records["f"].attempts] == ["finished"]
    run = None
    assert_clean(cluster)


@pytest.mark.parametrize("amount", [-1, float("nan"), float("inf")])
def test_a_resource_set_to_an_invalid_amount_is_ignored(two, amount):
    cluster, client = two
    handoff.discover_nodes(client)
    set_on(client, cluster, "a", slot=amount)
    assert "slot" not in handoff.discover_nodes(client)["a"]
    dag = dag_of(Function("f", identity, extra_args=[1], cost={"slot": 1}))
    assert handoff.execute(dag, client, allocation_strategy="first_available").allocations == {"f": "b"}


async def lower(worker, resource):
    worker.state.available_resources[resource] = worker.state.total_resources[resource] = 0


def test_resources_change_while_external_tasks_hold_them(two):
    cluster, client = two
    handoff.discover_nodes(client)
    door = gate("own")
    task = client.submit(pass_gate, "own", resources={"slot": 1}, workers=["a"], pure=False)
    door.await_inside(1)
    set_on(client, cluster, "a", slot=3)
    assert handoff.resources_available("a", {"slot": 2}, client)
    assert not handoff.resources_available("a", {"slot": 3}, client)
    ws = cluster.scheduler.workers[cluster.workers["a"].address]
    assert ws.used_resources["slot"] == 1
    door.open()
    task.result(TIMEOUT)
    until(lambda: handoff.resources_available("a", {"slot": 3}, client))
    assert ws.used_resources["slot"] == 0


# rebalance, replicate, retire


def test_rebalance_and_replicate_move_results_without_rerunning_functions(two):
    _, client = two
    door = gate("rebalanced")
    run = handoff.submit(
        dag_of(
            *(Function(i, identity, extra_args=[i], node="a") for i in range(8)),
            Function("held", pass_gate, extra_args=["rebalanced", 1], cost={"cpu": 1}, node="b"),
            Function("sum", add, args=[*range(8), "held"], cost={"cpu": 1}),
        ),
        client,
    )
    door.await_inside(1)
    until(lambda: all(run.records[i].status == "finished" for i in range(8)))
    futures = [run.futures[i] for i in range(8)]
    client.replicate(futures, n=2)
    assert all(len(workers) == 2 for workers in client.who_has(futures).values())
    client.replicate(futures, n=1)
    client.rebalance(futures)
    door.open()
    assert run.result(TIMEOUT)["sum"] == sum(range(8)) + 1
    assert all(len(record.attempts) == 1 for record in run.records.values())


@pytest.mark.parametrize("ends_first", [True, False])
def test_a_worker_retires_while_functions_run_and_wait(two, ends_first):
    """Functions that run there start again on another node, since Dask does not wait for them."""
    cluster, client = two
    door = gate("retired")
    functions = [Function(i, pass_gate, extra_args=["retired", i], cost={"slot": 1}) for i in range(4)]
    run = handoff.submit(dag_of(*functions), client)
    door.await_inside(2)
    if ends_first:
        door.open()
    client.retire_workers([cluster.workers["b"].address])
    until(lambda: "b" not in handoff.discover_nodes(client))
    door.open()
    result = run.result(TIMEOUT)
    assert result.results == {i: i for i in range(4)}
    assert all(r.attempts[-1].outcome == "finished" for r in result.records.values())
    assert_clean(cluster)


# the plugin is removed and installed again


def test_the_plugin_is_removed_while_functions_run_and_wait(two, other):
    cluster, client = two
    door = gate("plugin")
    functions = [
        *(Function(i, pass_gate, extra_args=["plugin", i], cost={"slot": 1}) for i in range(3)),
        Function("after", identity, args=[0], cost={"slot": 1}),
    ]
    run = handoff.submit(dag_of(*functions), client)
    door.await_inside(2)
    task = client.submit(identity, run.futures["after"])
    key = task.key
    until(lambda: key in cluster.scheduler.tasks)
    client.unregister_scheduler_plugin("handoff")
    assert run.wait(TIMEOUT)
    with pytest.raises(RunCancelledError, match="plugin was removed"):
        run.result(TIMEOUT)
    with pytest.raises(handoff.RunEndedError, match="'after'"):
        task.result(TIMEOUT)
    # Installed again, the plugin takes the functions that still run into account.
    again = handoff.submit(dag_of(Function("f", identity, extra_args=[1], cost={"slot": 1})), other)
    until(lambda: "slot free (needs 1)" in again.explain("f"))
    door.open()
    assert again.result(TIMEOUT)["f"] == 1
    del task
    assert_clean(cluster)


def test_results_outlive_the_plugin(two):
    """Dask recomputes them if they are lost."""
    cluster, client = two
    run = handoff.submit(dag_of(Function("f", identity, extra_args=[1], cost={"slot": 1}, node="a")), client)
    assert run.wait(TIMEOUT)
    client.unregister_scheduler_plugin("handoff")
    cluster.sync(cluster.workers["a"].close)
    assert run.futures["f"].result(TIMEOUT) == 1
