"""The interface of user-defined allocators."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable


class ReadyFunction(NamedTuple):
    """A function that is ready to start.

    Attributes
    ----------
    id : hashable
        Id of the function; its ``repr`` if the id consists of anything but strings, numbers and tuples.
    cost : mapping of str to float
        Resource → amount that the function occupies on its node, including 1 of ``threads``. Not rounded,
        like the free amounts.
    nodes : tuple of str or None
        Names of the only eligible nodes: because of a pin, because they can hold every member of its
        collocation group, because the group is already placed, or because it failed on the other nodes.
        None means any node with sufficient free capacity.
    input_bytes : mapping of str to int
        Node name → bytes of the function's inputs that are already on this node.
    priority : float
        Priority of the function.
    queued : float
        When the function became ready, in seconds since the epoch.
    """

    id: Hashable
    cost: Mapping[str, float]
    nodes: tuple[Any, ...] | None
    input_bytes: Mapping[Any, int]
    priority: float
    queued: float


@runtime_checkable
class Allocator(Protocol):
    """A user-defined allocator, passed as ``allocation_strategy``: decides which ready functions start where.

    A plain callable with the signature of :meth:`allocate` works too. The allocator is pickled and called on
    the scheduler, where it blocks the event loop, so it must be fast. It may keep state between calls.
    """

    def allocate(
        self, ready: Sequence[ReadyFunction], free: Mapping[Any, Mapping[str, float]]
    ) -> Mapping[Hashable, Any]:
        """Propose nodes for ready functions.

        Parameters
        ----------
        ready : sequence of ReadyFunction
            Ready functions of the run, most urgent first.
        free : mapping
            Node name → resource → free amount, including ``threads``. Nodes that accept no functions are
            left out.

        Returns
        -------
        mapping
            Function id → node name. A function without a proposal waits for the next decision, as does one
            that the run's limits or the free parts of single devices do not admit yet. If collocated
            functions are proposed for different nodes, the first proposal counts, and the allocator is called
            again for the rest of the group. An exception or an invalid proposal (an unknown id or node, a
            node that is not eligible or lacks free capacity) ends the run with
            :class:`~handoff_dask.AllocatorError`.
        """
        ...
