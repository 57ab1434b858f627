"""Which versions a client, its scheduler and the workers have, for errors about those that do not fit."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from distributed import Client

from handoff_dask._adapter._dask.client import ask_versions
from handoff_dask.exceptions import ClusterNotReadyError

#: Packages that have to fit together.
PACKAGES = ("handoff_dask", "dask", "distributed")

#: Seconds to wait for the answers: the error that they are for is not to wait for a worker that is stuck.
TIMEOUT = 5.0

#: Workers of the same versions that are named.
NAMED = 3

#: Package → version; None if it is not there.
Versions = Mapping[str, str | None]


async def with_versions(client: Client, error: ClusterNotReadyError) -> ClusterNotReadyError:
    """The error, with all versions if they can be asked for."""
    try:
        found = await asyncio.wait_for(ask_versions(client, PACKAGES), TIMEOUT)
    except Exception:  # the connection broke, or something else is wrong: the error itself matters more
        return error
    return ClusterNotReadyError(f"{error}. Versions: {describe_versions(*found)}")


def describe_versions(client: Versions, scheduler: Versions, workers: Mapping[str, Versions]) -> str:
    """Versions in words: of the client, of the scheduler and of the workers, by address."""
    alike: dict[str, list[str]] = {}
    for address, versions in workers.items():
        alike.setdefault(_listed(versions), []).append(address)
    sides = [f"client: {_listed(client)}", f"scheduler: {_listed(scheduler)}"]
    for listed, addresses in alike.items():
        more = len(addresses) - NAMED
        which = ", ".join(addresses[:NAMED]) + (f" and {more} more" if more > 0 else "")
        sides.append(f"{'worker' if len(addresses) == 1 else 'workers'} {which}: {listed}")
    return "; ".join(sides)


def _listed(versions: Versions) -> str:
    return ", ".join(f"{name} {versions.get(name) or 'not installed'}" for name in PACKAGES)
