"""What functions asked for and used, over the runs of a history."""

from __future__ import annotations

import time

import pytest
from helpers import dag_of

import handoff_dask as handoff
from handoff_dask import Attempt, Function, History
from handoff_dask._client.history import HistoryEntry
from handoff_dask._model.records import Summary
from handoff_dask._model.runinfo import RunInfo


def write(history, id, *entries):
    info = RunInfo(id, "dag", "finished", None, 1.0, 2.0, 1.0, {}, 0.0, None)
    history._write(info, entries)


def attempt(number=1, memory=None, cpu=1.0, seconds=1.0, outcome="finished", exact=True, **fields):
    return Attempt(
        number,
        "node",
        0.0,
        10.0,
        10.0 + seconds,
        outcome,
        cpu_seconds=cpu,
        peak_memory=memory,
        peak_exact=exact,
        **fields,
    )


def entry(id, code, *attempts, cost=None):
    return HistoryEntry(id, f"{code} {id}", Summary(attempts[-1].outcome, attempts, 8), cost or {})


@pytest.fixture
def history(tmp_path):
    with History(tmp_path / "history.db") as history:
        yield history


def test_memory_by_code(history):
    cost = {"memory": 400, "cpu": 1}
    peaks = [float(n) for n in range(1, 101)]
    write(history, "r1", *(entry(n, "load", attempt(memory=p), cost=cost) for n, p in enumerate(peaks[:50])))
    write(history, "r2", *(entry(n, "load", attempt(memory=p), cost=cost) for n, p in enumerate(peaks[50:])))
    write(history, "r3", entry("x", "train", attempt(memory=900.0, exact=False), cost={"memory": 300}))
    load, train = history.usage()
    assert (load.code, load.resource, load.count, load.asked) == ("load", "memory", 100, 400)
    assert (load.used_median, load.used_p95, load.used_max) == (50, 95, 100)
    assert load.exact
    assert load.wasted == pytest.approx(1 - 50.5 / 400)
    assert load.exceeded == 0
    assert load.suggested == 110
    assert (train.exact, train.exceeded, train.wasted, train.suggested) == (False, 1, 0, 990)


def test_cores_by_code(history):
    write(
        history,
        "r",
        entry("a", "train", attempt(cpu=15.8, seconds=5.0), cost={"cpu": 8}),
        entry("b", "load", attempt(cpu=0.1, seconds=5.0), cost={}),
    )
    load, train = history.usage("cpu")
    assert (load.asked, load.suggested) == (None, 1)
    assert (train.asked, train.suggested) == (8, 4)
    assert train.used_max == pytest.approx(3.16)
    assert train.wasted == pytest.approx(1 - 3.16 / 8)


def test_attempts_count_with_what_they_booked(history):
    """Attempts that were lost, or loaded a checkpoint, do not count."""
    attempts = (
        attempt(1, 120.0, outcome="failed", cost={"memory": 100}),
        attempt(2, None, outcome="lost", cost={"memory": 200}),
        attempt(3, 180.0, cost={"memory": 200}),
    )
    loaded = attempt(memory=5000.0, loaded=True)
    write(history, "r", entry("a", "f", *attempts, cost={"memory": 100}), entry("b", "f", loaded))
    (row,) = history.usage()
    assert (row.count, row.exceeded, row.used_max, row.suggested) == (2, 1, 180, 200)
    assert row.asked == 100


def test_unmeasured_resources_are_rejected(history):
    with pytest.raises(ValueError, match="only memory and cpu are measured, not 'memry'; did you"):
        history.usage("memry")


def test_an_empty_history(history):
    usage = history.usage()
    assert list(usage) == []
    assert repr(usage) == "Nothing was measured"


def use(megabytes):
    data = bytearray(megabytes * 2**20)
    data[:: 2**12] = b"x" * len(data[:: 2**12])
    return len(data)


def test_runs_are_measured(client, tmp_path):
    path = tmp_path / "runs.db"
    functions = (Function(n, use, extra_args=[100], cost={"memory": 1000}) for n in range(3))
    handoff.execute(dag_of(*functions), client, history=path, isolation="process")
    handoff.execute_local(dag_of(Function("l", use, extra_args=[50], isolation="process")), history=path)
    with History(path) as history:
        usage = history.usage()
        (row,) = usage
        assert (row.code, row.count, row.asked, row.exact) == ("use", 4, 1000, True)
        assert 95 < row.used_max < 150
        assert 0.8 < row.wasted < 0.95
        frame = usage.to_pandas()
        assert list(frame["code"]) == ["use"]
        assert {"asked", "used_median", "used_p95", "used_max", "suggested"} <= set(frame.columns)
        assert "use" in repr(usage)
        assert "use" in usage._repr_html_()


def test_plot(history):
    pytest.importorskip("matplotlib")
    write(history, "r", entry("a", "f", attempt(memory=10.0), cost={"memory": 100}))
    figure = history.usage().plot()
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["f"]
    assert axes.get_xlabel() == "memory in MB"


def hold(megabytes, seconds):
    data = bytearray(megabytes * 2**20)
    data[:: 2**12] = b"x" * len(data[:: 2**12])
    time.sleep(seconds)


@pytest.mark.parametrize(("asked", "remarks"), [(1000, 1), (150, 0)])
def test_a_run_that_books_far_too_much_gets_a_remark(client, capsys, asked, remarks):
    dag = dag_of(Function("f", hold, extra_args=[100, 1.0], cost={"memory": asked}, isolation="process"))
    result = handoff.execute(dag, client, progress=True)
    assert capsys.readouterr().err.count("of the memory that they asked for") == remarks
    assert result._repr_html_().count("of the memory that they asked for") == remarks


def test_short_runs_get_no_remark(client, capsys):
    handoff.execute(dag_of(Function("f", use, extra_args=[1], cost={"memory": 1000})), client, progress=True)
    assert "of the memory" not in capsys.readouterr().err
