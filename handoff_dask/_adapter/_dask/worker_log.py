"""The log that a worker writes about failed tasks."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

#: The logger of workers.
LOGGER = logging.getLogger("distributed.worker")


class FailedTask(NamedTuple):
    """A failed task in a log record: its key, and the beginning of its ``repr``, with its function's name."""

    key: Any
    text: str


def failed_task(record: logging.LogRecord) -> FailedTask | None:
    """Return the failed task that a record of :data:`LOGGER` is about; None if it is about something else.

    Reaches: the record that ``Worker.execute`` writes for a failed task: "Compute Failed", with the key, the
    state and the ``repr`` of the task as its first arguments.
    Why: no setting silences these records alone.
    From: Dask 2025.7.
    """
    args = record.args
    if not isinstance(record.msg, str) or not record.msg.startswith("Compute Failed"):
        return None
    if not isinstance(args, tuple) or len(args) < 3:
        return None
    return FailedTask(args[0], str(args[2]))


def has_task(worker: Any, key: Any) -> bool:
    """Return whether a worker has a task. Callable from any thread.

    Reaches: ``Worker.state.tasks``.
    Why: a log record does not name its worker.
    From: Dask 2025.7.
    """
    return key in worker.state.tasks
