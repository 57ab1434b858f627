"""Handlers and methods of the scheduler that the plugin replaces."""

from __future__ import annotations

import inspect

from distributed import Client, Scheduler, Status, secede, wait
from helpers import identity, until

from handoff_dask._adapter._dask import hooks, tasks


def fails(*args):
    raise ValueError("on purpose")


def address(cluster, name):
    return cluster.workers[name].address


def test_before_task_erred(client, scheduler, patches, on_loop):
    seen = []

    def callback(**message):
        seen.append((scheduler.tasks[message["key"]].state, set(message)))

    on_loop(hooks.before_task_erred, patches, scheduler, callback)
    wait(client.submit(fails, pure=False))
    ((state, fields),) = seen
    assert state == "processing", "Dask handles the failure before the callback: HandoffPlugin._task_erred"
    missing = {
        "key",
        "worker",
        "run_id",
        "exception",
        "exception_text",
        "traceback_text",
        "startstops",
    } - fields
    assert not missing, f"task-erred lacks {missing}, which HandoffPlugin._task_erred reads"


def test_before_status_change(cluster, seen, on_loop):
    messages = seen(hooks.before_status_change)
    for status in (Status.paused, Status.running):
        on_loop(setattr, cluster.workers["a"], "status", status)
        until(lambda status=status: cluster.scheduler.workers[address(cluster, "a")].status is status)
    reported = [(m["worker"], Status[getattr(m["status"], "name", m["status"])]) for _, m in messages]
    assert reported == [(address(cluster, "a"), s) for s in (Status.paused, Status.running)], (
        "the fields of worker-status-change have changed: Membership.status_changed"
    )


def test_before_long_running(client, seen, scheduler):
    messages = seen(hooks.before_long_running)
    future = client.submit(secede, pure=False)
    wait(future)
    ((_, message),) = messages
    assert message["key"] == future.key, "long-running does not name the task: HandoffPlugin._seceded"
    assert isinstance(message["run_id"], int), "long-running has no run id: HandoffPlugin._seceded"


def test_after_steal_response(client, cluster, scheduler, seen, on_loop, queued):
    messages = seen(hooks.after_steal_response)
    gate, _running, waiting = queued("steal")
    on_loop(tasks.recall, scheduler, address(cluster, "a"), waiting.key, "test")
    until(lambda: messages)
    ((_, message),) = messages
    assert (message["key"], message["worker"]) == (waiting.key, address(cluster, "a")), (
        "steal-response does not name the task and the worker: HandoffPlugin._steal_response"
    )
    assert message["state"] == "ready", "the state of a waiting task has changed: plugin.GIVEN_BACK"
    on_loop(tasks.move, scheduler, {waiting.key: "released"}, "test")  # as the plugin does
    gate.open()
    assert waiting.result(20) == "steal"


def test_after_resources(client, cluster, seen):
    messages = seen(hooks.after_resources)
    worker = cluster.workers["a"]
    client.sync(worker.set_resources, extra=1)
    assert [m["worker"] for _, m in messages] == [worker.address], (
        "set_resources does not name the worker: Membership.resources_changed"
    )
    assert not inspect.iscoroutinefunction(Scheduler.add_resources), "set_resources is async: hooks._after"


def test_around_update_graph(client, scheduler, wrapped):
    original = scheduler.stream_handlers["update-graph"]
    assert inspect.iscoroutinefunction(original), (
        "update-graph is not async: HandoffPlugin._wrap_update_graph"
    )
    messages = wrapped(hooks.around_update_graph)
    future = client.submit(identity, 1, pure=False)
    wait(future)
    assert set(messages[0]["keys"]) == {future.key}, (
        "update-graph does not name the keys: HandoffPlugin._wrap_update_graph"
    )


def test_around_cancel(client, wrapped):
    messages = wrapped(hooks.around_cancel)
    future = client.submit(identity, 1, pure=False)
    wait(future)
    client.cancel(future, force=True)
    until(lambda: messages)
    reported = {name: messages[0][name] for name in ("keys", "client", "force")}
    assert reported == {"keys": [future.key], "client": client.id, "force": True}, "Overrides.wrap_cancel"


