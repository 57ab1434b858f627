"""Amounts of resources that are acquired and released, exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from handoff_dask._model.resources import UNIT
from handoff_dask._scheduling.spec import Amounts


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

    def at_once(self, cost: Amounts) -> int:
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

    def give_back(self, chosen: Mapping[int, int]) -> None:
        """Release it."""
        for i, units in chosen.items():
            self.free[i] += units
