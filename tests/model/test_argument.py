"""An Argument expands to a serializer on the producer's node and a deserializer on the consumer's."""

import pytest
from helpers import dag_of, identity

from handoff_dask import (
    Argument,
    Collocated,
    DuplicateFunctionError,
    Function,
    InvalidCollocationError,
    InvalidFunctionError,
    MissingFunctionError,
)


def pack(data, source, target, level):
    return (data, source, target, level)


def unpack(data, source, target):
    return data[0]


def test_expansion():
    dag = dag_of(
        Function("p", list),
        Function("other", list),
        Function("c", max, args=["other", Argument("p", pack, unpack, serialize_extra_args=[9])]),
    )
    serializer, deserializer = ("serialize", "p", "c", 1), ("deserialize", "p", "c", 1)
    assert list(dag.functions) == ["p", "other", serializer, deserializer, "c"]
    assert len(dag) == 5
    s, d = dag[serializer], dag[deserializer]
    assert (s.id, s.code, s.args, s.extra_args, s.node) == (serializer, pack, ("p",), (9,), Collocated("p"))
    assert (d.id, d.code, d.args, d.extra_args) == (deserializer, unpack, (serializer,), ())
    assert d.node == Collocated("c")
    assert dag["c"].args == ("other", deserializer)
    assert len({s, d, s}) == 2
    assert repr(d) == (
        f"Function(id={deserializer!r}, code=unpack, args=({serializer!r},), node=Collocated(id='c'),"
        f" peer={serializer!r})"
    )
    assert (s.cost, d.cost, s.type, d.type) == (None, None, "regular", "regular")
    dag.validate()


def test_positions():
    """A producer can be passed several times; the position of a keyword argument is its name."""
    dag = dag_of(
        Function("p", list),
        Function(
            "c",
            lambda *args, **kwargs: None,
            args=[Argument("p"), "p", Argument("p")],
            kwargs={"x": Argument("p")},
        ),
    )
    assert dag["c"].args == (("deserialize", "p", "c", 0), "p", ("deserialize", "p", "c", 2))
    assert dag["c"].kwargs == {"x": ("deserialize", "p", "c", "x")}
    assert len(dag) == 2 + 3 * 2
    dag.validate()


def test_the_given_function_is_not_modified():
    argument = Argument("p")
    f = Function("c", identity, args=[argument])
    dag_of(Function("p", list), f)
    assert f.args == (argument,)


def test_default_is_identity():
    dag = dag_of(Function("p", list), Function("c", identity, args=[Argument("p")]))
    data = object()
    for kind in ("serialize", "deserialize"):
        assert dag[kind, "p", "c", 0].code(data, "node1", "node2") is data


def test_default_takes_extra_arguments():
    dag = dag_of(
        Function("p", list), Function("c", identity, args=[Argument("p", serialize_extra_args=[1, 2])])
    )
    dag.validate()
    assert dag["serialize", "p", "c", 0].code("data", "node1", "node2", 1, 2) == "data"


@pytest.mark.parametrize("code", [lambda data: data, lambda data, source, target, more: data, 7])
@pytest.mark.parametrize("half", ["serialize", "deserialize"])
def test_code_must_accept_data_and_nodes(half, code):
    dag = dag_of(Function("p", list), Function("c", identity, args=[Argument("p", **{half: code})]))
    with pytest.raises(InvalidFunctionError) as caught:
        dag.validate()
    assert caught.value.function_ids == ((half, "p", "c", 0),)


def test_missing_producer():
    dag = dag_of(Function("c", identity, args=[Argument("absent")]))
    with pytest.raises(MissingFunctionError) as caught:
        dag.validate()
    assert caught.value.missing == (("c", "absent"),)
    assert caught.value.problems == ("function 'c' depends on 'absent', which is not in the DAG",)


def test_unhashable_id():
    dag = dag_of(Function("p", list))
    with pytest.raises(InvalidFunctionError, match="not hashable"):
        dag.add_function(Function("c", identity, args=[Argument(["p"])]))
    assert list(dag.functions) == ["p"]


def test_nothing_is_added_if_one_part_is_a_duplicate():
    dag = dag_of(Function("p", list), Function(("deserialize", "p", "c", 0), list))
    with pytest.raises(DuplicateFunctionError) as caught:
        dag.add_function(Function("c", identity, args=[Argument("p")]))
    assert caught.value.function_ids == (("deserialize", "p", "c", 0),)
    assert len(dag) == 2


@pytest.mark.parametrize(
    ("producer", "consumer", "text"),
    [
        (
            "inline",
            "regular",
            "function 'c' takes an Argument of 'p', which is an inline function and has no node",
        ),
        (
            "regular",
            "inline",
            "function 'c' cannot take an Argument: it is an inline function and has no node",
        ),
    ],
)
def test_both_ends_need_a_node(producer, consumer, text):
    dag = dag_of(
        Function("p", identity, extra_args=[1], type=producer),
        Function("c", identity, args=[Argument("p")], type=consumer),
    )
    with pytest.raises(InvalidCollocationError) as caught:
        dag.validate()
    assert caught.value.function_ids == ("c",)
    assert caught.value.problems == (text,)
