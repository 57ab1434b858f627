"""Progress of a run: fetched from the scheduler and passed to a display while the run lasts."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

from handoff_dask._client.run import Run
from handoff_dask._model.progress import FailedAttempt, NodeLoad, Progress, Waiting

#: Seconds between two updates of a display.
REFRESH_INTERVAL = 0.25

#: Longest pause, in seconds, between two updates in the background; the pause grows as the run goes on.
MAX_REFRESH_INTERVAL = 2.0


class Display(Protocol):
    """A sink for progress, such as a progress bar."""

    def update(self, progress: Progress) -> None:
        """Show this progress."""

    def close(self) -> None:
        """Stop updating; leave the last state visible."""


async def wait_with_display(run: Run, timeout: float | None, display: Display) -> bool:
    """Wait for the end of a run and show its progress. Return whether it has ended."""
    progress = progress_of({}, run._compiled.ids, run.elapsed)
    try:
        while True:
            left = REFRESH_INTERVAL if timeout is None else min(REFRESH_INTERVAL, timeout - run.elapsed)
            ended = await run._wait(max(0.0, left))
            answer = await run._progress(progress.failed_total)
            progress = _after(progress, answer, run)
            display.update(progress)
            if ended or left < REFRESH_INTERVAL:
                return ended
    finally:
        display.close()


def _after(before: Progress, answer: dict[str, Any], run: Run) -> Progress:
    """Return the progress by the scheduler's answer, or the last known one if it no longer knows the run."""
    if answer or not run._compiled.keys:
        return progress_of(answer, run._compiled.ids, run.elapsed)
    return before._replace(
        elapsed=run.elapsed,
        failed_attempts=(),
        more_failed_attempts=0,
        eta=None,
        lost=run._unreachable_reason,
    )


def follow_in_background(run: Run, display: Display) -> None:
    """Show a run's progress in the background until it ends. Callable from any thread; returns at once."""
    reference = weakref.ref(run)

    def start() -> None:
        followed = reference()
        if followed is None:
            return
        # An empty context: a notebook stores the running cell in it, and that cell may have ended by now.
        task = asyncio.get_running_loop().create_task(
            _follow(reference, display), context=contextvars.Context()
        )
        followed._display_tasks.add(task)
        task.add_done_callback(followed._display_tasks.discard)

    with contextlib.suppress(RuntimeError):  # the event loop is closed, so the run has ended
        run._client.loop.add_callback(start)


async def _follow(reference: Callable[[], Run | None], display: Display) -> None:
    """Update a display now and then, and once more at the end, without keeping the run alive."""
    seen = 0
    try:
        while (run := reference()) is not None:
            with contextlib.suppress(Exception):  # raised for the code that awaits the run
                await run._wait_started()
            ended = run.done()
            answer: dict[str, Any] = {}
            with contextlib.suppress(OSError):  # the connection is gone; the client will soon close
                answer = await run._progress(seen)
            progress = _after(
                run._last_progress or progress_of({}, run._compiled.ids, run.elapsed), answer, run
            )
            if answer or progress.lost is not None:
                run._last_progress = progress
                seen = progress.failed_total
                display.update(progress)
            if ended:
                return
            event, pause = run._ended, min(MAX_REFRESH_INTERVAL, max(REFRESH_INTERVAL, run.elapsed / 40))
            del run
            with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                await asyncio.wait_for(event.wait(), pause)
    finally:
        display.close()


def progress_of(answer: dict[str, Any], ids: Sequence[Hashable], elapsed: float) -> Progress:
    """Convert the scheduler's answer: function numbers become ids."""
    failed_attempts = tuple(
        FailedAttempt(ids[number], *rest) for number, *rest in answer.get("failed_attempts", ())
    )
    nodes = tuple(NodeLoad(*node) for node in answer.get("nodes", ()))
    eta, known = answer.get("eta") or (None, 0.0)
    failed_total = answer.get("failed_total", 0)
    waiting = answer.get("waiting")
    return Progress(
        total=len(ids),
        counts=answer.get("counts", {}),
        elapsed=elapsed,
        nodes=nodes,
        more_nodes=answer.get("more_nodes", 0),
        failed_attempts=failed_attempts,
        more_failed_attempts=answer.get("more_failed_attempts", 0),
        failed_total=failed_total,
        lost_total=answer.get("lost_total", 0),
        eta=eta,
        known=known,
        waiting=None if waiting is None else Waiting(*waiting),
    )
