"""Connections of the simulated cluster: every message takes its time, and connections break.

Messages of one connection keep their order; those of different ones overtake each other. It takes the place
of Dask's in-process transport, whose queues it uses.
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
        Of delays.
    trace : Trace

    Attributes
    ----------
    scale : float
        Seconds that a message usually takes.
    stall : float
        Share of messages that take much longer.
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
        """An address nobody had before."""
        return f"{HOST}/1/{next(self.numbers)}"

    def delay(self) -> float:
        """Seconds that something takes on its way."""
        if self.rng.random() < self.stall:
            return self.rng.uniform(0, 0.5)
        return self.rng.expovariate(1 / self.scale)

    def between(self, one: str, other: str | None = None) -> list[Link]:
        """Connections of a machine."""
        return [link for link in self.links if one in link.machines and (other in (None, *link.machines))]

    def cut(self, one: str, other: str) -> None:
        """Break all connections between two machines; each notices in its own time."""
        for link in self.between(one, other):
            link.cut()

    def die(self, machine: str) -> None:
        """A machine is no more: nothing comes from it, and nothing arrives."""
        self.dead.add(machine)
        for address, listener in list(self.listeners.items()):
            if listener.machine == machine:
                del self.listeners[address]
        for link in self.between(machine):
            link.cut()


class Link:
    """A connection: its two ends, and what is on its way."""

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
        """Have a message arrive at an end, after all that was sent there before."""
        loop = asyncio.get_running_loop()
        # Later than the last one, not just as late: timers of the same time come in any order.
        at = max(self._last[to] + 1e-7, loop.time() + self._base / 2 + self.network.delay())
        self._last[to] = at
        loop.call_at(at, self._arrive, to, message)

    def _arrive(self, to: int, message: Any) -> None:
        if self.broken:
            return
        names = f"{self.machines[1 - to]} -> {self.machines[to]}"
        self.network.trace.note(names, "closed" if message is _EOF else words(message))
        if message is _EOF:
            self.network.links.pop(self, None)
        self.queues[to].put_nowait(message)

    def cut(self) -> None:
        """Lose what is on its way, and let each end know."""
        self.broken = True
        self.network.links.pop(self, None)
        loop = asyncio.get_running_loop()
        for to in (0, 1):
            at_once = self.machines[to] in self.network.dead
            loop.call_later(0.0 if at_once else self.network.delay(), self._lost, to)

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
        return self._hash  # Dask keeps connections in sets: their order is not to be that of addresses

    def _get_finalizer(self) -> Any:
        return lambda: None  # Dask's own tells of connections that nobody closed

    async def write(self, msg: Any, serializers: Any = None, on_error: Any = None) -> int:
        """Send a message; now and then that takes a while."""
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
    """Waits for connections to a machine."""

    prefix = "inproc"

    def __init__(self, network: Network, address: str, handler: Any, deserialize: bool) -> None:
        super().__init__()
        self._network = network
        self._address = address or network.new_address()
        self._handler = handler
        self._deserialize = deserialize
        self.machine = MACHINE.get()

    async def start(self) -> None:
        """Begin to listen."""
        self.machine = MACHINE.get()
        self._network.listeners[self._address] = self

    def stop(self) -> None:
        """Listen no more."""
        self._network.listeners.pop(self._address, None)

    def accept(self, link: Link, peer: str) -> None:
        """A connection was made."""
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
        """Where it listens."""
        return f"inproc://{self._address}"

    contact_address = listen_address


class SimulatedConnector(Connector):
    """Connects the machine that asks with another one."""

    def __init__(self, network: Network) -> None:
        self._network = network

    async def connect(self, address: str, deserialize: bool = True, **arguments: Any) -> Comm:
        """Connect; that takes a while, too."""
        network, machine = self._network, MACHINE.get()
        await asyncio.sleep(network.delay())
        listener = network.listeners.get(address)
        if listener is None or machine in network.dead:
            raise OSError(f"nobody listens at {address}")
        link = Link(network, machine, listener.machine)
        local = f"inproc://{network.new_address()}"
        listener.accept(link, local)
        return Comm(link, 0, local, f"inproc://{address}", deserialize)


class SimulatedBackend(Backend):
    """Instead of Dask's in-process transport."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def get_connector(self) -> Connector:
        """What makes connections."""
        return SimulatedConnector(self._network)

    def get_listener(self, loc: str, handle_comm: Any, deserialize: bool, **arguments: Any) -> Listener:
        """What waits for them."""
        return Listener(self._network, loc, handle_comm, deserialize)

    def get_address_host(self, loc: str) -> str:
        """All machines are one host."""
        return HOST

    def resolve_address(self, loc: str) -> str:
        """Addresses stand for themselves."""
        return loc

    def get_local_address_for(self, loc: str) -> str:
        """An address from which to connect."""
        return self._network.new_address()


def install(network: Network) -> None:
    """Have Dask use a network for ``inproc://``."""
    backends["inproc"] = SimulatedBackend(network)


def words(message: Any) -> str:
    """A message in short."""
    if isinstance(message, (list, tuple)):
        return "; ".join(words(m) for m in message[:12])
    if not isinstance(message, dict):
        return type(message).__name__
    parts = [str(message.get("op", "reply"))]
    for name in ("key", "keys", "run_id", "status", "released", "reason"):
        if name in message:
            value = message[name]
            parts.append(f"{name}={sorted(value, key=str) if isinstance(value, (set, frozenset)) else value}")
    return " ".join(parts)[:300]
