"""How a run hears of its end, and how the scheduler hears that nobody will ask about it any more."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from distributed import Client

from handoff_dask._adapter.messages import RUN_DROPPED, RUN_ENDED

if TYPE_CHECKING:
    from handoff_dask._client.run import Run


def drop(client: Callable[[], Client | None], run_id: str) -> None:
    """Let the scheduler know that nobody will ask about a run any more. Also called by the collector."""
    live = client()
    if live is not None and live.status == "running":
        with contextlib.suppress(RuntimeError):  # the loop is closed: so is the client
            live.loop.add_callback(live._send_to_scheduler, {"op": RUN_DROPPED, "dropped": run_id})


_listening: weakref.WeakKeyDictionary[Client, weakref.WeakValueDictionary[str, Run]] = (
    weakref.WeakKeyDictionary()
)


def listen(client: Client, run: Run) -> None:
    """Have the run told of its end."""
    runs = _listening.get(client)
    if runs is None:
        runs = _listening[client] = weakref.WeakValueDictionary()
        live = runs

        def run_ended(run_id: str, status: str) -> None:
            ended = live.get(run_id)
            if ended is not None:
                ended._finish(status)

        client._stream_handlers[RUN_ENDED] = run_ended
    runs[run.id] = run
