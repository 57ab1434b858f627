"""Export of the metrics to Prometheus, on the ``/metrics`` of Dask's scheduler.

Dask serves prometheus_client's default registry there if prometheus_client is installed. All schedulers of a
process share this registry, so one collector is registered for all of them.
"""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING, Any

from handoff_dask._adapter._dask.prometheus import scraped_scheduler
from handoff_dask._adapter.config import wants_metrics
from handoff_dask._adapter.metrics import DECISIONS, FAMILIES, Family, Metrics, Samples

if TYPE_CHECKING:
    from distributed import Scheduler

logger = logging.getLogger(__name__)


class Export:
    """Exports the metrics of one scheduler, if prometheus_client is installed.

    Errors are logged and not raised: metrics must not fail runs, or the rest of ``/metrics``.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    metrics : Metrics
    """

    def __init__(self, scheduler: Scheduler, metrics: Metrics) -> None:
        self.scheduler = scheduler
        self.metrics = metrics
        if wants_metrics():
            _COLLECTOR.add(self)

    def close(self) -> None:
        """Stop exporting."""
        _COLLECTOR.discard(self)


class _Collector:
    """What prometheus_client's registry asks for metrics, while any scheduler of this process has some."""

    def __init__(self) -> None:
        # Weak, because a scheduler may be garbage-collected without having been closed.
        self._exports: list[weakref.ref[Export]] = []
        self._registered = False

    def add(self, export: Export) -> None:
        """Export the metrics of a scheduler. Register this collector for the first one."""
        self._exports.append(weakref.ref(export))
        if self._registered:
            return
        try:
            from prometheus_client import REGISTRY
        except ImportError:
            return
        try:
            REGISTRY.register(self)
            self._registered = True
        except ValueError:  # another collector uses these names
            logger.exception("handoff_dask could not register its metrics with prometheus_client")

    def discard(self, export: Export) -> None:
        """Stop exporting the metrics of a scheduler. Unregister this collector after the last one."""
        self._exports = [ref for ref in self._exports if ref() not in (None, export)]
        if self._registered and not self._exports:
            from prometheus_client import REGISTRY

            self._registered = False
            REGISTRY.unregister(self)

    def _export(self) -> Export | None:
        """Return the export of the scheduler that was asked; the newest one if Dask was never asked."""
        exports = [export for ref in self._exports if (export := ref()) is not None]
        asked = scraped_scheduler()
        if asked is not None:
            exports = [export for export in exports if export.scheduler is asked]
        return exports[-1] if exports else None

    def describe(self) -> list[Any]:
        """Return all metrics without values: the registry checks their names."""
        return [_family(family, ()) for family in FAMILIES]

    def collect(self) -> list[Any]:
        """Return all metrics with their values; the registry calls this for each scrape."""
        export = self._export()
        if export is None:
            return []
        try:
            found = [_family(family, samples) for family, samples in export.metrics.read()]
            histogram = _family(DECISIONS, ())
            histogram.add_metric([], export.metrics.decision_buckets, export.metrics.decision_seconds)
            return [*found, histogram]
        except Exception:
            logger.exception("handoff_dask could not collect its metrics")
            return []


def _family(family: Family, samples: Samples) -> Any:
    """Return a metric in the form of prometheus_client."""
    from prometheus_client import core

    kinds = {
        "gauge": core.GaugeMetricFamily,
        "counter": core.CounterMetricFamily,
        "histogram": core.HistogramMetricFamily,
    }
    made = kinds[family.kind](family.name, family.text, labels=family.labels)
    for labels, value in samples:
        made.add_metric(labels, value)
    return made


_COLLECTOR = _Collector()
