"""Installing the scheduler plugin over a client's connection, and what to say when that cannot be done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distributed import Client
from distributed.protocol import pickle

from handoff_dask._adapter._dask.client import request
from handoff_dask._adapter.messages import NAME, PROTOCOL
from handoff_dask._adapter.plugin import HandoffPlugin
from handoff_dask._adapter.versions import with_versions
from handoff_dask._version import __version__
from handoff_dask.exceptions import ClusterNotReadyError


async def install(client: Client) -> Any:
    """Install the scheduler plugin unless it is there.

    Returns
    -------
    object
        What the plugin says of itself: :func:`check_protocol` takes it.

    Raises
    ------
    OSError
        The connection to the scheduler broke.
    ClusterNotReadyError
        The scheduler does not let us, or lacks handoff_dask.
    """
    installed = await request(client, "get_metadata", keys=[NAME], default=None)
    if installed is None:
        try:
            plugin = pickle.dumps(HandoffPlugin())
            await request(client, "register_scheduler_plugin", plugin=plugin, name=NAME, idempotent=True)
        except OSError:
            raise
        except Exception as error:
            raise await with_versions(client, ClusterNotReadyError(_explain_failure(error))) from error
        installed = await request(client, "get_metadata", keys=[NAME], default=None)
    return installed


def _explain_failure(error: Exception) -> str:
    """Why the plugin could not be installed, and what to do, in one sentence."""
    text = str(error)
    if "pickle" in text and isinstance(error, ValueError):
        return (
            "the scheduler accepts no plugins from clients (distributed.scheduler.pickle is false):"
            " start it with `dask scheduler --preload handoff_dask.preload`"
        )
    if isinstance(error, ModuleNotFoundError) or "No module named" in text:
        return (
            f"the scheduler cannot import what it needs ({text}): install handoff-dask"
            f" {__version__} in the environment of the scheduler and of every worker"
        )
    return (
        f"the scheduler could not install the handoff_dask plugin ({type(error).__name__}: {text}):"
        " start it with `dask scheduler --preload handoff_dask.preload`"
    )


def explain_unusable(workers: Mapping[str, str]) -> str:
    """Why no worker can run functions, and what to do."""
    address, problem = next(iter(workers.items()))
    others = f" (and {len(workers) - 1} more)" if len(workers) > 1 else ""
    return (
        f"no worker can run functions of handoff_dask: {address}{others} answered {problem}; install"
        f" handoff-dask {__version__} in the environment of every worker"
    )


def check_protocol(installed: Any) -> None:
    """Raise unless the scheduler's handoff_dask and this one understand each other."""
    if not isinstance(installed, dict) or installed.get("protocol") != PROTOCOL:
        version = installed.get("version") if isinstance(installed, dict) else "of an unknown version"
        raise ClusterNotReadyError(
            f"the scheduler runs handoff_dask {version}, this client {__version__}, and they do"
            " not understand each other: install the same version on both"
        )
