"""The ``History`` class: reading and writing, migrations, and files that are not histories."""

from __future__ import annotations

import math
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections import namedtuple
from pathlib import Path

import pandas as pd
import pytest
from helpers import dag_of, identity
from hypothesis import given
from hypothesis import strategies as st

import handoff_dask as handoff
from handoff_dask import Attempt, Function, History, HistoryError, RunInfo, RunNotFoundError
from handoff_dask._client import history_file
from handoff_dask._client.history import HistoryEntry
from handoff_dask._client.history_file import decode_id, encode_id
from handoff_dask._model.code_keys import code_key
from handoff_dask._model.records import Summary

Point = namedtuple("Point", "x")
NODES = {"node": {"cpu": 1}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "history.db"


@pytest.fixture
def history(path):
    with History(path) as history:
        yield history


def info(id="r", dag_id="dag", submitted=0.0, status="finished", **facts):
    return RunInfo(id, dag_id, status, None, submitted, submitted + 1, 1.0, {}, **facts)


def timed(id, seconds, code="work ", status="finished", cost=None):
    """A function that timed so long."""
    attempt = Attempt(1, "node", 0.0, 10.0, 10.0 + seconds, status)
    return HistoryEntry(id, code, Summary(status, (attempt,), 8), cost or {})


def ids_of(history):
    return [run.id for run in history.runs()]


# ---------------------------------------------------------------------- writing


def test_a_new_history_is_empty(history, path):
    assert history.path == str(path)
    assert history.runs() == []
    assert history.durations() == {}
    with pytest.raises(RunNotFoundError, match="no run has the id 'r'; known runs: none"):
        history.records("r")


def test_records_survive_a_round_trip(history):
    written = info("r1", ("dag", 1), 5.0, "failed", priority=2.5, error="a \ud800 problem")
    attempts = (
        Attempt(
            1,
            7,
            1.0,
            2.0,
            3.0,
            "failed",
            "OSError()",
            "line\nline \udcff",
            {"gpu": (0, 2)},
            cpu_seconds=0.75,
            peak_memory=80.5,
            peak_exact=True,
            cost={"cpu": 1, "gpu": 2},
        ),
        Attempt(2, "node", None, None, 4.0, "lost"),
    )
    entries = [
        HistoryEntry("tried", "work t", Summary("failed", attempts, None), {"cpu": 0.5, "gpu": 2}),
        HistoryEntry(("never", 1), "other ", Summary("cancelled", (), None), {}),
        timed("done", 2.0),
    ]
    history._write(written, entries)
    (read,) = history.runs()
    assert read.error == "a \\ud800 problem"
    assert (read.id, read.dag_id, read.status, read.priority) == ("r1", ("dag", 1), "failed", 2.5)
    assert (read.submitted, read.ended, read.elapsed, read.client) == (5.0, 6.0, 1.0, None)
    assert read.counts == {"failed": 1, "cancelled": 1, "finished": 1}
    records = history.records("r1")
    assert type(records) is handoff.Records
    assert list(records) == ["tried", ("never", 1), "done"]
    tried = records["tried"]
    assert tried.attempts == (
        attempts[0]._replace(traceback="line\nline \\udcff"),
        attempts[1]._replace(cost={"cpu": 0.5, "gpu": 2}),  # that of the function, if nothing else is known
    )
    assert tried.cost == {"cpu": 0.5, "gpu": 2}
    assert records["never", 1].attempts == ()
    assert (records["done"].duration, records["done"].nbytes) == (2.0, 8)
    assert history.allocations("r1") == {"tried": "node", "done": "node"}


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters()),
    lambda ids: st.lists(ids, max_size=3).map(tuple),
    max_leaves=5,
)


@given(plain)
def test_plain_ids_survive_a_round_trip(id):
    connection = sqlite3.connect(":memory:")
    (value,) = connection.execute("SELECT ?", (encode_id(id),)).fetchone()
    connection.close()
    decoded = decode_id(value)
    assert decoded == id
    assert repr(decoded) == repr(id)  # tells True from 1, and 0.0 from -0.0


@pytest.mark.parametrize("id", ["\ud800", 2**70, math.inf, (1, ("a", (None,)), -math.inf), '["a"]', "", b"x"])
def test_unusual_ids(history, id):
    history._write(info("r", id), [timed(id, 1.0), timed(("other", 1), 2.0)])
    expected = "b'x'" if id == b"x" else id
    assert history.runs()[0].dag_id == expected
    assert list(history.records("r")) == [expected, ("other", 1)]


