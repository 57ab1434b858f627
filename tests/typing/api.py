"""The public API in use. Type-checked by mypy, never run."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, assert_type

import handoff_dask as handoff
from handoff_dask import (
    DAG,
    AllocationError,
    Allocator,
    AllocatorError,
    Argument,
    Attempt,
    Checkpoint,
    CodeDurations,
    Collocated,
    Current,
    CyclicDependencyError,
    Event,
    Function,
    FunctionFailedError,
    FunctionRecord,
    History,
    InvalidDAGError,
    MissingFunctionError,
    ReadyFunction,
    Records,
    Result,
    Results,
    RetryPolicy,
    Run,
    RunInfo,
    RunTimeoutError,
    Schedule,
    Shortfall,
    Timeline,
)


def load(path: str) -> list[int]:
    return [len(path)]


def double(load: list[int]) -> list[int]:
    return load * 2


async def fetch(url: str) -> bytes:
    return url.encode()


class Model:
    def predict(self, rows: list[int]) -> list[float]:
        return [float(row) for row in rows]


def functions() -> None:
    Function("load", load, extra_args=["data.txt"], cost={"cpu": 1, "memory": 0.5})
    Function(("load", 1), load, extra_args=("data.txt",), cost=None, node="node1")
    Function(id="double", code=double, args=["load"], node=["node1", "node2"], type="inline")
    Function("fetch", fetch, extra_kwargs={"url": "x"}, timeout=2.5, priority=1, max_retries=0)
    Function("named", "package.module:Class.method", kwargs={"rows": "load", "more": Argument("double")})
    Function(
        "predict", Model().predict, args=[Argument("load", serialize=load)], argument_inclusion="as_list"
    )
    Function("beside", double, args=["load"], node=Collocated("load"), retry=RetryPolicy(delay=1))
    Function("x", type="input")
    f = Function("load", load).replace(cost={"gpu": 1})
    assert_type(f, Function)
    assert_type(f.dependencies, tuple[Hashable, ...])
    f.id = "other"  # type: ignore[misc]
    Function("bad", load, type="outline")  # type: ignore[arg-type]
    Function("bad", load, argument_inclusion="list")  # type: ignore[arg-type]
    Function("bad", load, retry=3)  # type: ignore[arg-type]
    Function("bad", 5)  # type: ignore[arg-type]
    Function("bad", load, costs={})  # type: ignore[call-arg]
    RetryPolicy(3, 1.5, backoff=1, retry_on=(OSError, ValueError), elsewhere=False)
    RetryPolicy(retry_on=("OSError",))  # type: ignore[arg-type]


def dags() -> None:
    dag = DAG("mine")
    DAG()
    DAG(("any", "hashable"))
    assert_type(dag.add_function(Function("load", load)), DAG)
    dag.add_function(load)  # type: ignore[arg-type]

    @dag.function
    def source() -> int:
        return 42

    @dag.function(cost={"cpu": 2}, id="twice")
    def use(source: int) -> str:
        return str(source)

    @dag.function(costs={"cpu": 2})  # type: ignore[call-overload, untyped-decorator]
    def misspelt() -> int:
        return 42

    # The decorator preserves the type.
    assert_type(source(), int)
    assert_type(use(1), str)
    assert_type(dag.functions, Mapping[Hashable, Function])
    assert_type(dag["load"], Function)
    assert_type(dag.sources, tuple[Hashable, ...])
    assert_type(dag.sinks, tuple[Hashable, ...])
    assert_type(iter(dag), Iterator[Hashable])
    assert_type(len(dag), int)
    assert_type("load" in dag, bool)
    assert_type(dag.subset("load"), DAG)
    assert_type(dag.subset(["load", "use"]), DAG)
    assert_type(dag.to_mermaid(), str)
    dag.to_networkx()
    dag.visualize("out.svg", rankdir="LR", color="node", records={}, collapse=None)
    assert_type(dag.to_mermaid(color="cost", collapse=20), str)
    dag.functions["x"] = Function("x")  # type: ignore[index]


def from_dask(x: Any) -> None:
    assert_type(DAG.from_delayed(x), DAG)
    DAG.from_delayed([x], id=("a", 1), cost={"cpu": 1}, node=["node1", "node2"])
    DAG.from_delayed({"a": x}, cost=lambda key, task: {"gpu": 1}, node=lambda key, task: None)
    assert_type(DAG.from_graph({"a": (len, "b"), "b": [1]}, ["a"], id="g", cost={}), DAG)
    DAG.from_graph({"a": 1})  # type: ignore[call-arg]


def running(dag: DAG) -> None:
    local = handoff.execute_local(
        dag, max_retries=1, max_concurrency=2, keep=["a"], fail_fast=False, timeout=1
    )
    assert_type(local, Result)
    assert_type(local["a"], Any)
    assert_type(local.results, Mapping[Hashable, Any])
    assert_type(local.allocations, Mapping[Hashable, Any])
    assert_type(local.records["a"], FunctionRecord)
    assert_type(local.records["a"].attempts, tuple[Attempt, ...])
    assert_type(local.records["a"].duration, float | None)
    assert_type(local.elapsed, float)
    assert_type(local.restored, tuple[Hashable, ...])
    handoff.execute_local(dag, 3)  # type: ignore[call-arg]
    handoff.execute_local([dag])  # type: ignore[arg-type]

    result: Result = handoff.execute(
        dag,
        max_retries=0,
        retry=RetryPolicy(),
        limits={"db": 8},
        allocation_strategy="best_fit",
        keep="sinks",
        priority=2,
        wait_for_nodes=10,
        timeout=60,
        checkpoint=Path("kept"),
        checkpoint_of=["a"],
    )
    handoff.execute(dag, checkpoint=Checkpoint("s3://bucket", {"anon": True}), checkpoint_of=lambda f: f.cost)
    handoff.execute(dag, checkpoint=3)  # type: ignore[arg-type]
    assert_type(handoff.execute(dag), Result)
    _ = handoff.execute(dag).allocation  # type: ignore[attr-defined]
    assert_type(result.results, Mapping[Hashable, Any])
    run = handoff.submit(dag, "tcp://10.0.0.1:8786", max_concurrency=4)
    assert_type(run, Run)
    assert_type(run.id, str)
    assert_type(run.dag, DAG)
    assert_type(run.status, str)
    assert_type(run.done(), bool)
    assert_type(run.result(timeout=60), Result)
    assert_type(run.records, Records)
    assert_type(run.records["a"].attempts[0].number, int)
    assert_type(run.timeline(), Timeline)
    assert_type(run.results, Results)
    _ = run.outcome  # type: ignore[attr-defined]
    with handoff.local_cluster(
        {"node1": {"cpu": 4, "memory": 8192, "gpu": 1}, "node2": {"cpu": 2}}
    ) as cluster:
        handoff.submit(dag, cluster)


async def awaiting(dag: DAG, client: Any) -> None:
    result: Result = await handoff.execute(dag, client)
    run = handoff.submit(dag, client)
    assert_type(await run, Result)
    assert_type(await run.result(), Result)
    assert_type(await run.records, Records)
    assert_type(await run.timeline(), Timeline)
    assert_type(result.run_id, str)


def inside() -> None:
    here = handoff.current()
    assert_type(here, Current)
    assert_type(here.attempt, int)
    assert_type(here.run_id, str)
    assert_type(here.devices, Mapping[str, list[int]])
    here.attempt = 2  # type: ignore[misc]


def errors(dag: DAG) -> None:
    try:
        dag.validate()
    except MissingFunctionError as error:
        assert_type(error.missing, tuple[tuple[Any, Any], ...])
    except CyclicDependencyError as error:
        assert_type(error.cycle, tuple[Any, ...])
    except InvalidDAGError as error:
        assert_type(error.problems, tuple[str, ...])
    try:
        handoff.execute(dag)
    except FunctionFailedError as error:
        assert_type(error.attempts, tuple[Attempt, ...])
        assert_type(error.attempts[0].number, int)
        assert_type(error.attempts[0].error, str | None)
    except AllocationError as error:
        assert_type(error.shortfalls, tuple[Shortfall, ...])
    except RunTimeoutError as error:
        assert_type(error.timeout, float)
    except handoff.HandoffError as error:
        raise SystemExit(str(error)) from error


def nodes(client: Any) -> None:
    handoff.discover_nodes(client)
    handoff.register_node("node1", {"cpu": 4}, client=client)
    handoff.resources_available("node1", {"cpu": 1}, client=client)
    assert_type(handoff.__version__, str)


class First:
    """Places everything on the first node."""

    def allocate(
        self, ready: Sequence[ReadyFunction], free: Mapping[Any, Mapping[str, float]]
    ) -> dict[Hashable, Any]:
        return {f.id: next(iter(free)) for f in ready if f.nodes is None}


def simulated(dag: DAG) -> None:
    allocator: Allocator = First()
    schedule = handoff.simulate(dag, {"a": {"cpu": 1}}, {"x": 2.0}, allocation_strategy=allocator)
    assert_type(schedule, Schedule)
    assert_type(schedule.makespan, float)
    assert_type(schedule.lower_bound, float)
    assert_type(schedule.bounds, dict[str, float])
    assert_type(schedule.utilisation, dict[Any, dict[str, float]])
    handoff.simulate(dag, {"a": {"cpu": 1}}, schedule.records, allocation_strategy=allocator.allocate)
    assert_type(schedule.timeline(schedule.records.timeline(dag=dag)), Timeline)
    handoff.simulate(dag, {"a": {"cpu": 1}}, lambda id: 3.0, known=False)
    handoff.submit(dag, allocation_strategy=First())


def proposed(error: AllocatorError) -> None:
    assert_type(error.reason, str)


def happened(event: Event) -> None:
    assert_type(event.time, float)
    assert_type(event.error, str | None)


def remembered(dag: DAG, client: Any) -> None:
    infos: list[RunInfo] = handoff.runs(client)
    assert_type(infos[0].ended, float | None)
    assert_type(infos[0].counts, Mapping[str, int])
    records: Records = handoff.run_records(infos[0].id, client)
    assert_type(records["f"].attempts, tuple[Attempt, ...])
    with History("history.db") as history:
        assert_type(history.runs(), list[RunInfo])
        assert_type(history.records("r"), Records)
        assert_type(history.allocations("r"), dict[Hashable, Any])
        assert_type(history.durations(), dict[str, CodeDurations])
        assert_type(history.durations()["load"].median, float)
        assert_type(history.prune(keep=3), int)
        handoff.execute(dag, client, history=history)
        handoff.simulate(dag, {"a": {"cpu": 1}}, history)
    handoff.submit(dag, client, history=Path("history.db"))
    assert_type(handoff.execute_local(dag, history="history.db"), Result)
