"""Colours of drawings, without and with records."""

import re
import shutil

import pytest
from helpers import dag_of, identity

from handoff_dask import Collocated, Function, execute_local, simulate
from handoff_dask._display.colouring import colouring
from handoff_dask._display.labels import state_label
from handoff_dask._display.palette import STATES
from handoff_dask._model.records import Attempt, FunctionRecord

NODES = {"n1": {"cpu": 4, "memory": 8000}, "n2": {"cpu": 4, "gpu": 1}}


def record(id, status="finished", node="n1", seconds=1.0):
    attempts = () if node is None else (Attempt(1, node, 0.0, 10.0, 10.0 + seconds, status),)
    return FunctionRecord(id, status, node, attempts, {})


def labels(dag, color, records=None):
    """Return function id → label of its colour, and the labels of the legend."""
    from handoff_dask._display.groups import outline

    colours = colouring(dag, color, records)
    found = {}
    for box in outline(dag, None).boxes:
        ((category, share),) = colours.shares(box)
        assert share == 1
        found[box.functions[0].id] = category.label
    return found, [category.label for category in colours.legend]


def test_cost_colours_show_the_dominant_resource():
    dag = dag_of(
        *(Function(n, list, cost={"cpu": 1, "memory": 10}) for n in range(5)),
        Function("gpu", list, cost={"cpu": 2, "gpu": 1}),
        Function("large", list, cost={"cpu": 1, "memory": 1000}),
        Function("free", list),
        Function("wrong", list, cost={"cpu": "two"}),
    )
    found, legend = labels(dag, "cost")
    assert found == {
        **dict.fromkeys(range(5), "cpu"),
        "gpu": "gpu",
        "large": "memory",
        "free": "no cost",
        "wrong": "no cost",
    }
    assert legend == ["cpu", "gpu", "memory", "no cost"]


def test_no_colours_without_costs():
    dag = dag_of(Function("f", list))
    assert colouring(dag, "cost", None) is None
    assert "legend" not in dag.visualize().source


def test_node_colours_show_pins_including_those_of_collocated_functions():
    dag = dag_of(
        Function("a", list, node="n1"),
        Function("b", list, node=["n1", "n2"]),
        Function("beside", list, node=Collocated("next")),
        Function("next", list, node=Collocated("a")),
        Function("lost", list, node=Collocated("absent")),
        Function("round", list, node=Collocated("round")),
        Function("free", list),
    )
    found, legend = labels(dag, "node")
    assert found == {
        "a": "n1",
        "b": "n1 or n2",
        "beside": "n1",
        "next": "n1",
        "lost": "no pin",
        "round": "no pin",
        "free": "no pin",
    }
    assert legend == ["n1", "n1 or n2", "no pin"]


def test_node_colours_with_records_show_the_node_of_the_last_attempt():
    dag = dag_of(*(Function(n, list, node="n1") for n in "abc"), Function("i", list, type="inline"))
    records = {"a": record("a", node="n2"), "b": record("b"), "c": record("c", "waiting", None)}
    found, legend = labels(dag, "node", records)
    assert found == {"a": "n2", "b": "n1", "c": "not placed", "i": "not placed"}
    assert legend == ["n1", "n2", "not placed"]


def test_rare_nodes_share_one_colour():
    dag = dag_of(*(Function((n, m), list, node=f"n{n}") for n in range(20) for m in range(20 - n)))
    found, legend = labels(dag, "node")
    assert len(legend) == 8
    assert legend[-1] == "others"
    assert found[0, 0] == "n0"
    assert found[19, 0] == "others"


def test_status_colours():
    dag = dag_of(*(Function(state, list) for state in STATES), Function("inline", list, type="inline"))
    found, legend = labels(dag, "status", {state: record(state, state) for state in STATES})
    assert found == {**{state: state_label(state) for state in STATES}, "inline": "no record"}
    assert legend == [*map(state_label, STATES), "no record"]


def test_duration_colours_are_logarithmic():
    took = {"a": 0.001, "b": 0.01, "c": 0.1, "d": 1.0, "e": 30.0}
    dag = dag_of(*(Function(id, list) for id in took), Function("never", list))
    records = {id: record(id, seconds=seconds) for id, seconds in took.items()}
    found, legend = labels(dag, "duration", {**records, "never": record("never", "waiting", None)})
    assert legend[-2:] == ["up to 30 s", "unknown"]
    assert len(legend) == 6
    assert found["e"] == "up to 30 s"
    assert found["never"] == "unknown"
    order = [legend.index(found[id]) for id in took]
    assert order == sorted(order)
    assert order[0] == 0
    assert len(set(order)) >= 3


@pytest.mark.parametrize("seconds", [0.0, 2.0])
def test_equal_durations_have_one_colour(seconds):
    dag = dag_of(Function("a", list), Function("b", list))
    found, legend = labels(dag, "duration", {id: record(id, seconds=seconds) for id in "ab"})
    assert len(set(found.values())) == len(legend) == 1


