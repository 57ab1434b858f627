"""Metrics of handoff_dask on the ``/metrics`` of a scheduler, as Prometheus reads them."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import dask
import prometheus_client
import pytest
from distributed import Client, LocalCluster
from helpers import dag_of, gate, identity, pass_gate, plugin_of, settle, until
from prometheus_client.parser import text_string_to_metric_families

import handoff_dask as handoff
from handoff_dask import Function
from handoff_dask._adapter import prometheus
from handoff_dask._adapter.metrics import FAMILIES, Metrics

NODES = {
    "node1": {"cpu": 4, "memory": 8192, "gpu": 1},
    "node2": {"cpu": 2, "memory": 4096.5},
}


@pytest.fixture
def cluster():
    with handoff.local_cluster(NODES) as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    with Client(cluster, set_as_default=False) as client:
        handoff.discover_nodes(client)  # installs the plugin
        yield client


def page(cluster):
    """Return the text of a scheduler's ``/metrics``."""
    url = f"http://127.0.0.1:{cluster.scheduler.http_server.port}/metrics"
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.read().decode()


def scrape(cluster):
    """Return the metrics of handoff_dask: name → labels → value; the labels are a tuple of values."""
    found = {}
    for family in text_string_to_metric_families(page(cluster)):
        for sample in family.samples:
            if sample.name.startswith("handoff_"):
                values = found.setdefault(sample.name, {})
                labels = tuple(sample.labels.values())
                assert labels not in values, f"{sample} is there twice"
                values[labels] = sample.value
    return found


def nonzero(values):
    return {labels[-1]: value for labels, value in values.items() if value}


def breaks():
    raise ValueError("broken")


def test_an_idle_scheduler_shows_its_capacity(cluster, client):
    metrics = scrape(cluster)
    assert metrics["handoff_node_resource_capacity"] == {
        ("node1", "cpu"): 4,
        ("node1", "memory"): 8192 * 2**20,
        ("node1", "gpu"): 1,
        ("node1", "threads"): 4,
        ("node2", "cpu"): 2,
        ("node2", "memory"): 4096.5 * 2**20,
        ("node2", "threads"): 2,
    }
    assert set(metrics["handoff_node_resource_used"].values()) == {0}
    assert metrics["handoff_node_resource_used"].keys() == metrics["handoff_node_resource_capacity"].keys()
    assert metrics["handoff_nodes"] == {("accepting",): 2, ("paused",): 0}
    assert not nonzero(metrics["handoff_functions"])
    assert "handoff_functions_waiting" not in metrics
    # Dask's own metrics are still on the page.
    assert "dask_scheduler_workers" in page(cluster)


def test_functions_that_run_and_wait(cluster, client):
    door = gate("metrics")
    held = {"code": pass_gate, "extra_args": ["metrics"]}
    dag = dag_of(
        Function("running", **held, cost={"gpu": 0.5, "memory": 1000}),
        Function("also running", **held, cost={"cpu": 2}, node="node1"),
        *[Function(n, **held, cost={"gpu": 1, "memory": 2000}) for n in range(3)],
        Function("later", identity, args=["running"]),
    )
    run = handoff.submit(dag, client)
    pending = handoff.submit(
        dag_of(Function("x", identity, extra_args=[1], cost={"tape": 2})), client, wait_for_nodes=60
    )
    door.await_inside(2)
    until(lambda: scrape(cluster)["handoff_functions_waiting"].get(("tape",)))
    metrics = scrape(cluster)
    assert nonzero(metrics["handoff_functions"]) == {"running": 2, "ready": 4, "waiting": 1}
    assert nonzero(metrics["handoff_functions_waiting"]) == {"gpu": 3, "memory": 3, "tape": 1, "threads": 4}
    assert nonzero(metrics["handoff_resource_requested"]) == {
        "gpu": 3,
        "memory": 6000 * 2**20,
        "tape": 2,
        "threads": 4,
    }
    used = {labels: value for labels, value in metrics["handoff_node_resource_used"].items() if value}
    assert used == {
        ("node1", "gpu"): 0.5,
        ("node1", "memory"): 1000 * 2**20,
        ("node1", "cpu"): 2,
        ("node1", "threads"): 2,
    }
    assert metrics["handoff_runs"] == {("pending",): 1, ("running",): 1}
    pending.cancel()
    door.open()
    run.result(20)
    metrics = scrape(cluster)
    assert nonzero(metrics["handoff_functions"]) == {"finished": 6, "cancelled": 1}
    assert "handoff_functions_waiting" not in metrics
    assert not nonzero(metrics["handoff_node_resource_used"])
    assert metrics["handoff_runs"] == {("pending",): 0, ("running",): 0}


