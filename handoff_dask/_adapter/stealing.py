"""What Dask's work stealing remembers of our functions, of which it takes none."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import Scheduler
    from distributed.scheduler import TaskState


def forget(scheduler: Scheduler, ts: TaskState) -> None:
    """Have it forget a task, with its code and its arguments.

    Dask keeps every task of a name of which it does not know how long they take until one has finished: for
    ever, where they always fail.
    """
    unknown = getattr(scheduler.extensions.get("stealing"), "unknown_durations", {})
    waiting = unknown.get(ts.prefix.name)
    if waiting is not None:
        waiting.discard(ts)
        if not waiting:
            del unknown[ts.prefix.name]
