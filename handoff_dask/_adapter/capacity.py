"""The capacity of a node: registered, declared or detected amounts."""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from distributed.comm.addressing import get_address_host
from distributed.system import MEMORY_LIMIT

from handoff_dask._adapter._dask.workers import declared_resources, memory_limit
from handoff_dask._adapter.messages import PROTOCOL
from handoff_dask._model.resources import GPU, MB, THREADS, UNIT, hint_at_names, to_units
from handoff_dask._scheduling.node import Node
from handoff_dask._version import __version__

if TYPE_CHECKING:
    from distributed import Worker
    from distributed.scheduler import WorkerState

logger = logging.getLogger("handoff_dask")


@cache
def count_gpus() -> int:
    """Return the number of GPUs this process may use: 0 without a working ``nvidia-smi``.

    ``CUDA_VISIBLE_DEVICES``, if set, takes precedence.
    """
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
    """Return a worker's capacity in units.

    For each resource, a registered amount takes precedence over a declared one, and a declared amount over a
    detected one. Detected are cores from the worker's threads, memory from its memory limit, and GPUs from
    its devices. A declared amount that is negative or not a finite number counts as zero, because such a
    worker never starts a task that asks for the resource.
    """
    found: dict[str, Any] = {"cpu": ws.nthreads, **detected}
    if ws.memory_limit:
        found["memory"] = ws.memory_limit // MB
    declared = {name: amount for name, amount in ws.resources.items() if _is_amount(amount)}
    invalid = dict.fromkeys(ws.resources.keys() - declared.keys(), 0)
    amounts = {**found, **declared, **invalid, **registered}
    capacity = {name: to_units(amount) for name, amount in amounts.items()}
    capacity = {name: units for name, units in capacity.items() if units}
    capacity[THREADS] = ws.nthreads * UNIT
    return capacity


def log_hints(nodes: Mapping[Any, Mapping[str, Any]]) -> None:
    """Log a warning for each resource of the nodes whose name is probably misspelt."""
    for hint in hint_at_names(nodes):
        logger.warning("%s", hint)


def _is_amount(amount: Any) -> bool:
    try:
        to_units(amount)
    except ValueError:
        return False
    return True


def node_of(ws: WorkerState, detected: Mapping[str, Any], registered: Mapping[str, Any]) -> Node:
    """Return a worker as a node of the scheduling core."""
    enforced = set(ws.resources) - set(registered)
    host = get_address_host(ws.address)
    return Node(ws.name, capacity_of(ws, detected, registered), {ws.address, host}, enforced)


def probe_node(dask_worker: Worker) -> dict[str, Any]:
    """Report, from a worker, its handoff_dask version and the hardware that the scheduler cannot see.

    The scheduler calls this function on each worker. An answer also proves that handoff_dask is installed
    there.

    Returns
    -------
    dict
        ``protocol``; ``version`` of handoff_dask; ``detected``, a dict with the number of GPUs (``gpu``) and,
        if the worker has no memory limit, the machine's memory in MB (``memory``). Resources that the worker
        declares are left out.
    """
    declared = declared_resources(dask_worker)
    detected: dict[str, Any] = {}
    if GPU not in declared and (n := count_gpus()):
        detected[GPU] = n
    if "memory" not in declared and not memory_limit(dask_worker):
        detected["memory"] = MEMORY_LIMIT // MB
    return {"protocol": PROTOCOL, "version": __version__, "detected": detected}
