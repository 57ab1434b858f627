"""Snapshots for the dashboard, taken of a core without a cluster."""

from __future__ import annotations

import json
import random
import statistics
from dataclasses import replace
from time import thread_time

import pytest
from scheduling.harness import Core, fn, many, node

from handoff_dask import RetryPolicy
from handoff_dask._adapter import usage_by_code
from handoff_dask._adapter.active import ActiveRun
from handoff_dask._adapter.archive import Archive, ArchivedFunctions
from handoff_dask._adapter.run_details import BARS, CODES, run_details
from handoff_dask._adapter.snapshot import (
    ENDED_RUNS,
    NODES,
    RUNS,
    RecentFailures,
    snapshot,
)
from handoff_dask._adapter.texts import ID, TEXT
from handoff_dask._adapter.usage_by_code import CHUNK, KEPT, UPDATING, UsageByCode
from handoff_dask._adapter.waiting import GROUPS, QUEUES_GROUPED
from handoff_dask._model.records import Attempt
from handoff_dask._model.used import Used


class Scene:
    """A core, and the parts of a plugin that a snapshot reads."""

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

    def read(self, run_id=None):
        """Return what the page shows."""
        shot = snapshot(self.core.state, self.active, self.archive, self.failures, self.core.now)
        return {**shot, "details": run_details(self.active, self.archive, run_id, self.core.now)}

    def take(self, run_id=None):
        """Check the core's state, and return what the page shows as plain values."""
        shot = self.read(run_id)
        self.core.state.check()
        return json.loads(json.dumps(shot, allow_nan=False))


@pytest.fixture
def scene():
    return Scene()


def test_an_empty_snapshot(scene):
    shot = scene.take()
    assert shot["runs"] == shot["waiting"] == shot["nodes"] == shot["failures"] == []
    assert shot["details"] is None


def test_runs_nodes_and_waiting_functions(scene):
    core = scene.core
    core.nodes(a="cpu 4, memory 100", b="cpu 2")
    scene.run(id="first", **many(3, fn("cpu 2"), "f"))
    scene.run(id="second", large=fn("cpu 4", priority=1), options={"priority": 2})
    core.decide()
    core.wait(1.5)
    shot = scene.take()
    first, second = sorted(shot["runs"], key=lambda run: run["id"])
    assert second["counts"] == {"running": 1}
    assert second["share"] == pytest.approx(4 / 6)
    assert second["priority"] == 2
    assert first["counts"] == {"ready": 2, "running": 1}
    assert first["share"] == pytest.approx(2 / 6)
    assert first["elapsed"] == 1.5
    assert [run["id"] for run in shot["runs"]] == [
        "second",
        "first",
    ]  # in the order of service
    assert shot["functions_waiting"] == 2
    (waiting,) = shot["waiting"]
    assert (waiting["function"], waiting["run"], waiting["queued"]) == ("f1", "first", 2)
    assert waiting["why"] == core.state.explain(core["f1"], core.now)
    a, b = shot["nodes"]
    assert a == {
        "name": "a",
        "accepting": True,
        "running": 1,
        "amounts": [
            {"resource": "cpu", "capacity": 4, "used": 4},
            {"resource": "memory", "capacity": 100, "used": 0},
        ],
        "measured": {},
    }
    assert b["running"] == 1
    assert shot["details"]["run"] == "second"
    assert shot["details"]["bars"] == [
        {
            "function": "large",
            "code": "function",
            "node": "a",
            "start": 0,
            "stop": 1.5,
            "outcome": "running",
            "cost": {"cpu": 4},
            "cpu_seconds": None,
            "peak_memory": None,
            "peak_exact": False,
        }
    ]


def test_waiting_functions_are_grouped_by_what_they_wait_for(scene):
    core = scene.core
    core.nodes(a="cpu 2", b="cpu 8, gpu 1")
    scene.run(id="first", x=fn("cpu 2", pin="a"), y=fn("gpu 1"))
    core.decide()
    scene.run(id="second", **many(3, fn("cpu 1", pin="a"), "s"), g=fn("gpu 0.5"))
    scene.run(id="third", **many(4, fn("cpu 2", pin="a"), "t"), options={"priority": 1})
    assert core.decide() == []
    shot = scene.take()
    cpu, gpu = shot["waiting"]
    assert cpu["reason"] == "cpu, on 1 node"
    assert (cpu["queued"], cpu["queues"]) == (7, 2)
    assert (cpu["function"], cpu["run"]) == ("t0", "third")  # the most urgent one
    assert cpu["why"] == core.state.explain(core["t0"], core.now)
    assert (gpu["reason"], gpu["queued"], gpu["function"]) == ("gpu, on 1 node", 1, "g")
    assert (shot["queues_grouped"], shot["queues_there"]) == (3, 3)


