"""Nodes: their capacity, what is booked there, and whether a function can start there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from handoff_dask._model.resources import CPU, GPU, THREADS, UNIT
from handoff_dask._scheduling.spec import Amounts, Pins

if TYPE_CHECKING:
    from handoff_dask._scheduling.functions import FunctionState
    from handoff_dask._scheduling.ledger import Orphan
    from handoff_dask._scheduling.runs import Group

#: Prefetched functions that keep a node busy for a while: about as many as the scheduler can process
#: between two of Dask's batches of messages to a worker.
STOCK = 8


class LedgerError(AssertionError):
    """A booking broke an invariant of the ledger. This is a bug in handoff_dask; please report it."""


class Pool:
    """A capacity, and how much of it is free.

    Shrinking the capacity below what is in use is legal: ``free`` is then negative until enough is released.

    Attributes
    ----------
    capacity : dict
        Resource → units.
    free : dict
        Resource → units that :meth:`acquire` may still take.
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
        """Free units of a resource, never below 0."""
        return max(0, self.free.get(name, 0))

    def fits(self, cost: Amounts) -> bool:
        """Whether ``cost`` is free now."""
        free = self.free
        for name, units in cost.items():  # noqa: SIM110 - a generator doubles the time of the hottest loop
            if units > free.get(name, 0):
                return False
        return True

    def holds(self, cost: Amounts) -> bool:
        """Whether ``cost`` would fit if nothing were in use."""
        capacity = self.capacity
        return all(units <= capacity.get(name, 0) for name, units in cost.items())

    def slots(self, cost: Amounts) -> int:
        """How many of ``cost``, which is not empty, would fit together if nothing else were in use."""
        capacity = self.capacity
        return min(capacity.get(name, 0) // units for name, units in cost.items())

    def acquire(self, cost: Amounts) -> None:
        """Book ``cost``.

        Raises
        ------
        LedgerError
            It does not fit. Nothing is booked.
        """
        free = self.free
        for name, units in cost.items():
            if units > free.get(name, 0):
                raise LedgerError(f"{dict(cost)} does not fit: {self.used} of {self.capacity} in use")
        for name, units in cost.items():
            if units:
                free[name] -= units

    def release(self, cost: Amounts) -> None:
        """Give ``cost`` back.

        Raises
        ------
        LedgerError
            More than is in use. Nothing is released.
        """
        free, capacity = self.free, self.capacity
        for name, units in cost.items():
            if units and units > capacity.get(name, 0) - free.get(name, 0):
                raise LedgerError(f"release of {dict(cost)}, but only {self.used} is in use")
        for name, units in cost.items():
            if units:
                free[name] += units

    def resize(self, capacity: Amounts) -> None:
        """Change the capacity; what is in use stays booked."""
        for name, units in capacity.items():
            self.free[name] = self.free.get(name, 0) + units - self.capacity.get(name, 0)
            self.capacity[name] = units


class Devices:
    """Devices of one node, each with an index: whole ones are exclusive, a fraction shares one."""

    __slots__ = ("free",)

    def __init__(self, units: int, held: Sequence[Mapping[int, int]] = ()) -> None:
        #: Device index → free units of it. A fraction of capacity left over is a device too.
        self.free: list[int] = [UNIT] * (units // UNIT) + ([units % UNIT] if units % UNIT else [])
        # Functions may still hold devices that a resize removed: these stay below zero, so nobody gets them.
        count = max((1 + i for chosen in held for i in chosen), default=0)
        self.free += [0] * (count - len(self.free))
        for chosen in held:
            self.take(chosen)

    def choose(self, units: int) -> dict[int, int] | None:
        """Devices for a cost of ``units``: index → units of it; None if they are not free."""
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

    def release(self, chosen: Mapping[int, int]) -> None:
        """Release it."""
        for i, units in chosen.items():
            self.free[i] += units


class Node(Pool):
    """A node.

    Parameters
    ----------
    name : hashable
        The worker's name.
    capacity : mapping of str to int
        Resource → units, threads included.
    aliases : iterable of str
        Further names by which a pin may refer to it: address and host.
    enforced : iterable of str
        Resources for which the worker itself holds functions back, so that more may be sent than fits.

    Attributes
    ----------
    accepting : bool
        False while it is paused or retiring: nothing new is placed there.
    running : dict of FunctionState to None
        Booked functions, in the order in which they were booked.
    prefetched : dict of FunctionState to None
        Functions sent there that wait for capacity. They are not booked yet.
    orphans : dict of Orphan to None
        Attempts that Dask took back although their threads go on.
    groups : dict of Group to None
        Collocated groups that are bound to it.
    short : dict
        Resource → units held by functions in ``running`` that are known to be short.
    wide : int
        How many functions in ``running`` ask for more than one core.
    external : dict
        Resource → units held by Dask's own tasks. They are not free.
    position : int
        Its place in the order of names; kept by :class:`~handoff_dask._scheduling.nodes.Nodes`.
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
    def stocked(self) -> bool:
        """Whether enough functions are prefetched that the next need not be sent at once."""
        return len(self.prefetched) >= STOCK

    def allowed(self, pins: Pins) -> bool:
        """Whether all pins allow this node."""
        return all(not pin.isdisjoint(self.aliases) for pin in pins)

    def fits(self, cost: Amounts) -> bool:
        """Whether ``cost`` is free now, on whole or shared devices as it needs them."""
        return super().fits(cost) and (GPU not in cost or self.devices.choose(cost[GPU]) is not None)

    def can_start(self, cost: Amounts) -> bool:
        """Whether a function of this cost can start here now."""
        free = self.free
        for name, units in cost.items():  # as fits(), without its calls: the hottest loop there is
            if units > free.get(name, 0):
                return False
        if not self.accepting or (GPU in cost and self.devices.choose(cost[GPU]) is None):
            return False
        return not self.prefetched or self.can_spare(cost)

    def set_external(self, amounts: Amounts) -> None:
        """Record that Dask's own tasks hold this much now."""
        for name in {*self.external, *amounts} & set(self.capacity):
            self.free[name] -= amounts.get(name, 0) - self.external.get(name, 0)
        self.external = {name: units for name, units in amounts.items() if name in self.capacity and units}

    def resize(self, capacity: Mapping[str, int]) -> None:
        """Change the capacity while functions run: what they hold stays booked. Threads stay unless named."""
        gone = dict.fromkeys(set(self.capacity) - set(capacity) - {THREADS}, 0)
        super().resize({**gone, **capacity})
        held: list[Mapping[int, int]] = [f.devices for f in self.running if f.devices]
        held += [orphan.devices for orphan in self.orphans]
        self.devices = Devices(self.capacity.get(GPU, 0), held)

    def enforces(self, cost: Amounts) -> bool:
        """Whether the worker itself would hold back a function of this cost until it fits."""
        for name, units in cost.items():
            if name in self.enforced or name == THREADS:
                continue
            # A thread stands for a core where there are no fewer cores than threads, and as long as nothing
            # that runs takes more than one core with its thread.
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
        """Whether ``cost`` is free as soon as the short functions that run here have ended."""
        free, short = self.free, self.short
        return all(units <= free.get(name, 0) + short.get(name, 0) for name, units in cost.items())

    def can_spare(self, cost: Amounts) -> bool:
        """Whether prefetched functions leave a function of this cost what is booked for it.

        They take threads and whatever the worker enforces, and of these the worker hands out no more than
        there is. Cores that it does not enforce are safe only as long as every function needs just one.
        """
        if CPU in self.enforced or cost.get(CPU, 0) <= UNIT:
            return True
        return not any(CPU in f.cost for f in self.prefetched)

    def __repr__(self) -> str:
        return f"<Node {self.name!r}: {len(self.running)} running, {len(self.prefetched)} prefetched>"
