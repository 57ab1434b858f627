"""The first use of a cluster: by several threads or clients at once, and while workers join and leave."""

from __future__ import annotations

import asyncio
import threading

import pytest
from distributed import Client, Worker, secede, worker_client
from helpers import add, dag_of, gate, identity, pass_gate, plugin_of, settle, until

import handoff_dask as handoff
from handoff_dask import Function
from handoff_dask._adapter import membership
from handoff_dask._adapter.messages import RUN_RELEASED
from handoff_dask._client.session import resolve_client
from handoff_dask.preload import dask_setup


@pytest.fixture
def cluster():
    """A new cluster, on which the plugin is not installed yet."""
    with handoff.local_cluster({"a": {"cpu": 2}, "b": {"cpu": 2}}) as cluster:
        yield cluster


def dag(id="first"):
    return dag_of(
        Function("x", identity, extra_args=[1], cost={"cpu": 1}),
        Function("y", identity, extra_args=[2], cost={"cpu": 2}),
        Function("z", add, args=["x", "y"], cost={"cpu": 1}),
        id=id,
    )


def on_new_cluster(test):
    """Call a test with a new cluster, on the event loop of that cluster."""

    async def main():
        async with handoff.local_cluster({"a": {"cpu": 2}, "b": {"cpu": 2}}, asynchronous=True) as cluster:
            await asyncio.wait_for(test(cluster), 30)

    def run():
        asyncio.run(main())

    run.__name__ = test.__name__
    return run


def check_nodes(cluster):
    """Check that the nodes are exactly the workers."""
    plugin = plugin_of(cluster)
    scheduler = cluster.scheduler
    until(lambda: set(plugin.state.nodes) == set(scheduler.aliases), what="nodes and workers differ")


def test_several_threads_at_once(cluster):
    answers = {}
    with Client(cluster, set_as_default=False) as client:
        start = threading.Barrier(4)

        def work(number):
            start.wait()
            answers[number] = handoff.execute(dag(number), client)["z"]

        threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert answers == dict.fromkeys(range(4), 3)
        check_nodes(cluster)
    settle(cluster)


def test_several_clients_at_once(cluster):
    answers = {}
    start = threading.Barrier(3)

    def work(number):
        with Client(cluster, set_as_default=False) as client:
            start.wait()
            answers[number] = handoff.execute(dag(number), client)["z"]

    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers == dict.fromkeys(range(3), 3)
    settle(cluster)


def test_several_threads_share_the_client_of_an_address(cluster):
    made = []
    start = threading.Barrier(8)

    def work():
        start.wait()
        made.append(resolve_client(cluster.scheduler_address, reuse=True))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    with made[0][0] as client:
        assert made == [(client, False)] * 8
        assert set(cluster.scheduler.clients) - {"fire-and-forget"} == {client.id}
    with resolve_client(cluster.scheduler_address, reuse=True)[0] as other:
        assert other is not client
        assert other.status == "running"


@on_new_cluster
async def test_several_runs_of_an_asynchronous_client(cluster):
    async with Client(cluster, asynchronous=True, set_as_default=False) as client:
        results = await asyncio.wait_for(
            asyncio.gather(*(handoff.execute(dag(n), client) for n in range(4))), 20
        )
        assert [r["z"] for r in results] == [3] * 4


@on_new_cluster
async def test_while_a_preload_installs_the_plugin(cluster):
    async with Client(cluster, asynchronous=True, set_as_default=False) as client:
        installing = [dask_setup(cluster.scheduler) for _ in range(3)]
        running = [handoff.execute(dag(n), client) for n in range(2)]
        *_, one, two = await asyncio.wait_for(asyncio.gather(*installing, *running), 20)
        assert one["z"] == two["z"] == 3
        # The plugin that handles requests is the one that Dask has registered.
        plugin = plugin_of(cluster)
        handler = cluster.scheduler.handlers["handoff_prepare"]
        assert handler.__self__._plugin is plugin


@on_new_cluster
async def test_a_worker_joins_and_another_leaves_while_the_plugin_is_installed(cluster):
    scheduler = cluster.scheduler
    async with Client(cluster, asynchronous=True, set_as_default=False) as client:
        running = asyncio.ensure_future(handoff.execute(dag(), client))
        while RUN_RELEASED not in scheduler.stream_handlers:
            await asyncio.sleep(0)
        leaving = scheduler.aliases["b"]
        removing = asyncio.ensure_future(scheduler.remove_worker(leaving, stimulus_id="test", close=True))
        async with Worker(scheduler.address, name="c", nthreads=2, resources={"cpu": 2}, dashboard=False):
            assert (await asyncio.wait_for(running, 20))["z"] == 3
            await removing
            plugin = plugin_of(cluster)
            await plugin.membership.settled()
            assert set(plugin.state.nodes) == set(scheduler.aliases) == {"a", "c"}


def test_external_tasks_that_end_meanwhile_hold_no_resources(cluster):
    door = gate("charged")
    with Client(cluster, set_as_default=False) as client:
        tasks = [client.submit(pass_gate, "charged", n, resources={"cpu": 1}, pure=False) for n in range(3)]
        door.await_inside(3)
        # The tasks end on the event loop while the plugin is being installed.
        running = threading.Thread(target=lambda: handoff.execute(dag(), client), daemon=True)
        running.start()
        door.open()
        running.join(20)
        client.gather(tasks)
        until(lambda: not any(any(n.used.values()) for n in plugin_of(cluster).state.nodes.values()))
        assert handoff.execute(dag(), client)["z"] == 3


