"""``current()``: the attempt that is running, as seen from inside the function."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from handoff_dask._adapter._dask.running import Running, annotation, find_running, first_argument
from handoff_dask._adapter.messages import NAME, Program, unsealed_id
from handoff_dask._model.function import declared_cost


@dataclass(frozen=True, slots=True)
class Current:
    """The attempt that is running.

    Attributes
    ----------
    run_id : str
    dag_id, function_id : hashable
    attempt : int
        Number of the attempt, starting at 1.
    node : str
        Name of the node.
    cost : dict of str to number
        The function's cost, in the units in which it was given.
    devices : dict of str to list of int
        Resource → indices of the devices reserved for this attempt: ``devices["gpu"]``.
    """

    run_id: str
    dag_id: Hashable
    function_id: Hashable
    attempt: int
    node: Any
    cost: Mapping[str, float] = field(default_factory=dict)
    devices: Mapping[str, list[int]] = field(default_factory=dict)


#: ``local.current`` is set in threads that run functions outside of Dask's workers: to a :class:`Current`, or
#: to the tuple (run id, DAG id, function, attempt number), which is faster to create.
local = threading.local()


def current() -> Current:
    """Return the attempt that is running in this thread.

    Returns
    -------
    Current
        Run, DAG and function ids, attempt number, node, cost and devices.

    Raises
    ------
    RuntimeError
        The calling thread is not running a function of a DAG. Threads that a function starts are not, either.
    """
    here = getattr(local, "current", None)
    if isinstance(here, Current):
        return here
    if here is not None:
        run_id, dag_id, function, attempt = here
        return Current(run_id, dag_id, function.id, attempt, "local", dict(declared_cost(function)))
    found = find_task()
    if found is None:
        raise RuntimeError("current() was called outside of a function that handoff_dask runs")
    worker, task = found
    program: Program = first_argument(task)
    metadata = attempt_metadata(task)
    return Current(
        run_id=program.run_id,
        dag_id=unsealed_id(program.dag_id),
        function_id=unsealed_id(program.function_id),
        attempt=metadata.get("attempt", 1),
        node=worker.name,
        cost=dict(metadata.get("cost", program.shape.asked)),
        devices={name: list(indices) for name, indices in metadata.get("devices", {}).items()},
    )


def attempt_metadata(task: Any) -> Mapping[str, Any]:
    """Return the scheduler's annotation of this attempt.

    Returns
    -------
    mapping
        ``attempt``: the attempt's number, missing for the first; ``cost``: what it has booked, if that is not
        what was declared; ``devices``: as in :class:`Current`;
        ``peer``: for a transfer, the name of the other node.
    """
    return annotation(task, NAME)


def find_task() -> Running | None:
    """Return the Dask worker and the task that this thread runs, or None if it runs no function of a DAG."""
    found = find_running()
    return found if found is not None and isinstance(first_argument(found.task), Program) else None
