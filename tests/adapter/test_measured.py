"""What a node's process really uses, from the metrics that its worker reports."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from handoff_dask._adapter.measured import measured


@pytest.mark.parametrize(
    ("metrics", "found"),
    [
        ({}, {}),
        ({"cpu": 245.0, "memory": 3 * 2**29, "time": 1}, {"cpu": 2.45, "memory": 1536}),
        (
            {"gpu_utilization": 35, "gpu_memory_used": 2**30, "gpu-memory-total": 80 * 2**30},
            {"gpu": 0.35, "gpu_memory": 1024, "gpu_memory_total": 81920},
        ),
        ({"cpu": None, "memory": "much", "gpu_utilization": float("nan")}, {}),
    ],
)
def test_metrics_become_cores_and_megabytes(metrics, found):
    assert measured(SimpleNamespace(metrics=metrics)) == found


def test_a_worker_that_has_left():
    assert measured(None) == {}
