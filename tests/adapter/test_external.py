"""Resources held by external tasks are not free."""

from __future__ import annotations

import pytest
from distributed import Client, wait
from helpers import dag_of, gate, identity, pass_gate, plugin_of, settle, until

import handoff_dask as handoff
from handoff_dask import Function


@pytest.fixture
def pair():
    nodes = {"a": {"cpu": 4, "slot": 1}, "b": {"cpu": 4, "slot": 1}}
    with handoff.local_cluster(nodes) as cluster, Client(cluster) as client:
        yield cluster, client
    settle(cluster)


def occupy(client, name, node, amount=1):
    """Let an external task hold the slot of a node until its gate is opened."""
    door = gate(name)
    task = client.submit(pass_gate, name, resources={"slot": amount}, workers=[node], pure=False)
    door.await_inside(1)
    return door, task


def one(id):
    return dag_of(Function(id, identity, extra_args=[1], cost={"slot": 1}))


def test_a_function_is_placed_where_no_external_task_holds_its_resource(pair):
    _, client = pair
    handoff.discover_nodes(client)
    door, task = occupy(client, "held a", "a")
    assert not handoff.resources_available("a", {"slot": 1}, client)
    assert handoff.resources_available("a", {"cpu": 4}, client)
    assert handoff.execute(one("x"), client, allocation_strategy="first_available").allocations == {"x": "b"}
    door.open()
    wait(task)
    until(lambda: handoff.resources_available("a", {"slot": 1}, client))
    assert handoff.execute(one("x"), client, allocation_strategy="first_available").allocations == {"x": "a"}


def test_a_function_waits_while_external_tasks_hold_its_resource_everywhere(pair):
    _, client = pair
    handoff.discover_nodes(client)
    doors = [occupy(client, f"all held {node}", node) for node in "ab"]
    run = handoff.submit(one("x"), client)
    until(lambda: "waited" in run.explain("x"))
    assert "node 'a': slot 1 asked, 0 free (1 of 1 used)" in run.explain("x")
    doors[1][0].open()
    assert run.result(timeout=20).allocations == {"x": "b"}
    doors[0][0].open()


def test_tasks_that_started_before_the_plugin_count_too(pair):
    cluster, client = pair
    door, task = occupy(client, "held before", "a")
    assert plugin_of(cluster) is None
    assert not handoff.resources_available("a", {"slot": 1}, client)
    door.open()
    wait(task)
    until(lambda: handoff.resources_available("a", {"slot": 1}, client))


def test_resources_are_freed_when_a_task_is_cancelled_or_its_node_leaves(pair):
    cluster, client = pair
    handoff.discover_nodes(client)
    door, task = occupy(client, "cancelled", "a")
    queued = client.submit(pass_gate, "cancelled", resources={"slot": 1}, workers=["a"], pure=False)
    del queued, task
    door.open()
    until(lambda: handoff.resources_available("a", {"slot": 1}, client))
    door, _task = occupy(client, "gone", "b")
    del cluster.worker_spec["b"]
    door.open()
    cluster.sync(cluster._correct_state)
    until(lambda: "b" not in handoff.discover_nodes(client))
    assert not plugin_of(cluster).external._held
    assert handoff.execute(one("x"), client).allocations == {"x": "a"}


def test_a_stolen_task_takes_its_resources_along(pair):
    """Work stealing moves a task between workers without a transition."""
    cluster, client = pair
    handoff.discover_nodes(client)
    first, held = occupy(client, "victim", "a")
    door = gate("stolen")
    waiting = client.submit(pass_gate, "stolen", resources={"slot": 1}, workers=["a"], pure=False)
    scheduler = cluster.scheduler
    until(lambda: len(scheduler.workers[cluster.workers["a"].address].processing) == 2)
    client.sync(steal, scheduler, waiting.key, cluster.workers["b"].address)
    door.await_inside(1)
    until(lambda: not handoff.resources_available("b", {"slot": 1}, client))
    first.open()
    wait(held)
    until(lambda: handoff.resources_available("a", {"slot": 1}, client))
    door.open()
    wait(waiting)
    until(lambda: handoff.resources_available("b", {"slot": 1}, client))
    assert not plugin_of(cluster).external._held


async def steal(scheduler, key, thief):
    ts = scheduler.tasks[key]
    stealing = scheduler.extensions["stealing"]
    stealing.move_task_request(ts, ts.processing_on, scheduler.workers[thief])
