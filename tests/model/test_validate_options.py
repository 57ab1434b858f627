"""Options, and the options that each type of function allows."""

from decimal import Decimal

import pytest
from helpers import dag_of, identity

from handoff_dask import Collocated, Function, InvalidDAGError, InvalidFunctionError, RetryPolicy


@pytest.mark.parametrize(
    "fields",
    [
        {"max_retries": 0},
        {"max_retries": 1000},
        {"retry": RetryPolicy(delay=1), "max_retries": 1},
        {"timeout": 0.001},
        {"timeout": 60},
        {"timeout": Decimal("1.5")},
        {"priority": -1},
        {"priority": 0.5},
        {"priority": float("inf")},
        {"parallelism": 8, "batch_size": 32, "batch_timeout": 0.1, "init": dict},
        {"init": "collections:OrderedDict"},
        {"batch_size": 1},
    ],
)
def test_valid(fields):
    dag_of(Function("f", list, **fields)).validate()


BAD = [
    ({"retry": 3}, "retry must be a RetryPolicy, not 3"),
    ({"retry": RetryPolicy}, "retry must be a RetryPolicy"),
    ({"max_retries": -1}, "max_retries must not be negative, but is -1"),
    ({"max_retries": 1.0}, r"max_retries must be a whole number, not 1\.0"),
    ({"max_retries": True}, "max_retries must be a whole number, not True"),
    ({"max_retries": "3"}, "max_retries must be a whole number, not '3'"),
    ({"timeout": 0}, "timeout must be more than 0 seconds, not 0"),
    ({"timeout": -1}, "timeout must not be negative"),
    ({"timeout": float("nan")}, "timeout must be finite"),
    ({"timeout": float("inf")}, "timeout must be finite"),
    ({"timeout": "10s"}, "timeout must be a number, not '10s'"),
    ({"timeout": True}, "timeout must be a number, not True"),
    ({"priority": float("nan")}, "priority must be a number, not nan"),
    ({"priority": "high"}, "priority must be a number, not 'high'"),
    ({"priority": True}, "priority must be a number, not True"),
    ({"priority": False}, "priority must be a number, not False"),
    ({"priority": None}, "priority must be a number, not None"),
    ({"parallelism": 0}, "parallelism must be a whole number of at least 1, not 0"),
    ({"parallelism": 1.0}, "parallelism must be a whole number of at least 1"),
    ({"parallelism": 1.5}, "parallelism must be a whole number of at least 1"),
    ({"parallelism": -2}, "parallelism must not be negative"),
    ({"parallelism": None}, "parallelism must be a number, not None"),
    ({"parallelism": True}, "parallelism must be a number, not True"),
    ({"batch_size": 0}, "batch_size must be a whole number of at least 1, not 0"),
    ({"batch_size": 2.5}, "batch_size must be a whole number of at least 1"),
    ({"batch_timeout": 0}, "batch_timeout must be more than 0 seconds"),
    ({"batch_timeout": -0.5}, "batch_timeout must not be negative"),
    ({"init": 5}, "init must be callable"),
    ({"init": "nonsense"}, "init must be callable"),
    ({"type": "stream"}, 'type must be "regular", "inline" or "input", not \'stream\''),
    ({"type": None}, "type must be"),
    ({"type": ["inline"]}, "type must be"),
]


def refused(text, *others, **fields):
    dag = dag_of(*others, Function("f", **fields))
    with pytest.raises(InvalidDAGError, match=f"function 'f': {text}") as caught:
        dag.validate()
    assert caught.type is InvalidFunctionError
    assert caught.value.function_ids == ("f",)
    return caught.value


@pytest.mark.parametrize(("fields", "text"), BAD)
def test_invalid(fields, text):
    assert len(refused(text, code=list, **fields).problems) == 1


@pytest.mark.parametrize(("fields", "text"), BAD[:5])
def test_invalid_off_the_fast_path(fields, text):
    """Functions with common arguments are validated on a fast path, others are not."""
    assert len(refused(text, code=dict, extra_kwargs={"x": 1}, **fields).problems) == 1


def test_inline():
    dag_of(
        Function("a", list),
        Function("i", identity, args=["a"], type="inline", cost={"cpu": 1}, priority=2),
        Function("j", identity, args=["i"], type="inline"),
        Function("f", identity, args=["j"]),
    ).validate()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("node", "node1"),
        ("node", Collocated("other")),
        ("node", []),
        ("init", dict),
        ("retry", RetryPolicy()),
        ("max_retries", 0),
        ("timeout", 1),
    ],
)
def test_inline_cannot_have(name, value):
    other = Function("other", list)
    fields = {"code": list, "type": "inline", name: value}
    if value == []:
        refused("node is an empty list", other, **fields)
    else:
        refused(f"an inline function cannot have {name}", other, **fields)


def test_inline_needs_code():
    refused("code must be callable", type="inline")


def test_input():
    dag_of(Function("f", type="input"), Function("g", identity, args=["f"])).validate()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("code", list),
        ("args", ["other"]),
        ("kwargs", {"x": "other"}),
        ("extra_args", [1]),
        ("extra_kwargs", {"x": 1}),
        ("cost", {"cpu": 1}),
        ("node", "node1"),
        ("init", dict),
    ],
)
def test_input_cannot_have(name, value):
    refused(
        f"an input function cannot have {name}", Function("other", list), **{"type": "input", name: value}
    )
