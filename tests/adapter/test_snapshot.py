"""What the dashboard shows, without a dashboard: a snapshot of a core that has no cluster."""

from __future__ import annotations

import json
from dataclasses import replace
from time import perf_counter

import pytest
from scheduling.harness import Core, fn, many, node

from handoff_dask._adapter.active import ActiveRun
from handoff_dask._adapter.archive import Archive
from handoff_dask._adapter.snapshot import (
    BARS,
    ENDED_RUNS,
    ID,
    NODES,
    QUEUES,
    RUNS,
    TEXT,
    RecentFailures,
    snapshot,
)


class Scene:
    """A core, and what a plugin has besides."""

    def __init__(self):
        self.core = Core()
        self.active = {}
        self.archive = Archive(100, 1_000_000)
        self.failures = RecentFailures()

    def run(self, **options):
        run = self.core.run(**options)
        self.active[run.spec.run_id] = active = ActiveRun(run, "client", self.core.now)
        return active

    def end(self, id):
        self.active[id].ended = self.core.now

    def forget(self, id):
        active = self.active.pop(id)
        self.core.remove(id)
        self.archive.add(active.info(self.core.now), active.run)

    def look(self):
        seen = snapshot(self.core.state, self.active, self.archive, self.failures, self.core.now)
        self.core.state.check()
        return json.loads(json.dumps(seen, allow_nan=False))  # plain values


@pytest.fixture
def scene():
    return Scene()


def test_nothing(scene):
    seen = scene.look()
    assert seen["runs"] == seen["waiting"] == seen["nodes"] == seen["failures"] == []
    assert seen["timeline"] is None


def test_runs_nodes_and_who_waits(scene):
    core = scene.core
    core.nodes(a="cpu 4, memory 100", b="cpu 2")
    scene.run(id="first", **many(3, fn("cpu 2"), "f"))
    scene.run(id="second", large=fn("cpu 4", priority=1), options={"priority": 2})
    core.decide()
    core.wait(1.5)
    seen = scene.look()
    first, second = sorted(seen["runs"], key=lambda run: run["id"])
    assert second["counts"] == {"running": 1}
    assert second["share"] == pytest.approx(4 / 6)
    assert second["priority"] == 2
    assert first["counts"] == {"ready": 2, "running": 1}
    assert first["share"] == pytest.approx(2 / 6)
    assert first["elapsed"] == 1.5
    assert [run["id"] for run in seen["runs"]] == ["second", "first"]  # the order in which they are served
    assert seen["functions_waiting"] == 2
    (waits,) = seen["waiting"]
    assert (waits["function"], waits["run"], waits["queued"]) == ("f1", "first", 2)
    assert waits["why"] == core.state.explain(core["f1"], core.now)
    a, b = seen["nodes"]
    assert a == {
        "name": "a",
        "accepting": True,
        "running": 1,
        "amounts": [
            {"resource": "cpu", "capacity": 4, "used": 4},
            {"resource": "memory", "capacity": 100, "used": 0},
        ],
    }
    assert b["running"] == 1
    assert seen["timeline"]["run"] == "second"
    assert seen["timeline"]["bars"] == [
        {"function": "large", "node": "a", "start": 0, "stop": 1.5, "outcome": "running"}
    ]


def test_a_share_is_never_more_than_all_there_is(scene):
    """The core's own figure adds up the largest parts of functions that need unlike things."""
    scene.core.nodes(a="cpu 4, gpu 1, threads 8")
    active = scene.run(x=fn("cpu 4"), y=fn("gpu 1"))
    scene.core.decide()
    assert active.run.share > 2**30
    assert scene.look()["runs"][0]["share"] == 1


def test_a_run_that_waits_for_nodes_says_so(scene):
    scene.core.nodes(a="cpu 1")
    scene.run(x=fn("gpu 1"), options={"wait_for_nodes": 30.0})
    (waits,) = scene.look()["waiting"]
    assert "its run starts once the nodes can hold all of its functions (fails in 30 s)" in waits["why"]


def test_a_run_that_lacks_very_many_nodes_is_brief(scene):
    scene.core.nodes(a="cpu 1")
    kinds = {f"f{i}": fn(f"gpu {i + 1}") for i in range(300)}
    scene.run(**kinds, options={"wait_for_nodes": 30.0})
    (waits,) = scene.look()["waiting"]
    assert "lacks nodes for 300 kinds of functions; the first: " in waits["why"]


def test_failures_the_last_one_first(scene):
    core = scene.core
    core.nodes(a="cpu 1")
    scene.run(x=fn("cpu 1", retries=1))
    core.decide()
    core.fail("x", error="ValueError('no')", started=0.0, stopped=0.5)
    scene.failures.note(core["x"], 7.0)
    scene.failures.note(core["x"], 8.0, "it fits on no node")
    last, before = scene.look()["failures"]
    assert (last["when"], last["error"]) == (8, "it fits on no node")
    assert before == {
        "when": 7,
        "function": "x",
        "dag": "dag of r",
        "run": "r",
        "attempt": 1,
        "node": "a",
        "error": "ValueError('no')",
    }
    for i in range(100):
        scene.failures.note(core["x"], 10.0 + i, "x" * 10_000)
    assert len(scene.look()["failures"]) == 30
    assert len(scene.look()["failures"][0]["error"]) == TEXT