def test_dasks_own_tasks_count_as_used(cluster, client):
    door = gate("external")
    future = client.submit(pass_gate, "external", resources={"gpu": 1}, pure=False)
    door.await_inside(1)
    until(lambda: scrape(cluster)["handoff_node_resource_used"]["node1", "gpu"] == 1)
    door.open()
    future.result(20)
    until(lambda: scrape(cluster)["handoff_node_resource_used"]["node1", "gpu"] == 0)


def test_attempts_failures_and_runs_are_counted_even_after_their_runs_are_forgotten(cluster, client):
    before = scrape(cluster)
    assert before["handoff_attempts_total"] == {
        (outcome,): 0 for outcome in ("finished", "failed", "lost", "cancelled")
    }
    dag = dag_of(Function("ok", identity, extra_args=[1]), Function("bad", breaks, max_retries=2))
    run = handoff.submit(dag, client, fail_fast=False)
    run.wait(20)
    for _ in range(2):
        metrics = scrape(cluster)
        assert nonzero(metrics["handoff_attempts_total"]) == {"finished": 1, "failed": 3}
        assert metrics["handoff_function_failures_total"] == {(): 1}
        assert nonzero(metrics["handoff_runs_ended_total"]) == {"failed": 1}
        run = None
        settle(cluster)
    assert not nonzero(metrics["handoff_functions"])


def test_decision_times_are_a_histogram(cluster, client):
    before = scrape(cluster)
    handoff.execute(dag_of(Function("x", identity, extra_args=[1])), client)
    after = scrape(cluster)
    count = after["handoff_decision_seconds_count"][()]
    assert count > before["handoff_decision_seconds_count"][()]
    buckets = list(after["handoff_decision_seconds_bucket"].values())
    assert buckets == sorted(buckets)
    assert buckets[-1] == count
    assert list(after["handoff_decision_seconds_bucket"])[-1] == ("+Inf",)
    assert 0 < after["handoff_decision_seconds_sum"][()] < 20


def test_a_decision_is_counted_in_the_bucket_of_its_duration(monkeypatch):
    clock = iter([0, 0.002, 10, 10.0001, 20, 23])
    monkeypatch.setattr("handoff_dask._adapter.metrics.perf_counter", lambda: next(clock))
    metrics = Metrics(None)
    for now in range(3):
        assert metrics.timed(lambda now: now + 1, now) == now + 1
    buckets = dict(metrics.decision_buckets)
    assert (buckets["0.001"], buckets["0.0025"], buckets["2.5"], buckets["+Inf"]) == (1, 2, 2, 3)
    assert metrics.decision_seconds == pytest.approx(3.0021)


def test_a_paused_node(cluster, client):
    plugin_of(cluster).state.node_accepting("node2", False)
    assert scrape(cluster)["handoff_nodes"] == {("accepting",): 1, ("paused",): 1}


def test_no_label_is_an_id_of_a_run_or_a_function(cluster, client):
    result = handoff.execute(dag_of(Function("peculiar", identity, extra_args=[1]), id="odd"), client)
    text = "\n".join(line for line in page(cluster).splitlines() if line.startswith("handoff_"))
    assert result.dag_id == "odd"
    assert "peculiar" not in text
    assert "odd" not in text


