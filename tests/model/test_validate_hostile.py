"""Arbitrary values in every field of a function, checked against an oracle in plain Python."""

import hostile
import pytest
from helpers import examples
from hypothesis import given, settings

from handoff_dask import InvalidDAGError


def check(functions):
    hostile.RAN.clear()
    refused = hostile.refusal(functions)
    if refused is not None:
        with pytest.raises(InvalidDAGError) as caught:
            hostile.build(functions)
        assert caught.type is refused
        return
    dag = hostile.build(functions)
    faults = hostile.faults(functions)
    if not faults:
        dag.validate()
        assert set(dag) == {f["id"] for f in functions}
        return
    with pytest.raises(InvalidDAGError) as caught:
        dag.validate()
    assert caught.type is next(iter(faults))
    for ids in faults.values():
        for id in ids:
            assert any(repr(id) in problem for problem in caught.value.problems) or id is None
    assert hostile.RAN == []


@settings(max_examples=examples(500))
@given(hostile.descriptions())
def test_every_fault_is_reported(functions):
    check(functions)


@pytest.mark.slow
@settings(max_examples=examples(10_000))
@given(hostile.descriptions())
@pytest.mark.timeout(900)
def test_every_fault_is_reported_in_many_examples(functions):
    check(functions)
