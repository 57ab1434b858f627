"""The endpoint ``/metrics`` of Dask's scheduler."""

from __future__ import annotations

import sys
from typing import Any


def scraped_scheduler() -> Any:
    """Return the scheduler of this process whose ``/metrics`` is being served, or was served last.

    None before the first request.

    Reaches: ``PrometheusHandler._collectors`` of ``distributed.http.scheduler.prometheus.core``. Before each
    answer, Dask sets their ``server`` to the scheduler that was asked.
    Why: all schedulers of a process share one registry of metrics, and a collector is not told who was asked.
    From: Dask 2025.7.
    """
    module = sys.modules.get("distributed.http.scheduler.prometheus.core")
    collectors = getattr(getattr(module, "PrometheusHandler", None), "_collectors", None)
    return getattr(collectors[0], "server", None) if collectors else None
