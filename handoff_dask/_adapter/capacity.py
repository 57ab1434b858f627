"""What a node has: what it declares, and otherwise what it is seen to have."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from distributed.comm.addressing import get_address_host
from distributed.system import MEMORY_LIMIT

from handoff_dask._adapter._dask.workers import declared_resources, memory_limit
from handoff_dask._adapter.messages import PROTOCOL
from handoff_dask._model.resources import GPU, THREADS, UNIT, to_units
from handoff_dask._scheduling.node import Node
from handoff_dask._version import __version__

if TYPE_CHECKING:
    from distributed import Worker
    from distributed.scheduler import WorkerState

#: Dask counts memory in bytes, handoff_dask in MB.
MB = 2**20


@cache
def count_gpus() -> int:
    """GPUs that this process may use; 0 when there is no driver."""
    import os

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([d for d in visible.split(",") if d.strip() and d.strip() != "-1"])
    command = shutil.which("nvidia-smi")
    if command is None:
        return 0
    try:
        listed = subprocess.run([command, "-L"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def capacity_of(
    ws: WorkerState, detected: Mapping[str, Any], registered: Mapping[str, Any]
) -> dict[str, int]:
    """Capacity of a worker in units.

    For each resource, what was registered wins over what the worker declares, and that over what is seen:
    cores from its threads, memory from its limit, GPUs from its devices. A worker that declares a negative
    amount, or one that is no finite number, has none: it would start nothing that asks for it.
    """
    seen: dict[str, Any] = {"cpu": ws.nthreads, **detected}
    if ws.memory_limit:
        seen["memory"] = ws.memory_limit // MB
    declared = {name: amount for name, amount in ws.resources.items() if _is_amount(amount)}
    absent = dict.fromkeys(ws.resources.keys() - declared.keys(), 0)
    amounts = {**seen, **declared, **absent, **registered}
    capacity = {name: to_units(amount) for name, amount in amounts.items()}
    capacity = {name: units for name, units in capacity.items() if units}
    capacity[THREADS] = ws.nthreads * UNIT
    return capacity


def _is_amount(amount: Any) -> bool:
    try:
        to_units(amount)
    except ValueError:
        return False
    return True


def node_of(ws: WorkerState, detected: Mapping[str, Any], registered: Mapping[str, Any]) -> Node:
    """The node that a worker is to the core."""
    enforced = set(ws.resources) - set(registered)
    host = get_address_host(ws.address)
    return Node(ws.name, capacity_of(ws, detected, registered), {ws.address, host}, enforced)


def probe_node(dask_worker: Worker) -> dict[str, Any]:
    """Run on a worker: shows that it has handoff_dask, and tells what the scheduler cannot see of it.

    Returns
    -------
    dict
        ``protocol``; ``version`` of handoff_dask; ``detected``: GPUs, and the machine's memory where the
        worker has no limit.
    """
    declared = declared_resources(dask_worker)
    detected: dict[str, Any] = {}
    if GPU not in declared and (n := count_gpus()):
        detected[GPU] = n
    if "memory" not in declared and not memory_limit(dask_worker):
        detected["memory"] = MEMORY_LIMIT // MB
    return {"protocol": PROTOCOL, "version": __version__, "detected": detected}
