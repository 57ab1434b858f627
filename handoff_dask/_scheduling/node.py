"""A node: its capacity, the functions there, and whether another function can start or be prefetched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from handoff_dask._model.resources import CPU, GPU, THREADS, UNIT
from handoff_dask._scheduling.errors import LedgerError
from handoff_dask._scheduling.spec import Amounts, Pins

if TYPE_CHECKING:
    from handoff_dask._scheduling.functions import FunctionState
    from handoff_dask._scheduling.ledger import Orphan
    from handoff_dask._scheduling.runs import Group

#: Number of prefetched functions that keep a node busy for a while: about as many as the scheduler processes
#: between two of Dask's batches of messages to a worker.
SATURATION = 8


class Pool:
    """A capacity and its free part.

    The capacity may shrink below the amount in use: ``free`` is then negative until enough is released.

    Attributes
    ----------
    capacity : dict
        Resource → units.
    free : dict
        Resource → free units.
    """

    __slots__ = ("capacity", "free")

    def __init__(self, capacity: Amounts) -> None:
        self.capacity: dict[str, int] = dict(capacity)
        self.free: dict[str, int] = dict(capacity)

    @property
    def used(self) -> dict[str, int]:
        """Resource → units in use."""
        capacity = self.capacity
        return {name: capacity.get(name, 0) - units for name, units in self.free.items()}

    def available(self, name: str) -> int:
        """Return the free units of a resource, at least 0."""
        return max(0, self.free.get(name, 0))

    def fits(self, cost: Amounts) -> bool:
        """Return whether ``cost`` fits into the free capacity."""
        free = self.free
        for name, units in cost.items():  # noqa: SIM110 - a generator doubles the time of the hottest loop
            if units > free.get(name, 0):
                return False
        return True

    def holds(self, cost: Amounts) -> bool:
        """Return whether ``cost`` would fit if nothing were in use."""
        capacity = self.capacity
        return all(units <= capacity.get(name, 0) for name, units in cost.items())

    def slots(self, cost: Amounts) -> int:
        """Return how often ``cost``, which must not be empty, would fit if nothing were in use."""
        capacity = self.capacity
        return min(capacity.get(name, 0) // units for name, units in cost.items())

    def acquire(self, cost: Amounts) -> None:
        """Take ``cost`` from the free capacity.

        Raises
        ------
        LedgerError
            It does not fit. Nothing is taken.
        """
        free = self.free
        for name, units in cost.items():
            if units > free.get(name, 0):
                raise LedgerError(f"{dict(cost)} does not fit: {self.used} of {self.capacity} is in use")
        for name, units in cost.items():
            if units:
                free[name] -= units

    def release(self, cost: Amounts) -> None:
        """Return ``cost`` to the free capacity.

        Raises
        ------
        LedgerError
            It exceeds the amount in use. Nothing is released.
        """
        free, capacity = self.free, self.capacity
        for name, units in cost.items():
            if units and units > capacity.get(name, 0) - free.get(name, 0):
                raise LedgerError(f"cannot release {dict(cost)}: only {self.used} is in use")
        for name, units in cost.items():
            if units:
                free[name] += units

    def resize(self, capacity: Amounts) -> None:
        """Change the capacity of the given resources. The amounts in use stay the same."""
        for name, units in capacity.items():
            self.free[name] = self.free.get(name, 0) + units - self.capacity.get(name, 0)
            self.capacity[name] = units


class Devices:
    """The indexed devices of one node. A whole device is exclusive; a fraction shares a device.

    Parameters
    ----------
    units : int
        Capacity. A fraction left over is a device too.
    held : sequence of mapping of int to int
        Allocations that exist already: device index → units.

    Attributes
    ----------
    free : list of int
        Device index → free units.
    """

    __slots__ = ("free",)

    def __init__(self, units: int, held: Sequence[Mapping[int, int]] = ()) -> None:
        self.free: list[int] = [UNIT] * (units // UNIT) + ([units % UNIT] if units % UNIT else [])
        # Functions may still hold devices that a resize removed. These get a negative amount, so no other
        # function is assigned one.
        count = max((1 + i for chosen in held for i in chosen), default=0)
        self.free += [0] * (count - len(self.free))
        for chosen in held:
            self.take(chosen)

    def choose(self, units: int) -> dict[int, int] | None:
        """Return devices for a cost of ``units``: device index → units; None if too few are free."""
        whole, part = divmod(units, UNIT)
        chosen: dict[int, int] = {}
        if part:
            # Best fit: the fullest device with room for the fraction, which keeps other devices whole.
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
        """Take devices that :meth:`choose` returned."""
        for i, units in chosen.items():
            self.free[i] -= units

    def release(self, chosen: Mapping[int, int]) -> None:
        """Release devices that were taken."""
        for i, units in chosen.items():
            self.free[i] += units


class Node(Pool):
    """A node.

    Parameters
    ----------
    name : hashable
        The worker's name.
    capacity : mapping of str to int
        Resource → units, including ``threads``.
    aliases : iterable of str
        Further names that a pin may use: the address and the host.
    enforced : iterable of str
        Resources that the worker enforces: it delays functions until they fit, so functions may be sent there
        before they fit.

    Attributes
    ----------
    accepting : bool
        False while the node is paused or retiring: no function is placed there.
    running : dict of FunctionState to None
        Functions with an allocation, in the order of their allocation.
    prefetched : dict of FunctionState to None
        Functions that were sent before they fit, in the order of sending. They have no allocation yet.
    orphans : dict of Orphan to None
        Orphaned attempts, which hold their allocation until their threads end.
    groups : dict of Group to None
        Collocation groups that are bound to the node.
    short : dict
        Resource → units held by running functions that are known to be short.
    multicore : int
        Number of running functions and orphans that ask for more than one core.
    external : dict
        Resource → units held by external tasks. They are not free.
    position : int
        Index of the node among all nodes sorted by name, set by
        :class:`~handoff_dask._scheduling.nodes.Nodes`.
    """

    __slots__ = (
        "accepting",
        "aliases",
        "devices",
        "enforced",
        "external",
        "groups",
        "multicore",
        "name",
        "orphans",
        "position",
        "prefetched",
        "running",
        "short",
    )

    def __init__(
        self, name: Any, capacity: Amounts, aliases: Iterable[str] = (), enforced: Iterable[str] = ()
    ) -> None:
        super().__init__(capacity)
        self.name = name
        self.aliases = frozenset({str(name), *aliases})
        self.enforced = frozenset(enforced)
        self.accepting = True
        self.running: dict[FunctionState, None] = {}
        self.prefetched: dict[FunctionState, None] = {}
        self.orphans: dict[Orphan, None] = {}
        self.groups: dict[Group, None] = {}
        self.short: dict[str, int] = {}
        self.multicore = 0
        self.external: Amounts = {}
        self.devices = Devices(self.capacity.get(GPU, 0))
        self.position = 0

    @property
    def saturated(self) -> bool:
        """Whether so many functions are prefetched that the next one need not be sent at once."""
        return len(self.prefetched) >= SATURATION

    def allowed(self, pins: Pins) -> bool:
        """Return whether all pins allow this node."""
        return all(not pin.isdisjoint(self.aliases) for pin in pins)

    def fits(self, cost: Amounts) -> bool:
        """Return whether ``cost`` fits into the free capacity, including the division into devices."""
        return super().fits(cost) and (GPU not in cost or self.devices.choose(cost[GPU]) is not None)

    def can_start(self, cost: Amounts) -> bool:
        """Return whether a function of this cost can start here now.

        It fits, the node accepts functions, and prefetched functions do not compete for its cores.
        """
        free = self.free
        for name, units in cost.items():  # fits(), inlined: this is the hottest loop
            if units > free.get(name, 0):
                return False
        if not self.accepting or (GPU in cost and self.devices.choose(cost[GPU]) is None):
            return False
        return not self.prefetched or self.can_spare(cost)

    def set_external(self, amounts: Amounts) -> None:
        """Set the amounts that external tasks hold. Resources that the node does not have are ignored."""
        for name in {*self.external, *amounts} & set(self.capacity):
            self.free[name] -= amounts.get(name, 0) - self.external.get(name, 0)
        self.external = {name: units for name, units in amounts.items() if name in self.capacity and units}

    def resize(self, capacity: Mapping[str, int]) -> None:
        """Set the capacity. Existing allocations stay, and so do ``threads`` unless given."""
        gone = dict.fromkeys(set(self.capacity) - set(capacity) - {THREADS}, 0)
        super().resize({**gone, **capacity})
        held: list[Mapping[int, int]] = [f.devices for f in self.running if f.devices]
        held += [orphan.devices for orphan in self.orphans]
        self.devices = Devices(self.capacity.get(GPU, 0), held)

    def enforces(self, cost: Amounts) -> bool:
        """Return whether the worker enforces every resource of a cost, so that it may be prefetched."""
        for name, units in cost.items():
            if name in self.enforced or name == THREADS:
                continue
            # Threads, which the worker does enforce, bound the cores in use if the node has at least as many
            # cores as threads, and while no running function takes more than one core for its thread.
            if (
                name == CPU
                and units <= UNIT
                and not self.multicore
                and self.capacity.get(CPU, 0) >= self.capacity.get(THREADS, 0)
            ):
                continue
            return False
        return True

    def fits_after_short(self, cost: Amounts) -> bool:
        """Return whether ``cost`` fits once the running short functions have ended."""
        free, short = self.free, self.short
        return all(units <= free.get(name, 0) + short.get(name, 0) for name, units in cost.items())

    def can_spare(self, cost: Amounts) -> bool:
        """Return whether prefetched functions cannot take capacity that a function of this cost is allocated.

        They start as soon as the worker has their threads and enforced resources, so these are never
        overcommitted. Cores that the worker does not enforce are safe only while each function takes one.
        """
        if CPU in self.enforced or cost.get(CPU, 0) <= UNIT:
            return True
        return not any(CPU in f.cost for f in self.prefetched)

    def __repr__(self) -> str:
        return f"<Node {self.name!r}: {len(self.running)} running, {len(self.prefetched)} prefetched>"
