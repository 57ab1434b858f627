"""``Run``: state and results during and after a run, lost handles, several clients, asynchronous clients."""

from __future__ import annotations

import asyncio
import gc
import time
from statistics import median

import pytest
from distributed import Client
from helpers import add, dag_of, gate, identity, pass_gate, plugin_of, until

import handoff_dask as handoff
from handoff_dask import Function, RunCancelledError
from handoff_dask._adapter.keep_alive import KEEP_ALIVE


def two_steps(name, cost=None):
    return dag_of(
        Function("held", pass_gate, extra_args=[name, 1], cost=cost),
        Function("after", add, args=["held"]),
        id=name,
    )


def test_a_running_run_can_be_inspected(client):
    door = gate("look")
    run = handoff.submit(two_steps("look"), client)
    door.await_inside(1)
    assert run.status == "running"
    assert not run.done()
    assert not run.wait(timeout=0.05)
    with pytest.raises(TimeoutError, match=r"has not ended within 0\.05 s"):
        run.result(timeout=0.05)
    assert dict(run.results) == {}
    assert "held" not in run.results
    with pytest.raises(KeyError, match="its future is pending"):
        run.results["held"]
    assert run.allocations.keys() == {"held"}
    record = run.records["held"]
    assert (record.status, record.attempts[0].outcome) == ("running", "running")
    assert "running" in repr(run)
    assert run.id in run._repr_html_()
    door.open()
    assert run.wait(timeout=20)
    assert run.result().results == {"held": 1, "after": 1}
    assert run.status == "finished"
    assert run.results["after"] == 1
    assert run.results.gather() == {"held": 1, "after": 1}
    assert run.futures["after"].result() == 1


def test_the_repr_of_results_fetches_nothing(client):
    run = handoff.submit(dag_of(Function("f", identity, extra_args=["x"])), client)
    run.wait()
    assert repr(run.results) == f"<results of 1 of 1 function of run {run.id}>"


def test_futures_of_a_run_can_be_arguments_of_dask_tasks(client):
    run = handoff.submit(dag_of(Function("f", identity, extra_args=[20])), client)
    assert client.submit(add, run.futures["f"], 1).result() == 21


def test_a_finished_run_without_handles_leaves_nothing_behind(client, cluster):
    run = handoff.submit(dag_of(Function("f", identity, extra_args=[1])), client)
    run.result()
    assert run.id in plugin_of(cluster).runs
    name = run.id
    del run
    gc.collect()
    until(lambda: name not in plugin_of(cluster).runs)
    assert not [key for key in cluster.scheduler.tasks if name in key[0]]


def test_releasing_the_handles_of_a_running_run_cancels_it(client, cluster):
    door = gate("dropped")
    run = handoff.submit(two_steps("dropped"), client)
    door.await_inside(1)
    name = run.id
    del run
    gc.collect()
    state = plugin_of(cluster).state
    until(lambda: state.runs[name].ended)
    until(lambda: [f.state.value for f in state.runs[name].functions] == ["running", "cancelled"])
    door.open()
    until(lambda: name not in plugin_of(cluster).runs)


def close(client):
    client.close()


def vanish(client):
    """Break the connection without notifying the scheduler, as if the client's process had died."""
    client.sync(client.scheduler_comm.comm.close)


@pytest.mark.parametrize("leave", [close, vanish])
def test_functions_of_a_lost_client_hold_their_allocation_until_they_end(cluster, client, leave, monkeypatch):
    handoff.discover_nodes(client)
    monkeypatch.setattr(plugin_of(cluster).disconnected, "_grace", 0)
    door = gate("closing")
    dag = dag_of(
        Function("running", pass_gate, extra_args=["closing"], cost={"gpu": 1}),
        Function("waiting", identity, extra_args=[1], cost={"gpu": 1}),
        Function("after", identity, args=["running"]),
    )
    with Client(cluster, set_as_default=False) as other:
        run = handoff.submit(dag, other)
        door.await_inside(1)
        number_of_tasks = len(cluster.scheduler.tasks)
        leave(other)
        until(lambda: len(cluster.scheduler.tasks) < number_of_tasks)
        state = plugin_of(cluster).state
        until(lambda: state.runs[run.id].ended)  # held by "running", the core does not forget it
        states = ["running", "cancelled", "cancelled"]
        until(lambda: [f.state.value for f in state.runs[run.id].functions] == states)
        assert not handoff.resources_available("node1", {"gpu": 1}, client)
        later = handoff.submit(dag_of(Function("later", identity, extra_args=[2], cost={"gpu": 1})), client)
        until(lambda: "gpu" in later.explain("later"))
        assert not later.done()
        door.open()
        assert later.result(20).results == {"later": 2}
        until(lambda: run.id not in plugin_of(cluster).runs)
        assert not [key for key in cluster.scheduler.tasks if run.id in key[0]]
        until(lambda: not cluster.scheduler.clients[KEEP_ALIVE].wants_what)