def test_queues_without_a_place_in_the_groups_are_counted(scene):
    scene.core.nodes(a="cpu 1", b="cpu 1000")
    scene.core.state.node_accepting("b", False)
    scene.run(**{f"f{i}": fn(f"cpu {i + 2}") for i in range(QUEUES_GROUPED + 5)})
    scene.core.decide()
    shot = scene.take()
    assert (shot["queues_grouped"], shot["queues_there"]) == (QUEUES_GROUPED, QUEUES_GROUPED + 5)
    assert len(shot["waiting"]) == 1


def test_estimates_and_measured_use(scene):
    core = scene.core
    core.nodes(a="cpu 1", b="cpu 2")
    scene.run(**many(3, fn("cpu 1", code="f"), "f"), options={"seconds": (10.0, 10.0, 10.0)})
    core.decide()
    core.wait(1)
    shot = scene.take()
    assert shot["runs"][0]["eta"] is not None
    assert shot["runs"][0]["known"] == 1
    use = {"a": {"cpu": 0.5}, "b": {}}
    measured = snapshot(
        core.state, scene.active, scene.archive, scene.failures, core.now, lambda node: use[node.name]
    )
    assert [node["measured"] for node in measured["nodes"]] == [{"cpu": 0.5}, {}]


def test_estimates_take_a_bounded_time(scene, monkeypatch):
    """Later snapshots make those that did not fit into the first."""
    scene.core.nodes(a="cpu 9")
    for n in range(3):
        scene.run(id=f"r{n}", **{f"f{n}": fn("cpu 1")}, options={"seconds": (10.0,)})
    scene.core.decide()
    clock = iter(range(1000))
    monkeypatch.setattr("handoff_dask._adapter.snapshot.monotonic", lambda: next(clock) * 0.004)
    assert [run["eta"] is not None for run in scene.take()["runs"]] == [True, False, False]


def test_functions_are_counted_by_code_and_state(scene):
    core = scene.core
    core.nodes(a="cpu 3")
    scene.run(
        **many(4, fn("cpu 1", code="blur b", retries=0), "b"),
        one=fn("cpu 1", code="read read"),
        two=fn("cpu 1", code="read write"),
        options={"fail_fast": False},
    )
    core.decide()
    expected = [
        {"code": "blur (b)", "counts": {"running": 3, "ready": 1}, "used": []},
        {"code": "read", "counts": {"ready": 1}, "used": []},
        {"code": "read (write)", "counts": {"ready": 1}, "used": []},
    ]
    assert scene.take()["details"]["codes"] == expected
    core.finish("b0")
    core.fail("b1", error="no")
    core.decide()
    scene.active["r"].code_counts._due = 0.0
    assert scene.take()["details"]["codes"][0]["counts"] == {
        "running": 2,
        "finished": 1,
        "failed": 1,
    }
    core.finish("b2 b3")
    core.decide()
    core.finish("one two")
    core.decide()
    scene.end("r")
    before = scene.take()["details"]
    assert before["codes"][0]["counts"] == {"finished": 3, "failed": 1}
    scene.forget("r")
    after = scene.take()["details"]
    assert after["codes"] == before["codes"]
    assert (after["status"], after["codes_there"], after["sampled"]) == ("failed", 3, False)


def finish(scene, id, cpu, memory, exact=False, took=2.0, **details):
    """Finish a function that used so many seconds of cpu and MB."""
    core = scene.core
    usage = Used(cpu, memory, exact)
    core.state.finished(core[id], core.now, started=core.now - took, stopped=core.now, usage=usage, **details)


