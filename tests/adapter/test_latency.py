"""Messages are not held back while the plugin is there, and Dask's own pauses are put back afterwards."""

from __future__ import annotations

import dask
import pytest
from distributed import Client
from helpers import dag_of, identity, plugin_of

import handoff_dask as handoff
from handoff_dask import Function

DAG = dag_of(Function("f", identity, extra_args=[1]))


def pauses(cluster):
    scheduler = cluster.scheduler
    return {
        name: (scheduler.stream_comms[worker.address].interval, worker.batched_stream.interval)
        for name, worker in cluster.workers.items()
    }


@pytest.fixture
def shortened():
    with dask.config.set({"handoff.stream-interval": "1ms"}):
        yield


@pytest.mark.usefixtures("shortened")
def test_pauses_are_shortened_and_put_back_when_the_plugin_is_removed():
    with handoff.local_cluster({"a": {"cpu": 1}, "b": {"cpu": 1}}) as cluster, Client(cluster) as client:
        scheduler = cluster.scheduler
        before = pauses(cluster)
        streams, handlers = dict(scheduler.stream_handlers), dict(scheduler.handlers)
        handoff.execute(DAG, client)
        assert pauses(cluster) == {"a": (0.001, 0.001), "b": (0.001, 0.001)}
        client.unregister_scheduler_plugin("handoff")
        assert pauses(cluster) == before
        left = {op: h for op, h in scheduler.stream_handlers.items() if not op.startswith("handoff-")}
        assert (left, dict(scheduler.handlers)) == (streams, handlers)
        assert plugin_of(cluster) is None
        assert client.submit(identity, 5).result() == 5


@pytest.mark.parametrize("interval", ["0", "20ms"])
def test_pauses_stay_where_they_are_not_to_be_shortened(interval):
    with (
        dask.config.set({"handoff.stream-interval": interval}),
        handoff.local_cluster({"a": {"cpu": 1}}) as cluster,
        Client(cluster) as client,
    ):
        before = pauses(cluster)
        handoff.execute(DAG, client)
        assert pauses(cluster) == before


def test_removing_the_plugin_ends_its_runs():
    with handoff.local_cluster({"a": {"cpu": 1}}) as cluster, Client(cluster) as client:
        run = handoff.submit(
            dag_of(Function("f", identity, extra_args=[1], cost={"gpu": 1})), client, wait_for_nodes=60
        )
        client.unregister_scheduler_plugin("handoff")
        assert run.wait(timeout=20)
        assert run.status == "cancelled"
        with pytest.raises(handoff.RunError):
            run.result(timeout=20)
