"""A cluster of plain Dask, without the plugin, and ways to look at it from inside."""

from __future__ import annotations

import inspect

import pytest
from distributed import Client
from helpers import gate, identity, pass_gate, until

import handoff_dask as handoff
from handoff_dask._adapter._dask import hooks, tasks


@pytest.fixture(scope="module")
def cluster():
    nodes = {name: {"cpu": 1, "slot": 1} for name in "ab"}
    with handoff.local_cluster(nodes) as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    with Client(cluster) as client:
        yield client
    until(lambda: not cluster.scheduler.tasks)


@pytest.fixture
def scheduler(cluster):
    return cluster.scheduler


@pytest.fixture
def on_loop(client):
    """Call something where the scheduler and the workers run."""

    def call(f, *args, **kwargs):
        async def called():
            return f(*args, **kwargs)

        return client.sync(called)

    return call


@pytest.fixture
def patches(on_loop):
    patches = hooks.Patches()
    yield patches
    on_loop(patches.undo)


@pytest.fixture
def seen(patches, scheduler, on_loop):
    """Install a hook, and have the messages that it sees."""

    def install(hook):
        messages = []
        on_loop(hook, patches, scheduler, lambda *args, **message: messages.append((args, message)))
        return messages

    return install


@pytest.fixture
def wrapped(patches, scheduler, on_loop):
    """Stand around a handler, and have the messages that it is given."""

    def install(hook):
        messages = []

        def wrap(original):
            def handler(*args, **message):
                messages.append(message)
                return original(*args, **message)

            async def awaiting(*args, **message):
                await handler(*args, **message)

            return awaiting if inspect.iscoroutinefunction(original) else handler

        on_loop(hook, patches, scheduler, wrap)
        return messages

    return install


class Parked:
    """A task that waits for another one, and is parked meanwhile. Its result is what ``f`` returns."""

    def __init__(self, client, on_loop, scheduler, name, f=identity):
        self.door = gate(name)
        self.before = client.submit(pass_gate, name, name, pure=False)
        self.future = client.submit(f, self.before, pure=False)
        self.key = self.future.key
        until(lambda: self.key in scheduler.tasks)
        self.ts = scheduler.tasks[self.key]
        self.arrive = lambda: (self.door.open(), until(lambda: self.ts.state == "no-worker"))
        on_loop(tasks.park, self.ts)


@pytest.fixture
def parked(client, on_loop, scheduler, request):
    """Make a parked task, whose input is not there yet."""
    made = []

    def make(f=identity, name=""):
        made.append(Parked(client, on_loop, scheduler, f"{request.node.name} {name}", f))
        return made[-1]

    yield make
    for each in made:
        each.door.open()


@pytest.fixture
def queued(client, cluster):
    """Make a task that waits for the only thread of node a, with what opens the gate of the one that runs."""

    def make(name):
        door = gate(name)
        running = client.submit(pass_gate, name, pure=False, workers=["a"])
        door.await_inside(1)
        waiting = client.submit(identity, name, pure=False, workers=["a"])
        until(lambda: waiting.key in cluster.workers["a"].state.tasks)
        return door, running, waiting

    return make