def test_not_a_number_as_an_id(history):
    history._write(info("r"), [timed(math.nan, 1.0)])
    (id,) = history.records("r")
    assert math.isnan(id)


def test_other_ids_become_their_repr(history):
    history._write(info("r", Point(0)), [timed(Point(1), 1.0), timed("Point(x=1)", 2.0)])
    assert history.runs()[0].dag_id == "Point(x=0)"
    assert {id: r.duration for id, r in history.records("r").items()} == {
        "Point(x=1)": 1.0,
        "Point(x=1) (2)": 2.0,
    }


def test_a_run_is_written_atomically(history):
    with pytest.raises(HistoryError, match="NOT NULL constraint"):
        history._write(info("r"), [timed("a", 1.0), HistoryEntry("b", "work", Summary(None, ()), {})])
    assert history.runs() == []
    history._write(info("r"), [timed("a", 1.0)])
    with pytest.raises(HistoryError, match="UNIQUE"):
        history._write(info("r"), [timed("b", 1.0)])
    assert list(history.records("r")) == ["a"]


# ---------------------------------------------------------------------- reading and removing


def test_runs_are_listed_newest_first(history):
    for id, submitted in (("a", 2.0), ("b", 3.0), ("c", 1.0), ("d", 3.0)):
        history._write(info(id, submitted=submitted), [])
    assert ids_of(history) == ["d", "b", "a", "c"]
    with pytest.raises(RunNotFoundError) as caught:
        history.allocations("e")
    assert caught.value.known == ("d", "b", "a", "c")


def test_durations_by_code(history):
    history._write(info("r1"), [timed("a", 1.0), timed("b", 2.0, "work b"), timed("c", 9.0, status="failed")])
    history._write(info("r2"), [timed("a", 6.0), timed("x", 0.5, "other x")])
    durations = history.durations()
    assert durations == {
        "other": handoff.CodeDurations("other", 1, 0.5, 0.5, 0.5),
        "work": handoff.CodeDurations("work", 3, 3.0, 2.0, 6.0),
    }
    assert list(durations) == ["other", "work"]
    assert list(pd.DataFrame(durations.values())["median"]) == [0.5, 2.0]


def test_hints_are_means_by_key(history):
    entries = [timed("a", 1.0, "work a"), timed("b", 3.0, "work a"), timed("c", 7.0, "work c")]
    history._write(info("r"), [*entries, timed("d", 5.0, "other d", "failed")])
    hints, functions, _ = history._estimates(["work a", "work x", "other d", "none n"], [])
    assert {key: hint.seconds for key, hint in hints.items()} == {
        "work a": 2.0,
        "work c": 7.0,
        "work ": pytest.approx(11 / 3),
    }
    assert functions == {}
    hints, _, _ = history._estimates([f"code{n} " for n in range(2000)] + ["work c"], [])
    assert hints["work c"].seconds == 7.0
    assert history._estimates([], []) == ({}, {}, [])


def test_remove_and_prune(history):
    for n in range(6):
        history._write(info(f"r{n}", submitted=float(n)), [timed("a", 1.0)])
    history.remove("r3")
    assert ids_of(history) == ["r5", "r4", "r2", "r1", "r0"]
    assert history.prune(before=1.0) == 1
    assert history.prune(keep=2) == 2
    assert history.prune(keep=9, before=0.0) == 0
    assert ids_of(history) == ["r5", "r4"]
    with pytest.raises(RunNotFoundError):
        history.remove("r3")
    with sqlite3.connect(history.path) as connection:
        for table in ("functions", "attempts"):
            assert connection.execute(f"SELECT DISTINCT run_id FROM {table} ORDER BY 1").fetchall() == [
                ("r4",),
                ("r5",),
            ]
    connection.close()
    assert history.durations()["work"].count == 2
    assert history.prune(keep=0) == 2


@pytest.mark.parametrize("wrong", [{}, {"keep": -1}, {"keep": True}, {"keep": 1.5}])
def test_prune_needs_a_valid_rule(history, wrong):
    with pytest.raises(ValueError, match="keep"):
        history.prune(**wrong)


# ---------------------------------------------------------------------- simulation


def simulated_durations(history, *functions, id="dag"):
    dag = dag_of(*(Function(f, code, extra_args=[1]) for f, code in functions), id=id)
    return {id: r.duration for id, r in handoff.simulate(dag, NODES, history).records.items()}


