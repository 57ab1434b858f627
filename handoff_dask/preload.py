"""For ``dask scheduler --preload handoff_dask.preload`` and ``dask worker --preload handoff_dask.preload``.

On a scheduler, the preload installs the plugin, so that clients do not have to. This is required if
``distributed.scheduler.pickle`` is false. On a worker it installs nothing, but a worker that cannot import
handoff_dask fails at startup.
"""

from __future__ import annotations

from typing import Any

from distributed import Scheduler

from handoff_dask._adapter.messages import NAME
from handoff_dask._adapter.plugin import HandoffPlugin


async def dask_setup(server: Any) -> None:
    """Install the plugin if ``server``, the scheduler or worker that Dask is starting, is a scheduler."""
    if isinstance(server, Scheduler):
        await server.register_scheduler_plugin(HandoffPlugin(), name=NAME, idempotent=True)
