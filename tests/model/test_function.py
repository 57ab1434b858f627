"""Functions are immutable values."""

import functools
import operator
import pickle
from dataclasses import FrozenInstanceError, fields
from unittest.mock import Mock

import pytest
from helpers import identity, multiply

from handoff_dask import Argument, Collocated, Function, RetryPolicy


def test_defaults():
    f = Function("f")
    given = {field.name: getattr(f, field.name) for field in fields(f)}
    assert given == {
        "id": "f",
        "code": None,
        "args": (),
        "extra_args": (),
        "kwargs": {},
        "extra_kwargs": {},
        "cost": None,
        "node": None,
        "type": "regular",
        "argument_inclusion": "variadic",
        "max_retries": None,
        "retry": None,
        "timeout": None,
        "priority": 0,
        "isolation": None,
        "init": None,
        "parallelism": 1,
        "batch_size": None,
        "batch_timeout": None,
    }


@pytest.mark.parametrize("value", [Function("f"), Argument("f"), Collocated("f"), RetryPolicy()])
def test_immutable(value):
    for name in (field.name for field in fields(value)):
        with pytest.raises(FrozenInstanceError):
            setattr(value, name, 1)
    with pytest.raises((AttributeError, TypeError)):
        value.something_new = 1


def test_collections_are_copied():
    """Changing a collection later does not change a function that may have been validated."""
    args, extra_args, node = ["a"], [1], ["n1"]
    kwargs, extra_kwargs, cost = {"x": "b"}, {"y": 2}, {"cpu": 1}
    f = Function(
        "f",
        identity,
        args=args,
        extra_args=extra_args,
        kwargs=kwargs,
        extra_kwargs=extra_kwargs,
        cost=cost,
        node=node,
    )
    for changed in (args, extra_args, node):
        changed.append("more")
    for changed in (kwargs, extra_kwargs, cost):
        changed["more"] = 1
    assert (f.args, f.extra_args, f.node) == (("a",), (1,), ("n1",))
    assert (f.kwargs, f.extra_kwargs, f.cost) == ({"x": "b"}, {"y": 2}, {"cpu": 1})


def test_args_from_an_iterator():
    assert Function("f", identity, args=(c for c in "ab"), extra_args=range(2)).args == ("a", "b")
    assert Function("f", identity, extra_args=range(2)).extra_args == (0, 1)


def test_dependencies():
    f = Function("f", identity, args=["b", "a", "b"], kwargs={"x": "c", "y": "a"}, extra_args=["z"])
    assert f.dependencies == ("b", "a", "b", "c", "a")
    assert Function("f", identity).dependencies == ()


def test_replace():
    f = Function("f", multiply, args=["a"], cost={"cpu": 1})
    g = f.replace(id="g", cost={"gpu": 2})
    assert (g.id, g.code, g.args, g.cost) == ("g", multiply, ("a",), {"gpu": 2})
    assert (f.id, f.cost) == ("f", {"cpu": 1})


def test_equality_is_identity():
    """Comparing fields would compare argument values, such as arrays, with ``==``."""
    f = Function("f", identity)
    assert f == f
    assert f != Function("f", identity)
    assert len({f, f.replace(id="g")}) == 2


def test_repr_shows_fields_that_differ_from_the_default():
    f = Function("f", multiply, args=["a"], extra_args=[2], cost={"cpu": 1}, priority=3)
    assert (
        repr(f)
        == "Function(id='f', code=multiply, args=('a',), extra_args=(2,), cost={'cpu': 1}, priority=3)"
    )


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("package.module:Class.method", "method"),
        (functools.partial(functools.partial(multiply, 2), 3), "multiply"),
        (operator.itemgetter(0), "itemgetter"),
        (lambda: None, "lambda"),
        (dict.fromkeys, "fromkeys"),
        (Mock(), "Mock"),  # has every attribute
    ],
)
def test_repr_names_any_code(code, name):
    assert repr(Function("f", code)) == f"Function(id='f', code={name})"


def test_pickles():
    f = Function(
        "f", multiply, args=[Argument("a", serialize=identity)], cost={"cpu": 0.5}, node=Collocated("b")
    )
    g = pickle.loads(pickle.dumps(f))
    assert all(getattr(g, field.name) == getattr(f, field.name) for field in fields(f))
