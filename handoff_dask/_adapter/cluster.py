"""Clusters on this machine: an unequal one for development and tests, and the embedded one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from dask.system import CPU_COUNT
from distributed import Nanny, Scheduler, Security, SpecCluster, Worker
from distributed.system import MEMORY_LIMIT

from handoff_dask._adapter.capacity import MB, count_gpus
from handoff_dask._adapter.shared import shared
from handoff_dask._model.resources import GPU, THREADS, UNIT, parse_nodes


def local_cluster(
    nodes: Mapping[Any, Mapping[str, Any]],
    *,
    processes: bool = False,
    asynchronous: bool = False,
    security: Security | bool | None = None,
    **options: Any,
) -> SpecCluster:
    """Start a cluster of unequal nodes on this machine.

    Parameters
    ----------
    nodes : mapping of name to mapping of resource to number
        Each node's capacity: ``{"node1": {"cpu": 4, "memory": 8192, "gpu": 1}}``. A node's threads are
        ``max(1, int(cpu))`` unless ``threads`` is given. Amounts are what functions can ask for; the
        processes themselves are not limited to them.
    processes : bool
        Each node in a process of its own; otherwise all in this one.
    asynchronous : bool
        For use with an asynchronous client: ``async with local_cluster(..., asynchronous=True)``.
    security : distributed.Security or bool, optional
        Certificates, with which all connections of the cluster are encrypted, in one process, too; True makes
        some for this cluster. A client that is given the cluster uses them.
    **options
        Passed on to ``distributed.SpecCluster``.

    Returns
    -------
    distributed.SpecCluster
        A context manager, which ``distributed.Client`` and :func:`handoff_dask.execute` accept.

    Raises
    ------
    TypeError
        ``nodes``, or a node's capacity, is not a mapping; ``security`` is something else.
    ValueError
        No nodes; threads that are not a whole number of at least 1; an amount that is not a non-negative
        finite number.
    ImportError
        ``security=True``, and the package cryptography is not installed.
    """
    if security is True:
        security = Security.temporary()
    elif not security:
        security = None
    elif not isinstance(security, Security):
        raise TypeError(f"security must be a distributed.Security or True, not {security!r}")
    parsed = parse_nodes(nodes)
    protocol = "tls" if security is not None else "tcp" if processes else "inproc"
    workers = {}
    for name, capacity in nodes.items():
        resources = {r: float(n) for r, n in capacity.items() if r != THREADS}
        if count_gpus():
            resources.setdefault(GPU, 0)  # devices of this machine are not devices of its make-believe nodes
        # The limit would be enforced on the process: for nodes in one process, and for amounts chosen for
        # a test, that would pause or kill them.
        worker: dict[str, Any] = {
            "name": name,
            "nthreads": parsed[name][THREADS] // UNIT,
            "resources": resources,
            "memory_limit": 0,
            "dashboard": False,
            "protocol": protocol,
            "security": security,
        }
        if processes:
            worker["silence_logs"] = logging.ERROR
        workers[name] = {"cls": Nanny if processes else Worker, "options": worker}
    served: dict[str, Any] = {
        "protocol": protocol,
        "dashboard": False,
        "dashboard_address": ":0",
        "port": 0,
        "security": security,
    }
    if security is not None:
        served["host"] = "127.0.0.1"
        for spec in workers.values():
            spec["options"]["host"] = "127.0.0.1"
    options.setdefault("silence_logs", logging.ERROR)
    return SpecCluster(
        workers=workers,
        scheduler={"cls": Scheduler, "options": served},
        asynchronous=asynchronous,
        security=security,
        **options,
    )


def embedded_cluster() -> SpecCluster:
    """Return the cluster in this process: one node with its cores and memory. Started at first use."""
    cluster: SpecCluster = shared("embedded", _start_embedded)
    return cluster


def _start_embedded() -> SpecCluster:
    capacity = {"cpu": CPU_COUNT, "memory": MEMORY_LIMIT // MB}
    if gpus := count_gpus():
        capacity[GPU] = gpus
    return local_cluster({"embedded": capacity})
