"""``dag.subset``: some functions and everything they need."""

import pytest
from helpers import add, dag_of, identity
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import acyclic_graphs, build

from handoff_dask import Argument, Collocated, Function, MissingFunctionError


@pytest.fixture
def dag():
    return dag_of(
        Function("a", list),
        Function("b", identity, args=["a"]),
        Function("c", dict, kwargs={"x": "a"}),
        Function(("d", 1), add, args=["b", "c"]),
        Function("e", list),
        id="mine",
    )


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("b", ["a", "b"]),
        (["b"], ["a", "b"]),
        (["c", "e"], ["a", "c", "e"]),
        (("d", 1), ["a", "b", "c", ("d", 1)]),  # a single id
        (("b", "e"), ["a", "b", "e"]),  # two ids
        ([("d", 1)], ["a", "b", "c", ("d", 1)]),
        ({"e"}, ["e"]),
        (frozenset({"e", "a"}), ["a", "e"]),
        ({"e": 1}.keys(), ["e"]),
        ([], []),
    ],
)
def test_targets(dag, targets, expected):
    part = dag.subset(targets)
    assert list(part.functions) == expected
    assert part.id == "mine"
    assert all(part[id] is dag[id] for id in expected)
    part.validate()


def test_targets_from_a_generator(dag):
    assert list(dag.subset(id for id in ("b", "e")).functions) == ["a", "b", "e"]


@pytest.mark.parametrize("targets", ["absent", ["a", "absent"], 5, ("a", "absent"), "ab"])
def test_unknown_target(dag, targets):
    with pytest.raises(KeyError, match=r"'mine' has no function"):
        dag.subset(targets)


def test_the_original_is_not_modified(dag):
    part = dag.subset("b")
    part.add_function(Function("new", list))
    assert "new" not in dag
    assert len(dag) == 5


def test_collocation_is_followed():
    dag = dag_of(
        Function("far", list),
        Function("beside", identity, args=["far"]),
        Function("f", list, node=Collocated("beside")),
    )
    assert set(dag.subset("f")) == {"far", "beside", "f"}


def test_subset_of_an_invalid_dag_is_invalid():
    dag = dag_of(Function("f", add, args=["absent", "f"]), Function("g", list))
    part = dag.subset("f")
    assert dict(part.functions) == {"f": dag["f"]}
    with pytest.raises(MissingFunctionError):
        part.validate()


def test_argument_pairs_are_followed():
    dag = dag_of(Function("p", list), Function("c", identity, args=[Argument("p")]), Function("other", list))
    part = dag.subset("c")
    assert set(part) == {"p", ("serialize", "p", "c", 0), ("deserialize", "p", "c", 0), "c"}
    part.validate()


@settings(deadline=None, max_examples=60)
@given(acyclic_graphs(), st.data())
def test_random_subsets_contain_all_ancestors(graph, data):
    targets = data.draw(st.lists(st.sampled_from(sorted(graph)))) if graph else []
    wanted = set(targets)
    for _ in graph:  # at least as many steps as the longest path has
        wanted |= {d for id in wanted for d in graph[id]}
    assert list(build(graph, add).subset(targets).functions) == [id for id in graph if id in wanted]
