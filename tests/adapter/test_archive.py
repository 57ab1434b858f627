"""What the scheduler remembers of runs that have ended."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scheduling.harness import Core, fn, many

from handoff_dask._adapter.archive import Archive, error_of
from handoff_dask._model.runinfo import RunInfo, make_unique

INFO = RunInfo("", "dag", "finished", "client", 0.0, None, 0.0, {})


class Bench:
    """An archive, and a core whose runs go there."""

    def __init__(self, most_runs=100, most_functions=1000):
        self.archive = Archive(most_runs, most_functions)
        self.core = Core()

    def add(self, id, ended, functions=1):
        run = self.core.run(id=id, **many(functions, fn("cpu 1", code=id), id))
        self.core.remove(id)
        self.archive.add(replace(INFO, id=id, ended=ended), run)

    @property
    def ids(self):
        return [run.info.id for run in self.archive.runs]


def test_those_that_ended_first_go_first():
    bench = Bench(most_runs=2)
    for id, ended in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
        bench.add(id, ended)
    assert bench.ids == ["b", "c"]
    bench.add("old", 1.5)  # its client let go of it only now
    assert bench.ids == ["b", "c"]
    assert bench.archive.find("old") is None
    assert bench.archive.find("b").info.ended == 2.0


def test_of_runs_that_ended_at_once_the_one_submitted_first_goes_first():
    bench = Bench(most_runs=2)
    for id in "abc":
        bench.add(id, 1.0)
    assert bench.ids == ["b", "c"]


def test_functions_are_counted_together():
    bench = Bench(most_functions=10)
    bench.add("a", 1.0, 4)
    bench.add("b", 2.0, 6)
    assert bench.ids == ["a", "b"]
    bench.add("c", 3.0, 1)
    assert bench.ids == ["b", "c"]
    bench.add("d", 4.0, 9)
    assert bench.ids == ["c", "d"]
    bench.add("e", 5.0, 0)
    assert bench.ids == ["c", "d", "e"]


def test_a_run_that_alone_is_too_large_is_kept_without_its_functions():
    bench = Bench(most_functions=10)
    bench.add("a", 1.0, 10)
    bench.add("large", 2.0, 11)
    bench.add("b", 3.0, 0)
    assert bench.ids == ["a", "large", "b"]
    assert bench.archive.find("large").functions is None
    assert len(bench.archive.find("a").functions.summaries(0, 99)) == 10


@pytest.mark.parametrize("most", [0, -1])
def test_none_are_kept_if_none_may_be(most):
    bench = Bench(most_runs=most)
    bench.add("a", 1.0)
    assert bench.ids == []


def test_rows_tell_what_happened():
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
    rows = functions.summaries(0, 3)
    assert rows[1:2] == functions.summaries(1, 2)
    assert [row.status for row in rows] == ["finished", "failed", "cancelled"]
    assert [[a.outcome for a in row.attempts] for row in rows] == [["finished"], ["failed"], []]
    assert [functions.asked[k] for k in functions.kind_of] == [{"cpu": 1}, {"cpu": 0.5}, {"cpu": 1}]
    assert error_of(run, None) == "function 'second' failed: OSError()"


def test_why_a_run_did_not_finish():
    core = Core()
    core.nodes(a="cpu 1")
    assert error_of(core.run(f=fn("cpu 1"), id="fits"), None) is None
    assert error_of(core.state.runs["fits"], "KeyError: 'x'") == (
        "handoff_dask failed on the scheduler: KeyError: 'x'"
    )
    assert "cpu" in error_of(core.run(f=fn("cpu 2"), id="large", ready=""), None)
    core.cancel("fits")
    assert error_of(core.state.runs["fits"], None) is None


def test_ids_of_the_same_text_are_told_apart():
    assert make_unique(["a", 1, "a", ("x", 2), "a (2)", "a"]) == [
        "a",
        1,
        "a (2)",
        ("x", 2),
        "a (2) (2)",
        "a (3)",
    ]
