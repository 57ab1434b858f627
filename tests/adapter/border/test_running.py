"""``running``: the task that a worker's thread runs."""

from __future__ import annotations

from types import SimpleNamespace

import dask
import pytest
from distributed import Client, SchedulerPlugin, wait
from distributed.diagnostics import progress_stream, task_stream, websocket
from distributed.metrics import time
from helpers import gate, pass_gate

import handoff_dask as handoff
from handoff_dask._adapter._dask import running, tasks


def fails(*args):
    raise ValueError("on purpose")


def test_in_task(client):
    assert client.submit(running.in_task, pure=False).result(20), "thread_state.key is not set: session"
    assert not running.in_task()


def find_self(x):
    found = running.find_running()
    return found.worker.name, found.task.key


def test_find_running(client):
    future = client.submit(find_self, 1, pure=False, workers=["a"])
    assert future.result(20) == ("a", future.key), (
        "a thread's task is found in another way: current.find_task"
    )
    assert running.find_running() is None


def my_argument(*args):
    return running.first_argument(running.find_running().task)


def test_first_argument(client):
    assert client.submit(my_argument, 5, 6, pure=False).result(20) == 5, (
        "tasks store their arguments elsewhere: current.current"
    )
    assert client.submit(my_argument, pure=False).result(20) is None


def my_annotation(name):
    return running.annotation(running.find_running().task, name)


def test_annotation(client):
    with dask.annotate(mine={"x": 1}, odd=3):
        futures = [client.submit(my_annotation, name, pure=False) for name in ("mine", "odd", "none")]
    assert client.gather(futures) == [{"x": 1}, {}, {}], (
        "annotations reach workers in another way: current.attempt_metadata"
    )


def my_attempt(name):
    pass_gate(name)
    return running.attempt_id(running.find_running().task)


def test_attempt_id(client, cluster):
    door = gate("attempt")
    future = client.submit(my_attempt, "attempt", pure=False)
    door.await_inside(1)
    here = cluster.scheduler.tasks[future.key]
    run_id = here.run_id
    assert tasks.is_current_attempt(here, run_id)
    door.open()
    assert future.result(20) == run_id, (
        "worker and scheduler use different ids for an attempt: worker.run_function"
    )


def attach_and(fail):
    running.attach(running.find_running(), "test", [1, "x", None, True], time())
    return fails() if fail else None


@pytest.mark.parametrize("processes", [False, True])
def test_attach(processes):
    with handoff.local_cluster({"a": {"cpu": 1}}, processes=processes) as cluster, Client(cluster) as client:
        carried = []

        class Plugin(SchedulerPlugin):
            name = "test-attach"

            def transition(self, key, start, finish, *args, startstops=None, **kwargs):
                if start == "processing":
                    carried.append((finish, tasks.attached(startstops, "test")))

        async def install():
            cluster.scheduler.add_plugin(Plugin())

        client.sync(install)
        wait([client.submit(attach_and, False, pure=False)])
        wait([client.submit(attach_and, True, pure=False)])
        assert [(finish, list(value)) for finish, value in carried] == [
            ("memory", [1, "x", None, True]),
            ("erred", [1, "x", None, True]),
        ], "Dask drops the value attached to an outcome: worker.run_function, plugin.report_in"


@pytest.mark.parametrize("module", [progress_stream, task_stream, websocket])
def test_attach_uses_an_action_that_diagnostics_know(module):
    worker, task = SimpleNamespace(scheduler_delay=0.5), SimpleNamespace(startstops=[])
    running.attach(running.Running(worker, task), "test", 1, 4.5)
    (interval,) = task.startstops
    assert interval["action"] in module.colors, (
        "Dask's diagnostics fail on the extra interval: running.attach"
    )
    assert (interval["start"], interval["stop"]) == (5.0, 5.0)


def test_pickle_error():
    try:
        fails()
    except ValueError as error:
        exception, trace = running.pickle_error(error)
    assert isinstance(exception, bytes), "error_message returns another form: child"
    assert isinstance(trace, bytes)


def test_unpickle_error(client):
    try:
        fails()
    except ValueError as error:
        pickled = running.pickle_error(error)
    error = running.unpickle_error(*pickled)
    assert repr(error) == "ValueError('on purpose')", (
        "clean_exception returns something else: process_pool, outcome"
    )
    assert error.__traceback__ is not None
    assert repr(running.unpickle_error(pickled[0])) == repr(error)