def test_around_retry(client, wrapped):
    messages = wrapped(hooks.around_retry)
    future = client.submit(fails, pure=False)
    wait(future)
    future.retry()
    wait(future)
    assert list(messages[0]["keys"]) == [future.key], "retry does not name the keys: Overrides.wrap_retry"


def test_before_release(client, scheduler, seen):
    messages = seen(hooks.before_release)
    future = client.submit(identity, 1, pure=False)
    wait(future)
    key = future.key
    future.release()
    until(lambda: key not in scheduler.tasks)
    known = [
        inspect.signature(Scheduler.client_releases_keys).bind(None, *a, **m).arguments for a, m in messages
    ]
    assert [(list(call["keys"]), call["client"]) for call in known] == [([key], client.id)], (
        "keys are released by another path: HandoffPlugin._keys_released"
    )


def test_before_connection_lost(cluster, scheduler, patches, on_loop):
    gone = []

    def callback(client, *args, **kwargs):
        gone.append((client, client in scheduler.clients))

    on_loop(hooks.before_connection_lost, patches, scheduler, callback)
    with Client(cluster, set_as_default=False) as closes:
        pass
    with Client(cluster, set_as_default=False) as breaks:
        breaks.sync(breaks.scheduler_comm.comm.close)
        until(lambda: (breaks.id, True) in gone)  # otherwise its keys are lost: DisconnectedClients
        until(lambda: breaks.status == "running" and breaks.id in scheduler.clients)
    assert (closes.id, True) not in gone, "a closed client looks like a disconnected one: DisconnectedClients"


def test_around_restart(scheduler, patches, on_loop):
    assert inspect.iscoroutinefunction(Scheduler.restart), "restart is not async: Overrides.wrap_restart"
    assert scheduler.handlers["restart"] == scheduler.restart, (
        "restart has another handler: hooks.around_restart"
    )
    wrap = object()
    on_loop(hooks.around_restart, patches, scheduler, lambda original: wrap)
    assert scheduler.restart is scheduler.handlers["restart"] is wrap


def test_replace_unregister(client, scheduler, patches, on_loop):
    names = []

    async def handler(name):
        names.append(name)

    on_loop(hooks.replace_unregister, patches, scheduler, handler)
    client.unregister_scheduler_plugin("some plugin")
    assert names == ["some plugin"], "another request removes plugins: HandoffPlugin._unregister"
    assert list(inspect.signature(Scheduler.unregister_scheduler_plugin).parameters) == ["self", "name"]


def test_add_handler(client, scheduler, patches, on_loop):
    async def handler(x):
        return x + 1

    on_loop(hooks.add_handler, patches, scheduler, "test-request", handler)
    answer = client.sync(lambda: getattr(client.scheduler, "test-request")(x=1))
    assert answer == 2, "Server.handlers does not handle requests: Requests"


def test_add_stream_handler(client, scheduler, patches, on_loop):
    received = []
    on_loop(
        hooks.add_stream_handler,
        patches,
        scheduler,
        "test-stream",
        lambda **message: received.append(message),
    )
    client.run(lambda dask_worker: dask_worker.batched_send({"op": "test-stream", "x": 1}))
    client._send_to_scheduler({"op": "test-stream", "x": 2})
    until(lambda: len(received) == 3)
    assert sorted(m["x"] for m in received) == [1, 1, 2], (
        "Server.stream_handlers does not handle stream messages: HandoffPlugin"
    )
    assert {m["worker"] for m in received if m["x"] == 1} == set(scheduler.workers), (
        "messages from workers do not name the worker: hooks.add_stream_handler"
    )
    on_loop(patches.undo)
    wait(client.submit(identity, 1, pure=False))
    client.run(lambda dask_worker: dask_worker.batched_send({"op": "test-stream", "x": 3}))
    wait(client.submit(identity, 1, pure=False, workers=["a"]))
    assert len(received) == 3
    assert len(scheduler.workers) == 2, "a message breaks its connection after the plugin is removed"
    del scheduler.stream_handlers["test-stream"]
