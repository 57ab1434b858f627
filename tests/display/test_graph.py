"""Drawings of DAGs."""

import re
import shutil
import sys
from pathlib import Path

import graphviz
import networkx
import pytest
from helpers import add, dag_of, identity

from handoff_dask import DAG, Argument, Collocated, CyclicDependencyError, Function


@pytest.fixture
def dag():
    return dag_of(
        Function("sum", add, args=["load", "scale", "load"], kwargs={}, cost={"cpu": 2, "memory": 0.5}),
        Function("load", list, node=["n1", "n2"]),
        Function("scale", identity, args=["load"], type="inline"),
        Function("beside", identity, args=["sum"], node=Collocated("sum")),
        id="mine",
    )


def test_mermaid(dag):
    assert dag.to_mermaid() == (
        "flowchart TD\n"
        '    f0["load<br>on n1 or n2"]\n'
        '    f1("scale<br>inline")\n'
        '    f2["sum<br>cpu 2, memory 0.5"]\n'
        '    f3["beside<br>beside sum"]\n'
        "    f0 --> f1\n"
        "    f0 --> f2\n"
        "    f1 --> f2\n"
        "    f2 --> f3\n"
        "    style f1 stroke-dasharray: 4 4\n"
    )


@pytest.mark.parametrize("node", ["n1", ["n1"]])
def test_pin_to_one_node(node):
    assert '["f<br>on n1"]' in dag_of(Function("f", list, node=node)).to_mermaid()


def test_mermaid_of_an_empty_dag():
    assert DAG().to_mermaid() == "flowchart TD\n"


def test_mermaid_escapes_special_characters():
    text = dag_of(Function('<b>"#1"</b>\n`a` & end', list)).to_mermaid()
    label = re.fullmatch(r'flowchart TD\n    f0\["(.*)"\]\n', text).group(1)
    assert label == "#lt;b#gt;#quot;#35;1#quot;#lt;/b#gt;<br>#96;a#96; #amp; end"


def test_synthetic_functions_are_named_by_their_code():
    dag = dag_of(Function("p", list), Function("c", identity, args=[Argument("p", serialize=sorted)]))
    text = dag.to_mermaid()
    assert '["serialize: sorted"]' in text
    assert '["deserialize: pass_data"]' in text
    assert text.count("-->") == 3


def test_networkx(dag):
    graph = dag.to_networkx()
    assert type(graph) is networkx.DiGraph
    assert graph.name == "mine"
    assert {id: data["function"] for id, data in graph.nodes(data=True)} == dict(dag.functions)
    assert set(graph.edges) == {("load", "sum"), ("scale", "sum"), ("load", "scale"), ("sum", "beside")}


def drawn(drawing):
    """Return the labels of nodes and the edges, parsed from the drawing's source."""
    labels = dict(re.findall(r"^\t(\d+) \[label=(.*?) style=", drawing.source, re.MULTILINE | re.DOTALL))
    return labels, set(re.findall(r"^\t(\d+) -> (\d+)$", drawing.source, re.MULTILINE))


def test_visualize(dag):
    drawing = dag.visualize(rankdir="LR", color=None)
    assert isinstance(drawing, graphviz.Digraph)
    labels, edges = drawn(drawing)
    assert labels == {
        "0": '"load\non n1 or n2"',
        "1": '"scale\ninline"',
        "2": '"sum\ncpu 2, memory 0.5"',
        "3": '"beside\nbeside sum"',
    }
    assert edges == {("0", "1"), ("0", "2"), ("1", "2"), ("2", "3")}
    assert "rankdir=LR" in drawing.source
    assert drawing.source.count("dashed") == 1
    assert 'inline" style="rounded,dashed"]' in drawing.source
    assert "rankdir=TB" in dag.visualize().source


def test_visualize_escapes_names():
    """Unescaped, Graphviz would interpret ``<...>`` as HTML, and ``\\N`` as the name of the node."""
    drawing = dag_of(Function("<lambda>", list), Function(r"a\N", list), id="<mine>").visualize()
    assert drawn(drawing)[0] == {"0": '"<lambda>"', "1": r'"a\\N"'}
    assert drawing.source.startswith('digraph "<mine>" {')


@pytest.mark.parametrize(
    ("filename", "stem", "format"),
    [
        ("out.png", "out", "png"),
        ("dir.x/out.svg", "dir.x/out", "svg"),
        ("out", "out", "svg"),
        (Path("a.b.pdf"), "a.b", "pdf"),
    ],
)
def test_visualize_to_a_file(dag, monkeypatch, filename, stem, format):
    rendered = []
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(
        graphviz.Digraph, "render", lambda self, *args, **kwargs: rendered.append((args, kwargs))
    )
    dag.visualize(filename)
    assert rendered == [((stem,), {"format": format, "cleanup": True})]
    dag.visualize()
    assert len(rendered) == 1


@pytest.mark.parametrize(("method", "package"), [("to_networkx", "networkx"), ("visualize", "graphviz")])
def test_missing_package(dag, monkeypatch, method, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package} is needed .* pip install 'handoff-dask\[display\]'"):
        getattr(dag, method)()


def test_an_invalid_dag_can_be_drawn():
    dag = dag_of(
        Function("f", list, args=["absent"], cost={"cpu": "two"}), Function("g", list, cost=[3], args="ab")
    )
    text = dag.to_mermaid()
    assert "f<br>{'cpu': 'two'}" in text
    assert "g<br>[3]" in text
    assert "-->" not in text
    assert drawn(dag.visualize())[1] == set()


def test_a_dag_with_a_cycle_cannot_be_drawn():
    with pytest.raises(CyclicDependencyError):
        dag_of(Function("f", identity, args=["f"])).to_mermaid()
