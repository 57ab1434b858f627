"""Install the scheduler plugin over a client's connection, and explain failures to do so."""

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
    """Install the scheduler plugin if it is missing. Idempotent.

    Returns
    -------
    object
        The plugin's protocol and version, for :func:`check_protocol`.

    Raises
    ------
    OSError
        The connection to the scheduler broke.
    ClusterNotReadyError
        The scheduler accepts no plugins, or handoff_dask cannot be imported there.
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
    """Return why the plugin could not be installed, and the remedy, in one sentence."""
    text = str(error)
    if "pickle" in text and isinstance(error, ValueError):
        return (
            "the scheduler accepts no plugins from clients (distributed.scheduler.pickle is false):"
            " start it with `dask scheduler --preload handoff_dask.preload`"
        )
    if isinstance(error, ModuleNotFoundError) or "No module named" in text:
        return (
            f"the scheduler cannot import handoff_dask or one of its dependencies ({text}): install"
            f" handoff-dask {__version__} in the environment of the scheduler and of every worker"
        )
    return (
        f"the scheduler could not install the handoff_dask plugin ({type(error).__name__}: {text}):"
        " start it with `dask scheduler --preload handoff_dask.preload`"
    )


def explain_unusable(workers: Mapping[str, str]) -> str:
    """Return why no worker can run functions, and the remedy.

    Parameters
    ----------
    workers : mapping of str to str
        Address of each unusable worker → the error with which it answered.
    """
    address, problem = next(iter(workers.items()))
    others = f" (and {len(workers) - 1} more)" if len(workers) > 1 else ""
    return (
        f"no worker can run functions of handoff_dask: {address}{others} answered {problem}; install"
        f" handoff-dask {__version__} in the environment of every worker"
    )


def check_protocol(installed: Any) -> None:
    """Check that the scheduler's handoff_dask is compatible with this one.

    Parameters
    ----------
    installed : object
        Returned by :func:`install`.

    Raises
    ------
    ClusterNotReadyError
        The protocol versions differ.
    """
    if not isinstance(installed, dict) or installed.get("protocol") != PROTOCOL:
        version = installed.get("version") if isinstance(installed, dict) else "of an unknown version"
        raise ClusterNotReadyError(
            f"incompatible versions: the scheduler runs handoff_dask {version}, this client {__version__};"
            " install the same version on both"
        )
