"""States and amounts as text: the same wording in explanations and in every display."""

from __future__ import annotations

WAITING_FOR_NODE = "waiting for a node"

#: State of a function, as in its record → label, where they differ.
_STATES = {
    "waiting": "waiting for inputs",
    "ready": WAITING_FOR_NODE,
    "delayed": "waiting to retry",
}


def state_label(state: str) -> str:
    """Return the label of a function's state, or the state itself if that is its label."""
    return _STATES.get(state, state)


def used_text(resource: str, used: float, capacity: float) -> str:
    """Return the used amount of a resource as text: ``6 of 8 used``, ``20,000 of 64,000 MB used``."""
    return f"{_number(used)} of {capacity_text(resource, capacity)} used"


def capacity_text(resource: str, capacity: float) -> str:
    """Return an amount of a resource as text, with the unit of memory: ``8``, ``64,000 MB``."""
    return _number(capacity) + (" MB" if resource == "memory" else "")


def _number(amount: float) -> str:
    """Return an amount with thousands separators, and with at most five decimals."""
    if amount == int(amount):
        return f"{int(amount):,d}"
    return f"{amount:,.5f}".rstrip("0")
