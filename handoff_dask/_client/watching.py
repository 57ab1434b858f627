"""Looking at a run while waiting for it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Protocol

from handoff_dask._client.run import Run
from handoff_dask._model.progress import NodeLoad, Progress, Trouble

#: Seconds between two looks at a run.
INTERVAL = 0.25


class Display(Protocol):
    """What shows how far a run is."""

    def update(self, progress: Progress) -> None:
        """Show it."""

    def close(self) -> None:
        """Leave what is shown as it is."""


async def watch(run: Run, timeout: float | None, display: Display) -> bool:
    """Wait for the end and show how far the run is meanwhile. Answers whether it has ended."""
    seen = 0
    try:
        while True:
            left = INTERVAL if timeout is None else min(INTERVAL, timeout - run.elapsed)
            ended = await run._wait(max(0.0, left))
            answer = await run._progress(seen)
            progress = progress_of(answer, run._compiled.ids, run.elapsed)
            seen = progress.tries
            display.update(progress)
            if ended or left < INTERVAL:
                return ended
    finally:
        display.close()


def progress_of(answer: dict[str, Any], ids: Sequence[Hashable], elapsed: float) -> Progress:
    """What the scheduler answered, with ids."""
    troubles = tuple(Trouble(ids[number], *rest) for number, *rest in answer.get("troubles", ()))
    nodes = tuple(NodeLoad(*node) for node in answer.get("nodes", ()))
    remaining, known = answer.get("remaining") or (None, 0.0)
    tries = answer.get("tries", 0)
    return Progress(
        total=len(ids),
        counts=answer.get("counts", {}),
        elapsed=elapsed,
        nodes=nodes,
        more_nodes=answer.get("more_nodes", 0),
        troubles=troubles,
        more_troubles=answer.get("more_troubles", 0),
        tries=tries,
        remaining=remaining,
        known=known,
    )
