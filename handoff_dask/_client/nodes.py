"""Discovery, registration and free capacity of a cluster's nodes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from distributed import Client

from handoff_dask._adapter._dask.client import request
from handoff_dask._client.session import ask
from handoff_dask._model.hooks import module_for
from handoff_dask._model.resources import hint_at_bytes, parse_amounts, to_number
from handoff_dask.exceptions import NodeNotFoundError


class Nodes(dict[Any, dict[str, float]]):
    """Node name → resource → amount. A dict that notebooks render as a table."""

    def _repr_html_(self) -> str:
        return module_for("html").nodes(self)


def discover_nodes(client: Any = None) -> Any:
    """Return the nodes of a cluster with their capacities.

    Parameters
    ----------
    client : distributed.Client, cluster, str, optional
        As for :func:`handoff_dask.execute`.

    Returns
    -------
    dict
        Node name → resource → amount, ordered by name: ``cpu`` in cores, ``memory`` in MB (2**20 bytes),
        ``gpu`` in devices. Amounts that a worker declares take precedence over detected ones. Notebooks
        render it as a table. With an asynchronous client, an awaitable of it.

    Raises
    ------
    ClusterNotReadyError, TypeError
        As for :func:`handoff_dask.submit`.
    """
    return ask(client, _discover)


async def _discover(client: Client) -> Nodes:
    found = await request(client, "handoff_nodes")
    return Nodes({node["name"]: dict(node["capacity"]) for node in found})


def register_node(name: Any, capacity: Mapping[str, Any], client: Any = None) -> Any:
    """Set a node's capacity, overriding what its worker declares.

    Functions that run on the node continue; the new capacity applies to later placements.

    Parameters
    ----------
    name : str or int
        The worker's name.
    capacity : mapping of str to number or str
        Resource → amount, in the units of a function's cost. Unnamed resources keep their amounts; 0 removes
        a resource.
    client : distributed.Client, cluster, str, optional
        As for :func:`handoff_dask.execute`. With an asynchronous client, the call returns an awaitable.

    Raises
    ------
    NodeNotFoundError
        No node has this name; the error lists the existing names.
    TypeError, ValueError
        An amount is not a non-negative finite number, or ``capacity`` names ``threads``, which are always the
        worker's.
    """
    _check_amounts("capacity", capacity)
    if "threads" in capacity:
        raise ValueError("capacity cannot set threads, which are the worker's: use `dask worker --nthreads`")
    if (hint := hint_at_bytes(capacity)) is not None:
        warnings.warn(f"capacity: {hint}", stacklevel=2)
    return ask(client, _register, name, {r: float(to_number(r, n)) for r, n in capacity.items()})


async def _register(client: Client, name: Any, capacity: dict[str, float]) -> None:
    known = await request(client, "handoff_register_node", name=name, capacity=capacity)
    if known is not True:
        raise NodeNotFoundError(name, known)


def resources_available(name: Any, cost: Mapping[str, Any], client: Any = None) -> Any:
    """Whether a node has enough free capacity for ``cost`` right now.

    Parameters
    ----------
    name : str or int
        The worker's name.
    cost : mapping of str to number or str
        As a function's cost. The thread that every function takes is added.
    client : distributed.Client, cluster, str, optional
        As for :func:`handoff_dask.execute`.

    Returns
    -------
    bool
        With an asynchronous client, an awaitable of it.

    Raises
    ------
    NodeNotFoundError
        No node has this name; the error lists the existing names.
    TypeError, ValueError
        An amount is not a non-negative finite number.
    """
    _check_amounts("cost", cost)
    return ask(client, _available, name, {r: float(to_number(r, n)) for r, n in cost.items()})


async def _available(client: Client, name: Any, cost: dict[str, float]) -> bool:
    answer = await request(client, "handoff_available", name=name, cost=cost)
    if not isinstance(answer, bool):
        raise NodeNotFoundError(name, answer)
    return answer


def _check_amounts(what: str, amounts: Any) -> None:
    if not isinstance(amounts, Mapping):
        raise TypeError(f"{what} must be a mapping of resource names to numbers, not {amounts!r}")
    try:
        parse_amounts(amounts)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
