"""OpenTelemetry spans of runs and attempts, and the context that functions see."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import time

import pytest
from distributed import Client
from helpers import dag_of, gate, identity, pass_gate, plugin_of, settle
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind, StatusCode

import handoff_dask as handoff
from handoff_dask import Function, RetryPolicy
from handoff_dask._adapter import tracing
from handoff_dask._adapter.tracing import TRACE


class Spans(InMemorySpanExporter):
    """Finished spans by name."""

    def named(self, start):
        return [span for span in self.get_finished_spans() if span.name.startswith(start)]

    def one(self, name):
        (span,) = self.named(name)
        return span


def provide(monkeypatch, **options):
    """Configure a tracer in this process, and return where its spans go."""
    spans = Spans()
    provider = TracerProvider(**options)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return spans


@pytest.fixture
def spans(monkeypatch):
    return provide(monkeypatch)


def ids(span):
    """Return trace id and span id."""
    found = span.get_span_context()
    return found.trace_id, found.span_id


def parent_ids(span):
    return (span.parent.trace_id, span.parent.span_id) if span.parent else None


def current_ids():
    """Return trace id and span id of the span that a function sees."""
    return ids(trace.get_current_span())


def make_span(name):
    with trace.get_tracer("of the user").start_as_current_span(name):
        return 1


async def make_span_asynchronously(name):
    await asyncio.sleep(0)
    return make_span(name)


def fails_once():
    if handoff.current().attempt == 1:
        raise ValueError("broken")


def test_a_run_is_a_child_of_the_callers_span_and_attempts_are_its_children(client, spans):
    dag = dag_of(
        Function("one", make_span, extra_args=["inside"], node="node2", cost={"memory": "0.1GB"}),
        Function(("two", 2), identity, args=["one"]),
        id="etl",
    )
    with trace.get_tracer("of the user").start_as_current_span("request"):
        records = handoff.execute(dag, client).records
    request, run = spans.one("request"), spans.one("run etl")
    assert parent_ids(run) == ids(request)
    run_id = run.attributes["handoff.run.id"]
    assert run_id in [info.id for info in handoff.runs(client)]
    assert run.attributes == {
        "handoff.dag.id": "etl",
        "handoff.run.id": run_id,
        "handoff.run.status": "finished",
    }
    assert (run.kind, run.status.status_code) == (SpanKind.PRODUCER, StatusCode.UNSET)
    first, second = spans.one("attempt make_span"), spans.one("attempt identity")
    for attempt in (first, second):
        assert parent_ids(attempt) == ids(run)
        assert attempt.kind is SpanKind.CONSUMER
        assert run.start_time <= attempt.start_time <= attempt.end_time <= run.end_time
    assert first.attributes == {
        "handoff.dag.id": "etl",
        "handoff.run.id": run_id,
        "handoff.function.id": "one",
        "handoff.attempt": 1,
        "handoff.node": "node2",
        "handoff.cost.memory": 95,
        **used(records["one"].attempts[0]),
    }
    assert second.attributes["handoff.function.id"] == "('two', 2)"
    assert parent_ids(spans.one("inside")) == ids(first)


def used(attempt):
    """Return the attributes for what an attempt used, according to its record."""
    assert attempt.cpu_seconds > 0
    assert attempt.peak_memory is not None
    return {
        "handoff.cpu_seconds": attempt.cpu_seconds,
        "handoff.peak_memory": attempt.peak_memory,
        "handoff.peak_exact": attempt.peak_exact,
    }


def attributes_of_use(span):
    measured = ("handoff.cpu_seconds", "handoff.peak_", "handoff.cost.")
    return {name: value for name, value in span.attributes.items() if name.startswith(measured)}


def use_memory(megabytes):
    data = b"x" * megabytes * 2**20
    time.sleep(60 if handoff.current().attempt == 1 else 0)  # the first attempt is ended before
    if handoff.current().attempt == 2:
        raise ValueError(f"broken after {len(data)} bytes")


def test_attempts_have_what_they_booked_and_used(client, spans):
    dag = dag_of(Function("f", fails_once, cost={"cpu": 0.5, "memory": 1}))
    attempts = handoff.execute(dag, client, max_retries=1).records["f"].attempts
    for span, attempt in zip(spans.named("attempt fails_once"), attempts, strict=True):
        booked = {"handoff.cost.cpu": 0.5, "handoff.cost.memory": 1}
        assert attributes_of_use(span) == {**booked, **used(attempt)}


def test_an_attempt_that_ran_out_of_memory_and_those_after_it(client, spans):
    retry = RetryPolicy(max_retries=2, delay=0, grow={"memory": 4})
    f = Function("f", use_memory, extra_args=[100], cost={"memory": 50}, isolation="process", retry=retry)
    first, *others = handoff.execute(dag_of(f), client).records["f"].attempts
    over, *after = spans.named("attempt use_memory")
    assert attributes_of_use(over) == {
        "handoff.cost.memory": 50,
        "handoff.peak_memory": first.peak_memory,
        "handoff.peak_exact": False,
    }
    assert first.peak_memory > 50
    assert [a.peak_exact for a in others] == [True, True]
    for span, attempt in zip(after, others, strict=True):
        assert attributes_of_use(span) == {"handoff.cost.memory": 200, **used(attempt)}


def test_an_attempt_that_was_not_measured(client, spans):
    with pytest.raises(handoff.FunctionFailedError):
        handoff.execute(
            dag_of(Function("f", time.sleep, extra_args=[60], timeout=0.2)), client, max_retries=0
        )
    assert attributes_of_use(spans.one("attempt sleep")) == {}


def test_a_run_outside_of_any_span_starts_a_trace(client, spans):
    for _ in range(2):
        handoff.execute(dag_of(Function("x", identity, extra_args=[1]), id="etl"), client)
    first, second = spans.named("run etl")
    assert first.parent is None
    assert second.parent is None
    assert ids(first)[0] != ids(second)[0]


def test_coroutines_are_inside_the_span_of_their_attempt(client, spans):
    handoff.execute(dag_of(Function("x", make_span_asynchronously, extra_args=["inside"])), client)
    assert parent_ids(spans.one("inside")) == ids(spans.one("attempt make_span_asynchronously"))


def test_each_attempt_has_a_span_with_its_error(client, spans):
    handoff.execute(dag_of(Function("x", fails_once)), client, max_retries=1)
    failed, good = spans.named("attempt fails_once")
    assert [span.attributes["handoff.attempt"] for span in (failed, good)] == [1, 2]
    assert failed.status.status_code is StatusCode.ERROR
    assert [event.attributes["exception.message"] for event in failed.events] == ["broken"]
    assert good.status.status_code is StatusCode.UNSET
    assert not good.events
    assert spans.one("run").status.status_code is StatusCode.UNSET


def test_the_span_of_a_failed_run_is_an_error(client, spans):
    with pytest.raises(handoff.FunctionFailedError):
        handoff.execute(dag_of(Function("x", int, extra_args=["x"]), id="etl"), client, max_retries=0)
    run = spans.one("run etl")
    assert run.status.status_code is StatusCode.ERROR
    assert run.attributes["handoff.run.status"] == "failed"


def test_a_run_that_cannot_be_placed(client, spans):
    with pytest.raises(handoff.AllocationError):
        handoff.execute(dag_of(Function("x", identity, extra_args=[1], cost={"tape": 1}), id="etl"), client)
    assert spans.one("run etl").status.status_code is StatusCode.ERROR


def test_a_cancelled_run(client, spans):
    door = gate("cancelled")
    run = handoff.submit(dag_of(Function("x", pass_gate, extra_args=["cancelled"]), id="etl"), client)
    door.await_inside(1)
    assert not spans.named("run")
    run.cancel()
    door.open()
    assert spans.one("run etl").attributes["handoff.run.status"] == "cancelled"


def test_a_run_without_a_handle_ends_its_span(client, cluster, spans):
    door = gate("released")
    run = handoff.submit(dag_of(Function("x", pass_gate, extra_args=["released"]), id="etl"), client)
    door.await_inside(1)
    del run
    gc.collect()
    assert spans.one("run etl").attributes["handoff.run.status"] == "released"
    door.open()
    settle(cluster)


def test_an_asynchronous_client(cluster, spans):
    async def execute():
        async with Client(cluster.scheduler_address, asynchronous=True, set_as_default=False) as client:
            with trace.get_tracer("of the user").start_as_current_span("request"):
                return await handoff.execute(dag_of(Function("x", current_ids), id="etl"), client)

    seen = asyncio.run(execute())["x"]
    assert seen == ids(spans.one("attempt current_ids"))
    assert parent_ids(spans.one("run etl")) == ids(spans.one("request"))


def test_a_function_in_a_child_process_continues_the_trace(client, spans):
    seen = handoff.execute(dag_of(Function("x", current_ids, timeout=60)), client)["x"]
    assert seen == ids(spans.one("attempt current_ids"))


def test_baggage_reaches_functions(client, spans):
    token = context.attach(baggage.set_baggage("customer", "c 7"))
    try:
        seen = handoff.execute(dag_of(Function("x", baggage.get_baggage, extra_args=["customer"])), client)
    finally:
        context.detach(token)
    assert seen["x"] == "c 7"


# ---------------------------------------------------------------------- nodes in other processes


def name_of(dask_worker):
    return dask_worker.name


def set_up(dask_worker):
    provider = TracerProvider()
    dask_worker.spans = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(dask_worker.spans))
    trace.set_tracer_provider(provider)


def finished(dask_worker):
    return {span.name: (ids(span), parent_ids(span)) for span in dask_worker.spans.get_finished_spans()}


def test_nodes_in_other_processes(spans):
    with (
        handoff.local_cluster({"traced": {"cpu": 1}, "plain": {"cpu": 1}}, processes=True) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.wait_for_workers(2, 60)
        (address,) = (a for a, name in client.run(name_of).items() if name == "traced")
        client.run(set_up, workers=[address])
        dag = dag_of(
            Function("a", make_span, extra_args=["inside"], node="traced"),
            Function("b", current_ids, node="plain"),
        )
        result = handoff.execute(dag, client)
        run = spans.one("run")
        found = client.run(finished, workers=[address])[address]
        attempt, parent = found["attempt make_span"]
        assert parent == ids(run)
        assert found["inside"][1] == attempt
        # Without a tracer on the node, spans of other services that the function calls join the run's trace.
        assert result["b"] == ids(run)


# ---------------------------------------------------------------------- without a tracer


def annotations_of(cluster, run):
    return [cluster.scheduler.tasks[key].annotations for key in plugin_of(cluster).runs[run.id].keys]


def test_nothing_is_sent_without_a_tracer(client, cluster):
    run = handoff.submit(dag_of(Function("x", current_ids)), client)
    assert run.result(20)["x"] == (0, 0)
    assert all(TRACE not in annotations for annotations in annotations_of(cluster, run))


def test_the_context_is_sent_with_a_tracer(client, cluster, spans):
    run = handoff.submit(dag_of(Function("x", identity, extra_args=[1])), client)
    run.result(20)
    ((trace_id, span_id),) = [ids(span) for span in spans.named("run")]
    (annotations,) = annotations_of(cluster, run)
    assert list(annotations[TRACE]) == ["traceparent"]
    version, *sent, flags = annotations[TRACE]["traceparent"].split("-")
    assert (version, sent) == ("00", [f"{trace_id:032x}", f"{span_id:016x}"])
    assert int(flags, 16) & 1  # sampled


def test_a_trace_that_is_not_sampled_is_not_sampled_on_nodes_either(client, cluster, monkeypatch):
    spans = provide(monkeypatch, sampler=ParentBased(ALWAYS_OFF))
    run = handoff.submit(dag_of(Function("x", make_span, extra_args=["inside"])), client)
    run.result(20)
    (annotations,) = annotations_of(cluster, run)
    assert not int(annotations[TRACE]["traceparent"][-2:], 16) & 1
    assert not spans.get_finished_spans()


def test_a_node_without_opentelemetry(client, spans, monkeypatch):
    monkeypatch.setattr(tracing, "_is_installed", lambda: False)
    dag = dag_of(
        Function("x", identity, extra_args=[1]), Function("y", identity, extra_args=[2], timeout=60), id="etl"
    )
    assert handoff.execute(dag, client).results == {"x": 1, "y": 2}
    assert spans.one("run etl")
    assert not spans.named("attempt")


UNTRACED = """
import sys
import handoff_dask as handoff
dag = handoff.DAG("x")
dag.add_function(handoff.Function("x", len, extra_args=["abc"]))
dag.add_function(handoff.Function("y", len, extra_args=["abcd"], timeout=60))
result = handoff.execute(dag)
print(result.results["x"] + result.results["y"], [name for name in sys.modules if "opentelemetry" in name])
"""


def test_opentelemetry_is_not_even_imported_unless_the_client_has_imported_it():
    done = subprocess.run([sys.executable, "-c", UNTRACED], capture_output=True, text=True, timeout=90)
    assert (done.stdout, done.returncode) == ("7 []\n", 0), done.stderr


class Peculiar:
    def __str__(self):
        raise ValueError("no text")

    def __hash__(self):
        return 1

    def __eq__(self, other):
        return isinstance(other, Peculiar)


def test_ids_without_a_text(client, spans):
    dag = dag_of(Function(Peculiar(), identity, extra_args=[1]), id=Peculiar())
    assert handoff.execute(dag, client)[Peculiar()] == 1
    assert len(spans.named("attempt")) == len(spans.named("run")) == 1