def test_runs_that_have_ended_the_last_one_first(scene):
    core = scene.core
    core.nodes(a="cpu 1")
    for i in range(ENDED_RUNS + 2):
        scene.run(id=f"r{i}", **{f"f{i}": fn("cpu 1")})
        core.decide()
        core.wait(1)
        core.finish(f"f{i}", took=0.5)
        scene.end(f"r{i}")
        if i % 2:
            scene.forget(f"r{i}")
    seen = scene.look()
    assert [run["id"] for run in seen["runs"]] == ["r6", "r5", "r4", "r3", "r2"]
    assert seen["runs_there"] == 0
    assert {run["share"] for run in seen["runs"]} == {None}
    assert seen["timeline"]["run"] == "r6"
    scene.forget("r6")
    (bar,) = scene.look()["timeline"]["bars"]
    assert bar == {"function": "f6", "node": "a", "start": 0.5, "stop": 1, "outcome": "finished"}


def failing(scene, number, retried):
    """A run of so many functions, of which some finish at once and some with their second attempt."""
    core, state = scene.core, scene.core.state
    core.nodes(a=f"threads {number}")
    scene.run(**many(number, fn("threads 1", retries=1), "f"))
    state.decide(core.now)
    for n in retried:
        state.failed(core[f"f{n}"], core.now, error="no", started=0.0, stopped=0.5)
        state.ready(core[f"f{n}"], core.now)
    core.wait(1)
    core.decide()
    for n in range(number):
        state.finished(core[f"f{n}"], core.now, started=0.5, stopped=1.0)
    scene.end("r")


@pytest.mark.parametrize("forgotten", [False, True])
def test_attempts_that_failed_are_shown_whichever_functions_are(scene, forgotten):
    retried = {1, 700, 2 * BARS + 1}
    failing(scene, 2 * BARS + 2, retried)
    if forgotten:
        scene.forget("r")
    timeline = scene.look()["timeline"]
    assert timeline["every"] == 3
    assert len(timeline["bars"]) <= BARS
    found = [bar["function"] for bar in timeline["bars"] if bar["outcome"] == "failed"]
    assert found == [f"f{n}" for n in sorted(retried)]
    finished = {bar["function"] for bar in timeline["bars"] if bar["outcome"] == "finished"}
    assert finished >= {f"f{n}" for n in retried}
    assert finished >= {f"f{n}" for n in range(0, 2 * BARS, 3)}


def test_retries_do_not_keep_functions_of_the_end_from_being_shown(scene):
    failing(scene, BARS, range(BARS))
    bars = scene.look()["timeline"]["bars"]
    assert len(bars) == BARS
    assert sum(bar["outcome"] == "failed" for bar in bars) == BARS // 2
    assert {int(bar["function"][1:]) // 100 for bar in bars} == set(range(BARS // 100))


def test_ids_that_are_no_text_or_very_long(scene):
    scene.core.nodes(a="cpu 1")
    active = scene.run(x=fn("cpu 1"), y=fn("cpu 1"))
    active.run.spec = replace(active.run.spec, ids=[("a", 1), "y" * 1000], dag_id=None)
    seen = scene.look()
    assert seen["waiting"][0]["function"] == "('a', 1)"
    assert seen["runs"][0]["dag"] == "None"
    active.run.spec = replace(active.run.spec, ids=["y" * 1000, "x"])
    assert len(scene.look()["waiting"][0]["function"]) == ID


def test_a_priority_that_json_does_not_know(scene):
    scene.run(x=fn("cpu 1"), options={"priority": float("inf"), "wait_for_nodes": 1.0})
    assert scene.look()["runs"][0]["priority"] is None


def quickest(call, times=5):
    took = []
    for _ in range(times):
        start = perf_counter()
        call()
        took.append(perf_counter() - start)
    return min(took)


def many_waiting(scene):
    scene.core.nodes(a="cpu 1", b="cpu 2")
    for r in range(10):
        scene.run(id=f"r{r}", **many(10_000, fn("cpu 1"), f"r{r}f"))


def many_queues(scene):
    scene.core.nodes(a="cpu 1", b="cpu 4000")
    scene.core.state.node_accepting("b", False)
    scene.run(**{f"f{i}": fn(f"cpu {i + 2}") for i in range(3_000)})


def many_nodes(scene):
    for i in range(1_000):
        scene.core.state.node_joined(node(f"n{i:04d}", "cpu 4, memory 100"), 0.0)
    scene.run(**{f"f{i}": fn("cpu 3") for i in range(5_000)})


def many_runs(scene):
    scene.core.nodes(a="cpu 1")
    for r in range(2_000):
        scene.run(id=f"r{r}", **{f"r{r}f": fn("cpu 1")})


def many_finished(scene):
    scene.core.nodes(a="cpu 100000")
    ids = many(20_000, fn("cpu 1"))
    scene.run(**ids)
    scene.core.state.decide(0.0)
    for id in ids:
        scene.core.state.finished(scene.core[id], 1.0, started=0.0, stopped=1.0)
    scene.end("r")


@pytest.mark.parametrize("fill", [many_waiting, many_queues, many_nodes, many_runs, many_finished])
def test_it_takes_no_longer_the_more_there_is(fill):
    """Measured 1 to 5 ms; what grows with all there is takes a multiple of the bound."""
    scene = Scene()
    fill(scene)
    scene.core.decisions = scene.core.state.decide(0.0)
    seen = snapshot(scene.core.state, scene.active, scene.archive, scene.failures, 0.0)
    assert len(seen["runs"]) <= RUNS + ENDED_RUNS
    assert len(seen["waiting"]) <= QUEUES
    assert seen["waiting"] or fill is many_finished
    assert len(seen["nodes"]) <= NODES
    assert len(seen["timeline"]["bars"]) <= BARS
    took = quickest(lambda: snapshot(scene.core.state, scene.active, scene.archive, scene.failures, 0.0))
    assert took < 0.05