def test_simulation_uses_the_duration_in_the_latest_run_where_a_function_finished(history):
    history._write(info("r1", submitted=1.0), [timed("a", 1.0), timed("b", 2.0)])
    history._write(info("r3", submitted=3.0), [timed("a", 5.0), timed("b", 9.0, status="failed")])
    history._write(info("r2", submitted=2.0), [timed("a", 7.0)])
    history._write(info("r4", "other", submitted=4.0), [timed("a", 8.0)])
    assert simulated_durations(history, ("a", identity), ("b", identity)) == {"a": 5.0, "b": 2.0}


def test_simulation_of_another_dag_uses_durations_by_code(history):
    key = code_key(identity)
    history._write(
        info("r"),
        [timed("f1", 1.0, f"{key} f"), timed("f2", 3.0, f"{key} f"), timed("g", 8.0, f"{key} g")],
    )
    assert simulated_durations(history, ("f9", identity), ("new", identity), id="other") == {
        "f9": 2.0,
        "new": 4.0,
    }
    # The history knows the DAG, but not all of its functions.
    assert simulated_durations(history, ("f2", identity), ("f3", identity)) == {"f2": 3.0, "f3": 2.0}
    with pytest.raises(ValueError, match="durations has no entry for function 'x'"):
        simulated_durations(history, ("x", str), id="other")


# ---------------------------------------------------------------------- files


def test_a_closed_history_raises_an_error(path):
    with History(path) as history:
        pass
    history.close()
    assert repr(history) == f"<History {str(path)!r}, closed>"
    with pytest.raises(HistoryError, match=r"history\.db': it is closed"):
        history.runs()


