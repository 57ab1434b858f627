"""Clusters on this machine: unequal ones for development and tests, and the embedded cluster."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, ParamSpec, TypeVar

from dask.system import CPU_COUNT
from distributed import Nanny, Scheduler, Security, SpecCluster, Worker
from distributed.system import MEMORY_LIMIT

from handoff_dask._adapter.capacity import count_gpus, log_hints
from handoff_dask._adapter.quiet import QuietFailures
from handoff_dask._adapter.shared import shared
from handoff_dask._model.resources import GPU, MB, NODES_SHAPE, THREADS, UNIT, parse_nodes, to_number
from handoff_dask._suggest import check_keywords

P = ParamSpec("P")
R = TypeVar("R")


def _require_nodes(start: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that the error for missing ``nodes`` shows what they look like."""

    @functools.wraps(start)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        if not args and "nodes" not in kwargs:
            raise TypeError(f"{start.__name__}() missing required argument 'nodes': {NODES_SHAPE}")
        return start(*args, **kwargs)

    return checked


@_require_nodes
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
    nodes : mapping of name to mapping of resource to number or str
        The capacity of each node: ``{"node1": {"cpu": 4, "memory": "8GB", "gpu": 1}}``. ``memory``
        is in MB (2**20 bytes) or a string with a unit, as in the cost of a :class:`Function`. A node has
        ``max(1, int(cpu))`` threads unless ``threads`` is given. The amounts limit which functions run at
        the same time; the operating system does not enforce them.
    processes : bool
        Run each node in a separate process. Otherwise all nodes run in this process, and Dask's log leaves
        out failed attempts, which the errors of their runs describe.
    asynchronous : bool
        Create the cluster for an asynchronous client: ``async with local_cluster(..., asynchronous=True)``.
    security : distributed.Security or bool, optional
        Certificates with which to encrypt all connections of the cluster, even if all nodes run in this
        process. True creates temporary ones. A client of the cluster uses them automatically.
    **options
        Passed to ``distributed.SpecCluster``.

    Returns
    -------
    distributed.SpecCluster
        A context manager, which ``distributed.Client`` and :func:`handoff_dask.execute` accept.

    Raises
    ------
    TypeError
        ``nodes`` or a node's capacity is not a mapping, an option is unknown, or ``security`` is neither a
        bool nor a ``distributed.Security``.
    ValueError
        ``nodes`` is empty, ``threads`` is not a whole number of at least 1, or an amount is not a
        non-negative finite number.
    ImportError
        ``security=True``, and the package cryptography is not installed.
    """
    own = ("processes", "asynchronous", "security")
    check_keywords("local_cluster", options, [*own, *signature(SpecCluster).parameters])
    if security is True:
        security = Security.temporary()
    elif not security:
        security = None
    elif not isinstance(security, Security):
        raise TypeError(f"security must be a distributed.Security or True, not {security!r}")
    parsed = parse_nodes(nodes)
    log_hints(nodes)
    protocol = "tls" if security is not None else "tcp" if processes else "inproc"
    workers = {}
    for name, capacity in nodes.items():
        resources = {r: float(to_number(r, n)) for r, n in capacity.items() if r != THREADS}
        if count_gpus():
            resources.setdefault(GPU, 0)  # keeps each node from detecting the GPUs of this machine
        # No memory limit: Dask would enforce it on the whole process, and pause or kill nodes that share one
        # process or declare small amounts for a test.
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
        else:
            worker["plugins"] = (QuietFailures(),)
        workers[name] = {"cls": Nanny if processes else Worker, "options": worker}
    scheduler: dict[str, Any] = {
        "protocol": protocol,
        "dashboard": False,
        "dashboard_address": ":0",
        "port": 0,
        "security": security,
    }
    if security is not None:
        scheduler["host"] = "127.0.0.1"
        for spec in workers.values():
            spec["options"]["host"] = "127.0.0.1"
    options.setdefault("silence_logs", logging.ERROR)
    return SpecCluster(
        workers=workers,
        scheduler={"cls": Scheduler, "options": scheduler},
        asynchronous=asynchronous,
        security=security,
        **options,
    )


def embedded_cluster() -> SpecCluster:
    """Return the embedded cluster, started on first use: one node in this process.

    The node has the cores, memory and GPUs that this process may use.
    """
    cluster: SpecCluster = shared("embedded", _start_embedded)
    return cluster


def _start_embedded() -> SpecCluster:
    capacity = {"cpu": CPU_COUNT, "memory": MEMORY_LIMIT // MB}
    if gpus := count_gpus():
        capacity[GPU] = gpus
    return local_cluster({"embedded": capacity})
