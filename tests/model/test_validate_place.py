"""Validation of pins and collocation."""

import pytest
from helpers import dag_of, identity

from handoff_dask import Collocated, Function, InvalidCollocationError, InvalidDAGError, InvalidFunctionError


@pytest.mark.parametrize(
    "node",
    [
        None,
        "node1",
        7,
        "tcp://10.0.0.1:3555",
        ["node1", "node2", 3],
        ("node1",),
        {"node1"},
        Collocated("other"),
    ],
)
def test_valid(node):
    dag_of(Function("other", list), Function("f", list, node=node)).validate()


def test_chained_collocation():
    dag_of(
        Function("a", list, node="node1"),
        Function("b", identity, args=["a"], node=Collocated("a")),
        Function("c", list, node=Collocated("b")),
    ).validate()


@pytest.mark.parametrize(
    ("id", "text"),
    [
        ("absent", "is collocated with 'absent', which is not in the DAG"),
        (["a"], r"is collocated with \['a'\], which is not in the DAG"),
        ("f", "is collocated with itself"),
        ("inline", "is collocated with 'inline', which is an inline function and has no node"),
        ("input", "is collocated with 'input', which is an input function and has no node"),
    ],
)
def test_invalid_collocation(id, text):
    dag = dag_of(
        Function("f", list, node=Collocated(id)),
        Function("inline", list, type="inline"),
        Function("input", type="input"),
    )
    with pytest.raises(InvalidDAGError, match=f"function 'f' {text}") as caught:
        dag.validate()
    assert caught.type is InvalidCollocationError
    assert caught.value.function_ids == ("f",)
    assert isinstance(caught.value, InvalidFunctionError)


@pytest.mark.parametrize(
    "node",
    [
        "",
        True,
        False,
        1.5,
        object(),
        {"name": "n"},
        b"node1",
        ["node1", None],
        [""],
        [["node1"]],
        [Collocated("other")],
    ],
)
def test_invalid_node(node):
    dag = dag_of(Function("other", list), Function("f", list, node=node))
    with pytest.raises(InvalidDAGError, match="'f': node must be a name, address or host, a list") as caught:
        dag.validate()
    assert caught.type is InvalidFunctionError
    assert caught.value.function_ids == ("f",)


@pytest.mark.parametrize("node", [[], (), set()])
def test_empty_list_of_nodes(node):
    with pytest.raises(InvalidFunctionError, match="node is an empty list"):
        dag_of(Function("f", list, node=node)).validate()
