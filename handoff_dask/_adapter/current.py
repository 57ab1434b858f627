"""What a running function can ask about itself."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from handoff_dask._adapter._dask.running import Running, annotation, find_running, first_argument
from handoff_dask._adapter.messages import NAME, Program, unsealed_id


@dataclass(frozen=True, slots=True)
class Current:
    """The attempt that is running.

    Attributes
    ----------
    run_id : str
    dag_id, function_id : hashable
    attempt : int
        Counts from 1.
    node : str
        Name of the node.
    cost : dict
        As given.
    devices : dict of str to list of int
        Indices of the devices it may use, by resource: ``devices["gpu"]``.
    """

    run_id: str
    dag_id: Hashable
    function_id: Hashable
    attempt: int
    node: Any
    cost: Mapping[str, float] = field(default_factory=dict)
    devices: Mapping[str, list[int]] = field(default_factory=dict)


#: ``local.current`` is set by what runs functions without Dask: a :class:`Current`, or what one is made from:
#: (run id, DAG id, function, attempt).
local = threading.local()


def current() -> Current:
    """What is known about the function that calls this.

    Returns
    -------
    Current
        Run, DAG and function ids, attempt, node, cost and devices.

    Raises
    ------
    RuntimeError
        Not called from a running function's own thread.
    """
    here = getattr(local, "current", None)
    if isinstance(here, Current):
        return here
    if here is not None:
        run_id, dag_id, function, attempt = here
        return Current(run_id, dag_id, function.id, attempt, "local", dict(function.cost or {}))
    found = find_task()
    if found is None:
        raise RuntimeError("current() was called outside of a function that handoff_dask runs")
    worker, task = found
    program: Program = first_argument(task)
    facts = facts_of(task)
    return Current(
        run_id=program.run_id,
        dag_id=unsealed_id(program.dag_id),
        function_id=unsealed_id(program.function_id),
        attempt=facts.get("attempt", 1),
        node=worker.name,
        cost=dict(program.shape.asked),
        devices={name: list(indices) for name, indices in facts.get("devices", {}).items()},
    )


def facts_of(task: Any) -> Mapping[str, Any]:
    """What the scheduler said of this attempt: ``attempt`` unless the first, ``devices``, ``peer``."""
    return annotation(task, NAME)


def find_task() -> Running | None:
    """The Dask worker and its task that this thread runs; None when it runs none of ours."""
    found = find_running()
    return found if found is not None and isinstance(first_argument(found.task), Program) else None
