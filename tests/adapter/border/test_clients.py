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
    on_loop(clients.want, scheduler, [key], "virtual")
    assert "virtual" in scheduler.clients, (
        "wanting keys does not register an unknown client: KeepAlive, DisconnectedClients"
    )
    future.release()
    until(lambda: [cs.client_key for cs in scheduler.tasks[key].who_wants] == ["virtual"])
    on_loop(clients.release, scheduler, [key], "virtual")
    on_loop(clients.forget_virtual_client, scheduler, "virtual")


def test_release(client, scheduler, on_loop):
    future = client.submit(identity, 1, pure=False)
    wait(future)
    on_loop(clients.want, scheduler, [future.key], "virtual")
    on_loop(clients.release, scheduler, [future.key], client.id)
    on_loop(clients.release, scheduler, [future.key], "virtual", "test")
    until(lambda: not scheduler.tasks)  # otherwise tasks are never forgotten: KeepAlive, DisconnectedClients
    on_loop(clients.forget_virtual_client, scheduler, "virtual")


def test_forget_virtual_client(scheduler, on_loop):
    on_loop(clients.want, scheduler, [], "virtual")
    on_loop(clients.forget_virtual_client, scheduler, "virtual")
    on_loop(clients.forget_virtual_client, scheduler, "virtual")
    assert "virtual" not in scheduler.clients


def test_restore_wants(client, scheduler, on_loop):
    future = client.submit(identity, 1, pure=False)
    wait(future)
    ts, former = scheduler.tasks[future.key], scheduler.clients[client.id]
    again = ClientState(client.id)
    assert again == former, "client states of the same id are not equal: clients.restore_wants"
    on_loop(clients.restore_wants, ts, again)
    assert again.wants_what == {ts}
    assert [cs is again for cs in ts.who_wants] == [True]
    on_loop(clients.restore_wants, ts, former)


def test_is_reachable(client, scheduler, on_loop):
    wait(client.submit(identity, 1, pure=False))
    assert on_loop(clients.is_reachable, scheduler, client.id), "a connected client is not reachable: Enactor"
    assert not on_loop(clients.is_reachable, scheduler, "nobody")

    async def fresh():
        return BatchedSend("2 ms")

    scheduler.client_comms["fresh"] = client.sync(fresh)
    try:
        assert not on_loop(clients.is_reachable, scheduler, "fresh"), (
            "a client that has just connected is reachable, and would break: Enactor"
        )
    finally:
        del scheduler.client_comms["fresh"]


def test_send(client, scheduler, on_loop):
    received = []
    client._stream_handlers["test-send"] = lambda **message: received.append(message)
    wait(client.submit(identity, 1, pure=False))
    on_loop(clients.send, scheduler, client.id, {"op": "test-send", "x": 1})
    on_loop(clients.send, scheduler, "nobody", {"op": "test-send", "x": 2})
    until(lambda: received)
    assert received == [{"x": 1}], "clients do not learn that their runs end: Enactor._notify"


def test_send_cancelled(client, scheduler, on_loop):
    future = client.submit(identity, 1, pure=False)
    wait(future)
    on_loop(clients.send_cancelled, scheduler, client.id, [future.key], "because", "of a test")
    until(lambda: future.status == "cancelled")  # otherwise futures of ended runs stay pending: Enactor
    assert future._state.exception.reason == "because"
