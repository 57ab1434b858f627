"""A plain Dask cluster without the plugin, and fixtures that inspect its internals."""

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
    """Call a function on the event loop of the scheduler and the workers."""

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
    """Install a hook, and return the list of messages that it receives."""

    def install(hook):
        messages = []
        on_loop(hook, patches, scheduler, lambda *args, **message: messages.append((args, message)))
        return messages

    return install


@pytest.fixture
def wrapped(patches, scheduler, on_loop):
    """Wrap a handler, and return the list of messages that it receives."""

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
    """A parked task whose input waits at a gate. Its result is that of ``f``."""

    def __init__(self, client, on_loop, scheduler, name, f=identity):
        self.gate = gate(name)
        self.before = client.submit(pass_gate, name, name, pure=False)
        self.future = client.submit(f, self.before, pure=False)
        self.key = self.future.key
        until(lambda: self.key in scheduler.tasks)
        self.ts = scheduler.tasks[self.key]
        self.arrive = lambda: (self.gate.open(), until(lambda: self.ts.state == "no-worker"))
        on_loop(tasks.park, self.ts)


@pytest.fixture
def parked(client, on_loop, scheduler, request):
    """Create a parked task whose input is not ready yet."""
    made = []

    def make(f=identity, name=""):
        made.append(Parked(client, on_loop, scheduler, f"{request.node.name} {name}", f))
        return made[-1]

    yield make
    for each in made:
        each.gate.open()


@pytest.fixture
def queued(client, cluster):
    """Block the only thread of node a and queue a task; return gate, running task and waiting task."""

    def make(name):
        door = gate(name)
        running = client.submit(pass_gate, name, pure=False, workers=["a"])
        door.await_inside(1)
        waiting = client.submit(identity, name, pure=False, workers=["a"])
        until(lambda: waiting.key in cluster.workers["a"].state.tasks)
        return door, running, waiting

    return make
