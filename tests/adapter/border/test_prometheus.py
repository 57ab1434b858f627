"""The scheduler's ``/metrics``."""

from __future__ import annotations

import urllib.request

import handoff_dask as handoff
from handoff_dask._adapter._dask import prometheus


def test_scraped_scheduler(cluster):
    with handoff.local_cluster({"a": {"cpu": 1}}) as other:
        for asked in (cluster, other, cluster):
            url = f"http://127.0.0.1:{asked.scheduler.http_server.port}/metrics"
            with urllib.request.urlopen(url, timeout=20) as answer:
                assert b"dask_scheduler_workers" in answer.read(), "/metrics has changed: Export"
            assert prometheus.scraped_scheduler() is asked.scheduler, (
                "Dask no longer tells its collectors which scheduler was asked: Export"
            )


def test_scraped_scheduler_before_the_first_request(monkeypatch):
    monkeypatch.delitem(prometheus.sys.modules, "distributed.http.scheduler.prometheus.core", raising=False)
    assert prometheus.scraped_scheduler() is None
