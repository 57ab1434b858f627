"""``worker_log``: the log that a worker writes about failed tasks."""

from __future__ import annotations

import logging

from handoff_dask._adapter._dask import worker_log


def fails():
    raise ValueError("on purpose")


def test_failed_task(client, caplog):
    future = client.submit(fails, key=("failed", 1))
    assert future.exception() is not None
    records = [record for record in caplog.records if record.name == worker_log.LOGGER.name]
    found = [task for record in records if (task := worker_log.failed_task(record)) is not None]
    assert len(found) == 1, "workers log failed tasks in another way: quiet.QuietFailures"
    assert found[0].key == ("failed", 1)
    assert " fails(" in found[0].text, "tasks have another repr: quiet.QuietFailures"
    other = logging.LogRecord("distributed.worker", logging.ERROR, "", 0, "Compute Failed: %s", ("x",), None)
    assert worker_log.failed_task(other) is None


def test_has_task(client, cluster):
    future = client.submit(int, 1, key=("task", 1), workers="a", allow_other_workers=False)
    assert future.result() == 1
    assert worker_log.has_task(cluster.workers["a"], ("task", 1)), "workers keep tasks elsewhere: quiet"
    assert not worker_log.has_task(cluster.workers["a"], ("task", 2))
