"""Package versions of client, scheduler and workers, for errors that a mismatch may explain."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from distributed import Client

from handoff_dask._adapter._dask.client import ask_versions
from handoff_dask.exceptions import ClusterNotReadyError

#: Packages whose versions must match.
PACKAGES = ("handoff_dask", "dask", "distributed")

#: Seconds to wait for the versions: a stuck worker must not delay the error.
TIMEOUT = 5.0

#: Maximum number of workers of the same versions that are listed by address.
NAMED = 3

#: Package → version; None if it is not installed.
Versions = Mapping[str, str | None]


async def with_versions(client: Client, error: ClusterNotReadyError) -> ClusterNotReadyError:
    """Return the error, extended by the versions if they can be collected."""
    try:
        found = await asyncio.wait_for(ask_versions(client, PACKAGES), TIMEOUT)
    except Exception:  # for example a broken connection: the original error matters more
        return error
    return ClusterNotReadyError(f"{error}. Versions: {describe_versions(*found)}")


def describe_versions(client: Versions, scheduler: Versions, workers: Mapping[str, Versions]) -> str:
    """Format the versions of the client, the scheduler and the workers (by address) as text.

    Workers with the same versions are grouped.
    """
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
