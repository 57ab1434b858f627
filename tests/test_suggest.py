"""Which names are suggested for a misspelt one."""

from __future__ import annotations

import inspect
import itertools

import pytest

import handoff_dask as handoff
from handoff_dask._suggest import suggestion, tuples_of


@pytest.mark.parametrize(
    ("wrong", "names", "found"),
    [
        ("gpus", ["cpu", "memory", "gpu"], "'gpu'"),
        ("gpu", ["GPU", "cpu"], "'GPU'"),
        ("Memory", ["memory"], "'memory'"),
        ("mem", ["cpu", "memory"], "'memory'"),
        ("strategy", ["keep", "allocation_strategy"], "'allocation_strategy'"),
        ("bestfit", ["first_available", "best_fit"], "'best_fit'"),
        ("best-fit", ["best_fit"], "'best_fit'"),
        ("retries", ["retry", "max_retries"], "'max_retries'"),
        ("3", [1, 2, 3], "3"),
        (3, ["1", "3"], "'3'"),
        (("blur", 1), [("blurr", 1)], "('blurr', 1)"),
        ("node-1", ["node1"], "'node1'"),
    ],
)
def test_suggested(wrong, names, found):
    assert suggestion(wrong, names) == f"; did you mean {found}?"


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ("gpu", ["cpu", "memory"]),  # one letter apart, but another resource
        ("licence", ["cpu", "memory"]),
        ("node9", ["node1", "node2"]),  # as many nodes are called
        ("load-17", ["load-1", "load-2"]),
        ("a", ["b"]),
        ("cp", ["cpus"]),
        ("x", []),
    ],
)
def test_not_suggested(wrong, names):
    assert suggestion(wrong, names) == ""


class Unprintable:
    def __str__(self):
        raise RuntimeError

    __repr__ = __str__


def test_ids_with_a_broken_repr():
    assert suggestion(Unprintable(), ["a", "abc"]) == ""
    assert suggestion("lod", [Unprintable(), "load"]) == "; did you mean 'load'?"


def test_only_the_first_of_very_many_names_are_compared():
    assert suggestion("no such name", itertools.count()) == ""


@pytest.mark.parametrize(
    "call", [handoff.execute, handoff.submit, handoff.execute_local, handoff.simulate, handoff.Function]
)
def test_signatures_stay_as_they_are(call):
    assert all(p.kind is not p.VAR_KEYWORD for p in inspect.signature(call).parameters.values())
    assert call.__doc__


def test_ids_that_begin_with_a_name():
    ids = ["other", *(("part", i) for i in range(5)), (), ("3", 0), (3, 1)]
    assert tuples_of("part", ids) == (
        "; ids that begin like it: ('part', 0), ('part', 1), ('part', 2) and 2 more"
    )
    assert tuples_of("3", ids) == "; ids that begin like it: ('3', 0), (3, 1)"
    assert tuples_of("other", ids) == ""