def test_a_placement_on_a_worker_that_has_just_left_does_not_fail_runs(cluster):
    with Client(cluster, set_as_default=False) as client:
        handoff.execute(dag(), client)
        plugin, scheduler = plugin_of(cluster), cluster.scheduler
        decide = plugin.state.decide
        gone = []

        def decide_and_lose(now):
            decisions = decide(now)
            placed = [d for d in decisions if hasattr(d, "node")]
            if placed and not gone:
                gone.append(placed[0].node.name)
                # As if the hook for a worker that leaves had raised an exception: the core does not know yet.
                scheduler.aliases.pop(placed[0].node.name)
            return decisions

        plugin.state.decide = decide_and_lose
        try:
            assert handoff.execute(dag(), client)["z"] == 3
        finally:
            plugin.state.decide = decide
        (name,) = gone
        assert name not in plugin.state.nodes
        address = next(a for a, ws in scheduler.workers.items() if ws.name == name)
        scheduler.aliases[name] = address


def nested(value):
    with worker_client() as client:
        return handoff.execute(dag(), client)["z"] + value


def test_nested_first_use_by_several_functions():
    """The first function creates the worker's client; others may get it before it is fully connected."""
    functions = [Function(n, nested, extra_args=[n], cost={"cpu": 1}, node="a") for n in range(3)]
    with (
        handoff.local_cluster({"a": {"cpu": 3}, "b": {"cpu": 2}}, processes=True) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        assert handoff.execute(dag_of(*functions, id="outer"), client).results == {0: 3, 1: 4, 2: 5}


def perhaps_secede(door):
    if door is not None:
        pass_gate(f"{door} entered")
        secede()  # as worker_client does
        pass_gate(door)
    return door


def test_a_prefetched_function_does_not_wait_behind_a_function_that_has_seceded():
    nodes = {"a": {"cpu": 1}, "b": {"cpu": 1}}
    entered, door, other = gate("recall entered"), gate("recall"), gate("recall b")
    with handoff.local_cluster(nodes) as cluster, Client(cluster, set_as_default=False) as client:
        short = [("waits", perhaps_secede, [None]), ("later", identity, [1])]
        handoff.execute(dag_of(*[Function(i, code, extra_args=args) for i, code, args in short]), client)
        durations = plugin_of(cluster).state.placement.estimates
        for seen in durations._seen.values():  # however slow this machine was
            seen.most = 0.001
        dag = dag_of(
            Function("held", pass_gate, extra_args=["recall b"], cost={"cpu": 1}, node="b"),
            Function("waits", perhaps_secede, extra_args=["recall"], cost={"cpu": 1}, node="a"),
        )
        run = handoff.submit(dag, client)
        entered.await_inside(1)
        other.await_inside(1)
        later = handoff.submit(dag_of(Function("later", identity, extra_args=[2], cost={"cpu": 1})), client)
        node = plugin_of(cluster).state.nodes["a"]
        until(lambda: node.prefetched)
        entered.open()
        until(lambda: not node.prefetched)
        other.open()
        result = later.result(20)
        assert result.allocations == {"later": "b"}
        assert len(result.records["later"].attempts) == 1
        door.open()
        run.result(20)
        del run, later
        settle(cluster)


def test_several_placements_on_a_worker_that_has_just_left(cluster):
    with Client(cluster, set_as_default=False) as client:
        handoff.execute(dag(), client)
        plugin, scheduler = plugin_of(cluster), cluster.scheduler
        decide = plugin.state.decide
        gone = {}

        def decide_and_lose(now):
            decisions = decide(now)
            if not gone and any(getattr(getattr(d, "node", None), "name", None) == "a" for d in decisions):
                gone["a"] = scheduler.aliases.pop("a")
            return decisions

        plugin.state.decide = decide_and_lose
        try:
            wide = dag_of(*[Function(n, identity, extra_args=[n], cost={"cpu": 1}) for n in range(8)])
            result = handoff.execute(wide, client)
        finally:
            plugin.state.decide = decide
            scheduler.aliases.update(gone)
        assert gone
        assert set(result.allocations.values()) == {"b"}
        assert all(len(record.attempts) == 1 for record in result.records.values())


def test_a_worker_that_is_unreachable_at_first_becomes_a_node(cluster, monkeypatch):
    scheduler = cluster.scheduler
    rpc, refused = scheduler.rpc, []

    class Unreachable:
        async def run(self, **message):
            raise OSError("busy")

    def unreachable_once(address):
        if len(refused) < 2:
            refused.append(address)
            return Unreachable()
        return rpc(address)

    monkeypatch.setattr(scheduler, "rpc", unreachable_once)
    monkeypatch.setattr(membership, "PROBE_PAUSE", 0.01)
    with Client(cluster, set_as_default=False) as client:
        assert set(handoff.discover_nodes(client)) == {"a", "b"}
    assert len(refused) == 2
