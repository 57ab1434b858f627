"""The archive of ended runs on the scheduler."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scheduling.harness import Core, fn, many

from handoff_dask._adapter.archive import Archive, error_of
from handoff_dask._model.runinfo import RunInfo, make_unique

INFO = RunInfo("", "dag", "finished", "client", 0.0, None, 0.0, {})


class Bench:
    """A core, and an archive for its runs."""

    def __init__(self, max_runs=100, max_functions=1000):
        self.archive = Archive(max_runs, max_functions)
        self.core = Core()

    def add(self, id, ended, functions=1):
        run = self.core.run(id=id, **many(functions, fn("cpu 1", code=id), id))
        self.core.remove(id)
        self.archive.add(replace(INFO, id=id, ended=ended), run)

    @property
    def ids(self):
        return [run.info.id for run in self.archive.runs]


def test_the_runs_that_ended_first_are_evicted_first():
    bench = Bench(max_runs=2)
    for id, ended in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
        bench.add(id, ended)
    assert bench.ids == ["b", "c"]
    bench.add("old", 1.5)  # its client has only just released its handle
    assert bench.ids == ["b", "c"]
    assert bench.archive.find("old") is None
    assert bench.archive.find("b").info.ended == 2.0


def test_of_runs_that_ended_together_the_one_submitted_first_is_evicted_first():
    bench = Bench(max_runs=2)
    for id in "abc":
        bench.add(id, 1.0)
    assert bench.ids == ["b", "c"]


def test_the_bound_on_functions_holds_for_all_runs_together():
    bench = Bench(max_functions=10)
    bench.add("a", 1.0, 4)
    bench.add("b", 2.0, 6)
    assert bench.ids == ["a", "b"]
    bench.add("c", 3.0, 1)
    assert bench.ids == ["b", "c"]
    bench.add("d", 4.0, 9)
    assert bench.ids == ["c", "d"]
    bench.add("e", 5.0, 0)
    assert bench.ids == ["c", "d", "e"]


def test_a_run_that_exceeds_the_bound_alone_is_kept_without_its_functions():
    bench = Bench(max_functions=10)
    bench.add("a", 1.0, 10)
    bench.add("large", 2.0, 11)
    bench.add("b", 3.0, 0)
    assert bench.ids == ["a", "large", "b"]
    assert bench.archive.find("large").functions is None
    assert len(bench.archive.find("a").functions.summaries(0, 99)) == 10


@pytest.mark.parametrize("max_runs", [0, -1])
def test_a_bound_of_zero_keeps_no_runs(max_runs):
    bench = Bench(max_runs=max_runs)
    bench.add("a", 1.0)
    assert bench.ids == []


def test_archived_functions_keep_status_attempts_and_cost():
    bench = Bench()
    core = bench.core
    core.nodes(a="cpu 1")
    run = core.run(first=fn("cpu 1"), second=fn("cpu 0.5", retries=0), third=fn("cpu 1"))
    core.decide()
    core.finish("first", took=0.0)
    core.decide()
    core.fail("second", error="OSError()")
    core.remove("r")
    bench.archive.add(replace(INFO, id="r", ended=1.0), run)
    functions = bench.archive.find("r").functions
    assert list(functions.ids) == ["first", "second", "third"]
    summaries = functions.summaries(0, 3)
    assert summaries[1:2] == functions.summaries(1, 2)
    assert [s.status for s in summaries] == ["finished", "failed", "cancelled"]
    assert [[a.outcome for a in s.attempts] for s in summaries] == [["finished"], ["failed"], []]
    assert [functions.costs[k] for k in functions.kind_of] == [{"cpu": 1}, {"cpu": 0.5}, {"cpu": 1}]
    assert error_of(run, None) == "function 'second' failed: OSError()"


def test_the_error_of_a_run():
    core = Core()
    core.nodes(a="cpu 1")
    assert error_of(core.run(f=fn("cpu 1"), id="fits"), None) is None
    assert error_of(core.state.runs["fits"], "KeyError: 'x'") == (
        "handoff_dask failed on the scheduler: KeyError: 'x'"
    )
    assert "cpu" in error_of(core.run(f=fn("cpu 2"), id="large", ready=""), None)
    core.cancel("fits")
    assert error_of(core.state.runs["fits"], None) == "futures of the run were cancelled or released"
    assert error_of(core.state.runs["fits"], None, "its client was lost") == "its client was lost"


def test_ids_of_the_same_text_get_distinct_labels():
    assert make_unique(["a", 1, "a", ("x", 2), "a (2)", "a"]) == [
        "a",
        1,
        "a (2)",
        ("x", 2),
        "a (2) (2)",
        "a (3)",
    ]
