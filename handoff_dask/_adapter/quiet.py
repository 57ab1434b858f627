"""Silence about failed attempts: the errors of their runs report them."""

from __future__ import annotations

import logging
from typing import Any

from distributed import WorkerPlugin

from handoff_dask._adapter._dask.worker_log import LOGGER, failed_task, has_task
from handoff_dask._adapter.compile import run_id_in
from handoff_dask._adapter.worker import run_function


class QuietFailures(WorkerPlugin):
    """Drop the records about a worker's failed attempts from Dask's log while it is open.

    For workers that share the user's process and terminal. Failures of other tasks, and on other workers, are
    logged as ever.
    """

    name = "handoff-quiet-failures"

    def __init__(self) -> None:
        self._worker: Any = None

    def setup(self, worker: Any) -> None:
        """Start dropping records."""
        self._worker = worker
        LOGGER.addFilter(self._keep)

    def teardown(self, worker: Any) -> None:
        """Stop dropping records."""
        LOGGER.removeFilter(self._keep)
        self._worker = None

    def _keep(self, record: logging.LogRecord) -> bool:
        failed = failed_task(record)
        if failed is None or run_id_in(failed.key) is None or not has_task(self._worker, failed.key):
            return True
        return f" {run_function.__name__}(" not in failed.text