def test_closing_a_client_cancels_its_runs(cluster):
    door = gate("closed")
    client = Client(cluster, set_as_default=False)
    run = handoff.submit(two_steps("closed"), client)
    door.await_inside(1)
    client.close()
    assert run.status == "cancelled"
    assert run.done()
    door.open()
    until(lambda: not plugin_of(cluster).runs)


@pytest.mark.parametrize("force", [False, True])
def test_cancelling_futures_cancels_the_run_but_holds_running_allocations(cluster, client, force):
    door = gate("futures")
    run = handoff.submit(two_steps("futures", cost={"gpu": 1}), client)
    door.await_inside(1)
    client.cancel(list(run.futures.values()), force=force)
    assert run.wait(20)
    assert run.status == "cancelled"
    assert all(future.cancelled() for future in run.futures.values())
    assert not handoff.resources_available("node1", {"gpu": 1}, client)
    door.open()
    until(lambda: handoff.resources_available("node1", {"gpu": 1}, client))


def test_runs_of_several_clients_do_not_mix(cluster):
    with Client(cluster, set_as_default=False) as one, Client(cluster, set_as_default=False) as two:
        runs = [
            handoff.submit(dag_of(Function("f", identity, extra_args=[(i, k)]), id="same"), client)
            for k in range(5)
            for i, client in enumerate((one, two))
        ]
        values = [run.result()["f"] for run in runs]
    assert values == [(i, k) for k in range(5) for i in range(2)]


def test_external_tasks_run_undisturbed(client):
    door = gate("mixed")
    run = handoff.submit(two_steps("mixed"), client)
    door.await_inside(1)
    squares = client.map(lambda x: x**2, range(50), pure=False)
    assert client.gather(squares) == [x**2 for x in range(50)]
    limited = client.submit(identity, "gpu", resources={"gpu": 1}, pure=False)
    assert limited.result(timeout=20) == "gpu"
    door.open()
    run.result()


# ---------------------------------------------------------------------- asynchronous clients


def run_asynchronously(test):
    """Run a coroutine test with an asynchronous client of a new cluster."""

    async def main():
        nodes = {"node1": {"cpu": 4, "memory": 8192, "gpu": 1}, "node2": {"cpu": 2, "memory": 4096}}
        async with (
            handoff.local_cluster(nodes, asynchronous=True) as cluster,
            Client(cluster, asynchronous=True, set_as_default=False) as client,
        ):
            await test(client, cluster)

    asyncio.run(main())


def test_await_execute_and_submit():
    async def test(client, cluster):
        dag = dag_of(Function("a", identity, extra_args=[1]), Function("b", add, args=["a", "a"]))
        result = await handoff.execute(dag, client)
        assert result.results == {"a": 1, "b": 2}
        run = handoff.submit(dag, client)
        assert run.status == "submitting"
        assert (await run).results == {"a": 1, "b": 2}
        assert (await run.result()).allocations == await run.allocations
        assert await run.wait()
        assert (await run.records)["b"].status == "finished"
        assert await run.results["b"] == 2
        assert await run.results.gather() == {"a": 1, "b": 2}
        assert (await handoff.discover_nodes(client))["node2"] == {"cpu": 2, "memory": 4096}
        assert await handoff.resources_available("node1", {"gpu": 1}, client)
        assert not await run.cancel()

    run_asynchronously(test)


def fail():
    raise ValueError("async")


def test_errors_of_asynchronous_runs():
    async def test(client, cluster):
        with pytest.raises(handoff.FunctionFailedError) as caught:
            await handoff.execute(dag_of(Function("f", fail)), client, max_retries=0)
        assert isinstance(caught.value.__cause__, ValueError)
        run = handoff.submit(dag_of(Function("f", fail, cost={"gpu": 9})), client)
        with pytest.raises(handoff.AllocationError):
            await run
        with pytest.raises(handoff.InvalidDAGError):
            handoff.submit(dag_of(Function("f", fail, args=["nothing"])), client)
        door = gate("async")
        run = handoff.submit(two_steps("async"), client)
        with pytest.raises(TimeoutError):
            await run.result(timeout=0.1)
        assert await run.cancel()
        door.open()
        with pytest.raises(handoff.RunCancelledError):
            await run
        door = gate("late")
        with pytest.raises(handoff.RunTimeoutError):
            await handoff.execute(two_steps("late"), client, timeout=0.1)
        door.open()

    run_asynchronously(test)


def test_cancelling_the_awaiting_task_cancels_the_run():
    async def test(client, cluster):
        door = gate("task")
        task = asyncio.ensure_future(handoff.execute(two_steps("task"), client))
        while not door.inside:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        plugin = plugin_of(cluster)
        assert all(run.run.ended for run in plugin.runs.values())
        door.open()

    run_asynchronously(test)


def test_execute_blocks_inside_a_running_event_loop():
    """As in a notebook, whose cells run inside an event loop: the new client has its own loop."""

    async def main():
        with handoff.local_cluster({"node": {"cpu": 1}}) as cluster:
            return handoff.execute(dag_of(Function("f", identity, extra_args=[3])), cluster)["f"]

    assert asyncio.run(main()) == 3