def test_a_scrape_visits_no_function(cluster, client):
    """Its cost must not grow with the number of functions."""
    door = gate("visits")
    dag = dag_of(*[Function(n, pass_gate, extra_args=["visits"], cost={"gpu": 1}) for n in range(3)])
    run = handoff.submit(dag, client)
    door.await_inside(1)
    core = plugin_of(cluster).runs[run.id].run
    functions, queues = core.functions, core.backlog.queues
    try:
        core.functions = core.backlog.queues = None
        metrics = Metrics(plugin_of(cluster).state).read()
    finally:
        core.functions, core.backlog.queues = functions, queues
    values = {family.name: dict(samples) for family, samples in metrics}
    assert values["handoff_functions_waiting"]["gpu",] == 2
    door.open()
    run.result(20)


# ---------------------------------------------------------------------- conventions, registration


def test_names_follow_the_conventions_of_prometheus(cluster, client):
    text = page(cluster)
    for family in FAMILIES:
        name = family.name + ("_total" if family.kind == "counter" else "")
        assert re.search(rf"^# HELP {name} .+", text, re.MULTILINE)
        assert f"# TYPE {name} {family.kind}" in text
        assert re.fullmatch(r"handoff(_[a-z]+)+", family.name)


@pytest.fixture
def alone(monkeypatch):
    """Hide the metrics of other schedulers in this process, such as that of an embedded cluster."""
    shared = prometheus._COLLECTOR
    registered = shared in prometheus_client.REGISTRY._collector_to_names
    if registered:
        prometheus_client.REGISTRY.unregister(shared)
    monkeypatch.setattr(prometheus, "_COLLECTOR", prometheus._Collector())
    yield
    if registered:
        prometheus_client.REGISTRY.register(shared)


def test_metrics_are_removed_with_the_plugin_and_return_with_it(alone, cluster, client):
    assert scrape(cluster)
    client.unregister_scheduler_plugin("handoff")
    assert scrape(cluster) == {}
    assert prometheus._COLLECTOR not in prometheus_client.REGISTRY._collector_to_names
    handoff.discover_nodes(client)
    assert scrape(cluster)


def test_metrics_are_removed_when_the_scheduler_closes(alone):
    with handoff.local_cluster({"a": {"cpu": 1}}) as cluster, Client(cluster, set_as_default=False) as client:
        handoff.discover_nodes(client)
        assert prometheus._COLLECTOR in prometheus_client.REGISTRY._collector_to_names
    assert prometheus._COLLECTOR not in prometheus_client.REGISTRY._collector_to_names


def test_each_scheduler_of_a_process_shows_its_own_metrics(cluster, client):
    with (
        handoff.local_cluster({"other": {"cpu": 1}}) as second,
        Client(second, set_as_default=False) as its_client,
        handoff.local_cluster({"plain": {"cpu": 1}}) as without_plugin,
    ):
        handoff.discover_nodes(its_client)
        for _ in range(2):
            assert {n for n, _ in scrape(second)["handoff_node_resource_capacity"]} == {"other"}
            assert {n for n, _ in scrape(cluster)["handoff_node_resource_capacity"]} == {"node1", "node2"}
            assert scrape(without_plugin) == {}
    assert {n for n, _ in scrape(cluster)["handoff_node_resource_capacity"]} == {"node1", "node2"}


