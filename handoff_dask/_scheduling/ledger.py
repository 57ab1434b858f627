"""Who holds what: capacities, and what is in use, exactly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from handoff_dask._model.resources import CPU, GPU, THREADS, UNIT
from handoff_dask._scheduling.spec import Amounts, Pins

if TYPE_CHECKING:
    from handoff_dask._scheduling.queues import Queue

#: Functions sent ahead of their time that keep a node busy for a while: about as many as the scheduler can
#: take note of between two of Dask's batches of messages to a worker.
STOCK = 8


class LedgerError(AssertionError):
    """The ledger was asked to do what must never happen. A bug of handoff_dask: please report it."""


class Pool:
    """Amounts of resources that are acquired and released.

    Invariant: ``0 <= used[r]`` for every resource, and what :meth:`acquire` takes fitted at that time. A
    capacity that shrinks below what is in use is legal: nothing fits until enough was released.
    """

    __slots__ = ("capacity", "used")

    def __init__(self, capacity: Amounts) -> None:
        self.capacity: dict[str, int] = dict(capacity)
        self.used: dict[str, int] = dict.fromkeys(capacity, 0)

    def fits(self, cost: Amounts) -> bool:
        """Whether ``cost`` is free now."""
        capacity, used = self.capacity, self.used
        for name, units in cost.items():  # noqa: SIM110 - a generator doubles the time of the hottest loop
            if units > capacity.get(name, 0) - used.get(name, 0):
                return False
        return True

    def holds(self, cost: Amounts) -> bool:
        """Whether ``cost`` would fit if nothing were in use."""
        capacity = self.capacity
        return all(units <= capacity.get(name, 0) for name, units in cost.items())

    def at_once(self, cost: Amounts) -> int:
        """How many of ``cost`` would fit together if nothing else were in use. It takes something."""
        capacity = self.capacity
        return min(capacity.get(name, 0) // units for name, units in cost.items())

    def free(self, name: str) -> int:
        """Free units of a resource; never below 0."""
        return max(0, self.capacity.get(name, 0) - self.used.get(name, 0))

    def acquire(self, cost: Amounts) -> None:
        """Book ``cost``.

        Raises
        ------
        LedgerError
            It does not fit. Nothing is booked.
        """
        capacity, used = self.capacity, self.used
        for name, units in cost.items():
            if units > capacity.get(name, 0) - used.get(name, 0):
                raise LedgerError(f"{dict(cost)} does not fit: {used} of {capacity} in use")
        for name, units in cost.items():
            used[name] = used.get(name, 0) + units

    def release(self, cost: Amounts) -> None:
        """Give ``cost`` back.

        Raises
        ------
        LedgerError
            More than is in use. Nothing is released.
        """
        for name, units in cost.items():
            if units > self.used.get(name, 0):
                raise LedgerError(f"release of {dict(cost)}, but only {self.used} is in use")
        for name, units in cost.items():
            self.used[name] -= units


class Devices:
    """Devices of one node with an index of their own: whole ones are exclusive, a fraction shares one."""

    __slots__ = ("free",)

    def __init__(self, units: int, held: Sequence[Mapping[int, int]] = ()) -> None:
        #: Device index → free units of it. A fraction of capacity left over is a device as well.
        self.free: list[int] = [UNIT] * (units // UNIT) + ([units % UNIT] if units % UNIT else [])
        # What is held of devices that are gone stays below zero: nobody else gets them.
        count = max((1 + i for chosen in held for i in chosen), default=0)
        self.free += [0] * (count - len(self.free))
        for chosen in held:
            self.take(chosen)

    def choose(self, units: int) -> dict[int, int] | None:
        """Devices for a cost of ``units``: index → units of it; None when they are not free."""
        whole, part = divmod(units, UNIT)
        chosen: dict[int, int] = {}
        if part:
            # The fullest device that still takes it: keeps others whole.
            fitting = [(free, i) for i, free in enumerate(self.free) if free >= part]
            if not fitting:
                return None
            chosen[min(fitting)[1]] = part
        for i, free in enumerate(self.free):
            if not whole:
                break
            if free == UNIT and i not in chosen:
                chosen[i] = UNIT
                whole -= 1
        return None if whole else chosen

    def take(self, chosen: Mapping[int, int]) -> None:
        """Book what :meth:`choose` chose."""
        for i, units in chosen.items():
            self.free[i] -= units

    def give_back(self, chosen: Mapping[int, int]) -> None:
        """Release it."""
        for i, units in chosen.items():
            self.free[i] += units


class Limits(Pool):
    """What a run may use at once on all nodes together.

    Attributes
    ----------
    waiting : dict of Queue to None
        Queues that wait for some of it to be given back.
    """

    __slots__ = ("waiting",)

    def __init__(self, capacity: Amounts) -> None:
        super().__init__(capacity)
        self.waiting: dict[Queue, None] = {}


class Hold:
    """What a function still takes of its node after it was taken back: its thread goes on.

    Attributes
    ----------
    node : Node
    cost : dict
    devices : dict
        Device index → units.
    limits : Limits or None
        Those of its run.
    limit_cost : dict
    """

    __slots__ = ("cost", "devices", "limit_cost", "limits", "node")

    def __init__(
        self,
        node: Node,
        cost: Amounts,
        devices: Mapping[int, int],
        limits: Limits | None,
        limit_cost: Amounts,
    ) -> None:
        self.node = node
        self.cost = cost
        self.devices = devices
        self.limits = limits
        self.limit_cost = limit_cost


class Node(Pool):
    """A node: its capacity, threads included, and the functions that it runs.

    Attributes
    ----------
    name : hashable
        The worker's name.
    aliases : frozenset of str
        Name, address and host: what a pin may call it.
    enforced : frozenset of str
        Resources that the node itself holds back functions for, so that more may be sent than fits.
    accepting : bool
        False while it is paused or retiring: nothing new is placed there.
    running : dict
        Functions placed here → None. Ordered.
    ahead : dict
        Functions sent ahead of their time → None. They run here, but are not booked yet.
    lingering : dict
        :class:`Hold` of functions that were taken back and go on → None.
    short : dict
        Units held by functions in ``running`` that are known to be short.
    wide : int
        How many of those in ``running`` ask for more than one core.
    occupied : dict
        Units that tasks other than functions hold. They count as in use.
    position, form, shelf
        Where the node is in its :class:`~handoff_dask._scheduling.fleet.Fleet`.
    """

    __slots__ = (
        "accepting",
        "ahead",
        "aliases",
        "devices",
        "enforced",
        "form",
        "lingering",
        "name",
        "occupied",
        "position",
        "running",
        "shelf",
        "short",
        "wide",
    )

    def __init__(
        self,
        name: Any,
        capacity: Amounts,
        aliases: Iterable[str] = (),
        enforced: Iterable[str] = (),
    ) -> None:
        super().__init__(capacity)
        self.name = name
        self.aliases = frozenset({str(name), *aliases})
        self.enforced = frozenset(enforced)
        self.accepting = True
        self.running: dict[Any, None] = {}
        self.ahead: dict[Any, None] = {}
        self.lingering: dict[Hold, None] = {}
        self.short: dict[str, int] = {}
        self.wide = 0
        self.occupied: Amounts = {}
        self.devices = Devices(self.capacity.get(GPU, 0))
        self.position = 0
        self.form: tuple[tuple[str, int], ...] = ()
        self.shelf: Any = None

    @property
    def stocked(self) -> bool:
        """Whether so many functions wait on the node itself that the next need not come at once."""
        return len(self.ahead) >= STOCK

    def allowed(self, pins: Pins) -> bool:
        """Whether all pins allow this node."""
        return all(not pin.isdisjoint(self.aliases) for pin in pins)

    def acquire(self, cost: Amounts) -> None:
        """Book ``cost``."""
        super().acquire(cost)
        self.wide += cost.get(CPU, 0) > UNIT

    def release(self, cost: Amounts) -> None:
        """Give ``cost`` back."""
        super().release(cost)
        self.wide -= cost.get(CPU, 0) > UNIT

    def fits(self, cost: Amounts) -> bool:
        """Whether ``cost`` is free now, on devices as they are divided up."""
        if not super().fits(cost):
            return False
        return GPU not in cost or self.devices.choose(cost[GPU]) is not None

    def takes(self, cost: Amounts) -> bool:
        """Whether a function of this cost can start here now."""
        if not self.accepting:
            return False
        capacity, used = self.capacity, self.used
        for name, units in cost.items():  # as fits() does: the hottest loop there is
            if units > capacity.get(name, 0) - used.get(name, 0):
                return False
        if GPU in cost and self.devices.choose(cost[GPU]) is None:
            return False
        return not self.ahead or self.spares(cost)

    def occupy(self, amounts: Amounts) -> None:
        """Tasks other than functions hold this much now."""
        for name in {*self.occupied, *amounts} & set(self.capacity):
            change = amounts.get(name, 0) - self.occupied.get(name, 0)
            self.used[name] = self.used.get(name, 0) + change
        self.occupied = {name: units for name, units in amounts.items() if name in self.capacity and units}

    def resize(self, capacity: Amounts) -> None:
        """Change the capacity while functions run: what they hold stays booked."""
        for name in set(self.capacity) - set(capacity) - {THREADS}:
            self.capacity[name] = 0
        self.capacity.update(capacity)
        for name in capacity:
            self.used.setdefault(name, 0)
        held = [f.devices for f in self.running if f.devices]
        held += [hold.devices for hold in self.lingering]
        self.devices = Devices(self.capacity.get(GPU, 0), held)

    def enforces(self, cost: Amounts) -> bool:
        """Whether the node itself would hold back a function of this cost until it fits."""
        for name, units in cost.items():
            if name in self.enforced or name == THREADS:
                continue
            # A thread stands for a core where there are no fewer cores than threads, and as long as nothing
            # that runs takes more than one with its thread.
            if (
                name == CPU
                and units <= UNIT
                and not self.wide
                and self.capacity.get(CPU, 0) >= self.capacity.get(THREADS, 0)
            ):
                continue
            return False
        return True

    def soon_fits(self, cost: Amounts) -> bool:
        """Whether ``cost`` is free as soon as the short functions that run here have ended."""
        capacity, used, short = self.capacity, self.used, self.short
        return all(
            units <= capacity.get(name, 0) - used.get(name, 0) + short.get(name, 0)
            for name, units in cost.items()
        )

    def spares(self, cost: Amounts) -> bool:
        """Whether functions sent ahead leave a function of this cost what is booked for it.

        They do take threads, and what the node enforces: of these it gives nobody more than there is. What
        remains is that they rely on a thread for each core.
        """
        if CPU in self.enforced or cost.get(CPU, 0) <= UNIT:
            return True
        return not any(CPU in f.cost for f in self.ahead)

    def __repr__(self) -> str:
        return f"<Node {self.name!r}: {len(self.running)} running, {len(self.ahead)} ahead>"
