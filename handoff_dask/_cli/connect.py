"""Clients for the options ``--scheduler``, ``--nodes`` and ``--processes``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import click
import dask
from distributed import Client

from handoff_dask._adapter.cluster import local_cluster
from handoff_dask._adapter.shared import close_at_exit
from handoff_dask._cli.errors import ExitCode, Failure, use_given_nodes
from handoff_dask._cli.interrupts import IgnoreInterrupts, block_interrupts_in_children, defer_interrupts
from handoff_dask._cli.loading import load_nodes
from handoff_dask._client.session import resolve_client
from handoff_dask.exceptions import ClusterNotReadyError


def scheduler_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options ``--scheduler`` and ``--connect-timeout``."""
    timeout = click.option(
        "--connect-timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="How long to try to reach the scheduler. Default: Dask's setting (30 s).",
    )
    address = click.option(
        "--scheduler", metavar="ADDRESS", help="Address of the scheduler, such as tcp://192.0.2.1:8786."
    )
    return address(timeout(command))


@contextmanager
def connected(address: str, timeout: float | None) -> Iterator[Client]:
    """Connect a client to the scheduler at an address.

    Raises
    ------
    Failure
        The address is invalid, or no scheduler answers at it.
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
def _local_nodes(nodes: Mapping[Any, Mapping[str, Any]], processes: bool) -> Iterator[Client]:
    """Start nodes on this machine, and connect a client to them."""
    with defer_interrupts():
        with block_interrupts_in_children() if processes else nullcontext():
            cluster = local_cluster(nodes, processes=processes)
        client = Client(cluster, set_as_default=False)
        if processes:
            client.register_plugin(IgnoreInterrupts())
    try:
        yield client
    except BaseException:
        # Closing now would needlessly wait half a minute for functions that still run in threads.
        close_at_exit(cluster)
        close_at_exit(client)
        raise
    client.close()
    cluster.close()


@contextmanager
def cluster_for(
    address: str | None, nodes: str | None, processes: bool, timeout: float | None
) -> Iterator[Client]:
    """Connect to a cluster, to new nodes on this machine, or to this machine as a single node."""
    if address is not None:
        if nodes is not None or processes:
            option = "--nodes" if nodes is not None else "--processes"
            raise click.UsageError(f"{option} starts nodes on this machine: pass it without --scheduler")
        with connected(address, timeout) as client:
            yield client
    elif nodes is not None:
        use_given_nodes(nodes)
        with _local_nodes(load_nodes(nodes), processes) as client:
            yield client
    elif processes:
        raise click.UsageError("--processes applies to the nodes of --nodes: pass --nodes FILE too")
    else:
        use_given_nodes(None)
        yield resolve_client(None, reuse=True)[0]
