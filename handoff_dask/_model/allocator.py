"""What an allocator of one's own is given and gives back."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable


class ReadyFunction(NamedTuple):
    """A function that could start.

    Attributes
    ----------
    id : hashable
        Id of the function. One that is not made of strings, numbers and tuples of these is its ``repr``.
    cost : mapping of str to float
        Resource → amount it takes of its node; ``threads``, 1, included. Exact, as the free amounts are.
    nodes : tuple of str or None
        Names of the only nodes on which it may run: those of its pin, those that can hold all of its
        collocated group, the node where that group is, or, after a failure, others. None: any with room.
    input_bytes : mapping of str to int
        Node → bytes of its inputs that are there.
    priority : float
        The function's own.
    queued : float
        Since when it could start, seconds since the epoch.
    """

    id: Hashable
    cost: Mapping[str, float]
    nodes: tuple[Any, ...] | None
    input_bytes: Mapping[Any, int]
    priority: float
    queued: float


@runtime_checkable
class Allocator(Protocol):
    """Decides which ready functions of a run start where. Given as ``allocation_strategy``.

    A plain callable with the signature of :meth:`allocate` will do as well. It is pickled and called on the
    scheduler, whose event loop it blocks: keep it short. It may keep a state of its own.
    """

    def allocate(
        self, ready: Sequence[ReadyFunction], free: Mapping[Any, Mapping[str, float]]
    ) -> Mapping[Hashable, Any]:
        """Choose nodes.

        Parameters
        ----------
        ready : sequence of ReadyFunction
            The most urgent first.
        free : mapping
            Node name → resource → amount that is free there now, ``threads`` included. Nodes that accept
            nothing are left out.

        Returns
        -------
        mapping
            Function id → node name. What is left out waits for the next decision; so does what the run's
            limits or the division of devices do not allow yet. Of collocated functions that are sent to
            different nodes the first counts, and this is called again for the others. A proposal that cannot
            be carried out (an unknown id or node, a node that is not allowed or has no room) ends the run
            with an :class:`~handoff_dask.AllocatorError`, and so does an exception.
        """
        ...
