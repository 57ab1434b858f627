"""What a run waits for before it begins, as far as its client knows."""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable, Sequence
from typing import Any

from handoff_dask._model.progress import Waiting

logger = logging.getLogger("handoff_dask")


class NodeWait:
    """The wait of one run for nodes; its beginning and its end are logged.

    Parameters
    ----------
    run_id : str
    dag_id : hashable
    """

    def __init__(self, run_id: str, dag_id: Hashable) -> None:
        self._names = run_id, dag_id
        self._waiting: Waiting | None = None
        self._at = 0.0  # on the monotonic clock

    def update(self, waiting: Sequence[Any] | None) -> None:
        """Take note of what the scheduler says that the run waits for."""
        if waiting is not None:
            first = self._waiting is None
            self._waiting, self._at = Waiting(*waiting), time.monotonic()
            if first:
                logger.info("Run %s of DAG %r: %s", *self._names, self._waiting)

    def end(self, status: str) -> None:
        """The run does not wait any more, and has this status now."""
        if (waiting := self.current) is not None:
            self._waiting = None
            what = (*self._names, status, waiting.seconds, waiting.awaited)
            logger.info("Run %s of DAG %r: %s after %.0f s of waiting for %s", *what)

    @property
    def current(self) -> Waiting | None:
        """What it waits for now, None if it does not."""
        waiting = self._waiting
        if waiting is None:
            return None
        return waiting._replace(seconds=waiting.seconds + time.monotonic() - self._at)
