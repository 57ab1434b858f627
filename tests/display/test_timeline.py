"""Timelines: drawing, saving, and the objects that have one."""

import pickle
import re
import sys
from html import unescape

import pytest
from helpers import dag_of, gate, identity, pass_gate

import handoff_dask as handoff
from handoff_dask import Attempt, Function, History, Records, Timeline
from handoff_dask._display.timeline import Rows
from handoff_dask._display.timeline_data import prepare
from handoff_dask._model.records import Summary

EVIL = "</script><b>$x_{1}$"

OUTCOMES = ("finished", "failed", "lost", "cancelled", "running")


@pytest.fixture
def dag():
    return dag_of(
        Function("load", list, cost={"cpu": 1}), Function("use", identity, args=["load"], cost={"cpu": 1})
    )


def every_outcome():
    """Return attempts of every outcome, some without times. Names are special in HTML and matplotlib."""
    rows = {}
    for n, outcome in enumerate(OUTCOMES):
        known = outcome not in ("lost", "running")
        rows[EVIL, n] = Summary(
            outcome,
            (
                Attempt(
                    1,
                    EVIL,
                    100.0 + n,
                    101.0 + n if known else None,
                    None if outcome == "running" else 103.0 + n,
                    outcome,
                    EVIL * 50,
                    devices={"gpu": (0,)},
                ),
            ),
        )
    rows["never"] = Summary("waiting", ())
    return Records(rows, rows.__getitem__, lambda id: {EVIL: 0.5})


def bars_in(figure):
    """Return the data sources of the bars in a Bokeh layout."""
    from bokeh.models import ColumnDataSource

    return [s.data for s in figure.select({"type": ColumnDataSource}) if "attempt" in s.data]


def test_every_outcome_has_a_pattern_besides_its_colour():
    from bokeh.models import Legend

    figure = every_outcome().timeline().figure()
    attempts = {text for data in bars_in(figure) for text in data["attempt"]}
    assert attempts == {f"1, {outcome}" for outcome in OUTCOMES}
    (legend,) = figure.select({"type": Legend})
    patterns = {
        item.label.value: getattr(item.renderers[0].glyph, "hatch_pattern", None) for item in legend.items
    }
    hatched = [patterns[outcome] for outcome in OUTCOMES[1:]]
    assert None not in hatched
    assert len(set(hatched)) == 4
    assert "waiting for a node" in patterns


def test_tooltip_of_an_attempt():
    (data,) = [d for d in bars_in(every_outcome().timeline().figure()) if d["attempt"] == ["1, failed"]]
    assert data["id"] == [repr((EVIL, 1))]
    assert data["node"] == [EVIL]
    assert data["waited"] == ["1 s"]
    assert data["ran"] == ["2 s, until 4 s"]
    assert data["devices"] == ["gpu [0]"]
    assert len(data["error"][0]) == 200


def test_a_page_is_self_contained_and_escaped(tmp_path):
    timeline = every_outcome().timeline()
    timeline.save(tmp_path / "t.html")
    page = (tmp_path / "t.html").read_text(encoding="utf-8")
    assert not re.search(r"<(script|link)[^>]*(src|href)=", page)
    assert "</script><b>" not in page
    framed = timeline._repr_html_()
    assert framed.startswith("<iframe srcdoc='")
    assert framed.count("'") == 2 * len(re.findall(r"='", framed))
    assert "<!DOCTYPE html>" in unescape(framed)