def test_nodes_whose_names_are_equal_as_text_are_added_up():
    with (
        handoff.local_cluster({1: {"cpu": 1}, "1": {"cpu": 2}}) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        handoff.discover_nodes(client)
        assert scrape(cluster)["handoff_node_resource_capacity"]["1", "cpu"] == 3


def test_the_configuration_turns_metrics_off():
    with (
        dask.config.set({"handoff.metrics": False}),
        handoff.local_cluster({"a": {"cpu": 1}}) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        handoff.discover_nodes(client)
        assert scrape(cluster) == {}


def test_an_error_leaves_the_rest_of_the_page_intact(cluster, client, monkeypatch, caplog):
    monkeypatch.setattr(Metrics, "read", breaks)
    with caplog.at_level(logging.ERROR):
        assert scrape(cluster) == {}
        assert "dask_scheduler_workers" in page(cluster)
    assert "could not collect its metrics" in caplog.text


def test_a_name_that_is_taken_does_not_fail_the_plugin(alone, caplog):
    taken = prometheus_client.Gauge("handoff_functions", "someone else's")
    try:
        with (
            caplog.at_level(logging.ERROR),
            handoff.local_cluster({"a": {"cpu": 1}}) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            assert handoff.execute(dag_of(Function("x", identity, extra_args=[1])), client)["x"] == 1
        assert "could not register its metrics" in caplog.text
    finally:
        prometheus_client.REGISTRY.unregister(taken)


WITHOUT = """
import sys
sys.modules["prometheus_client"] = None  # importing it raises ImportError
import handoff_dask as handoff
dag = handoff.DAG("x")
dag.add_function(handoff.Function("x", len, extra_args=["abc"]))
print(handoff.execute(dag).results["x"])
"""


def test_runs_do_not_need_prometheus_client():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("3\n", 0), done.stderr
    assert "prometheus" not in done.stderr


def test_a_cluster_with_processes():
    with (
        LocalCluster(
            n_workers=1, processes=True, dashboard_address="127.0.0.1:0", silence_logs=logging.ERROR
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        assert handoff.execute(dag_of(Function("x", identity, extra_args=[1])), client)["x"] == 1
        assert nonzero(scrape(cluster)["handoff_attempts_total"]) == {"finished": 1}


# ---------------------------------------------------------------------- dashboard for Grafana

DOCS = Path(__file__).parents[2] / "docs"
GRAFANA = DOCS / "_static" / "grafana-dashboard.json"
GUIDE = (DOCS / "how-to" / "monitor-a-cluster.md").read_text("utf-8")


def test_the_guide_lists_every_metric():
    rows = re.findall(r"^\| `(handoff_\w+)` \| (\w+)(?:, (.*?))? \|", GUIDE, re.MULTILINE)
    assert [(name, kind, tuple(re.findall(r"\w+", labels))) for name, kind, labels in rows] == [
        (f.name + ("_total" if f.kind == "counter" else ""), f.kind, f.labels) for f in FAMILIES
    ]


def queries():
    """Yield title and expression of each query of the dashboard, and of the guide."""
    for line in re.search(r"```promql\n(.*?)```", GUIDE, re.DOTALL)[1].splitlines():
        yield "guide", line
    board = json.loads(GRAFANA.read_text("utf-8"))
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


def test_every_metric_that_a_documented_query_uses_exists(cluster, client):
    door = gate("grafana")
    dag = dag_of(*[Function(n, pass_gate, extra_args=["grafana"], cost={"gpu": 1}) for n in range(2)])
    run = handoff.submit(dag, client)
    door.await_inside(1)
    text = page(cluster)
    door.open()
    run.result(20)
    found = {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    asked = set()
    for title, expression in queries():
        names = set(re.findall(r"\b(?:handoff|dask)_\w+", expression))
        assert names, f"{title}: {expression}"
        for name in names:
            assert name in found, f"{title} asks for {name}"
            # Prometheus itself adds job and instance.
            used = set(re.findall(r'(\w+)\s*(?:=~|!=|=)\s*"', expression))
            for grouped in re.findall(r"\bby \(([^)]*)\)", expression):
                used |= {label.strip() for label in grouped.split(",")}
            assert used <= found[name] | {"job", "instance", "le"}, f"{title}: {expression}"
        asked |= names
    stems = {re.sub("_(bucket|total)$", "", name) for name in asked}
    assert {family.name for family in FAMILIES} <= stems, "a metric is on no panel"
