"""Clients as the scheduler sees them."""

from __future__ import annotations

from distributed import wait
from distributed.batched import BatchedSend
from distributed.scheduler import ClientState
from helpers import identity, until

from handoff_dask._adapter._dask import clients


def test_want(client, scheduler, on_loop):
    future = client.submit(identity, 1, pure=False)
    wait(future)
    key = future.key
    on_loop(clients.want, scheduler, [key], "stand-in")
    assert "stand-in" in scheduler.clients, "a name that is not known wants nothing: Keeper, AbsentClients"
    future.release()
    until(lambda: [cs.client_key for cs in scheduler.tasks[key].who_wants] == ["stand-in"])
    on_loop(clients.unwant, scheduler, [key], "stand-in")
    on_loop(clients.forget_name, scheduler, "stand-in")


def test_unwant(client, scheduler, on_loop):
    future = client.submit(identity, 1, pure=False)
    wait(future)
    on_loop(clients.want, scheduler, [future.key], "stand-in")
    on_loop(clients.unwant, scheduler, [future.key], client.id)
    on_loop(clients.unwant, scheduler, [future.key], "stand-in", "test")
    until(lambda: not scheduler.tasks)  # else it is kept for ever: Keeper, AbsentClients
    on_loop(clients.forget_name, scheduler, "stand-in")


def test_forget_name(scheduler, on_loop):
    on_loop(clients.want, scheduler, [], "stand-in")
    on_loop(clients.forget_name, scheduler, "stand-in")
    on_loop(clients.forget_name, scheduler, "stand-in")
    assert "stand-in" not in scheduler.clients


def test_restore_wish(client, scheduler, on_loop):
    future = client.submit(identity, 1, pure=False)
    wait(future)
    ts, former = scheduler.tasks[future.key], scheduler.clients[client.id]
    again = ClientState(client.id)
    assert again == former, "clients are not equal by their id: clients.restore_wish"
    on_loop(clients.restore_wish, ts, again)
    assert again.wants_what == {ts}
    assert [cs is again for cs in ts.who_wants] == [True]
    on_loop(clients.restore_wish, ts, former)


def test_hears(client, scheduler, on_loop):
    wait(client.submit(identity, 1, pure=False))
    assert on_loop(clients.hears, scheduler, client.id), "a client that is connected hears nothing: Enactor"
    assert not on_loop(clients.hears, scheduler, "nobody")

    async def fresh():
        return BatchedSend("2 ms")

    scheduler.client_comms["fresh"] = client.sync(fresh)
    try:
        assert not on_loop(clients.hears, scheduler, "fresh"), "one that has just connected breaks: Enactor"
    finally:
        del scheduler.client_comms["fresh"]


def test_send(client, scheduler, on_loop):
    heard = []
    client._stream_handlers["test-send"] = lambda **message: heard.append(message)
    wait(client.submit(identity, 1, pure=False))
    on_loop(clients.send, scheduler, client.id, {"op": "test-send", "x": 1})
    on_loop(clients.send, scheduler, "nobody", {"op": "test-send", "x": 2})
    until(lambda: heard)
    assert heard == [{"x": 1}], "runs would never hear of their end: Enactor._tell_client"


def test_tell_cancelled(client, scheduler, on_loop):
    future = client.submit(identity, 1, pure=False)
    wait(future)
    on_loop(clients.tell_cancelled, scheduler, client.id, [future.key], "because", "of a test")
    until(lambda: future.status == "cancelled")  # else futures of runs that ended wait for ever: Enactor
    assert future._state.exception.reason == "because"
