"""What the process of a node's worker really uses, beside what functions have booked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from handoff_dask._adapter._dask.workers import reported_metrics
from handoff_dask._model.resources import MB

if TYPE_CHECKING:
    from distributed.scheduler import WorkerState

#: Name in a snapshot → name of Dask's metric, and what to divide it by.
_METRICS = {
    "cpu": ("cpu", 100),
    "memory": ("memory", MB),
    "gpu": ("gpu_utilization", 100),
    "gpu_memory": ("gpu_memory_used", MB),
    "gpu_memory_total": ("gpu-memory-total", MB),
}


def measured(ws: WorkerState | None) -> dict[str, float]:
    """Return what a worker's process uses, according to its last heartbeat.

    Returns
    -------
    dict of str to float
        ``cpu`` in cores, ``memory`` in MB, ``gpu`` as the busy fraction of the first device, ``gpu_memory``
        and ``gpu_memory_total`` of this device in MB. What the worker does not report is left out. The child
        processes of isolated functions are not included.
    """
    if ws is None:
        return {}
    metrics = reported_metrics(ws)
    return {
        name: round(metrics[metric] / unit, 2)
        for name, (metric, unit) in _METRICS.items()
        if _is_number(metrics.get(metric))
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
