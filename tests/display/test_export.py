"""Export of records as tables and files."""

from __future__ import annotations

import itertools
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handoff_dask import Attempt, Records
from handoff_dask._display.export import assign_lanes, sorted_by_start
from handoff_dask._model.records import Summary

ATTEMPTS = {
    "twice": [
        Attempt(1, "n1", 10.0, 11.0, 12.0, "failed", "ValueError('no')", "Traceback ..."),
        Attempt(2, "n2", 12.0, 13.0, 15.5, "finished", devices={"gpu": (1,)}),
    ],
    ("tuple", 1): [Attempt(1, "n1", 10.0, 11.5, 14.0, "finished")],
    frozenset({1}): [Attempt(1, "n1", 10.0, 12.0, 13.0, "finished")],
    "lost": [Attempt(1, "n1", 10.0, None, 13.0, "lost")],
    "never": [],
}
COSTS = {"twice": {"gpu": 1, "cpu": 0.5}, ("tuple", 1): {"memory": 10}}


@pytest.fixture
def records():
    status = {"never": "waiting", "lost": "waiting"}
    return Records(
        ATTEMPTS,
        lambda id: Summary(status.get(id, "finished"), ATTEMPTS[id], 8 if ATTEMPTS[id] else None),
        lambda id: COSTS.get(id, {}),
    )


def test_one_row_per_attempt_and_one_per_function_without_attempts(records):
    frame = records.to_pandas()
    assert list(frame["function"]) == ["twice", "twice", ("tuple", 1), frozenset({1}), "lost", "never"]
    assert list(frame["outcome"].dropna()) == ["failed", "finished", "finished", "finished", "lost"]
    assert list(frame["seconds"].dropna()) == [1.0, 2.5, 2.5, 1.0]
    assert list(frame["cost_gpu"].dropna()) == [1, 1]
    assert list(frame["nbytes"].dropna()) == [8, 8, 8]  # only of attempts that finished
    last = frame.iloc[-1]
    assert (last["function"], last["status"]) == ("never", "waiting")
    assert last[["node", "started", "error"]].isna().all()


def test_empty_records(tmp_path):
    empty = Records((), lambda id: None, lambda id: {})
    assert len(empty.to_pandas()) == 0
    empty.to_json(tmp_path / "empty.json")
    assert json.loads((tmp_path / "empty.json").read_text()) == []
    empty.to_trace(tmp_path / "empty.trace")
    assert json.loads((tmp_path / "empty.trace").read_text())["traceEvents"] == []


def test_json_has_the_same_rows(records, tmp_path):
    records.to_json(tmp_path / "records.json")
    rows = json.loads((tmp_path / "records.json").read_text())
    assert [row["function"] for row in rows[1:4]] == ["twice", "('tuple', 1)", "frozenset({1})"]
    assert rows[0]["error"] == "ValueError('no')"
    assert rows[1]["devices"] == {"gpu": [1]}
    assert rows[1]["cost_cpu"] == 0.5


def test_parquet_has_the_same_rows(records, tmp_path):
    import pandas as pd

    records.to_parquet(tmp_path / "records.parquet")
    frame = pd.read_parquet(tmp_path / "records.parquet")
    assert list(frame["function"])[1:4] == ["twice", "('tuple', 1)", "frozenset({1})"]
    assert list(frame["started"].dropna()) == [11.0, 13.0, 11.5, 12.0]


def test_a_trace_has_a_process_per_node_and_a_thread_per_lane(records, tmp_path):
    records.to_trace(tmp_path / "run.trace")
    events = json.loads((tmp_path / "run.trace").read_text())["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["ph"] == "M"}
    ran = [(names[e["pid"]], e["tid"], e["name"], e["ts"], e["dur"]) for e in events if e["ph"] == "X"]
    assert ran == [
        ("n1", 0, "twice", 0.0, 1e6),
        ("n1", 1, "('tuple', 1)", 0.5e6, 2.5e6),
        ("n1", 0, "frozenset({1})", 1e6, 1e6),
        ("n2", 0, "twice", 2e6, 2.5e6),
    ]
    failed = next(e for e in events if e.get("cat") == "failed")
    assert failed["args"]["error"] == "ValueError('no')"
    assert failed["args"]["waited"] == 1.0


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), max_size=30))
def test_lanes_never_overlap_and_are_as_few_as_possible(intervals):
    ran = sorted_by_start((start, start + length) for start, length in intervals)
    lanes: dict[int, list[tuple[int, int]]] = {}
    for lane, interval in assign_lanes(ran):
        lanes.setdefault(lane, []).append(interval)
    for inside in lanes.values():
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(inside))
    at_once = max((sum(a <= t < b or a == b == t for a, b in ran) for t in range(26)), default=0)
    assert len(lanes) <= max(at_once, 1 if ran else 0)


def test_missing_pandas(records, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        records.to_pandas()
