"""The nodes of a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distributed import Client

from handoff_dask._adapter._dask.client import request
from handoff_dask._client.session import ask
from handoff_dask._model.hooks import module_for
from handoff_dask._model.resources import parse_amounts
from handoff_dask.exceptions import NodeNotFoundError


class Nodes(dict[Any, dict[str, float]]):
    """Node name → resource → amount: a dict that notebooks show as a table."""

    def _repr_html_(self) -> str:
        return module_for("html").nodes(self)


def discover_nodes(client: Any = None) -> Any:
    """The nodes of the cluster and what they have.

    Parameters
    ----------
    client : distributed.Client, cluster, str, optional
        As for :func:`handoff_dask.execute`.

    Returns
    -------
    dict
        Node name → resource → amount, ordered by name: ``cpu`` in cores, ``memory`` in MB, ``gpu`` in
        devices. What a worker declares wins over what it is seen to have. With an asynchronous client an
        awaitable of it. A notebook shows it as a table.

    Raises
    ------
    ClusterNotReadyError, TypeError
        As :func:`handoff_dask.submit`.
    """
    return ask(client, _discover)


async def _discover(client: Client) -> Nodes:
    found = await request(client, "handoff_nodes")
    return Nodes({node["name"]: dict(node["capacity"]) for node in found})


def register_node(name: Any, capacity: Mapping[str, Any], client: Any = None) -> Any:
    """Say what a node has, whatever it declares.

    Parameters
    ----------
    name : str or int
        The worker's name.
    capacity : mapping of str to number
        Resource → amount. Resources that are not named stay as they are; 0 takes one away. What runs on
        the node goes on; the new capacity holds for everything placed from now on.
    client : distributed.Client, cluster, str, optional
        As for :func:`handoff_dask.execute`.

    Raises
    ------
    NodeNotFoundError
        There is no such node; the error has the names there are.
    TypeError, ValueError
        An amount is not a non-negative finite number.
    """
    _check_amounts("capacity", capacity)
    if "threads" in capacity:
        raise ValueError("a node's threads are those of its worker: set them with `dask worker --nthreads`")
    return ask(client, _register, name, {r: float(n) for r, n in capacity.items()})


async def _register(client: Client, name: Any, capacity: dict[str, float]) -> None:
    known = await request(client, "handoff_register_node", name=name, capacity=capacity)
    if known is not True:
        raise NodeNotFoundError(name, known)


def resources_available(name: Any, cost: Mapping[str, Any], client: Any = None) -> Any:
    """Whether ``cost`` is free on a node at this moment.

    Parameters
    ----------
    name : str or int
        The worker's name.
    cost : mapping of str to number
        As a function's cost; the thread that every function takes is counted too.
    client : distributed.Client, cluster, str, optional
        As for :func:`handoff_dask.execute`.

    Returns
    -------
    bool

    Raises
    ------
    NodeNotFoundError
        There is no such node.
    TypeError, ValueError
        An amount is not a non-negative finite number.
    """
    _check_amounts("cost", cost)
    return ask(client, _available, name, {r: float(n) for r, n in cost.items()})


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