def test_an_asynchronous_cluster_and_a_client_that_is_not_awaited_yet():
    async def main():
        async with handoff.local_cluster({"node": {"cpu": 1}}, asynchronous=True) as cluster:
            dag = dag_of(Function("f", identity, extra_args=[3]))
            assert (await handoff.execute(dag, cluster))["f"] == 3
            client = Client(cluster, asynchronous=True, set_as_default=False)
            assert (await handoff.execute(dag, client))["f"] == 3
            await client.close()

    asyncio.run(main())


def test_results_are_gone_once_their_client_is_closed(cluster):
    client = Client(cluster, set_as_default=False)
    run = handoff.submit(dag_of(Function("f", identity, extra_args=[1])), client)
    run.wait()
    client.close()
    with pytest.raises(handoff.RunCancelledError, match="its results are gone: its client was closed"):
        run.result()


def test_a_large_run_does_not_starve_a_small_one(cluster, client):
    """The small run ends while most functions of the large run, which began earlier, still wait."""
    door = gate("large")
    large = handoff.submit(
        dag_of(
            *[Function(i, pass_gate, extra_args=["large"], cost={"cpu": 2}) for i in range(3)],
            *[Function(i, time.sleep, extra_args=[0.02], cost={"cpu": 2}) for i in range(3, 300)],
        ),
        client,
    )
    door.await_inside(3)
    with Client(cluster, set_as_default=False) as other:
        small = handoff.submit(
            dag_of(*[Function(i, identity, extra_args=[i], cost={"cpu": 2}) for i in range(6)]), other
        )
        door.open()
        last = max(r.started for r in small.result(30).records.values())
    # By the scheduler's order: on a busy machine, this process may learn late that the small run has ended.
    before = sum(r.started < last for r in large.result(60).records.values())
    assert before < 100


def test_priorities_order_runs(cluster, client):
    door = gate("priorities")
    blocker = handoff.submit(
        dag_of(*[Function(i, pass_gate, extra_args=["priorities"], cost={"cpu": 2}) for i in range(3)]),
        client,
    )
    door.await_inside(3)
    runs = {
        priority: handoff.submit(
            dag_of(*[Function(i, time.sleep, extra_args=[0.03], cost={"cpu": 2}) for i in range(9)]),
            client,
            priority=priority,
        )
        for priority in (0, 2, 1)
    }
    until(lambda: sum(f.state.value == "ready" for f in plugin_of(cluster).functions.values()) == 27)
    door.open()
    started = {p: median(r.started for r in run.result(30).records.values()) for p, run in runs.items()}
    blocker.result(30)
    assert started[2] < started[1] < started[0]


def test_a_client_works_again_after_the_plugin_was_removed():
    with handoff.local_cluster({"a": {"cpu": 1}}) as cluster, Client(cluster) as client:
        dag = dag_of(Function("f", identity, extra_args=[1]))
        assert handoff.execute(dag, client)["f"] == 1
        client.unregister_scheduler_plugin("handoff")
        assert plugin_of(cluster) is None
        assert handoff.runs(client) == []
        client.unregister_scheduler_plugin("handoff")
        assert handoff.execute(dag, client)["f"] == 1


def fail_after_gate(name):
    pass_gate(name)
    raise OSError("no luck")


def test_a_run_without_handles_is_not_retried(cluster, client):
    """Its failure does not affect other runs."""
    held, door = gate("innocent"), gate("unwanted")
    innocent = handoff.submit(dag_of(Function("f", pass_gate, extra_args=["innocent", 1])), client)
    run = handoff.submit(
        dag_of(Function("f", fail_after_gate, extra_args=["unwanted"], max_retries=3)), client
    )
    held.await_inside(1)
    door.await_inside(1)
    name = run.id
    run = None
    gc.collect()
    until(lambda: cluster.scheduler.clients[KEEP_ALIVE].wants_what)
    door.open()
    until(lambda: name not in plugin_of(cluster).runs)
    assert door.entered == 1
    held.open()
    assert innocent.result(20)["f"] == 1


def test_restarting_the_cluster_cancels_runs():
    with handoff.local_cluster({"a": {"cpu": 1}}, processes=True) as cluster, Client(cluster) as client:
        run = handoff.submit(dag_of(Function("f", time.sleep, extra_args=[3600], cost={"cpu": 1})), client)
        until(lambda: run.records["f"].status == "running")
        client.restart(timeout=60)
        with pytest.raises(RunCancelledError):
            run.result(20)
        assert handoff.execute(dag_of(Function("f", abs, extra_args=[-1], cost={"cpu": 1})), client)["f"] == 1
        assert not cluster.scheduler.clients[KEEP_ALIVE].wants_what


def test_run_dag_is_the_dag_that_was_submitted(client):
    dag = dag_of(Function("a", identity, extra_args=[1]), id="grows")
    run = handoff.submit(dag, client)
    dag.add_function(Function("b", add, args=["a"], extra_args=[1]))
    assert list(run.dag) == ["a"]
    assert run.dag.id == "grows"
    assert run.result(timeout=30).results == {"a": 1}
    assert handoff.execute(dag, client).results == {"a": 1, "b": 2}
