"""A run's wait for suitable nodes before it begins, as known to its client."""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable, Sequence
from typing import Any

from handoff_dask._model.progress import Waiting

logger = logging.getLogger("handoff_dask")


class NodeWait:
    """One run's wait for nodes. Logs the beginning and the end of the wait.

    Parameters
    ----------
    run_id : str
    dag_id : hashable
    """

    def __init__(self, run_id: str, dag_id: Hashable) -> None:
        self._names = run_id, dag_id
        self._waiting: Waiting | None = None
        self._updated_at = 0.0  # on the monotonic clock

    def update(self, waiting: Sequence[Any] | None) -> None:
        """Store the scheduler's latest report on the wait; None means that the run does not wait."""
        if waiting is not None:
            first = self._waiting is None
            self._waiting, self._updated_at = Waiting(*waiting), time.monotonic()
            if first:
                logger.info("Run %s of DAG %r: %s", *self._names, self._waiting)

    def end(self, status: str) -> None:
        """End the wait, if the run was waiting: the run now has this status."""
        if (waiting := self.current) is not None:
            self._waiting = None
            facts = (*self._names, status, waiting.seconds, waiting.awaited)
            logger.info("Run %s of DAG %r: %s after %.0f s of waiting for %s", *facts)

    @property
    def current(self) -> Waiting | None:
        """The wait as of now, or None if the run does not wait."""
        waiting = self._waiting
        if waiting is None:
            return None
        return waiting._replace(seconds=waiting.seconds + time.monotonic() - self._updated_at)
