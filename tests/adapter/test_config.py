"""What an administrator sets in Dask's configuration."""

from __future__ import annotations

import dask

from handoff_dask._adapter.config import read_archive_bounds, read_settings, read_stream_interval
from handoff_dask._scheduling.decisions import Settings


def test_defaults():
    assert read_settings() == Settings(bandwidth=100_000_000)
    assert read_stream_interval() == 0.001
    assert read_archive_bounds() == (100, 100_000)


def test_everything_can_be_set_as_dask_writes_such_things():
    values = {
        "handoff.node-timeout": "2 minutes",
        "handoff.ahead.horizon": "5ms",
        "handoff.ahead.limit": 7,
        "handoff.patience": "90s",
        "handoff.stream-interval": "500us",
        "handoff.recent-runs": 7,
        "handoff.recent-functions": "2000",
        "distributed.scheduler.bandwidth": "2 GB",
    }
    with dask.config.set(values):
        assert read_settings() == Settings(
            node_timeout=120.0, ahead_horizon=0.005, ahead_limit=7, patience=90.0, bandwidth=2_000_000_000
        )
        assert read_stream_interval() == 0.0005
        assert read_archive_bounds() == (7, 2000)