def used(scene, code="function"):
    """Return resource → what the attempts of a code used, on the page."""
    (view,) = [view for view in scene.take()["details"]["codes"] if view["code"] == code]
    return {use.pop("resource"): use for use in view["used"]}


def test_what_functions_used_is_beside_what_they_asked_for(scene):
    core = scene.core
    core.nodes(a="cpu 9, memory 900")
    scene.run(
        **many(4, fn("cpu 1, memory 100", code="f", policy=RetryPolicy(grow={"memory": 2})), "f"),
        g=fn("cpu 2", code="g"),
    )
    core.decide()
    core.wait(3)
    assert used(scene, "f") == {}
    finish(scene, "f0", 1.0, 40.0)
    finish(scene, "f1", 3.0, 70.0, exact=True)
    finish(scene, "f2", None, None)
    core.fail("f3", started=2.0, stopped=3.0, usage=Used(None, 120.0), out_of_memory=True)
    first = {"asked": [100, 100], "median": 70, "most": 120, "exact": False, "attempts": 3, "exceeded": 1}
    cores = {"asked": [1, 1], "median": 0.5, "most": 1.5, "exact": True, "attempts": 2, "exceeded": 1}
    assert used(scene, "f") == {"memory": first, "cpu": cores}
    assert used(scene, "f") == {"memory": first, "cpu": cores}, "each attempt counts once"
    core.wait(9)
    core.state.ready(core["f3"], core.now)
    core.decide()
    core.wait(2)
    finish(scene, "f3", 1.0, 130.0)
    finish(scene, "g", 1.0, 5.0, exact=True)
    core.decide()
    scene.end("r")
    grown = {"asked": [100, 200], "median": 70, "most": 130, "exact": False, "attempts": 4, "exceeded": 1}
    assert used(scene, "f") == {"memory": grown, "cpu": {**cores, "attempts": 3}}
    only = {"asked": None, "median": 5, "most": 5, "exact": True, "attempts": 1, "exceeded": 0}
    assert used(scene, "g")["memory"] == only
    before = scene.take()["details"]
    (failed,) = [bar for bar in before["bars"] if bar["outcome"] == "failed"]
    assert (failed["cost"], failed["peak_memory"]) == ({"cpu": 1, "memory": 100}, 120)
    (again,) = [bar for bar in before["bars"] if bar["function"] == "f3" and bar is not failed]
    assert again["cost"]["memory"] == 200
    assert (again["cpu_seconds"], again["peak_memory"], again["peak_exact"]) == (1, 130, False)
    scene.forget("r")
    after = scene.take()["details"]
    assert (after["codes"], after["bars"]) == (before["codes"], before["bars"])


def test_attempts_that_ran_no_code_used_nothing(scene):
    scene.core.nodes(a="cpu 9")
    scene.run(**many(3, fn("cpu 1")))
    scene.core.decide()
    scene.core.wait(3)
    finish(scene, "f0", 2.0, 50.0)
    finish(scene, "f1", 0.1, 1.0, loaded=True)
    scene.core.lose("f2")
    assert {resource: use["attempts"] for resource, use in used(scene).items()} == {"memory": 1, "cpu": 1}


