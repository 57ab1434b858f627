"""Durations that Dask has learnt of functions by their names decide the order until some have run here."""

from __future__ import annotations

from distributed import Client
from helpers import dag_of, settle

import handoff_dask as handoff
from handoff_dask import Function


def brief(x=None):
    return x


def lengthy(x=None):
    return x


def test_what_dask_has_seen_take_long_goes_first():
    with handoff.local_cluster({"a": {"cpu": 1}}) as cluster, Client(cluster) as client:
        client.gather([client.submit(f, pure=False) for f in (brief, lengthy)])
        for name, seconds in (("brief", 0.001), ("lengthy", 60.0)):
            assert cluster.scheduler.task_prefixes[name].duration_average >= 0, "Dask has learnt it"
            cluster.scheduler.task_prefixes[name].duration_average = seconds
        result = handoff.execute(
            dag_of(
                Function("first", brief, cost={"cpu": 1}),
                Function("second", lengthy, cost={"cpu": 1}),
                Function("end", brief, args=["first"]),  # by the number of functions, the longer path
            ),
            client,
        )
        started = {id: record.started for id, record in result.records.items()}
        assert started["second"] < started["first"] < started["end"]
        settle(cluster)
