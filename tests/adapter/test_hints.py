"""Until functions have run, the durations that Dask has learnt for their names determine their order."""

from __future__ import annotations

from distributed import Client
from helpers import dag_of, settle

import handoff_dask as handoff
from handoff_dask import Function


def short(x=None):
    return x


def long(x=None):
    return x


def test_functions_that_dask_knows_to_be_long_run_first():
    with handoff.local_cluster({"a": {"cpu": 1}}) as cluster, Client(cluster) as client:
        client.gather([client.submit(f, pure=False) for f in (short, long)])
        for name, seconds in (("short", 0.001), ("long", 60.0)):
            assert cluster.scheduler.task_prefixes[name].duration_average >= 0, "Dask has no duration"
            cluster.scheduler.task_prefixes[name].duration_average = seconds
        result = handoff.execute(
            dag_of(
                Function("first", short, cost={"cpu": 1}),
                Function("second", long, cost={"cpu": 1}),
                Function("end", short, args=["first"]),  # by number of functions, this path is longer
            ),
            client,
        )
        started = {id: record.started for id, record in result.records.items()}
        assert started["second"] < started["first"] < started["end"]
        settle(cluster)
