"""For ``dask scheduler --preload handoff_dask.preload`` and ``dask worker --preload handoff_dask.preload``.

On a scheduler it installs the plugin, so that no client has to: needed where
``distributed.scheduler.pickle`` is false. On a worker there is nothing to install, but a worker that starts
shows that handoff_dask can be imported there.
"""

from __future__ import annotations

from typing import Any

from distributed import Scheduler

from handoff_dask._adapter.messages import NAME
from handoff_dask._adapter.plugin import HandoffPlugin


async def dask_setup(server: Any) -> None:
    """Dask calls this with the scheduler or the worker that starts."""
    if isinstance(server, Scheduler):
        await server.register_scheduler_plugin(HandoffPlugin(), name=NAME, idempotent=True)
