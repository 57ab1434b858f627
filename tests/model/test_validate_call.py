"""Validation of code and arguments, and of the arguments against the code's signature."""

import functools
import operator

import pytest
from helpers import dag_of

from handoff_dask import Function, InvalidDAGError, InvalidFunctionError


def two(x, y):
    return x, y


def optional(x, y=1, *, z=2):
    return x, y, z


def named(*, k):
    return k


def anything(*args, **kwargs):
    return args, kwargs


class Needs:
    def __init__(self, x):
        self.x = x

    def __call__(self, a, b):
        return a, b

    def method(self, a):
        return a

    @classmethod
    def make(cls, x, y):
        return cls(x)


async def coroutine(x):
    return x


GOOD = [
    {"code": two, "args": ["a", "b"]},
    {"code": two, "args": ["a"], "extra_args": [1]},
    {"code": two, "extra_args": [1, 2]},
    {"code": two, "args": ["a"], "kwargs": {"y": "b"}},
    {"code": two, "args": ["a"], "extra_kwargs": {"y": 1}},
    {"code": two, "kwargs": {"y": "b"}, "extra_kwargs": {"x": 1}},
    {"code": two, "args": ["a", "b", "a"], "extra_args": [1], "argument_inclusion": "as_list"},
    {"code": two, "args": [], "extra_args": [1], "argument_inclusion": "as_list"},
    {"code": optional, "args": ["a"]},
    {"code": optional, "args": ["a", "b"], "kwargs": {"z": "a"}},
    {"code": named, "kwargs": {"k": "a"}},
    {"code": anything, "args": ["a"] * 9, "extra_kwargs": {"whatever": 1}},
    {"code": Needs, "args": ["a"]},
    {"code": Needs(1), "args": ["a", "b"]},
    {"code": Needs(1).method, "args": ["a"]},
    {"code": Needs.make, "args": ["a", "b"]},
    {"code": functools.partial(two, 1), "args": ["a"]},
    {"code": functools.partial(two, y=1), "args": ["a"]},
    {"code": coroutine, "args": ["a"]},
    # Builtins without a signature accept any arguments.
    {"code": max, "args": ["a", "b"]},
    {"code": dict, "extra_kwargs": {"x": 1}},
    {"code": int},
    {"code": operator.itemgetter(0), "args": ["a"]},
    # Import paths are resolved only on the node.
    {"code": "math:sqrt"},
    {"code": "package.that.is.nowhere:Class.method", "args": ["a"] * 9},
    {"code": "über.modul:größe"},
]


@pytest.mark.parametrize("fields", GOOD)
@pytest.mark.parametrize("type", ["regular", "inline"])
def test_good(fields, type):
    dag_of(Function("a", list), Function("b", list), Function("f", type=type, **fields)).validate()


UNBOUND = [
    ({"code": two, "args": ["a"]}, "missing a required argument: 'y'"),
    ({"code": coroutine, "args": ["a", "b"], "extra_args": [1]}, "too many positional arguments"),
    ({"code": two, "args": ["a", "b"], "extra_args": [1]}, "too many positional arguments"),
    ({"code": two, "args": ["a", "b"], "kwargs": {"y": "a"}}, "multiple values for argument 'y'"),
    ({"code": two, "args": ["a", "b"], "extra_kwargs": {"y": 1}}, "multiple values for argument 'y'"),
    ({"code": two, "args": ["a", "b"], "kwargs": {"w": "a"}}, "unexpected keyword argument 'w'"),
    ({"code": two, "args": ["a", "b"], "extra_kwargs": {"w": 1}}, "unexpected keyword argument 'w'"),
    ({"code": two, "args": ["a", "b"], "argument_inclusion": "as_list"}, "missing a required argument: 'y'"),
    ({"code": named, "argument_inclusion": "as_list"}, "too many positional arguments"),
    ({"code": named, "args": ["a"]}, "too many positional arguments"),
    ({"code": Needs}, "missing a required argument: 'x'"),
    ({"code": Needs(1), "args": ["a"]}, "missing a required argument: 'b'"),
    ({"code": Needs(1).method, "args": ["a", "b"]}, "too many positional arguments"),
    ({"code": functools.partial(two, 1), "args": ["a", "b"]}, "too many positional arguments"),
    ({"code": functools.partial(two, 1, 2), "args": ["a"]}, "too many positional arguments"),
    ({"code": coroutine}, "missing a required argument: 'x'"),
    ({"code": len, "args": ["a", "b"]}, "too many positional arguments"),
]


def refused(text, **fields):
    dag = dag_of(Function("a", list), Function("b", list), Function("f", **fields))
    with pytest.raises(InvalidDAGError, match=text) as caught:
        dag.validate()
    assert caught.type is InvalidFunctionError
    assert caught.value.function_ids == ("f",)
    assert all("'f'" in problem for problem in caught.value.problems)
    return caught.value


@pytest.mark.parametrize(("fields", "text"), UNBOUND)
@pytest.mark.parametrize("type", ["regular", "inline"])
def test_arguments_that_do_not_match_the_signature(fields, text, type):
    error = refused(f"the arguments do not match the signature of the code: .*{text}", type=type, **fields)
    assert len(error.problems) == 1


def test_one_code_called_in_several_ways():
    """The answer for one function does not apply to another function of the same code."""
    dag = dag_of(
        Function("a", list),
        Function("one", two, args=["a"]),
        Function("both", two, args=["a", "a"]),
        Function("again", two, args=["a"]),
        Function("named", two, args=["a"], kwargs={"y": "a"}),
        Function("wrong", two, args=["a"], kwargs={"w": "a"}),
    )
    with pytest.raises(InvalidFunctionError) as caught:
        dag.validate()
    assert caught.value.function_ids == ("one", "again", "wrong")


@pytest.mark.parametrize("code", [None, 5, [list], {"code": list}])
def test_code_that_is_not_callable(code):
    refused("code must be callable", code=code)


@pytest.mark.parametrize(
    "code",
    [
        "",
        "sqrt",
        "math.sqrt",
        "math:",
        ":sqrt",
        "math:sqrt:x",
        "math: sqrt",
        "a..b:c",
        "a:b.",
        "1a:b",
        "math:<lambda>",
    ],
)
def test_code_that_is_not_an_import_path(code):
    refused("is not of the form", code=code)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"args": "a"}, "args must be a list, not 'a'"),
        ({"args": 5}, "args must be a list, not 5"),
        ({"args": {"x": "a"}}, "args must be a list"),
        ({"args": None}, "args must be a list, not None"),
        ({"extra_args": "text"}, "extra_args must be a list, not 'text'"),
        ({"extra_args": 1}, "extra_args must be a list, not 1"),
        ({"kwargs": ["a"]}, "kwargs must be a mapping of parameter names"),
        ({"kwargs": {1: "a"}}, "kwargs must be a mapping of parameter names"),
        ({"kwargs": None}, "kwargs must be a mapping of parameter names, not None"),
        ({"extra_kwargs": {1: "a"}}, "extra_kwargs must be a mapping of parameter names"),
        ({"extra_kwargs": 3}, "extra_kwargs must be a mapping of parameter names"),
        ({"kwargs": {"x": "a"}, "extra_kwargs": {"x": 1}}, r"parameters \['x'\] are in both"),
        ({"argument_inclusion": "list"}, 'argument_inclusion must be "variadic" or "as_list", not \'list\''),
        ({"argument_inclusion": None}, "argument_inclusion must be"),
    ],
)
def test_malformed_arguments(fields, text):
    refused(text, code=anything, **fields)
