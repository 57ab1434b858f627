"""From ``--scheduler`` and ``--nodes`` to a client."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import click
import dask
from distributed import Client

from handoff_dask._adapter.cluster import local_cluster
from handoff_dask._adapter.shared import close_at_exit
from handoff_dask._cli.errors import ExitCode, Failure
from handoff_dask._cli.interrupts import Deaf, children_uninterrupted, uninterrupted
from handoff_dask._cli.loading import load_nodes
from handoff_dask._client.session import resolve_client
from handoff_dask.exceptions import ClusterNotReadyError


def scheduler_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which cluster to use."""
    timeout = click.option(
        "--connect-timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="How long to try to reach the scheduler; Dask's own setting if not given (30 s).",
    )
    address = click.option(
        "--scheduler", metavar="ADDRESS", help="Address of the scheduler, such as tcp://192.0.2.1:8786."
    )
    return address(timeout(command))


@contextmanager
def connected(address: str, timeout: float | None) -> Iterator[Client]:
    """A client of the cluster at an address.

    Raises
    ------
    Failure
        It is no address, or no scheduler answers there.
    """
    setting = {} if timeout is None else {"distributed.comm.timeouts.connect": f"{timeout} s"}
    with dask.config.set(setting):
        try:
            client, _ = resolve_client(address, reuse=False)
        except (ValueError, ClusterNotReadyError) as error:
            code = ExitCode.INVALID if isinstance(error, ValueError) else ExitCode.NOT_READY
            raise Failure(f"--scheduler{str(error).removeprefix('client')}", code) from error
        with client:
            yield client


@contextmanager
def _made_here(nodes: Mapping[Any, Mapping[str, Any]], processes: bool) -> Iterator[Client]:
    with uninterrupted():
        with children_uninterrupted() if processes else nullcontext():
            cluster = local_cluster(nodes, processes=processes)
        client = Client(cluster, set_as_default=False)
        if processes:
            client.register_plugin(Deaf())
    try:
        yield client
    except BaseException:
        # Not now: it would wait for functions that still run in threads, for half a minute and for nothing.
        close_at_exit(cluster)
        close_at_exit(client)
        raise
    client.close()
    cluster.close()


@contextmanager
def cluster_for(
    address: str | None, nodes: str | None, processes: bool, timeout: float | None
) -> Iterator[Client]:
    """A client of a cluster that is there, of nodes made here, or of this machine as one node."""
    if address is not None:
        if nodes is not None or processes:
            what = "--nodes" if nodes is not None else "--processes"
            raise click.UsageError(f"{what} makes a cluster here; it does not go with --scheduler")
        with connected(address, timeout) as client:
            yield client
    elif nodes is not None:
        with _made_here(load_nodes(nodes), processes) as client:
            yield client
    elif processes:
        raise click.UsageError("--processes says how the nodes of --nodes are made, but there is no --nodes")
    else:
        yield resolve_client(None, reuse=True)[0]