@pytest.mark.parametrize(("name", "head"), [("t.png", b"\x89PNG"), ("t.svg", b"<?xml"), ("t.pdf", b"%PDF")])
def test_images(tmp_path, name, head):
    pytest.importorskip("matplotlib")
    every_outcome().timeline(every_outcome()).save(tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(head)


def test_empty_timeline(tmp_path):
    empty = Records((), lambda id: None, lambda id: {}).timeline()
    empty.save(tmp_path / "t.html")
    assert empty.critical_path == ()
    pytest.importorskip("matplotlib")
    empty.save(tmp_path / "t.png")


def test_unknown_suffix(tmp_path):
    with pytest.raises(ValueError, match=r"can be saved as \.html, \.png, \.svg, \.pdf, not as '\.gif'"):
        every_outcome().timeline().save(tmp_path / "t.gif")


@pytest.mark.parametrize(("package", "name"), [("bokeh", "t.html"), ("matplotlib", "t.png")])
def test_missing_package(monkeypatch, tmp_path, package, name):
    for module in [m for m in sys.modules if m.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, package, None)
    timeline = every_outcome().timeline()
    wanted = rf"{package} is needed for this: pip install 'handoff-dask\[timeline\]'"
    with pytest.raises(ImportError, match=wanted):
        timeline.save(tmp_path / name)
    if package == "bokeh":
        assert "pip install" in timeline._repr_html_()  # a notebook displays the instruction


def test_timeline_of_a_simulation(dag):
    schedule = handoff.simulate(dag, {"n": {"cpu": 2}}, 3)
    timeline = schedule.timeline()
    assert type(timeline) is Timeline
    assert timeline.critical_path == (("load", 1), ("use", 1))
    assert repr(timeline) == "<timeline of simulation of DAG 'test'>"
    assert timeline._parts[0][1].capacities == {"n": {"cpu": 2, "threads": 2}}


def test_timeline_of_a_run_and_its_simulation(client, dag):
    run = handoff.submit(dag, client)
    result = run.result(30)
    schedule = handoff.simulate(dag, {"n": {"cpu": 2}}, result.records)
    capacities = run.timeline()._parts[0][1].capacities
    assert {name: c["cpu"] for name, c in capacities.items()} == {
        name: c["cpu"] for name, c in handoff.discover_nodes(client).items()
    }
    for timeline in (run.timeline(schedule), result.timeline(other=schedule), result.timeline(run)):
        assert timeline.critical_path == (("load", 1), ("use", 1))
        assert len(timeline._parts) == 2
        figures = [row[0] for row in timeline.figure().children]
        assert len({figure.x_range.id for figure in figures}) == 1
    assert repr(result.timeline(schedule.records)) == "<timeline of run of DAG 'test', records>"


def test_timeline_of_a_pickled_result(dag):
    result = handoff.execute_local(dag)
    assert result.timeline().critical_path == (("load", 1), ("use", 1))
    again = pickle.loads(pickle.dumps(result)).timeline()
    assert again.critical_path == ()
    assert len(again._parts[0][1].bars) == 2


def test_timeline_of_a_history_has_the_critical_path_if_the_dag_is_given(dag, tmp_path):
    handoff.execute_local(dag, history=tmp_path / "h.db")
    with History(tmp_path / "h.db") as history:
        records = history.records(history.runs()[0].id)
        assert records.timeline().critical_path == ()
        assert records.timeline(dag=dag).critical_path == (("load", 1), ("use", 1))


def test_timeline_of_an_unfinished_run(client, tmp_path):
    door = gate("timeline")
    run = handoff.submit(dag_of(Function("f", pass_gate, extra_args=["timeline"], cost={"cpu": 1})), client)
    door.await_inside(1)
    (bar,) = run.timeline()._parts[0][1].bars
    assert (bar.outcome, bar.guessed) == ("running", True)
    run.timeline().save(tmp_path / "t.html")
    door.open()
    run.result(30)
    assert run.timeline()._parts[0][1].bars[0].outcome == "finished"


def test_five_thousand_functions_are_laid_out_quickly():
    dag = dag_of(*(Function(n, list, cost={"cpu": 1}) for n in range(5000)))
    schedule = handoff.simulate(dag, {"a": {"cpu": 3}, "b": {"cpu": 2}}, 1)
    data = schedule.timeline()._parts[0][1]
    assert len(data.bars) == 5000
    assert len(data.critical_path) == 1000
    assert prepare(schedule.records).lanes == {"a": 3, "b": 2}


def test_rows_of_resources_give_the_mean_use_with_its_unit():
    dag = dag_of(Function("f", list, cost={"cpu": 1, "memory": 1024}))
    schedule = handoff.simulate(dag, {"a": {"cpu": 4, "memory": 8192}}, 1.0)
    ((_, data),) = schedule.timeline()._parts
    assert [(label, text) for label, text, _, _ in Rows(data).levels] == [
        ("a cpu", "25% of 4 used"),
        ("a memory", "12% of 8,192 MB used"),
    ]
