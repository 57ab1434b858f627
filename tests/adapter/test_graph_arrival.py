"""Runs whose graph has not arrived on the scheduler yet, or never arrives."""

from __future__ import annotations

import asyncio

import dask
import distributed.scheduler
import pytest
from distributed import Client
from helpers import add, dag_of, gate, identity, pass_gate, plugin_of, until

import handoff_dask as handoff
from handoff_dask import Function
from handoff_dask._adapter import compile as compiling


def hold_graphs_back(monkeypatch, client):
    """Delay all graphs on their way to an in-process scheduler until the returned function is called."""
    opened = client.loop.asyncio_loop.create_future()
    offload = distributed.scheduler.offload
    seen = []

    async def wait_and_offload(*args, **kwargs):
        seen.append(args)
        await asyncio.shield(opened)
        return await offload(*args, **kwargs)

    def open_door():
        client.loop.add_callback(lambda: opened.done() or opened.set_result(None))

    monkeypatch.setattr(distributed.scheduler, "offload", wait_and_offload)
    open_door.seen = seen
    return open_door


@pytest.fixture
def door(monkeypatch, client):
    door = hold_graphs_back(monkeypatch, client)
    yield door
    door()


def wide(n=200):
    return dag_of(*[Function(i, identity, extra_args=[i], cost={"cpu": 1}) for i in range(n)])


def is_clean(cluster):
    scheduler, plugin = cluster.scheduler, plugin_of(cluster)
    return not scheduler.unrunnable and not plugin.functions and not scheduler.tasks


def test_cancel_before_the_graph_has_arrived(client, cluster, door):
    run = handoff.submit(wide(), client)
    until(lambda: door.seen)
    assert run.cancel()
    assert run.status == "cancelled"
    futures = dict(run.futures)
    door()
    until(lambda: is_clean(cluster))
    until(lambda: all(future.cancelled() for future in futures.values()))
    assert cluster.scheduler.adaptive_target() == 0
    with pytest.raises(handoff.RunCancelledError):
        run.result(10)
    assert {r.status for r in run.records.values()} == {"cancelled"}
    assert not any(r.attempts for r in run.records.values())


def test_time_out_before_the_graph_has_arrived(client, cluster, door):
    with pytest.raises(handoff.RunTimeoutError):
        handoff.execute(wide(), client, timeout=0.05)
    door()
    until(lambda: not cluster.scheduler._active_graph_updates)
    until(lambda: is_clean(cluster))


def test_a_handle_released_before_the_graph_has_arrived(client, cluster, door):
    run = handoff.submit(wide(), client)
    until(lambda: door.seen)
    del run
    door()
    until(lambda: is_clean(cluster))
    until(lambda: not plugin_of(cluster).runs)


def test_a_client_closed_before_the_graph_has_arrived(cluster, door):
    with Client(cluster, set_as_default=False) as other:
        handoff.submit(wide(), other)
        until(lambda: door.seen)
    door()
    until(lambda: not plugin_of(cluster).runs)
    until(lambda: is_clean(cluster))


def test_the_graph_of_an_unknown_run(client, cluster, door):
    run = handoff.submit(wide(), client)
    until(lambda: door.seen)
    plugin = plugin_of(cluster)
    client.sync(forget, plugin, run.id)
    door()
    until(lambda: all(future.cancelled() for future in run.futures.values()))
    until(lambda: is_clean(cluster))


def test_a_run_that_has_ended_before_the_reply_to_its_registration(client, cluster):
    """As if the connection broke, and the run was cancelled, before the client received the reply."""
    handoff.discover_nodes(client)
    handlers = cluster.scheduler.handlers
    prepare = handlers["handoff_prepare"]

    async def prepare_and_cancel(**message):
        await prepare(**message)
        plugin = plugin_of(cluster)
        plugin._client_gone(message["client"])
        plugin.wake()
        return await prepare(**message)

    handlers["handoff_prepare"] = prepare_and_cancel
    try:
        run = handoff.submit(wide(), client)
    finally:
        handlers["handoff_prepare"] = prepare
    assert run.done()
    assert run.wait(0)
    with pytest.raises(handoff.RunCancelledError):
        run.result(10)
    until(lambda: is_clean(cluster))


async def forget(plugin, run_id):
    plugin.enactor.forget(run_id)


def test_a_graph_that_the_scheduler_cannot_read(client, cluster, monkeypatch):
    def refuse(graph):
        raise ValueError("not here")

    monkeypatch.setattr(compiling.Graph, "__dask_graph__", refuse)
    run = handoff.submit(wide(5), client)
    with pytest.raises(handoff.RunError, match="could not read the graph") as caught:
        run.result(10)
    assert isinstance(caught.value.__cause__, ValueError)
    assert run.done()
    monkeypatch.undo()
    assert handoff.execute(wide(5), client).results == {n: n for n in range(5)}