@pytest.mark.parametrize("forgotten", [False, True])
def test_use_is_counted_in_a_bounded_time(scene, monkeypatch, forgotten):
    """Later snapshots continue, and then only look at what has changed."""
    number = 5 * CHUNK
    scene.core.nodes(a=f"cpu {number}")
    scene.run(**many(number, fn("cpu 1")))
    scene.core.state.decide(0.0)
    scene.core.wait(3)
    for n in range(number):
        finish(scene, f"f{n}", 1.0, 1.0 + n)
    if forgotten:
        scene.end("r")
        scene.forget("r")
    clock = iter(range(1000))
    monkeypatch.setattr(usage_by_code, "monotonic", lambda: next(clock) * UPDATING / 2.5)
    counted = []
    for _ in range(4):
        details = scene.read()["details"]
        counted.append((details["codes"][0]["used"][0]["attempts"] // CHUNK, details["usage_partial"]))
    assert counted == [(2, True), (4, True), (5, False), (5, False)]
    assert used(scene)["memory"]["median"] == number / 2


def test_of_very_many_attempts_the_median_is_of_a_part_of_them():
    rng = random.Random(1)
    amounts = [rng.lognormvariate(5, 1) for _ in range(10 * KEPT)]
    attempts = [Attempt(1, "a", None, 0.0, 1.0, "finished", peak_memory=amount) for amount in amounts]
    usage = UsageByCode(["f"], [{}], [0] * len(attempts))
    while usage.partial:
        usage.update(
            lambda cursor, most: ArchivedFunctions.changes(attempts, cursor, most),
            lambda n: (attempts[n],),
        )
    (memory,) = usage.of("f")
    assert (memory["attempts"], memory["most"]) == (len(amounts), max(amounts))
    assert memory["median"] == pytest.approx(statistics.median(amounts), rel=0.1)


def test_counts_by_code_are_not_renewed_too_often(scene):
    scene.core.nodes(a="cpu 2")
    active = scene.run(x=fn("cpu 1"), y=fn("cpu 1"))
    scene.core.decide()
    before = active.code_counts.at(active.run)
    active.code_counts._due = float("inf")
    scene.core.finish("x")
    assert active.code_counts.at(active.run) is before
    scene.core.finish("y")
    scene.core.decide()
    assert active.run.ended
    (counts,) = active.code_counts.at(active.run).values()
    assert {state.value: n for state, n in counts.items()} == {"finished": 2}


def test_of_very_large_runs_a_sample_is_counted(scene, monkeypatch):
    monkeypatch.setattr("handoff_dask._adapter.code_counts.COUNTED", 10)
    scene.core.nodes(a="cpu 1")
    scene.run(**many(95, fn("cpu 1", code="f"), "f"))
    details = scene.take()["details"]
    assert details["sampled"]
    assert details["codes"] == [{"code": "f", "counts": {"ready": 100}, "used": []}]


def test_very_many_codes(scene):
    scene.core.nodes(a="cpu 1")
    scene.run(**{f"f{i}": fn("cpu 1", code=f"c{i:02d}") for i in range(CODES + 5)})
    details = scene.take()["details"]
    assert [view["code"] for view in details["codes"]] == [f"c{i:02d}" for i in range(CODES)]
    assert details["codes_there"] == CODES + 5


def test_details_of_a_given_run(scene):
    core = scene.core
    core.nodes(a="cpu 1")
    for n in range(3):
        scene.run(id=f"r{n}", **{f"f{n}": fn("cpu 1")})
        core.decide()
        core.finish(f"f{n}", took=0.5)
        core.decide()
        scene.end(f"r{n}")
    scene.forget("r0")
    assert [scene.take(f"r{n}")["details"]["run"] for n in range(3)] == ["r0", "r1", "r2"]
    assert scene.take()["details"]["run"] == "r2"
    assert scene.take("unknown")["details"] is None


def test_a_dominant_share_is_at_most_1(scene):
    """The core's own figure sums the largest fractions of functions, even of different resources."""
    scene.core.nodes(a="cpu 4, gpu 1, threads 8")
    active = scene.run(x=fn("cpu 4"), y=fn("gpu 1"))
    scene.core.decide()
    assert active.run.share > 2**30
    assert scene.take()["runs"][0]["share"] == 1


def test_a_run_that_waits_for_nodes(scene):
    scene.core.nodes(a="cpu 1")
    scene.run(x=fn("gpu 1"), options={"wait_for_nodes": 30.0})
    (waiting,) = scene.take()["waiting"]
    assert "its run starts once the nodes can hold all of its functions (fails in 30 s)" in waiting["why"]


def test_a_run_with_very_many_shortfalls_lists_only_the_first(scene):
    scene.core.nodes(a="cpu 1")
    kinds = {f"f{i}": fn(f"gpu {i + 1}") for i in range(300)}
    scene.run(**kinds, options={"wait_for_nodes": 30.0})
    (waiting,) = scene.take()["waiting"]
    assert "lacks nodes for 300 kinds of functions; the first: " in waiting["why"]


def test_failures_are_listed_the_last_one_first(scene):
    core = scene.core
    core.nodes(a="cpu 1")
    scene.run(x=fn("cpu 1", retries=1))
    core.decide()
    core.fail("x", error="ValueError('no')", started=0.0, stopped=0.5)
    scene.failures.note(core["x"], 7.0)
    scene.failures.note(core["x"], 8.0, "it fits on no node")
    last, before = scene.take()["failures"]
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
    assert len(scene.take()["failures"]) == 30
    assert len(scene.take()["failures"][0]["error"]) == TEXT


def test_ended_runs_are_listed_the_last_one_first(scene):
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
    shot = scene.take()
    assert [run["id"] for run in shot["runs"]] == ["r6", "r5", "r4", "r3", "r2"]
    assert shot["runs_there"] == 0
    assert {run["share"] for run in shot["runs"]} == {None}
    assert shot["details"]["run"] == "r6"
    scene.forget("r6")
    (bar,) = scene.take()["details"]["bars"]
    assert bar == {
        "function": "f6",
        "code": "function",
        "node": "a",
        "start": 0.5,
        "stop": 1,
        "outcome": "finished",
        "cost": {"cpu": 1},
        "cpu_seconds": None,
        "peak_memory": None,
        "peak_exact": False,
    }


def failing(scene, number, retried):
    """Make a run of ``number`` functions, of which those in ``retried`` fail once before they finish."""
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
def test_failed_attempts_are_shown_even_if_their_functions_are_not_sampled(scene, forgotten):
    retried = {1, 700, 2 * BARS + 1}
    failing(scene, 2 * BARS + 2, retried)
    if forgotten:
        scene.forget("r")
    timeline = scene.take()["details"]
    assert timeline["every"] == 3
    assert len(timeline["bars"]) <= BARS
    found = [bar["function"] for bar in timeline["bars"] if bar["outcome"] == "failed"]
    assert found == [f"f{n}" for n in sorted(retried)]
    finished = {bar["function"] for bar in timeline["bars"] if bar["outcome"] == "finished"}
    assert finished >= {f"f{n}" for n in retried}
    assert finished >= {f"f{n}" for n in range(0, 2 * BARS, 3)}


def test_retries_do_not_displace_the_last_functions(scene):
    failing(scene, BARS, range(BARS))
    bars = scene.take()["details"]["bars"]
    assert len(bars) == BARS
    assert sum(bar["outcome"] == "failed" for bar in bars) == BARS // 2
    assert {int(bar["function"][1:]) // 100 for bar in bars} == set(range(BARS // 100))


def test_ids_that_are_not_text_or_very_long(scene):
    scene.core.nodes(a="cpu 1")
    active = scene.run(x=fn("cpu 1"), y=fn("cpu 1"))
    active.run.spec = replace(active.run.spec, ids=[("a", 1), "y" * 1000], dag_id=None)
    shot = scene.take()
    assert shot["waiting"][0]["function"] == "('a', 1)"
    assert shot["runs"][0]["dag"] == "None"
    active.run.spec = replace(active.run.spec, ids=["y" * 1000, "x"])
    assert len(scene.take()["waiting"][0]["function"]) == ID


def test_a_priority_that_json_cannot_represent(scene):
    scene.run(x=fn("cpu 1"), options={"priority": float("inf"), "wait_for_nodes": 1.0})
    assert scene.take()["runs"][0]["priority"] is None


def quickest(call, times=5):
    """Return the processor time of the quickest call, which other processes on the machine do not change."""
    took = []
    for _ in range(times):
        start = thread_time()
        call()
        took.append(thread_time() - start)
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
        scene.core.state.finished(
            scene.core[id], 1.0, started=0.0, stopped=1.0, usage=Used(0.5, len(id) + 0.5)
        )
    scene.end("r")


@pytest.mark.parametrize("fill", [many_waiting, many_queues, many_nodes, many_runs, many_finished])
def test_the_time_for_a_snapshot_is_bounded(fill):
    """Measured: 1 to 5 ms. A snapshot that inspected everything would take a multiple of the bound."""
    scene = Scene()
    fill(scene)
    scene.core.decisions = scene.core.state.decide(0.0)
    shot = scene.read()
    assert len(shot["runs"]) <= RUNS + ENDED_RUNS
    assert len(shot["waiting"]) <= GROUPS
    assert shot["waiting"] or fill is many_finished
    assert len(shot["nodes"]) <= NODES
    assert len(shot["details"]["bars"]) <= BARS
    took = quickest(scene.read)
    assert took < 0.05