def test_a_box_of_many_functions_summarises_them():
    dag = dag_of(*(Function(n, list) for n in range(100)))
    records = {n: record(n, "failed" if n == 7 else "finished", seconds=n / 100) for n in range(100)}
    by_status = dag.visualize(color="status", records=records).source
    assert "finished: 99, failed: 1" in by_status
    (fills,) = re.findall(r'fillcolor="([^"]*:[^"]*)"', by_status)
    first, second = fills.split(":")
    assert "striped" in by_status
    assert 0.9 < float(first.split(";")[1]) < 1
    assert ";" not in second
    assert "ran on n1: 100" in dag.to_mermaid(color="node", records=records)
    assert "0 s to 990 ms, median 495 ms" in dag.to_mermaid(color="duration", records=records)


def test_mermaid_has_a_legend_and_black_text():
    dag = dag_of(Function("<f>", list, cost={"<gpu>": 1}), Function("g", identity, args=["<f>"]))
    text = dag.to_mermaid(color="cost")
    assert '    subgraph legend["Dominant resource (' in text
    assert 'l0["#lt;gpu#gt;"]' in text
    assert "class l0,f0 c0" in text
    assert "class l1,f1 c1" in text
    assert text.count("color:#000") == 2
    assert "legend" not in dag.to_mermaid()


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_black_text_is_legible_on_every_colour():
    """The contrast ratio is at least 7, as WCAG 2.1 requires at level AAA."""
    dag = dag_of(*(Function(n, list, node=f"n{n}") for n in range(20)))
    records = dict(
        zip(range(20), (record(n, s, seconds=2.0**n) for n, s in enumerate([*STATES] * 3)), strict=False)
    )
    for color in ("node", "status", "duration"):
        for category in colouring(dag, color, records if color != "node" else None).legend:
            assert (luminance(category.fill) + 0.05) / 0.05 >= 7, category


def test_records_of_results_and_schedules():
    dag = dag_of(Function("f", list, cost={"cpu": 1}), Function("g", identity, args=["f"]))
    result, schedule = execute_local(dag), simulate(dag, NODES)
    for records in (result, result.records, dict(result.records)):
        assert "ran on local" in dag.visualize(color="node", records=records).source
    assert "ran on n" in dag.visualize(color="node", records=schedule).source
    assert "1 s" in dag.to_mermaid(color="duration", records=schedule)


@pytest.mark.parametrize("method", ["visualize", "to_mermaid"])
def test_invalid_colour_arguments(method):
    draw = getattr(dag_of(Function("f", list)), method)
    with pytest.raises(ValueError, match="color must be one of 'cost', 'node', 'status', 'duration' or None"):
        draw(color="red")
    for color in ("status", "duration"):
        with pytest.raises(ValueError, match=f"color='{color}' needs records: pass records=result.records"):
            draw(color=color)
    with pytest.raises(TypeError, match="records must be a run, result or schedule, or the records of one"):
        draw(records=[1])


def test_invalid_direction():
    with pytest.raises(ValueError, match="rankdir must be one of 'TB', 'LR', 'BT', 'RL', not 'up'"):
        dag_of(Function("f", list)).visualize(rankdir="up")


def test_missing_dot_program(monkeypatch, tmp_path):
    import graphviz

    monkeypatch.setattr(shutil, "which", lambda name: None)
    dag = dag_of(Function("f", list))
    message = r"drawing needs the Graphviz program `dot`.* apt-get install graphviz.*handoff-dask\[display\]"
    with pytest.raises(graphviz.ExecutableNotFound, match=message):
        dag.visualize(tmp_path / "f.svg")
    drawing = dag.visualize()  # the source of the drawing does not need the program
    with pytest.raises(graphviz.ExecutableNotFound, match=message):
        drawing._repr_mimebundle_()
    assert "<svg" in dag._repr_html_()


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs the program dot of Graphviz")
def test_graphviz_renders_the_drawing(tmp_path, recwarn):
    dag = dag_of(*(Function(n, list, cost={"cpu": 1}) for n in range(2000)))
    dag.add_function(Function('<all> & "more"', identity, args=[3], type="inline"))
    records = {n: record(n, "failed" if n % 3 else "finished") for n in range(2000)}
    path = tmp_path / "drawn.svg"
    dag.visualize(path, color="status", records=records)
    text = path.read_text()
    assert "list × 1,999" in text
    assert "failed: 1,333, finished: 666" in text
    assert "inline: evaluated inside each dependent" in text
    assert "&lt;all&gt; &amp; &quot;more&quot;" in text
    assert [path.name for path in tmp_path.iterdir()] == ["drawn.svg"]
    assert not [str(w.message) for w in recwarn]