@pytest.mark.parametrize(
    "ambient",
    [
        {"allow_other_workers": True},
        {"workers": ["node2"]},
        {"workers": ["node2"], "allow_other_workers": True},
        {"resources": {"cpu": 2}},
        {"resources": {"nothing": 1}},
        {"priority": -5},
        {"retries": 7},
        {"handoff": "something"},
    ],
    ids=str,
)
def test_ambient_annotations_do_not_reach_functions(client, cluster, ambient):
    door = gate(str(ambient))
    dag = dag_of(
        *[Function(n, pass_gate, extra_args=[str(ambient), n], cost={"cpu": 1, "gpu": 1}) for n in range(4)],
        Function("sum", add, args=[0, 1, 2, 3]),
    )
    with dask.annotate(**ambient):
        run = handoff.submit(dag, client, max_retries=0)
    door.await_inside(1)
    plugin = plugin_of(cluster)
    tasks = [cluster.scheduler.tasks[key] for key in plugin.runs[run.id].keys]
    assert {ts.retries for ts in tasks} == {0}
    assert len({ts.priority[:2] for ts in tasks}) == 1
    assert not any(ts.loose_restrictions for ts in tasks)
    assert tasks[0].priority[0] == 0
    door.open()
    result = run.result(20)
    assert door.most == 1  # there is one GPU
    assert result["sum"] == 6
    assert {result.allocations[n] for n in range(4)} == {"node1"}
    assert all(len(result.records[n].attempts) == 1 for n in range(4))


def spans_of(cluster, name):
    """Return the spans of a name on the scheduler, which never forgets any."""
    return cluster.scheduler.extensions["spans"].spans_search_by_name[name]


def own_span():
    return dask.get_annotations()["span"]["name"]


def test_each_run_is_a_dask_span(client, cluster):
    dag = dag_of(Function("x", own_span), Function("y", identity, args=["x"]), id="spanned")
    results = [handoff.execute(dag, client) for _ in range(2)]
    assert [result["y"] for result in results] == [("spanned",)] * 2
    first, second = spans_of(cluster, ("spanned",))  # one for each run
    for span in (first, second):
        assert sum(span.states.values()) == 2
        assert len(span.groups) == 2
        assert span.parent is None


def test_the_span_of_a_run_is_inside_the_callers(client, cluster):
    with distributed.span("outer"), distributed.span("mine") as mine:
        result = handoff.execute(dag_of(Function("x", own_span), id="inner"), client)
    assert result["x"] == ("outer", "mine", "inner")
    (span,) = spans_of(cluster, ("outer", "mine", "inner"))
    assert span.parent.id == mine
    assert not spans_of(cluster, ("inner",))


def test_the_span_of_an_asynchronous_run_is_inside_the_callers(cluster):
    async def execute():
        async with Client(cluster.scheduler_address, asynchronous=True, set_as_default=False) as client:
            with distributed.span("asynchronous"):
                run = handoff.submit(dag_of(Function("x", own_span), id="inner"), client)
            return await run

    assert asyncio.run(execute())["x"] == ("asynchronous", "inner")


def test_a_graph_that_is_sent_again_keeps_its_span(client, cluster):
    door = gate("again")
    run = handoff.submit(dag_of(Function("x", pass_gate, extra_args=["again"]), id="resent"), client)
    door.await_inside(1)

    async def send():
        run._submission.send()

    client.sync(send)
    door.open()
    run.result(20)
    assert len(spans_of(cluster, ("resent",))) == 1


@pytest.mark.parametrize("id", [("tuple", 1), 7, "x" * 10_000], ids=["tuple", "number", "long"])
def test_ids_of_dags_that_are_no_short_texts(client, cluster, id):
    (name,) = handoff.execute(dag_of(Function("x", own_span), id=id), client)["x"]
    assert name == (str(id) if len(str(id)) < 100 else "x" * 119 + "…")


def test_a_restart_before_the_graph_has_arrived(monkeypatch):
    """On a private cluster, since its nodes do not come back."""
    with (
        handoff.local_cluster({"a": {"cpu": 1}}) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        door = hold_graphs_back(monkeypatch, client)
        run = handoff.submit(wide(), client)
        until(lambda: door.seen)
        client.sync(cluster.scheduler.restart, stimulus_id="test", timeout=10, wait_for_workers=False)
        with pytest.raises(handoff.RunCancelledError):
            run.result(10)
        door()
        until(lambda: not cluster.scheduler._active_graph_updates)
        until(lambda: is_clean(cluster))