def test_a_history_can_be_used_by_several_threads(history):
    def write(name):
        for n in range(10):
            history._write(info(f"{name}{n}"), [timed("a", 1.0)])
            assert history.durations()["work"].count >= 1

    threads = [threading.Thread(target=write, args=[name]) for name in "xyz"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(history.runs()) == 30


def start_script(text, *args):
    return subprocess.Popen(
        [sys.executable, "-c", text, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


WRITER = """
import sys, warnings
import handoff_dask as handoff
warnings.simplefilter("error")
dag = handoff.DAG(sys.argv[2])
for n in range(50):
    dag.add_function(handoff.Function(n, pow, extra_args=[n, 2]))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(15):
    handoff.execute_local(dag, history=sys.argv[1])
"""


def test_several_processes_write_concurrently(path):
    """They also create the file concurrently."""
    writers = [start_script(WRITER, path, name) for name in ("one", "two", "three")]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        _, errors = writer.communicate(timeout=100)
        assert writer.returncode == 0, errors
    with History(path) as history:
        runs = history.runs()
        assert sorted(run.dag_id for run in runs) == sorted(["one", "two", "three"] * 15)
        assert all(run.counts == {"finished": 50} for run in runs)
        assert history.durations()["pow"].count == 45 * 50


def write_version_1(path):
    connection = sqlite3.connect(path)
    connection.executescript((Path(__file__).parent / "history_v1.sql").read_text())
    connection.close()


def check_version_1(history):
    (run,) = history.runs()
    assert run == RunInfo(
        "r1",
        "nightly",
        "failed",
        "Client-1",
        1000.0,
        1008.5,
        8.5,
        {"finished": 1, "failed": 1},
        2.0,
        "function ('use', 1) failed: OSError()",
    )
    records = history.records("r1")
    assert records.allocations == {"load": "node1", ("use", 1): "node1"}
    assert records["load"].cost == {"cpu": 1, "memory": 0.5}
    first, second = records["use", 1].attempts
    assert (first.node, first.outcome, first.devices) == (7, "lost", {})
    assert second[:6] == (2, "node1", 1007.0, 1007.5, 1008.5, "failed")
    assert second[6:10] == ("OSError()", "in use", {"gpu": (0, 2)}, False)
    assert second[10:] == (None, None, False, records["use", 1].cost)
    assert history.durations()["load"].mean == 4.0


def test_a_version_1_file_can_be_read_and_extended(path):
    write_version_1(path)
    with History(path) as history:
        check_version_1(history)
        history._write(info("r2", submitted=2000.0), [timed("a", 1.0)])
        assert ids_of(history) == ["r2", "r1"]


def test_new_tables_equal_migrated_version_1_tables(path):
    """Released migrations never change; every change appends one."""
    write_version_1(path)
    History(path).close()
    with History(path.with_name("new.db")) as history:
        new = tables(history.path)
    assert new == tables(path)


def tables(path):
    connection = sqlite3.connect(path)
    found = {
        name: connection.execute(f"PRAGMA table_xinfo({name})").fetchall()
        for (name,) in connection.execute("SELECT name FROM sqlite_master ORDER BY name")
    }
    connection.close()
    return found


NEXT = (
    "ALTER TABLE runs ADD COLUMN note TEXT NOT NULL DEFAULT 'none'",
    "UPDATE runs SET note = 'migrated'",
)


def test_an_older_version_is_migrated(path, monkeypatch):
    write_version_1(path)
    third = ("CREATE TABLE more (x)",)
    monkeypatch.setattr(history_file, "MIGRATIONS", (*history_file.MIGRATIONS, NEXT, third))
    for _ in range(2):  # the second time, nothing is left to migrate
        with History(path) as history:
            check_version_1(history)
            assert history_file.pragma(history._connection, "user_version") == len(history_file.MIGRATIONS)
            assert history._connection.execute("SELECT note FROM runs").fetchall() == [("migrated",)]
            assert history._connection.execute("SELECT * FROM more").fetchall() == []


def test_a_failed_migration_changes_nothing(path, monkeypatch):
    write_version_1(path)
    before = path.read_bytes()
    monkeypatch.setattr(
        history_file, "MIGRATIONS", (*history_file.MIGRATIONS, (*NEXT, "DELETE FROM missing"))
    )
    with pytest.raises(HistoryError, match="no such table: missing"):
        History(path)
    assert path.read_bytes() == before
    monkeypatch.undo()
    with History(path) as history:
        check_version_1(history)


def test_a_newer_version_is_rejected_and_unchanged(path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(history_file, "MIGRATIONS", (*history_file.MIGRATIONS, NEXT))
        History(path).close()
    before = path.read_bytes()
    with pytest.raises(
        HistoryError, match=r"its version is 5, and this one knows versions up to 4"
    ) as caught:
        History(path)
    assert (caught.value.path, path.read_bytes()) == (str(path), before)


def test_another_applications_database_is_rejected_and_unchanged(path):
    for statement in ("CREATE TABLE mine (x)", "PRAGMA user_version = 1", "PRAGMA application_id = 5"):
        path.unlink(missing_ok=True)
        connection = sqlite3.connect(path)
        connection.execute(statement)
        connection.close()
        before = path.read_bytes()
        with pytest.raises(HistoryError, match="it is a database of another application"):
            History(path)
        assert path.read_bytes() == before


def test_a_file_that_is_not_a_database_is_rejected_and_unchanged(path):
    path.write_text("function,seconds\n" * 1000)
    with pytest.raises(HistoryError, match="file is not a database"):
        handoff.execute_local(dag_of(Function("f", identity, extra_args=[1])), history=path)
    assert path.read_text() == "function,seconds\n" * 1000


def test_an_empty_file_becomes_a_history(path):
    path.touch()
    with History(path) as history:
        assert history.runs() == []


def test_a_damaged_file_raises_an_error(path):
    with History(path) as history:
        for n in range(20):
            history._write(info(f"r{n}"), [timed(i, 1.0) for i in range(100)])
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * (size - 8192))
    with History(path) as history, pytest.raises(HistoryError, match=r"malformed|not a database"):
        history.records("r10")


@pytest.mark.parametrize(
    ("where", "reason"), [("missing/history.db", "unable to open"), (".", "unable to open")]
)
def test_paths_that_cannot_be_opened(tmp_path, where, reason):
    with pytest.raises(HistoryError, match=reason):
        History(tmp_path / where)


@pytest.mark.parametrize("wrong", [3, None, b"history.db"])
def test_values_that_are_not_paths(wrong):
    with pytest.raises(TypeError):
        History(wrong)


READER = """
import os, sys
import handoff_dask as handoff
import handoff_dask._display.export
if os.getuid() == 0:
    os.setuid(65534)
dag = handoff.DAG("reading")
dag.add_function(handoff.Function("f", print, extra_args=["it ran"]))
with handoff.History(sys.argv[1]) as history:
    print(len(history.runs()), "run")
try:
    handoff.execute_local(dag, history=sys.argv[1])
except handoff.HistoryError as error:
    print(error.reason)
"""


@pytest.mark.parametrize("mode", [0o444, 0o666])
def test_a_read_only_history_can_be_read_but_no_run_starts(mode):
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:  # other users can enter it
        path = Path(directory) / "history.db"
        with History(path) as history:
            history._write(info("r"), [timed("a", 1.0)])
        path.chmod(mode)
        path.parent.chmod(0o555)
        try:
            output, errors = start_script(READER, path).communicate(timeout=100)
        finally:
            path.parent.chmod(0o755)
    lines = output.splitlines()
    assert lines[0] == "1 run", errors
    assert lines[1] in ("attempt to write a readonly database", "unable to open database file")
    assert len(lines) == 2
