"""Connections of the simulated cluster: messages take time, and connections break.

Messages of one connection keep their order; messages of different connections may overtake each other. The
module replaces Dask's in-process transport, and reuses its queues.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any

from distributed.comm.core import BaseListener, CommClosedError, Connector
from distributed.comm.inproc import _EOF, InProc, Queue
from distributed.comm.registry import Backend, backends
from tornado.ioloop import IOLoop

from simulated.trace import MACHINE, Trace

HOST = "10.0.0.1"


class Network:
    """Machines and the connections between them.

    Parameters
    ----------
    rng : random.Random
        Source of delays.
    trace : Trace

    Attributes
    ----------
    scale : float
        Mean delay of a message in seconds.
    stall : float
        Fraction of messages that take much longer.
    """

    def __init__(self, rng: random.Random, trace: Trace) -> None:
        self.rng = rng
        self.trace = trace
        self.scale = 10 ** rng.uniform(-4, -1.7)
        self.stall = rng.choice((0.0, 0.01, 0.05))
        self.listeners: dict[str, Listener] = {}
        self.links: dict[Link, None] = {}
        self.dead: set[str] = set()
        self.numbers = itertools.count(1)

    def new_address(self) -> str:
        """Return an unused address."""
        return f"{HOST}/1/{next(self.numbers)}"

    def delay(self) -> float:
        """Draw a delay in seconds."""
        if self.rng.random() < self.stall:
            return self.rng.uniform(0, 0.5)
        return self.rng.expovariate(1 / self.scale)

    def between(self, one: str, other: str | None = None) -> list[Link]:
        """Return the connections of a machine, optionally only those to another machine."""
        return [link for link in self.links if one in link.machines and (other in (None, *link.machines))]

    def cut(self, one: str, other: str) -> None:
        """Break all connections between two machines; each end notices after a random delay."""
        for link in self.between(one, other):
            link.cut()

    def die(self, machine: str) -> None:
        """Remove a machine: it neither sends nor receives messages any more."""
        self.dead.add(machine)
        for address, listener in list(self.listeners.items()):
            if listener.machine == machine:
                del self.listeners[address]
        for link in self.between(machine):
            link.cut()


class Link:
    """A connection: its two ends, and the messages in flight."""

    def __init__(self, network: Network, client: str, server: str) -> None:
        self.network = network
        self.machines = client, server
        self.queues = Queue(), Queue()  # to the client, to the server
        self.number = next(network.numbers)
        self.broken = False
        self._last = [0.0, 0.0]
        self._base = network.delay() if network.rng.random() < 0.5 else 0.0
        network.links[self] = None

    def send(self, to: int, message: Any) -> None:
        """Deliver a message to an end, after all earlier messages to it."""
        loop = asyncio.get_running_loop()
        # Strictly later than the last message: timers of the same time fire in any order.
        at = max(self._last[to] + 1e-7, loop.time() + self._base / 2 + self.network.delay())
        self._last[to] = at
        loop.call_at(at, self._arrive, to, message)

    def _arrive(self, to: int, message: Any) -> None:
        if self.broken:
            return
        names = f"{self.machines[1 - to]} -> {self.machines[to]}"
        self.network.trace.note(names, "closed" if message is _EOF else summarise(message))
        if message is _EOF:
            self.network.links.pop(self, None)
        self.queues[to].put_nowait(message)

    def cut(self) -> None:
        """Drop the messages in flight, and notify each end."""
        self.broken = True
        self.network.links.pop(self, None)
        loop = asyncio.get_running_loop()
        for to in (0, 1):
            immediately = self.machines[to] in self.network.dead
            loop.call_later(0.0 if immediately else self.network.delay(), self._lost, to)

    def _lost(self, to: int) -> None:
        self.network.trace.note(f"{self.machines[to]} lost its connection to {self.machines[1 - to]}")
        self.queues[to].put_nowait(_EOF)


class Comm(InProc):
    """One end of a connection."""

    def __init__(self, link: Link, end: int, local: str, peer: str, deserialize: bool) -> None:
        self.link = link
        self.end = end
        self._hash = 2 * link.number + end
        super().__init__(
            local, peer, link.queues[end], link.queues[1 - end], IOLoop.current(), deserialize=deserialize
        )

    def __hash__(self) -> int:
        return self._hash  # Dask keeps connections in sets, whose order must not depend on memory addresses

    def _get_finalizer(self) -> Any:
        return lambda: None  # Dask's finaliser logs connections that were not closed

    async def write(self, msg: Any, serializers: Any = None, on_error: Any = None) -> int:
        """Send a message, sometimes after a delay."""
        network = self.link.network
        if network.rng.random() < network.stall:
            await asyncio.sleep(network.delay())
        if self.closed():
            raise CommClosedError
        self.link.send(1 - self.end, msg)
        return 1

    def abort(self) -> None:
        """Close both ends."""
        if not self.closed():
            if not self.link.broken:
                self.link.send(1 - self.end, _EOF)
            self._read_q.put_nowait(_EOF)
            self._closed = True
            self._finalizer.detach()


class Listener(BaseListener):
    """Accepts connections to a machine."""

    prefix = "inproc"

    def __init__(self, network: Network, address: str, handler: Any, deserialize: bool) -> None:
        super().__init__()
        self._network = network
        self._address = address or network.new_address()
        self._handler = handler
        self._deserialize = deserialize
        self.machine = MACHINE.get()

    async def start(self) -> None:
        """Start listening."""
        self.machine = MACHINE.get()
        self._network.listeners[self._address] = self

    def stop(self) -> None:
        """Stop listening."""
        self._network.listeners.pop(self._address, None)

    def accept(self, link: Link, peer: str) -> None:
        """Serve a new connection."""
        comm = Comm(link, 1, self.contact_address, peer, self._deserialize)
        token = MACHINE.set(self.machine)
        IOLoop.current().add_callback(self._serve, comm)
        MACHINE.reset(token)

    async def _serve(self, comm: Comm) -> None:
        try:
            await self.on_connection(comm)
        except CommClosedError:
            return
        await self._handler(comm)

    @property
    def listen_address(self) -> str:
        """The address on which it listens."""
        return f"inproc://{self._address}"

    contact_address = listen_address


class SimulatedConnector(Connector):
    """Connects the calling machine to another one."""

    def __init__(self, network: Network) -> None:
        self._network = network

    async def connect(self, address: str, deserialize: bool = True, **arguments: Any) -> Comm:
        """Connect, after a delay."""
        network, machine = self._network, MACHINE.get()
        await asyncio.sleep(network.delay())
        listener = network.listeners.get(address)
        if listener is None or machine in network.dead:
            raise OSError(f"no listener at {address}")
        link = Link(network, machine, listener.machine)
        local = f"inproc://{network.new_address()}"
        listener.accept(link, local)
        return Comm(link, 0, local, f"inproc://{address}", deserialize)


class SimulatedBackend(Backend):
    """Replaces Dask's in-process transport."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def get_connector(self) -> Connector:
        """Return the connector."""
        return SimulatedConnector(self._network)

    def get_listener(self, loc: str, handle_comm: Any, deserialize: bool, **arguments: Any) -> Listener:
        """Return a listener."""
        return Listener(self._network, loc, handle_comm, deserialize)

    def get_address_host(self, loc: str) -> str:
        """Return the one host of all machines."""
        return HOST

    def resolve_address(self, loc: str) -> str:
        """Return the address unchanged."""
        return loc

    def get_local_address_for(self, loc: str) -> str:
        """Return an address from which to connect."""
        return self._network.new_address()


def install(network: Network) -> None:
    """Make Dask use a network for ``inproc://``."""
    backends["inproc"] = SimulatedBackend(network)


def summarise(message: Any) -> str:
    """Summarise a message for the trace."""
    if isinstance(message, (list, tuple)):
        return "; ".join(summarise(m) for m in message[:12])
    if not isinstance(message, dict):
        return type(message).__name__
    parts = [str(message.get("op", "reply"))]
    for name in ("key", "keys", "run_id", "status", "released", "reason"):
        if name in message:
            value = message[name]
            parts.append(f"{name}={sorted(value, key=str) if isinstance(value, (set, frozenset)) else value}")
    return " ".join(parts)[:300]
